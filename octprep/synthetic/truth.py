"""The ground truth of synthetic scans, in a file of one JSON object a line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np

from octprep.arrays import Gray
from octprep.format.errors import OutputError
from octprep.format.files import open_output
from octprep.synthetic.bscan import Phantom


def check_truth_file(truth: Path, out: Path) -> None:
    """Raise OutputError, before anything is drawn, if the file could not be written or lies inside `out`."""
    try:
        if truth.resolve().is_relative_to(out.resolve()):
            raise OutputError(f"--truth {truth} lies inside {out}, where only scans may be; name a file outside it.")
        if truth.is_dir():
            raise OutputError(f"--truth {truth} is a folder; name a file.")
        parent = next(folder for folder in truth.absolute().parents if folder.exists())
        if not parent.is_dir() or not os.access(truth if truth.exists() else parent, os.W_OK):
            raise OutputError(f"--truth {truth} cannot be written; name a file where you may write.")
    except RuntimeError:
        raise OutputError(f"--truth {truth} is a link that leads to itself; name another file.") from None
    except OSError as error:
        raise OutputError(f"--truth {truth} cannot be written: {error.strerror or error}; name another file.") from None


def truth_line(path: str, phantom: Phantom) -> str:
    """The JSON object of one scan, with its line end; `octprep.synthetic.draw` names its keys."""
    rows, columns = phantom.pixels.shape
    lines = {"ilm": phantom.ilm, "rpe": phantom.rpe, "bruch": phantom.bruch}
    truth = {
        "path": path,
        "label": phantom.label,
        "rows": rows,
        "columns": columns,
        **{name: [round(float(row), 1) for row in line] for name, line in lines.items()},
        "disc": _runs(np.asarray(phantom.disc, np.uint8)),
        "fill": _runs(phantom.fill),
        "lesion": _runs(phantom.lesion),
    }
    return json.dumps(truth) + "\n"


def _runs(mask: Gray) -> list[int]:
    """The pixels, counted row by row, where a mask of 0 and 1 begins and ends, alternately."""
    changes: list[int] = np.flatnonzero(np.diff(mask.ravel(), prepend=0, append=0)).tolist()
    return changes


def merge_truth_files(folder: Path, truth: Path) -> None:
    """Concatenate the files of a folder, sorted by name, into the file, and remove the folder."""
    try:
        truth.parent.mkdir(parents=True, exist_ok=True)
        with open_output(truth, durable=False) as file:
            for path in sorted(folder.iterdir()):
                file.write(path.read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{truth} cannot be written ({reason}); name a file on a disk that can be written to and has room."
        ) from error
    shutil.rmtree(folder)
