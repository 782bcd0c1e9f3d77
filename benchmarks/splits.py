"""Dealing patients: time and memory for an archive of the real size and of 10 million scans, how many patients move
when new ones come, and how near the shares come to the wanted ones beside scikit-learn's StratifiedGroupKFold.

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
from octprep.shards.plan import plan_split
from octprep.source.files import Scan
from octprep.source.published import KERMANY_CLASSES, PUBLISHED
from octprep.splits import stratify
from octprep.splits.strategies import split

ENTRIES = 84_484
KAGGLE = PUBLISHED["Kaggle kermany2018"]
MEDIANS, LARGEST = (20, 8, 6, 5), (225, 150, 100, 98)  # scans of a patient, by class
TWO_CLASSES = 0.03  # of patients
DEALS = {"8:1:1": ([0.8, 0.1, 0.1], 10), "8:1": ([8 / 9, 1 / 9], 9), "5 folds": ([0.2] * 5, 5)}
NEAR = 1e-12  # distances that differ by less are called equal


def population(scale: float, seed: int) -> NDArray[np.int64]:
    """(patients, classes) scans: the published numbers of training scans, times so many."""
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    for label, (total, median, largest) in enumerate(zip(KAGGLE["train"], MEDIANS, LARGEST, strict=True)):
        left = round(total * scale)
        while left:
            if label == 0 and not rows:
                number = min(left, largest)
            else:
                number = min(left, largest, max(1, round(median * rng.lognormal())))
            left -= number
            if label and rng.random() < TWO_CLASSES:
                rows[rng.integers(len(rows))][label] += number
            else:
                rows.append(np.eye(4, dtype=np.int64)[label] * number)
    return np.array(rows)


def archive(entries: int) -> list[Scan]:
    """As many scans as Kaggle's archive has, or so many times more."""
    scale = entries / ENTRIES
    scans = []

    def add(folder: str, label: str, patient: int, number: int) -> None:
        path = f"{folder}/{label}/{label}-{patient}-{number}.jpeg"
        digest = hashlib.blake2b(path.encode(), digest_size=32).hexdigest()
        scans.append(Scan(path, label, str(patient), number, folder, 60_000, digest, 496, 512))

    counts = population(scale, 0)
    for patient, row in enumerate(counts.tolist()):
        for label, number in zip(KERMANY_CLASSES, row, strict=True):
            for image in range(number):
                add("train", label, patient, 100 * (label == "DME") + image + 1)
    for folder in ("test", "val"):
        for place, (label, number) in enumerate(zip(KERMANY_CLASSES, KAGGLE[folder], strict=True)):
            patients = np.flatnonzero(counts[:, place])
            for image in range(round(number * scale)):
                add(folder, label, int(patients[image * 7 % len(patients)]), 1000 + image)
    return scans


def one(entries: int, strategy: str) -> None:
    """Split and plan one archive, and print what that took as JSON; in a process of its own, for its peak memory."""
    scans = archive(entries)
    config = BuildConfig(split=strategy, balance="none" if strategy == "kfold" else "oversample")
    before = memory("VmRSS")
    start = time.perf_counter()
    splits = split(scans, config)
    middle = time.perf_counter()
    shards = 0
    for name, members in splits.members.items():
        balance = config.balance if name == "train" else "none"
        shards += len(plan_split(name, members, balance, 224 * 224 + 330, config.shard_mb * 1e6, config.seed)[0])
    end = time.perf_counter()
    found = {"entries": len(scans), "split": middle - start, "plan": end - middle, "shards": shards}
    print(json.dumps({**found, "scans_mb": before, "peak_mb": memory("VmHWM")}))


def memory(what: str) -> float:
    """MB of this process, from Linux's /proc: getrusage's peak is inherited from the process that starts this one."""
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0]) / 1e3


def size(entries: int, strategy: str) -> None:
    command = [sys.executable, __file__, "--one", str(entries), strategy]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{found['entries']:>11,} scans, {strategy:8}  grouping and split {found['split']:7.1f} s, "
        f"plan {found['plan']:6.1f} s ({found['shards']:,} shards); peak {found['peak_mb']:,.0f} MB, "
        f"of which {found['scans_mb']:,.0f} MB were there before, with the list of scans",
        flush=True,
    )


def digests(patients: int) -> list[bytes]:
    return [seeded_hash(str(patient), 0) for patient in range(patients)]


def stability() -> None:
    """Which part of the patients who were there before is in another split once new ones have come."""
    for scale in (1.0, 0.1):
        counts = population(scale, 0)
        keys = digests(2 * len(counts))
        for name, (wanted, folds) in DEALS.items():
            before = stratify.assign(counts, keys[: len(counts)], wanted)
            rival = stratified(counts, folds)
            told = []
            for share in (0.01, 0.1):
                more = np.vstack([counts, population(scale * share, 1)])
                after = stratify.assign(more, keys[: len(more)], wanted)[: len(counts)]
                theirs = merged(stratified(more, folds)[: len(counts)], wanted) != merged(rival, wanted)
                told.append(f"{share:.0%} new scans move {(after != before).mean():.2%} ({theirs.mean():.0%})")
            print(f"{len(counts):>6,} patients, {name:8}  {', '.join(told)}")


def stratified(counts: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """The fold of every patient by scikit-learn's StratifiedGroupKFold."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    labels = np.concatenate([np.repeat(np.arange(len(row)), row) for row in counts])
    places = np.zeros(len(counts), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has few members
        for fold, (_, members) in enumerate(StratifiedGroupKFold(folds).split(labels, labels, groups)):
            places[groups[members]] = fold
    return places


def merged(folds: NDArray[np.int64], wanted: list[float]) -> NDArray[np.int64]:
    """Equal folds -> parts of the wanted sizes."""
    edges = np.cumsum(np.array(wanted) * (folds.max() + 1)).round()
    return np.searchsorted(edges, folds, side="right")


def crowd(rng: np.random.Generator) -> NDArray[np.int64]:
    """A small population: 40 to 400 patients, 2 to 6 classes of very different size, up to 225 scans of a patient."""
    patients, classes = int(rng.integers(40, 400)), int(rng.integers(2, 7))
    chances = rng.dirichlet(np.ones(classes))
    counts = np.zeros((patients, classes), dtype=np.int64)
    for row in counts:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            row[rng.choice(classes, p=chances)] += min(225, 1 + int(rng.pareto(0.9)))
    return counts[:, counts.sum(axis=0) > 0]


def comparison(populations: int) -> None:
    """The distance from the wanted shares, ours and theirs, where both give every split every class."""
    for name, (wanted, folds) in DEALS.items():
        rng = np.random.default_rng(0)
        nearer = equal = further = lacking = refused = 0
        ratios, largest_deviation = [], []
        while nearer + equal + further + lacking + refused < populations:
            counts = crowd(rng)
            if counts.shape[1] < 2 or counts.sum(axis=0).max() < folds:
                continue
            theirs = merged(stratified(counts, folds), wanted)
            try:
                ours = stratify.assign(counts, digests(len(counts)), wanted)
            except stratify.NoFeasibleSplit:
                refused += 1
                continue
            if not all((counts[theirs == part] > 0).any(axis=0).all() for part in range(len(wanted))):
                lacking += 1
                continue
            mine, rival = (stratify.distance(counts, places, wanted) for places in (ours, theirs))
            nearer += mine < rival - NEAR
            equal += abs(mine - rival) <= NEAR
            further += mine > rival + NEAR
            ratios.append(np.sqrt(mine / rival) if rival else 1)
            largest_deviation.append((off(counts, ours, wanted), off(counts, theirs, wanted)))
        mine_off, rival_off = np.median(largest_deviation, axis=0)
        print(
            f"{populations} populations, {name:8}  nearer {nearer}, equal {equal}, further {further}; not compared: "
            f"{lacking} where StratifiedGroupKFold leaves a split without a class, {refused} that we refuse. "
            f"Distance (root) {np.median(ratios):.3f} of theirs in the median; share that is furthest off: "
            f"{100 * mine_off:.3f} points, theirs {100 * rival_off:.3f}"
        )


def off(counts: NDArray[np.int64], places: NDArray[np.int64], wanted: list[float]) -> float:
    """The largest deviation of any class's share in any part."""
    held = np.stack([np.bincount(places, column, len(wanted)) for column in counts.T], axis=1)
    return float(np.abs(held / counts.sum(axis=0) - np.array(wanted)[:, None]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--populations", type=int, default=200)
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the large archive; 0 leaves it out")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(int(options.one[0]), options.one[1])
        return
    print("Patients who were there before and are in another split (in brackets by StratifiedGroupKFold):")
    stability()
    comparison(options.populations)
    for strategy in ("repaired", "grouped", "kfold"):
        size(ENTRIES, strategy)
    if options.entries:
        size(options.entries, "repaired")


if __name__ == "__main__":
    main()
