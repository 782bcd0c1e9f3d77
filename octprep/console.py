"""Everything the commands of octprep print: results as plain text tables, progress bars, warnings."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import typer

from octprep import duplicates, terminal
from octprep.duplicates.file import DuplicatesFile
from octprep.format.errors import ManifestError, OutputError
from octprep.format.files import path_to_text
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, MANIFEST_NAME, REPORT_NAME, Manifest, read_part
from octprep.format.outputs import write as write_output_file
from octprep.html.text import visible
from octprep.inspection import Inspection
from octprep.inspection import text as sentences
from octprep.inspection.checks import headline, recommendation
from octprep.pipeline import BuildResult
from octprep.source.files import MACOS_METADATA
from octprep.splits import balance
from octprep.terminal.commands import verbosity
from octprep.verification import CHECKS, VerificationResult
from octprep.wording import listed, number
from octprep.workers import Progress

_MAX_LINES = 12  # of a list
_MAX_NAMES = 12  # in a sentence
_MAX_VIOLATIONS = 100  # of one guarantee


def say(
    text: str, *, always: bool = False, json_file: Path | None = None, json: Callable[[], bytes] | None = None
) -> None:
    """Print a result on standard output, unless --quiet is given; with --json FILE write what `json` makes there too.

    With --json - JSON alone goes to standard output, the text to standard error. That the reader of a pipe has closed
    it, as with `| head`, is no error. Raises OutputError if standard output or the file cannot be written.
    """
    to_stdout = json_file is not None and str(json_file) == "-"
    try:
        if always or not verbosity.quiet:
            typer.echo(text, err=to_stdout)
        if json is not None and to_stdout:
            typer.echo(json().decode(), nl=False)
    except BrokenPipeError:
        terminal.discard_stdout()
    except OSError as error:
        terminal.discard_stdout()
        raise OutputError(f"standard output cannot be written: {error.strerror or error}.") from None
    if json is not None and json_file is not None and not to_stdout:
        write_output_file("--json", json_file, json())


def warn(text: str) -> None:
    """Print a sentence on standard error."""
    terminal.warn(f"octprep: {text}")


@contextmanager
def progress_bars(unit: str) -> Iterator[Progress]:
    """A bar on standard error for each stage, with the rate and the time left.

    There is none where standard error is not a terminal, or with --quiet; with --verbose, a line for each stage is
    there instead.
    """
    from tqdm import tqdm

    bars: dict[str, tqdm[NoReturn]] = {}
    started = time.monotonic()

    def advance(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            close()
            if verbosity.verbose and not sys.stderr.isatty():
                warn(f"{stage} ({total:,} {unit}), {time.monotonic() - started:.1f} s after the start")
            disable = True if verbosity.quiet else None  # None: unless standard error is a terminal
            bars[stage] = tqdm(total=total, desc=stage, unit=unit, disable=disable, smoothing=0.05)
        bars[stage].update(done)

    def close() -> None:
        for bar in bars.values():
            bar.close()

    try:
        yield advance
    finally:
        close()


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


def build_summary(out: Path, result: BuildResult) -> str:
    """What `octprep build` prints when it is done."""
    manifest, counts = result.manifest, result.counts
    header = ["", *manifest.class_names, "records", "images", "patients", "shards", "MB"]
    rows = [
        [split, *manifest.per_class(split).values(), manifest.records(split), counts.images.get(split, 0),
         counts.patients.get(split, 0), len(shards), f"{sum(shard.bytes for shard in shards) / 1e6:,.1f}"]
        for split, shards in manifest.splits.items()
    ]  # fmt: skip
    reasons = [f"\n  {count:>7,}  {reason}" for reason, count in counts.excluded.items()]
    parts = [
        *([] if result.built else [_finished_already(out, result)]),
        table([header, *rows]),
        f"{number(counts.files, 'file')} found, {number(sum(counts.images.values()), 'image')} kept, "
        f"{sum(counts.excluded.values()):,} excluded{''.join(reasons)}",
        "\n".join(
            [
                leak_line(manifest),
                *duplicate_lines(out, manifest),
                *(f"shares: {balance.describe_deviation(deviation)}" for deviation in result.deviations),
                *balance.describe_few_patients(counts.patients_per_class),
            ]
        ),
        f"{'wrote' if result.built else 'there are'} {_path(out / MANIFEST_NAME)}, {_path(out / IMAGES_NAME)} and "
        f"{_path(out / REPORT_NAME)}; dataset digest {manifest.digest[:16]}\n"
        f"next: octprep verify {shlex.quote(str(out))}, then octtrain fit {shlex.quote(str(out))}",
    ]
    return _printable("\n\n".join(parts))


def _finished_already(out: Path, result: BuildResult) -> str:
    done = f"only {REPORT_NAME} was missing and was written" if result.report_written else "nothing was done"
    return f"{_path(out)} is finished already, from this source and with these settings; {done}."


def duplicate_lines(out: Path, manifest: Manifest) -> list[str]:
    """Which scans under different patient ids show the same, so that the ids count as one patient group."""
    recipe, lines = manifest.recipe, []
    if not manifest.config.near_duplicates:
        lines.append("near-identical scans under different patient ids: not searched for (--no-near-duplicates)")
    elif recipe.height * recipe.width < duplicates.MIN_PIXELS:
        lines.append(
            "near-identical scans under different patient ids: not searched for, as images of "
            f"{recipe.height}x{recipe.width} pixels are too small to distinguish patients "
            f"({duplicates.MIN_PIXELS:,} pixels are enough)"
        )
    try:
        pairs = DuplicatesFile.from_json(read_part(out / DUPLICATES_NAME)).pairs
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{_path(out / DUPLICATES_NAME)} cannot be read ({error}). Run `octprep verify {_path(out)}`."
        ) from None
    if not pairs:
        return lines or ["no duplicates under different patient ids"]
    reasons = Counter(pair.reason for pair in pairs)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    return [
        *lines,
        f"duplicate pairs under different patient ids, which then count as one patient: {counts} (all in "
        f"{DUPLICATES_NAME})",
        _lines(
            visible(f"  {pair.first} = {pair.second}: {pair.reason}, correlation {pair.correlation:.2f}")
            for pair in pairs
        ),
    ]


def leak_line(manifest: Manifest) -> str:
    """Whether a patient or an image content is in more than one split."""
    leaks = manifest.leaks
    if not leaks:
        return f"split {manifest.config.split}: no patient and no image content is in two splits"
    pairs = [" = ".join(pair) for pair in leaks.near]
    shared = [
        [f"{number(len(leaks.patients), 'patient')} ({_some(leaks.patients)})"] * bool(leaks.patients),
        [number(len(leaks.contents), "image content")] * bool(leaks.contents),
        [f"{number(len(pairs), 'near-identical pair')} ({_some(pairs, 5)})"] * bool(pairs),
    ]
    names = listed([text for texts in shared for text in texts])
    return f"LEAKY: in two splits: {visible(names)}. Results on these shards will look better than they are."


def inspection_summary(src: Path, inspection: Inspection) -> str:
    """What `octprep inspect` prints."""
    return _quick_summary(src, inspection) if inspection.pixels is None else _full_summary(src, inspection)


def _quick_summary(src: Path, inspection: Inspection) -> str:
    parts = [
        f"{number(inspection.file_count, 'file')} in {_in(src, inspection.root)}: "
        f"{number(len(inspection.scans), 'scan')}, "
        f"{len(inspection.exclusions):,} excluded",
        _counts(inspection),
        f"published version: {inspection.published or 'the counts match none that is known'}",
        f"sizes (width x height): {_some([f'{size} {count:,}' for size, count in inspection.sizes.items()], 8)}",
        "excluded: "
        + (
            f"\n{_lines(f'{count:>7,}  {reason}' for reason, count in inspection.exclusion_reasons.items())}"
            if inspection.exclusions
            else "none"
        ),
    ]
    details = [exclusion for exclusion in inspection.exclusions if exclusion.reason != MACOS_METADATA]
    if details:
        parts.append("of these:\n" + _lines(f"  {exclusion.path}: {exclusion.reason}" for exclusion in details))
    leaks = [leak.patient for leak in inspection.findings.patient_leaks]
    parts.append(
        f"patients in more than one folder of the split: {len(leaks):,}"
        + (f" ({_some(leaks)})" if leaks else "")
        + f"\ncontents in more than one folder of the split: {len(inspection.findings.content_leaks):,}"
    )
    several = inspection.findings.patients_in_several_classes
    parts.append(f"patient ids in more than one class: {len(several):,}" + _two_classes(several))
    same = [[scan.path for scan in duplicates.scans] for duplicates in inspection.findings.duplicates]
    parts.append(
        f"scans with equal bytes: {sum(map(len, same)):,} in {len(same):,} sets"
        + (f"\n{_lines('  ' + ' = '.join(paths) for paths in same)}" if same else "")
    )
    return _printable("\n\n".join(parts))


def _counts(inspection: Inspection) -> str:
    rows: list[list[object]] = [["scans (patients)", *inspection.labels, "all"]]
    for folder, counts in inspection.images.items():
        cells = (f"{counts[label]:,} ({inspection.patients[folder][label]:,})" for label in inspection.labels)
        rows.append([folder or "(no split folders)", *cells, sum(counts.values())])
    return table(rows)


def _full_summary(src: Path, inspection: Inspection) -> str:
    """The headline, all findings with their reasons, and what they mean."""
    assert inspection.pixels is not None
    findings, test = inspection.findings, inspection.pixels.shortcuts
    parts = [
        headline(inspection),
        f"{number(inspection.file_count, 'file')} in {_in(src, inspection.root)}: "
        f"{number(len(inspection.scans), 'scan')} of "
        f"{number(inspection.patient_count, 'patient id')}, {len(inspection.exclusions):,} excluded\n"
        f"{sentences.published_sentence(inspection)}",
        _counts(inspection),
        "\n".join(sentences.few_patients_sentences(inspection)),
        _section(
            "excluded files",
            [f"{n:,}  {why}" for why, n in inspection.exclusion_reasons.items()],
            len(inspection.exclusions),
        ),
    ]
    if inspection.has_splits:
        parts += [
            _section(
                "patients in more than one folder", [sentences.format_leak(leak) for leak in findings.patient_leaks]
            ),
            _section(
                "contents in more than one folder", [sentences.format_duplicates(x) for x in findings.content_leaks]
            ),
            _section(
                "near-identical pairs in more than one folder",
                [sentences.format_pair(pair) for pair in findings.near_duplicate_leaks],
            ),
            *(
                ["\n".join(sentences.overlap_sentences(inspection))]
                if findings.patient_leaks or findings.merged_ids
                else []
            ),
        ]
    parts += [
        _section("merged patient ids", [sentences.format_merged_ids(merged) for merged in findings.merged_ids]),
        _section(
            "contents under more than one class", [sentences.format_duplicates(x) for x in findings.label_conflicts]
        ),
        _section(
            "near-identical pairs under two classes",
            [sentences.format_pair(pair) for pair in findings.near_duplicate_conflicts],
        ),
        f"patient ids in more than one class: {len(findings.patients_in_several_classes):,}"
        + _two_classes(findings.patients_in_several_classes),
    ]
    if test.accuracies:
        lines: list[list[object]] = [["shortcut features", "balanced accuracy", "95 % interval", "chance"]]
        lines += [
            [one.feature, f"{one.balanced_accuracy:.0%}", f"{one.low:.0%} to {one.high:.0%}", f"{test.chance:.0%}"]
            for one in test.accuracies
        ]
        parts.append(f"class predicted from one number of a scan, on held-out patients:\n{table(lines)}")
    parts += ["\n".join(sentences.shortcut_sentences(test)), recommendation(inspection)]
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


def verification_summary(folder: Path, result: VerificationResult) -> str:
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
        lines += violations[:_MAX_VIOLATIONS]
        if more := len(violations) - _MAX_VIOLATIONS:
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
            "no patient, no content and no equal stored pixels are in two splits; near-identical scans were not "
            "searched for"
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
    return f" ({_some([f'{patient}: {listed(labels)}' for patient, labels in two.items()])})"


def _path(path: Path) -> str:
    """A path of this machine on one line, whatever bytes its name has."""
    return path_to_text(str(path))


def quoted(path: Path) -> str:
    """A path of this machine for a command to copy: on one line, quoted for the shell."""
    return shlex.quote(_path(path))


def _in(src: Path, root: str) -> str:
    """A folder in the source; root is text already."""
    return f"{_path(src)}/{root}" if root else _path(src)


def _printable(text: str) -> str:
    """The lines of a text without what a terminal would obey or hide."""
    return "\n".join(map(visible, text.split("\n")))


def _some(names: Sequence[str], limit: int = _MAX_NAMES) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def _lines(lines: Iterable[str]) -> str:
    lines = list(lines)
    more = [f"  and {len(lines) - _MAX_LINES:,} more"] if len(lines) > _MAX_LINES else []
    return "\n".join(lines[:_MAX_LINES] + more)
