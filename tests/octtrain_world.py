"""Small folders of shards, written with octprep's own bytes, for the tests of octtrain."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from octprep import tfrecord
from octprep.schema import BuildConfig, Leaks, Manifest, Recipe, Shard

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def picture(label: int, rng: np.random.Generator, height: int = 32, width: int = 32) -> np.ndarray:
    """A noisy field with one bright band, whose row tells the class: (height, width) uint8."""
    image = rng.integers(0, 60, (height, width))
    top = 2 + label * height // 4
    image[top : top + height // 8] += 180
    return image.astype(np.uint8)


def record(image: np.ndarray, label: int, patient: str, scan: str, encoding: str = "raw", copy: int = 0) -> bytes:
    data = image.tobytes() if encoding == "raw" else cv2.imencode(".png", image)[1].tobytes()
    return tfrecord.encode(
        {
            "image": data,
            "label": [label],
            "patient": patient.encode(),
            "scan": scan.encode(),
            "number": [1],
            "sha256": hashlib.sha256(scan.encode()).digest(),
            "source_size": list(image.shape),
            "affine": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "copy": [copy],
        }
    )


def write_shards(
    folder: Path,
    per_class: Mapping[str, int],
    *,
    classes: Sequence[str] = CLASSES,
    shards: int = 2,
    encoding: str = "raw",
    balance: str = "none",
    split: str = "grouped",
    leaks: Leaks | None = None,
    seed: int = 0,
    height: int = 32,
    width: int = 32,
    skip: Mapping[str, Sequence[str]] | None = None,  # split -> classes it has none of
) -> tuple[Manifest, dict[str, list[tuple[str, int, np.ndarray]]]]:
    """Write a finished folder; returns its manifest and, per split, (scan, label, pixels) in the shards' order."""
    rng = np.random.default_rng(seed)
    written: dict[str, list[tuple[str, int, np.ndarray]]] = {}
    splits: dict[str, tuple[Shard, ...]] = {}
    for name, count in per_class.items():
        rows = []
        for label, class_name in enumerate(classes):
            for i in range(0 if skip and class_name in skip.get(name, ()) else count):
                scan = f"{name}/{class_name}/{class_name}-{1000 * len(splits) + i}-1.jpeg"
                rows.append((scan, label, picture(label, rng, height, width)))
        order = rng.permutation(len(rows))
        parts = [[rows[i] for i in order[k::shards]] for k in range(shards)]
        (folder / name).mkdir(parents=True)
        found = []
        for k, part in enumerate(parts):
            file = f"{name}/{k:05d}-of-{shards:05d}.tfrecord"
            data = b"".join(
                tfrecord.frame(record(image, label, scan.split("-")[-2], scan, encoding)) for scan, label, image in part
            )
            (folder / file).write_bytes(data)
            counts = tuple(sum(row[1] == label for row in part) for label in range(len(classes)))
            found.append(
                Shard(
                    name=file,
                    records=len(part),
                    per_class=counts,
                    bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )
        written[name] = [row for part in parts for row in part]
        splits[name] = tuple(found)
    manifest = Manifest(
        class_names=tuple(classes),
        config=BuildConfig(
            recipe=Recipe(height=height, width=width, denoise="none", crop="none", clean=False),
            split=split,
            balance=balance,
            encoding=encoding,
            allow_leaks=split == "official" and bool(leaks),
            seed=seed,
        ),
        splits=splits,
        leaks=leaks or Leaks(),
        source={"listing": "", "found": sum(map(len, written.values()))},
        images_sha256="",
        libraries={},
    )
    manifest.save(folder)
    return manifest, written
