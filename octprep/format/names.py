"""The grammar of a B-scan's file name: CLASS-patientID-number, as Kermany et al. named them, and an optional ending.

Both programs read names by it. Only the standard library is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SCAN_NAME = re.compile(
    rf"(?P<label>{LABEL.pattern})-(?P<patient>[0-9]{{1,18}})-(?P<number>[0-9]{{1,9}})(\.[A-Za-z0-9]{{1,5}})?"
)
# The endings of files of one image each. What a file is, its content says; only files of other endings are looked into
# for many B-scans, as opening all of a source takes as long as reading them.
PICTURE_ENDINGS = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".webp"))
# What people call the folders of a split: by Keras' and PyTorch's examples, Kaggle and annotation tools.
_SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Annotation tools keep a name within theirs: Label Studio puts 8 hexadecimal digits before it, Roboflow a hash behind
# it, with the ending in the middle: NAME_jpeg.rf.HASH.jpg.
_PREFIXED = re.compile(r"[0-9a-f]{8}-(?P<name>.+)", re.DOTALL)
_HASHED = re.compile(r"(?P<stem>.+)_(?P<ending>[A-Za-z0-9]{2,5})\.rf\.[0-9a-zA-Z]{8,64}\.[A-Za-z0-9]{2,5}", re.DOTALL)


@dataclass(frozen=True)
class ScanName:
    """What a file name says of a B-scan."""

    label: str  # class, upper case
    patient: str  # the bare id: 1 to 18 digits, leading zeros kept
    number: int  # of the image within the patient


def parse_scan_name(name: str) -> ScanName | None:
    """What a base name such as `CNV-1016042-12.jpeg` says, or None if it is not of this form."""
    match = _SCAN_NAME.fullmatch(name)
    return None if match is None else ScanName(match["label"].upper(), match["patient"], int(match["number"]))


def split_of_folder(name: str) -> str:
    """train, val or test for a folder that is called so, in any case, or such as Training, valid, testing; else ""."""
    return _SPLIT_FOLDERS.get(name.lower(), "")


def unwrapped(name: str) -> str:
    """The base name that an annotation tool put into its own; "" if it is not of such a form."""
    if inner := without_hash(name):
        return inner
    match = _PREFIXED.fullmatch(name)
    return match["name"] if match else ""


def without_hash(name: str) -> str:
    """`unwrapped` for Roboflow's names alone, which mean nothing else: 8 digits in front may also be a patient's id."""
    match = _HASHED.fullmatch(name)
    return f"{match['stem']}.{match['ending']}" if match else ""
