"""What the commands print: plain text tables of what was found, built and proved."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from octprep import images
from octprep.scan import MACOS, kind
from octprep.schema import IMAGES_NAME, MANIFEST_NAME, REPORT_NAME, Manifest, ManifestError
from octprep.survey import Survey
from octprep.verify import LAWS, Verdict

_MOST = 12  # lines of a list before it is cut


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


def built(out: Path, manifest: Manifest) -> str:
    """The closing words of `octprep build`."""
    try:
        rows = images.read((out / IMAGES_NAME).read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(f"{out / IMAGES_NAME} cannot be read ({error}). Run `octprep verify {out}`.") from None
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
    parts = [
        table([*lines, *body]),
        f"{len(rows):,} files found, {sum(kept.values()):,} images kept, {sum(left_out.values()):,} left out"
        + "".join(f"\n  {number:>7,}  {reason}" for reason, number in left_out.most_common()),
        leak_line(manifest),
        f"wrote {out / MANIFEST_NAME}, {out / IMAGES_NAME} and {out / REPORT_NAME}; "
        f"dataset digest {manifest.digest[:16]}",
    ]
    return "\n\n".join(parts)


def leak_line(manifest: Manifest) -> str:
    """Whether the splits share anyone."""
    leaks = manifest.leaks
    if not leaks:
        return f"split {manifest.config.split}: no patient and no image content is in two splits"
    return (
        f"LEAKY: {len(leaks.patients):,} patients and {len(leaks.contents):,} image contents are in two splits "
        f"({_some(leaks.patients)}). Results on these shards will look better than they are."
    )


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
        f"{found.files:,} files in {src / found.root}: {len(found.scans):,} scans, {len(found.rejections):,} unusable",
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
    return "\n\n".join(parts)


def verified(folder: Path, verdict: Verdict) -> str:
    """What `octprep verify` prints: each law with its verdict, each fault with its place."""
    by_law: dict[int, list[str]] = {law: [] for law in LAWS}
    for fault in verdict.faults:
        by_law[fault.law].append(f"  {fault.where}: {fault.what}")
    lines = []
    for law, faults in by_law.items():
        lines.append(f"law {law} {'BROKEN' if faults else 'holds '}: {LAWS[law]}")
        lines += faults
    digest = verdict.manifest.digest
    if verdict.faults:
        lines.append(f"{folder}: {len(verdict.faults):,} faults in {verdict.records:,} records")
    else:
        lines.append(f"{folder}: {verdict.records:,} records, all laws hold; dataset digest {digest}")
    return "\n".join(lines)


def _two_classes(two: Mapping[str, Sequence[str]]) -> str:
    if not two:
        return ""
    listed = [f"{patient}: {' and '.join(labels)}" for patient, labels in two.items()]
    return f" ({_some(listed)})"


def _some(names: Sequence[str], most: int = _MOST) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _lines(lines: Iterable[str]) -> str:
    listed = list(lines)
    return "\n".join(listed[:_MOST] + ([f"  and {len(listed) - _MOST:,} more"] if len(listed) > _MOST else []))
