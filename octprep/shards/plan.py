"""From splits to shards: which scans a shard holds, how often and in which order. Pure; no image is opened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from octprep.format.images_csv import UNDERSAMPLED
from octprep.format.seeding import seeded_hash
from octprep.source.files import Exclusion, Scan

MAX_SHARDS = 99_999

_Columns = Sequence[Sequence[Scan]]  # the scans of each class, in the order of `_interleave_patients`


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write: its name and its records, in order."""

    name: str  # train/00000-of-00058.tfrecord
    scans: tuple[Scan, ...]  # of each record
    repeats: tuple[int, ...]  # of each record: 0 for the first of its scan, 1.. for repeats

    @property
    def items(self) -> Iterator[tuple[Scan, int]]:
        """The scan and the repeat of each record."""
        return zip(self.scans, self.repeats, strict=True)


def plan_shards(
    split: str,
    scans: Sequence[Scan],
    balance: str,
    record_bytes: float,
    shard_bytes: float,
    seed: int,
    *,
    shards: int | None = None,
) -> tuple[list[ShardPlan], list[Exclusion]]:
    """The shards of one split, and the scans that undersampling excludes.

    balance: with `oversample` and `undersample` every shard has as many records of each class as of any other, and two
    shards differ by one per class at most; `none` takes each scan once, with the same class mix in all shards.

    record_bytes: size of an average record. shard_bytes: target size of a shard. shards: their number; None: by the
    target size. seed: of the order of patients and records.
    """
    columns = _interleave_patients(scans, seed)
    sizes = [len(column) for column in columns]
    per_class = (min if balance == "undersample" else max)(sizes, default=0)  # records of a class, where balanced
    if shards is None:
        shards = (
            _shard_count(sum(sizes) * record_bytes / shard_bytes, limit=sum(sizes))
            if balance == "none"
            else _shard_count(per_class * len(columns) * record_bytes / shard_bytes, limit=per_class)
        )
    exclusions: list[Exclusion] = []
    match balance:
        case "none":
            contents = _natural(columns, shards)
        case "undersample":
            contents = _undersampled(columns, _quotas(per_class, shards))
            exclusions = [Exclusion(scan.path, UNDERSAMPLED) for column in columns for scan in column[per_class:]]
        case _:
            contents = _oversampled(columns, _quotas(per_class, shards))
    return _number_and_shuffle(split, contents, seed), exclusions


def _shard_count(exact: float, limit: int) -> int:
    return max(1, min(round(exact), limit, MAX_SHARDS))


def _quotas(records: int, shards: int) -> list[int]:
    """How many records of each class every shard has, as equal as they can be."""
    return [records // shards + (shard < records % shards) for shard in range(shards)]


def _interleave_patients(scans: Sequence[Scan], seed: int) -> list[list[Scan]]:
    """The scans of each class, one of every patient in turn, so that any stretch of a column has many patients."""
    by_class: dict[str, dict[str, list[Scan]]] = defaultdict(lambda: defaultdict(list))
    for scan in sorted(scans, key=lambda scan: seeded_hash(scan.path, seed)):
        by_class[scan.label][scan.patient].append(scan)
    columns = []
    for _, patients in sorted(by_class.items()):
        order = sorted(patients, key=lambda patient: seeded_hash(patient, seed))
        rounds = max(map(len, patients.values()))
        columns.append([patients[p][index] for index in range(rounds) for p in order if index < len(patients[p])])
    return columns


def _natural(columns: _Columns, shards: int) -> list[list[Scan]]:
    """Each scan once: round robin, class after class, so that two shards differ by one scan at most."""
    contents: list[list[Scan]] = [[] for _ in range(shards)]
    for index, scan in enumerate(scan for column in columns for scan in column):
        contents[index % shards].append(scan)
    return contents


def _undersampled(columns: _Columns, quotas: Sequence[int]) -> list[list[Scan]]:
    """The first scans of every class, each once, as many as the smallest class has."""
    starts = [sum(quotas[:shard]) for shard in range(len(quotas))]
    return [
        [scan for column in columns for scan in column[start : start + quota]]
        for start, quota in zip(starts, quotas, strict=True)
    ]


def _oversampled(columns: _Columns, quotas: Sequence[int]) -> list[list[Scan]]:
    """Every scan at least once, those of the largest class exactly once."""
    return [
        [scan for column in columns for scan in _repeat_to_quota(column, shard, len(quotas), quota)]
        for shard, quota in enumerate(quotas)
    ]


def _repeat_to_quota(column: Sequence[Scan], shard: int, shards: int, quota: int) -> list[Scan]:
    """A shard's scans of one class: every `shards`-th of the column, repeated until the quota is reached.

    Repeats stay within the shard; only a scan of a class with fewer scans than there are shards is in several.
    """
    own = column[shard::shards] or [column[shard % len(column)]]
    return [own[index % len(own)] for index in range(quota)]


def _number_and_shuffle(split: str, contents: Sequence[Sequence[Scan]], seed: int) -> list[ShardPlan]:
    """Name the shards, number the repeats of every scan over all of them, and shuffle each shard by the seed."""
    repeats: Counter[str] = Counter()
    plans = []
    for shard, members in enumerate(contents):
        items = []
        for scan in members:
            items.append((scan, repeats[scan.path]))
            repeats[scan.path] += 1
        items.sort(key=lambda item: seeded_hash(f"{item[1]} {item[0].path}", seed))
        name = f"{split}/{shard:05d}-of-{len(contents):05d}.tfrecord"
        plans.append(ShardPlan(name, tuple(scan for scan, _ in items), tuple(repeat for _, repeat in items)))
    return plans
