"""Split strategies: patient groups -> splits. Pure: the result depends on the set of scans, the config and the seed.

Splits taken as they are (`as-given`: the source's folders; `file`: a CSV file) must not leak. The others assign whole
groups by target fractions: `keep-test` keeps the source's test folder, `by-patient` assigns all patients, `kfold` makes
patient-disjoint folds of what is not in test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from octprep.duplicates.exact import DuplicatePair, deduplicate, drop_label_conflicts
from octprep.format.config import SOURCE_SPLITS, BuildConfig, Strategy
from octprep.format.errors import LeakError, SourceError
from octprep.format.manifest import Leaks
from octprep.format.seeding import seeded_hash
from octprep.source.files import Exclusion, Scan, ScanFile
from octprep.splits import stratify
from octprep.splits.leaks import describe_leaks, find_hidden_leaks, find_leaks
from octprep.splits.patient_cap import cap_images_per_patient, capped_counts
from octprep.splits.patients import PatientGroup, group_keys, group_patients
from octprep.splits.split_file import SplitFile
from octprep.wording import listed, number

_AS_GIVEN = ("as-given", "file")  # strategies that take splits as they are
_MAX_NAMES = 20  # names that an error lists

_ScansBySplit = dict[str, list[Scan]]  # the scans of each split, by its name


@dataclass(frozen=True)
class Splits:
    """Which scan is in which split."""

    members: Mapping[str, tuple[Scan, ...]]  # by split name; each sorted by path
    excluded: tuple[Exclusion, ...]  # readable scans that are in no split
    leaks: Leaks
    groups: tuple[PatientGroup, ...]  # of all scans, with those that are excluded
    group_of: Mapping[str, str]  # path of a scan -> key of its group


def resolve_auto(strategy: Strategy, scans: Iterable[ScanFile]) -> Strategy:
    """The strategy that `auto` means for these scans: `keep-test` where they have a test folder, else `by-patient`."""
    if strategy != "auto":
        return strategy
    return "keep-test" if any(scan.source_split == "test" for scan in scans) else "by-patient"


def split_scans(
    scans: Sequence[Scan],
    config: BuildConfig,
    *,
    near: Sequence[DuplicatePair] = (),
    split_file: SplitFile | None = None,
) -> Splits:
    """Put every scan in a split, or exclude it with a reason.

    `config.split` must be resolved; `near` are the near-duplicate pairs that link patient ids; `split_file` is for the
    strategy `file`. Raises LeakError if `as-given` folders or a `file` leak, unless the config allows leaks, and
    SourceError if a split would lack a class.
    """
    # Grouped before duplicates are dropped: one under another id links two patients also where it is excluded.
    groups = group_patients(scans, near)
    group_of = group_keys(groups)
    if config.split in _AS_GIVEN:
        by_split, exclusions = _take_as_given(scans, groups, config, near, split_file)
    else:
        kept, exclusions = deduplicate(scans, config.label_conflicts)
        by_split, more = _split_by_groups(_restrict(groups, kept), config)
        exclusions += more
    members: dict[str, tuple[Scan, ...]] = {}
    for name, split_members in by_split.items():
        # The cap keeps a network from memorising one patient; val and test measure, so they keep every scan.
        limit = 0 if name in ("val", "test") else config.max_per_patient
        capped = cap_images_per_patient(split_members, limit, group_of)
        kept_paths = {scan.path for scan in capped}
        reason = f"beyond --max-per-patient {limit} of its patient"
        exclusions += [Exclusion(scan.path, reason) for scan in split_members if scan.path not in kept_paths]
        members[name] = tuple(sorted(capped, key=lambda scan: scan.path))
    if config.split in _AS_GIVEN:
        leaks = find_hidden_leaks(members, groups, near)
    else:  # whole groups were assigned, so nothing links two splits through an excluded scan
        leaks = find_leaks(list(members.values()), near)
    return Splits(members, tuple(sorted(exclusions)), leaks, tuple(groups), group_of)


def _take_as_given(
    scans: Sequence[Scan],
    groups: Sequence[PatientGroup],
    config: BuildConfig,
    near: Sequence[DuplicatePair],
    split_file: SplitFile | None,
) -> tuple[_ScansBySplit, list[Exclusion]]:
    """Splits as they are, without label conflicts. Raises LeakError, or SourceError for a class that one lacks."""
    if config.split == "file":
        assert split_file is not None, "the strategy file comes with a split file"
        by_split, exclusions = _split_from_file(scans, split_file)
    else:
        by_split, exclusions = _split_as_given(scans)
    leaks = find_hidden_leaks(by_split, groups, near)
    if leaks and not config.allow_leaks:
        raise LeakError(_leak_message(config.split, leaks))
    kept, conflicting = drop_label_conflicts(
        (scan for members in by_split.values() for scan in members), config.label_conflicts
    )
    kept_paths = {scan.path for scan in kept}
    by_split = {name: [scan for scan in members if scan.path in kept_paths] for name, members in by_split.items()}
    _require_given_classes(config.split, by_split)
    return by_split, exclusions + conflicting


def _split_as_given(scans: Sequence[Scan]) -> tuple[_ScansBySplit, list[Exclusion]]:
    """The source's folders."""
    folders = [name for name in SOURCE_SPLITS if any(scan.source_split == name for scan in scans)]
    if "train" not in folders or "test" not in folders:
        raise SourceError(
            f"--split as-given takes the folders train and test as they are, but the source has "
            f"{' and '.join(folders) or 'only class folders'}; use --split by-patient."
        )
    by_split = {name: [scan for scan in scans if scan.source_split == name] for name in folders}
    others = [scan for scan in scans if scan.source_split not in folders]
    return by_split, [Exclusion(scan.path, "not in train, val or test") for scan in others]


def _split_from_file(scans: Sequence[Scan], split_file: SplitFile) -> tuple[_ScansBySplit, list[Exclusion]]:
    """The splits that a file assigns; scans that it does not name are excluded."""
    split_of = [(split_file.split_of(scan), scan) for scan in scans]
    by_split = {name: [scan for split, scan in split_of if split == name] for name in SOURCE_SPLITS}
    missing = [name for name in ("train", "test") if not by_split[name]]
    if missing:
        raise SourceError(
            f"--split-file assigns no readable scan to {' or '.join(missing)}; it must name scans of train and test."
        )
    exclusions = [
        Exclusion(scan.path, "the file of --split-file gives it no split") for split, scan in split_of if not split
    ]
    return {name: members for name, members in by_split.items() if members}, exclusions


def _leak_message(strategy: str, leaks: Leaks) -> str:
    count = len(leaks.patients) + len(leaks.contents) + len(leaks.near)
    what = f"{describe_leaks(leaks)} {'is' if count == 1 else 'are'}"
    if strategy == "file":
        return (
            f"--split-file would leak: {what} in more than one split of the file. Correct the file, or use "
            "--allow-leaks to build anyway."
        )
    return (
        f"--split as-given would leak: {what} in more than one of the source's folders. Use --split keep-test, which "
        "keeps the test folder and excludes its patients from training, or --allow-leaks to build anyway."
    )


def _require_given_classes(strategy: str, by_split: Mapping[str, Sequence[Scan]]) -> None:
    """Raise SourceError for a class that train or test, as given, has no scan of.

    A given val may lack one, as the small ones of the published archives may: it trains and evaluates nothing.
    """
    labels = {name: {scan.label for scan in members} for name, members in by_split.items()}
    for label in sorted(set().union(*labels.values())):
        lacking = [name for name in ("train", "test") if label not in labels[name]]
        if lacking:
            option = "--split-file" if strategy == "file" else "--split as-given"
            raise SourceError(
                f"{option} leaves {listed(lacking)} without a scan of {label}; each needs at least 1 patient of "
                f"{label}. Add them, take {label} out of --src, or use --split by-patient to assign all patients again."
            )


def _restrict(groups: Iterable[PatientGroup], kept: Iterable[Scan]) -> list[PatientGroup]:
    """The groups without the scans that are not kept; those of which nothing is left are dropped."""
    paths = {scan.path for scan in kept}
    smaller = (PatientGroup(group.key, tuple(s for s in group.scans if s.path in paths)) for group in groups)
    return [group for group in smaller if group.scans]


def _split_by_groups(groups: Sequence[PatientGroup], config: BuildConfig) -> tuple[_ScansBySplit, list[Exclusion]]:
    """The scans of every split, assigned by whole groups, and those excluded as their patient is in the test folder."""
    match config.split:
        case "keep-test":
            by_split, exclusions = _split_keep_test(groups, config)
        case "kfold":
            by_split, exclusions = _split_kfold(groups, config)
        case _:
            by_split, exclusions = _split_by_patient(groups, config)
    return {name: by_split[name] for name in sorted(by_split, key=lambda name: name == "test")}, exclusions


def _split_by_patient(groups: Sequence[PatientGroup], config: BuildConfig) -> tuple[_ScansBySplit, list[Exclusion]]:
    """All groups into train, val and test, or those of them whose fraction is above 0."""
    [targets] = target_fractions(config, has_test=False)
    return _scans(assign_groups(groups, targets, config.seed, config.max_per_patient)), []


def _split_keep_test(groups: Sequence[PatientGroup], config: BuildConfig) -> tuple[_ScansBySplit, list[Exclusion]]:
    """The test folder as it is; the groups without a scan there into train and val."""
    if not _has_test(groups):
        raise SourceError("--split keep-test keeps the source's test folder, but it has none; use --split by-patient.")
    [targets] = target_fractions(config, has_test=True)
    test, rest, exclusions = _hold_out_test(groups, targets)
    return {**_scans(assign_groups(rest, targets, config.seed, config.max_per_patient)), "test": test}, exclusions


def _split_kfold(groups: Sequence[PatientGroup], config: BuildConfig) -> tuple[_ScansBySplit, list[Exclusion]]:
    """Test, from the test folder if the source has one, and folds of the rest."""
    if _has_test(groups):
        [folds] = target_fractions(config, has_test=True)
        test, rest, exclusions = _hold_out_test(groups, folds)
    else:
        targets, folds = target_fractions(config, has_test=False)
        assigned = assign_groups(groups, targets, config.seed, config.max_per_patient)
        test, rest, exclusions = _scans(assigned)["test"], assigned["rest"], []
    return {**_scans(assign_groups(rest, folds, config.seed, config.max_per_patient)), "test": test}, exclusions


def _has_test(groups: Iterable[PatientGroup]) -> bool:
    return any(scan.source_split == "test" for group in groups for scan in group.scans)


def _scans(assigned: Mapping[str, Iterable[PatientGroup]]) -> _ScansBySplit:
    return {name: [scan for group in groups for scan in group.scans] for name, groups in assigned.items()}


def _hold_out_test(
    groups: Sequence[PatientGroup], targets: Mapping[str, float]
) -> tuple[list[Scan], list[PatientGroup], list[Exclusion]]:
    """The scans of the test folder, the groups without one, and the exclusions of the other scans of test patients.

    Raises SourceError for a class that the test folder, or what is left for `targets`, has no scan of.
    """
    test: list[Scan] = []
    rest: list[PatientGroup] = []
    exclusions: list[Exclusion] = []
    for group in groups:
        tested = [scan for scan in group.scans if scan.source_split == "test"]
        if not tested:
            rest.append(group)
            continue
        test += tested
        patients = {scan.patient for scan in tested}
        exclusions += [
            Exclusion(scan.path, "its patient is in the test set")
            if scan.patient in patients
            else Exclusion(scan.path, f"in one group with a patient of the test set: {listed(sorted(patients), 20)}")
            for scan in group.scans
            if scan.source_split != "test"
        ]
    _require_classes(test, rest, targets, {scan.label for group in groups for scan in group.scans})
    return test, rest, exclusions


def _require_classes(
    test: Sequence[Scan], rest: Sequence[PatientGroup], targets: Mapping[str, float], labels: Iterable[str]
) -> None:
    """Raise SourceError for a class that the test set, or what is left for training, has no scan of."""
    if not rest:
        raise SourceError(
            f"all patients are in the source's test folder, which is kept, so none is left for "
            f"{listed(list(targets), _MAX_NAMES)}. Use --split by-patient to assign all patients by --fractions "
            "(0,0,1: a test split alone), or add others to train."
        )
    test_labels = {scan.label for scan in test}
    rest_labels = {scan.label for group in rest for scan in group.scans}
    for label in sorted(labels):
        if label not in test_labels:
            raise SourceError(
                f"the test set has no scan of {label}, so it cannot be evaluated; it has "
                f"{listed(sorted(test_labels))}. Add at least one patient to test/{label}, use --split by-patient to "
                f"assign all patients again, or, if {label} has another name there, merge the two by --classes."
            )
        if label not in rest_labels:
            raise SourceError(
                f"all patients who have {label} are in the source's test folder, which is kept, so none is left for "
                f"{listed(list(targets), _MAX_NAMES)}. Use --split by-patient to assign all patients again, add "
                f"{len(targets)} or more patients who have {label} alone, or, if {label} has another name elsewhere, "
                "merge the two by --classes; that also leaves a class out."
            )


def target_fractions(config: BuildConfig, *, has_test: bool) -> list[dict[str, float]]:
    """The targets of each assignment of groups, in turn: a fraction for every split, adding up to 1.

    `rest`, where it occurs, is assigned to the folds next. has_test: whether the source has a test folder that is kept.
    Empty for `as-given` and `file`, which take splits as given.
    """
    train, val, test = config.fractions
    folds = {f"fold{fold}": 1 / config.folds for fold in range(config.folds)}
    steps: dict[str, list[dict[str, float]]] = {
        "by-patient": [{"test": test} if config.is_test_only else {"train": train, "val": val, "test": test}],
        "keep-test": [{"train": train, "val": val}],
        "kfold": [folds] if has_test else [{"rest": train + val, "test": test}, folds],
    }
    return [
        {name: fraction / sum(targets.values()) for name, fraction in targets.items()}
        for targets in steps.get(config.split, [])
    ]


def assign_groups(
    groups: Sequence[PatientGroup], targets: Mapping[str, float], seed: int, max_per_patient: int = 0
) -> dict[str, list[PatientGroup]]:
    """Assign whole groups to splits so that every class's share in every split comes near its target.

    targets: a number above 0 for each split; only ratios matter. The result's splits come in their order.

    The method is `octprep.splits.stratify.stratified_group_split`: an initial split drawn from the seed and the group's
    key, then the moves and swaps that lower the sum of squared deviations. The initial split does not depend on the
    other groups, so adding patients changes few assignments; a group is drawn again only if its key changes, that is if
    it gets a new patient with a smaller id.

    max_per_patient: with a cap on the scans of a patient, shares are computed with no patient above it (0: no cap).
    Otherwise a patient of 225 scans, of which training keeps 20, would take the place of many other patients there; and
    val or test, which keep all 225, would count as full with that one patient.

    Raises SourceError if a class has too few patients for every split to have one.
    """
    labels = sorted({scan.label for group in groups for scan in group.scans})
    column_of = {label: column for column, label in enumerate(labels)}
    counts = np.zeros((len(groups), len(labels)), dtype=np.int64)
    for row, group in enumerate(groups):
        for label, count in capped_counts(Counter(scan.label for scan in group.scans), max_per_patient).items():
            counts[row, column_of[label]] = count
    salt = " ".join(targets)  # so that the draws of `rest` into folds are independent of those that made it `rest`
    digests = [seeded_hash(f"{salt} {group.key}", seed) for group in groups]
    patients_with = (counts > 0).sum(axis=0).tolist()
    for label, patients in zip(labels, patients_with, strict=True):
        if not patients:
            raise SourceError(_too_few_message(label, 0, targets, len(targets), max_per_patient))
    fractions = [fraction / sum(targets.values()) for fraction in targets.values()]
    try:
        part_of = stratify.stratified_group_split(counts, digests, fractions).tolist()
    except stratify.NoFeasibleSplit as error:
        raise SourceError(
            _too_few_message(
                labels[error.label], patients_with[error.label], targets, error.extra_groups_needed, max_per_patient
            )
        ) from None
    names = list(targets)
    assigned: dict[str, list[PatientGroup]] = {name: [] for name in names}
    for group, index in zip(groups, part_of, strict=True):
        assigned[names[index]].append(group)
    return assigned


def _too_few_message(
    label: str, patients: int, targets: Mapping[str, float], extra: int, max_per_patient: int = 0
) -> str:
    problem = f"class {label} has {number(patients, 'patient')} to share among {listed(list(targets), _MAX_NAMES)}"
    if max_per_patient:
        problem += f" (counting {number(max_per_patient, 'scan')} of each, as --max-per-patient says)"
    if patients < len(targets):
        problem += f"; at least {len(targets)} are needed"
    else:
        problem += ", but with the other classes that they have too they cannot give each of them every class"
    return f"{problem}. Add {extra} or more patients who have {label} alone, or leave the class out by --classes."
