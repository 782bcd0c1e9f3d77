"""An OCT2017-shaped folder of phantoms: who has what, which scan lies where, and the files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from octprep.format.config import SOURCE_SPLITS
from octprep.format.errors import OutputError, SettingError
from octprep.format.files import OWNER_NAME, locked, saving
from octprep.synthetic.anatomy import Rng, draw_look
from octprep.synthetic.bscan import Phantom, draw_scan
from octprep.synthetic.disease import CLASSES, draw_disease
from octprep.synthetic.faults import add_fill, encode, plant
from octprep.workers import WorkerPool

_SHARES = {"CNV": 0.36, "DME": 0.17, "DRUSEN": 0.16, "NORMAL": 0.31}  # of the patients, near the archive's of images
_LEAST = 6  # patients of a class: two in test, one in val, three in train
MIN_PATIENTS = _LEAST * len(CLASSES)
_PART_NAME = ".octprep-phantom"  # where an empty folder is filled from
_MOVED_NAME = "moved.json"  # in it: what moves up in the end
_VAL_SCANS = 4  # of each class
_LARGEST = 225  # training scans of the one patient who has most, as CNV-1016042 has in the archive
_LONG = 150  # training scans of any other patient, at most


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was drawn."""

    images: int  # files called .jpeg below train, val and test, those planted as faults among them
    patients: int
    faults: Mapping[str, int]  # kind -> how many were planted


@dataclass(frozen=True, kw_only=True)
class _Volume:
    """The scans of one patient that show one class."""

    index: int  # of the patient; seeds the look
    patient: str
    label: str
    places: tuple[tuple[str, int], ...]  # folder and number of each scan, in the order of the volume


@dataclass(frozen=True, kw_only=True)
class _Task:
    volume: _Volume
    out: Path
    seed: int
    faults: bool
    truth: Path | None  # where the truth about this volume goes


def draw(
    out: Path,
    *,
    patients: int = 150,
    seed: int = 0,
    faults: bool = True,
    truth: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Draw a folder train|val|test/CLASS/CLASS-patientID-number.jpeg of synthetic B-scans.

    The scans are 8-bit gray JPEGs of 496 rows and 512 to 1536 columns, about 13 to a patient. With `faults` the folder
    has those of the real archive, else it is clean and no patient is on two sides. `out` must be new or an empty
    folder. The same arguments give the same bytes, whatever the number of `workers` (None: one for each core).
    `truth` names a file for where everything is in each scan, one JSON object a line: path, label, rows, columns; ilm,
    rpe and bruch, a row for each column (fractional, 0 at the top); border, the pixels, counted row by row, where fill
    begins and ends by turns. What is planted among the files afterwards has no line there.
    `progress` is told how many scans are drawn and how many there will be.

    Raises SettingError for fewer than MIN_PATIENTS patients or a negative seed, OutputError if `out` cannot be written
    or is there and not empty, or if `truth` cannot be written or lies inside `out`, StoppedError if a worker dies;
    nothing half drawn is left behind.
    """
    if patients < MIN_PATIENTS:
        raise SettingError(
            f"patients must be at least {MIN_PATIENTS}, for some of each class in train, val and test; got {patients}"
        )
    if seed < 0:
        raise SettingError(f"seed must be 0 or more; got {seed}")
    if truth is not None:
        _check_truth(truth, out)
    volumes = _population(patients, seed, faults=faults)
    total = sum(len(volume.places) for volume in volumes)
    planted: Counter[str] = Counter()
    done = 0
    with _whole_folder(out) as part:
        for folder in SOURCE_SPLITS:
            for label in CLASSES:
                (part / folder / label).mkdir(parents=True)
        notes = part / ".truth"
        if truth is not None:
            notes.mkdir()
        tasks = [
            _Task(volume=v, out=part, seed=seed, faults=faults, truth=notes / f"{i:07d}" if truth is not None else None)
            for i, v in enumerate(volumes)
        ]
        with WorkerPool(workers) as engine:
            for found in engine.run(_draw_volume, tasks):
                done += found.pop("scans")
                planted += found
                if progress is not None:
                    progress(done, total)
        if faults:
            planted += plant(part, np.random.default_rng([seed, 3]))
            for folder in ("train", "val"):
                planted[f"patient in {folder} and test"] = len(
                    _patients_in(part / folder) & _patients_in(part / "test")
                )
            planted["patient in two classes"] = len(_DOUBLES)
        if truth is not None:
            _gather(notes, truth)
        images = sum(1 for folder in SOURCE_SPLITS for _ in (part / folder).rglob("*.jpeg"))
    return Summary(images=images, patients=patients, faults=dict(sorted(planted.items())))


def _check_truth(truth: Path, out: Path) -> None:
    """Refuse before anything is drawn what could not be written after it."""
    try:
        if truth.resolve().is_relative_to(out.resolve()):
            raise OutputError(f"--truth {truth} lies inside {out}, where only scans may be; name a file beside it.")
        if truth.is_dir():
            raise OutputError(f"--truth {truth} is a folder; name a file.")
        above = next(folder for folder in truth.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(truth if truth.exists() else above, os.W_OK):
            raise OutputError(f"--truth {truth} cannot be written; name a file where you may write.")
    except RuntimeError:
        raise OutputError(f"--truth {truth} is a link that leads to itself; name another file.") from None
    except OSError as error:
        raise OutputError(f"--truth {truth} cannot be written: {error.strerror or error}; name another file.") from None


def _gather(notes: Path, truth: Path) -> None:
    """One file of all the notes, and the notes removed."""
    try:
        truth.parent.mkdir(parents=True, exist_ok=True)
        with saving(truth, durable=False) as part, part.open("wb") as file:
            for note in sorted(notes.iterdir()):
                file.write(note.read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{truth} cannot be written ({reason}); name a file where you may write.") from error
    shutil.rmtree(notes)


def _patients_in(folder: Path) -> set[str]:
    return {path.stem.split("-")[1] for path in folder.glob("*/*-*-*.jpeg")}


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder to draw in, whose content is that of `out` when all went well, and which is removed when not.

    It lies beside a new folder, and takes its name in one step; an empty one, which may be a mounted disk, is filled
    from within. What a killed process left in either way is removed.
    """
    missing: list[Path] = []  # folders made on the way
    part = None
    try:
        goal = out.resolve()  # a link to an empty folder stays, and its target is filled
        if goal.exists() and not goal.is_dir():
            raise OutputError(f"{out} is a file, but phantoms need a new or empty folder: name another or remove it.")
        missing += [folder for folder in (goal, *goal.parents) if not folder.exists()]
        is_new = goal in missing
        goal.mkdir(parents=True, exist_ok=True)
        with locked(goal, "octprep phantom"):
            _clear(goal)
            if any(entry.name not in (OWNER_NAME, "lost+found") for entry in goal.iterdir()):
                raise OutputError(
                    f"{out} is not empty, but phantoms need a new or empty folder: name another or remove it."
                )
            part = goal.parent / f".{goal.name}.part-{os.getpid()}" if is_new else goal / _PART_NAME
            part.mkdir()
            yield part
            if not is_new:
                names = [entry.name for entry in part.iterdir()]
                (part / _MOVED_NAME).write_text(json.dumps(names))
                for name in names:
                    (part / name).rename(goal / name)
                shutil.rmtree(part)
        if is_new:
            goal.rmdir()
            part.rename(goal)
    except BaseException as error:
        if part is not None:
            _clear(goal)
            shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()
        if isinstance(error, RuntimeError) and "loop" in str(error):
            raise OutputError(f"{out} is a link that leads to itself; name another folder.") from None
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise OutputError(f"{out} cannot be written ({reason}); name a folder where you may write.") from error
        raise


def _clear(goal: Path) -> None:
    """Remove what an unfinished drawing left in or beside a folder."""
    part = goal / _PART_NAME
    if part.is_dir():
        with contextlib.suppress(OSError, ValueError):
            for name in json.loads((part / _MOVED_NAME).read_bytes()):
                shutil.rmtree(goal / name, ignore_errors=True)
                (goal / name).unlink(missing_ok=True)
        shutil.rmtree(part)
    with contextlib.suppress(OSError):
        for beside in goal.parent.iterdir():
            if re.fullmatch(rf"\.{re.escape(goal.name)}\.part-\d+", beside.name):
                shutil.rmtree(beside, ignore_errors=True)


def _population(patients: int, seed: int, *, faults: bool) -> list[_Volume]:
    """Who has what, how many scans of it, and in which folders they lie."""
    rng = np.random.default_rng([seed, 1])
    ids = [str(number) for number in rng.choice(np.arange(1000, 9_990_000), patients, replace=False)]
    members = _patients_per_class(patients)
    tested = max(2, patients // 25)  # patients of each class
    quota = max(2 * tested, patients // 3)  # test scans of each class, in equal numbers
    volumes = []
    for label in CLASSES:
        counts = _scans_per_patient(len(members[label]) - tested - 1, rng)
        if label == "CNV":
            # One patient has far more scans than all others.
            counts[counts.index(max(counts))] = min(patients * 3 // 2, _LARGEST)
        for turn, index in enumerate(members[label]):
            if turn < tested:
                share = quota // tested + (turn < quota % tested)
                folders = ["test"] * share
                if faults and turn == 0:  # further scans of this patient are in train
                    folders += ["train"] * 2
                if faults and turn == 1:  # and of this one in val
                    folders += ["val"] * 2
            elif turn == tested:
                folders = ["val"] * (_VAL_SCANS - 2 * faults)
            else:
                folders = ["train"] * counts[turn - tested - 1]
            places = tuple((folder, number) for number, folder in enumerate(folders, start=1))
            volumes.append(_Volume(index=index, patient=ids[index], label=label, places=places))
    return volumes + (_two_classes(volumes) if faults else [])


def _scans_per_patient(patients: int, rng: Rng) -> list[int]:
    """Numbers of training scans, of which half are about five or less, with a long tail of up to _LONG.

    Quantiles rather than draws of a log-normal: with few patients a single draw could outweigh a class.
    """
    bell = NormalDist(1.5, 1.5)
    counts = [1 + int(math.exp(bell.inv_cdf((rank + 0.5) / patients))) for rank in range(patients)]
    return [min(int(count), _LONG) for count in rng.permutation(counts)]


def _patients_per_class(patients: int) -> dict[str, list[int]]:
    """Indexes of patients by class, in the archive's shares but at least _LEAST of each."""
    sizes = {label: max(_LEAST, round(_SHARES[label] * patients)) for label in CLASSES}
    while sum(sizes.values()) != patients:
        step = 1 if sum(sizes.values()) < patients else -1
        sizes[max(sizes, key=lambda label: (sizes[label], label))] += step
    indexes = iter(range(patients))
    return {label: [next(indexes) for _ in range(sizes[label])] for label in CLASSES}


_DOUBLES = (("CNV", "DRUSEN"), ("DME", "NORMAL"), ("NORMAL", "CNV"))


def _two_classes(volumes: Sequence[_Volume]) -> list[_Volume]:
    """A few training patients with two scans of a second class, such as the other eye's."""
    extra = []
    for label, other in _DOUBLES:
        first = next(v for v in volumes if v.label == label and {folder for folder, _ in v.places} == {"train"})
        places = (("train", 1), ("train", 2))
        extra.append(_Volume(index=first.index, patient=first.patient, label=other, places=places))
    return extra


def scans(patients: int, seed: int = 0, *, faults: bool = True) -> Iterator[tuple[str, Phantom]]:
    """The scans that `draw` would write, before they are encoded: path within the folder, and phantom with its truth.

    What `draw` plants among the files afterwards (copies, broken files) is not among them.
    """
    for volume in _population(patients, seed, faults=faults):
        for place, phantom, _ in _scans(volume, seed, faults=faults):
            yield place, phantom


def _scans(volume: _Volume, seed: int, *, faults: bool) -> Iterator[tuple[str, Phantom, str | None]]:
    """One patient's scans of one class: path, phantom, and the name of the fault planted in it."""
    look = draw_look(np.random.default_rng([seed, 2, volume.index]))
    rng = np.random.default_rng([seed, 2, volume.index, 1 + CLASSES.index(volume.label)])
    disease = draw_disease(volume.label, look, rng)
    # A short volume covers a short stretch of the macula, so its scans resemble each other as those of a long one do.
    step = 1 / max(len(volume.places), 16)
    start = rng.uniform(0, 1 - step * (len(volume.places) - 1))
    for turn, (folder, number) in enumerate(volume.places):
        phantom, fault = draw_scan(look, disease, start + turn * step, rng), None
        if faults:
            phantom, fault = add_fill(phantom, rng)
        yield f"{folder}/{volume.label}/{volume.label}-{volume.patient}-{number}.jpeg", phantom, fault


def _draw_volume(task: _Task) -> Counter[str]:
    """Write one patient's scans of one class; returns how many under `scans`, and the faults planted in them."""
    found: Counter[str] = Counter()
    truths: list[str] = []
    for place, phantom, fault in _scans(task.volume, task.seed, faults=task.faults):
        (task.out / place).write_bytes(encode(phantom.pixels))
        found["scans"] += 1
        if fault:
            found[fault] += 1
        if task.truth is not None:
            truths.append(_truth(place, phantom))
    if task.truth is not None:
        task.truth.write_text("".join(truths))
    return found


def _truth(place: str, phantom: Phantom) -> str:
    """A line of the truth file."""
    flat = phantom.border.ravel()
    turns = np.flatnonzero(np.diff(flat, prepend=0, append=0))  # where fill begins and ends, by turns
    lines = {"ilm": phantom.ilm, "rpe": phantom.rpe, "bruch": phantom.bruch}
    rows, columns = phantom.pixels.shape
    row = {"path": place, "label": phantom.label, "rows": rows, "columns": columns}
    row |= {name: [round(float(y), 1) for y in line] for name, line in lines.items()}
    return json.dumps(row | {"border": turns.tolist()}) + "\n"
