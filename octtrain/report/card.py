"""Model card."""

from __future__ import annotations

from octtrain.report.evaluation import Evaluation


def write(evaluation: Evaluation) -> bytes:
    """x"""
    return b""
