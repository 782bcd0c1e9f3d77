"""Listing a source, a folder or a URL: which of its files are B-scans by their paths, and why the others are not.

No file is opened. A link where a scan or its folder should be is an error, unless links are to be followed; so is a
folder that cannot be read where scans may be. So no scan is missing silently.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from octprep.format.config import SOURCE_SPLITS
from octprep.format.errors import SourceError
from octprep.format.names import LABEL, parse_scan_name
from octprep.format.paths import path_to_text, text_to_path
from octprep.source.files import Exclusion, ScanFile, SourceListing, parse_scan_path
from octprep.source.published import KERMANY_CLASSES
from octprep.source.walk import RegularFile, RemoteWalk, UnreadEntry, Walk
from octprep.storage.remote import Location, RemoteFolder
from octprep.wording import listed, number

_MAX_PROBED = 10_000  # names that are looked at to see whether a folder holds scans


def directory_problem(path: Path) -> str | None:
    """Why a path cannot be used as a folder, such as `does not exist`; None if it can, as far as its status shows."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror or error})"
    return None if stat.S_ISDIR(mode) else "is a file"


def list_source(src: Location, *, follow_links: bool = False, keep_out: Sequence[Path] = ()) -> SourceListing:
    """List every file of a source, a folder or a URL, as a B-scan or an exclusion, by its path; no file is opened.

    With follow_links what is behind links is listed too, each file once; keep_out: paths that are written to, which no
    link may lead to. Without it, a link is an error where a scan or its folder should be, and an exclusion elsewhere.

    Raises SourceError if there is no such folder, if it is empty or has no class folders, if it holds several data
    sets, if a folder where scans should be cannot be read, or for the links above; StorageError if a URL cannot be
    listed.
    """
    if isinstance(src, RemoteFolder):
        return _list_remote(src)
    shown = path_to_text(str(src))
    if problem := directory_problem(src):
        raise SourceError(
            f"--src {shown} {problem}; give the folder that holds train/ and test/, or the class folders."
        )
    walk = Walk(src, follow_links)
    if not (walk.files or walk.special_files or walk.unread):
        raise SourceError(f"--src {shown} is empty; give the folder that holds train/ and test/, or the class folders.")
    for key, target in walk.followed_links:
        _check_link_target(src, key, target, keep_out)
    root = _find_root(walk)
    scan_files, exclusions = _parsed(walk, root)
    _check_nothing_missed(walk, root, scan_files)
    exclusions += [Exclusion(entry.key, entry.reason) for entry in walk.unread]
    if follow_links:
        real_paths = {file.key: file.real_path for file in walk.files}
        scan_files, repeated = _drop_repeated_links(scan_files, real_paths)
        exclusions += repeated
    return _listing(walk, root, scan_files, exclusions)


def shared_paths(src: Location, listing: SourceListing) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What each worker of a cluster must see of a source, its folder and a file; nothing of a URL."""
    if isinstance(src, RemoteFolder):
        return (), ()
    return (src,), tuple(src / text_to_path(file.path) for file in listing.scan_files[:1])


def _list_remote(src: RemoteFolder) -> SourceListing:
    """The listing of a URL, where there are no links. Raises as `list_source` does."""
    walk = RemoteWalk(src)
    if not (walk.files or walk.special_files):
        raise SourceError(
            f"--src {src} holds nothing; give the folder that holds train/ and test/, or the class folders."
        )
    root = _find_root(walk)
    scan_files, exclusions = _parsed(walk, root)
    return _listing(walk, root, scan_files, exclusions)


def _parsed(walk: Walk | RemoteWalk, root: str) -> tuple[list[ScanFile], list[Exclusion]]:
    """The files of a walk by what their paths say, and the exclusions that the walk knows."""
    scan_files: list[ScanFile] = []
    exclusions = list(walk.special_files)
    for file in walk.files:
        match parse_scan_path(
            file.key, file.bytes, root, modified_ns=file.modified_ns, changed_ns=file.changed_ns, linked=file.linked
        ):
            case ScanFile() as scan_file:
                scan_files.append(scan_file)
            case Exclusion() as exclusion:
                exclusions.append(exclusion)
    return scan_files, exclusions


def _listing(
    walk: Walk | RemoteWalk, root: str, scan_files: Sequence[ScanFile], exclusions: Sequence[Exclusion]
) -> SourceListing:
    return SourceListing(
        root, tuple(sorted(scan_files)), tuple(sorted(exclusions)), _listing_sha256(walk.files, exclusions)
    )


def _listing_sha256(files: Sequence[RegularFile], exclusions: Sequence[Exclusion]) -> str:
    """SHA-256, in hex, over the path and size of every file, and over the paths of the exclusions."""
    digest = hashlib.sha256()
    sizes = [(file.key, file.bytes) for file in files]
    for key, size in sorted([*sizes, *((exclusion.path, -1) for exclusion in exclusions)]):
        digest.update(f"{key}\0{size}\n".encode())
    return digest.hexdigest()


def _find_root(walk: Walk | RemoteWalk) -> str:
    """The folder, relative to src, that holds the class folders, directly or in train, val and test."""
    roots = set()
    for file in walk.files:
        *folders, base_name = PurePosixPath(file.key).parts
        name = parse_scan_name(base_name)
        if not folders or name is None or name.label != folders[-1].strip().upper():
            continue
        above = folders[:-2] if len(folders) > 1 and folders[-2].lower() in SOURCE_SPLITS else folders[:-1]
        if "__MACOSX" not in above:
            roots.add("/".join(above))
    shown = path_to_text(str(walk.src))
    if not roots:
        unread = walk.unread if isinstance(walk, Walk) else []
        links = [entry for entry in unread if entry.link_target]
        hint = f" Not read: {_keys_and_reasons(unread)}." if unread else ""
        if links and isinstance(walk, Walk) and not walk.follow_links:
            hint = f" It has {_links(links)}, and links are not followed; give --follow-links to take what is behind."
        paths = sorted(file.key for file in walk.files)
        raise SourceError(
            f"--src {shown} has no class folders: expected [train|val|test/]CLASS/CLASS-patientID-number.jpeg, "
            f"such as train/CNV/CNV-1016042-1.jpeg; found {listed(paths, 3) or 'no regular file'}.{hint}"
        )
    if len(roots) > 1:
        examples = ", ".join(f"'{root or '.'}'" for root in sorted(roots)[:5])
        raise SourceError(
            f"--src {shown} holds {len(roots)} data sets ({examples}); give one of these folders as --src."
        )
    return roots.pop()


def _check_link_target(src: Path, key: str, target: str, keep_out: Sequence[Path]) -> None:
    """Raise SourceError if a followed link leads to one of the paths that are written to, or to a folder above it."""
    for path in keep_out:
        written, read = path.resolve(), Path(target)
        if written.is_relative_to(read) or read.is_relative_to(written):
            raise SourceError(
                f"--src {path_to_text(str(src))}: the link {key} leads to {path_to_text(target)}, which is only read, "
                f"but {path_to_text(str(path))} is to be written there; name another place to write to."
            )


def _check_nothing_missed(walk: Walk, root: str, scan_files: Sequence[ScanFile]) -> None:
    """Raise SourceError if scans may be missing because a link was not followed or a folder cannot be read."""
    labels = {*KERMANY_CLASSES, *(scan_file.label for scan_file in scan_files)}
    has_splits = any(scan_file.source_split for scan_file in scan_files)
    missed = [entry for entry in walk.unread if _may_hold_scans(walk, entry, root, labels, has_splits)]
    if not missed:
        return
    shown = path_to_text(str(walk.src))
    links = [entry for entry in missed if entry.link_target]
    if links and not walk.follow_links:
        raise SourceError(
            f"--src {shown} has {_links(links)} where scans or their folders should be, and links are not followed, so "
            "what is behind would be missing. Give --follow-links to take it, or put the files themselves there."
        )
    raise SourceError(
        f"--src {shown}: {_keys_and_reasons(missed)} would be missing, where scans or their folders should be. "
        "Repair or remove what is named, then run the same command again."
    )


def _may_hold_scans(walk: Walk, entry: UnreadEntry, root: str, labels: set[str], has_splits: bool) -> bool:
    """Whether an entry that was not read may be a scan, a class folder, a split folder or a data set, by its path."""
    path = PurePosixPath(entry.key)
    if path.name.startswith(".") or "__MACOSX" in path.parts:
        return False
    if isinstance(parse_scan_path(entry.key, 0, root), ScanFile):
        return True
    if entry.is_file:
        return False
    if not root or path.is_relative_to(root):
        *above, name = path.relative_to(root).parts
        label = name.strip().upper()
        in_split = len(above) == 1 and above[0].lower() in SOURCE_SPLITS
        if not above and name.lower() in SOURCE_SPLITS:
            return True
        # Next to train and test, only a folder with the name of a known class is taken for a class folder.
        if (in_split or not above) and (label in labels or (LABEL.fullmatch(label) and (in_split or not has_splits))):
            return True
    target = entry.link_target
    if not target or Path(target).is_relative_to(walk.real_src) or Path(walk.real_src).is_relative_to(target):
        return False
    return _shows_scans(walk.src / text_to_path(entry.key))


def _shows_scans(folder: Path) -> bool:
    """Whether a folder holds scans by their names and class folders, as far as its first _MAX_PROBED names show."""
    probed = 0
    for path, folders, base_names in os.walk(folder):
        label = Path(path).name.strip().upper()
        if any((name := parse_scan_name(base_name)) and name.label == label for base_name in base_names):
            return True
        probed += len(folders) + len(base_names)
        if probed > _MAX_PROBED:
            break
    return False


def _drop_repeated_links(
    scan_files: Sequence[ScanFile], real_paths: Mapping[str, str]
) -> tuple[list[ScanFile], list[Exclusion]]:
    """Keep one of the links to the same file; under another class, split or patient each is kept.

    real_paths: the path without links, by key.
    """
    first: dict[tuple[str, ...], ScanFile] = {}
    exclusions: list[Exclusion] = []
    for scan_file in sorted(scan_files, key=lambda scan_file: (scan_file.linked, scan_file.path)):
        identity = (real_paths[scan_file.path], scan_file.source_split, scan_file.label, scan_file.patient)
        kept = first.setdefault(identity, scan_file)
        if kept is not scan_file:
            exclusions.append(Exclusion(scan_file.path, f"link to a scan that is listed already: {kept.path}"))
    return list(first.values()), exclusions


def _links(links: Sequence[UnreadEntry]) -> str:
    return f"{number(len(links), 'link')} ({listed([entry.key for entry in links], 3)})"


def _keys_and_reasons(entries: Sequence[UnreadEntry]) -> str:
    return listed([f"{entry.key} ({entry.reason})" for entry in entries], 3)
