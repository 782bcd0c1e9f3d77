"""Synthetic patients, and the content of a folder of their scans."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from octprep.synthetic import CLASSES, DIFFICULTIES, Disease, PatientAppearance, draw_appearance, draw_disease
from octprep.synthetic.anatomy import View

SCAN_NAME = re.compile(r"(CNV|DME|DRUSEN|NORMAL)-(\d+)-(\d+)\.jpeg")


def draw_patient(
    label: str, number: int, difficulty: str = "default", **changes
) -> tuple[PatientAppearance, Disease, np.random.Generator]:
    """A patient of a class, always the same for a number, with some fields of the appearance or its view changed."""
    rng = np.random.default_rng([77, number, CLASSES.index(label)])
    appearance = draw_appearance(rng, DIFFICULTIES[difficulty])
    of_view = {field.name for field in dataclasses.fields(View)}
    view = dataclasses.replace(appearance.view, **{k: v for k, v in changes.items() if k in of_view})
    others = {k: v for k, v in changes.items() if k not in of_view}
    appearance = dataclasses.replace(appearance, view=view, **others)
    return appearance, draw_disease(label, appearance, rng, DIFFICULTIES[difficulty]), rng


def files_of_scans(root: Path) -> list[Path]:
    """Files with a scan's name in the folder of their class."""
    paths = sorted(root.glob("t*/*/*.jpeg")) + sorted(root.glob("val/*/*.jpeg"))
    return [path for path in paths if (m := SCAN_NAME.fullmatch(path.name)) and m[1] == path.parent.name]


def patient(path: Path) -> str:
    """The patient id in a file's name."""
    return path.stem.split("-")[1]


def splits_of_patients(root: Path) -> dict[str, set[str]]:
    """The source splits that hold a patient's scans."""
    splits = defaultdict(set)
    for path in files_of_scans(root):
        splits[patient(path)].add(path.parts[-3])
    return splits


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the folder."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_image(path: Path) -> np.ndarray | None:
    """The pixels as they are stored, gray or colour."""
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
