"""`export`: write the images of a folder of shards for other libraries, one file for each shard."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from octprep.format.config import require_one_of
from octprep.format.directory import atomic_directory
from octprep.format.errors import OutputError
from octprep.format.files import sync
from octprep.format.manifest import LABEL, Manifest
from octprep.interchange import parquet, webdataset
from octprep.interchange.samples import Sample, read_samples
from octprep.storage.cache import Streaming, fetch_or_stream, holding, open_dataset, reading
from octprep.storage.remote import Location, location
from octprep.workers import Progress, WorkerPool, default_workers, no_progress

SUMMARY_NAME = "octprep-export.json"  # written last


class _Format(NamedTuple):
    write: Callable[[Path, Iterable[Sample], Manifest], None]
    file_name: str  # of the file of a split's shard, by `number` of `count`


_FORMATS = {
    "webdataset": _Format(webdataset.write_tar, "{split}-{number:06d}.tar"),
    "parquet": _Format(parquet.write_parquet, "{split}-{number:05d}-of-{count:05d}.parquet"),
}
FORMATS = tuple(_FORMATS)


@dataclass(frozen=True)
class ExportedSplit:
    """What was written of a split."""

    files: tuple[str, ...]  # names
    records: int  # in them
    per_class: Mapping[str, int]  # of the records


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was exported: also the content of octprep-export.json."""

    octprep: str  # the version that wrote the files
    dataset: str  # the digest of the manifest, hex
    format: str  # one of FORMATS
    repeats: bool  # whether images that were repeated to balance the classes are there as often as in the shards
    contains_patient_ids: bool = True
    class_names: tuple[str, ...]  # by label
    splits: Mapping[str, ExportedSplit]

    def to_json(self) -> bytes:
        """All fields as JSON."""
        return (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()


@dataclass(frozen=True)
class _Task:
    """A shard to export."""

    folder: Path
    manifest: Manifest
    split: str
    number: int  # of the shard in its split
    path: Path  # of the file to write
    format: str
    repeats: bool
    streaming: Streaming | None  # how shards are fetched that are not all in the cache


class _Written(NamedTuple):
    split: str
    read: int  # records of the shard
    labels: Counter[int]  # of the records written


@holding()
def export(
    folder: Location | str,
    out: Path | str,
    to: str,
    *,
    repeats: bool = False,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> ExportResult:
    """Write the images of a finished folder for another library, without TensorFlow.

    folder: what `octprep build` wrote, or its URL, of which the shards are read through the cache
    (`octprep.storage.cache`), as they are exported if they are larger than it may be. out: a new or empty folder. to:
    `webdataset` (tar files) or `parquet` (as `datasets` of Hugging Face reads images and classes; needs pyarrow).
    repeats: write an image that was repeated to balance the classes as often as it is stored, not once. workers:
    processes; None: one for each core.

    Images are PNGs with the stored pixels, (height, width) gray of 8 bit. With them go the features of each record,
    patient ids among them. The same shards give the same bytes with the same versions of the libraries. Every record's
    CRC and every shard's SHA-256 is checked.

    Raises SettingError for another `to`, or without pyarrow; ManifestError, naming the shard, if the folder is not
    complete or a record is damaged; OutputError if `out` is not empty, lies in `folder` or cannot be written;
    StoppedError if its disk is full or a worker dies. Then nothing is left in `out`.
    """
    place, out = location(folder), Path(out)
    require_one_of("to", to, FORMATS)
    if to == "parquet":
        parquet.require_pyarrow()
    folder = open_dataset(place)
    manifest = Manifest.load(folder)
    _require_outside(folder, out)
    at_once = max(1, default_workers() if workers is None else workers)
    _, streaming = fetch_or_stream(place, folder, manifest, tuple(manifest.splits), at_once)
    with atomic_directory(out, "octprep export", last=SUMMARY_NAME) as target, WorkerPool(workers) as pool:
        tasks = [
            task
            for split in manifest.splits
            for task in _tasks(folder, manifest, split, target, to, repeats, streaming)
        ]
        total = sum(manifest.records(split) for split in manifest.splits)
        labels: dict[str, Counter[int]] = {split: Counter() for split in manifest.splits}
        progress("exporting", 0, total)
        for written in pool.run(_export_shard, tasks):
            labels[written.split] += written.labels
            progress("exporting", written.read, total)
        result = ExportResult(
            octprep=version("octprep"),
            dataset=manifest.digest,
            format=to,
            repeats=repeats,
            class_names=manifest.class_names,
            splits={
                split: ExportedSplit(
                    files=tuple(task.path.name for task in tasks if task.split == split),
                    records=counts.total(),
                    per_class={name: counts[label] for label, name in enumerate(manifest.class_names)},
                )
                for split, counts in labels.items()
            },
        )
        if to == "parquet":
            _write(target / "README.md", parquet.dataset_card(split for split in labels if result.splits[split].files))
        _write(target / SUMMARY_NAME, result.to_json())
    return result


def _tasks(
    folder: Path, manifest: Manifest, split: str, target: Path, to: str, repeats: bool, streaming: Streaming | None
) -> list[_Task]:
    """A task for each shard of a split that holds records."""
    numbers = [number for number, shard in enumerate(manifest.splits[split]) if shard.records]
    names = [
        _FORMATS[to].file_name.format(split=split, number=index, count=len(numbers)) for index in range(len(numbers))
    ]
    return [
        _Task(folder, manifest, split, number, target / name, to, repeats, streaming)
        for number, name in zip(numbers, names, strict=True)
    ]


def _export_shard(task: _Task) -> _Written:
    """Write the file of one shard."""
    labels: Counter[int] = Counter()

    def counted() -> Iterable[Sample]:
        for sample in read_samples(task.folder, task.manifest, task.split, task.number, repeats=task.repeats):
            labels[sample.metadata[LABEL]] += 1
            yield sample

    shard = task.manifest.splits[task.split][task.number]
    with reading(task.streaming, task.folder / shard.name):
        _FORMATS[task.format].write(task.path, counted(), task.manifest)
    sync(task.path)
    return _Written(task.split, shard.records, labels)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    sync(path)


def _require_outside(folder: Path, out: Path) -> None:
    """Raise OutputError if the export would lie in the folder of shards, which is left as it is."""
    try:
        inside = out.resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # a link that leads to itself, which `atomic_directory` reports
        return
    if inside:
        raise OutputError(f"--out {out} lies in {folder}, which is only read; name a new folder outside it.")
