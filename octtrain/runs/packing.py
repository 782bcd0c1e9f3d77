"""Make a finished run small enough to come with the package: `python -m octtrain.runs.packing RUN`.

What is written is a run folder again, so that whatever reads a run reads it:

model.keras     the best epoch's model; weights in float16, which Keras makes float32 as it loads them
config.json     without paths of the machine that it was trained on
manifest.json   as it is: class names, recipe, digest of the synthetic dataset
exposure.csv    one image of each synthetic patient, of at most MAX_EXPOSED, see `_exposure`
history.csv     as it is
README.md       the model card
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import shlex
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePath

import h5py  # type: ignore[import-untyped]
import numpy as np

from octprep.format.errors import OctError, OutputError, SettingError
from octprep.format.files import atomic_write
from octprep.format.manifest import MANIFEST_NAME
from octprep.wording import listed, number
from octtrain import pretrained
from octtrain.model_files import WEIGHTS_MEMBER
from octtrain.runs import exposure
from octtrain.runs.exposure import EXPOSED_PATIENTS, EXPOSURE_NAME, TrainingImage
from octtrain.runs.history import HISTORY_NAME, best_epoch
from octtrain.runs.run import CONFIG_NAME, MODEL_NAME, Run, read_config

MAX_BYTES = 2_000_000  # of the packed model.keras
MAX_EXPOSED = 10_000  # images in the packed exposure.csv, about a megabyte
CARD_NAME = "README.md"
_PATIENT_PREFIX = "synthetic-"


def pack(run_folder: Path, out: Path = pretrained.FOLDER, *, made_by: str = "") -> Path:
    """Write a finished run as a small one into a folder, in place of the one that is there; returns the folder.

    made_by: the command that makes the run again, for the model card.

    Raises SourceError and ManifestError if the folder holds no finished run; SettingError if it cannot be packed: it
    was exposed to images that are not known, a weight is out of the range of float16, or the model is larger than
    MAX_BYTES; OutputError if the files cannot be written.
    """
    run = Run.load(run_folder)
    parameters = int(run.load_model().count_params())
    images, complete = run.exposure()
    if not complete:
        raise SettingError(f"{run_folder} started from weights whose training images are unknown; train it from none")
    model = _in_float16(run_folder / MODEL_NAME)
    if len(model) > MAX_BYTES:
        raise SettingError(
            f"the model of {run_folder} takes {len(model):,} bytes, and at most {MAX_BYTES:,} come with the package; "
            "train a smaller --model"
        )
    packed = _exposure(images)
    table = exposure.encode(packed)
    config = dataclasses.replace(
        run.config,
        weights=_name(run.config.weights),
        teacher=None if run.config.teacher is None else _name(run.config.teacher),
    )
    raw = read_config(run_folder) | {
        "shards": "shards",  # which do not come with the package
        "config": dataclasses.asdict(config),
        "exposure_sha256": hashlib.sha256(table).hexdigest(),
        EXPOSED_PATIENTS: exposure.patients_per_split(images),
    }
    run = dataclasses.replace(run, config=config)
    contents = {
        MODEL_NAME: model,
        EXPOSURE_NAME: table,
        MANIFEST_NAME: (run_folder / MANIFEST_NAME).read_bytes(),
        HISTORY_NAME: (run_folder / HISTORY_NAME).read_bytes(),
        CARD_NAME: _card(run, parameters, len(model), images, made_by).encode(),
        CONFIG_NAME: (json.dumps(raw, indent=1) + "\n").encode(),  # last, as it makes the folder a run
    }
    try:
        (out / CONFIG_NAME).unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            atomic_write(out / name, content)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror or error}); name another --out.") from None
    return out


def own_copy(run: Run, runs: Path) -> Run:
    """A run that may be written to: of the packaged one a copy in a folder of runs, made if need be; any other itself.

    Raises OutputError if the copy cannot be made, or its place holds something else.
    """
    if not pretrained.is_packaged(run.folder):
        return run
    folder = runs / pretrained.NAME
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(run.folder, folder)
        if (folder / MODEL_NAME).read_bytes() != (run.folder / MODEL_NAME).read_bytes():
            raise OutputError(
                f"{folder} holds other weights than this version's `{pretrained.NAME}`; rename that folder, or name "
                "it as the run to use it."
            )
    except OSError as error:
        raise OutputError(
            f"`{pretrained.NAME}` cannot be copied to {folder}, where results would be written "
            f"({error.strerror or error}); name a folder for them by --out DIR."
        ) from None
    return dataclasses.replace(run, folder=folder)


def _in_float16(path: Path) -> bytes:
    """The bytes of a .keras file whose floating-point weights are float16. Raises SettingError if one has no such."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name in archive.namelist():
            content = archive.read(name)
            # A fixed date, so that the same run gives the same bytes.
            member = zipfile.ZipInfo(name)
            member.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(member, _weights_in_float16(content) if name == WEIGHTS_MEMBER else content)
    return out.getvalue()


def _weights_in_float16(content: bytes) -> bytes:
    out = io.BytesIO()
    with h5py.File(io.BytesIO(content), "r") as weights, h5py.File(out, "w") as packed:

        def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Group):
                new = packed.require_group(name)
            else:
                values = item[()]
                if np.issubdtype(item.dtype, np.floating):
                    with np.errstate(over="ignore"):
                        values = np.asarray(values, np.float16)
                    if not np.isfinite(values).all():
                        raise SettingError(
                            f"the weights {name} are out of the range of float16; train with a lower --lr"
                        )
                new = packed.create_dataset(name, data=values)
            for key, value in item.attrs.items():
                new.attrs[key] = value

        weights.visititems(add)
        for key, value in weights.attrs.items():
            packed.attrs[key] = value
    return out.getvalue()


def _exposure(images: Sequence[TrainingImage]) -> tuple[TrainingImage, ...]:
    """One image of each synthetic patient and split, under an id that no genuine patient has; of at most MAX_EXPOSED.

    Ids of synthetic patients are random numbers, as those of the archive are, and would now and then name a patient of
    it. Contents cannot coincide: one of each patient shows a dataset that was drawn from the same seed. Of more
    patients those with the smallest SHA-256 are listed, which are spread evenly: of 67,000 patients one in seven, so a
    dataset that has 50 of them shows in all but 1 of 3,000 cases.
    """
    first: dict[tuple[str, str], TrainingImage] = {}
    for image in images:
        first.setdefault(
            (image.patient, image.split),
            image._replace(
                patient=f"{_PATIENT_PREFIX}{image.patient}", patient_group=f"{_PATIENT_PREFIX}{image.patient_group}"
            ),
        )
    return tuple(sorted(first.values(), key=lambda image: image.sha256)[:MAX_EXPOSED])


def _name(text: str) -> str:
    """A setting that may be a path, without the folders of this machine."""
    return PurePath(text).name or text


def _card(run: Run, parameters: int, size: int, images: Sequence[TrainingImage], made_by: str) -> str:
    manifest, history = run.manifest, run.history()
    epoch = best_epoch(history)
    patients = {image.patient_group for image in images}
    recipe = manifest.recipe
    return f"""# Weights `{pretrained.NAME}`

The network {run.config.model}, {number(parameters, "parameter")}, trained on synthetic B-scans alone, which
`octprep synthesize` draws. It has never been exposed to a scan of a person.

| | |
|---|---|
| Classes | {", ".join(manifest.class_names)} |
| Images | {recipe.height} x {recipe.width} pixels, `--crop {recipe.crop}`, `--denoise {recipe.denoise}` |
| Trained and selected on | {number(len(patients), "synthetic patient")}, dataset {manifest.digest} |
| Training images | {manifest.records(*run.provenance.trained_on):,} an epoch, {len(history)} epochs; \
epoch {epoch} is the best |
| Balanced accuracy on synthetic val | {history[epoch - 1]["val_balanced_accuracy"]:.4f} |
| Initial weights, teacher | {run.config.weights}, {run.config.teacher or "none"} |
| Seed | {run.config.seed} |
| Stored | {size:,} bytes, float16; computed in float32 |
| Made by | {f"`{made_by}`" if made_by else "`octtrain fit`, then `python -m octtrain.runs.packing`"} |
| Licence | Apache-2.0, as the package |

**Intended for** trying the programs without data, as a start for training on genuine scans
(`octtrain fit SHARDS --weights {pretrained.NAME}`), and as a baseline that has learnt from no patient.

**Not for** any clinical use. Accuracy on synthetic scans says nothing about genuine ones; evaluate it on your own
(`octtrain evaluate {pretrained.NAME} --dataset SHARDS`), where every patient is new to it.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The program: pack a run, and print what was written."""
    parser = argparse.ArgumentParser(description="Make a finished run small enough to come with the package.")
    parser.add_argument("run", type=Path, help="folder of a run, trained on synthetic scans alone")
    parser.add_argument("--out", type=Path, default=pretrained.FOLDER, help="by default the folder in the package")
    parser.add_argument("--made-by", default="", help="the command that makes the run again, for the model card")
    given = parser.parse_args(arguments)
    try:
        out = pack(given.run, given.out, made_by=given.made_by)
    except OctError as error:
        sys.exit(f"octtrain.runs.packing: {error}")
    sizes = [f"{path.name} {path.stat().st_size:,}" for path in sorted(out.iterdir())]
    print(f"wrote {shlex.quote(str(out))}, bytes: {listed(sizes)}")


if __name__ == "__main__":
    main()
