"""Near-identical scans under other ids: how many are found, how many are false, and what the search costs.

First, among 10,000 phantoms, 200 of them are planted again under new ids: moved by up to 4 pixels, up to 5 % brighter
or darker, with another white wedge, at JPEG quality 70. Recall counts copies paired with a scan of the patient
they are of, and with the very scan; a join of any two other patients is false. --recipe takes another preparation.

Then 84,484 descriptors, as many as the archive has images, of a population that is spread as the phantoms are: up to
225 scans of each patient, as the archive has at most, again and again, each time with what one scan of another patient
departs from the mean by added to what they depart from it by (weights 0.6 and 0.8, so that the spread stays), which
makes other patients of them. Pixels to compare are those of other phantoms.

Last, 1,000,000 descriptors of independent normal coefficients, each spread as among the phantoms, in a process of its
own: its peak memory, all included.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import time
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep import duplicates, preprocessing
from octprep.duplicates.descriptors import STEPS, frequencies
from octprep.format.config import Preprocessing
from octprep.synthetic import scans
from octprep.synthetic.faults import encode, near_duplicate
from octprep.workers import default_workers

RECIPES = {
    "default": Preprocessing(),
    "crop-none": Preprocessing(crop="none"),
    "size-96": Preprocessing(height=96, width=96),
    "pad": Preprocessing(fit="pad"),
    "flatten": Preprocessing(flatten=True),
}
ARCHIVE, LARGEST, MILLION = 84_484, 225, 1_000_000

Gray = NDArray[np.uint8]


def prepared(count: int, planted: int, seed: int, recipe: Preprocessing) -> Iterator[tuple[Gray, str, int]]:
    """Stored pixels, patient and, for a copy, the number of its original (else -1); copies last."""
    rng = np.random.default_rng(seed)
    chosen = {int(number): turn for turn, number in enumerate(rng.choice(count, planted, replace=False))}
    copies = []
    drawn = itertools.islice(scans(max(count // 11, 24), seed), count)
    for number, (place, phantom) in enumerate(drawn):
        gray = preprocessing.decode(encode(phantom.pixels))
        yield preprocessing.preprocess(gray, recipe).pixels, place.split("-")[1], -1
        if number in chosen:
            copy = preprocessing.decode(near_duplicate(gray, rng))
            copies.append((preprocessing.preprocess(copy, recipe).pixels, f"copy {chosen[number]}", number))
    yield from copies


def described(pictures: list[Gray]) -> tuple[Gray, float]:
    start = time.perf_counter()
    rows = [duplicates.describe(pixels) for pixels in pictures]
    took = time.perf_counter() - start
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, duplicates.DESCRIPTOR), took


def find_planted(options: argparse.Namespace) -> tuple[Gray, list[Gray], list[str]]:
    drawn = list(prepared(options.scans, 200, options.seed, RECIPES[options.recipe]))
    pictures, owners, originals = map(list, zip(*drawn, strict=True))
    descriptors, took = described(pictures)
    start, work = time.perf_counter(), time.process_time()
    pairs = duplicates.near_identical(descriptors, owners, pictures.__getitem__)
    seconds, work = time.perf_counter() - start, time.process_time() - work
    whose = [owners[origin] if origin >= 0 else owner for owner, origin in zip(owners, originals, strict=True)]
    true = [pair for pair in pairs if whose[pair.first] == whose[pair.second]]
    exact = [pair for pair in true if originals[pair.second] == pair.first]
    joined = {pair.second for pair in true if originals[pair.second] >= 0}
    copies = sum(origin >= 0 for origin in originals)
    print(
        f"{len(pictures) - copies:,} phantoms of {len(set(owners)) - copies:,} patients and {copies} copies, "
        f"recipe {options.recipe}: {len(joined)} copies joined with their patient, {len(exact)} with the very scan "
        f"(correlation {min(pair.correlation for pair in exact):.3f} or more), {len(pairs) - len(true)} false joins"
    )
    print(
        f"  described in {1000 * took / len(pictures):.3f} ms each, "
        f"searched in {seconds:.1f} s on {default_workers()} cores, busy for {work:.1f} s"
    )
    told = duplicates.distances(descriptors, owners)
    for name, counts in (("one patient", told.same), ("two patients", told.different)):
        held = [f"{edge:.2f}: {n}" for edge, n in zip(told.edges, counts, strict=False) if n]
        print(f"  distances of {sum(counts):,} pairs of {name}, from: {', '.join(held)}")
    return descriptors, pictures, owners


def audit_archive(base: Gray, pictures: list[Gray], owners: list[str]) -> None:
    rng = np.random.default_rng(1)
    known = np.unique(owners, return_inverse=True)[1]
    few = np.concatenate([np.flatnonzero(known == patient)[:LARGEST] for patient in range(known.max() + 1)])
    base, known = base[few], known[few]
    count = int(known.max()) + 1
    coefficients = frequencies(base).reshape(len(base), -1)
    middle = coefficients.mean(axis=0)
    norm = np.linalg.norm(coefficients, axis=1).mean()
    mixed, patients = [base], [known]
    for turn in range(1, -(-ARCHIVE // len(base))):
        # Never the same two patients twice.
        strangers = [rng.choice(np.flatnonzero(known == (patient + 37 * turn) % count)) for patient in range(count)]
        mix = 0.8 * (coefficients - middle) + 0.6 * (coefficients[strangers] - middle)[known] + middle
        mix *= norm / np.linalg.norm(mix, axis=1, keepdims=True)
        stored = np.rint(np.sign(mix) * np.sqrt(np.abs(mix)) * STEPS)
        mixed.append(np.clip(stored, -127, 127).astype(np.int8).view(np.uint8))
        patients.append(known + turn * count)
    rows, whose = np.concatenate(mixed)[:ARCHIVE], np.concatenate(patients)[:ARCHIVE]
    looked = 0

    def pixels(index: int) -> Gray:
        nonlocal looked
        looked += 1
        return pictures[(7919 * index) % len(pictures)]

    start, work = time.perf_counter(), time.process_time()
    duplicates.near_identical(rows, whose, pixels)
    took, work = time.perf_counter() - start, time.process_time() - work
    print(
        f"{len(rows):,} descriptors of {whose.max() + 1:,} patients: {took:.1f} s on {default_workers()} cores, "
        f"busy for {work:.1f} s; pixels fetched {looked:,} times"
    )


def audit_million(spread: NDArray[np.float32]) -> None:
    cv2.setNumThreads(1)
    rng = np.random.default_rng(2)
    rows = np.empty((MILLION, duplicates.DESCRIPTOR), np.uint8)
    for part in np.array_split(np.arange(MILLION), 50):
        drawn = rng.standard_normal((part.size, duplicates.DESCRIPTOR), np.float32) * spread
        rows[part] = np.clip(np.rint(drawn), -127, 127).astype(np.int8).view(np.uint8)
    start = time.perf_counter()
    found = duplicates.near_identical(rows, np.arange(MILLION) // 13, lambda _: np.zeros((224, 224), np.uint8))
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{MILLION:,} descriptors: peak {peak:,.0f} MB, {took:.0f} s, {len(found)} pairs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--planted-only", action="store_true", help="leave the large sets of descriptors out")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    descriptors, pictures, owners = find_planted(options)
    if options.planted_only:
        return
    originals = [number for number, owner in enumerate(owners) if not owner.startswith("copy")]
    pictures = [pictures[number] for number in originals]
    owners = [owners[number] for number in originals]
    audit_archive(descriptors[originals], pictures, owners)
    spread = descriptors[originals].view(np.int8).astype(np.float32).std(axis=0)
    child = multiprocessing.get_context("spawn").Process(target=audit_million, args=(spread,))
    child.start()
    child.join()


if __name__ == "__main__":
    main()
