"""Scans with their pictures, as the page shows them: single ones, duplicate pairs, and excluded files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from octprep.duplicates.exact import DuplicatePair
from octprep.format.config import Preprocessing
from octprep.format.images_csv import ExcludedRow, ImageRow, Row
from octprep.format.manifest import IMAGES_NAME, Manifest
from octprep.html.pictures import Picture, SourceImages
from octprep.report import pictures, statistics
from octprep.report.pictures import LARGE, SMALL, THUMB, RecordPlaces, Steps, StoredScan
from octprep.report.statistics import ExclusionReason
from octprep.report.table import Images
from octprep.storage.remote import Location


@dataclass(frozen=True)
class ScanCard:
    """One scan with its pictures, and a value below them."""

    row: ImageRow
    steps: Steps
    value: str = ""


@dataclass(frozen=True)
class PairMember:
    """One scan of a pair: its patient, where it went, and its pictures with the name of each."""

    path: str
    patient: str  # "" if it is not known
    placement: str  # its split, or why it is in none
    pictures: tuple[tuple[str, Picture], ...]


@dataclass(frozen=True)
class PairCard:
    """A duplicate pair."""

    pair: DuplicatePair
    members: tuple[PairMember, PairMember]


@dataclass(frozen=True)
class Extremes:
    """The images with the most extreme values of one measurement."""

    title: str
    meaning: str
    cards: tuple[ScanCard, ...]


@dataclass(frozen=True)
class ExclusionCard:
    """A kind of exclusion reason, and pictures of some of its files."""

    reason: ExclusionReason
    thumbnails: tuple[tuple[str, Picture], ...]


@dataclass(frozen=True)
class Cards:
    """Makes the cards of one page."""

    source: SourceImages
    stored: Mapping[str, StoredScan]  # by path
    recipe: Preprocessing

    def sampled(self, row: ImageRow) -> ScanCard:
        """A large card with all steps."""
        return ScanCard(row, self._steps(row, LARGE, inpainted=True))

    def extreme(self, row: ImageRow, value: str) -> ScanCard:
        """A small card with the value that is extreme."""
        return ScanCard(row, self._steps(row, SMALL), value)

    def pair(self, pair: DuplicatePair, rows: Mapping[str, Row]) -> PairCard:
        """A duplicate pair; rows: of its scans, by path."""
        return PairCard(pair, (self._member(pair.first, rows), self._member(pair.second, rows)))

    def excluded(self, reason: ExclusionReason) -> ExclusionCard:
        """A kind of reason; only files that can be shown are pictured."""
        thumbnails = ((row.path, pictures.thumbnail(self.source, row, THUMB)) for row in reason.first)
        shown = ((path, picture) for path, picture in thumbnails if picture.uri)
        return ExclusionCard(reason, tuple(islice(shown, statistics.PICTURED)))

    def _member(self, path: str, rows: Mapping[str, Row]) -> PairMember:
        match rows.get(path):
            case ImageRow() as row:
                steps = self._steps(row, SMALL)
                source = [("Source", steps.source)] if self.source.folder is not None else []
                return PairMember(path, row.patient, f"in {row.split}", (*source, ("Stored", steps.stored)))
            case ExcludedRow() as row:
                picture = pictures.thumbnail(self.source, row, SMALL)
                patient = row.scan.patient if row.scan else ""
                return PairMember(path, patient, f"excluded: {row.exclusion_reason}", (("Source", picture),))
        return PairMember(path, "", f"not in {IMAGES_NAME}", ())

    def _steps(self, row: ImageRow, width: int, *, inpainted: bool = False) -> Steps:
        return pictures.steps(self.source, row, self.stored.get(row.path), self.recipe, width, inpainted=inpainted)


def build_cards(
    images: Images,
    pairs: Iterable[DuplicatePair],
    manifest: Manifest,
    shards: Location,
    source: SourceImages,
    sample: Mapping[str, Iterable[ImageRow]],
    places: RecordPlaces | None,
) -> dict[str, object]:
    """All cards of a page, by their names in the template.

    pairs: the duplicate pairs to show. sample: rows to show with all steps, by class. places: as for `read_stored`.
    """
    pairs, recipe = tuple(pairs), manifest.recipe
    in_pairs = rows_of_pairs(pairs, images)
    extremes = find_extremes(images, recipe)
    shown = {row for rows in sample.values() for row in rows} | {row for *_, rows in extremes for row, _ in rows}
    shown |= {row for row in in_pairs.values() if isinstance(row, ImageRow)}
    cards = Cards(source, pictures.read_stored(shards, shown, manifest, places), recipe)
    reasons = statistics.exclusion_reasons(images.excluded)
    return {
        "pairs": [cards.pair(pair, in_pairs) for pair in pairs],
        "sample": {label: [cards.sampled(row) for row in rows] for label, rows in sample.items()},
        "extremes": [
            Extremes(title, meaning, tuple(cards.extreme(row, value) for row, value in rows))
            for title, meaning, rows in extremes
        ],
        "exclusions": [cards.excluded(reason) for reason in reasons[: statistics.KINDS]],
        "more_reasons": max(len(reasons) - statistics.KINDS, 0),
    }


def rows_of_pairs(pairs: Iterable[DuplicatePair], images: Images) -> dict[str, Row]:
    """The rows of the scans of some pairs, by path."""
    paths = {path for pair in pairs for path in (pair.first, pair.second)}
    rows: tuple[Row, ...] = (*images.excluded, *images.kept)
    return {row.path: row for row in rows if row.path in paths}


def find_extremes(images: Images, recipe: Preprocessing) -> list[tuple[str, str, list[tuple[ImageRow, str]]]]:
    """The images most likely to be bad: a title, what it means, and the images with their values in words."""
    kept = images.kept
    located = kept if recipe.crop != "none" or recipe.flatten else ()
    filled = [row for row in kept if row.measurements.fill_fraction > 0]
    least_confident = statistics.lowest(located, lambda row: row.measurements.crop_confidence)
    most_fill = statistics.lowest(filled, lambda row: -row.measurements.fill_fraction)
    darkest = statistics.lowest(kept, lambda row: row.measurements.mean_intensity)
    blurred = statistics.lowest(kept, lambda row: row.measurements.sharpness)
    return [
        (
            "Lowest crop confidence",
            "Confidence of the retina detection, from 0 to 1; below 0.5 the crop does not follow it.",
            [(row, f"confidence {row.measurements.crop_confidence:.2f}") for row in least_confident],
        ),
        (
            "Most fill",
            "White or black areas left by rotation and shifting, as a fraction of the source.",
            [(row, f"{100 * row.measurements.fill_fraction:.1f} % fill") for row in most_fill],
        ),
        (
            "Darkest",
            "Mean gray level of the stored pixels, from 0 to 255.",
            [(row, f"mean {row.measurements.mean_intensity:.1f}") for row in darkest],
        ),
        (
            "Most blurred",
            "Row-to-row change of the smoothed stored pixels divided by their standard deviation; low is blurred.",
            [(row, f"sharpness {row.measurements.sharpness:.3f}") for row in blurred],
        ),
    ]
