"""What a file that holds many B-scans says of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What the file states of one B-scan."""

    eye: str = ""  # OD (right) or OS (left), or "" if it is not stated
    axial_um: float = 0.0  # distance of two rows in micrometres, or 0 if it is not stated
    exclusion: str = ""  # why it is no B-scan that is used, or ""


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What a file says of all its B-scans."""

    patient: str  # the id, or "" if it is not stated
    frames: tuple[FrameFacts, ...]
