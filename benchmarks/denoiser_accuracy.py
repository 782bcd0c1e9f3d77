"""Whether a denoiser helps a network to tell the classes: the same small network after each, on the same phantoms.

Half of the patients train octnet-s, at 112 x 112 pixels and for a fixed number of epochs, the others test it: nothing
is tuned on either. Few scans of many patients, so that the task is not too easy. Prints, for Markdown, the balanced
accuracy of each denoiser averaged over several seeds of the training, and its difference from that without a denoiser,
both with 95 % intervals by resampling the test patients (percentile bootstrap, 2,000 draws; the difference is paired).
The spread between seeds is not in the intervals, so the accuracies of single trainings are printed too.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep import preprocessing
from octprep.format.config import DENOISERS, Preprocessing
from octprep.synthetic import CLASSES, scans
from octprep.synthetic.faults import encode

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
SIDE, PER_PATIENT, BATCH = 112, 3, 32


def prepared(data: bytes, recipe: Preprocessing) -> NDArray[np.uint8]:
    cv2.setNumThreads(1)
    return preprocessing.preprocess(preprocessing.decode(data), recipe).pixels


def population(patients: int, seed: int) -> tuple[list[bytes], NDArray[np.int64], list[str]]:
    """JPEGs, labels and patients of a few scans of each patient."""
    taken: Counter[str] = Counter()
    files, labels, owners = [], [], []
    for path, phantom in scans(patients, seed):
        owner = path.rsplit("-", 2)[1]
        taken[owner] += 1
        if taken[owner] <= PER_PATIENT:
            files.append(encode(phantom.pixels))
            labels.append(CLASSES.index(phantom.label))
            owners.append(owner)
    return files, np.array(labels), owners


def train(pixels: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int, seed: int):
    """A network that has seen these images; each class weighs the same."""
    import keras

    from octtrain.models import build_model
    from octtrain.models.augmentation import with_augmentation

    keras.utils.set_random_seed(seed)
    model = build_model("octnet-s", (SIDE, SIDE, 1), len(CLASSES))
    training = with_augmentation(model, seed)
    steps = epochs * -(-len(pixels) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    training.compile(keras.optimizers.AdamW(rate), "sparse_categorical_crossentropy")
    weights = len(labels) / len(CLASSES) / np.bincount(labels, minlength=len(CLASSES))
    training.fit(pixels, labels, BATCH, epochs, verbose=0, class_weight=dict(enumerate(weights)))
    return model


def balanced(right: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean over the classes of the fraction that is right."""
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def draws(owners: list[str], seed: int, number: int = 2000) -> list[NDArray[np.int64]]:
    """Indices of the images of as many patients, drawn with replacement, again and again."""
    images: dict[str, list[int]] = defaultdict(list)
    for index, owner in enumerate(owners):
        images[owner].append(index)
    groups, rng = [np.array(own) for own in images.values()], np.random.default_rng(seed)
    return [np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(number)]


def interval(values: list[float]) -> str:
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}" if low < 0 else f"{low:.3f} to {high:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="trainings for each denoiser")
    parser.add_argument("--denoisers", nargs="+", default=list(DENOISERS))
    options = parser.parse_args()
    files, labels, owners = population(options.patients, seed=21)
    tested = set(sorted(set(owners), key=lambda owner: (int(owner) * 2654435761) % 2**32)[::2])
    test = np.array([owner in tested for owner in owners])
    print(f"{(~test).sum()} scans to train on, {test.sum()} of {len(tested)} other patients to test", flush=True)
    right: dict[str, NDArray[np.float64]] = {}
    singles: dict[str, list[float]] = {}
    for name in options.denoisers:
        recipe = Preprocessing(height=SIDE, width=SIDE, denoise=name)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            pixels = np.stack(list(pool.map(partial(prepared, recipe=recipe), files, chunksize=16)))[..., None]
        answers = []
        for seed in range(options.seeds):
            model = train(pixels[~test], labels[~test], options.epochs, seed)
            answers.append(model.predict(pixels[test], verbose=0).argmax(axis=1) == labels[test])
        right[name] = np.mean(answers, axis=0)
        singles[name] = [balanced(answer.astype(float), labels[test]) for answer in answers]
        print(f"{name}: {' '.join(f'{value:.3f}' for value in singles[name])}", flush=True)
    drawn = draws([owner for owner, held in zip(owners, test, strict=True) if held], seed=0)
    truth = labels[test]
    print("| denoiser | balanced accuracy | 95 % | beside none | 95 % |\n|---|---|---|---|---|")
    for name, answer in right.items():
        own = [balanced(answer[draw], truth[draw]) for draw in drawn]
        row = f"| {name} | {balanced(answer, truth):.3f} | {interval(own)} |"
        if name != "none" and "none" in right:
            plain = right["none"]
            more = [balanced(answer[draw], truth[draw]) - balanced(plain[draw], truth[draw]) for draw in drawn]
            row += f" {balanced(answer, truth) - balanced(plain, truth):+.3f} | {interval(more)} |"
        else:
            row += " | |"
        print(row)


if __name__ == "__main__":
    main()
