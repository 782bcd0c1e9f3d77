"""The page: everything that was counted, judged, drawn and pictured, laid out by the template in one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jinja2
from markupsafe import Markup

from octprep import duplicates
from octprep.duplicates.exact import DuplicatePair
from octprep.duplicates.file import DuplicatesFile
from octprep.format.config import Preprocessing
from octprep.format.images_csv import ExcludedRow, ImageRow
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, Manifest
from octprep.html import charts as html_charts
from octprep.html import page
from octprep.report import checks, command, pictures, recipe, statistics
from octprep.report import duplicates as duplicate_pairs
from octprep.report import table as images_table
from octprep.report.pictures import Picture, SourceImages, Steps
from octprep.report.statistics import Histogram, Reason
from octprep.report.table import Images


@dataclass(frozen=True)
class Strip:
    """One scan with its pictures, and what is to be said below them."""

    image: ImageRow
    steps: Steps
    value: str = ""


@dataclass(frozen=True)
class WorstCases:
    """A list of the images that are most likely to be bad in one way."""

    title: str
    meaning: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Chart:
    """A histogram, and how it is to be read."""

    title: str
    figure: Markup
    found: Histogram
    form: Callable[[float], str]  # of a value in the table below it


@dataclass(frozen=True)
class Refused:
    """A reason for leaving files out, and some pictures of such files."""

    reason: Reason
    thumbnails: tuple[tuple[str, Picture], ...]


@dataclass(frozen=True)
class Side:
    """One scan of a pair: whose it is, where it went, and its pictures with what each is."""

    path: str
    patient: str  # "" if it is not known
    place: str  # its split, or why it is in none
    shown: tuple[tuple[str, Picture], ...]


@dataclass(frozen=True)
class Pair:
    """Two scans that are taken for one person's, and why."""

    join: DuplicatePair
    sides: tuple[Side, Side]


def render(shards: Path, manifest: Manifest, table: bytes | None, joins: bytes | None, source: SourceImages) -> bytes:
    """The report in UTF-8. It depends on its arguments and the files they name: no clock, no path of this machine.

    shards: the folder that the shards' names are relative to. table: images.csv, joins: duplicates.json; None if it cannot
    be read.
    """
    found, readable = _read(table, manifest)
    together = _read_joins(joins)
    style, script = page.asset("page.css"), page.asset("page.js")
    text = (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=Markup(page.policy(style, script)),
            manifest=manifest,
            labels=manifest.class_names,
            rows=found,
            readable=readable,
            verdict=checks.judge(
                found,
                table if readable else None,
                joins if together else None,
                manifest,
                checks.missing_shards(shards, manifest),
            ),
            **_numbers(found, manifest, readable),
            **_joined(found, together, manifest),
            **_pictures(found, together, manifest, shards, source),
            recipe=recipe.lines(manifest.config),
            command=command.command(manifest.config),
            unsaid=command.unsaid(manifest.config),
        )
    )
    return text.encode()


def _numbers(found: Images, manifest: Manifest, readable: bool) -> dict[str, object]:
    """Everything counted, and its figures; of an images.csv that is not readable only what the manifest says."""
    kept, labels = found.kept, manifest.class_names
    counted = statistics.counts(kept, manifest)
    if not readable:
        counted = tuple(line for line in counted if line.what == "records")
    title, axis = "Images per patient, by class", "images of one patient"
    return {
        "patients": len({image.patient for image in kept}),
        "counts": counted,
        "gaps": statistics.gaps(counted, labels),
        "mix": html_charts.shares("mix", "Share of each class in each split", statistics.class_mix(counted), labels),
        "per_patient": html_charts.histogram("per-patient", title, axis, statistics.per_patient(kept, labels), labels),
        "largest": statistics.largest_patients(kept),
        "sizes": statistics.sizes(kept, labels),
        "charts": _charts(found, labels),
    }


def _joined(found: Images, together: DuplicatesFile | None, manifest: Manifest) -> dict[str, object]:
    """What there is to say about scans that are taken for one person's."""
    apart = together.distances if together else None
    ids, people = duplicate_pairs.people(found)
    return {
        "together": together,
        "numbers": duplicate_pairs.numbers(together) if together else {},
        "looked": manifest.config.near_duplicates,
        "too_small": manifest.recipe.height * manifest.recipe.width < duplicates.MIN_PIXELS,
        "smallest": duplicates.MIN_PIXELS,
        "joined_ids": ids,
        "joined_people": people,
        "sampled": duplicate_pairs.sampled(apart) if apart else "",
        "distances": html_charts.distances(
            "distances", "Distances of descriptors within and between patients", "distance of two descriptors", apart
        )
        if apart
        else "",
    }


def _pictures(
    found: Images, together: DuplicatesFile | None, manifest: Manifest, shards: Path, source: SourceImages
) -> dict[str, object]:
    """Everything shown: joined scans, the sample, the worst cases, and what was left out."""
    joins = duplicate_pairs.shown(together.pairs) if together else ()
    joined = duplicate_pairs.scans(joins, found)
    sample = statistics.fair_sample(found.kept, manifest)
    worst = _worst(found, manifest.recipe)
    shown = {image for part in sample.values() for image in part} | {image for *_, part, _ in worst for image in part}
    shown |= {scan for scan in joined.values() if isinstance(scan, ImageRow)}
    kept = pictures.stored(shards, shown, manifest.recipe)

    def strip(image: ImageRow, width: int, value: str = "", *, cleaned: bool = False) -> Strip:
        steps = pictures.steps(source, image, kept.get(image.path), manifest.recipe, width, cleaned=cleaned)
        return Strip(image, steps, value)

    def side(path: str) -> Side:
        match joined.get(path):
            case ImageRow() as image:
                steps = pictures.steps(source, image, kept.get(path), manifest.recipe, pictures.SMALL, cleaned=False)
                before = [("Source", steps.source)] if source.folder is not None else []
                return Side(path, image.patient, f"in {image.split}", (*before, ("Stored", steps.stored)))
            case ExcludedRow() as left:
                before = [("Source", pictures.thumbnail(source, left, pictures.SMALL))]
                return Side(
                    path, left.scan.patient if left.scan else "", f"left out: {left.exclusion_reason}", tuple(before)
                )
        return Side(path, "", f"not in {IMAGES_NAME}", ())

    reasons = statistics.reasons(found)
    return {
        "with_source": source.folder is not None,
        "joined": [Pair(join, (side(join.first), side(join.second))) for join in joins],
        "sample": {
            label: [strip(image, pictures.LARGE, cleaned=True) for image in part] for label, part in sample.items()
        },
        "worst": [
            WorstCases(title, meaning, tuple(strip(image, pictures.SMALL, say(image)) for image in part))
            for title, meaning, part, say in worst
        ],
        "refused": [_refused(reason, source) for reason in reasons[: statistics.KINDS]],
        "more_reasons": max(len(reasons) - statistics.KINDS, 0),
    }


def _read(table: bytes | None, manifest: Manifest) -> tuple[Images, bool]:
    """The rows of images.csv, and whether there were any to read."""
    try:
        if table is not None:
            return images_table.read(table, manifest), True
    except ValueError:
        pass
    return Images(), False


def _read_joins(joins: bytes | None) -> DuplicatesFile | None:
    """What duplicates.json holds, or None if it cannot be read."""
    try:
        return None if joins is None else DuplicatesFile.from_json(joins)
    except ValueError:
        return None


def _charts(found: Images, labels: tuple[str, ...]) -> list[Chart]:
    charts = []
    for key, title, axis, value, log, form in (
        ("mean", "Brightness", "mean gray level of the stored pixels, 0 to 255", _mean, False, "{:.1f}"),
        ("deviation", "Contrast", "standard deviation of the stored pixels, gray levels", _deviation, False, "{:.1f}"),
        ("sharpness", "Sharpness", "row-to-row change beside the deviation", _sharpness, False, "{:.3f}"),
        ("bytes", "Size of the source file", "bytes, logarithmic", _bytes, True, "{:,.0f}"),
    ):
        histogram = statistics.histogram(found.kept, labels, value, log=log)
        figure = html_charts.histogram(key, f"{title} by class", axis, histogram, labels)
        charts.append(Chart(title, figure, histogram, form.format))
    border = statistics.border(found.kept, labels)
    figure = html_charts.histogram(
        "border", "Fill at the border by class", "fill, percent of the source", border, labels
    )
    return [*charts, Chart("Fill at the border", figure, border, "{:.1%}".format)]


def _worst(
    found: Images, recipe: Preprocessing
) -> list[tuple[str, str, tuple[ImageRow, ...], Callable[[ImageRow], str]]]:
    """What each list is called, what it means, who is in it, and what is said of each."""
    searched = recipe.crop == "retina" or recipe.flatten
    filled = [image for image in found.kept if image.measurements.fill_fraction > 0]
    return [
        (
            "Lowest crop confidence",
            "How sure the search for the retina was, from 0 to 1; below 0.5 all rows are kept.",
            statistics.worst(found.kept, _confidence) if searched else (),
            lambda image: f"confidence {image.measurements.crop_confidence:.2f}",
        ),
        (
            "Most fill at the border",
            "White or black areas that rotation and shifting left, as a share of the source.",
            statistics.worst(filled, lambda image: -image.measurements.fill_fraction),
            lambda image: f"{100 * image.measurements.fill_fraction:.1f} % fill",
        ),
        (
            "Darkest",
            "Mean gray level of the stored pixels, from 0 to 255.",
            statistics.worst(found.kept, _mean),
            lambda image: f"mean {image.measurements.mean_intensity:.1f}",
        ),
        (
            "Most blurred",
            "Row-to-row change of the smoothed stored pixels beside their deviation; lower is more blurred.",
            statistics.worst(found.kept, _sharpness),
            lambda image: f"sharpness {image.measurements.sharpness:.3f}",
        ),
    ]


def _refused(reason: Reason, source: SourceImages) -> Refused:
    """A kind of reason with some of its files; only those that can be shown are pictured."""
    drawn = ((left.path, pictures.thumbnail(source, left, pictures.THUMB)) for left in reason.first)
    shown = ((path, picture) for path, picture in drawn if picture.uri)
    return Refused(reason, tuple(islice(shown, statistics.PICTURED)))


def _mean(image: ImageRow) -> float:
    return image.measurements.mean_intensity


def _deviation(image: ImageRow) -> float:
    return image.measurements.std_intensity


def _sharpness(image: ImageRow) -> float:
    return image.measurements.sharpness


def _confidence(image: ImageRow) -> float:
    return image.measurements.crop_confidence


def _bytes(image: ImageRow) -> float:
    return image.bytes


def _environment() -> jinja2.Environment:
    environment = page.environment("octprep.report")
    environment.globals["images_name"] = IMAGES_NAME
    environment.globals["joins_name"] = DUPLICATES_NAME
    return environment
