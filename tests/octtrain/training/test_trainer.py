"""The training program: what a step does, on both backends the same and once compiled."""

import dataclasses
import itertools
import os
import subprocess
import sys

import pytest

pytest.importorskip("keras")
import keras
import numpy as np

from octprep.format.errors import SettingError
from octprep.format.manifest import Manifest
from octtrain.config import FitConfig
from octtrain.data.chunks import Chunk, words
from octtrain.data.feeds import MappedFeed
from octtrain.data.mapped import MappedImages
from octtrain.training.epochs import EpochState, train_epoch, validate
from octtrain.training.objective import Objective, confusion
from octtrain.training.programs import pixels_of, targets_of
from octtrain.training.trainer import Trainer
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow

CONFIG = FitConfig(model="tests.worlds.networks:tiny", epochs=3, seed=5).resolved(batch_size=6, precision="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of images whose bytes do not fill whole words, in numbers that do not fill whole batches and chunks."""
    folder = tmp_path_factory.mktemp("trainer") / "shards"
    write_shards(folder, {"train": 11, "val": 4, "test": 1}, height=17, width=19)
    return folder


def feed_of(kind, folder, trainer, config=CONFIG):
    images = (MappedImages(folder, split) for split in ("train", "val"))
    return kind(
        *images,
        batch_size=config.batch_size,
        chunk_steps=3,
        seed=config.seed,
        sampling=config.sampling,
        place=trainer.programs.place,
    )


def train(folder, kind=MappedFeed, config=CONFIG, epochs=2, **settings):
    """The trainer after some epochs, and their metrics."""
    trainer = Trainer(config, (17, 19, 1), [1.0] * 4, steps=7, **settings)
    feed = feed_of(kind, folder, trainer, config)
    assert feed.steps == 7
    metrics = []
    for epoch in range(epochs):
        trainer.reseed(config.seed, epoch)
        state = EpochState.begin(epoch, 4)
        train_epoch(trainer, feed, state, lambda *_: False)
        assert state.confusion.sum() == 42
        trainer.update_model()
        metrics.append({**state.metrics(), **validate(trainer, feed)})
    return trainer, metrics


SAME = """
import sys, numpy as np
from pathlib import Path
from octtrain.data.feeds import MappedFeed, ResidentFeed
from tests.octtrain.training.test_trainer import train
folder = Path(sys.argv[1])
for loop in (False, True):
    for kind in (MappedFeed, ResidentFeed):
        trainer, metrics = train(folder, kind, loop_on_device=loop)
        assert trainer.programs.compilations() == 1
        print(*[value for epoch in metrics for value in epoch.values()])
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_mapped_and_resident_images_give_the_same_training_by_one_compiled_program(folder, backend):
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", SAME, str(folder)],
        capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": backend}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [np.array(line.split(), float) for line in done.stdout.splitlines()]
    assert len(results) == 4
    for one, other in itertools.pairwise(results):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    assert len(set(results[0])) > 6


def test_different_seeds_and_epochs_have_different_random_states(folder):
    trainer = Trainer(CONFIG, (17, 19, 1), [1.0] * 4, steps=7)
    all_states = set()
    for seed in range(3):
        for epoch in range(4):
            trainer.reseed(seed, epoch)
            states = [np.asarray(v) for v in trainer.trained.variables if "seed_generator" in v.path]
            assert len(states) >= 2
            all_states |= {tuple(int(word) for word in state) for state in states}
    assert len(all_states) == 3 * 4 * len(states)
    assert len({key for key, _ in all_states}) == len(all_states)
    trainer.reseed(2, 3)
    again = [np.asarray(v) for v in trainer.trained.variables if "seed_generator" in v.path]
    assert all((a == b).all() for a, b in zip(states, again, strict=True))


def test_words_are_turned_back_into_pixels():
    for shape in ((3, 17, 19, 1), (2, 8, 4, 1)):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        rows = words(images)
        assert rows.dtype == np.uint32
        assert np.array_equal(keras.ops.convert_to_numpy(pixels_of(rows, shape[1:])), images)


def test_the_loss_is_the_weighted_cross_entropy_of_smoothed_labels():
    logits = np.array([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0], [9.0, 9.0, 9.0]], np.float32)
    labels = np.array([0, 2, -1], np.int32)
    objective = Objective(class_weights=[1.0, 2.0, 4.0], label_smoothing=0.3)
    losses = keras.ops.convert_to_numpy(objective.losses(logits, objective.targets(labels)))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = [
        -(0.8 * log_p[0, 0] + 0.1 * 2 * log_p[0, 1] + 0.1 * 4 * log_p[0, 2]),
        -(0.1 * log_p[1, 0] + 0.1 * 2 * log_p[1, 1] + 0.8 * 4 * log_p[1, 2]),
        0,  # what fills a batch does not count
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert keras.ops.convert_to_numpy(confusion(labels, logits, 3)).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_student_that_agrees_with_its_teacher_has_no_divergence():
    objective = Objective(class_weights=[1.0] * 3)
    logits = np.array([[2.0, 0.5, -1.0]], np.float32)
    teacher = np.exp(logits) / np.exp(logits).sum()
    targets = objective.targets(np.array([0], np.int32))
    alone, agreeing, disagreeing = (
        float(keras.ops.convert_to_numpy(objective.losses(logits, targets, p))[0])
        for p in (None, teacher, teacher[:, ::-1])
    )
    assert agreeing == pytest.approx(0.3 * alone, rel=1e-4)
    assert disagreeing > 2 * alone


def test_with_ema_the_kept_model_is_the_average_and_the_trained_one_is_not(folder):
    plain, _ = train(folder)
    averaged, metrics = train(folder, config=dataclasses.replace(CONFIG, ema=0.9))
    for one, other in zip(plain.network.get_weights(), averaged.network.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)  # the average has no influence on the training
    kernel = next(i for i, v in enumerate(averaged.model.variables) if "kernel" in v.path)
    assert not np.allclose(averaged.model.get_weights()[kernel], averaged.network.get_weights()[kernel], atol=1e-5)
    statistics = [i for i, v in enumerate(averaged.model.weights) if "moving_mean" in v.path]
    assert statistics
    for i in statistics:
        assert np.array_equal(averaged.model.get_weights()[i], averaged.network.get_weights()[i])
    assert 0 < metrics[-1]["val_loss"] < 10


def test_in_bfloat16_the_weights_and_the_kept_model_are_float32(folder):
    trainer, metrics = train(folder, config=dataclasses.replace(CONFIG, precision="bfloat16"))
    assert {v.dtype for v in trainer.network.weights} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in trainer.network.layers}
    assert {layer.compute_dtype for layer in trainer.model.layers} == {"float32"}
    _, exact = train(folder)
    assert metrics[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.1)
    assert metrics[-1]["loss"] != exact[-1]["loss"]
    assert keras.config.dtype_policy().name == "float32"


def test_images_are_changed_as_strongly_as_the_setting_says_and_not_at_all_by_0(folder):
    moves = {}
    for strength in (0.0, 1.0, 3.0):
        trainer = Trainer(dataclasses.replace(CONFIG, augmentation=strength), (17, 19, 1), [1.0] * 4, steps=7)
        feed = feed_of(MappedFeed, folder, trainer)
        chunk = next(feed.training(0))
        stored = np.asarray(chunk.images[0]).astype(float)
        moves[strength] = np.abs(trainer.augment(chunk, 6) - stored).mean()
    assert moves[0.0] == 0
    assert 0 < moves[1.0] < moves[3.0]


def test_mixup_mixes_images_and_labels_alike(folder):
    trainer, metrics = train(folder, config=dataclasses.replace(CONFIG, mixup=1.0))
    assert 0 < metrics[1]["loss"] < metrics[0]["loss"]
    targets = targets_of(trainer.networks, Objective(class_weights=[1.0] * 4), np.array([0, 1, 3, 3], np.int32), 0.75)
    assert keras.ops.convert_to_numpy(targets).tolist() == [
        [0.75, 0, 0, 0.25], [0, 0.75, 0, 0.25], [0, 0.25, 0, 0.75], [0.25, 0, 0, 0.75],
    ]  # fmt: skip
    shares = trainer.mix(epoch=1, first_step=0, count=500)
    assert 0.5 <= shares.min() < 0.55
    assert 0.95 < shares.max() <= 1
    assert np.array_equal(shares[100:], trainer.mix(epoch=1, first_step=100, count=400))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 17, 19, 1), dtype=np.uint8)
    layer = next(layer for layer in trainer.trained.layers if type(layer).__name__ == "MixUp")
    share = np.full((4, 1), 0.75, np.float32)
    out = keras.ops.convert_to_numpy(layer(pixels, share)).astype(float)
    assert np.abs(out - (0.75 * pixels + 0.25 * pixels[::-1])).max() <= 0.5


def test_only_the_head_is_trained_first_and_its_batch_statistics_stay(folder):
    trainer = Trainer(CONFIG, (17, 19, 1), [1.0] * 4, steps=7, head_only=True)
    before = trainer.network.get_weights()
    feed = feed_of(MappedFeed, folder, trainer)
    train_epoch(trainer, feed, EpochState.begin(0, 4), lambda *_: False)
    trainer.update_model()
    changed = [not np.array_equal(a, b) for a, b in zip(before, trainer.network.get_weights(), strict=True)]
    assert changed == ["head" in v.path for v in trainer.network.weights]


def test_biases_and_scales_do_not_decay(folder):
    """With a learning rate but no gradient, decay is all that changes a weight."""
    config = dataclasses.replace(CONFIG, weight_decay=1.0, warmup=0.0)
    trainer = Trainer(config, (17, 19, 1), [0.0] * 4, steps=7)  # classes without weight have no loss
    for variable in trainer.network.weights:
        if not variable.path.endswith(("mean", "variance")):
            variable.assign(np.ones(variable.shape, np.float32))
    chunk = Chunk(
        images=trainer.programs.place(np.zeros((1, 6, 17, 19, 1), np.uint8)),
        order=np.zeros((1, 6), np.int32), labels=np.zeros((1, 6), np.int32), steps=1,
    )  # fmt: skip
    trainer.train(chunk, trainer.programs.zeros(), 0, 0)
    trainer.programs.update_variables()
    for variable in trainer.trained.trainable_variables:
        decayed = not np.allclose(np.asarray(variable), 1)
        assert decayed == variable.path.endswith("kernel"), variable.path


def test_a_loss_that_is_not_finite_ends_the_training_at_once(folder):
    config = dataclasses.replace(CONFIG, lr=10.0, clip_norm=0.0, warmup=0.0)
    trainer = Trainer(config, (17, 19, 1), [1e30] * 4, steps=7)
    with pytest.raises(SettingError, match=r"no longer a number in epoch 1"):
        train_epoch(trainer, feed_of(MappedFeed, folder, trainer), EpochState.begin(0, 4), lambda *_: False)


def test_patients_are_sampled_by_number_too(folder):
    config = dataclasses.replace(CONFIG, sampling="patients")
    _, metrics = train(folder, config=config)
    assert metrics[0]["loss"] != train(folder)[1][0]["loss"]
    assert Manifest.load(folder).records("train") == 44
