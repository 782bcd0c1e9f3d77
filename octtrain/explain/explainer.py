"""A model with the parts of it that an explanation needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
from numpy.typing import NDArray

from octtrain.explain.evidence import evidence, find_head
from octtrain.explain.field import ReceptiveField, measure_field
from octtrain.inference import require_finite, run_batch
from octtrain.models import logits_model

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the places of the last feature map add to the logits of one image."""

    places: Float64  # (rows, columns, classes)
    bias: Float64  # (classes,); with the sum over all places it is the logits


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a model makes of one stored image."""

    probabilities: NDArray[np.float32]  # (classes,), 0..1
    logits: Float64  # (classes,)
    evidence: Evidence | None  # None if the model does not end in global pooling and one dense layer


class Explainer:
    """A model, and the one that also gives its last feature map. It is run on one image at a time."""

    def __init__(self, model: keras.Model) -> None:
        """model: (n, height, width, 1) uint8 in 0..255 to (n, classes) probabilities."""
        self.model = model
        self.logits = logits_model(model)
        self.head = find_head(model)
        outputs = [model.outputs[0], self.logits.outputs[0], *([self.head.feature_map] if self.head else [])]
        self._outputs = keras.Model(model.inputs[0], outputs)

    def explain(self, pixels: NDArray[np.uint8]) -> Explanation:
        """What the model makes of a stored image, (height, width) uint8 in 0..255.

        Raises ManifestError if the probabilities are not numbers, StoppedError if the memory is too small.
        """
        probabilities, logits, *feature_maps = run_batch(self._outputs, pixels[None, ..., None], 1)
        require_finite(probabilities)
        found = None
        if self.head:
            found = Evidence(places=evidence(feature_maps[0], self.head)[0], bias=self.head.bias)
        return Explanation(probabilities=probabilities[0], logits=logits[0].astype(np.float64), evidence=found)

    @cached_property
    def map_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the last feature map; None if there is no evidence."""
        return None if self.head is None else tuple(self.head.feature_map.shape[1:3])

    @cached_property
    def field(self) -> ReceptiveField | None:
        """How many pixels a place of the last feature map sees; None if there is no evidence."""
        return None if self.head is None else measure_field(keras.Model(self.model.inputs[0], self.head.feature_map))
