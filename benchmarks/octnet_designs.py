"""How fast designs of octnets train and infer, how large they are, and how well they classify after a few epochs.

    python -m benchmarks.octnet_designs
    python -m benchmarks.octnet_designs --shards shards --epochs 8 --only s m

Prints, for Markdown, of each design: weights and multiplications (MAC) in millions, and images per second of training
and of inference, as the fastest of several rounds in which all designs take turns, so that other work on the machine
harms all of them alike. Training is a step of AdamW in TensorFlow's graph mode without XLA, with a loss from logits, on
batches of 32 images of 224x224. With --shards: balanced accuracy on val and test together, averaged over seeds, after
equal epochs; the learning rate is 0.001 with a cosine down to 0.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks import old_octnet
from benchmarks.models import multiplications
from octtrain.models import logits_model
from octtrain.models.augmentation import augmented
from octtrain.models.octnet import octnet
from octtrain.models.own import build_own_model
from octtrain.models.parts import classify

BATCH, SIDE, CLASSES = 32, 224, 4

DESIGNS = {  # widths and blocks of the stages, side and stride of the stem
    "s-patch": partial(octnet, widths=(16, 32, 64, 128), blocks=(0, 1, 1, 1), stem=4, stride=4),
    "s-overlap": partial(octnet, widths=(16, 32, 64, 128), blocks=(0, 1, 1, 1), stem=7, stride=4),
    "s-wide": partial(octnet, widths=(24, 48, 96, 192), blocks=(0, 1, 1, 1), stem=7, stride=4),
    "s-late": partial(octnet, widths=(16, 32, 64, 128), blocks=(0, 0, 2, 2), stem=7, stride=4),
    "s-eighth": partial(octnet, widths=(32, 64, 128), blocks=(1, 1, 1), stem=8, stride=8),
    "s-eighth-overlap": partial(octnet, widths=(32, 64, 128), blocks=(1, 2, 1), stem=11, stride=8),
    "m-patch": partial(octnet, widths=(32, 64, 128, 256), blocks=(0, 2, 2, 2), stem=4, stride=4),
    "m-overlap": partial(octnet, widths=(32, 64, 128, 256), blocks=(0, 2, 2, 2), stem=7, stride=4),
    "m-early": partial(octnet, widths=(32, 64, 128, 256), blocks=(1, 2, 2, 1), stem=7, stride=4),
    "m-late": partial(octnet, widths=(32, 64, 128, 256), blocks=(0, 1, 3, 2), stem=7, stride=4),
    "m-eighth": partial(octnet, widths=(64, 128, 256), blocks=(2, 2, 1), stem=11, stride=8),
    "l-early": partial(octnet, widths=(64, 128, 256, 512), blocks=(1, 2, 2, 1), stem=7, stride=4),
    "l-overlap": partial(octnet, widths=(64, 128, 256, 512), blocks=(0, 2, 2, 2), stem=7, stride=4),
    "l-late": partial(octnet, widths=(64, 128, 256, 512), blocks=(0, 2, 3, 2), stem=7, stride=4),
}
OLD = {"s-old": old_octnet.octnet_s, "m-old": old_octnet.octnet_m}


def build(name: str, height: int, width: int, classes: int) -> keras.Model:
    """A design as a model from pixels to probabilities."""
    if name in OLD:
        return build_own_model(f"benchmarks.old_octnet:{OLD[name].__name__}", (height, width, 1), classes)
    pixels = keras.Input((height, width, 1), dtype="uint8")
    return keras.Model(pixels, classify(DESIGNS[name](pixels, "none"), classes), name=name)


def training_step(logits: keras.Model, optimizer: keras.optimizers.Optimizer) -> Callable[..., tf.Tensor]:
    """A function of images and labels that makes one step with a model that gives logits, and returns the loss."""
    optimizer.build(logits.trainable_variables)

    @tf.function(jit_compile=False, reduce_retracing=True)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                labels, logits(images, training=True), from_logits=True
            )
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, logits.trainable_variables), logits.trainable_variables)
        return loss

    return step


def rates(names: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Images per second of training and of inference of each design: the fastest of so many rounds."""
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 1), dtype=np.uint8))
    labels = tf.constant(np.arange(BATCH) % CLASSES)
    calls: dict[tuple[str, bool], Callable[[], object]] = {}
    for name in names:
        model = build(name, SIDE, SIDE, CLASSES)
        step = training_step(logits_model(model), keras.optimizers.AdamW(1e-3))
        infer = tf.function(partial(model, training=False), jit_compile=False)
        calls[name, True], calls[name, False] = partial(step, images, labels), partial(infer, images)
        for call in (calls[name, True], calls[name, False]):
            call()  # traces
    seconds = dict.fromkeys(calls, np.inf)
    for _ in range(rounds):
        for key, call in calls.items():
            begin = time.perf_counter()
            np.asarray(call())  # waits for the result
            seconds[key] = min(seconds[key], time.perf_counter() - begin)
    return {name: (BATCH / seconds[name, True], BATCH / seconds[name, False]) for name in names}


def read(folder: Path, splits: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All images and labels of the splits."""
    from octtrain.data.stream import batches

    parts = [[np.asarray(array) for array in batch] for batch in batches(folder, splits)]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def accuracy(name: str, train, judged, epochs: int, seed: int) -> float:
    """Balanced accuracy on the judged images after so many epochs on those of train."""
    keras.utils.set_random_seed(seed)
    (images, labels), (test_images, test_labels) = train, judged
    model = build(name, *images.shape[1:3], int(labels.max()) + 1)
    steps = len(images) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, epochs * steps - steps, warmup_target=1e-3, warmup_steps=min(steps, 100)
    )
    step = training_step(augmented(logits_model(model), seed), keras.optimizers.AdamW(rate, weight_decay=1e-4))
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(images))[: steps * BATCH].reshape(steps, BATCH)
        for chosen in order:
            step(tf.constant(images[chosen]), tf.constant(labels[chosen]))
    predicted = model.predict(test_images, batch_size=64, verbose=0).argmax(axis=1)
    return float(np.mean([(predicted == test_labels)[test_labels == label].mean() for label in np.unique(test_labels)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="a folder of shards with train, val and test")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=[""], help="designs whose names begin like this")
    options = parser.parse_args()
    names = [name for name in (*OLD, *DESIGNS) if name.startswith(tuple(options.only))]
    measured = rates(names, options.rounds) if options.rounds else {}
    data = [read(options.shards, ("train",)), read(options.shards, ("val", "test"))] if options.shards else None
    print("| design | weights, M | MAC, M | training, images/s | inference, images/s | balanced accuracy, % |")
    print("|---|---|---|---|---|---|")
    for name in names:
        model = build(name, SIDE, SIDE, CLASSES)
        values = [accuracy(name, *data, options.epochs, seed) * 100 for seed in range(options.seeds)] if data else []
        shown = f"{np.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})" if values else ""
        speed = " | ".join(f"{value:,.0f}" for value in measured.get(name, ())) or " | "
        print(
            f"| {name} | {model.count_params() / 1e6:.2f} | {multiplications(model) / 1e6:.0f} | {speed} | {shown} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
