"""Groups of scans -> splits. Pure: the result depends on who is there and on the seed, never on the order of files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from octprep.patients import Group, find_leaks, group, settle_duplicates
from octprep.scan import Named, Rejection, Scan
from octprep.schema import SPLIT_FOLDERS, BuildConfig, LeakError, Leaks, SourceError


@dataclass(frozen=True)
class Splits:
    """Who is where."""

    members: Mapping[str, tuple[Scan, ...]]  # by split name; each sorted by path
    rejections: tuple[Rejection, ...]  # readable scans that no split takes
    leaks: Leaks


def rank(key: str, seed: int) -> bytes:
    """A place for a key that depends on the key and the seed alone (Python's hash() changes between runs)."""
    return hashlib.blake2b(key.encode(), key=seed.to_bytes(8, "big"), digest_size=16).digest()


def resolve(strategy: str, scans: Iterable[Named]) -> str:
    """What `auto` means for these scans: `repaired` where they have a test folder, else `grouped`."""
    if strategy != "auto":
        return strategy
    return "repaired" if any(scan.folder == "test" for scan in scans) else "grouped"


def split(scans: Sequence[Scan], config: BuildConfig) -> Splits:
    """Put every scan in a split, or leave it out with a reason.

    `config.split` must be resolved. Raises LeakError for `official` folders that part a patient, unless the config
    allows leaks, and SourceError if a split would lack a class.
    """
    if config.split == "official":
        return _official(scans, allow_leaks=config.allow_leaks)
    kept, rejections = settle_duplicates(scans)
    train, val, test = config.fractions
    if config.split == "grouped":
        wanted = {"train": train, "val": val, "test": test}
        members = deal(group(kept), wanted, config.seed)
    else:
        held_out, rest, left_out = _hold_out_test(kept, config)
        rejections += left_out
        if config.split == "repaired":
            wanted = {"train": train, "val": val}
        else:
            wanted = {f"fold{fold}": 1.0 for fold in range(config.folds)}
        labels = {scan.label for scan in kept}
        _check_classes(held_out, rest, wanted, labels)
        members = {**deal(rest, wanted, config.seed), "test": held_out}
    return Splits(
        {name: tuple(sorted(part)) for name, part in members.items()},
        tuple(sorted(rejections)),
        find_leaks(list(members.values())),
    )


def _official(scans: Sequence[Scan], *, allow_leaks: bool) -> Splits:
    """The folders as they are."""
    folders = [name for name in SPLIT_FOLDERS if any(scan.folder == name for scan in scans)]
    if "train" not in folders or "test" not in folders:
        raise SourceError(
            f"--split official takes the folders train and test as they are, but the source has "
            f"{' and '.join(folders) or 'only class folders'}; use --split grouped."
        )
    members = {name: tuple(sorted(scan for scan in scans if scan.folder == name)) for name in folders}
    stray = [Rejection(scan.path, "not in train, val or test") for scan in scans if scan.folder not in folders]
    leaks = find_leaks(list(members.values()))
    if leaks and not allow_leaks:
        people = f"patient{'s' * (len(leaks.patients) != 1)} {_listed(leaks.patients)}" if leaks.patients else ""
        contents = f"{len(leaks.contents):,} file content{'s' * (len(leaks.contents) != 1)}" if leaks.contents else ""
        raise LeakError(
            f"--split official would leak: {' and '.join(filter(None, (people, contents)))} "
            "stand in more than one of the source's folders. Use --split repaired, which keeps the test folder and "
            "leaves its patients out of training, or --allow-leaks to build it all the same."
        )
    return Splits(members, tuple(sorted(stray)), leaks)


def _hold_out_test(scans: Sequence[Scan], config: BuildConfig) -> tuple[list[Scan], list[Group], list[Rejection]]:
    """The test scans, the groups that are free for training, and the scans left out for their patient's sake."""
    groups = group(scans)
    if not any(scan.folder == "test" for scan in scans):
        if config.split == "repaired":
            raise SourceError("--split repaired keeps the source's test folder, but it has none; use --split grouped.")
        train, val, test = config.fractions
        dealt = deal(groups, {"rest": train + val, "test": test}, config.seed)
        return dealt["test"], group(dealt["rest"]), []
    tested = [joined for joined in groups if any(scan.folder == "test" for scan in joined.scans)]
    held_out = [scan for joined in tested for scan in joined.scans if scan.folder == "test"]
    left_out = [
        Rejection(scan.path, "its patient is in the test set")
        for joined in tested
        for scan in joined.scans
        if scan.folder != "test"
    ]
    keys = {joined.key for joined in tested}
    return held_out, [joined for joined in groups if joined.key not in keys], left_out


def deal(groups: Sequence[Group], wanted: Mapping[str, float], seed: int) -> dict[str, list[Scan]]:
    """Assign whole groups to splits so that every class's share in every split is near the wanted fraction.

    The largest groups go first, each to the split where the sum over classes and splits of the squared deviation from
    the wanted share becomes least; ties are broken by a keyed digest. Then every split that lacks a class takes the
    cheapest group that has it, and single groups move as long as that brings the shares nearer.

    Raises SourceError if a class has too few patients for every split to have one.
    """
    total = sum(wanted.values())
    table = _Table(groups, {name: fraction / total for name, fraction in wanted.items()})
    order = sorted(range(len(groups)), key=lambda i: (-table.weight(i), rank(groups[i].key, seed)))
    for i in order:
        table.put(i, min(wanted, key=lambda name: table.cost_of_adding(i, name)))
    _give_every_split_every_class(table, order)
    for _ in range(20):
        moved = [i for i in order if table.improve(i)]
        if not moved:
            break
    return {name: [scan for i in order if table.place[i] == name for scan in groups[i].scans] for name in wanted}


class _Table:
    """Shares of each class in each split while groups are being placed."""

    def __init__(self, groups: Sequence[Group], wanted: Mapping[str, float]) -> None:
        self.wanted = wanted
        self.counts = [Counter(scan.label for scan in joined.scans) for joined in groups]
        self.total: Counter[str] = sum(self.counts, Counter())
        self.share = {name: dict.fromkeys(self.total, 0.0) for name in wanted}
        self.holders = {name: dict.fromkeys(self.total, 0) for name in wanted}  # groups of a class in a split
        self.place: dict[int, str] = {}

    def weight(self, i: int) -> float:
        """The largest share of any class that a group holds."""
        return max(number / self.total[label] for label, number in self.counts[i].items())

    def cost_of_adding(self, i: int, name: str, sign: int = 1) -> float:
        """How the sum of squared deviations changes if the group joins a split (sign 1) or leaves it (sign -1)."""
        cost = 0.0
        for label, number in self.counts[i].items():
            step = sign * number / self.total[label]
            cost += step * (2 * (self.share[name][label] - self.wanted[name]) + step)
        return cost

    def put(self, i: int, name: str) -> None:
        """Place a group, or move it."""
        for split_name, sign in ((self.place.get(i), -1), (name, 1)):
            if split_name is not None:
                for label, number in self.counts[i].items():
                    self.share[split_name][label] += sign * number / self.total[label]
                    self.holders[split_name][label] += sign
        self.place[i] = name

    def may_leave(self, i: int) -> bool:
        """Whether the group's split keeps every class without it."""
        return all(self.holders[self.place[i]][label] > 1 for label in self.counts[i])

    def improve(self, i: int) -> bool:
        """Move a group to the split where the cost becomes least, if that is elsewhere."""
        if not self.may_leave(i):
            return False
        home = self.place[i]
        leaving = self.cost_of_adding(i, home, -1)
        costs = {name: leaving + self.cost_of_adding(i, name) for name in self.wanted if name != home}
        best = min(costs, key=lambda name: costs[name], default=home)
        if best == home or costs[best] > -1e-12:
            return False
        self.put(i, best)
        return True


def _give_every_split_every_class(table: _Table, order: Sequence[int]) -> None:
    for label in sorted(table.total, key=lambda label: sum(label in counts for counts in table.counts)):
        for name in table.wanted:
            if table.holders[name][label]:
                continue
            free = [i for i in order if label in table.counts[i] and table.may_leave(i)]
            if not free:
                patients = sum(label in counts for counts in table.counts)
                raise SourceError(_too_few(label, patients, table.wanted))
            table.put(
                min(free, key=lambda i: table.cost_of_adding(i, table.place[i], -1) + table.cost_of_adding(i, name)),
                name,
            )


def _check_classes(
    held_out: Sequence[Scan], rest: Sequence[Group], wanted: Mapping[str, float], labels: Iterable[str]
) -> None:
    """Raise SourceError for a class that the test set, or what is left for training, has nothing of."""
    tested = {scan.label for scan in held_out}
    left = Counter(label for joined in rest for label in {scan.label for scan in joined.scans})
    for label in sorted(labels):
        if label not in tested:
            raise SourceError(
                f"the test set has no scan of {label}, so nothing could be said about it; add at least one patient to "
                f"test/{label}, or use --split grouped to deal all patients anew."
            )
        if not left[label]:
            raise SourceError(_too_few(label, 0, wanted))


def _too_few(label: str, patients: int, wanted: Mapping[str, float]) -> str:
    return (
        f"class {label} has {patients} patient{'s' * (patients != 1)} to share among {_listed(list(wanted))}; "
        f"at least {len(wanted)} are needed who are not another class's only ones. Add patients, or take the class "
        "out of --src."
    )


def _listed(names: Sequence[str], most: int = 20) -> str:
    """a, b and c; at most so many, then how many more."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
