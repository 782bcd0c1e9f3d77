"""The page: counts, checks, charts and pictures, laid out by the template in one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from octprep import duplicates
from octprep.duplicates.duplicates_json import DuplicatesFile
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import DUPLICATES_NAME, IMAGES_NAME, Manifest
from octprep.html import charts, page
from octprep.html.charts import Row
from octprep.html.pictures import SourceImages
from octprep.report import checks, histograms, settings, statistics
from octprep.report import duplicates as duplicate_pairs
from octprep.report import table as images_table
from octprep.report.cards import build_cards
from octprep.report.histograms import Histogram
from octprep.report.pictures import RecordPlaces
from octprep.report.table import Images
from octprep.storage.remote import Location
from octprep.wording import number


@dataclass(frozen=True)
class Chart:
    """A histogram, and how the values in the table below it are written."""

    title: str
    figure: Markup
    histogram: Histogram
    format_value: Callable[[float], str]


def render(
    shards: Location,
    manifest: Manifest,
    table: bytes | None,
    pairs: bytes | None,
    source: SourceImages,
    places: RecordPlaces | None = None,
    *,
    is_checked: bool = False,
) -> bytes:
    """The report in UTF-8. It depends on its arguments and the files they name: no clock, no path of this machine.

    shards: the folder or URL that the shards' names are relative to. table: images.csv, pairs: duplicates.json; None if
    it cannot be read. places: where the records of images are in the shards, which a URL needs; else these are
    searched. is_checked: table is what `octprep.format.images_csv.encode` gave.
    """
    images = _read_table(table, manifest, is_checked=is_checked)
    duplicates_file = _read_duplicates(pairs)
    style, script = page.asset("page.css"), page.asset("page.js")
    results = checks.evaluate_checks(
        images or Images(),
        table if images else None,
        pairs if duplicates_file else None,
        manifest,
        checks.missing_shards(shards, manifest),
    )
    text = (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=Markup(page.policy(style, script)),
            manifest=manifest,
            labels=manifest.class_names,
            images=images or Images(),
            readable=images is not None,
            with_source=source.folder is not None,
            results=results,
            **_counts_section(images, manifest),
            **_duplicates_section(images or Images(), duplicates_file, manifest),
            **_shortcuts_section(images or Images(), manifest.class_names),
            **build_cards(
                images or Images(),
                duplicate_pairs.least_similar(duplicates_file.pairs) if duplicates_file else (),
                manifest,
                shards,
                source,
                statistics.sample_patients(images.kept if images else (), manifest),
                places,
            ),
            recipe=settings.in_words(manifest.config),
            command=settings.command(manifest.config),
        )
    )
    return text.encode()


def _read_table(table: bytes | None, manifest: Manifest, *, is_checked: bool) -> Images | None:
    """The rows of images.csv, or None if it cannot be read."""
    try:
        return None if table is None else images_table.read(table, manifest, is_checked=is_checked)
    except ValueError:
        return None


def _read_duplicates(pairs: bytes | None) -> DuplicatesFile | None:
    """What duplicates.json holds, or None if it cannot be read."""
    try:
        return None if pairs is None else DuplicatesFile.from_json(pairs)
    except ValueError:
        return None


def _counts_section(images: Images | None, manifest: Manifest) -> dict[str, object]:
    """Counts by split and class; without images.csv, only those of the manifest."""
    kept, labels = images.kept if images else (), manifest.class_names
    counts = statistics.counts(kept, manifest)
    if images is None:
        counts = tuple(line for line in counts if line.what == "records")
    rows = [Row(split, "", shares, None) for split, shares in statistics.class_shares(counts).items()]
    title = "Images per patient, by class"
    return {
        "patients": len({row.patient for row in kept}),
        "counts": counts,
        "absent_classes": statistics.absent_classes(counts, labels),
        "class_shares": charts.shares("mix", "Share of each class in each split", labels, rows),
        "per_patient": _binned_chart(
            "per-patient", title, "images of one patient", histograms.per_patient(kept, labels), labels
        ),
        "largest": statistics.largest_patients(kept),
    }


def _duplicates_section(images: Images, file: DuplicatesFile | None, manifest: Manifest) -> dict[str, object]:
    """The values of the section on merged patient ids."""
    return {
        "duplicates": duplicate_pairs.summarise(file, images) if file else None,
        "searched": manifest.config.near_duplicates,
        "too_small": manifest.recipe.height * manifest.recipe.width < duplicates.MIN_PIXELS,
        "smallest": duplicates.MIN_PIXELS,
    }


def _shortcuts_section(images: Images, labels: tuple[str, ...]) -> dict[str, object]:
    """The values of the section on shortcut features."""
    measured: list[tuple[str, str, str, Callable[[ImageRow], float], str]] = [
        (
            "mean",
            "Brightness",
            "mean gray level of the stored pixels, 0 to 255",
            lambda row: row.measurements.mean_intensity,
            "{:.1f}",
        ),
        (
            "std",
            "Contrast",
            "standard deviation of the stored pixels, gray levels",
            lambda row: row.measurements.std_intensity,
            "{:.1f}",
        ),
        (
            "sharpness",
            "Sharpness",
            "row-to-row change divided by the standard deviation",
            lambda row: row.measurements.sharpness,
            "{:.3f}",
        ),
        ("bytes", "Size of the source file", "bytes, logarithmic", lambda row: row.bytes, "{:,.0f}"),
    ]
    figures = []
    for key, title, axis_title, value, form in measured:
        histogram = histograms.histogram(images.kept, labels, value, log=key == "bytes")
        figure = _histogram_chart(key, f"{title} by class", axis_title, histogram, labels)
        figures.append(Chart(title, figure, histogram, form.format))
    fill = histograms.fill_fractions(images.kept, labels)
    figure = _binned_chart("fill", "Fill by class", "fill, percent of the source", fill, labels)
    figures.append(Chart("Fill", figure, fill, "{:.1%}".format))
    return {"sizes": statistics.sizes(images.kept, labels), "charts": figures}


def _histogram_chart(key: str, title: str, axis_title: str, histogram: Histogram, labels: tuple[str, ...]) -> Markup:
    rows = [
        Row(label, number(quantiles.count, "image"), shares, labels.index(label), median)
        for (label, shares), quantiles, median in zip(
            histogram.shares.items(), histogram.quantiles, histogram.medians, strict=True
        )
    ]
    desc = "; ".join(f"{quantiles.label}: median {quantiles.median:,.4g}" for quantiles in histogram.quantiles)
    return charts.histogram(key, title, desc, axis_title, rows, histogram.ticks, histogram.overall)


def _binned_chart(key: str, title: str, axis_title: str, histogram: Histogram, labels: tuple[str, ...]) -> Markup:
    rows = [Row(label, "", shares, labels.index(label)) for label, shares in histogram.shares.items()]
    names = [name for _, name in histogram.ticks]
    return charts.shares(key, title, names, rows, histogram.overall, axis_title)


def _environment() -> jinja2.Environment:
    environment = page.environment("octprep.report")
    environment.globals["images_name"] = IMAGES_NAME
    environment.globals["duplicates_name"] = DUPLICATES_NAME
    return environment
