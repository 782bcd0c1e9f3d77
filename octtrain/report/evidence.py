"""Where the model found evidence for what it predicted wrongly, drawn on the stored pixels of the worst errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import OctError
from octprep.html import pictures
from octprep.html.pictures import Picture
from octtrain.explain.drawing import Map, overlay
from octtrain.explain.explainer import Explainer
from octtrain.explain.source import over_stored
from octtrain.inference import require_shapes
from octtrain.report import facts
from octtrain.report.evaluation import Evaluation

SHOWN_MAPS = 6


def evidence_pictures(evaluation: Evaluation, stored: Mapping[str, NDArray[np.uint8]]) -> dict[str, Picture]:
    """The evidence for the predicted class of the first SHOWN_MAPS of the worst errors, by path.

    stored: path -> pixels, (height, width) uint8 in 0..255; errors without pixels have no picture. None has one if the
    model has no evidence map or cannot be loaded, is an ensemble, or has other classes.
    """
    run, names = evaluation.run, evaluation.class_names
    errors = [error for error in facts.worst_errors(evaluation, SHOWN_MAPS)[0] if error.path in stored]
    if not errors or evaluation.is_ensemble or names != run.manifest.class_names:
        return {}
    try:
        model = run.load_model()
        require_shapes(model, run.image_shape, len(names))
    except OctError:  # the results were there before, and are shown without the model
        return {}
    explainer = Explainer(model)
    if explainer.head is None:
        return {}
    found = {}
    for error in errors:
        pixels = stored[error.path]
        evidence = explainer.explain(pixels).evidence
        assert evidence
        values = over_stored(evidence.places[..., names.index(error.prediction)], pixels.shape, smooth=True)
        drawn = Map(title="", values=values, inside=np.ones(pixels.shape, bool), limit=float(np.abs(values).max()))
        text = f"Evidence for {error.prediction} on {error.path}"
        found[error.path] = pictures.jpeg(text, overlay(pixels, drawn)[..., ::-1])
    return found
