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
from octprep.inspection import Audit
from octprep.inspection import text as sentences
from octprep.inspection.quick import Survey
from octprep.source.files import MACOS, kind
from octprep.splits import balance
from octprep.verification import CHECKS, VerificationResult

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
        rows = images_csv.read(read_part(out / IMAGES_NAME))
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{_path(out / IMAGES_NAME)} cannot be read ({error}). Run `octprep verify {_path(out)}`."
        ) from None
    people: dict[str, set[str]] = defaultdict(set)
    kept: Counter[str] = Counter()
    for row in rows:
        if row["shard"]:
            people[row["split"]].add(row["patient"])
            kept[row["split"]] += 1
    lines = [["", *manifest.class_names, "records", "images", "patients", "shards", "MB"]]
    body = [
        [name, *manifest.per_class(name).values(), manifest.records(name), kept[name], len(people[name]), len(shards),
         f"{sum(shard.bytes for shard in shards) / 1e6:,.1f}"]
        for name, shards in manifest.splits.items()
    ]  # fmt: skip
    left_out = Counter(kind(row["left_out"]) for row in rows if row["left_out"])
    dealt = [
        f"shares: {clause}"
        for clause in map(balance.describe_deviation, balance.deviations_from_rows(rows, manifest.config))
    ]
    parts = [
        table([*lines, *body]),
        f"{len(rows):,} files found, {sum(kept.values()):,} images kept, {sum(left_out.values()):,} left out"
        + "".join(f"\n  {number:>7,}  {reason}" for reason, number in left_out.most_common()),
        "\n".join(
            [
                leak_line(manifest),
                *join_lines(out, manifest),
                *dealt,
                *balance.describe_few_patients(balance.patients_from_rows(rows)),
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
    elif recipe.height * recipe.width < duplicates.SMALLEST:
        lines.append(
            f"near-identical scans under different ids could not be looked for: {recipe.height}x{recipe.width} pixels "
            f"are too few to tell patients apart ({duplicates.SMALLEST:,} are enough)"
        )
    try:
        joins = DuplicatesFile.from_json(read_part(out / DUPLICATES_NAME)).joins
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
        [f"{sentences.number(len(leaks.patients), 'patient')} ({_some(leaks.patients)})"] * bool(leaks.patients),
        [sentences.number(len(leaks.contents), "image content")] * bool(leaks.contents),
        [f"{sentences.number(len(pairs), 'near-identical pair')} ({_some(pairs, 5)})"] * bool(pairs),
    ]
    told = sentences.listed([text for part in found for text in part])
    return f"LEAKY: in two splits: {visible(told)}. Results on these shards will look better than they are."


def surveyed(src: Path, found: Survey) -> str:
    """What `octprep scan` prints."""
    labels = list(next(iter(found.images.values()), {}))
    rows: list[list[object]] = [["images (patients)", *labels, "all"]]
    for folder, counts in found.images.items():
        patients = found.patients[folder]
        rows.append(
            [
                folder or "(no split folders)",
                *(f"{counts[label]:,} ({patients[label]:,})" for label in labels),
                sum(counts.values()),
            ]
        )
    sizes = [f"{size} {number:,}" for size, number in found.sizes.items()]
    parts = [
        f"{sentences.number(found.files, 'file')} in {_in(src, found.root)}: "
        f"{sentences.number(len(found.scans), 'scan')}, "
        f"{len(found.rejections):,} unusable",
        table(rows),
        f"published version: {found.version or 'the counts match none that is known'}",
        f"sizes (width x height): {_some(sizes, 8)}",
        "unusable: "
        + (f"\n{_lines(f'{n:>7,}  {reason}' for reason, n in found.reasons.items())}" if found.rejections else "none"),
    ]
    details = [rejection for rejection in found.rejections if rejection.reason != MACOS]
    if details:
        parts.append("of these:\n" + _lines(f"  {rejection.path}: {rejection.reason}" for rejection in details))
    patients_leak, contents_leak = found.leaks.patients, found.leaks.contents
    parts.append(
        f"patients in more than one folder of the split: {len(patients_leak):,}"
        + (f" ({_some(patients_leak)})" if patients_leak else "")
        + f"\ncontents in more than one folder of the split: {len(contents_leak):,}"
    )
    two = found.two_classes
    parts.append(f"patient ids in more than one class: {len(two):,}" + _two_classes(two))
    same = found.equal_contents
    parts.append(
        f"scans with equal bytes: {sum(map(len, same)):,} in {len(same):,} sets"
        + (f"\n{_lines('  ' + ' = '.join(paths) for paths in same)}" if same else "")
    )
    return _printable("\n\n".join(parts))


def audited(src: Path, found: Audit) -> str:
    """What `octprep audit` prints: the verdict, everything found with its reason, and what it means."""
    labels = found.shortcuts.labels
    rows: list[list[object]] = [["scans (patients)", *labels, "all"]]
    for folder, counts in found.images.items():
        cells = (f"{counts[label]:,} ({found.patients[folder][label]:,})" for label in labels)
        rows.append([folder or "(no split folders)", *cells, sum(counts.values())])
    what, test = found.findings, found.shortcuts
    parts = [
        sentences.headline(found),
        f"{sentences.number(found.files, 'file')} in {_in(src, found.root)}: "
        f"{sentences.number(len(found.read), 'scan')} of "
        f"{sentences.number(found.ids, 'patient id')}, {len(found.rejections):,} unusable\n{sentences.version(found)}",
        table(rows),
        "\n".join(sentences.scarce(found)),
        _section("unusable files", [f"{n:,}  {why}" for why, n in found.reasons.items()], len(found.rejections)),
    ]
    if found.has_folders:
        parts += [
            _section("patients in more than one folder", [sentences.leak(one) for one in what.leaks]),
            _section("contents in more than one folder", [sentences.copies(one) for one in what.copies]),
            _section("near-identical pairs in more than one folder", [sentences.pair(one) for one in what.near]),
            *(["\n".join(sentences.shared(found))] if what.leaks or what.groups else []),
        ]
    parts += [
        _section("patient ids that count as one person", [sentences.gathered(one) for one in what.groups]),
        _section("contents under more than one class", [sentences.copies(one) for one in what.conflicts]),
        _section("near-identical pairs under two classes", [sentences.pair(one) for one in what.near_conflicts]),
        f"patient ids in more than one class: {len(what.two_classes):,}" + _two_classes(what.two_classes),
    ]
    if test.guesses:
        lines: list[list[object]] = [["class guessed from", "right", "95 % interval", "chance"]]
        lines += [
            [one.feature, f"{one.right:.0%}", f"{one.low:.0%} to {one.high:.0%}", f"{test.chance:.0%}"]
            for one in test.guesses
        ]
        parts.append(f"shortcuts, on patients not seen before (mean over the classes):\n{table(lines)}")
    parts += ["\n".join(sentences.shortcuts(test)), sentences.closing(found)]
    return _printable("\n\n".join(part for part in parts if part))


def certificate(verdict: VerificationResult) -> str:
    """One line that a paper can quote: what was proved, of which dataset. Only for a verdict without faults."""
    manifest = verdict.manifest
    counted = [
        f"{split} {sentences.number(count.images, 'image')} of {sentences.number(count.patients, 'patient')}"
        for split, count in verdict.counts.items()
    ]
    images = sum(count.images for count in verdict.counts.values())
    apart = "patients, file contents and stored pixels"
    if manifest.config.near_duplicates and verdict.too_small < images:
        but = f" (but for {verdict.too_small:,} images too small to compare)" if verdict.too_small else ""
        apart = f"patients, file contents and near-identical scans{but}"
    return visible(
        f"octprep {version('octprep')} certifies dataset sha256:{manifest.digest}: {', '.join(counted)}; {apart} "
        f"disjoint across splits, re-derived from {verdict.records:,} records."
    )


def verified(folder: Path, verdict: VerificationResult) -> str:
    """What `octprep verify` prints: each law with its verdict, each fault with its place, and what was not checked.

    Law 5 comes first where it is broken: what the records say cannot be trusted then.
    """
    by_law: dict[int, list[str]] = {law: [] for law in CHECKS}
    for fault in verdict.faults:
        by_law[fault.law].append(f"  {fault.where}: {fault.what}")
    lines = []
    for law in sorted(CHECKS, key=lambda law: (law != 5 or not by_law[5], law)):
        faults = by_law[law]
        state = "BROKEN" if faults else "open  " if law < 5 and verdict.unread else "holds "
        lines.append(f"law {law} {state}: {_what(law, verdict)}")
        lines += faults[:_MOST_FAULTS]
        if more := len(faults) - _MOST_FAULTS:
            lines += [f"  and {more:,} more"] * (more > 0)
    if verdict.unread:
        lines.append(f"not checked: whatever needs {_some(verdict.unread)}, which could not be read whole")
        if verdict.lost_rows:
            lines[-1] += f"; {sentences.number(verdict.lost_rows, 'row')} of {IMAGES_NAME} point there"
    lines.append(
        "in no record, so only looked at for what is possible: bytes, border, confidence and note in "
        f"{IMAGES_NAME}, what it says of files left out, and settings that leave no trace, such as the seed"
    )
    digest = verdict.manifest.digest
    if verdict.faults:
        lines.append(
            f"{_path(folder)}: {sentences.number(len(verdict.faults), 'fault')} in {verdict.records:,} records"
        )
    else:
        lines.append(f"{_path(folder)}: {verdict.records:,} records, all laws hold; dataset digest {digest}")
    return _printable("\n".join(lines))


def _what(law: int, verdict: VerificationResult) -> str:
    """A law in words, less what was not looked at."""
    if law == 1 and not verdict.manifest.config.near_duplicates:
        return (
            "no patient, no content and no equal stored pixels are in two splits; near-identical scans were not looked "
            "for"
        )
    if law == 1 and verdict.too_small:
        return f"{CHECKS[law]}; {sentences.number(verdict.too_small, 'image')} too small to be compared with others"
    return CHECKS[law]


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
