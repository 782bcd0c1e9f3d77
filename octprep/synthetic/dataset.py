"""A folder of synthetic B-scans in the layout of OCT2017."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octprep.format.config import SOURCE_SPLITS
from octprep.format.directory import atomic_directory
from octprep.format.errors import SettingError
from octprep.synthetic.anatomy import draw_appearance, next_visit
from octprep.synthetic.bscan import Phantom, draw_scan
from octprep.synthetic.difficulty import DIFFICULTIES, Difficulty
from octprep.synthetic.disease import CLASSES, draw_disease
from octprep.synthetic.faults import MAX_FILL_RATE, add_faults, add_fill, encode
from octprep.synthetic.population import (
    FRACTIONS,
    MAX_SCANS,
    MIN_PATIENTS,
    TWO_CLASS_PATIENTS,
    Volume,
    population,
    wrong_labels,
)
from octprep.synthetic.truth import check_truth_file, merge_truth_files, truth_line
from octprep.workers import Progress, WorkerPool, no_progress

_SCANS_OF_A_VISIT = 3  # on average


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was drawn."""

    images: int  # files whose name ends in .jpeg in train, val and test, including those that were added as faults
    patients: int
    faults: Mapping[str, int]  # kind -> count


@dataclass(frozen=True, kw_only=True)
class _Task:
    volume: Volume
    wrong: Mapping[int, str]  # image number -> class of its folder and name, where that is not the true one
    out: Path
    seed: int
    faults: bool
    fill_rate: float
    difficulty: Difficulty
    truth: Path | None  # file for the ground truth of this volume


def draw(
    out: Path,
    *,
    patients: int = 150,
    seed: int = 0,
    faults: bool = True,
    difficulty: str = "default",
    class_mix: Mapping[str, float] = FRACTIONS,
    max_scans: int | None = None,
    fill_rate: float = 1.0,
    label_noise: float = 0.0,
    truth: Path | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Summary:
    """Draw a folder train|val|test/CLASS/CLASS-patientID-number.jpeg of synthetic B-scans.

    The scans are 8-bit gray JPEGs of 496 rows, a few of 512, and 384 to 1536 columns, about 13 to a patient. With
    `faults` the folder has the faults of the real archive; without, every file is valid and no patient is in two
    splits. `difficulty` is a key of DIFFICULTIES: how severe the disease is, how clear the scan, and how uneven the
    layers of healthy eyes. `out` must be new or an empty folder. The same arguments give the same bytes, whatever the
    number of `workers` (None: one for each core).

    class_mix: class -> its share of the patients, in proportion, for all of CLASSES; val and test hold as many scans of
    each.  max_scans: training scans of one patient at most; None: as in the archive.  fill_rate: factor, 0 to 2, on how
    many scans have fill, which are 45 % with `faults`.  label_noise: this fraction of the training scans, 0 to 0.5,
    lies under the folder and name of another class, drawn from the seed; the labels of val and test are right, and the
    truth file has the true ones.

    `truth` names a file for the ground truth, one JSON object a line: path, label, rows, columns; ilm, rpe and bruch, a
    row for each column (fractional, 0 at the top); disc, the columns where the optic disc, which has no layers, begins
    and ends; fill and lesion, the pixels, counted row by row from 0, where these begin and end, alternately. A lesion
    is where the disease made layers clearly thicker or thinner, and its cysts, not the shadow below; healthy scans have
    none. Files that are added as faults afterwards have no line.

    Raises SettingError for fewer than MIN_PATIENTS patients, a negative seed, an unknown difficulty, or a share or rate
    out of range; OutputError if `out` cannot be written, or exists and is not empty, or if `truth` cannot be written or
    lies inside `out`; StoppedError if a worker dies.
    Nothing incomplete is left behind.
    """
    if patients < MIN_PATIENTS:
        raise SettingError(
            f"patients must be at least {MIN_PATIENTS}, for some of each class in train, val and test; got {patients}"
        )
    if seed < 0:
        raise SettingError(f"seed must be 0 or more; got {seed}")
    ranges = _ranges(difficulty)
    _check_shares(class_mix, fill_rate, label_noise)
    if truth is not None:
        check_truth_file(truth, out)
    if max_scans is not None and max_scans < 1:
        raise SettingError(f"max-scans must be at least 1; got {max_scans}")
    volumes = population(patients, seed, faults=faults, class_mix=class_mix, max_scans=max_scans or MAX_SCANS)
    wrong = wrong_labels(volumes, label_noise, seed)
    with atomic_directory(out, "octprep synthesize") as folder:
        for split in SOURCE_SPLITS:
            for label in CLASSES:
                (folder / split / label).mkdir(parents=True)
        truth_parts = folder / ".truth"
        if truth is not None:
            truth_parts.mkdir()
        tasks = [
            _Task(
                volume=volume,
                wrong=wrong[index],
                out=folder,
                seed=seed,
                faults=faults,
                fill_rate=fill_rate,
                difficulty=ranges,
                truth=None if truth is None else truth_parts / f"{index:07d}",
            )
            for index, volume in enumerate(volumes)
        ]
        added = _draw_volumes(tasks, workers, progress)
        if count := sum(map(len, wrong)):
            added["wrong label"] = count
        if faults:
            added += add_faults(folder, np.random.default_rng([seed, 3]))
            added += _count_shared_patients(folder)
        if truth is not None:
            merge_truth_files(truth_parts, truth)
        images = sum(1 for split in SOURCE_SPLITS for _ in (folder / split).rglob("*.jpeg"))
    return Summary(images=images, patients=patients, faults=dict(sorted(added.items())))


def scans(
    patients: int, seed: int = 0, *, faults: bool = True, difficulty: str = "default", max_scans: int | None = None
) -> Iterator[tuple[str, Phantom]]:
    """The scans that `draw` would write, before they are encoded: path within the folder, and scan with ground truth.

    The files that `draw` adds as faults afterwards (duplicates, invalid files) are not among them.
    """
    ranges = _ranges(difficulty)
    for volume in population(patients, seed, faults=faults, max_scans=max_scans or MAX_SCANS):
        for path, phantom, _ in _scans_of_volume(volume, seed, ranges, 1.0 if faults else 0.0, {}):
            yield path, phantom


def _ranges(difficulty: str) -> Difficulty:
    if difficulty not in DIFFICULTIES:
        raise SettingError(f"difficulty must be one of {', '.join(DIFFICULTIES)}; got {difficulty!r}")
    return DIFFICULTIES[difficulty]


def parse_class_mix(text: str) -> dict[str, float]:
    """Class -> share of a text CNV=0.36,DME=0.17,... Raises SettingError unless it names every class once."""
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        mix = {label.strip(): float(share) for label, _, share in pairs}
    except ValueError:
        mix = {}
    if len(mix) != len(pairs) or set(mix) != set(CLASSES):
        raise SettingError(
            f"class-mix must be a number for each of {', '.join(CLASSES)}, such as "
            f"CNV=0.4,DME=0.2,DRUSEN=0.1,NORMAL=0.3; got {text!r}"
        )
    return mix


def _check_shares(class_mix: Mapping[str, float], fill_rate: float, label_noise: float) -> None:
    """Raise SettingError for a share or a rate out of its range."""
    shares = list(class_mix.values())
    if set(class_mix) != set(CLASSES) or not all(0 <= share < math.inf for share in shares) or not sum(shares):
        raise SettingError(
            f"class-mix must have a share of 0 or more for each of {', '.join(CLASSES)}, one of them above 0; got "
            f"{dict(class_mix)}"
        )
    if not 0 <= fill_rate <= MAX_FILL_RATE:
        raise SettingError(f"fill-rate must be between 0 and {MAX_FILL_RATE:g}; got {fill_rate:g}")
    if not 0 <= label_noise <= 0.5:
        raise SettingError(f"label-noise must be between 0 and 0.5; got {label_noise:g}")


def _draw_volumes(tasks: Sequence[_Task], workers: int | None, progress: Progress) -> Counter[str]:
    """Write the scans of all volumes; returns the faults in them by kind."""
    total = sum(len(task.volume.scans) for task in tasks)
    added: Counter[str] = Counter()
    with WorkerPool(workers) as pool:
        for scan_count, faults in pool.run(_draw_volume, tasks):
            added += faults
            progress("drawing scans", scan_count, total)
    return added


def _draw_volume(task: _Task) -> tuple[int, Counter[str]]:
    """Write the scans of one volume; returns how many they are, and the faults in them by kind."""
    added: Counter[str] = Counter()
    lines: list[str] = []
    fill_rate = task.fill_rate if task.faults else 0
    for path, phantom, fault in _scans_of_volume(task.volume, task.seed, task.difficulty, fill_rate, task.wrong):
        (task.out / path).write_bytes(encode(phantom.pixels, phantom.quality))
        if fault:
            added[fault] += 1
        if task.truth is not None:
            lines.append(truth_line(path, phantom))
    if task.truth is not None:
        task.truth.write_text("".join(lines))
    return len(task.volume.scans), added


def _scans_of_volume(
    volume: Volume, seed: int, difficulty: Difficulty, fill_rate: float, wrong: Mapping[int, str]
) -> Iterator[tuple[str, Phantom, str | None]]:
    """The path, the scan, and the kind of fault in it (None: none) for each scan of a volume."""
    appearance = draw_appearance(np.random.default_rng([seed, 2, volume.index]), difficulty)
    rng = np.random.default_rng([seed, 2, volume.index, 1 + CLASSES.index(volume.label)])
    disease = draw_disease(volume.label, appearance, rng, difficulty)
    # A short volume covers a small part of the macula, so that its scans are as similar as those of a long one.
    step = 1 / max(len(volume.scans), 16)
    start = rng.uniform(0, 1 - step * (len(volume.scans) - 1))
    left = 0  # scans of this visit that are still to be drawn
    for turn, (split, number) in enumerate(volume.scans):
        if turn and not left:
            appearance = next_visit(appearance, rng, difficulty)
        left = left - 1 if left else int(rng.geometric(1 / _SCANS_OF_A_VISIT)) - 1
        phantom, fault = draw_scan(appearance, disease, start + turn * step, rng), None
        if fill_rate:
            phantom, fault = add_fill(phantom, rng, fill_rate)
        label = wrong.get(number, volume.label)
        yield f"{split}/{label}/{label}-{volume.patient}-{number}.jpeg", phantom, fault


def _count_shared_patients(folder: Path) -> Counter[str]:
    """How many patients are in train and test, in val and test, and in two classes."""
    ids = {
        split: {path.stem.split("-")[1] for path in (folder / split).glob("*/*-*-*.jpeg")} for split in SOURCE_SPLITS
    }
    return Counter(
        {
            "patient in train and test": len(ids["train"] & ids["test"]),
            "patient in val and test": len(ids["val"] & ids["test"]),
            "patient in two classes": len(TWO_CLASS_PATIENTS),
        }
    )
