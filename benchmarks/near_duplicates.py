"""Near-duplicates under other patient ids: recall, false pairs, and the cost of the search.

First, of 10,000 synthetic scans 200 are planted again under new ids: shifted by up to 4 pixels, up to 5 % brighter or
darker, with other white fill, at JPEG quality 70; or, with --turned, turned by 0.5 to 2 degrees. Recall is counted
twice: planted scans paired with any scan of their true patient, and with their original. A pair of two different
patients is false. --recipe selects other preprocessing.

Then 84,484 descriptors, as many as the archive has images, of a population that varies as the synthetic scans do: up to
225 scans of each patient, the archive's maximum, repeated. Each repetition mixes the deviations from the mean of a
patient's scans with those of one scan of another patient (weights 0.8 and 0.6, so that the variance stays), which makes
new patients of them. Pixels to compare are those of other synthetic scans.

Last, 1,000,000 descriptors of independent normal coefficients, each with the std it has among the synthetic scans, in a
process of its own: its peak memory, all included.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from octprep import duplicates, preprocessing
from octprep.arrays import Bytes, Float32, Gray
from octprep.duplicates.descriptors import QUANTISATION, as_matrix, coefficients
from octprep.format.config import Preprocessing
from octprep.synthetic import scans
from octprep.synthetic.faults import encode, near_duplicate
from octprep.workers import default_workers

RECIPES = {
    "default": Preprocessing(),
    "crop-none": Preprocessing(crop="none"),
    "size-96": Preprocessing(height=96, width=96),
    "pad": Preprocessing(resize="pad"),
    "flatten": Preprocessing(flatten=True),
}
ARCHIVE_SCANS, MAX_SCANS, MILLION = 84_484, 225, 1_000_000


def turned(gray: Gray, rng: np.random.Generator) -> bytes:
    """The same scan turned by 0.5 to 2 degrees and shifted by up to 4 pixels, as a JPEG of quality 75 to 95.

    What that uncovers is white or black. gray: (rows, columns), not changed.
    """
    rows, columns = gray.shape
    degrees = rng.choice([-1, 1]) * rng.uniform(0.5, 2)
    turn = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), degrees, 1.0)
    turn[:, 2] += rng.integers(-4, 5, 2)
    moved = cv2.warpAffine(gray, turn, (columns, rows), borderValue=[float(rng.choice([0, 255]))])
    return encode(np.asarray(moved, np.uint8), int(rng.integers(75, 96)))


def scans_and_planted(
    count: int, planted: int, seed: int, recipe: Preprocessing, plant: Callable[..., bytes]
) -> Iterator[tuple[Gray, str, int]]:
    """Stored pixels, patient and, for a planted scan, the index of its original (else -1); planted scans last."""
    rng = np.random.default_rng(seed)
    chosen = {int(index): number for number, index in enumerate(rng.choice(count, planted, replace=False))}
    near_duplicates = []
    drawn = itertools.islice(scans(max(count // 11, 24), seed), count)
    for index, (name, scan) in enumerate(drawn):
        gray = preprocessing.decode(encode(scan.pixels))
        yield preprocessing.preprocess(gray, recipe).pixels, name.split("-")[1], -1
        if index in chosen:
            planted_gray = preprocessing.decode(plant(gray, rng))
            pixels = preprocessing.preprocess(planted_gray, recipe).pixels
            near_duplicates.append((pixels, f"planted {chosen[index]}", index))
    yield from near_duplicates


def find_planted(options: argparse.Namespace) -> tuple[Bytes, list[Gray], list[str]]:
    """Print recall, false pairs and times; the descriptors, pixels and patients."""
    plant = turned if options.turned else near_duplicate
    drawn = list(scans_and_planted(options.scans, 200, options.seed, RECIPES[options.recipe], plant))
    images, patients, originals = map(list, zip(*drawn, strict=True))
    start = time.perf_counter()
    descriptors = as_matrix([duplicates.dct_descriptor(pixels) for pixels in images])
    describing = time.perf_counter() - start
    start, work = time.perf_counter(), time.process_time()
    pairs = duplicates.near_identical(descriptors, patients, images.__getitem__)
    seconds, work = time.perf_counter() - start, time.process_time() - work
    true_patients = [
        patients[original] if original >= 0 else patient for patient, original in zip(patients, originals, strict=True)
    ]
    true = [pair for pair in pairs if true_patients[pair.first] == true_patients[pair.second]]
    exact = [pair for pair in true if originals[pair.second] == pair.first]
    recalled = {pair.second for pair in true if originals[pair.second] >= 0}
    planted = sum(original >= 0 for original in originals)
    print(
        f"{len(images) - planted:,} synthetic scans of {len(set(patients)) - planted:,} patients and {planted} planted "
        f"near-duplicates, recipe {options.recipe}: {len(recalled)} paired with their patient, {len(exact)} with "
        f"their original (correlation {min(pair.correlation for pair in exact):.3f} or more), {len(pairs) - len(true)} "
        "false pairs"
    )
    print(
        f"  described in {1000 * describing / len(images):.3f} ms each, "
        f"searched in {seconds:.1f} s on {default_workers()} cores, busy for {work:.1f} s"
    )
    distances = duplicates.measure_distances(descriptors, patients)
    for name, counts in (("one patient", distances.within), ("two patients", distances.between)):
        bins = [f"{edge:.2f}: {count}" for edge, count in zip(distances.edges, counts, strict=False) if count]
        print(f"  distances of {sum(counts):,} pairs of {name}, from: {', '.join(bins)}")
    return descriptors, images, patients


def search_archive(descriptors: Bytes, images: list[Gray], patients: list[str]) -> None:
    """Print how long the search takes among as many descriptors as the archive has."""
    rng = np.random.default_rng(1)
    patient_index = np.unique(patients, return_inverse=True)[1]
    first_scans = [np.flatnonzero(patient_index == patient)[:MAX_SCANS] for patient in range(patient_index.max() + 1)]
    capped = np.concatenate(first_scans)
    descriptors, patient_index = descriptors[capped], patient_index[capped]
    count = int(patient_index.max()) + 1
    values = coefficients(descriptors).reshape(len(descriptors), -1)
    mean = values.mean(axis=0)
    norm = np.linalg.norm(values, axis=1).mean()
    rows, row_patients = [descriptors], [patient_index]
    for repetition in range(1, -(-ARCHIVE_SCANS // len(descriptors))):
        # Never the same two patients twice.
        partners = [  # the scan of another patient that is mixed in, by patient
            rng.choice(np.flatnonzero(patient_index == (patient + 37 * repetition) % count)) for patient in range(count)
        ]
        mixed = 0.8 * (values - mean) + 0.6 * (values[partners] - mean)[patient_index] + mean
        mixed *= norm / np.linalg.norm(mixed, axis=1, keepdims=True)
        quantised = np.rint(np.sign(mixed) * np.sqrt(np.abs(mixed)) * QUANTISATION)
        rows.append(np.clip(quantised, -127, 127).astype(np.int8).view(np.uint8))
        row_patients.append(patient_index + repetition * count)
    archive, archive_patients = np.concatenate(rows)[:ARCHIVE_SCANS], np.concatenate(row_patients)[:ARCHIVE_SCANS]
    fetched = 0

    def pixels(index: int) -> Gray:
        nonlocal fetched
        fetched += 1
        return images[(7919 * index) % len(images)]

    start, work = time.perf_counter(), time.process_time()
    duplicates.near_identical(archive, archive_patients, pixels)
    seconds, work = time.perf_counter() - start, time.process_time() - work
    print(
        f"{len(archive):,} descriptors of {archive_patients.max() + 1:,} patients: {seconds:.1f} s on "
        f"{default_workers()} cores, busy for {work:.1f} s; pixels fetched {fetched:,} times"
    )


def search_million(std: Float32) -> None:
    """Print the peak memory and the time of a search among MILLION descriptors. std: (DESCRIPTOR_BYTES,)."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(2)
    rows = np.empty((MILLION, duplicates.DESCRIPTOR_BYTES), np.uint8)
    for chunk in np.array_split(np.arange(MILLION), 50):
        drawn = rng.standard_normal((chunk.size, duplicates.DESCRIPTOR_BYTES), np.float32) * std
        rows[chunk] = np.clip(np.rint(drawn), -127, 127).astype(np.int8).view(np.uint8)
    start = time.perf_counter()
    pairs = duplicates.near_identical(rows, np.arange(MILLION) // 13, lambda _: np.zeros((224, 224), np.uint8))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{MILLION:,} descriptors: peak {peak:,.0f} MB, {seconds:.0f} s, {len(pairs)} pairs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--turned", action="store_true", help="plant turned scans")
    parser.add_argument("--planted-only", action="store_true", help="skip the large sets of descriptors")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    descriptors, images, patients = find_planted(options)
    if options.planted_only:
        return
    originals = [index for index, patient in enumerate(patients) if not patient.startswith("planted")]
    images = [images[index] for index in originals]
    patients = [patients[index] for index in originals]
    search_archive(descriptors[originals], images, patients)
    std = descriptors[originals].view(np.int8).astype(np.float32).std(axis=0)
    child = multiprocessing.get_context("spawn").Process(target=search_million, args=(std,))
    child.start()
    child.join()


if __name__ == "__main__":
    main()
