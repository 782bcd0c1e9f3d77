"""Whether a denoiser helps a network to classify: the same small network after each, on the same synthetic scans.

Half of the patients train octnet-s, at 112 x 112 pixels and for a fixed number of epochs, the others test it: nothing
is tuned on either. Few scans of many patients, so that the task is not too easy. Prints, for Markdown, the balanced
accuracy of each denoiser averaged over several seeds of the training, and its difference from that without a denoiser,
both with 95 % intervals by resampling the test patients (percentile bootstrap, 2,000 draws; the difference is paired).
The variation between seeds is not in the intervals, so the accuracies of single trainings are printed too.
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
from octprep.arrays import Gray
from octprep.format.config import DENOISERS, Preprocessing
from octprep.synthetic import CLASSES, scans
from octprep.synthetic.faults import encode

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
SIDE, PER_PATIENT, BATCH = 112, 3, 32


def preprocess_file(data: bytes, recipe: Preprocessing) -> Gray:
    """The stored pixels of a JPEG, (height, width) uint8; in a worker process, on one core."""
    cv2.setNumThreads(1)
    return preprocessing.preprocess(preprocessing.decode(data), recipe).pixels


def draw_population(patients: int, seed: int) -> tuple[list[bytes], NDArray[np.int64], list[str]]:
    """JPEGs, labels and patient ids of up to PER_PATIENT scans of each patient."""
    count: Counter[str] = Counter()
    files, labels, patient_ids = [], [], []
    for path, truth in scans(patients, seed):
        patient = path.rsplit("-", 2)[1]
        count[patient] += 1
        if count[patient] <= PER_PATIENT:
            files.append(encode(truth.pixels))
            labels.append(CLASSES.index(truth.label))
            patient_ids.append(patient)
    return files, np.array(labels), patient_ids


def train(pixels: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int, seed: int):
    """A network trained on (n, SIDE, SIDE, 1) uint8 images, with weights by which every class counts the same."""
    import keras

    from octtrain.models import build_model
    from octtrain.models.augmentation import augmented

    keras.utils.set_random_seed(seed)
    model = build_model("octnet-s", (SIDE, SIDE, 1), len(CLASSES))
    training = augmented(model, seed)
    steps = epochs * -(-len(pixels) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    training.compile(keras.optimizers.AdamW(rate), "sparse_categorical_crossentropy")
    weights = len(labels) / len(CLASSES) / np.bincount(labels, minlength=len(CLASSES))
    training.fit(pixels, labels, BATCH, epochs, verbose=0, class_weight=dict(enumerate(weights)))
    return model


def balanced_accuracy(correct: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean over the classes of the fraction that is correct. correct: (n,) 0 to 1.  labels: (n,) class index."""
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))


def bootstrap_samples(patient_ids: list[str], seed: int, number: int = 2000) -> list[NDArray[np.int64]]:
    """Indices of the images of as many patients as there are, drawn with replacement, `number` times."""
    images: dict[str, list[int]] = defaultdict(list)
    for index, patient in enumerate(patient_ids):
        images[patient].append(index)
    groups, rng = [np.array(indices) for indices in images.values()], np.random.default_rng(seed)
    return [np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(number)]


def format_interval(values: list[float]) -> str:
    """The 2.5th and the 97.5th percentile as text."""
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{low:+.3f} to {high:+.3f}" if low < 0 else f"{low:.3f} to {high:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="trainings for each denoiser")
    parser.add_argument("--denoisers", nargs="+", default=list(DENOISERS))
    options = parser.parse_args()
    files, labels, patient_ids = draw_population(options.patients, seed=21)
    test_patients = set(sorted(set(patient_ids), key=lambda patient: (int(patient) * 2654435761) % 2**32)[::2])
    test = np.array([patient in test_patients for patient in patient_ids])
    print(f"{(~test).sum()} scans to train on, {test.sum()} of {len(test_patients)} other patients to test", flush=True)
    truth = labels[test]
    correct: dict[str, NDArray[np.float64]] = {}  # denoiser -> for each test image, the fraction of correct trainings
    for name in options.denoisers:
        recipe = Preprocessing(height=SIDE, width=SIDE, denoise=name)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            pixels = np.stack(list(pool.map(partial(preprocess_file, recipe=recipe), files, chunksize=16)))[..., None]
        correct_by_seed = []
        for seed in range(options.seeds):
            model = train(pixels[~test], labels[~test], options.epochs, seed)
            correct_by_seed.append(model.predict(pixels[test], verbose=0).argmax(axis=1) == truth)
        correct[name] = np.mean(correct_by_seed, axis=0)
        singles = [balanced_accuracy(correct_once.astype(float), truth) for correct_once in correct_by_seed]
        print(f"{name}: {' '.join(f'{value:.3f}' for value in singles)}", flush=True)
    print_table(correct, truth, [patient for patient, in_test in zip(patient_ids, test, strict=True) if in_test])


def print_table(correct: dict[str, NDArray[np.float64]], truth: NDArray[np.int64], patient_ids: list[str]) -> None:
    """Print the Markdown table. correct: denoiser -> (test images,) fraction of trainings that are right about it."""
    samples = bootstrap_samples(patient_ids, seed=0)
    unfiltered = correct.get("none")
    print("| denoiser | balanced accuracy | 95 % | difference from none | 95 % |\n|---|---|---|---|---|")
    for name, filtered in correct.items():
        accuracy = balanced_accuracy(filtered, truth)
        resampled = [balanced_accuracy(filtered[sample], truth[sample]) for sample in samples]
        row = f"| {name} | {accuracy:.3f} | {format_interval(resampled)} |"
        if name == "none" or unfiltered is None:
            print(f"{row} | |")
            continue
        differences = [
            value - balanced_accuracy(unfiltered[sample], truth[sample])
            for value, sample in zip(resampled, samples, strict=True)
        ]
        difference = accuracy - balanced_accuracy(unfiltered, truth)
        print(f"{row} {difference:+.3f} | {format_interval(differences)} |")


if __name__ == "__main__":
    main()
