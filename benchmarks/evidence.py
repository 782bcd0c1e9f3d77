"""Does the evidence lie in the lesion? Measured on synthetic scans, where the lesion is known.

RUN is a run of `octtrain fit`, SCANS a folder that `octprep synthesize SCANS --truth TRUTH` drew, TRUTH that file. Draw
it with another --seed than the scans of the training: patients that the model was exposed to are left out.

Of the scans with a disease, the share of the positive evidence for their class that lies inside the lesion is compared
with chance, the share of the crop that the lesion covers. Each place of the last feature map spreads its evidence over
the pixels of the source that it stands for; pixels of fill count neither as crop nor as lesion. The same is measured of
the retina alone, from its inner limiting membrane to Bruch's membrane, as evidence that prefers the retina to what is
around it finds more of the lesion than chance; and for the occlusion map, which looks at nothing but the output.

With shuffled weights (Adebayo et al. 2018; every kernel's values in random order) a map that still finds the lesion
would show the scan and not the model.

A gain is the mean share of all scans divided by their mean chance, so 1 if a map knows nothing of the lesion, with the
95 % interval of a bootstrap of patients. Scans that the model classifies rightly are given apart.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format.names import parse_scan_name
from octtrain.runtime import prepare_keras

prepare_keras()

import keras  # noqa: E402

from octtrain.explain.explainer import Explainer  # noqa: E402
from octtrain.explain.occlusion import Patches, occlusion, rank_correlation  # noqa: E402
from octtrain.explain.source import at_source, over_stored  # noqa: E402
from octtrain.prediction.classify import prepare_scan  # noqa: E402
from octtrain.prediction.inputs import Exclusion  # noqa: E402
from octtrain.runs.run import Run  # noqa: E402

RESAMPLES, SEED = 2000, 0
TRAINED = "trained weights"


@dataclass(frozen=True)
class Measured:
    """What one map says of one scan."""

    patient: str
    label: str
    is_right: bool  # whether the model's most probable class is the scan's
    share: float  # of the positive values that lies in the lesion, 0..1
    chance: float  # of the crop that is lesion, 0..1
    correlation: float | None  # with the occlusion map


def mask(row: dict[str, Any], name: str) -> NDArray[np.bool_]:
    """The fill or the lesion of a line of the truth file: (rows, columns)."""
    flat = np.zeros(row["rows"] * row["columns"] + 1, np.int8)
    np.add.at(flat, row[name][::2], 1)
    np.add.at(flat, row[name][1::2], -1)
    return np.cumsum(flat)[:-1].reshape(row["rows"], row["columns"]).astype(bool)


def shares(at: NDArray[np.float64], kept: NDArray[np.bool_], row: dict[str, Any]) -> tuple[float, float] | None:
    """Of the positive values, and of the pixels kept, the share in the lesion.

    None if no value is positive, or no pixel is of the lesion.
    """
    lesion = mask(row, "lesion") & kept
    positive = np.where(kept, np.maximum(at, 0), 0)
    if not lesion.any() or not positive.any():
        return None
    return float(positive[lesion].sum() / positive.sum()), float(lesion.sum() / kept.sum())


def measure(
    run: Run, explainer: Explainer, scans: Path, rows: Iterable[dict[str, Any]], patches: Patches | None
) -> Iterator[tuple[str, Measured]]:
    """The measures of `evidence`, and with patches of `occlusion`, for each scan."""
    names = run.manifest.class_names
    for row in rows:
        prepared = prepare_scan(scans / row["path"], run.manifest.recipe)
        if isinstance(prepared, Exclusion):
            raise SystemExit(f"{prepared.path}: {prepared.reason}")
        source, stored = prepared
        explanation, label = explainer.explain(stored.pixels), names.index(row["label"])
        if explanation.evidence is None:
            raise SystemExit(f"the model of {run.folder} has no evidence map")
        places = explanation.evidence.places[..., label]
        shape = stored.pixels.shape
        maps, correlation = {"evidence": places}, None
        if patches:
            fallen = occlusion(explainer.logits, stored.pixels, label, patches)
            maps["occlusion"] = patches.spread(fallen, *shape)
            correlation = rank_correlation(patches.mean_within(over_stored(places, shape)), fallen)
        is_right = int(explanation.probabilities.argmax()) == label
        for name, values in maps.items():
            at, inside = at_source(values, stored.geometry, shape, source.shape, smooth=False)
            crop = inside & ~mask(row, "fill")
            for kind, kept in ((name, crop), (f"{name} in the retina", crop & retina(row))):
                if found := shares(at, kept, row):
                    yield kind, Measured(patient_of(row["path"]), row["label"], is_right, *found, correlation)


def retina(row: dict[str, Any]) -> NDArray[np.bool_]:
    """The pixels from the inner limiting membrane to Bruch's membrane: (rows, columns)."""
    rows = np.arange(row["rows"])[:, None]
    return np.asarray((rows >= np.array(row["ilm"])) & (rows < np.array(row["bruch"])))


def patient_of(path: str) -> str:
    name = parse_scan_name(Path(path).name)
    assert name is not None
    return name.patient


def shuffled(model: keras.Model, seed: int) -> keras.Model:
    """The same model with the values of every kernel in random order."""
    rng = np.random.default_rng(seed)
    copy = keras.models.clone_model(model)
    copy.set_weights([rng.permuted(w.ravel()).reshape(w.shape) if w.ndim > 1 else w for w in model.get_weights()])
    return copy


def gain_with_interval(measures: Sequence[Measured]) -> tuple[float, float, float]:
    """Mean share by mean chance, and the 95 % interval of a bootstrap of patients."""
    of_patient: dict[str, list[Measured]] = defaultdict(list)
    for one in measures:
        of_patient[one.patient].append(one)
    sums = np.array([[sum(m.share for m in ms), sum(m.chance for m in ms)] for ms in of_patient.values()])
    counts = np.random.default_rng(SEED).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    resampled = counts @ sums
    low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5])
    total = sums.sum(axis=0)
    return float(total[0] / total[1]), float(low), float(high)


def line(name: str, measures: Sequence[Measured]) -> str:
    if not measures:
        return f"  {name:<42} no scan"
    gain, low, high = gain_with_interval(measures)
    share, chance = (float(np.mean([getattr(m, key) for m in measures])) for key in ("share", "chance"))
    patients = len({m.patient for m in measures})
    return (
        f"  {name:<42} {share:6.1%} in the lesion, chance {chance:5.1%}: gain {gain:5.2f} ({low:.2f} to {high:.2f}), "
        f"{len(measures)} scans of {patients} patients"
    )


def report(title: str, measures: Sequence[tuple[str, Measured]]) -> None:
    print(title)
    for kind in dict(measures):
        of_kind = [one for name, one in measures if name == kind]
        print(line(kind, of_kind))
        for label in sorted({one.label for one in of_kind}):
            print(line(f"{kind}, {label}", [one for one in of_kind if one.label == label]))
        if title == TRAINED:
            print(line(f"{kind}, classified rightly", [one for one in of_kind if one.is_right]))
    correlations = [one.correlation for name, one in measures if name == "evidence" and one.correlation is not None]
    if correlations:
        print(f"  rank correlation of the two maps: median {np.median(correlations):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--limit", type=int, default=3, help="scans of each patient")
    parser.add_argument("--shuffles", type=int, default=3, help="models with shuffled weights")
    parser.add_argument("--occlusion", action=argparse.BooleanOptionalAction, default=True, help="of the trained model")
    options = parser.parse_args()
    run = Run.load(options.run)
    exposed = {image.patient for image in run.exposure().images}
    of_patient: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for text in options.truth.read_text().splitlines():
        row = json.loads(text)
        if row["lesion"] and patient_of(row["path"]) not in exposed:
            of_patient[patient_of(row["path"])].append(row)
    rows = [row for of in of_patient.values() for row in of[:: max(len(of) // options.limit, 1)][: options.limit]]
    model = run.load_model()
    explainer = Explainer(model)
    assert explainer.field is not None
    print(
        f"{run.folder}: {run.config.model}, {run.image_shape[0]}x{run.image_shape[1]} stored pixels, "
        f"{explainer.map_shape} places, of which the middle one sees {explainer.field.size}"
    )
    patches = Patches.over(*run.image_shape[:2]) if options.occlusion else None
    report(TRAINED, list(measure(run, explainer, options.scans, rows, patches)))
    for seed in range(options.shuffles):
        measures = list(measure(run, Explainer(shuffled(model, seed)), options.scans, rows, None))
        report(f"shuffled weights, seed {seed}", measures)


if __name__ == "__main__":
    main()
