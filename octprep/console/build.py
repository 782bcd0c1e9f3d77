"""What `octprep build` prints: the counts of each split, leaks, duplicate pairs, and class shares."""

from __future__ import annotations

from collections import Counter

from octprep import duplicates
from octprep.console.layout import indented, printable, quoted, shown_path, table
from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.format.errors import ManifestError
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, MANIFEST_NAME, REPORT_NAME, Manifest, read_folder_file
from octprep.format.record_index import INDEX_NAME
from octprep.html.text import visible
from octprep.pipeline import BuildResult
from octprep.source.files import WITHOUT_ID
from octprep.splits import deviations
from octprep.splits.leaks import describe_leaks
from octprep.splits.patients import describe_without_id
from octprep.storage.remote import Location, RemoteFolder
from octprep.wording import listed, number


def build_summary(out: Location, result: BuildResult) -> str:
    """What `octprep build` prints when it is done."""
    manifest, counts = result.manifest, result.counts
    header = ["", *manifest.class_names, "records", "images", "patients", "shards", "MB"]
    rows = [
        [split, *manifest.per_class(split).values(), manifest.records(split), counts.images.get(split, 0),
         counts.patients.get(split, 0), len(shards), f"{sum(shard.bytes for shard in shards) / 1e6:,.1f}"]
        for split, shards in manifest.splits.items()
    ]  # fmt: skip
    reasons = [f"\n  {count:>7,}  {reason}" for reason, count in counts.excluded.items()]
    files = listed([shown_path(out / name) for name in (MANIFEST_NAME, IMAGES_NAME, REPORT_NAME)])
    paragraphs = [
        *([] if result.built else [_finished_already(out, result)]),
        table([header, *rows]),
        f"{number(counts.files, 'file')} found, {number(sum(counts.images.values()), 'image')} kept, "
        f"{sum(counts.excluded.values()):,} excluded{''.join(reasons)}",
        "\n".join(
            [
                leak_line(manifest),
                *duplicate_lines(out, manifest),
                *(f"shares: {deviations.describe_deviation(deviation)}" for deviation in result.deviations),
                *deviations.describe_few_patients(counts.patients_per_class),
            ]
        ),
        f"{'wrote' if result.built else 'there are'} {files}; dataset digest {manifest.digest[:16]}\n"
        f"next: octprep verify {quoted(out)}, then {next_of_octtrain(out, manifest)}",
    ]
    return printable("\n\n".join(paragraphs))


def build_warning(result: BuildResult) -> str:
    """What `octprep build` warns of when it is done: scans without a patient id; "" if there is none."""
    without_id = result.counts.excluded.get(WITHOUT_ID, 0)
    return describe_without_id(without_id, result.counts.files) if without_id else ""


def next_of_octtrain(folder: Location, manifest: Manifest) -> str:
    """The command of octtrain that a folder of shards is for."""
    if manifest.config.is_test_only:
        return f"octtrain evaluate RUN --dataset {quoted(folder)}"
    return f"octtrain fit {quoted(folder)}"


def _finished_already(out: Location, result: BuildResult) -> str:
    missing = [REPORT_NAME] * result.report_written + [f"the folder {INDEX_NAME}"] * result.index_written
    done = f"only {listed(missing)} had to be written" if missing else "nothing was done"
    return f"{shown_path(out)} is finished already, from this source and with these settings; {done}."


def duplicate_lines(out: Location, manifest: Manifest) -> list[str]:
    """The duplicate pairs under different patient ids, which count as one patient group."""
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
        pairs = DuplicatesFile.from_json(_read_table(out, DUPLICATES_NAME)).pairs
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{shown_path(out / DUPLICATES_NAME)} cannot be read ({error}). Run `octprep verify {shown_path(out)}`."
        ) from None
    if not pairs:
        return lines or ["no duplicates under different patient ids"]
    reasons = Counter(pair.reason for pair in pairs)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    return [
        *lines,
        f"duplicate pairs under different patient ids, which then count as one patient: {counts} (all in "
        f"{DUPLICATES_NAME})",
        indented(
            visible(f"{pair.first} = {pair.second}: {pair.reason}, correlation {pair.correlation:.2f}")
            for pair in pairs
        ),
    ]


def _read_table(out: Location, name: str) -> bytes:
    return out.read(name) if isinstance(out, RemoteFolder) else read_folder_file(out / name)


def leak_line(manifest: Manifest) -> str:
    """Whether a patient or an image content is in more than one split."""
    if not manifest.leaks:
        limit = f"; {manifest.unknown_patients}" if manifest.unknown_patients else ""
        return f"split {manifest.config.split}: no patient and no image content is in two splits{limit}"
    leaks = visible(describe_leaks(manifest.leaks))
    return f"LEAKY: in two splits: {leaks}. Results on these shards will look better than they are."
