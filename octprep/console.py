"""What the commands print: plain text tables of what was found, built and proved."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from octprep import duplicates
from octprep.duplicates.file import DuplicatesFile
from octprep.format import images_csv
from octprep.format.errors import ManifestError
from octprep.format.files import path_to_text
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, MANIFEST_NAME, REPORT_NAME, Manifest, read_part
from octprep.html.text import visible
from octprep.inspection import Inspection
from octprep.inspection import text as sentences
from octprep.inspection.checks import headline, recommendation
from octprep.source.files import MACOS_METADATA, reason_kind
from octprep.splits import balance
from octprep.verification import CHECKS, VerificationResult
from octprep.wording import listed, number

_MOST = 12  # lines of a list before it is cut
_MOST_FAULTS = 100  # of one law that verify prints


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows in aligned columns: the first to the left, the others to the right; numbers with thousands' commas."""
    text = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in text
    )


def built(out: Path, manifest: Manifest, *, fresh: bool = True) -> str:
    """The closing words of `octprep build`; fresh: what they speak of was written just now."""
    try:
        images = images_csv.decode(read_part(out / IMAGES_NAME))
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{_path(out / IMAGES_NAME)} cannot be read ({error}). Run `octprep verify {_path(out)}`."
        ) from None
    people: dict[str, set[str]] = defaultdict(set)
    kept: Counter[str] = Counter()
    for row in images.rows:
        people[row.split].add(row.patient)
        kept[row.split] += 1
    lines = [["", *manifest.class_names, "records", "images", "patients", "shards", "MB"]]
    body = [
        [name, *manifest.per_class(name).values(), manifest.records(name), kept[name], len(people[name]), len(shards),
         f"{sum(shard.bytes for shard in shards) / 1e6:,.1f}"]
        for name, shards in manifest.splits.items()
    ]  # fmt: skip
    left_out = Counter(reason_kind(excluded.exclusion_reason) for excluded in images.excluded)
    dealt = [
        f"shares: {clause}"
        for clause in map(balance.describe_deviation, balance.deviations_from_table(images, manifest.config))
    ]
    parts = [
        table([*lines, *body]),
        f"{images.count:,} files found, {sum(kept.values()):,} images kept, {sum(left_out.values()):,} left out"
        + "".join(f"\n  {number:>7,}  {reason}" for reason, number in left_out.most_common()),
        "\n".join(
            [
                leak_line(manifest),
                *join_lines(out, manifest),
                *dealt,
                *balance.describe_few_patients(balance.patients_from_rows(images.rows)),
            ]
        ),
        f"{'wrote' if fresh else 'there are'} {_path(out / MANIFEST_NAME)}, {_path(out / IMAGES_NAME)} and "
        f"{_path(out / REPORT_NAME)}; dataset digest {manifest.digest[:16]}\n"
        f"next: octprep verify {shlex.quote(str(out))}, then octtrain fit {shlex.quote(str(out))}",
    ]
    return _printable("\n\n".join(parts))


def join_lines(out: Path, manifest: Manifest) -> list[str]:
    """Who was taken for one patient although the ids differ: never in silence."""
    recipe, lines = manifest.recipe, []
    if not manifest.config.near_duplicates:
        lines.append("near-identical scans under different ids were not looked for (--near-duplicates off)")
    elif recipe.height * recipe.width < duplicates.MIN_PIXELS:
        lines.append(
            f"near-identical scans under different ids could not be looked for: {recipe.height}x{recipe.width} pixels "
            f"are too few to tell patients apart ({duplicates.MIN_PIXELS:,} are enough)"
        )
    try:
        joins = DuplicatesFile.from_json(read_part(out / DUPLICATES_NAME)).pairs
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{_path(out / DUPLICATES_NAME)} cannot be read ({error}). Run `octprep verify {_path(out)}`."
        ) from None
    if not joins:
        return lines or ["no scans under different patient ids show the same"]
    kinds = Counter(join.reason for join in joins)
    told = ", ".join(f"{number:,} {reason}" for reason, number in kinds.most_common())
    return [
        *lines,
        f"joined across patient ids, each pair as one person's: {told} (all in {DUPLICATES_NAME})",
        _lines(
            visible(f"  {join.first} = {join.second}: {join.reason}, correlation {join.correlation:.2f}")
            for join in joins
        ),
    ]


def leak_line(manifest: Manifest) -> str:
    """Whether the splits share anyone."""
    leaks = manifest.leaks
    if not leaks:
        return f"split {manifest.config.split}: no patient and no image content is in two splits"
    pairs = [" = ".join(pair) for pair in leaks.near]
    found = [
        [f"{number(len(leaks.patients), 'patient')} ({_some(leaks.patients)})"] * bool(leaks.patients),
        [number(len(leaks.contents), "image content")] * bool(leaks.contents),
        [f"{number(len(pairs), 'near-identical pair')} ({_some(pairs, 5)})"] * bool(pairs),
    ]
    told = listed([text for part in found for text in part])
    return f"LEAKY: in two splits: {visible(told)}. Results on these shards will look better than they are."


def surveyed(src: Path, found: Inspection) -> str:
    """What a quick inspection prints."""
    parts = [
        f"{number(found.file_count, 'file')} in {_in(src, found.root)}: {number(len(found.scans), 'scan')}, "
        f"{len(found.exclusions):,} unusable",
        _counts(found),
        f"published version: {found.published or 'the counts match none that is known'}",
        f"sizes (width x height): {_some([f'{size} {count:,}' for size, count in found.sizes.items()], 8)}",
        "unusable: "
        + (
            f"\n{_lines(f'{count:>7,}  {reason}' for reason, count in found.exclusion_reasons.items())}"
            if found.exclusions
            else "none"
        ),
    ]
    details = [exclusion for exclusion in found.exclusions if exclusion.reason != MACOS_METADATA]
    if details:
        parts.append("of these:\n" + _lines(f"  {exclusion.path}: {exclusion.reason}" for exclusion in details))
    leaks = [leak.patient for leak in found.findings.patient_leaks]
    parts.append(
        f"patients in more than one folder of the split: {len(leaks):,}"
        + (f" ({_some(leaks)})" if leaks else "")
        + f"\ncontents in more than one folder of the split: {len(found.findings.content_leaks):,}"
    )
    several = found.findings.patients_in_several_classes
    parts.append(f"patient ids in more than one class: {len(several):,}" + _two_classes(several))
    same = [[scan.path for scan in duplicates.scans] for duplicates in found.findings.duplicates]
    parts.append(
        f"scans with equal bytes: {sum(map(len, same)):,} in {len(same):,} sets"
        + (f"\n{_lines('  ' + ' = '.join(paths) for paths in same)}" if same else "")
    )
    return _printable("\n\n".join(parts))


def _counts(found: Inspection) -> str:
    rows: list[list[object]] = [["scans (patients)", *found.labels, "all"]]
    for folder, counts in found.images.items():
        cells = (f"{counts[label]:,} ({found.patients[folder][label]:,})" for label in found.labels)
        rows.append([folder or "(no split folders)", *cells, sum(counts.values())])
    return table(rows)


def audited(src: Path, found: Inspection) -> str:
    """What a full inspection prints: the verdict, all findings with their reasons, and what they mean."""
    assert found.pixels is not None
    what, test = found.findings, found.pixels.shortcuts
    parts = [
        headline(found),
        f"{number(found.file_count, 'file')} in {_in(src, found.root)}: {number(len(found.scans), 'scan')} of "
        f"{number(found.patient_count, 'patient id')}, {len(found.exclusions):,} unusable\n"
        f"{sentences.published_sentence(found)}",
        _counts(found),
        "\n".join(sentences.few_patients_sentences(found)),
        _section(
            "unusable files", [f"{n:,}  {why}" for why, n in found.exclusion_reasons.items()], len(found.exclusions)
        ),
    ]
    if found.has_splits:
        parts += [
            _section("patients in more than one folder", [sentences.format_leak(leak) for leak in what.patient_leaks]),
            _section("contents in more than one folder", [sentences.format_duplicates(x) for x in what.content_leaks]),
            _section(
                "near-identical pairs in more than one folder",
                [sentences.format_pair(pair) for pair in what.near_duplicate_leaks],
            ),
            *(["\n".join(sentences.overlap_sentences(found))] if what.patient_leaks or what.merged_ids else []),
        ]
    parts += [
        _section("merged patient ids", [sentences.format_merged_ids(merged) for merged in what.merged_ids]),
        _section("contents under more than one class", [sentences.format_duplicates(x) for x in what.label_conflicts]),
        _section(
            "near-identical pairs under two classes",
            [sentences.format_pair(pair) for pair in what.near_duplicate_conflicts],
        ),
        f"patient ids in more than one class: {len(what.patients_in_several_classes):,}"
        + _two_classes(what.patients_in_several_classes),
    ]
    if test.accuracies:
        lines: list[list[object]] = [["shortcut features", "balanced accuracy", "95 % interval", "chance"]]
        lines += [
            [one.feature, f"{one.balanced_accuracy:.0%}", f"{one.low:.0%} to {one.high:.0%}", f"{test.chance:.0%}"]
            for one in test.accuracies
        ]
        parts.append(f"class predicted from one number of a scan, on held-out patients:\n{table(lines)}")
    parts += ["\n".join(sentences.shortcut_sentences(test)), recommendation(found)]
    return _printable("\n\n".join(part for part in parts if part))


def certificate(result: VerificationResult) -> str:
    """One line that a paper can quote: what was verified, of which dataset. Only for a result without violations."""
    manifest = result.manifest
    counted = [
        f"{split} {number(count.images, 'image')} of {number(count.patients, 'patient')}"
        for split, count in result.counts.items()
    ]
    images = sum(count.images for count in result.counts.values())
    apart = "patients, file contents and stored pixels"
    if manifest.config.near_duplicates and result.not_comparable < images:
        but = f" (but for {result.not_comparable:,} images too small to compare)" if result.not_comparable else ""
        apart = f"patients, file contents and near-identical scans{but}"
    return visible(
        f"octprep {version('octprep')} certifies dataset sha256:{manifest.digest}: {', '.join(counted)}; {apart} "
        f"disjoint across splits, re-derived from {result.records:,} records."
    )


def verified(folder: Path, result: VerificationResult) -> str:
    """What `octprep verify` prints: each guarantee with its violations, and what was not checked.

    Guarantee 5 comes first where it is violated: what the records say cannot be trusted then.
    """
    by_check: dict[int, list[str]] = {check: [] for check in CHECKS}
    for violation in result.violations:
        by_check[violation.check].append(f"  {violation.where}: {violation.message}")
    lines = []
    for check in sorted(CHECKS, key=lambda check: (check != 5 or not by_check[5], check)):
        violations = by_check[check]
        state = "VIOLATED" if violations else "unknown " if check < 5 and result.unread else "holds   "
        lines.append(f"guarantee {check} {state}: {_guarantee(check, result)}")
        lines += violations[:_MOST_FAULTS]
        if more := len(violations) - _MOST_FAULTS:
            lines += [f"  and {more:,} more"] * (more > 0)
    if result.unread:
        lines.append(f"not checked: whatever needs {_some(result.unread)}, which could not be read whole")
        if result.unchecked_rows:
            lines[-1] += f"; {number(result.unchecked_rows, 'row')} of {IMAGES_NAME} point there"
    lines.append(
        "in no record, so only the form was checked: bytes, fill_fraction, crop_confidence and note in "
        f"{IMAGES_NAME}, what it says of excluded files, and settings that leave no trace, such as the seed"
    )
    digest = result.manifest.digest
    if result.violations:
        lines.append(f"{_path(folder)}: {number(len(result.violations), 'violation')} in {result.records:,} records")
    else:
        lines.append(f"{_path(folder)}: {result.records:,} records, all guarantees hold; dataset digest {digest}")
    return _printable("\n".join(lines))


def _guarantee(check: int, result: VerificationResult) -> str:
    """A guarantee in words, without what was not checked."""
    if check == 1 and not result.manifest.config.near_duplicates:
        return (
            "no patient, no content and no equal stored pixels are in two splits; near-identical scans were not looked "
            "for"
        )
    if check == 1 and result.not_comparable:
        too_small = number(result.not_comparable, "image")
        return f"{CHECKS[check]}; {too_small} too small to be compared with others"
    return CHECKS[check]


def _section(title: str, lines: Sequence[str], number: int | None = None) -> str:
    """A list under its title with the number of what it lists: its lines, if nothing else is said."""
    total = len(lines) if number is None else number
    return f"{title}: {total:,}" + (f"\n{_lines(f'  {line}' for line in lines)}" if lines else "")


def _two_classes(two: Mapping[str, Sequence[str]]) -> str:
    if not two:
        return ""
    listed = [f"{patient}: {' and '.join(labels)}" for patient, labels in two.items()]
    return f" ({_some(listed)})"


def _path(path: Path) -> str:
    """A path of this machine on one line, whatever bytes its name has."""
    return path_to_text(str(path))


def _in(src: Path, root: str) -> str:
    """A folder in the source; root is text already."""
    return f"{_path(src)}/{root}" if root else _path(src)


def _printable(text: str) -> str:
    """The lines of a text without what a terminal would obey or hide."""
    return "\n".join(map(visible, text.split("\n")))


def _some(names: Sequence[str], most: int = _MOST) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _lines(lines: Iterable[str]) -> str:
    listed = list(lines)
    return "\n".join(listed[:_MOST] + ([f"  and {len(listed) - _MOST:,} more"] if len(listed) > _MOST else []))
