"""The experiment: pool the images, train pairs of models on them, and report the inflation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octprep.format import images_csv
from octprep.format.errors import ManifestError
from octprep.format.files import STDOUT
from octprep.format.manifest import Manifest
from octprep.format.paths import original, path_to_text, quoted
from octprep.format.seeding import derived_seed
from octprep.storage.cache import fetch_shards, holding, open_dataset
from octprep.storage.remote import Location
from octprep.wording import number
from octtrain import json_output
from octtrain.config import FitConfig
from octtrain.data.chunks import Chunk, words
from octtrain.data.order import in_steps
from octtrain.data.passes import one_pass
from octtrain.evaluation.metrics import balanced_accuracy, confusion, mcc
from octtrain.experiments.leakage.config import LeakageConfig
from octtrain.experiments.leakage.folds import Indices, image_folds, patient_folds, sample_patients
from octtrain.experiments.leakage.statistics import (
    INTERVAL,
    Inflation,
    Repeat,
    Score,
    conclusion,
    format_table,
    inflation,
)
from octtrain.inference import predict_probabilities
from octtrain.runtime import describe_device
from octtrain.training.balance import balanced_class_weights
from octtrain.training.resolve import resolve
from octtrain.training.trainer import Trainer

BATCH = 64  # images read or classified at a time


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Images, each file content once, whatever split they were in."""

    pixels: NDArray[np.uint8]  # (n, height, width, 1), 0..255
    labels: NDArray[np.int64]  # (n,) index into the class names
    patients: NDArray[np.str_]  # (n,) patient group

    @property
    def patient_count(self) -> int:
        """Number of patients."""
        return len(np.unique(self.patients))

    @property
    def patients_with_several(self) -> int:
        """Number of patients with several images; those with one cannot leak."""
        return sum(count > 1 for count in Counter(self.patients.tolist()).values())


@dataclass(frozen=True, kw_only=True)
class LeakageResult:
    """The whole experiment."""

    digest: str  # of the dataset
    config: LeakageConfig
    images: int
    patients: int
    patients_with_several: int
    repeats: tuple[Repeat, ...]
    balanced_accuracy: Inflation
    mcc: Inflation

    @property
    def conclusion(self) -> str:
        """What the result means, in a sentence or two."""
        return conclusion(self.balanced_accuracy, self.repeats)

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {**asdict(self), "interval": INTERVAL, "conclusion": self.conclusion}


@holding()
def leakage(
    place: Location, config: LeakageConfig, json_file: Path | None = None, *, log: Callable[[str], None] = print
) -> LeakageResult:
    """Train on splits by image and by patient of the same images, print the inflation, and write a JSON if asked.

    Raises ManifestError for damaged shards, SettingError if a class has too few patients to be held out or the
    settings do not fit the images, OutputError if the JSON cannot be written, MissingPackage as `read_pool`.
    """
    if json_file:
        json_output.check(json_file)
    shards = open_dataset(place)
    manifest = Manifest.load(shards)
    fetch_shards(place, shards, manifest, manifest.splits, log)
    manifest.check_files(shards, tuple(manifest.splits))
    pool = read_pool(shards, manifest, config)
    log(
        f"{number(len(pool.labels), 'image')} of {number(pool.patient_count, 'patient')}, "
        f"{pool.patients_with_several:,} of them with several images, from {', '.join(manifest.splits)}; "
        f"{config.fit.model}, {number(config.fit.epochs, 'epoch')}, one fold of {config.folds} held out"
    )
    if not pool.patients_with_several:
        log("No patient has several images, so nothing can leak and no inflation is to be expected.")

    rounds = [  # every fold is held out once in each round
        patient_folds(pool.labels, pool.patients, manifest.class_names, config.folds, _fold_seed(config, i))
        for i in range(math.ceil(config.repeats / config.folds))
    ]
    # The same number of steps, and so the same learning rates, in every training, whichever fold is largest.
    smallest_training_set = min(len(pool.labels) - len(fold) for folds in rounds for fold in folds)
    trainer = PairedTrainer(pool, manifest, config.fit, smallest_training_set)
    for line in describe_device():
        log(line)
    repeats: list[Repeat] = []
    for i in range(config.repeats):
        repeat = _run_repeat(trainer, rounds, config, i)
        repeats.append(repeat)
        log(
            f"repeat {i + 1}/{config.repeats}  {repeat.train:,} to train, {repeat.test:,} to test  "
            f"balanced accuracy by image {repeat.by_image.balanced_accuracy:.3f}, "
            f"by patient {repeat.by_patient.balanced_accuracy:.3f}"
        )
    result = LeakageResult(
        digest=manifest.digest,
        config=config,
        images=len(pool.labels),
        patients=pool.patient_count,
        patients_with_several=pool.patients_with_several,
        repeats=tuple(repeats),
        balanced_accuracy=inflation(repeats, "balanced_accuracy"),
        mcc=inflation(repeats, "mcc"),
    )
    log("")
    log(f"{format_table(result.balanced_accuracy, result.mcc)}\n\n{result.conclusion}")
    if json_file:
        json_output.write(json_file, result.as_json())
    log("")
    log(
        f"wrote {path_to_text(str(json_file))}"
        if json_file and json_file != STDOUT
        else "wrote no file; --json FILE keeps this"
    )
    log(f"next: `octtrain fit {quoted(place)}` trains a model on a split by patient")
    return result


class PairedTrainer:
    """Trains one model repeatedly from the start, each time on other images of the pool.

    The model is compiled once, which takes longer than a small training; its weights and the optimizer's variables are
    reset instead. Classes are balanced by weights in the first training set, of which all others hardly differ.
    """

    def __init__(self, pool: Pool, manifest: Manifest, config: FitConfig, training_set_size: int) -> None:
        self.pool, self.classes = pool, len(manifest.class_names)
        self.config = resolve(config, training_set_size)
        self.batch_size = int(self.config.batch_size)
        self.steps = training_set_size // self.batch_size
        weights = balanced_class_weights(np.bincount(pool.labels, minlength=self.classes).tolist())
        recipe = manifest.recipe
        self.trainer = Trainer(
            self.config, (recipe.height, recipe.width, 1), [weights[i] for i in range(self.classes)], self.steps
        )
        self.images = self.trainer.programs.place(words(pool.pixels))

    def train(self, indices: Indices, seed: int) -> None:
        """Train from the start on some images. Equal seeds give equal initial weights, order and augmentation."""
        trainer, programs = self.trainer, self.trainer.programs
        trainer.reset(seed)
        rng = np.random.default_rng(derived_seed(seed, "image order"))
        for epoch in range(self.config.epochs):
            trainer.reseed(seed, epoch)
            order = in_steps(rng.permutation(indices).astype(np.int32), self.batch_size)[: self.steps]
            labels = self.pool.labels[order].astype(np.int32)
            chunk = Chunk(images=self.images, order=order, labels=labels, steps=len(order))
            totals = trainer.train(chunk, programs.zeros(), epoch, 0)
            if not math.isfinite(float(np.asarray(totals.loss))):
                raise trainer.divergence(epoch, self.steps)
        trainer.update_model()

    def score(self, indices: Indices) -> Score:
        """Metrics of the trained model on some images."""
        batches = [self.pool.pixels[indices[i : i + BATCH]] for i in range(0, len(indices), BATCH)]
        probabilities = np.concatenate(
            [predict_probabilities(self.trainer.model, batch, self.classes, BATCH) for batch in batches]
        )
        counts = confusion(self.pool.labels[indices], probabilities.argmax(axis=1), self.classes)
        # The MCC of a model that predicts one class for all images is undefined; by convention 0.
        return Score(balanced_accuracy(counts) or 0.0, mcc(counts) or 0.0)


def _run_repeat(trainer: PairedTrainer, rounds: list[list[Indices]], config: LeakageConfig, i: int) -> Repeat:
    """Hold out one fold by patient, and as many images of each class by image; both start from the same weights."""
    pool = trainer.pool
    round_index, fold = divmod(i, config.folds)
    by_patient = rounds[round_index]
    by_image = image_folds(pool.labels, by_patient, _fold_seed(config, round_index))
    seed = derived_seed(config.fit.seed, "training", i)
    scores = []
    for test in (by_image[fold], by_patient[fold]):
        trainer.train(_all_but(pool, test), seed)
        scores.append(trainer.score(test))
    train, test = _all_but(pool, by_image[fold]), by_image[fold]
    shared = float(np.isin(pool.patients[test], pool.patients[train]).mean())
    return Repeat(train=len(train), test=len(test), shared=shared, by_image=scores[0], by_patient=scores[1])


def _all_but(pool: Pool, held_out: Indices) -> Indices:
    """The images of the pool that are not held out."""
    return np.setdiff1d(np.arange(len(pool.labels)), held_out)


def _fold_seed(config: LeakageConfig, round_index: int) -> int:
    return derived_seed(config.fit.seed, "folds", round_index)


def read_pool(shards: Path, manifest: Manifest, config: LeakageConfig) -> Pool:
    """The images of all splits in memory, each file content once, of as many patients as `max_images` allows.

    Raises ManifestError for damaged shards, MissingPackage if they hold PNGs and TensorFlow is not installed.
    """
    table = images_csv.read_checked(shards, manifest).rows
    first_of_content = {row.sha256: row for row in reversed(table)}
    rows = sample_patients(list(first_of_content.values())[::-1], config.max_images, config.fit.seed)
    index_of = {row.path: i for i, row in enumerate(rows)}
    pixels = np.zeros((len(rows), manifest.recipe.height, manifest.recipe.width, 1), np.uint8)
    labels = np.full(len(rows), -1, np.int64)
    patients = np.array([row.patient_group for row in rows], np.str_)
    splits = tuple(split for split in manifest.splits if manifest.records(split))
    for batch in one_pass(shards, splits, batch_size=BATCH, manifest=manifest, rows=table):
        indices = np.array([index_of.get(path, -1) for path in batch.paths])
        sampled = indices >= 0
        pixels[indices[sampled]] = batch.pixels[sampled]
        labels[indices[sampled]] = batch.labels[sampled]
    if (labels < 0).any():
        raise ManifestError(
            f"{original(shards)} lacks {rows[int((labels < 0).argmax())].path}, which images.csv says it holds. "
            "Repair it by the `octprep build` that made it."
        )
    return Pool(pixels=pixels, labels=labels, patients=patients)
