"""The manifest of a folder of shards, and the names of its files and of a record's features.

Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.files import NotReadable, atomic_write, cannot_be_read, open_persistent, read_again, read_bytes
from octprep.format.json_types import MAX_INTEGER, check_type, read_json, shown
from octprep.format.paths import original

FORMAT_VERSION = 3
MANIFEST_NAME = "manifest.json"
IMAGES_NAME = "images.csv"
DUPLICATES_NAME = "duplicates.json"
REPORT_NAME = "report.html"
PREPARED_NAME = ".prepared.gz"  # for the next build alone (`octprep.shards.prepared`); it may be deleted
WORK_NAME = ".octprep-work"  # a folder in the one that is built, as long as the build is not finished

REPAIR = "Copy the folder again, or repair it by the `octprep build` that made it."  # a damaged one, in messages

MAX_BYTES = 512_000_000  # of manifest.json, images.csv or duplicates.json; the whole archive's table has 30 MB
_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


# The libraries that decide pixels, by their names in the manifest, and what they are called.
PIXEL_LIBRARIES: Mapping[str, str] = {
    "octprep": "octprep",
    "opencv": "OpenCV",
    "simplejpeg": "simplejpeg",
    "pywavelets": "PyWavelets",
}

# Features of one record, a tf.train.Example. README.md describes each.
IMAGE = "image"
LABEL = "label"
PATIENT = "patient"
PATH = "path"
NUMBER = "number"
SHA256 = "sha256"
SOURCE_SIZE = "source_size"
AFFINE = "affine"
ROW_OFFSET = "row_offset"  # only where the recipe flattens
REPEAT = "repeat"
SOURCE = "source"  # these three only where the source states them, in all records of a folder then
EYE = "eye"
VOLUME = "volume"
STATED = (SOURCE, EYE, VOLUME)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One TFRecord file of a split."""

    name: str  # relative to the folder, with forward slashes: train/00000-of-00058.tfrecord
    records: int
    per_class: tuple[int, ...]  # records per class, in the order of the manifest's class names
    bytes: int
    sha256: str  # of the file, hex


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """What is in more than one split. Empty in every folder that was not built with --allow-leaks."""

    patients: tuple[str, ...] = ()  # bare ids
    contents: tuple[str, ...] = ()  # SHA-256 of source files, hex
    near: tuple[tuple[str, str], ...] = ()  # paths of near-identical scans under different patient ids

    def __bool__(self) -> bool:
        return bool(self.patients or self.contents or self.near)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished folder of shards contains, and how it was made.

    octtrain gets everything it knows about the data from here. `digest` is the SHA-256 of the canonical JSON of all
    other fields; as these hold every shard's SHA-256, it names the dataset.
    """

    class_names: tuple[str, ...]
    config: BuildConfig
    splits: Mapping[str, tuple[Shard, ...]]
    leaks: Leaks
    # listing: SHA-256 over paths and sizes; found, kept, excluded: numbers of files; with pseudonyms pseudonym_key;
    # where paths are not read as Kermany et al. name them layouts, in words; where records have some of STATED features
    source: Mapping[str, Any]
    images_sha256: str  # of images.csv, hex
    duplicates_sha256: str  # of duplicates.json, hex
    libraries: Mapping[str, str]  # name -> version of what made the pixels
    format_version: int = FORMAT_VERSION
    digest_ok: bool = field(default=True, compare=False, repr=False)  # False: it was edited

    def to_json(self) -> dict[str, Any]:
        """All fields but the digest, as JSON knows them."""
        fields = dataclasses.asdict(self)
        del fields["digest_ok"]
        return fields

    @property
    def recipe(self) -> Preprocessing:
        """What was done to every image."""
        return self.config.recipe

    @property
    def pseudonym_key(self) -> str:
        """The fingerprint of the key of the patient ids' pseudonyms; "" if the ids are those of the file names."""
        return str(self.source.get("pseudonym_key", ""))

    @property
    def layouts(self) -> tuple[str, ...]:
        """How the paths of each source were read; () if as Kermany et al. name them."""
        return tuple(self.source.get("layouts", ()))

    @property
    def unknown_patients(self) -> str:
        """What a reader must know of a dataset built with --patients unknown, as a sentence's end; "" of any other."""
        if self.config.patients != "unknown":
            return ""
        return (
            "patient ids are not known: an image without one counts as a patient of its own, and only near-identical "
            "images are linked, so scans of one person may be in several splits"
        )

    @property
    def stated(self) -> tuple[str, ...]:
        """Those of STATED that every record has."""
        return tuple(self.source.get("features", ()))

    @property
    def digest(self) -> str:
        """SHA-256 in hex of this manifest's canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def records(self, *splits: str) -> int:
        """How many records some splits hold, repeats that balance the classes included."""
        return sum(shard.records for split in splits for shard in self.splits[split])

    def per_class(self, split: str) -> dict[str, int]:
        """How many records of each class a split holds."""
        counts = [sum(column) for column in zip(*(shard.per_class for shard in self.splits[split]), strict=True)]
        return dict(zip(self.class_names, counts or [0] * len(self.class_names), strict=True))

    def to_bytes(self) -> bytes:
        """What manifest.json holds."""
        return (json.dumps({"digest": self.digest, **self.to_json()}, indent=1) + "\n").encode()

    def save(self, folder: Path) -> None:
        """Write manifest.json in one step: after a crash the file is complete or absent."""
        atomic_write(folder / MANIFEST_NAME, self.to_bytes())

    @classmethod
    def load(cls, folder: Path, *, allow_edited: bool = False) -> Self:
        """Read a folder's manifest.

        Raises ManifestError if there is none, if it has another format version, or if it was edited; StoppedError if
        the machine cannot read it. With allow_edited a manifest whose digest does not match is returned, with
        `digest_ok` False, if it is well-formed.
        """
        path = folder / MANIFEST_NAME
        try:
            raw = read_json(read_folder_file(path))
        except (FileNotFoundError, NotADirectoryError):
            raise ManifestError(_no_manifest(folder)) from None
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ManifestError(
                f"{original(path)} cannot be read ({what}). Copy it again, or rebuild the folder with `octprep build`."
            ) from None
        return cls.from_json(raw, original(path), allow_edited=allow_edited)

    @classmethod
    def from_json(cls, raw: Any, path: object, *, allow_edited: bool = False) -> Self:
        """The manifest in decoded JSON; `path` is only for messages. Raises ManifestError as `load` does."""
        version = raw.get("format_version") if isinstance(raw, dict) else None
        if type(version) is not int or version != FORMAT_VERSION:
            shown = version if isinstance(version, int | str | None) else type(version).__name__
            raise ManifestError(
                f"{path} has format version {str(shown)[:20]}, but this version of octprep reads format version "
                f"{FORMAT_VERSION}. Rebuild the folder with `octprep build`."
            )
        try:
            fields = {key: value for key, value in raw.items() if key != "digest"}
            check_type(raw["digest"], str, "digest")
            check_type(fields, cls, "")
            manifest = cls(
                **{
                    **fields,
                    "class_names": tuple(raw["class_names"]),
                    "config": BuildConfig.from_json(raw["config"]),
                    "splits": {
                        name: tuple(Shard(**{**shard, "per_class": tuple(shard["per_class"])}) for shard in shards)
                        for name, shards in raw["splits"].items()
                    },
                    "leaks": Leaks(**{key: tuple(map(_tuple, value)) for key, value in raw["leaks"].items()}),
                }
            )
            _check_values(manifest)
            digest_ok = manifest.digest == raw["digest"]
        except KeyError as error:
            raise _not_a_manifest(path, f"it lacks {error}") from None
        except ValueError as error:
            raise _not_a_manifest(path, error) from None
        if not digest_ok and allow_edited:
            return dataclasses.replace(manifest, digest_ok=False)
        if not digest_ok:
            raise ManifestError(
                f"{path} was changed after it was written: its digest does not match its content. "
                "Restore it, or rebuild the folder with `octprep build`."
            )
        return manifest

    def check_files(self, folder: Path, splits: tuple[str, ...]) -> None:
        """Compare the shards of some splits with the manifest: presence, size, SHA-256.

        Raises ManifestError naming the first shard that differs, is a link or lies behind one: nothing outside the
        folder is read; StoppedError if the machine cannot read one. Reads every byte, 1-2 GB/s where the disk allows.
        """
        for split in splits:
            if split not in self.splits:
                raise ManifestError(f"{original(folder)} has no split {split!r}; it has {', '.join(self.splits)}.")
            for shard in self.splits[split]:
                problem = shard_problem(folder / shard.name, shard)
                if problem:
                    raise ManifestError(f"{folder / shard.name} {problem}, so {folder} is not what was built. {REPAIR}")


def version_differences(manifest: Manifest, installed: Mapping[str, str]) -> list[str]:
    """The libraries that decide pixels and have another version now than when the shards were made, in words.

    installed: name -> version of what is installed now, such as {"octprep": "1.0", "opencv": "4.12.0"}; names that it
    or the manifest lacks are ignored. Only PIXEL_LIBRARIES are compared. [] if they agree.
    """
    return [
        f"{title} {manifest.libraries[name]} made the shards, {installed[name]} is installed"
        for name, title in PIXEL_LIBRARIES.items()
        if name in manifest.libraries and name in installed and manifest.libraries[name] != installed[name]
    ]


def open_shard(path: Path) -> io.BufferedReader:
    """Open a shard for reading, without waiting for a pipe.

    Raises ValueError, whose message is the rest of a sentence about the path, for anything that is not a regular file,
    and for a link or a file in a linked folder, whose content may change at any time. Raises FileNotFoundError or
    NotADirectoryError if there is none. A disk that fails for a moment is tried again, here and when the shard is read;
    StoppedError is raised if that lasts.
    """
    if read_again(path, path.is_symlink):
        raise ValueError("is a link, not a file")
    if read_again(path, path.parent.is_symlink):
        raise ValueError(f"lies in {path.parent.name}, which is a link, not a folder")
    try:
        return open_persistent(path)
    except NotReadable as error:
        raise ValueError(str(error)) from None


def shard_problem(path: Path, shard: Shard) -> str | None:
    """How a shard's file differs from the manifest, as the rest of a sentence about it; None if it does not.

    Raises StoppedError if the machine cannot read it.
    """
    try:
        with open_shard(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.bytes:
                return f"has {size:,} bytes where the manifest says {shard.bytes:,}"
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        raise cannot_be_read(path, error) from error
    except ValueError as error:
        return str(error)
    if sha256 != shard.sha256:
        return f"has SHA-256 {sha256[:16]}... where the manifest says {shard.sha256[:16]}..."
    return None


def unlisted_shards(folder: Path, manifest: Manifest) -> list[str]:
    """The shards that lie in a folder and that its manifest does not name: paths relative to the folder, sorted."""
    names = {shard.name for shards in manifest.splits.values() for shard in shards}
    return sorted({path.relative_to(folder).as_posix() for path in folder.glob("*/*.tfrecord")} - names)


def read_folder_file(path: Path) -> bytes:
    """The content of a folder's manifest.json, images.csv or duplicates.json.

    A pipe is not waited for, a link is not followed, and no more than 512 MB are read. Raises ValueError for these,
    without the path; FileNotFoundError or NotADirectoryError if there is none; StoppedError if the machine cannot read
    it, which is tried again before.
    """
    if read_again(path, path.is_symlink):
        raise ValueError("it is a link, not a file")
    try:
        return read_again(path, lambda: read_bytes(path, MAX_BYTES, follow_links=False))[0]
    except NotReadable as error:
        raise ValueError(f"it {error}") from None


def _no_manifest(folder: Path) -> str:
    """Why a folder has no manifest, and what to do."""
    if not folder.is_dir():
        return f"{folder} is not a folder. Make one with `octprep build --src DIR --out {folder}`."
    if (folder / WORK_NAME).is_dir():
        return (
            f"{folder} has no {MANIFEST_NAME} yet: it is being built, or its build was interrupted. Wait for "
            "`octprep build`, or run the same `octprep build` again, which resumes it."
        )
    return (
        f"{folder} has no {MANIFEST_NAME}, so it is not a finished folder of shards. Make one with "
        f"`octprep build --src DIR --out {folder}`."
    )


def _not_a_manifest(path: object, why: object) -> ManifestError:
    return ManifestError(
        f"{path} is not a manifest that octprep wrote: {str(why)[:300]}. Restore it, or rebuild the folder with "
        "`octprep build`."
    )


def _check_values(manifest: Manifest) -> None:
    """Raise ValueError for values that no build writes, even if the digest matches."""
    labels = manifest.class_names
    if not labels or "" in labels or len(set(labels)) < len(labels):
        raise ValueError("class_names must be different names, at least one")
    digests = {"images_sha256": manifest.images_sha256, "duplicates_sha256": manifest.duplicates_sha256}
    digests["source.listing"] = manifest.source["listing"]
    digests["config.split_file_sha256"] = manifest.config.split_file_sha256 or "0" * 64
    digests |= {f"leaks.contents[{index}]": content for index, content in enumerate(manifest.leaks.contents)}
    key = manifest.source.get("pseudonym_key", "0" * 16)
    if not isinstance(key, str) or not _FINGERPRINT.fullmatch(key):
        raise ValueError(f"source.pseudonym_key is not 16 hexadecimal digits: {shown(key)}")
    for name, allowed in (("layouts", None), ("features", STATED)):
        texts = manifest.source.get(name, [])
        if not isinstance(texts, list | tuple) or not all(
            isinstance(text, str) and (allowed is None or text in allowed) for text in texts
        ):
            raise ValueError(f"source.{name} is not a list of known texts: {shown(texts)}")
    numbers = {f"source.{key}": manifest.source[key] for key in ("found", "kept", "excluded")}
    for split, shards in manifest.splits.items():
        if not _SPLIT.fullmatch(split):
            raise ValueError(f"{split[:80]!r} is not a name of a split")
        for index, shard in enumerate(shards):
            name = f"{split}/{index:05d}-of-{len(shards):05d}.tfrecord"
            if shard.name != name:
                raise ValueError(f"split {split} has shard {shard.name[:80]!r} instead of {name}")
            if len(shard.per_class) != len(labels):
                raise ValueError(f"{name} counts {len(shard.per_class)} classes, but {len(labels)} are named")
            if sum(shard.per_class) != shard.records:
                raise ValueError(f"{name} has {shard.records} records, but its classes have {sum(shard.per_class)}")
            digests[f"sha256 of {name}"] = shard.sha256
            numbers |= {f"records of {name}": min(shard.per_class), f"bytes of {name}": shard.bytes}
    for key, number in numbers.items():
        if type(number) is not int or not 0 <= number < MAX_INTEGER:
            raise ValueError(f"{key} must be a non-negative integer: {shown(number)}")
    for key, digest in digests.items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"{key} is not a SHA-256 in hexadecimal digits: {shown(digest)}")


def _tuple(value: Any) -> Any:
    """A list of decoded JSON as a tuple; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value
