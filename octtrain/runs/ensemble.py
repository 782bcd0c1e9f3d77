"""Several runs that classify the same images as one model, whose probabilities are the mean of theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import keras

from octprep.format.config import Preprocessing
from octprep.format.errors import ManifestError, SettingError
from octprep.format.manifest import Manifest
from octprep.format.paths import path_to_text
from octprep.wording import listed
from octtrain.runs.run import MODEL_NAME, Run

CLASS_NAMES = "class names"  # the name of the difference
Runs = Run | Path | str | Sequence[Run | Path | str]  # a run, its folder, or several of them


def load_runs(runs: Runs) -> tuple[Run, ...]:
    """The members of an ensemble, in the order given; one for a run.

    Raises SourceError if a folder is not a run, ManifestError if one was edited or the runs differ in classes or
    preprocessing, SettingError if there is none or one is named twice.
    """
    given = [runs] if isinstance(runs, Run | Path | str) else list(runs)
    if not given:
        raise SettingError("an ensemble needs at least one run")
    members = tuple(run if isinstance(run, Run) else Run.load(Path(run)) for run in given)
    folders = [run.folder.resolve() for run in members]
    if twice := [str(run.folder) for run, folder in zip(members, folders, strict=True) if folders.count(folder) > 1]:
        raise SettingError(f"the run {twice[0]} is named twice; name each member of an ensemble once")
    first, *others = members
    for run in others:
        if differences := task_differences(first.manifest, run.manifest):
            listing = "; ".join(f"{name} {value} in {first.folder}, {other} here" for name, value, other in differences)
            raise ManifestError(
                f"{run.folder} cannot be in one ensemble with {first.folder}: {listing}. Name runs that were trained "
                "on the same classes and preprocessing."
            )
    return members


def task_differences(manifest: Manifest, other: Manifest) -> list[tuple[str, object, object]]:
    """How the class names and the preprocessing of two datasets differ: name, value of one, value of the other."""
    pairs: dict[str, tuple[object, object]] = {
        CLASS_NAMES: (", ".join(manifest.class_names), ", ".join(other.class_names))
    }
    pairs |= {
        field.name: (getattr(manifest.recipe, field.name), getattr(other.recipe, field.name))
        for field in fields(Preprocessing)
    }
    return [(name, expected, actual) for name, (expected, actual) in pairs.items() if expected != actual]


def load_ensemble(members: Sequence[Run]) -> keras.Model:
    """A run's model, or one that gives the mean of several: (n, height, width, 1) uint8 to (n, classes) float32.

    The members are joined in the order of their digests, so that runs named in another order are the same model.

    Raises what `Run.load_model` raises, and ManifestError if a member is not made for the images of its run.
    """
    models = [run.load_model() for run in members]
    if len(models) == 1:
        return models[0]
    for run, model in zip(members, models, strict=True):
        shapes = tuple(model.input_shape), tuple(model.output_shape)
        if shapes != ((None, *run.image_shape), (None, len(run.manifest.class_names))):
            raise ManifestError(
                f"the model of {run.folder} is of the shapes {shapes[0]} to {shapes[1]}, which its run does not "
                "describe. Put the run's own model back."
            )
    order = sorted(zip(model_digests(members), models, strict=True), key=lambda pair: pair[0])
    return mean_of([model for _, model in order])


def model_digests(members: Sequence[Run]) -> list[str]:
    """The SHA-256 of the model of each run, hex. Raises OSError."""
    digests = []
    for run in members:
        with (run.folder / MODEL_NAME).open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def mean_of(models: Sequence[keras.Model]) -> keras.Model:
    """The model that gives the mean of the outputs of several models, which get new names."""
    pixels = keras.Input(models[0].input_shape[1:], dtype="uint8", name="pixels")
    for i, model in enumerate(models):
        model.name = f"member_{i}"
    mean = keras.layers.Average(dtype="float32", name="mean")([model(pixels, training=False) for model in models])
    return keras.Model(pixels, mean, name="ensemble")


def describe_runs(members: Sequence[Run]) -> str:
    """The folders of the members, as a phrase."""
    names = [path_to_text(run.folder.as_posix()) for run in members]
    return names[0] if len(names) == 1 else f"the ensemble of {listed(names, 4)}"
