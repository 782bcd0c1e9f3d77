"""history.csv of a run: one row per finished epoch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from octprep.format.errors import ManifestError
from octprep.format.files import NotReadable, read_bytes

HISTORY_NAME = "history.csv"
MAX_BYTES = 64_000_000  # a larger history.csv or config.json is not read

# The columns that every history has, whatever other metrics Keras computed.
COLUMNS = ("epoch", "loss", "val_loss", "val_balanced_accuracy")

Row = Mapping[str, float]  # metrics of one epoch


def encode(history: Sequence[Row]) -> bytes:
    """The bytes of history.csv, of at least one epoch."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue().encode()


def read_history(path: Path) -> list[Row]:
    """The finished epochs, first to last; none if there is no such file yet.

    Raises ManifestError if the file was edited or damaged.
    """
    if not path.exists():
        return []
    try:
        text = read_bytes(path, MAX_BYTES)[0].decode()
        history: list[Row] = [
            {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
            for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)
        ]
        _check(history)
    except (OSError, NotReadable, TypeError, ValueError, csv.Error) as error:
        raise ManifestError(f"{path} is not what `octtrain fit` wrote ({error}). Restore it or train again.") from None
    return history


def best_epoch(history: Sequence[Row]) -> int:
    """The epoch, from 1, with the highest balanced accuracy on val; among equals the one with the lowest val loss."""
    losses = [math.inf if math.isnan(row["val_loss"]) else row["val_loss"] for row in history]
    ranks = [(row["val_balanced_accuracy"], -loss) for row, loss in zip(history, losses, strict=True)]
    return 1 + max(range(len(ranks)), key=ranks.__getitem__)


def _check(history: Sequence[Row]) -> None:
    """Raise ValueError for rows that no training writes."""
    if not history:
        raise ValueError("it holds no epoch")
    if missing := [name for name in COLUMNS if name not in history[0]]:
        raise ValueError(f"it has no column {missing[0]}")
    for number, row in enumerate(history, start=1):
        if row["epoch"] != number:
            raise ValueError(f"row {number} is of epoch {row['epoch']}")
        if not 0 <= row["val_balanced_accuracy"] <= 1 or not math.isfinite(row["loss"]):
            raise ValueError(f"the metrics of epoch {number} are out of range")
