"""Small folders of shards, written with octprep's own bytes, for the tests of octtrain."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.images_csv import ExcludedRow, Row
from octprep.format.manifest import Leaks, Manifest, Shard
from octprep.shards import indexing, tfrecord
from tests.worlds.tables import image_row

NOTHING = hashlib.sha256().hexdigest()
CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def picture(label: int, rng: np.random.Generator, height: int = 32, width: int = 32) -> np.ndarray:
    """A noisy field with one bright band, whose row depends on the class: (height, width) uint8."""
    image = rng.integers(0, 60, (height, width))
    top = 2 + label * height // 4
    image[top : top + height // 8] += 180
    return image.astype(np.uint8)


def record(image: np.ndarray, label: int, patient: str, scan: str, encoding: str = "raw") -> bytes:
    """A record as octprep writes it; all but the arguments is arbitrary."""
    data = image.tobytes() if encoding == "raw" else cv2.imencode(".png", image)[1].tobytes()
    return tfrecord.encode(
        {
            "image": data,
            "label": [label],
            "patient": patient.encode(),
            "path": scan.encode(),
            "number": [1],
            "sha256": hashlib.sha256(scan.encode()).digest(),
            "source_size": list(image.shape),
            "affine": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "repeat": [0],
        }
    )


Scan = tuple[str, int, np.ndarray]  # path, label, pixels; the patient's id is in the path


def write_shards(
    folder: Path,
    per_class: Mapping[str, int],
    *,
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
    height: int = 32,
    width: int = 32,
    skip: Mapping[str, Sequence[str]] | None = None,  # split -> classes it has none of
    first_patient: int = 0,
    **settings: Any,
) -> tuple[Manifest, dict[str, list[Scan]]]:
    """Write a finished folder; returns its manifest and, per split, (scan, label, pixels) in the shards' order."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Scan]] = {}
    for name, count in per_class.items():
        scans = []
        for label, class_name in enumerate(classes):
            for i in range(0 if skip and class_name in skip.get(name, ()) else count):
                scan = f"{name}/{class_name}/{class_name}-{first_patient + 1000 * len(rows) + i}-1.jpeg"
                scans.append((scan, label, picture(label, rng, height, width)))
        rows[name] = [scans[i] for i in rng.permutation(len(scans))]
    return write_folder(folder, rows, classes=classes, seed=seed, height=height, width=width, **settings)


def write_folder(
    folder: Path,
    rows: Mapping[str, Sequence[Scan]],
    *,
    classes: Sequence[str] = CLASSES,
    shards: int = 2,
    encoding: str = "raw",
    balance: str = "none",
    split: str = "by-patient",
    leaks: Leaks | None = None,
    seed: int = 0,
    height: int = 32,
    width: int = 32,
) -> tuple[Manifest, dict[str, list[Scan]]]:
    """Write these scans as a finished folder, in turn to the shards of a split; returns the same as write_shards."""
    written: dict[str, list[Scan]] = {}
    splits: dict[str, tuple[Shard, ...]] = {}
    for name, scans in rows.items():
        shard_scans = [scans[k::shards] for k in range(shards)]
        (folder / name).mkdir(parents=True)
        written_shards = []
        for k, members in enumerate(shard_scans):
            file = f"{name}/{k:05d}-of-{shards:05d}.tfrecord"
            data = b"".join(
                tfrecord.frame(record(image, label, patient_of(scan), scan, encoding)) for scan, label, image in members
            )
            (folder / file).write_bytes(data)
            counts = tuple(sum(row[1] == label for row in members) for label in range(len(classes)))
            written_shards.append(
                Shard(
                    name=file,
                    records=len(members),
                    per_class=counts,
                    bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )
        written[name] = [row for members in shard_scans for row in members]
        splits[name] = tuple(written_shards)
    manifest = Manifest(
        class_names=tuple(classes),
        config=BuildConfig(
            recipe=Preprocessing(height=height, width=width, denoise="none", crop="none", inpaint_fill=False),
            split=split,
            balance=balance,
            encoding=encoding,
            allow_leaks=split == "as-given" and bool(leaks),
            seed=seed,
        ),
        splits=splits,
        leaks=leaks or Leaks(),
        source={
            "listing": NOTHING,
            "found": sum(map(len, written.values())),
            "kept": sum(map(len, written.values())),
            "excluded": 0,
        },
        images_sha256=NOTHING,
        duplicates_sha256=NOTHING,
        libraries={},
    )
    table = [
        image_row(
            scan,
            label=classes[label],
            patient=patient_of(scan),
            sha256=hashlib.sha256(scan.encode()).hexdigest(),
            split=name,
            record_count=count,
        )
        for name, scans in written.items()
        for (scan, label), count in Counter((scan, label) for scan, label, _ in scans).items()
    ]
    broken = ExcludedRow(path="broken.jpeg", exclusion_reason="truncated JPEG")
    return write_images(folder, manifest, [*table, broken]), written


def write_images(folder: Path, manifest: Manifest, rows: Sequence[Row]) -> Manifest:
    """Write images.csv, a manifest that names it, and the index."""
    content = images_csv.encode(rows)
    (folder / "images.csv").write_bytes(content)
    manifest = dataclasses.replace(manifest, images_sha256=hashlib.sha256(content).hexdigest())
    manifest.save(folder)
    indexing.write_index(folder, indexing.make_index(folder, manifest, [row.path for row in rows]))
    return manifest


def untrained_run(folder: Path, manifest: Manifest, shards: Path) -> Any:
    """A run whose model was never trained."""
    from octtrain.config import FitConfig
    from octtrain.models import build_model
    from octtrain.runs.folder import RunFolder
    from octtrain.runs.run import Run

    config = FitConfig(model="tests.worlds.networks:small")
    run = Run(folder=folder, config=config, manifest=manifest, shards=shards)
    run_folder = RunFolder(run)
    run_folder.initialise()
    run_folder.save_model(build_model(config.model, run.image_shape, len(manifest.class_names)), folder / "model.keras")
    return run


def patient_of(scan: str) -> str:
    return scan.split("-")[-2]
