"""Input rate: octtrain's batches from shards compared with keras.utils.image_dataset_from_directory.

Both give shuffled batches of 32 images, 224x224 gray, of the same synthetic scans, and are timed after a pass to warm
up: the file cache is warm for both, octtrain's epochs follow one another without a break as they do in training, and
Keras' dataset starts again each time, as it does there. Prints both rates and, last, the ratio.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BATCH = 32  # images


def rate(batches: Iterable[Any], warm: int) -> float:
    """Images a second, without the first `warm` batches, until the last batch has arrived.

    The time after the last batch does not count: when an iterator is destroyed, TensorFlow's tuner of parallelism
    sometimes waits for up to a second.
    """
    start, end, images = time.perf_counter(), 0.0, 0
    for i, (pixels, _label) in enumerate(batches):
        end = time.perf_counter()
        if i < warm:
            start = end
        else:
            images += len(pixels)
    return images / (end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=640, help="about 12 scans each")
    options = parser.parse_args()
    octprep = [sys.executable, "-m", "octprep.cli"]
    with tempfile.TemporaryDirectory() as folder:
        src, out = Path(folder, "scans"), Path(folder, "shards")
        synthesize = [*octprep, "synthesize", str(src), "--no-faults", "--patients", str(options.patients)]
        subprocess.run(synthesize, check=True)
        subprocess.run([*octprep, "build", "--src", str(src), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)

        import keras

        from octprep.format.manifest import Manifest
        from octtrain.data.stream import steps, training_batches

        from_directory = keras.utils.image_dataset_from_directory(
            src / "train", color_mode="grayscale", image_size=(224, 224), batch_size=BATCH, shuffle=True, seed=0
        )
        keras_rate = rate(itertools.chain(from_directory, from_directory), len(from_directory))
        warm = steps(Manifest.load(out), "train", BATCH)
        octtrain_rate = rate(training_batches(out, "train", batch_size=BATCH, epochs=range(5)), warm)
    print(f"image_dataset_from_directory {keras_rate:8.0f} images/s")
    print(f"octtrain                     {octtrain_rate:8.0f} images/s")
    print(f"ratio {octtrain_rate / keras_rate:.1f}")


if __name__ == "__main__":
    main()
