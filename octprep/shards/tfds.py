"""The files that let TensorFlow Datasets (TFDS) open a folder of shards: `tfds.builder_from_directory(FOLDER)`.

TFDS reads which files there are from dataset_info.json, what a record holds from features.json, and the names of the
classes from label.labels.txt (https://www.tensorflow.org/datasets/external_tfrecord). All three follow from the
manifest, so it does not name them: they may be deleted, and `octprep index` writes them again. TFDS is not needed to
write them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octprep.format.files import atomic_write
from octprep.format.manifest import (
    AFFINE,
    FORMAT_VERSION,
    IMAGE,
    LABEL,
    NUMBER,
    PATH,
    PATIENT,
    REPEAT,
    ROW_OFFSET,
    SHA256,
    SOURCE_SIZE,
    Manifest,
    read_folder_file,
)

TFDS_NAMES = ("dataset_info.json", "features.json", f"{LABEL}.labels.txt")

_CLASSES = "tensorflow_datasets.core.features"


def tfds_files(manifest: Manifest) -> dict[str, bytes]:
    """The content of the files TFDS_NAMES of a folder of shards, by name."""
    contents = (_dataset_info(manifest), _features(manifest), "".join(f"{name}\n" for name in manifest.class_names))
    return {name: content.encode() for name, content in zip(TFDS_NAMES, contents, strict=True)}


def write_tfds_files(folder: Path, manifest: Manifest) -> None:
    """Write those of the files that are missing from a folder or are not as they should be. Raises OSError."""
    for name, content in tfds_files(manifest).items():
        if tfds_problem(folder / name, content):
            atomic_write(folder / name, content)


def tfds_problem(path: Path, expected: bytes) -> str:
    """How a file differs from what `tfds_files` says, as the rest of a sentence about it; "" if it does not."""
    try:
        return "" if read_folder_file(path) == expected else "does not match the manifest"
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _dataset_info(manifest: Manifest) -> str:
    """The splits and their files. A split without records is left out, as TFDS cannot read one."""
    splits = [
        {
            "name": split,
            "filepathTemplate": "{SPLIT}/{SHARD_X_OF_Y}.{FILEFORMAT}",
            "numBytes": str(sum(shard.bytes for shard in shards)),
            "shardLengths": [str(shard.records) for shard in shards],
        }
        for split, shards in manifest.splits.items()
        if manifest.records(split)
    ]
    return _json(
        {
            "name": "octprep",
            "version": f"{FORMAT_VERSION}.0.0",
            "description": f"Retinal OCT B-scans prepared by octprep; dataset sha256:{manifest.digest}",
            "fileFormat": "tfrecord",
            "splits": splits,
        }
    )


def _features(manifest: Manifest) -> str:
    """The features of a record, as `octprep.shards.records` writes them."""
    recipe = manifest.recipe
    shape = (recipe.height, recipe.width, 1)
    text = {"pythonClassName": f"{_CLASSES}.text_feature.Text", "text": {}}
    features: dict[str, Mapping[str, Any]] = {
        IMAGE: _tensor("uint8", *shape, encoding="bytes"),
        LABEL: {
            "pythonClassName": f"{_CLASSES}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(manifest.class_names))},
        },
        PATIENT: text,
        PATH: text,
        NUMBER: _tensor("int64"),
        SHA256: text,  # any bytes
        SOURCE_SIZE: _tensor("int64", 2),
        AFFINE: _tensor("float32", 6),
        REPEAT: _tensor("int64"),
    }
    if manifest.config.encoding == "png":
        features[IMAGE] = {
            "pythonClassName": f"{_CLASSES}.image_feature.Image",
            "image": {"dtype": "uint8", "encodingFormat": "png", "shape": _shape(*shape)},
        }
    features |= dict.fromkeys(manifest.stated, text)
    if recipe.flatten:
        features[ROW_OFFSET] = _tensor("float32", recipe.width)
    return _json(
        {
            "pythonClassName": f"{_CLASSES}.features_dict.FeaturesDict",
            "featuresDict": {"features": features},
        }
    )


def _tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
    tensor = {"dtype": dtype, "encoding": encoding, "shape": _shape(*shape)}
    return {"pythonClassName": f"{_CLASSES}.tensor_feature.Tensor", "tensor": tensor}


def _shape(*shape: int) -> dict[str, list[str]]:
    return {"dimensions": [str(side) for side in shape]} if shape else {}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
