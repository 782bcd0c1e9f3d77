"""Evaluating a model on a dataset of other classes, by classes that both share.

`AMD=CNV+DRUSEN,NO=NORMAL` says which classes, of the model or of the dataset, make up a shared one. A class that is not
named is shared under its own name. The probabilities of the model's classes are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from octprep.format.errors import SettingError
from octprep.wording import listed
from octtrain.evaluation.predictions import SplitPredictions


@dataclass(frozen=True)
class ClassMap:
    """Which shared class each class of the model and of the dataset belongs to."""

    shared: tuple[str, ...]  # every class of the model is in one of them
    of_model: tuple[int, ...]  # for each class of the model, the index of its shared class
    of_dataset: tuple[int | None, ...]  # for each class of the dataset; None: the model does not know it

    def apply(self, predictions: SplitPredictions) -> SplitPredictions:
        """The images of classes that the model knows, with probabilities of the shared classes.

        predictions: truth is an index into the dataset's classes, the probabilities are of the model's.
        """
        known = [i for i, label in enumerate(predictions.truth.tolist()) if self.of_dataset[label] is not None]
        kept = predictions.chosen(known)
        sums = np.zeros((len(known), len(self.shared)))
        for label, shared in enumerate(self.of_model):
            sums[:, shared] += kept.probabilities[:, label]
        truth = np.array([self.of_dataset[label] for label in kept.truth.tolist()], np.int64)
        probabilities = np.minimum(sums, 1).astype(np.float32)
        return replace(kept, truth=truth, probabilities=probabilities, distances=None)

    def as_json(self, model: Sequence[str], dataset: Sequence[str]) -> dict[str, dict[str, list[str]]]:
        """For json.dumps: shared class -> the classes of both that it is made of."""
        return {
            name: {
                "model": [label for label, shared in zip(model, self.of_model, strict=True) if shared == i],
                "dataset": [label for label, shared in zip(dataset, self.of_dataset, strict=True) if shared == i],
            }
            for i, name in enumerate(self.shared)
        }


def make_class_map(given: Mapping[str, Sequence[str]], model: Sequence[str], dataset: Sequence[str]) -> ClassMap:
    """The shared classes of a model and a dataset. given: shared class -> its members.

    Raises SettingError if a member is a class of neither, if fewer than two classes are left, or if the dataset has no
    class that the model knows.
    """
    shared_of = {member: name for name, members in given.items() for member in members}
    if unknown := sorted(set(shared_of) - {*model, *dataset}):
        raise SettingError(
            f"classes names {listed(unknown)}, but the model's classes are {listed(model)} and the dataset's "
            f"{listed(dataset)}"
        )
    shared = tuple(dict.fromkeys(shared_of.get(label, label) for label in model))
    of_dataset = [shared_of.get(label, label) for label in dataset]
    if len(shared) < 2 or not set(of_dataset) & set(shared):
        raise SettingError(
            f"with these classes the model distinguishes {listed(shared)}, and the dataset has {listed(of_dataset)}; "
            "map them so that the model has two classes at least, and the dataset one of them"
        )
    return ClassMap(
        shared,
        tuple(shared.index(shared_of.get(label, label)) for label in model),
        tuple(shared.index(name) if name in shared else None for name in of_dataset),
    )
