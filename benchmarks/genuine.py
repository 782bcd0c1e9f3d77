"""How well do trained networks read genuine scans?

    python -m benchmarks.genuine synthetic runs/first --genuine OCT2017/test --genuine other/folder

Every run (a folder of `octtrain fit`, or the word `synthetic`) classifies the scans in the folders as `octtrain
predict` does; the class folders and file names state the truth. Prints for each run the balanced accuracy per scan, of
each folder and of all together, the fraction of each class that is read rightly, what they are taken for, and the scans
that are read wrongly.

The 95 % interval is a percentile bootstrap of patients, 2,000 draws, each with all its scans. Scans without a patient
id count as one patient for each class of a folder, since neighbours in such folders are often one patient's. With few
patients the interval is wide, and what was changed after looking at the same scans is flattered by them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from benchmarks.models import Verdicts, percent
from octprep.format.names import parse_scan_name


@dataclass(frozen=True)
class Reading:
    """One genuine scan as a network read it."""

    name: str
    patient: str
    truth: str
    predicted: str


def read_scans(run: str, folder: Path) -> list[Reading]:
    """What a run takes the scans of a folder for: those whose class is known."""
    from octtrain import pretrained
    from octtrain.prediction.classify import Prediction, load_run

    loaded = load_run(pretrained.run_folder(Path(run)))
    readings = []
    for found in loaded.predict([folder]):
        if isinstance(found, Prediction) and found.true_label:
            name = parse_scan_name(found.path.name)
            patient = name.patient if name else f"{folder}/{found.true_label}"
            predicted = loaded.class_names[int(np.argmax(found.probabilities))]
            readings.append(Reading(found.path.name, patient, found.true_label, predicted))
    return readings


def verdicts(readings: Sequence[Reading]) -> Verdicts:
    """Whether each scan was read rightly."""
    correct = np.array([one.truth == one.predicted for one in readings], np.float64)
    return Verdicts([one.patient for one in readings], [one.truth for one in readings], correct)


def confusion(readings: Sequence[Reading]) -> str:
    """A Markdown table: truth in rows, what they were taken for in columns."""
    names = sorted({one.truth for one in readings} | {one.predicted for one in readings})
    lines = [f"| truth | {' | '.join(names)} | right |", "|---" * (len(names) + 2) + "|"]
    for truth in names:
        given = [one.predicted for one in readings if one.truth == truth]
        counts = [given.count(name) for name in names]
        right = f"{given.count(truth) / len(given):.2f}" if given else ""
        lines.append(f"| {truth} | {' | '.join(map(str, counts))} | {right} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders, or the word synthetic")
    parser.add_argument("--genuine", type=Path, action="append", required=True, metavar="DIR", help="genuine scans")
    options = parser.parse_args()
    for run in options.runs:
        per_folder = [read_scans(run, folder) for folder in options.genuine]
        together = [one for readings in per_folder for one in readings]
        print(f"\n## {run}\n\n| scans | balanced accuracy, % (95 %) |\n|---|---|")
        for folder, readings in zip(options.genuine, per_folder, strict=True):
            print(f"| {folder.name}, {len(readings)} | {percent(verdicts(readings))} |")
        print(f"| together, {len(together)} | {percent(verdicts(together))} |\n\n{confusion(together)}\n")
        wrong = [f"{one.name} as {one.predicted}" for one in together if one.predicted != one.truth]
        print(f"wrong: {', '.join(wrong) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
