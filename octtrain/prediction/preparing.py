"""Image files to the pixels that a model takes, in this process or in one that a damaged file may end.

Neither Keras nor TensorFlow is imported: the process is to start in a second, while this one loads the model.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.crashes import Divisible, time_limit
from octprep.format.config import Preprocessing
from octprep.format.errors import OctError, UnreadableImage
from octprep.format.paths import path_to_text, split_frame_path
from octprep.terminal import printable
from octprep.workers import WorkerPool

UNREAD = "could not be read: "  # start of the reason if reading failed, so that the image itself may be good

Prepared = tuple[Gray, preprocessing.PreprocessedImage]  # the source scan, (rows, columns), and the same as in training
Batches = Iterator[list[preprocessing.PreprocessedImage | str]]  # for each file a scan, or why there is none
Prepare = Callable[[Sequence[Sequence[Path]], Preprocessing], Batches]


def frame_of(path: Path) -> tuple[Path, int]:
    """The file of a frame of it, `scan.dcm#07`, and the number of the frame; 0 for any other path."""
    file, frame = split_frame_path(str(path))
    return (Path(file), frame) if frame and not os.path.lexists(path) else (path, 0)


def prepare_file(path: Path, recipe: Preprocessing) -> Prepared | str:
    """A file's source scan, (rows, columns) uint8 in 0..255, and the same as in training, or why there is none."""
    try:
        with preprocessing.memory_errors(), time_limit():
            file, frame = frame_of(path)
            if frame:
                source, flags, axial_um = preprocessing.read_frame(file, frame, recipe.colour)
                return source, preprocessing.preprocess(source, recipe, flags, axial_um or None)
            source, flags = preprocessing.read_image(path, recipe.colour)
            return source, preprocessing.preprocess(source, recipe, flags)
    except UnreadableImage as error:
        return _reason(error, recipe)
    except OSError as error:
        return f"{UNREAD}{printable(error.strerror or str(error))}"
    except MemoryError:
        return f"{UNREAD}not enough memory"
    except OctError:
        raise
    except Exception as error:
        error.add_note(f"while preparing {path_to_text(str(path))}")
        raise


def _reason(error: UnreadableImage, recipe: Preprocessing) -> str:
    """Why an image is not used. A build can choose to take coloured ones; here the recipe of the run has chosen."""
    reason = printable(str(error))
    if not reason.startswith("in colour: "):
        return reason
    what = reason.partition(";")[0]  # what follows is advice for a build
    return f"{what}, which the run's recipe excludes (--colour {recipe.colour}); export it in gray without drawings"


@dataclass(frozen=True)
class PreparingTask(Divisible):
    """Some files to prepare."""

    number: int  # of the task
    files: tuple[Path, ...]
    recipe: Preprocessing
    folder: Path  # for the result, under the number
    crashes: Mapping[int, str] = field(default_factory=dict)  # index of a file that is not to be decoded -> why

    @property
    def part_count(self) -> int:
        """How many files there are."""
        return len(self.files)

    def try_part(self, index: int) -> None:
        """Prepare one file."""
        if index not in self.crashes:
            prepare_file(self.files[index], self.recipe)

    def without(self, reasons: Mapping[int, str]) -> PreparingTask:
        """The task that does not decode some files."""
        return dataclasses.replace(self, crashes={**self.crashes, **reasons})


def prepare_files(task: PreparingTask) -> int:
    """Prepare the files of a task and store the result. Returns its number.

    A result that is sent may be cut short if the process is killed, which would keep its reader waiting for the rest.
    """
    results: list[preprocessing.PreprocessedImage | str] = []
    for index, file in enumerate(task.files):
        prepared = task.crashes.get(index) or prepare_file(file, task.recipe)
        results.append(prepared if isinstance(prepared, str) else prepared[1])
    with (task.folder / str(task.number)).open("wb") as stored:
        pickle.dump(results, stored)
    return task.number


def prepare_here(batches: Sequence[Sequence[Path]], recipe: Preprocessing) -> Batches:
    """The prepared scans of some batches of files, one batch after the other."""
    for files in batches:
        prepared = (prepare_file(file, recipe) for file in files)
        yield [scan if isinstance(scan, str) else scan[1] for scan in prepared]


@contextmanager
def preparing_apart() -> Iterator[Prepare]:
    """What `prepare_here` does, in a process that is started at once, and that works ahead.

    A file that ends it by a crash of the image decoder, or keeps it for a minute, costs itself alone: its reason says
    so. Raises StoppedError if the process is killed.
    """
    with tempfile.TemporaryDirectory(prefix="octtrain-") as folder, WorkerPool(1) as pool:
        pool.start(prepare_files)

        def prepare(batches: Sequence[Sequence[Path]], recipe: Preprocessing) -> Batches:
            tasks = [PreparingTask(number, tuple(files), recipe, Path(folder)) for number, files in enumerate(batches)]
            done: set[int] = set()
            finished = pool.run(prepare_files, tasks)
            for task in tasks:
                while task.number not in done:
                    done.add(next(finished))
                stored = task.folder / str(task.number)
                results: list[preprocessing.PreprocessedImage | str] = pickle.loads(stored.read_bytes())
                stored.unlink()
                yield results

        yield prepare
