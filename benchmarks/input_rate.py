"""Reading against the usual way: octtrain's batches from shards, and keras.utils.image_dataset_from_directory.

Both give shuffled batches of 224x224 gray images of the same phantoms. Prints both rates and last the ratio.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def rate(dataset: object, passes: int) -> float:
    """Images a second over some passes, after one to warm up."""
    for _ in dataset:  # type: ignore[attr-defined]
        pass
    start, images = time.perf_counter(), 0
    for _ in range(passes):
        for pixels, _label in dataset:  # type: ignore[attr-defined]
            images += len(pixels)
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=150)
    options = parser.parse_args()
    octprep = [sys.executable, "-m", "octprep.cli"]
    with tempfile.TemporaryDirectory() as folder:
        src, out = Path(folder, "phantoms"), Path(folder, "shards")
        draw = [*octprep, "phantom", str(src), "--no-faults", "--patients", str(options.patients)]
        subprocess.run(draw, check=True)
        subprocess.run([*octprep, "build", "--src", str(src), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)

        import keras

        from octprep.schema import Manifest
        from octtrain.data import training_batches

        usual = keras.utils.image_dataset_from_directory(
            src / "train", color_mode="grayscale", image_size=(224, 224), batch_size=32, shuffle=True, seed=0
        )
        rival = rate(usual, 1)
        ours = rate(training_batches(out, Manifest.load(out), ("train",), 32, 0, epochs=range(1)), 5)
    print(f"image_dataset_from_directory {rival:8.0f} images/s")
    print(f"octtrain                     {ours:8.0f} images/s")
    print(f"ratio {ours / rival:.1f}")


if __name__ == "__main__":
    main()
