"""The settings of a calibration."""

from __future__ import annotations

from dataclasses import dataclass

from octprep.format.errors import SettingError
from octprep.format.options import option


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """What the thresholds must keep. Raises SettingError for values out of range."""

    sensitivity: float = option(
        0.95, help="Sensitivity of urgent referral (CNV, DME) that the threshold assures.", panel="Calibration"
    )
    error: float = option(0.05, help="Error among the answers that abstention keeps.", panel="Calibration")
    seed: int = option(0, help="Decides which training images distances are measured from.", panel="Calibration")

    def __post_init__(self) -> None:
        for name in ("sensitivity", "error"):
            if not 0 < getattr(self, name) < 1:
                raise SettingError(f"{name} must be between 0 and 1, and neither of them; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed must be between 0 and 2**32 - 1; got {self.seed}")
