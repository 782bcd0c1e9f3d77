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
