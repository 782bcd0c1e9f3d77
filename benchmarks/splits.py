"""Splitting by patient: time and memory for an archive of the real size and of 10 million scans, how many patients
change their split when others are added, and how near the class shares come to their targets, against scikit-learn's
StratifiedGroupKFold.

The archive is simulated, without pixels: the published counts per class, one CNV patient of 225 scans, a median of 5
and at most 98 scans for NORMAL, some ids under two classes, test patients who are in train too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octprep.format.config import BuildConfig
from octprep.format.seeding import seeded_hash
from octprep.shards.plan import plan_shards
from octprep.source.files import Scan
from octprep.source.published import KERMANY_CLASSES, PUBLISHED
from octprep.splits.strategies import split_scans
from octprep.splits.stratify import NoFeasibleSplit, distance, stratified_group_split

ENTRIES = 84_484
KAGGLE = PUBLISHED["Kaggle kermany2018"]
MEDIANS, LARGEST = (20, 8, 6, 5), (225, 150, 100, 98)  # scans of a patient, by class
TWO_CLASSES = 0.03  # of patients
TARGETS = {"8:1:1": ([0.8, 0.1, 0.1], 10), "8:1": ([8 / 9, 1 / 9], 9), "5 folds": ([0.2] * 5, 5)}
EQUAL = 1e-12  # distances that differ by less count as equal


def population(scale: float, seed: int) -> NDArray[np.int64]:
    """(patients, classes) scans: the published numbers of training scans, times `scale`."""
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    for label, (total, median, largest) in enumerate(zip(KAGGLE["train"], MEDIANS, LARGEST, strict=True)):
        remaining = round(total * scale)
        while remaining:
            if label == 0 and not rows:
                number = min(remaining, largest)
            else:
                number = min(remaining, largest, max(1, round(median * rng.lognormal())))
            remaining -= number
            if label and rng.random() < TWO_CLASSES:
                rows[rng.integers(len(rows))][label] += number
            else:
                rows.append(np.eye(4, dtype=np.int64)[label] * number)
    return np.array(rows)


def archive(entries: int) -> list[Scan]:
    """Scans as in Kaggle's archive, about as many as `entries`."""
    scale = entries / ENTRIES
    scans = []

    def add(folder: str, label: str, patient: int, number: int) -> None:
        path = f"{folder}/{label}/{label}-{patient}-{number}.jpeg"
        digest = hashlib.blake2b(path.encode(), digest_size=32).digest()
        scans.append(Scan(path, label, str(patient), number, folder, 60_000, digest, 496, 512))

    counts = population(scale, 0)
    for patient, row in enumerate(counts.tolist()):
        for label, number in zip(KERMANY_CLASSES, row, strict=True):
            for image in range(number):
                add("train", label, patient, 100 * (label == "DME") + image + 1)
    for folder in ("test", "val"):
        for column, (label, number) in enumerate(zip(KERMANY_CLASSES, KAGGLE[folder], strict=True)):
            patients = np.flatnonzero(counts[:, column])
            for image in range(round(number * scale)):
                add(folder, label, int(patients[image * 7 % len(patients)]), 1000 + image)
    return scans


def measure_one(entries: int, strategy: str) -> None:
    """Split and plan one archive, and print what that took as JSON; in a process of its own, for its peak memory."""
    scans = archive(entries)
    config = BuildConfig(split=strategy, balance="none" if strategy == "kfold" else "oversample")
    before = memory("VmRSS")
    start = time.perf_counter()
    splits = split_scans(scans, config)
    after_split = time.perf_counter()
    shards = 0
    for name, members in splits.members.items():
        balance = config.balance if name == "train" else "none"
        shards += len(plan_shards(name, members, balance, 224 * 224 + 330, config.shard_mb * 1e6, config.seed)[0])
    end = time.perf_counter()
    cost = {"entries": len(scans), "split": after_split - start, "plan": end - after_split, "shards": shards}
    print(json.dumps({**cost, "scans_mb": before, "peak_mb": memory("VmHWM")}))


def memory(field: str) -> float:
    """MB of this process, from Linux's /proc: getrusage's peak is inherited from the process that starts this one."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) / 1e3


def report_cost(entries: int, strategy: str) -> None:
    """Print the cost of `measure_one`."""
    command = [sys.executable, __file__, "--one", str(entries), strategy]
    cost = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{cost['entries']:>11,} scans, {strategy:8}  grouping and split {cost['split']:7.1f} s, "
        f"plan {cost['plan']:6.1f} s ({cost['shards']:,} shards); peak {cost['peak_mb']:,.0f} MB, "
        f"of which {cost['scans_mb']:,.0f} MB for the list of scans itself",
        flush=True,
    )


def digests(patients: int) -> list[bytes]:
    """The seeded hash of every patient, by which groups are ordered."""
    return [seeded_hash(str(patient), 0) for patient in range(patients)]


def stability() -> None:
    """Print the fraction of the patients that change their split when other patients are added."""
    for scale in (1.0, 0.1):
        counts = population(scale, 0)
        keys = digests(2 * len(counts))
        for name, (targets, folds) in TARGETS.items():
            before = stratified_group_split(counts, keys[: len(counts)], targets)
            sklearn_before = merge_folds(sklearn_folds(counts, folds), folds, targets)
            changes = []
            for share in (0.01, 0.1):
                larger = np.vstack([counts, population(scale * share, 1)])
                after = stratified_group_split(larger, keys[: len(larger)], targets)[: len(counts)]
                sklearn_after = merge_folds(sklearn_folds(larger, folds), folds, targets)[: len(counts)]
                sklearn_changed = sklearn_after != sklearn_before
                changes.append(f"{share:.0%} more scans: {(after != before).mean():.2%} ({sklearn_changed.mean():.0%})")
            print(f"{len(counts):>6,} patients, {name:8}  {', '.join(changes)}")


def sklearn_folds(counts: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """The fold of every patient by scikit-learn's StratifiedGroupKFold."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    labels = np.concatenate([np.repeat(np.arange(len(row)), row) for row in counts])
    fold_of = np.zeros(len(counts), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has few members
        for fold, (_, members) in enumerate(StratifiedGroupKFold(folds).split(labels, labels, groups)):
            fold_of[groups[members]] = fold
    return fold_of


def merge_folds(fold_of: NDArray[np.int64], folds: int, targets: list[float]) -> NDArray[np.int64]:
    """Equal folds merged to splits of the target fractions: the split of every patient."""
    edges = np.cumsum(np.array(targets) * folds).round()
    return np.searchsorted(edges, fold_of, side="right")


def random_counts(rng: np.random.Generator) -> NDArray[np.int64]:
    """A small population: 40 to 400 patients, 2 to 6 classes of very different size, up to 225 scans of a patient."""
    patients, classes = int(rng.integers(40, 400)), int(rng.integers(2, 7))
    chances = rng.dirichlet(np.ones(classes))
    counts = np.zeros((patients, classes), dtype=np.int64)
    for row in counts:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            row[rng.choice(classes, p=chances)] += min(225, 1 + int(rng.pareto(0.9)))
    return counts[:, counts.sum(axis=0) > 0]


def comparison(populations: int) -> None:
    """Print distances from the targets, compared with StratifiedGroupKFold where both give every split every class."""
    for name, (targets, folds) in TARGETS.items():
        rng = np.random.default_rng(0)
        nearer = equal = further = lacking = infeasible = 0
        ratios, deviations = [], []
        while nearer + equal + further + lacking + infeasible < populations:
            counts = random_counts(rng)
            if counts.shape[1] < 2 or counts.sum(axis=0).max() < folds:
                continue
            reference = merge_folds(sklearn_folds(counts, folds), folds, targets)
            try:
                assigned = stratified_group_split(counts, digests(len(counts)), targets)
            except NoFeasibleSplit:
                infeasible += 1
                continue
            if not all((counts[reference == split] > 0).any(axis=0).all() for split in range(len(targets))):
                lacking += 1
                continue
            our_distance, reference_distance = (
                distance(counts, split_of, targets) for split_of in (assigned, reference)
            )
            nearer += our_distance < reference_distance - EQUAL
            equal += abs(our_distance - reference_distance) <= EQUAL
            further += our_distance > reference_distance + EQUAL
            ratios.append(np.sqrt(our_distance / reference_distance) if reference_distance else 1)
            deviations.append(
                (largest_deviation(counts, assigned, targets), largest_deviation(counts, reference, targets))
            )
        our_deviation, reference_deviation = np.median(deviations, axis=0)
        print(
            f"{populations} populations, {name:8}  nearer {nearer}, equal {equal}, further {further}; not compared: "
            f"{lacking} where StratifiedGroupKFold leaves a split without a class, {infeasible} without a split. "
            f"Distance (root) {np.median(ratios):.3f} of StratifiedGroupKFold's in the median; largest deviation of a "
            f"share: {100 * our_deviation:.3f} points, StratifiedGroupKFold's {100 * reference_deviation:.3f}"
        )


def largest_deviation(counts: NDArray[np.int64], split_of: NDArray[np.int64], targets: list[float]) -> float:
    """The largest deviation of any class's share in any split from its target. split_of: (patients,) split index."""
    held = np.stack([np.bincount(split_of, column, len(targets)) for column in counts.T], axis=1)
    return float(np.abs(held / counts.sum(axis=0) - np.array(targets)[:, None]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--populations", type=int, default=200)
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the large archive; 0 skips it")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure_one(int(options.one[0]), options.one[1])
        return
    print("Patients whose split changes when others are added (in brackets with StratifiedGroupKFold):")
    stability()
    comparison(options.populations)
    for strategy in ("keep-test", "by-patient", "kfold"):
        report_cost(ENTRIES, strategy)
    if options.entries:
        report_cost(options.entries, "keep-test")


if __name__ == "__main__":
    main()
