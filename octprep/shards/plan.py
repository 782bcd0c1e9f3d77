"""Splits -> shards, balanced. Pure: which scan stands where in which shard, before any image is opened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from octprep.format.seeding import seeded_hash
from octprep.source.files import Exclusion, Scan

MAX_SHARDS = 99_999
UNDERSAMPLED = "its class has more scans than the smallest (--balance undersample)"


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write: its name and what stands in it, in order."""

    name: str  # train/00000-of-00058.tfrecord
    items: tuple[tuple[Scan, int], ...]  # the scan and the number of this copy of it


def plan_split(
    split: str,
    scans: Sequence[Scan],
    balance: str,
    record_bytes: float,
    shard_bytes: float,
    seed: int,
    shards: int | None = None,
) -> tuple[list[ShardPlan], list[Exclusion]]:
    """Lay the scans of one split out in shards.

    balance: `oversample` repeats scans of the smaller classes so that in every shard each class has the same count, and
    every scan stands in one at least once, those of the largest class exactly once; `undersample` leaves scans of the
    larger classes out to the same end, and none of the smallest; `none` takes each scan once and gives every shard the
    same mix of classes, to within one scan. The counts of one class in two shards differ by one at most.

    record_bytes is what one record takes on average, shard_bytes the wanted size of a shard. shards: how many there
    are, where that is known already.
    """
    columns = _columns(scans, seed)
    sizes = [len(column) for column in columns]
    most = {"none": sum(sizes), "undersample": min(sizes, default=0), "oversample": max(sizes, default=0)}[balance]
    if shards is None:
        records = most if balance == "none" else most * len(columns)
        shards = max(1, min(round(records * record_bytes / shard_bytes), most, MAX_SHARDS))
    rejections: list[Exclusion] = []
    if balance == "none":
        dealt: list[list[Scan]] = [[] for _ in range(shards)]
        for place, scan in enumerate(scan for column in columns for scan in column):
            dealt[place % shards].append(scan)  # class after class, so that no shard has more than one scan too many
    else:
        quotas = [most // shards + (shard < most % shards) for shard in range(shards)]
        if balance == "undersample":
            starts = [sum(quotas[:shard]) for shard in range(shards)]
            dealt = [
                [scan for column in columns for scan in column[start : start + quota]]
                for start, quota in zip(starts, quotas, strict=True)
            ]
            rejections = [Exclusion(scan.path, UNDERSAMPLED) for column in columns for scan in column[most:]]
        else:
            dealt = [
                [scan for column in columns for scan in _fill(column, shard, shards, quota)]
                for shard, quota in enumerate(quotas)
            ]
    copies: Counter[str] = Counter()
    plans = []
    for shard, members in enumerate(dealt):
        items = []
        for scan in members:
            items.append((scan, copies[scan.path]))
            copies[scan.path] += 1
        name = f"{split}/{shard:05d}-of-{shards:05d}.tfrecord"
        items.sort(key=lambda item: seeded_hash(f"{item[1]} {item[0].path}", seed))
        plans.append(ShardPlan(name, tuple(items)))
    return plans, rejections


def _columns(scans: Sequence[Scan], seed: int) -> list[list[Scan]]:
    """The scans of each class, patients taking turns, so that any stretch of a column has many patients."""
    by_class: dict[str, dict[str, list[Scan]]] = defaultdict(lambda: defaultdict(list))
    for scan in sorted(scans, key=lambda scan: seeded_hash(scan.path, seed)):
        by_class[scan.label][scan.patient].append(scan)
    columns = []
    for _, patients in sorted(by_class.items()):
        order = sorted(patients, key=lambda patient: seeded_hash(patient, seed))
        longest = max(map(len, patients.values()))
        columns.append([patients[p][turn] for turn in range(longest) for p in order if turn < len(patients[p])])
    return columns


def _fill(column: Sequence[Scan], shard: int, shards: int, quota: int) -> list[Scan]:
    """A shard's scans of one class: every `shards`-th of the column, over and over until the quota is full.

    Repeats stay inside the shard; only a class with fewer scans than there are shards lends one to several.
    """
    own = column[shard::shards] or [column[shard % len(column)]]
    return [own[place % len(own)] for place in range(quota)]
