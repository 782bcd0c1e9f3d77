"""A finished folder of shards at a URL: what is there, and how a local folder is put there.

An object store has neither renaming nor locks. So a build writes a local folder, which is then uploaded in this order:
an old manifest.json is deleted if it is of another dataset, and then shards that the new one has not; all files but the
manifest are written; UPLOADED_NAME, the list of the objects with their SHA-256 and how the store shows them; last
manifest.json. A URL with a manifest is therefore a finished folder. What an interrupted upload has sent is noted in a
local file, so that it is not sent again. Files that the manifest does not name, the index and the report, may be
replaced in a finished folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Container, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from octprep.format.config import BuildConfig
from octprep.format.errors import OutputError, StoppedError
from octprep.format.files import atomic_write
from octprep.format.locks import locked
from octprep.format.manifest import (
    DUPLICATES_NAME,
    IMAGES_NAME,
    MANIFEST_NAME,
    PREPARED_NAME,
    REPORT_NAME,
    Manifest,
    shard_problem,
)
from octprep.format.record_index import INDEX_NAME
from octprep.shards.tfds import TFDS_NAMES
from octprep.shards.workdir import finished_manifest
from octprep.storage.cache import PARALLEL, build_folder, cache_folder, read_manifest
from octprep.storage.remote import RemoteFolder, RemoteObject, StorageError
from octprep.workers import Progress

UPLOADED_NAME = ".uploaded.json"

_SHARD = re.compile(r"[A-Za-z0-9_]{1,64}/[0-9]{5}-of-[0-9]{5}\.tfrecord")
_INDEX = re.compile(rf"{INDEX_NAME}/[A-Za-z0-9_]{{1,64}}(\.csv|/[0-9]{{5}}-of-[0-9]{{5}}\.tfrecord\.idx)")
_FILES = frozenset(
    (MANIFEST_NAME, UPLOADED_NAME, IMAGES_NAME, DUPLICATES_NAME, REPORT_NAME, PREPARED_NAME, *TFDS_NAMES)
)


_MARKER = re.compile(r"\.writing-[0-9a-f]{32}\.json")
_RENEW_SECONDS = 60
_MARKER_SECONDS = 600


@dataclass(frozen=True)
class Uploaded:
    """An object as it was uploaded."""

    bytes: int
    sha256: str  # hex
    changed_ns: int  # of the object, as `RemoteObject` has it

    def is_at(self, found: RemoteObject | None) -> bool:
        """Whether an object that was found is still the one that was uploaded."""
        return found == RemoteObject(self.bytes, self.changed_ns)


@dataclass(frozen=True)
class ExistingUpload:
    """A finished folder at a URL, of the same settings and the same list of source files."""

    manifest: Manifest
    damage: tuple[str, ...]  # in words: of its shards and tables
    newest_source_ns: int  # the time of change of the source's newest file; -1: not known
    images: bytes  # images.csv
    duplicates: bytes  # duplicates.json


def is_of_build(name: str) -> bool:
    """Whether an object may be one that a build has written, by its name."""
    return name in _FILES or any(pattern.fullmatch(name) for pattern in (_SHARD, _INDEX, _MARKER))


def existing_upload(
    place: RemoteFolder, config: BuildConfig, listing_sha256: str, pseudonym_key: str, notes: Path, *, overwrite: bool
) -> ExistingUpload | None:
    """The finished folder at a URL, and what is damaged in it; None if everything is to be built.

    notes: the local file about an interrupted upload, if there was one. Of the shards those are read that were changed
    after they were uploaded. Raises OutputError if octprep did not write what is there, or if it has other settings or
    another source and overwrite is not given; StorageError.
    """
    there = place.list()
    if MANIFEST_NAME in there:
        return None if overwrite else _finished_upload(place, there, config, listing_sha256, pseudonym_key)
    if foreign := [name for name in there if not is_of_build(name)]:
        raise OutputError(
            f"--out {place} holds objects that octprep did not write, such as {foreign[0]}, so it is left alone; give "
            "another --out."
        )
    if any(map(_SHARD.fullmatch, there)) and not notes.exists() and not overwrite:
        raise OutputError(
            f"--out {place} holds shards without {MANIFEST_NAME}, and they were not uploaded from {notes.parent}. "
            "Resume that build with the --work it had, use --overwrite to build here anyway, or give another --out."
        )
    return None


def upload(folder: Path, place: RemoteFolder, notes: Path, newest_source_ns: int, progress: Progress) -> bool:
    """Put a finished folder at a URL; whether anything had to be changed there.

    notes: a local file that gets a line for each object sent. Raises StorageError; OutputError if another build is
    writing there; StoppedError for an object that is not there as it was sent.
    """
    manifest = Manifest.load(folder)
    sha256 = {shard.name: shard.sha256 for shards in manifest.splits.values() for shard in shards}
    sha256 |= {name: _sha256(folder / name) for name in _files(folder) if name not in sha256}
    with _marked(place, notes.with_name("marker.txt")) as marker:
        there = marker.list_alone()
        known = {**_uploaded_list(place, there).objects, **_read_notes(notes)}
        old = place.read(MANIFEST_NAME) if MANIFEST_NAME in there else b""
        is_same = old == manifest.to_bytes()
        if not is_same:
            place.delete([name for name in (MANIFEST_NAME, UPLOADED_NAME) if name in there])
        stale = [name for name in there if is_of_build(name) and name not in (*sha256, MANIFEST_NAME, UPLOADED_NAME)]
        place.delete(stale)
        right = {
            name: known[name]
            for name, digest in sha256.items()
            if name in known and known[name].sha256 == digest and known[name].is_at(there.get(name))
        }
        missing = [name for name in sha256 if name not in right]
        if is_same and not (missing or stale) and UPLOADED_NAME in there:
            return False

        progress("uploading files", 0, len(sha256))
        progress("uploading files", len(right), len(sha256))
        sent = {}
        with notes.open("a") as lines, ThreadPoolExecutor(PARALLEL) as threads:
            try:
                pending = {threads.submit(_send, folder, place, name, sha256[name]) for name in missing}
                while pending:
                    done, pending = wait(pending, _RENEW_SECONDS, FIRST_COMPLETED)
                    marker.renew()
                    for future in done:
                        name, uploaded = future.result()
                        sent[name] = uploaded
                        lines.write(json.dumps([name, *vars(uploaded).values()]) + "\n")
                        lines.flush()
                        progress("uploading files", 1, len(sha256))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        there = marker.list_alone()
        for name, uploaded in (right | sent).items():
            if not uploaded.is_at(there.get(name)):
                raise StoppedError(f"{place / name} was changed after it was sent. Run the same command again.")
        _write_uploaded_list(place, _UploadedList(manifest.digest, newest_source_ns, {**right, **sent}))
        place.write(MANIFEST_NAME, manifest.to_bytes())
    return True


def replace_files(
    place: RemoteFolder, manifest: Manifest, files: Mapping[str, bytes], *, without: Container[str] = ()
) -> None:
    """Write files that the manifest does not name into the finished folder at a URL, then the list, if it has one.

    files: content by name. without: names of objects that are deleted, if they are there. manifest.json stays as it is:
    the folder is finished all the time. Raises OutputError if a build is writing there, or if it is not the dataset of
    the manifest any more; StorageError.
    """
    work = build_folder(place)
    is_new = not work.exists()
    work.mkdir(parents=True, exist_ok=True)
    try:
        with locked(work, "octprep build"), _marked(place, work / "marker.txt") as marker:
            there = marker.list_alone()
            if MANIFEST_NAME not in there or read_manifest(place)[0].digest != manifest.digest:
                raise OutputError(f"{place} is not the dataset that was read any more. Run the same command again.")
            place.delete([name for name in there if name in without and name not in files])
            with ThreadPoolExecutor(PARALLEL) as threads:
                sent = dict(threads.map(lambda name: _write(place, name, files[name]), files))
            listed = _uploaded_list(place, there)
            if listed.digest == manifest.digest:
                kept = {name: known for name, known in listed.objects.items() if name not in without}
                _write_uploaded_list(place, dataclasses.replace(listed, objects={**kept, **sent}))
    finally:
        if is_new:
            shutil.rmtree(work, ignore_errors=True)


def _write(place: RemoteFolder, name: str, content: bytes) -> tuple[str, Uploaded]:
    place.write(name, content)
    return name, Uploaded(len(content), hashlib.sha256(content).hexdigest(), place.status(name).changed_ns)


def _send(folder: Path, place: RemoteFolder, name: str, sha256: str) -> tuple[str, Uploaded]:
    """Upload one file. Raises StoppedError if the store shows it with another size."""
    size = (folder / name).stat().st_size
    place.upload(folder / name, name)
    found = place.status(name)
    if found.bytes != size:
        raise StoppedError(
            f"{place / name} has {found.bytes:,} bytes after {size:,} were sent. Run the same command again."
        )
    return name, Uploaded(size, sha256, found.changed_ns)


class _Marker:
    """An object that says that an upload to a URL is under way."""

    def __init__(self, place: RemoteFolder, kept: Path) -> None:
        """kept: a local file that keeps the name of the object for the next upload from the same folder."""
        self._place = place
        self.name = kept.read_text() if kept.exists() else ""
        if not _MARKER.fullmatch(self.name):
            self.name = f".writing-{uuid.uuid4().hex}.json"
            atomic_write(kept, self.name.encode())
        self._written = -float(_RENEW_SECONDS)

    def renew(self) -> None:
        """Write the object, unless that was done a short time ago."""
        if time.monotonic() - self._written >= _RENEW_SECONDS:
            self._place.write(self.name, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
            self._written = time.monotonic()

    def list_alone(self) -> dict[str, RemoteObject]:
        """The other objects at the URL, by name. Raises OutputError if a marker of another upload is recent."""
        there = self._place.list()
        own = there.pop(self.name, None)
        if own is None:
            raise OutputError(f"{self._place / self.name} was deleted during the upload. Run the same command again.")
        for name, found in there.items():
            if _MARKER.fullmatch(name) and own.changed_ns - found.changed_ns < _MARKER_SECONDS * 10**9:
                raise OutputError(
                    f"another octprep build is writing to {self._place}: {name} there is less than "
                    f"{_MARKER_SECONDS // 60} minutes old. Wait for it, or, if it no longer runs, delete that object; "
                    "then run the same command again."
                )
        return there


@contextmanager
def _marked(place: RemoteFolder, kept: Path) -> Iterator[_Marker]:
    """A marker at a URL, until the end of the block. kept: as for _Marker."""
    marker = _Marker(place, kept)
    marker.renew()
    try:
        yield marker
    finally:
        with suppress(StorageError):
            place.delete([marker.name])


@dataclass(frozen=True)
class _UploadedList:
    """What UPLOADED_NAME says."""

    digest: str
    newest_source_ns: int
    objects: Mapping[str, Uploaded]


def _uploaded_list(place: RemoteFolder, there: Mapping[str, RemoteObject]) -> _UploadedList:
    """What the list at a URL says; nothing of one that is missing or damaged."""
    try:
        content = json.loads(place.read(UPLOADED_NAME)) if UPLOADED_NAME in there else {}
        objects = {
            str(name): Uploaded(int(row[0]), str(row[1]), int(row[2])) for name, row in content["objects"].items()
        }
        return _UploadedList(str(content["digest"]), int(content["newest_source_ns"]), objects)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return _UploadedList("", -1, {})


def _write_uploaded_list(place: RemoteFolder, uploaded: _UploadedList) -> None:
    objects = {name: list(vars(known).values()) for name, known in sorted(uploaded.objects.items())}
    content = {"digest": uploaded.digest, "newest_source_ns": uploaded.newest_source_ns, "objects": objects}
    place.write(UPLOADED_NAME, (json.dumps(content, indent=1) + "\n").encode())


def _read_notes(notes: Path) -> dict[str, Uploaded]:
    """What was sent by uploads from this folder; a line that was cut short is passed over."""
    sent = {}
    try:
        lines = notes.read_text().splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            name, size, sha256, changed_ns = json.loads(line)
            sent[str(name)] = Uploaded(int(size), str(sha256), int(changed_ns))
        except (ValueError, TypeError):
            continue
    return sent


def _finished_upload(
    place: RemoteFolder,
    there: Mapping[str, RemoteObject],
    config: BuildConfig,
    listing_sha256: str,
    pseudonym_key: str,
) -> ExistingUpload:
    """The folder that the manifest at a URL describes. Raises OutputError if it has other settings or source."""
    manifest = finished_manifest(
        place, lambda: read_manifest(place, allow_edited=True)[0], config, listing_sha256, pseudonym_key
    )
    damage = [] if manifest.digest_ok else [f"{MANIFEST_NAME} was changed after it was written"]
    tables = {IMAGES_NAME: manifest.images_sha256, DUPLICATES_NAME: manifest.duplicates_sha256}
    contents = {name: place.read(name) if name in there else b"" for name in tables}
    damage += [
        f"{name} {'was changed after it was written' if name in there else 'is missing'}"
        for name, digest in tables.items()
        if hashlib.sha256(contents[name]).hexdigest() != digest
    ]
    uploaded = _uploaded_list(place, there)
    damage += _damaged_shards(place, there, manifest, uploaded.objects)
    newest = uploaded.newest_source_ns if uploaded.digest == manifest.digest else -1
    return ExistingUpload(manifest, tuple(damage), newest, contents[IMAGES_NAME], contents[DUPLICATES_NAME])


def _damaged_shards(
    place: RemoteFolder, there: Mapping[str, RemoteObject], manifest: Manifest, objects: Mapping[str, Uploaded]
) -> Iterator[str]:
    """What is wrong with shards: by their sizes, and by the content of those that were changed since their upload."""
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        known = objects.get(shard.name)
        if shard.name not in there:
            yield f"{shard.name} is missing"
        elif there[shard.name].bytes != shard.bytes:
            yield f"{shard.name} has another size"
        elif known is None or known.sha256 != shard.sha256 or not known.is_at(there[shard.name]):
            cache_folder().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
                copy = Path(folder, "shard")
                place.download(shard.name, copy)
                problem = shard_problem(copy, shard)
            if problem:
                yield f"{shard.name} {problem}"


def _files(folder: Path) -> list[str]:
    """The names of the files of a finished folder that are uploaded before its manifest."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if is_of_build(name) and name not in (MANIFEST_NAME, UPLOADED_NAME))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
