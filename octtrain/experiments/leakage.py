"""Split by image against split by patient: how much better does a leaky split make the same model look?

The experiment of Tampu et al., Sci Data 9:580 (2022), on any folder of shards. All images are pooled, each once, and
the same model is trained for as long on as many of them twice: held out are patients with all their images, or as many
images of each class drawn one by one, whose patients then mostly stand in training too. The difference of what is
measured is the inflation. Part of it is that a split by image also trains on more people.

The interval is Student's t over the repeats' differences with the variance of Nadeau and Bengio, Machine Learning
52:239 (2003): (1/repeats + test/train) times that of the differences, because the repeats share training images, which
a plain t ignores. Such an interval speaks of other splits and trainings of these images, not of other patients.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import ManifestError, OutputError, SettingError
from octprep.format.files import atomic_write
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.format.seeding import derived_seed, seeded_hash
from octtrain.data import stream
from octtrain.evaluation.metrics import balanced_accuracy, confusion, mcc
from octtrain.models import build_model
from octtrain.runs import exposure
from octtrain.runs.folder import FitConfig
from octtrain.runtime import describe_device
from octtrain.training.fit import balanced_class_weights, compile_model, reseed

BATCH = 64  # images read or predicted at a time

# Two-sided 95 % quantiles of Student's t with 1, 2, ... degrees of freedom.
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)

INTERVAL = (
    "95 % interval: Student's t over the repeats, widened for the training images that they share (Nadeau and Bengio "
    "2003). It speaks of other splits and trainings of these images, not of other patients."
)

Picks = NDArray[np.int64]  # (n,) indexes into a pool


@dataclass(frozen=True, kw_only=True)
class LeakageConfig:
    """How the experiment is made. Raises SettingError at birth if a value is outside its range."""

    fit: FitConfig = field(default_factory=FitConfig)  # model, epochs, batch size, learning rate and seed of all arms
    repeats: int = 5  # pairs of trainings; each holds out another fold, after the last one come other folds
    folds: int = 5  # one of so many is held out
    max_images: int = 2000  # of the pool; whole patients are left out beyond

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise SettingError(f"repeats must be at least 2, for there to be an interval; got {self.repeats}")
        if not 2 <= self.folds <= 100:
            raise SettingError(f"folds must be between 2 and 100; got {self.folds}")
        if self.max_images < 16:
            raise SettingError(f"max-images must be at least 16; got {self.max_images}")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Images, each once, whatever split they were in."""

    pixels: NDArray[np.uint8]  # (n, height, width, 1), 0..255
    labels: NDArray[np.int64]  # (n,) index into the class names
    patients: NDArray[np.str_]  # (n,) the smallest id of those taken for the same person's

    @property
    def repeated(self) -> int:
        """Patients with several images; those with one cannot leak."""
        return sum(count > 1 for count in Counter(self.patients.tolist()).values())


@dataclass(frozen=True)
class Score:
    """What is measured on the held-out images of one training."""

    balanced_accuracy: float  # 0..1
    mcc: float  # -1..1


@dataclass(frozen=True)
class Repeat:
    """One pair of trainings."""

    train: int  # images
    test: int  # images
    shared: float  # of the images held out one by one, how many have their patient in training, 0..1
    by_image: Score
    by_patient: Score


@dataclass(frozen=True)
class Inflation:
    """One measure over all repeats."""

    by_image: float  # mean
    by_patient: float  # mean
    difference: float  # mean of the first less the second
    low: float  # 95 % interval of the difference
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """The whole experiment."""

    digest: str
    config: LeakageConfig
    images: int
    patients: int
    repeated: int  # patients with several images
    repeats: tuple[Repeat, ...]
    balanced_accuracy: Inflation
    mcc: Inflation

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        return {**asdict(self), "interval": INTERVAL, "verdict": verdict(self)}


def leakage(
    shards: Path, config: LeakageConfig, json_file: Path | None = None, say: Callable[[str], None] = print
) -> Leakage:
    """Train on splits by image and by patient of the same images, print the inflation, and write a JSON if asked.

    Raises ManifestError for damaged shards, SettingError if a class has too few patients to be held out or the
    settings do not fit the images, OutputError if the JSON cannot be written.
    """
    if json_file and not json_file.absolute().parent.is_dir():
        raise OutputError(f"the folder of --json {json_file} does not exist; make it first.")
    if json_file and json_file.is_dir():
        raise OutputError(f"--json {json_file} is a folder; name a file.")
    if json_file and not os.access(json_file.absolute().parent, os.W_OK):
        raise OutputError(f"the folder of --json {json_file} cannot be written to; give a file elsewhere.")
    manifest = Manifest.load(shards)
    manifest.check_files(shards, tuple(manifest.splits))
    pool = read_pool(shards, manifest, config)
    patients = len(set(pool.patients.tolist()))
    say(
        f"{len(pool.labels):,} images of {patients:,} patients, {pool.repeated:,} of them with several images, from "
        f"{', '.join(manifest.splits)}; {config.fit.model}, {config.fit.epochs} "
        f"epoch{'s' * (config.fit.epochs != 1)}, one fold of {config.folds} "
        "held out"
    )
    if not pool.repeated:
        say("No patient has several images, so nothing can leak and no inflation is to be expected.")

    arena = PairedTrainer(manifest, pool, config)
    for line in describe_device():
        say(line)
    repeats: list[Repeat] = []
    for number in range(config.repeats):
        repeats.append(arena.repeat(number))
        found = repeats[-1]
        say(
            f"repeat {number + 1}/{config.repeats}  {found.train:,} to train, {found.test:,} to test  "
            f"balanced accuracy by image {found.by_image.balanced_accuracy:.3f}, "
            f"by patient {found.by_patient.balanced_accuracy:.3f}"
        )
    result = Leakage(
        digest=manifest.digest,
        config=config,
        images=len(pool.labels),
        patients=patients,
        repeated=pool.repeated,
        repeats=tuple(repeats),
        balanced_accuracy=inflation(repeats, "balanced_accuracy"),
        mcc=inflation(repeats, "mcc"),
    )
    say("")
    say(table(result))
    if json_file:
        try:
            atomic_write(json_file, (json.dumps(result.as_json(), indent=1, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise OutputError(f"--json {json_file} cannot be written ({error.strerror or error}).") from None
    return result


class PairedTrainer:
    """One compiled model that is trained from the start again and again, and the images it is trained on."""

    def __init__(self, manifest: Manifest, pool: Pool, config: LeakageConfig) -> None:
        self.pool, self.config, self.classes = pool, config, len(manifest.class_names)
        self.rounds = [
            deal_patients(pool, manifest.class_names, config.folds, derived_seed(config.fit.seed, "folds", turn))
            for turn in range(math.ceil(config.repeats / config.folds))
        ]
        # As many steps, and so the same learning rates, in every training, whichever fold is largest.
        least = min(len(pool.labels) - len(fold) for folds in self.rounds for fold in folds)
        self.batch = min(config.fit.batch_size, least)
        self.steps = least // self.batch
        self.model, self.training = compile_model(manifest, config.fit, self.steps)

    def repeat(self, number: int) -> Repeat:
        """Hold out one fold by patient, and as many images of each class by image."""
        turn, fold = divmod(number, self.config.folds)
        seed = derived_seed(self.config.fit.seed, "folds", turn)
        by_patient = self.rounds[turn]
        by_image = deal_images(self.pool.labels, by_patient, seed)
        train, test = self._sides(by_image[fold])
        shared = float(np.isin(self.pool.patients[test], self.pool.patients[train]).mean())
        return Repeat(
            train=len(train),
            test=len(test),
            shared=shared,
            by_image=self._score(by_image[fold], number),
            by_patient=self._score(by_patient[fold], number),
        )

    def _sides(self, held_out: Picks) -> tuple[Picks, Picks]:
        return np.setdiff1d(np.arange(len(self.pool.labels)), held_out), held_out

    def _score(self, held_out: Picks, number: int) -> Score:
        """Train on all but these images, and measure on them. Both arms of a repeat begin with the same weights."""
        seed = derived_seed(self.config.fit.seed, "training", number)
        self._begin_again(seed)
        train, test = self._sides(held_out)
        self._train(train, seed)
        pieces = [self.pool.pixels[test[i : i + BATCH]] for i in range(0, len(test), BATCH)]
        answers = np.concatenate([np.asarray(self.model.predict_on_batch(piece)) for piece in pieces])
        counts = confusion(self.pool.labels[test], answers.argmax(axis=1), self.classes)
        # A model that calls everything the same has no correlation with the truth: 0, as is the custom
        return Score(balanced_accuracy(counts) or 0.0, mcc(counts) or 0.0)

    def _begin_again(self, seed: int) -> None:
        """Fresh weights and an optimizer that remembers nothing, without compiling again."""
        # Keras' initializers get their seeds from here. keras.utils.set_random_seed sets this too, but makes TensorFlow
        # drop what it has compiled, which takes longer than a small training.
        random.seed(derived_seed(seed, "weights"))
        fresh = build_model(self.config.fit.model, self.model.input_shape[1:], self.classes)
        self.model.set_weights(fresh.get_weights())
        for variable in self.training.optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))

    def _train(self, train: Picks, seed: int) -> None:
        labels = self.pool.labels
        weights = balanced_class_weights(np.bincount(labels[train], minlength=self.classes).tolist())
        rng = np.random.default_rng(derived_seed(seed, "image order"))
        for epoch in range(self.config.fit.epochs):
            reseed(self.training, seed, epoch)
            order = rng.permutation(train)[: self.steps * self.batch].reshape(self.steps, self.batch)
            for batch in order:
                logs = self.training.train_on_batch(
                    self.pool.pixels[batch], labels[batch], class_weight=weights, return_dict=True
                )
            if not math.isfinite(float(logs["loss"])):
                raise SettingError(
                    f"the loss is no longer a number in epoch {epoch + 1}; try a lower --lr than {self.config.fit.lr:g}"
                )


def read_pool(shards: Path, manifest: Manifest, config: LeakageConfig) -> Pool:
    """The images of all splits in memory, each file content once, or of so many patients as `max_images` allows.

    Raises ManifestError for damaged shards.
    """
    rows = list({row.sha256: row for row in reversed(exposure.images(shards, manifest))}.values())[::-1]
    chosen = sample(rows, config.max_images, config.fit.seed)
    places = {row.path: i for i, row in enumerate(chosen)}
    side = (manifest.recipe.height, manifest.recipe.width, 1)
    pixels = np.zeros((len(chosen), *side), np.uint8)
    labels = np.full(len(chosen), -1, np.int64)
    patients = np.array([row.patient_group for row in chosen], np.str_)
    splits = tuple(split for split in manifest.splits if manifest.records(split))
    with stream.readable(shards):
        for images, truth, _, keys in stream.batches(shards, manifest, splits, BATCH, keys=True):
            at = [places.get(key.decode(), -1) for key in keys.numpy()]
            wanted = [i for i, place in enumerate(at) if place >= 0]
            pixels[[at[i] for i in wanted]] = images.numpy()[wanted]
            labels[[at[i] for i in wanted]] = truth.numpy()[wanted]
    if (labels < 0).any():
        raise ManifestError(
            f"{shards} lacks {chosen[int((labels < 0).argmax())].path}, which images.csv says it holds. "
            "Repair it by the `octprep build` that made it."
        )
    return Pool(pixels=pixels, labels=labels, patients=patients)


def sample(rows: Sequence[ImageRow], most: int, seed: int) -> list[ImageRow]:
    """Whole patients' rows, `most` at most, each class near its share; which patients depends on the seed alone.

    A patient who alone would exceed what is left of a class is passed over.
    """
    if len(rows) <= most:
        return list(rows)
    sizes = Counter(row.label for row in rows)
    room = {name: most * size / len(rows) for name, size in sizes.items()}
    scans: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        scans[row.patient_group][row.label] += 1
    taken = set()
    for patient in sorted(scans, key=lambda patient: seeded_hash(patient, seed)):
        if all(count <= room[name] for name, count in scans[patient].items()):
            taken.add(patient)
            for name, count in scans[patient].items():
                room[name] -= count
    return [row for row in rows if row.patient_group in taken]


def deal_patients(pool: Pool, class_names: Sequence[str], folds: int, seed: int) -> list[Picks]:
    """The indexes of each fold: whole patients, every fold with near the same share of each class.

    Patients with many images come first, each to the fold that lacks its classes most; the seed decides the order of
    patients of about the same size. Raises SettingError if a fold would lack a class.
    """
    classes = len(class_names)
    members: dict[str, list[int]] = defaultdict(list)
    for i, patient in enumerate(pool.patients.tolist()):
        members[patient].append(i)
    _check_patients(pool, class_names, folds)

    totals = np.bincount(pool.labels, minlength=classes)
    filled = np.zeros((folds, classes))  # share of each class
    dealt: list[list[int]] = [[] for _ in range(folds)]
    order = sorted(members, key=lambda patient: (-len(members[patient]).bit_length(), seeded_hash(patient, seed)))
    for patient in order:
        share = np.bincount(pool.labels[members[patient]], minlength=classes) / np.maximum(totals, 1)
        costs: list[float] = (
            (filled @ share).round(9).tolist()
        )  # what it adds to the sum of squared shares, but for what is the same for all folds
        fold = min(range(folds), key=lambda k: (costs[k], float(filled[k].sum()), k))
        filled[fold] += share
        dealt[fold] += members[patient]
    for name, column, total in zip(class_names, filled.T, totals, strict=True):
        if total and not column.all():
            raise SettingError(f"{folds} folds of whole patients cannot all have images of {name}; give fewer --folds")
    return [np.array(sorted(fold), np.int64) for fold in dealt]


def deal_images(labels: NDArray[np.int64], like: Sequence[Picks], seed: int) -> list[Picks]:
    """The indexes of each fold: images at random, as many of each class as in the folds `like`."""
    rng = np.random.default_rng(derived_seed(seed, "images by class"))
    dealt: list[list[int]] = [[] for _ in like]
    for label in np.unique(labels):
        cuts = np.cumsum([(labels[fold] == label).sum() for fold in like])[:-1]
        for fold, part in zip(dealt, np.split(rng.permutation(np.flatnonzero(labels == label)), cuts), strict=True):
            fold += part.tolist()
    return [np.array(sorted(fold), np.int64) for fold in dealt]


def inflation(repeats: Sequence[Repeat], measure: str) -> Inflation:
    """Means of one measure of `Score`, and their difference with its interval (see the top of this module)."""
    by_image = [getattr(repeat.by_image, measure) for repeat in repeats]
    by_patient = [getattr(repeat.by_patient, measure) for repeat in repeats]
    differences = [a - b for a, b in zip(by_image, by_patient, strict=True)]
    n = len(repeats)
    mean = statistics.fmean(differences)
    ratio = statistics.fmean(repeat.test / repeat.train for repeat in repeats)
    half = t95(n - 1) * math.sqrt((1 / n + ratio) * statistics.variance(differences))
    return Inflation(statistics.fmean(by_image), statistics.fmean(by_patient), mean, mean - half, mean + half)


def t95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t; above ten degrees of freedom by the expansion of Cornish and Fisher,
    right to three decimals.
    """
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, start=1)))


def table(result: Leakage) -> str:
    """The result as lines of text."""
    lines = [f"{'':17}  {'by image':>8}  {'by patient':>10}  {'inflation':>9}  95 % interval"]
    for name, found in (("balanced accuracy", result.balanced_accuracy), ("MCC", result.mcc)):
        lines.append(
            f"{name:17}  {found.by_image:8.3f}  {found.by_patient:10.3f}  {found.difference:+9.3f}  "
            f"{found.low:+.3f} to {found.high:+.3f}"
        )
    return "\n".join([*lines, "", INTERVAL, "", verdict(result)])


def verdict(result: Leakage) -> str:
    """What it means, in a sentence or two."""
    found = result.balanced_accuracy
    interval = f"({found.low:+.3f} to {found.high:+.3f})"
    shared = statistics.fmean(repeat.shared for repeat in result.repeats)
    if found.shown:
        return (
            f"Split by image, {shared:.0%} of the test images have their patient in training, and the model looks "
            f"{100 * found.difference:.0f} points of balanced accuracy better {interval} than it is on new patients."
        )
    if found.high < 0:
        return f"Split by image, the model looks worse than on new patients {interval}, which no leak explains."
    reason = (
        " (both arms are near perfect, so there is little room for any)" if min(found.by_image, found.by_patient) > 0.98
        else ""
    )  # fmt: skip
    return (
        f"No inflation is shown: the interval {interval} includes 0{reason}. "
        "More --repeats narrow it; what is not shown may still be there."
    )


def _check_patients(pool: Pool, class_names: Sequence[str], folds: int) -> None:
    """Raise SettingError if a class has fewer patients than there are folds."""
    have = {
        name: len(np.unique(pool.patients[pool.labels == i]))
        for i, name in enumerate(class_names)
        if (pool.labels == i).any()
    }
    if len(have) < 2:
        raise SettingError(f"the images are all of one class ({', '.join(have)}), so there is nothing to learn")
    few = {name: count for name, count in have.items() if count < folds}
    if few:
        least = min(few.values())
        way = f"give --folds {least} or " if least >= 2 else ""
        raise SettingError(
            f"each class needs {folds} patients for each of {folds} folds to have one, but "
            f"{', '.join(f'{name} has {count}' for name, count in few.items())}; {way}use shards of more patients or "
            "a higher --max-images"
        )
