"""Distances from the training's scans, their limits, and the features that they are of."""

import io

import numpy as np
import pytest

from octtrain.calibration.pixel_statistics import pixel_statistics, relative_noise
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
    distances = scans.distances(val.reshape(200, 8, -1).mean(axis=2), pixel_statistics(val), relative_noise(val))
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
        distances = scans.distances(features, pixel_statistics(images), relative_noise(images))
        exceeded = limits.exceeded(distances, np.ones(200))
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
    limit = limit_of_patients(scans.distances(inside, statistics, np.zeros(1000)).features, np.arange(1000))
    assert (scans.distances(between, statistics, np.zeros(1000)).features > limit).mean() > 0.99


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
        before, after = (getattr(each.distances(features, statistics, np.zeros(200)), name) for each in (scans, again))
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


def test_relative_noise_is_that_of_the_speckle_and_not_of_light_or_layers():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    layers = 100 + 60 * np.sin(rows / 3) + 0.3 * columns  # along the rows, as those of a retina
    for share in (0.05, 0.1, 0.2):
        # The median of |x| of a normal distribution is 0.674 of its standard deviation.
        for light in (0.5, 1.0):
            speckled = light * layers * (1 + share * rng.normal(size=layers.shape))
            [noise] = relative_noise(np.clip(np.rint(speckled), 0, 255).astype(np.uint8)[None])
            assert noise == pytest.approx(0.674 * share, rel=0.1)
    [calm] = relative_noise(np.rint(layers).astype(np.uint8)[None])
    assert calm < 0.005
    assert relative_noise(np.zeros((2, 16, 16), np.uint8)).tolist() == [0, 0]


def test_speckle_of_one_look_is_beyond_the_limit_of_noise_that_calmer_scans_keep():
    rng = np.random.default_rng(0)
    layers = 100 + 40 * np.sin(np.mgrid[:64, :64][0] / 3)

    def speckled(looks, count):
        return np.clip(layers * rng.gamma(looks, 1 / looks, (count, 64, 64)), 0, 255).astype(np.uint8)

    calm = relative_noise(speckled(rng.uniform(8, 40, (300, 1, 1)), 300))
    limit = limit_of_patients(calm, np.arange(300))
    distances = Distances(np.zeros(100), np.zeros(100), relative_noise(speckled(1, 100)))
    limits = Limits(features=1.0, pixels=1.0, noise=limit, crop_confidence=0.0)
    assert limits.exceeded(distances, np.ones(100))["noise"].all()
    assert (calm > limit).mean() < 0.02


def test_batches_are_joined_and_chosen_in_their_order():
    parts = [Distances(*(np.array([first + 10.0 * i]) for i in range(3))) for first in (1, 2)]
    joined = Distances.joined(parts)
    assert [joined.features.tolist(), joined.pixels.tolist(), joined.noise.tolist()] == [[1, 2], [11, 12], [21, 22]]
    chosen = joined.chosen([1, 0])
    assert [chosen.features.tolist(), chosen.pixels.tolist(), chosen.noise.tolist()] == [[2, 1], [12, 11], [22, 21]]
