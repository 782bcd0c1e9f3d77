"""The B-scans of files that hold many: DICOM and .vol files, each of whose frames becomes a ScanFile or an Exclusion.

A frame has the path of its file with its number behind it, `scan.dcm#07`, so that all that follows treats it as any
other file. What a file is follows from its content; but only files without the ending of a picture are opened for that
when a source is listed, as opening all takes as long as reading them on a cold disk or an object store.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from octprep.format.errors import UnreadableImage
from octprep.format.files import NotReadable, open_regular
from octprep.format.names import PICTURE_ENDINGS
from octprep.format.paths import frame_path, text_to_path
from octprep.preprocessing import volumes
from octprep.preprocessing.limits import MAX_VOLUME_BYTES
from octprep.preprocessing.volume_header import VolumeHeader
from octprep.source.files import Exclusion, ScanFile
from octprep.source.walk import RegularFile
from octprep.storage.remote import Location, RemoteFolder


def find_header(src: Location, file: RegularFile) -> VolumeHeader | str | None:
    """What a file says of its B-scans, or why they cannot be used; None if it holds none, as far as is known here.

    A file that cannot be read is left to whoever reads it as a scan. Raises StorageError.
    """
    if file.key[file.key.rfind(".") :].lower() in PICTURE_ENDINGS:
        return None
    path = text_to_path(file.key)
    try:
        if isinstance(src, RemoteFolder):
            return _checked_header(io.BytesIO(src.read(path)), file.bytes)
        with open_regular(src / path) as opened:
            return _checked_header(opened, file.bytes)
    except UnreadableImage as error:
        return str(error)
    except (OSError, NotReadable):
        return None


def _checked_header(opened: io.BufferedReader | io.BytesIO, size: int) -> VolumeHeader | None:
    head = opened.read(volumes.HEAD_BYTES)
    if not volumes.is_volume(head):
        return None
    if size > MAX_VOLUME_BYTES:
        raise UnreadableImage(f"too large: {size:,} bytes, more than {MAX_VOLUME_BYTES // 10**6} MB")
    opened.seek(0)
    return volumes.read_header(opened)


def with_frames(
    files: Iterable[ScanFile], headers: Mapping[str, VolumeHeader], others: AbstractSet[str]
) -> tuple[list[ScanFile], list[Exclusion]]:
    """The files, with a ScanFile for each frame in place of those that hold many, and the frames that are not used.

    headers: of those, by path. others: the paths of all files. What the layout says of a file goes for its frames; of
    the eye and the distance of rows it goes before what the file states. The number of a frame is its image number,
    but for that of the only frame of a file, where the layout states one.
    """
    kept: list[ScanFile] = []
    excluded: list[Exclusion] = []
    for file in files:
        header = headers.get(file.path)
        if header is None:
            kept.append(file)
            continue
        count = len(header.frames)
        paths = [frame_path(file.path, number, count) for number in range(1, count + 1)]
        if clash := sorted(set(paths) & others):
            excluded.append(Exclusion(file.path, f"another file has the name of one of its frames: {clash[0]}"))
            continue
        for number, (path, facts) in enumerate(zip(paths, header.frames, strict=True), 1):
            if facts.exclusion:
                excluded.append(Exclusion(path, facts.exclusion))
                continue
            kept.append(
                dataclasses.replace(
                    file,
                    path=path,
                    frame=number,
                    image_number=(file.image_number if count == 1 else 0) or number,
                    eye=file.eye or facts.eye,
                    axial_um=file.axial_um or facts.axial_um,
                )
            )
    return kept, excluded
