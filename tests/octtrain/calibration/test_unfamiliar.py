"""Distances from the training's scans, their limits, and the features that they are of."""

import io

import numpy as np
import pytest

from octtrain.calibration.pixel_statistics import pixel_statistics
from octtrain.calibration.unfamiliar import Distances, Gaussians, Limits, TrainingScans, limit_of_patients
from tests.worlds.shards import picture


def pictures(count, seed, side=64):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return np.stack([picture(label, rng, side, side) for label in labels]), labels


def fitted(images, labels):
    features = images.reshape(len(images), 8, -1).mean(axis=2)
    return features, pixel_statistics(images), TrainingScans.fit(features, labels, pixel_statistics(images))


def test_other_images_are_beyond_the_limits_that_scans_keep():
    train, val = pictures(400, 0), pictures(200, 1)[0]
    _, _, scans = fitted(*train)
    distances = scans.distances(val.reshape(200, 8, -1).mean(axis=2), pixel_statistics(val))
    limits = Limits.fit(distances, np.ones(200), np.arange(200))
    new = pictures(200, 2)[0]
    others = {
        "new": new,
        "inverted": 255 - new,
        "upside down": new[:, ::-1],
        "on its side": new.swapaxes(1, 2),
        "noise": np.random.default_rng(0).integers(0, 256, new.shape).astype(np.uint8),
        "black": np.zeros_like(new),
    }
    share = {}
    for name, images in others.items():
        features = np.repeat(images.reshape(200, 8, -1).mean(axis=2).mean(axis=0)[None], 200, axis=0)
        exceeded = limits.exceeded(scans.distances(features, pixel_statistics(images)), np.ones(200))
        share[name] = exceeded["pixels"].mean()
        assert not exceeded["crop"].any()
    assert share.pop("new") < 0.05
    del share["upside down"]  # these pictures have no side that is up
    assert all(value > 0.95 for value in share.values()), share


def test_features_far_from_all_classes_are_beyond_their_limit():
    rng, labels = np.random.default_rng(0), np.arange(1000) % 4
    centres = 10 * np.eye(4, 6)
    scans = TrainingScans.fit(centres[labels] + rng.normal(size=(1000, 6)), labels, rng.normal(size=(1000, 3)))
    inside = centres[labels] + rng.normal(size=(1000, 6))
    between = centres.mean(axis=0) + rng.normal(size=(1000, 6))
    statistics = rng.normal(size=(1000, 3))
    limit = limit_of_patients(scans.distances(inside, statistics).features, np.arange(1000))
    assert (scans.distances(between, statistics).features > limit).mean() > 0.99


def test_a_limit_counts_patients_and_not_images():
    patient = np.repeat(np.arange(200), 3)
    distance = np.arange(600.0)
    assert limit_of_patients(distance, patient) == 3 * 198 + 2  # the 199th of 200 patients' largest
    assert limit_of_patients(distance[:30], patient[:30]) == 29  # of ten patients the largest of all
    many = np.append(distance, np.full(1000, 1000.0))  # one patient with a thousand far images
    assert limit_of_patients(many, np.append(patient, np.full(1000, 200))) == 599


def test_what_distances_are_measured_from_survives_the_file_and_other_files_are_refused():
    features, statistics, scans = fitted(*pictures(200, 0))
    again = TrainingScans.from_bytes(scans.as_bytes())
    for name in ("features", "pixels"):
        before, after = (getattr(each.distances(features, statistics), name) for each in (scans, again))
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3)
    pickled = io.BytesIO()
    np.savez(pickled, classes_scale=np.array([{}], object))
    for data in (b"", b"PK", pickled.getvalue()):
        with pytest.raises((ValueError, KeyError)):
            TrainingScans.from_bytes(data)


def test_numbers_that_never_change_do_not_stop_the_fit():
    values = np.zeros((50, 3))
    values[:, 0] = np.arange(50)
    distance = Gaussians.fit(values, np.zeros(50, np.int64)).distance(values)
    assert np.isfinite(distance).all()


@pytest.mark.parametrize("shape", [(16, 16), (33, 47), (224, 224)])
def test_statistics_are_defined_for_all_sizes_of_images(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    statistics = pixel_statistics(np.concatenate([images, np.zeros((1, *shape), np.uint8)]))
    assert statistics.shape[0] == 4
    assert np.isfinite(statistics).all()
    np.testing.assert_allclose(pixel_statistics(images[1:2])[0], statistics[1], rtol=1e-5, atol=1e-5)


def test_batches_are_joined_in_their_order():
    joined = Distances.joined(
        [Distances(np.array([1.0]), np.array([2.0])), Distances(np.array([3.0]), np.array([4.0]))]
    )
    assert (joined.features.tolist(), joined.pixels.tolist()) == ([1, 3], [2, 4])
