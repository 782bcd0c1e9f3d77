"""How unlike the training's scans an image is: two distances, its noise, and how sure its crop is.

features  the relative Mahalanobis distance (Ren et al., arXiv:2106.09022, 2021) of the model's pooled features: to the
          nearest class, with one covariance for all, less that to the training's scans as a whole
pixels    the Mahalanobis distance of the statistics of the stored pixels
noise     how much neighbouring pixels differ, relative to how bright they are: strong speckle
crop      octprep's confidence that the crop holds the retina, where the recipe crops to it

Covariances are shrunk towards a multiple of the unit matrix. Each signal has a limit that 99 % of val's patients keep
with all of their scans; a scan beyond any of them is unfamiliar.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FAMILIAR = 0.99  # share of val's patients whose scans all keep a limit
MAX_IMAGES = 4000  # of the training that distances are measured from; as many of each class
SHRINKAGE = 0.1  # of covariances, 0..1
_MIN_STD = 1e-6  # of a number that is the same in all images, so that it can be divided by

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Distances:
    """How far some images are from the training's scans, and how noisy they are."""

    features: Numbers  # (n,)
    pixels: Numbers  # (n,) from 0
    noise: Numbers  # (n,) from 0, of `relative_noise`

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several batches, one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def chosen(self, places: Sequence[int]) -> Self:
        """Those of some of the images, in the order given."""
        return type(self)(*(getattr(self, f.name)[places] for f in fields(self)))


@dataclass(frozen=True)
class Gaussians:
    """Means with a common covariance, of numbers divided by their standard deviations."""

    scale: Numbers  # (numbers,) standard deviations
    means: Numbers  # (means, numbers)
    precision: Numbers  # (numbers, numbers) inverse of the covariance

    @classmethod
    def fit(cls, values: Numbers, group: NDArray[np.int64]) -> Self:
        """Fit them. values: (n, numbers).  group: (n,) the number, from 0, of the mean that each belongs to."""
        scale = np.maximum(values.std(axis=0), _MIN_STD)
        scaled = values / scale
        groups, group = np.unique(group, return_inverse=True)
        means = np.stack([scaled[group == i].mean(axis=0) for i in range(len(groups))])
        rest = scaled - means[group]
        covariance = rest.T @ rest / len(rest)
        size = len(scale)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * (np.trace(covariance) / size + _MIN_STD) * np.eye(size)
        return cls(scale, means, np.linalg.inv(shrunk))

    def distance(self, values: Numbers) -> Numbers:
        """(n,) squared Mahalanobis distances to the nearest mean, from 0."""
        scaled = values / self.scale
        to_means = [((scaled - mean) @ self.precision * (scaled - mean)).sum(axis=1) for mean in self.means]
        return np.asarray(np.min(to_means, axis=0))


@dataclass(frozen=True)
class TrainingScans:
    """What the images of a training are like."""

    classes: Gaussians  # of features, a mean for each class
    all: Gaussians  # of features, one mean
    pixels: Gaussians  # of the statistics of pixels, one mean

    @classmethod
    def fit(cls, features: NDArray[np.floating[Any]], labels: NDArray[np.int64], statistics: Numbers) -> Self:
        """Fit all three. features: (n, features).  labels: (n,) class.  statistics: (n, numbers) of pixels."""
        exact, one = features.astype(np.float64), np.zeros(len(features), np.int64)
        return cls(Gaussians.fit(exact, labels), Gaussians.fit(exact, one), Gaussians.fit(statistics, one))

    def distances(self, features: NDArray[np.floating[Any]], statistics: Numbers, noise: Numbers) -> Distances:
        """The distances of images. features: (n, features).  statistics: (n, numbers) of their pixels.  noise: (n,)."""
        exact = features.astype(np.float64)
        distance = self.classes.distance(exact) - self.all.distance(exact)
        return Distances(distance, self.pixels.distance(statistics), noise)

    def as_bytes(self) -> bytes:
        """The bytes of features.npz. The precisions are float32, which takes half the space."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {
            f"{name}_{key}": np.asarray(value, np.float32 if key == "precision" else np.float64)
            for name, fitted in (("classes", self.classes), ("all", self.all), ("pixels", self.pixels))
            for key, value in vars(fitted).items()
        }
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `as_bytes` made `data` of. Raises ValueError or KeyError for any other bytes."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(
                    *(
                        Gaussians(*(arrays[f"{name}_{key}"].astype(np.float64) for key in Gaussians.__annotations__))
                        for name in ("classes", "all", "pixels")
                    )
                )
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Beyond which of these an image is unfamiliar."""

    features: float  # the largest distance
    pixels: float  # the largest distance
    noise: float  # the largest share of the brightness
    crop_confidence: float  # the least, 0..1

    @classmethod
    def fit(cls, distances: Distances, crop_confidence: Numbers, patient: NDArray[np.int64]) -> Self:
        """The limits that FAMILIAR of the patients keep with all scans. patient: (n,) number from 0."""
        return cls(
            features=limit_of_patients(distances.features, patient),
            pixels=limit_of_patients(distances.pixels, patient),
            noise=limit_of_patients(distances.noise, patient),
            crop_confidence=-limit_of_patients(-crop_confidence, patient),
        )

    def exceeded(self, distances: Distances, crop_confidence: Numbers) -> dict[str, NDArray[np.bool_]]:
        """By which signals each image is unfamiliar: signal -> (n,). crop_confidence: (n,) 0..1."""
        return {
            "features": distances.features > self.features,
            "pixels": distances.pixels > self.pixels,
            "noise": distances.noise > self.noise,
            "crop": crop_confidence < self.crop_confidence,
        }

    def as_json(self) -> dict[str, float]:
        """For json.dumps."""
        return asdict(self)


def limit_of_patients(distance: Numbers, patient: NDArray[np.int64]) -> float:
    """The limit that a new patient's largest distance exceeds with a probability of 1 - FAMILIAR, at most.

    That is the distance of rank FAMILIAR * (patients + 1) among the patients' largest ones (Vovk et al. 2005); of fewer
    than 99 patients it is the largest of all, which a new one exceeds with a probability of 1 / (patients + 1).

    distance: (n,).  patient: (n,) number from 0, each of which occurs.
    """
    largest = np.full(int(patient.max()) + 1, -np.inf)
    np.maximum.at(largest, patient, distance)
    largest = np.sort(largest[np.isfinite(largest)])
    rank = math.ceil(FAMILIAR * (len(largest) + 1) - 1e-9)
    return float(largest[min(rank, len(largest)) - 1])
