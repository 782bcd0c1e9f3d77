"""Which images are held out: folds of whole patients, folds of single images, and a sample of whole patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octprep.format.errors import SettingError
from octprep.format.images_csv import ImageRow
from octprep.format.seeding import derived_seed, seeded_hash

Indices = NDArray[np.int64]  # (n,) into a pool of images


def sample_patients(rows: Sequence[ImageRow], limit: int, seed: int) -> list[ImageRow]:
    """The rows of whole patients, at most `limit` of them, with each class near its share.

    Patients are taken in the order of a seeded hash; one with more images of a class than remain for it is skipped.
    """
    if len(rows) <= limit:
        return list(rows)
    class_sizes = Counter(row.label for row in rows)
    remaining = {label: limit * size / len(rows) for label, size in class_sizes.items()}
    images: dict[str, Counter[str]] = defaultdict(Counter)  # patient -> class -> images
    for row in rows:
        images[row.patient_group][row.label] += 1
    sampled = set()
    for patient in sorted(images, key=lambda patient: seeded_hash(patient, seed)):
        if all(count <= remaining[label] for label, count in images[patient].items()):
            sampled.add(patient)
            for label, count in images[patient].items():
                remaining[label] -= count
    return [row for row in rows if row.patient_group in sampled]


def patient_folds(
    labels: NDArray[np.int64], patients: NDArray[np.str_], class_names: Sequence[str], folds: int, seed: int
) -> list[Indices]:
    """The indices of each fold: whole patients, every fold with nearly the same share of each class.

    Greedy on the sum of squares: with f the fold's filled share of each class and p the patient's, a patient goes to
    the fold with the smallest f·p, which adds least to the sum of |f|^2. Patients with many images (by powers of two)
    come first; the seed decides the order of patients of about the same size.

    labels: (n,) index into class_names.  patients: (n,) patient of each image. Raises SettingError if a class has
    fewer patients than there are folds, or a fold lacks a class.
    """
    classes = len(class_names)
    _require_patients(labels, patients, class_names, folds)
    members: dict[str, list[int]] = defaultdict(list)
    for i, patient in enumerate(patients.tolist()):
        members[patient].append(i)

    totals = np.bincount(labels, minlength=classes)
    filled = np.zeros((folds, classes))  # share of each class
    assigned: list[list[int]] = [[] for _ in range(folds)]
    order = sorted(members, key=lambda patient: (-len(members[patient]).bit_length(), seeded_hash(patient, seed)))
    for patient in order:
        share = np.bincount(labels[members[patient]], minlength=classes) / np.maximum(totals, 1)
        costs: list[float] = (filled @ share).round(9).tolist()
        fold = min(range(folds), key=lambda k: (costs[k], float(filled[k].sum()), k))
        filled[fold] += share
        assigned[fold] += members[patient]
    for name, column, total in zip(class_names, filled.T, totals, strict=True):
        if total and not column.all():
            raise SettingError(f"{folds} folds of whole patients cannot all have images of {name}; give fewer --folds")
    return [np.array(sorted(fold), np.int64) for fold in assigned]


def image_folds(labels: NDArray[np.int64], by_patient: Sequence[Indices], seed: int) -> list[Indices]:
    """The indices of each fold: single images at random, as many of each class as in the folds by patient."""
    rng = np.random.default_rng(derived_seed(seed, "images by class"))
    assigned: list[list[int]] = [[] for _ in by_patient]
    for label in np.unique(labels):
        ends = np.cumsum([(labels[fold] == label).sum() for fold in by_patient])[:-1]
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        for fold, images in zip(assigned, np.split(shuffled, ends), strict=True):
            fold += images.tolist()
    return [np.array(sorted(fold), np.int64) for fold in assigned]


def _require_patients(
    labels: NDArray[np.int64], patients: NDArray[np.str_], class_names: Sequence[str], folds: int
) -> None:
    """Raise SettingError if a class has fewer patients than there are folds, or there is one class only."""
    counts = {name: len(np.unique(patients[labels == i])) for i, name in enumerate(class_names) if (labels == i).any()}
    if len(counts) < 2:
        raise SettingError(f"the images are all of one class ({', '.join(counts)}), so there is nothing to learn")
    few = {name: count for name, count in counts.items() if count < folds}
    if few:
        smallest = min(few.values())
        advice = f"give --folds {smallest} or " if smallest >= 2 else ""
        raise SettingError(
            f"each class needs {folds} patients for each of {folds} folds to have one, but "
            f"{', '.join(f'{name} has {count}' for name, count in few.items())}; {advice}use shards of more patients "
            "or a higher --max-images"
        )
