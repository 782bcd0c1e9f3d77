"""Exact duplicates: scans with the same content, that is the same bytes of the file or the same stored pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from octprep.format.errors import SourceError
from octprep.source.files import Exclusion, Scan
from octprep.wording import number

SAME_BYTES, SAME_PIXELS, NEAR_IDENTICAL = "same bytes", "same pixels", "near-identical"
_PRECEDENCE = ("test", "val", "train", "")  # of folders: a duplicate in an earlier one is kept
_MAX_EXAMPLES = 5  # duplicate sets under different classes that an error names


@dataclass(frozen=True, order=True)
class DuplicatePair:
    """Two scans under different patient ids that count as one patient's, and why."""

    first: str  # path; the smaller of the two
    second: str  # path
    reason: str  # SAME_BYTES, SAME_PIXELS or NEAR_IDENTICAL
    correlation: float = 1.0  # of their stored pixels, up to 1


def content_keys(scan: Scan) -> tuple[str, ...]:
    """Keys that two scans with the same content share: of the file's bytes and, where known, of the stored pixels."""
    return (f"bytes {scan.sha256}", *([f"pixels {scan.pixels_sha256}"] if scan.pixel_digest else []))


def duplicate_sets(scans: Iterable[Scan]) -> list[list[Scan]]:
    """Sets of at least two scans with the same content, whatever their names; each and all sorted by path."""
    set_of: dict[str, list[Scan]] = {}  # by content key
    for scan in sorted(with_repeated_content(list(scans))):
        keys = content_keys(scan)
        same, *more_sets = [set_of[key] for key in keys if key in set_of] or [[]]
        for members in more_sets:
            if members is not same:  # the bytes are those of one set, the pixels those of another
                same += members
                set_of |= {key: same for moved in members for key in content_keys(moved)}
        same.append(scan)
        set_of |= dict.fromkeys(keys, same)
    distinct = {id(same): same for same in set_of.values() if len(same) > 1}
    return sorted(sorted(same) for same in distinct.values())


def with_repeated_content(scans: Sequence[Scan]) -> list[Scan]:
    """Those scans whose file or stored pixels another of them has too, in their order."""
    repeated = repeated_contents(scans)
    if not repeated:
        return []
    return [scan for scan in scans if scan.file_digest in repeated or scan.pixel_digest in repeated]


def repeated_contents(scans: Sequence[Scan]) -> set[bytes]:
    """The SHA-256 of the files and stored pixels that several of the scans have."""
    files = [scan.file_digest for scan in scans]
    pixels = [digest for scan in scans if (digest := scan.pixel_digest)]
    return _repeated(files) | _repeated(pixels)


def _repeated(values: Sequence[bytes]) -> set[bytes]:
    """Those that are there more than once."""
    if len(set(values)) == len(values):
        return set()
    return {value for value, count in Counter(values).items() if count > 1}


def exact_duplicate_pairs(scans: Iterable[Scan]) -> list[DuplicatePair]:
    """Pairs of scans with the same content under different ids, sorted; a set of duplicates gives a chain of pairs."""
    return sorted(
        DuplicatePair(first.path, second.path, _kind(first, second))
        for duplicates in duplicate_sets(scans)
        for first, second in pairwise(duplicates)
        if first.patient != second.patient
    )


def label_conflicts(scans: Iterable[Scan]) -> list[list[Scan]]:
    """The sets of scans with the same content under different classes."""
    return [duplicates for duplicates in duplicate_sets(scans) if len({scan.label for scan in duplicates}) > 1]


def deduplicate(scans: Iterable[Scan], on_conflict: str = "drop") -> tuple[list[Scan], list[Exclusion]]:
    """Keep one of the scans with the same content, and none where they are labelled differently; both sorted.

    A scan in the test folder is kept before one in val, and that before one in train, so that a published test set
    stays whole; duplicates in other folders do not conflict with it, even under another class. on_conflict says what
    becomes of duplicates under different classes: `drop` excludes all, `keep` keeps one of each class, `error` raises
    SourceError.
    """
    scans = sorted(scans)
    if on_conflict == "error":
        _require_no_conflicts(scans)
    exclusions: list[Exclusion] = []
    for duplicates in duplicate_sets(scans):
        by_precedence = sorted(duplicates, key=_precedence)
        survivors = _survivors(by_precedence, on_conflict)
        exclusions += _exclusions(by_precedence, survivors)
    excluded = {exclusion.path for exclusion in exclusions}
    return [scan for scan in scans if scan.path not in excluded], sorted(exclusions)


def drop_label_conflicts(scans: Iterable[Scan], on_conflict: str = "drop") -> tuple[list[Scan], list[Exclusion]]:
    """Exclude contents under different classes, and nothing else: for splits that are taken as they are; both sorted.

    `keep` keeps all of it, `error` raises SourceError.
    """
    scans = sorted(scans)
    if on_conflict == "error":
        _require_no_conflicts(scans)
    reasons: dict[str, str] = {}
    for duplicates in label_conflicts(scans) if on_conflict == "drop" else ():
        reason = _conflict_reason(duplicates[0], duplicates[1], sorted({scan.label for scan in duplicates}))
        reasons |= dict.fromkeys((scan.path for scan in duplicates), reason)
    kept = [scan for scan in scans if scan.path not in reasons]
    return kept, [Exclusion(path, reason) for path, reason in sorted(reasons.items())]


def _precedence(scan: Scan) -> tuple[int, str]:
    return _PRECEDENCE.index(scan.source_split), scan.path


def _labels_that_count(by_precedence: Sequence[Scan]) -> list[str]:
    """The classes of duplicates, sorted; where one is in the test folder, those of the test folder alone."""
    in_test = by_precedence[0].source_split == "test"
    return sorted({scan.label for scan in by_precedence if scan.source_split == "test" or not in_test})


def _survivors(by_precedence: Sequence[Scan], on_conflict: str) -> Mapping[str, Scan]:
    """The scans of a duplicate set that are kept, by class; {} if all are dropped for a label conflict."""
    labels = _labels_that_count(by_precedence)
    if len(labels) > 1 and on_conflict != "keep":
        return {}
    return {label: next(scan for scan in by_precedence if scan.label == label) for label in labels}


def _exclusions(by_precedence: Sequence[Scan], survivors: Mapping[str, Scan]) -> list[Exclusion]:
    """Why the other scans of a duplicate set are excluded."""
    if not survivors:
        reason = _conflict_reason(by_precedence[0], by_precedence[1], _labels_that_count(by_precedence))
        return [Exclusion(scan.path, reason) for scan in by_precedence]
    kept = {scan.path for scan in survivors.values()}
    return [
        Exclusion(scan.path, _duplicate_reason(scan, survivors.get(scan.label, by_precedence[0])))
        for scan in by_precedence
        if scan.path not in kept
    ]


def _require_no_conflicts(scans: Iterable[Scan]) -> None:
    """Raise SourceError if a content is under different classes."""
    if conflicts := label_conflicts(scans):
        examples = "; ".join(" = ".join(scan.path for scan in duplicates) for duplicates in conflicts[:_MAX_EXAMPLES])
        what = f"{number(len(conflicts), 'content')} {'is' if len(conflicts) == 1 else 'are'}"
        raise SourceError(
            f"{what} under different classes: {examples}. Correct the source, or give --label-conflicts drop to "
            "exclude such files, or --label-conflicts keep to keep one of each class."
        )


def _duplicate_reason(scan: Scan, kept: Scan) -> str:
    which = "another scan" if scan.label == kept.label else f"a scan of {kept.label}"
    return f"{_kind(scan, kept)} as {which}: {kept.path}"


def _conflict_reason(first: Scan, second: Scan, labels: Sequence[str]) -> str:
    return f"{_kind(first, second)} under different classes: {' and '.join(labels)}"


def _kind(first: Scan, second: Scan) -> str:
    """In which way the content of two duplicates is the same."""
    return SAME_BYTES if first.file_digest == second.file_digest else SAME_PIXELS
