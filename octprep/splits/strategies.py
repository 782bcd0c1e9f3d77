"""Groups of scans -> splits. Pure: the result depends on who is there and on the seed, never on the order of files."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octprep.duplicates.exact import DuplicatePair, deduplicate, drop_label_conflicts
from octprep.format.config import SOURCE_SPLITS, BuildConfig
from octprep.format.errors import LeakError, SourceError
from octprep.format.manifest import Leaks
from octprep.format.seeding import seeded_hash
from octprep.source.files import Exclusion, Scan, ScanFile
from octprep.splits import stratify
from octprep.splits.leaks import find_leaks
from octprep.splits.patients import PatientGroup, by_number, group
from octprep.splits.split_file import SplitFile


@dataclass(frozen=True)
class Splits:
    """Who is where."""

    members: Mapping[str, tuple[Scan, ...]]  # by split name; each sorted by path
    rejections: tuple[Exclusion, ...]  # readable scans that no split takes
    leaks: Leaks
    groups: tuple[PatientGroup, ...]  # of the scans that stay together, with those left out where that joined them


def resolve(strategy: str, scans: Iterable[ScanFile]) -> str:
    """What `auto` means for these scans: `repaired` where they have a test folder, else `grouped`."""
    if strategy != "auto":
        return strategy
    return "repaired" if any(scan.folder == "test" for scan in scans) else "grouped"


def split(
    scans: Sequence[Scan],
    config: BuildConfig,
    *,
    near: Sequence[DuplicatePair] = (),
    assignment: SplitFile | None = None,
) -> Splits:
    """Put every scan in a split, or leave it out with a reason.

    `config.split` must be resolved; `near` joins scans of different ids into one patient; `assignment` says who is
    where for split `file`. Raises LeakError for `official` folders or a `file` that part a patient, unless the config
    allows leaks, and SourceError if a split would lack a class.
    """
    given = config.split in ("official", "file")
    if given:
        parts, rejections = _by_file(scans, assignment) if config.split == "file" else _by_folder(scans)
        groups = group(scans, near)
        leaks = parted(parts, groups, near)
        if leaks and not config.allow_leaks:
            raise LeakError(_leak(config.split, leaks))
        kept, contradictory = drop_label_conflicts((scan for part in parts.values() for scan in part), config.conflicts)
        kept_paths = {scan.path for scan in kept}
        parts = {name: [scan for scan in part if scan.path in kept_paths] for name, part in parts.items()}
        rejections += contradictory
        _check_given(config.split, parts)
    else:
        # Grouped before copies are dropped: a copy under another id joins two patients also where it is left out.
        groups = group(scans, near)
        kept, rejections = deduplicate(scans, config.conflicts)
        parts, left_out = _dealt(_only(kept, groups), config)
        rejections += left_out
    persons = {scan.path: one.key for one in groups for scan in one.scans} if config.max_per_patient else {}
    members: dict[str, tuple[Scan, ...]] = {}
    for name, part in parts.items():
        # The cap keeps one patient from being learnt by heart; val and test are for judging, on every scan there is.
        most = 0 if name in ("val", "test") else config.max_per_patient
        thinned = thin(part, most, persons)
        reason = f"beyond --max-per-patient {most} of its patient"
        spared = {scan.path for scan in thinned}
        rejections += [Exclusion(scan.path, reason) for scan in part if scan.path not in spared]
        members[name] = tuple(sorted(thinned, key=lambda scan: scan.path))
    # Where groups were dealt whole, nobody can be parted by a scan left out.
    leaks = parted(members, groups, near) if given else find_leaks(list(members.values()), near)
    return Splits(members, tuple(sorted(rejections)), leaks, tuple(groups))


def parted(parts: Mapping[str, Sequence[Scan]], groups: Iterable[PatientGroup], near: Sequence[DuplicatePair]) -> Leaks:
    """What is in two splits, and the patients who are one person only through a scan that is in none."""
    found = find_leaks(list(parts.values()), near)
    home = {scan.path: name for name, part in parts.items() for scan in part}
    hidden: set[str] = set()
    for joined in groups:
        members = [scan for scan in joined.scans if scan.path in home]
        if len({home[scan.path] for scan in members}) > 1 and all(
            len({home[scan.path] for scan in one.scans}) == 1 for one in group(members, near)
        ):
            hidden |= {scan.patient for scan in members}
    return dataclasses.replace(found, patients=tuple(sorted({*found.patients, *hidden}, key=by_number)))


def _only(kept: Iterable[Scan], groups: Iterable[PatientGroup]) -> list[PatientGroup]:
    """The groups without the scans that are not kept; none without any."""
    paths = {scan.path for scan in kept}
    found = [PatientGroup(one.key, tuple(scan for scan in one.scans if scan.path in paths)) for one in groups]
    return [one for one in found if one.scans]


def thin(scans: Sequence[Scan], most: int, persons: Mapping[str, str] | None = None) -> Sequence[Scan]:
    """At most so many scans of every patient, evenly spaced over the image numbers of each class; 0: all of them.

    persons: whose each scan is, by path; without it, patient ids tell. A patient's classes share the number in
    proportion to their scans, each with one at least while it lasts, the class with the fewest first: see `capped_counts`.
    """
    patients: dict[str, list[Scan]] = defaultdict(list)
    if not most:
        return scans
    for scan in scans:
        patients[persons[scan.path] if persons else scan.patient].append(scan)
    return [scan for members in patients.values() for scan in _thin_one(members, most)]


def capped_counts(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """How many of a patient's scans of each class are kept if there may be at most so many; 0: all."""
    total = sum(counts.values())
    if not most or total <= most:
        return dict(counts)
    labels = sorted(counts, key=lambda label: (counts[label], label))[:most]
    spare = most - len(labels)
    beyond_one = max(1, total - len(counts))
    shares = {label: divmod(spare * (counts[label] - 1), beyond_one) for label in labels}
    left = spare - sum(whole for whole, _ in shares.values())
    more = set(sorted(labels, key=lambda label: (-shares[label][1], label))[:left])
    return {label: 1 + shares[label][0] + (label in more) for label in labels}


def _thin_one(scans: Sequence[Scan], most: int) -> Sequence[Scan]:
    columns: dict[str, list[Scan]] = defaultdict(list)
    for scan in sorted(scans, key=lambda scan: (scan.number, scan.path)):
        columns[scan.label].append(scan)
    kept = capped_counts({label: len(column) for label, column in columns.items()}, most)
    return [
        columns[label][(2 * i + 1) * len(columns[label]) // (2 * number)]
        for label, number in kept.items()
        for i in range(number)
    ]


def _by_folder(scans: Sequence[Scan]) -> tuple[dict[str, list[Scan]], list[Exclusion]]:
    """The folders as they are."""
    folders = [name for name in SOURCE_SPLITS if any(scan.folder == name for scan in scans)]
    if "train" not in folders or "test" not in folders:
        raise SourceError(
            f"--split official takes the folders train and test as they are, but the source has "
            f"{' and '.join(folders) or 'only class folders'}; use --split grouped."
        )
    parts = {name: [scan for scan in scans if scan.folder == name] for name in folders}
    return parts, [Exclusion(scan.path, "not in train, val or test") for scan in scans if scan.folder not in folders]


def _by_file(scans: Sequence[Scan], assignment: SplitFile | None) -> tuple[dict[str, list[Scan]], list[Exclusion]]:
    """Every scan where the file puts it."""
    assert assignment is not None, "split file comes with an assignment"
    places = [(assignment.split_of(scan), scan) for scan in scans]
    parts = {name: [scan for place, scan in places if place == name] for name in SOURCE_SPLITS}
    missing = [name for name in ("train", "test") if not parts[name]]
    if missing:
        raise SourceError(f"--splits puts no readable scan in {' nor in '.join(missing)}; it must fill train and test.")
    left_out = [Exclusion(scan.path, "the file of --splits gives it no split") for place, scan in places if not place]
    return {name: part for name, part in parts.items() if part}, left_out


def _leak(strategy: str, leaks: Leaks) -> str:
    found = []
    if leaks.patients:
        found.append(f"patient{'s' * (len(leaks.patients) != 1)} {_listed(leaks.patients)}")
    if leaks.contents:
        found.append(f"{len(leaks.contents):,} file content{'s' * (len(leaks.contents) != 1)}")
    if leaks.near:
        pairs = _listed([" = ".join(pair) for pair in leaks.near], 5)
        found.append(f"{len(leaks.near):,} near-identical pair{'s' * (len(leaks.near) != 1)} ({pairs})")
    one = len(leaks.patients) + len(leaks.contents) + len(leaks.near) == 1
    told = f"{' and '.join(found)} {'stands' if one else 'stand'}"
    if strategy == "file":
        return (
            f"--splits would leak: {told} in more than one split of the file. Correct the file, or use "
            "--allow-leaks to build it all the same."
        )
    return (
        f"--split official would leak: {told} in more than one of the source's folders. Use --split repaired, "
        "which keeps the test folder and leaves its patients out of training, or --allow-leaks to build it all the "
        "same."
    )


def _check_given(strategy: str, parts: Mapping[str, Sequence[Scan]]) -> None:
    """Raise SourceError for a class that train or test as given has nothing of.

    A given val may lack one, as the published archives' small ones may: nothing is learnt from it or said about it.
    """
    labels = {name: {scan.label for scan in part} for name, part in parts.items()}
    for label in sorted(set().union(*labels.values())):
        lacking = [name for name in ("train", "test") if label not in labels[name]]
        if lacking:
            option = "--splits" if strategy == "file" else "--split official"
            raise SourceError(
                f"{option} leaves {_listed(lacking)} without a scan of {label}; each needs at least 1 patient of "
                f"{label}. Add them, take {label} out of --src, or let --split grouped deal all patients anew."
            )


def _dealt(groups: Sequence[PatientGroup], config: BuildConfig) -> tuple[dict[str, list[Scan]], list[Exclusion]]:
    """The scans of every split, dealt by groups, and those left out because their patient is in the test folder."""
    given = any(scan.folder == "test" for joined in groups for scan in joined.scans)
    if config.split == "repaired" and not given:
        raise SourceError("--split repaired keeps the source's test folder, but it has none; use --split grouped.")
    deals = target_fractions(config, test_given=given)
    held_out: list[Scan] = []
    left_out: list[Exclusion] = []
    if config.split != "grouped" and given:
        held_out, free, left_out = _hold_out_test(groups)
        _check_classes(held_out, free, deals[0], {scan.label for joined in groups for scan in joined.scans})
    else:
        free = list(groups)
    dealt: dict[str, list[PatientGroup]] = {}
    for wanted in deals:
        dealt |= deal(free, wanted, config.seed, config.max_per_patient)
        free = dealt.pop("rest", [])
    parts = {name: [scan for joined in part for scan in joined.scans] for name, part in dealt.items()}
    if held_out:
        parts["test"] = held_out
    return {name: parts[name] for name in sorted(parts, key=lambda name: name == "test")}, left_out


def _hold_out_test(groups: Sequence[PatientGroup]) -> tuple[list[Scan], list[PatientGroup], list[Exclusion]]:
    """The test scans, the groups that are free for training, and the scans left out for their patient's sake."""
    held_out: list[Scan] = []
    free: list[PatientGroup] = []
    left_out: list[Exclusion] = []
    for joined in groups:
        tested = [scan for scan in joined.scans if scan.folder == "test"]
        if not tested:
            free.append(joined)
            continue
        held_out += tested
        people = {scan.patient for scan in tested}
        left_out += [
            Exclusion(scan.path, "its patient is in the test set")
            if scan.patient in people
            else Exclusion(scan.path, f"joined with a patient of the test set: {_listed(sorted(people))}")
            for scan in joined.scans
            if scan.folder != "test"
        ]
    return held_out, free, left_out


def target_fractions(config: BuildConfig, *, test_given: bool) -> list[dict[str, float]]:
    """What is dealt, in turn, each time by which shares; `rest`, where it occurs, is dealt next into the folds.

    Empty for `official` and `file`, which take splits as given.
    """
    train, val, test = config.fractions
    folds = {f"fold{fold}": 1 / config.folds for fold in range(config.folds)}
    deals: dict[str, list[dict[str, float]]] = {
        "grouped": [{"train": train, "val": val, "test": test}],
        "repaired": [{"train": train, "val": val}],
        "kfold": [folds] if test_given else [{"rest": train + val, "test": test}, folds],
    }
    return [
        {name: fraction / sum(wanted.values()) for name, fraction in wanted.items()}
        for wanted in deals.get(config.split, [])
    ]


def deal(
    groups: Sequence[PatientGroup], wanted: Mapping[str, float], seed: int, most: int = 0
) -> dict[str, list[PatientGroup]]:
    """Assign whole groups to splits so that every class's share in every split is as near to the wanted one as can be.

    wanted: a number above 0 for each split; only ratios matter.

    The rule is that of `octprep.splits.stratify.assign`: a home drawn from the seed and the group's key, then as few
    moves and swaps as bring the sum of squared deviations down, never ending further than StratifiedGroupKFold would. As
    homes do not depend on who else is there, a newcomer moves hardly anybody; a group only gets another home if its key
    changes, that is if a newcomer with a smaller id joins it. Splits come in the order of `wanted`.

    most: with a cap on the scans of a patient, shares are judged with nobody at more than that. Otherwise a patient of
    225 scans, of which training keeps 20, would take the place of many others there; and val or test, which keep all
    225, would be thought full with that one patient.

    Raises SourceError if a class has too few patients for every split to have one.
    """
    labels = sorted({scan.label for joined in groups for scan in joined.scans})
    index = {label: place for place, label in enumerate(labels)}
    counts = np.zeros((len(groups), len(labels)), dtype=np.int64)
    for row, joined in enumerate(groups):
        for label, number in capped_counts(Counter(scan.label for scan in joined.scans), most).items():
            counts[row, index[label]] = number
    salt = " ".join(wanted)  # so that dealing the rest on does not find all homes on one side
    digests = [seeded_hash(f"{salt} {joined.key}", seed) for joined in groups]
    for label, patients in zip(labels, (counts > 0).sum(axis=0).tolist(), strict=True):
        if not patients:
            raise SourceError(_too_few(label, 0, wanted, len(wanted), most))
    fractions = [fraction / sum(wanted.values()) for fraction in wanted.values()]
    try:
        places = stratify.assign(counts, digests, fractions).tolist()
    except stratify.NoFeasibleSplit as error:
        patients = int((counts[:, error.label] > 0).sum())
        raise SourceError(_too_few(labels[error.label], patients, wanted, error.more, most)) from None
    dealt: dict[str, list[PatientGroup]] = {name: [] for name in wanted}
    names = list(wanted)
    for joined, place in zip(groups, places, strict=True):
        dealt[names[place]].append(joined)
    return dealt


def _check_classes(
    held_out: Sequence[Scan], rest: Sequence[PatientGroup], wanted: Mapping[str, float], labels: Iterable[str]
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
            raise SourceError(_too_few(label, 0, wanted, len(wanted)))


def _too_few(label: str, patients: int, wanted: Mapping[str, float], more: int, most: int = 0) -> str:
    found = f"class {label} has {patients} patient{'s' * (patients != 1)} to share among {_listed(list(wanted))}"
    found += f" (counting {most} scan{'s' * (most != 1)} of each, as --max-per-patient says)" if most else ""
    if patients < len(wanted):
        found += f"; at least {len(wanted)} are needed"
    else:
        found += ", but with the other classes that they have too they cannot give each of them every class"
    return f"{found}. Add {more} or more patients who have {label} alone, or take the class out of --src."


def _listed(names: Sequence[str], most: int = 20) -> str:
    """a, b and c; at most so many, then how many more."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
