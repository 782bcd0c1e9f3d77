"""From splits to shards: which scans a shard holds, how often and in which order. Pure; no image is opened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from octprep.format.images_csv import UNDERSAMPLED
from octprep.format.seeding import seeded_hash
from octprep.source.files import Exclusion, Scan

MAX_SHARDS = 99_999

_Columns = Sequence[Sequence[Scan]]  # the scans of each class


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
    columns = _by_class(scans, seed)
    sizes = [len(column) for column in columns]
    per_class = (min if balance == "undersample" else max)(sizes, default=0)  # records of a class, where balanced
    if shards is None:
        shards = (
            _shard_count(sum(sizes) * record_bytes / shard_bytes, limit=sum(sizes))
            if balance == "none"
            else _shard_count(per_class * len(columns) * record_bytes / shard_bytes, limit=per_class)
        )
    exclusions: list[Exclusion] = []
    if balance == "undersample":
        chosen = [_of_most_patients(column, per_class, seed) for column in columns]
        exclusions = [
            Exclusion(scan.path, UNDERSAMPLED)
            for column, kept in zip(columns, chosen, strict=True)
            for scan in column
            if scan.path not in kept
        ]
        columns = [[scan for scan in column if scan.path in kept] for column, kept in zip(columns, chosen, strict=True)]
    contents = _once(columns, shards, seed) if balance == "none" else _balanced(columns, shards, per_class, seed)
    return _number_and_shuffle(split, contents, seed), exclusions


def _shard_count(exact: float, limit: int) -> int:
    return max(1, min(round(exact), limit, MAX_SHARDS))


def _quotas(records: int, shards: int, first: int = 0) -> list[int]:
    """How many records every shard has, as equal as they can be. first: of the shards that have one more."""
    quotas = [records // shards] * shards
    for extra in range(records % shards):
        quotas[(first + extra) % shards] += 1
    return quotas


def _by_class(scans: Sequence[Scan], seed: int) -> list[list[Scan]]:
    """The scans of each class, in an order by the seed."""
    by_class: dict[str, list[Scan]] = defaultdict(list)
    for scan in sorted(scans, key=lambda scan: seeded_hash(scan.path, seed)):
        by_class[scan.label].append(scan)
    return [column for _, column in sorted(by_class.items())]


def _of_most_patients(column: Sequence[Scan], number: int, seed: int) -> set[str]:
    """The paths of some scans of a class, taken from one patient after the other, over and over."""
    patients: dict[str, list[Scan]] = defaultdict(list)
    for scan in column:
        patients[scan.patient].append(scan)
    order = sorted(patients, key=lambda patient: seeded_hash(patient, seed))
    rounds = max(map(len, patients.values()))
    in_turn = (patients[p][index] for index in range(rounds) for p in order if index < len(patients[p]))
    return {scan.path for scan in islice(in_turn, number)}


def _balanced(columns: _Columns, shards: int, per_class: int, seed: int) -> list[list[Scan]]:
    """As many records of each class in a shard as of any other; a class with fewer scans is repeated.

    Repeats stay within the shard; only a scan of a class with fewer scans than there are shards is in several.
    """
    contents: list[list[Scan]] = [[] for _ in range(shards)]
    quotas = _quotas(per_class, shards)
    for column in columns:
        for shard, own in enumerate(_assigned(column, _quotas(len(column), shards), seed)):
            once = own or [column[shard % len(column)]]
            contents[shard] += (once[index % len(once)] for index in range(quotas[shard]))
    return contents


def _once(columns: _Columns, shards: int, seed: int) -> list[list[Scan]]:
    """Each scan once; two shards differ by one scan at most, and so they do in each class."""
    contents: list[list[Scan]] = [[] for _ in range(shards)]
    before = 0
    for column in columns:
        for shard, own in enumerate(_assigned(column, _quotas(len(column), shards, before % shards), seed)):
            contents[shard] += own
        before += len(column)
    return contents


def _assigned(column: Sequence[Scan], quotas: Sequence[int], seed: int) -> list[list[Scan]]:
    """The scans of each shard, which are as many as its quota; the quotas add up to the number of scans.

    Each scan in turn goes to the first shard with room of those that its path gives by the seed. So a scan that is
    added takes a place that a later scan had, which takes that of a still later one, and so on until a shard is not
    full. A few shards change (docs/splits.md has numbers), and the others stay as they are.
    """
    shards: list[list[Scan]] = [[] for _ in quotas]
    for scan in column:
        choice = 0
        while True:
            shard = int.from_bytes(seeded_hash(f"shard {choice} {scan.path}", seed)[:8], "big") % len(shards)
            if len(shards[shard]) < quotas[shard]:
                break
            choice += 1
        shards[shard].append(scan)
    return shards


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
