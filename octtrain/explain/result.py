"""One explained scan, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format.paths import path_to_text
from octprep.preprocessing import PreprocessedImage
from octtrain.explain import drawing
from octtrain.explain.explainer import Explainer, Explanation
from octtrain.explain.field import ReceptiveField
from octtrain.explain.occlusion import Patches, occlusion, rank_correlation
from octtrain.explain.source import at_source, over_stored
from octtrain.prediction.inputs import label_from_path

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ExplainedScan:
    """A scan and what a model makes of it."""

    path: Path
    picture: str  # the name of its PNG
    source: NDArray[np.uint8]  # (rows, columns)
    stored: PreprocessedImage
    class_names: tuple[str, ...]
    label: int  # of the class that is explained
    explanation: Explanation
    field: ReceptiveField | None  # of the middle place
    patches: Patches | None
    fallen: Float64 | None  # occlusion: how much the logit falls under each patch

    @property
    def field_size(self) -> tuple[float, float] | None:
        """The height and width that a place sees, in source pixels."""
        if self.field is None:
            return None
        scale = self.stored.geometry.affine
        height, width = self.field.size
        return round(height * scale[4], 1), round(width * scale[0], 1)

    @property
    def class_name(self) -> str:
        """The class that is explained."""
        return self.class_names[self.label]

    @property
    def prediction(self) -> str:
        """The most probable class."""
        return self.class_names[int(self.explanation.probabilities.argmax())]

    @property
    def places(self) -> Float64 | None:
        """The evidence for the class at each place, (rows, columns), where the model has it."""
        found = self.explanation.evidence
        return None if found is None else found.places[..., self.label]

    @property
    def correlation(self) -> float | None:
        """The rank correlation of evidence and occlusion over the patches; None where one is missing or constant."""
        if self.places is None or self.patches is None or self.fallen is None:
            return None
        shape = self.stored.pixels.shape
        return rank_correlation(self.patches.mean_within(over_stored(self.places, shape)), self.fallen)

    def as_json(self) -> dict[str, Any]:
        """All numbers, for json.dumps; docs/explain.md names the keys."""
        geometry, logits = self.stored.geometry, self.explanation.logits
        content: dict[str, Any] = {
            "path": path_to_text(self.path.as_posix()),
            "picture": self.picture,
            "class": self.class_name,
            "prediction": self.prediction,
            "stated_class": label_from_path(self.path, self.class_names),
            "probabilities": dict(zip(self.class_names, map(float, self.explanation.probabilities), strict=True)),
            "logits": dict(zip(self.class_names, logits.tolist(), strict=True)),
            "affine": list(geometry.affine),
        }
        if geometry.rpe_curve:
            content["row_offset"] = geometry.column_offsets(self.stored.pixels.shape[1]).tolist()
        if self.places is not None and self.explanation.evidence is not None:
            bias = float(self.explanation.evidence.bias[self.label])
            content |= {
                "bias": bias,
                "evidence": self.places.tolist(),
                "sum_error": float(self.places.sum() + bias - logits[self.label]),
                "field_in_source_pixels": self.field_size,
            }
        if self.fallen is not None:
            content |= {"occlusion": self.fallen.tolist(), "rank_correlation": self.correlation}
        return content

    def line(self) -> str:
        """The line that is printed."""
        line = f"{path_to_text(self.path.as_posix())}  {self.prediction}  {self.explanation.probabilities.max():.3f}"
        if self.class_name != self.prediction:
            line += f"  {self.class_name}  {self.explanation.probabilities[self.label]:.3f}"
        if self.correlation is not None:
            line += f"  rank correlation with occlusion {self.correlation:.2f}"
        return f"{line}  {self.picture}"


def explain_scan(
    path: Path,
    picture: str,
    source: NDArray[np.uint8],
    stored: PreprocessedImage,
    explainer: Explainer,
    class_names: tuple[str, ...],
    class_name: str | None,
    patches: Patches | None,
) -> ExplainedScan:
    """Run a model on a scan. class_name: that is explained; None for the most probable one."""
    explanation = explainer.explain(stored.pixels)
    label = int(explanation.probabilities.argmax()) if class_name is None else class_names.index(class_name)
    return ExplainedScan(
        path=path,
        picture=picture,
        source=source,
        stored=stored,
        class_names=class_names,
        label=label,
        explanation=explanation,
        field=explainer.field,
        patches=patches,
        fallen=occlusion(explainer.logits, stored.pixels, label, patches) if patches else None,
    )


def draw_scan(scan: ExplainedScan) -> bytes:
    """The picture of an explained scan, as a PNG."""
    return drawing.draw(scan.source, [*_maps(scan)], [*_header(scan)], [*_footer(scan)])


def _maps(scan: ExplainedScan) -> Iterator[drawing.Map]:
    shape = scan.stored.pixels.shape
    if scan.places is not None:
        yield _map(f"evidence for {scan.class_name}: what each place adds to the logit", scan.places, scan)
    if scan.patches is not None and scan.fallen is not None:
        yield _map(
            f"occlusion: by how much the logit of {scan.class_name} falls",
            scan.patches.spread(scan.fallen, *shape),
            scan,
        )


def _map(title: str, values: Float64, scan: ExplainedScan) -> drawing.Map:
    at, inside = at_source(values, scan.stored.geometry, scan.stored.pixels.shape, scan.source.shape)
    return drawing.Map(title=title, values=at, inside=inside, limit=float(np.abs(values).max()))


def _header(scan: ExplainedScan) -> Iterator[str]:
    yield path_to_text(scan.path.name)
    probabilities = scan.explanation.probabilities
    line = f"{scan.prediction} {probabilities.max():.3f}"
    if scan.class_name != scan.prediction:
        line += f", {scan.class_name} {probabilities[scan.label]:.3f}"
    stated = label_from_path(scan.path, scan.class_names)
    yield f"{line} (probability)" + (f"; named as {stated}" if stated else "")
    if scan.places is not None and scan.explanation.evidence is not None:
        bias, total = float(scan.explanation.evidence.bias[scan.label]), float(scan.places.sum())
        yield f"logit of {scan.class_name}: {total + bias:.2f} = evidence {total:.2f} + bias {bias:.2f}"


def _footer(scan: ExplainedScan) -> Iterator[str]:
    yield f"red: for {scan.class_name}, blue: against it, gray: outside the crop"
    if scan.places is not None and scan.field is not None and scan.field_size is not None:
        rows, columns = scan.places.shape
        seen = "the whole crop" if scan.field.is_whole_image else "{:.0f}x{:.0f} source pixels".format(*scan.field_size)
        line = f"{rows}x{columns} places, of which the middle one sees {seen}"
        yield line + ("" if scan.correlation is None else f"; rank correlation of the maps {scan.correlation:.2f}")
