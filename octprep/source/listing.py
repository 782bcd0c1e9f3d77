"""Listing a source, a folder or a URL: which of its files are B-scans by their paths, and why the others are not.

Only files that may hold many B-scans are opened. A link where a scan or its folder should be is an error, unless links
are to be followed; so is a folder that cannot be read where scans may be. So no scan is missing silently.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import os
import re
import stat
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter
from pathlib import Path, PurePosixPath

from octprep.format.errors import Notice, SettingError, SourceError
from octprep.format.names import LABEL, parse_scan_name, split_of_folder, unwrapped
from octprep.format.paths import path_to_text, text_to_path
from octprep.preprocessing.volume_header import VolumeHeader
from octprep.source.files import (
    WITHOUT_ID,
    Exclusion,
    ScanFile,
    SourceListing,
    make_scan_file,
    parse_scan_path,
    read_path,
    reason_kind,
)
from octprep.source.frames import find_header, with_frames
from octprep.source.layouts import (
    BY_NAME,
    IMAGE_ENDINGS,
    KERMANY,
    PRESETS,
    KermanyLayout,
    Layout,
    PathFacts,
    UnknownLayout,
    compile_pattern,
    is_image_name,
)
from octprep.source.options import Rules, SourceSpec
from octprep.source.published import KERMANY_CLASSES
from octprep.source.recognition import fits_nearly_all, preset_layout, recognise_layout
from octprep.source.tables import load_table, match_rows
from octprep.source.walk import RegularFile, RemoteWalk, UnreadEntry, Walk
from octprep.storage.remote import Location, RemoteFolder, Source, locate, places
from octprep.wording import listed, number

_NOT_ASKED_FOR = "class is not among --classes"  # why an image is left out
_FEW = 3  # images in a folder that is no mistake
_LONG_ID = 5  # digits of a patient id that two data sets do not have by chance
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


def list_source(
    src: Location | SourceSpec,
    *,
    rules: Rules | None = None,
    follow_links: bool = False,
    keep_out: Sequence[Path] = (),
) -> SourceListing:
    """List every file of a source, a folder or a URL, as a B-scan or an exclusion, by its path.

    Only files that may hold many B-scans are opened (`octprep.source.frames`); each of those is a B-scan of its own.

    src: a SourceSpec also says by what table or pattern the paths are read. rules: what becomes of classes and patient
    ids. With follow_links what is behind links is listed too, each file once; keep_out: paths that are written to,
    which no link may lead to. Without it, a link is an error where a scan or its folder should be, and an exclusion
    elsewhere.

    Raises SourceError if there is no such folder, if it is empty or its layout is not recognised, if it holds several
    data sets, if no image has a patient id and the rules do not allow that, if a folder where scans should be cannot be
    read, or for the links above; StorageError if a URL cannot be listed.
    """
    spec = src if isinstance(src, SourceSpec) else SourceSpec(src)
    return _list_one(spec, rules or Rules(), follow_links, keep_out)


def list_sources(
    specs: Sequence[SourceSpec],
    *,
    rules: Rules | None = None,
    follow_links: bool = False,
    keep_out: Sequence[Path] = (),
) -> SourceListing:
    """The files of one source, or of several: then with the name of its source before each path.

    Patients of different sources are different patients. Raises as `list_source` does, and SettingError if the rules
    name a class of which no source has a file.
    """
    rules = rules or Rules()
    try:
        listing = _list_all(specs, rules, follow_links, keep_out)
    except SourceError:
        if len(specs) == 1:  # of several, not all may have been listed
            rules.require_found()
        raise
    rules.require_found()
    return listing


def _list_all(specs: Sequence[SourceSpec], rules: Rules, follow_links: bool, keep_out: Sequence[Path]) -> SourceListing:
    if len(specs) == 1 and not specs[0].name:
        return _list_one(specs[0], rules, follow_links, keep_out)
    parts = [(spec, _list_one(spec, rules, follow_links, keep_out)) for spec in specs]
    _notice_equal_ids(parts)
    digest = hashlib.sha256()
    for spec, part in parts:
        digest.update(f"{spec.name}\0{part.listing_sha256}\n".encode())
    return SourceListing(
        "",
        tuple(
            sorted(
                dataclasses.replace(file, path=f"{spec.name}/{file.path}", source=spec.name)
                for spec, part in parts
                for file in part.scan_files
            )
        ),
        tuple(
            sorted(Exclusion(f"{spec.name}/{one.path}", one.reason) for spec, part in parts for one in part.exclusions)
        ),
        digest.hexdigest(),
        tuple(f"{spec.name}: {title}" for spec, part in parts for title in part.layouts),
    )


def _notice_equal_ids(parts: Sequence[tuple[SourceSpec, SourceListing]]) -> None:
    """Warn of long patient ids that several sources have: these may be parts of one data set."""
    sources_of: dict[str, set[str]] = defaultdict(set)
    for spec, part in parts:
        for file in part.scan_files:
            patient = file.patient.rpartition(":")[2]
            if len(re.sub(r"\D", "", patient)) >= _LONG_ID:
                sources_of[patient].add(spec.name)
    equal = sorted(patient for patient, names in sources_of.items() if len(names) > 1)
    if equal:
        warnings.warn(
            f"{number(len(equal), 'patient id')} in several sources, such as {equal[0]} in "
            f"{listed(sorted(sources_of[equal[0]]))}: taken for different people, unless pixels say otherwise. If the "
            "sources are parts of one data set, give the folder that holds them as one --src, with a --pattern.",
            Notice,
            stacklevel=3,
        )


def _list_one(spec: SourceSpec, rules: Rules, follow_links: bool, keep_out: Sequence[Path]) -> SourceListing:
    """The listing of one source. Raises as `list_source` does."""
    src = spec.src
    if isinstance(src, RemoteFolder):
        return _list_remote(spec, src, rules)
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
    layout = _find_layout(spec, walk, rules)
    scan_files, exclusions, headers = _parsed(spec, walk, layout, rules)
    _check_nothing_missed(walk, layout, scan_files)
    exclusions += [Exclusion(entry.key, entry.reason) for entry in walk.unread]
    if follow_links:
        real_paths = {file.key: file.real_path for file in walk.files}
        scan_files, repeated = _drop_repeated_links(scan_files, real_paths)
        exclusions += repeated
    return _listing(walk, layout, scan_files, exclusions, headers)


def shared_paths(src: Source, listing: SourceListing) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What each worker of a cluster must see of a source, its folders and a file; nothing of a URL."""
    found = (locate(src, file.file) for file in listing.scan_files[:1])
    files = (place / text_to_path(path) for place, path in found)
    return tuple(place for place in places(src) if isinstance(place, Path)), tuple(
        file for file in files if isinstance(file, Path)
    )


def _list_remote(spec: SourceSpec, src: RemoteFolder, rules: Rules) -> SourceListing:
    """The listing of a URL, where there are no links. Raises as `list_source` does."""
    walk = RemoteWalk(src)
    if not (walk.files or walk.special_files):
        raise SourceError(
            f"--src {src} holds nothing; give the folder that holds train/ and test/, or the class folders."
        )
    layout = _find_layout(spec, walk, rules)
    return _listing(walk, layout, *_parsed(spec, walk, layout, rules))


def _find_layout(spec: SourceSpec, walk: Walk | RemoteWalk, rules: Rules) -> Layout:
    """The layout that is asked for, or the one that is recognised. Raises SourceError or SettingError."""
    paths = sorted(file.key for file in walk.files)
    preset = PRESETS.get(spec.pattern)
    if spec.table is not None:
        if spec.pattern == KERMANY:
            raise SettingError(f"--pattern {KERMANY} names the class, so --table {spec.table} is not needed; omit one.")
        pattern = preset_layout(preset, paths) if preset else None
        if pattern is None and spec.pattern:
            pattern = compile_pattern(spec.pattern, needs_class=False)
        return match_rows(load_table(spec.table, spec.columns, spec.unknown), paths, pattern, _own_path(spec))
    if preset and preset.needs_table:
        raise SettingError(
            f"--pattern {preset.name} does not name the class; give the table that does, by --table FILE."
        )
    if spec.pattern and spec.pattern != KERMANY:
        layout = preset_layout(preset, paths) if preset else compile_pattern(spec.pattern)
        if not any(isinstance(read_path(path, layout), PathFacts) for path in paths):
            raise SourceError(
                f"--pattern {spec.pattern} matches none of {number(len(paths), 'file')} of --src {spec.src}, such as "
                f"{listed(paths, 3)}. It is compared with the whole path below --src; start it with **/ to allow any "
                "folders before it."
            )
        return layout
    roots = _kermany_roots(walk)
    if not spec.pattern and len(roots) <= 1 and not any(fits_nearly_all(KermanyLayout(root), paths) for root in roots):
        found = recognise_layout(paths, with_patients=bool(roots))
        if found:
            return found
        if not roots and rules.any_layout and any(map(is_image_name, paths)):
            return UnknownLayout()
    return KermanyLayout(_single_root(walk, roots))


def _own_path(spec: SourceSpec) -> str:
    """The path of a table relative to its source, as text; "" if it does not lie in it."""
    if spec.table is None or not isinstance(spec.src, Path):
        return ""
    table, src = spec.table.resolve(), spec.src.resolve()
    return path_to_text(table.relative_to(src).as_posix()) if table.is_relative_to(src) else ""


def _parsed(
    spec: SourceSpec, walk: Walk | RemoteWalk, layout: Layout, rules: Rules
) -> tuple[list[ScanFile], list[Exclusion], dict[str, VolumeHeader]]:
    """The files of a walk by what their paths say, and the exclusions that the walk and the layout know.

    Also what is stated in those that hold many B-scans, by path: of a patient that the layout does not name, the id.
    Raises SourceError if no image has a patient id, and the rules do not allow that, or as `_check_no_folder_left_out`.
    """
    class_of = rules.class_of()
    scan_files: list[ScanFile] = []
    exclusions = list(walk.special_files)
    exclusions += getattr(layout, "missing", ())
    names: dict[str, str] = {}  # of files whose names an annotation tool has changed, by path
    without_id: set[str] = set()
    headers: dict[str, VolumeHeader] = {}
    for file in walk.files:
        facts = read_path(file.key, layout)
        if isinstance(facts, Exclusion):
            exclusions.append(facts)
            continue
        header = find_header(spec.src, file)
        of_file = isinstance(header, VolumeHeader) and not facts.patient
        if isinstance(header, VolumeHeader):
            headers[file.key] = header
            facts = dataclasses.replace(facts, patient=facts.patient or header.patient)
        rules.note(facts.label)
        label = facts.label if class_of is None else class_of.get(facts.label, "")
        patient = rules.patient_of(file.key, facts, spec.name, per_class=layout.per_class and not of_file)
        if not facts.patient:
            without_id.add(file.key)
        if isinstance(header, str):
            exclusions.append(Exclusion(file.key, header))
        elif not label:
            exclusions.append(Exclusion(file.key, f"{_NOT_ASKED_FOR}: {facts.label}"))
        elif not patient:
            exclusions.append(Exclusion(file.key, WITHOUT_ID))
        else:
            if facts.name:
                names[file.key] = facts.name
            known = facts
            if (label, patient) != (facts.label, facts.patient):
                known = dataclasses.replace(facts, label=label, patient=patient)
            disk = {"modified_ns": file.modified_ns, "changed_ns": file.changed_ns, "linked": file.linked}
            scan_files.append(make_scan_file(file.key, known, file.bytes, **disk))
    if without_id and not scan_files:
        raise SourceError(
            f"--src {path_to_text(str(spec.src))} does not say which images are of one patient ({layout.title}), so a "
            "patient may be in train and in test. Give a table or a pattern with the patient; or --patients unknown, "
            "which takes each image for a patient of its own, links near-identical ones, and says so in all that is "
            "written."
        )
    if not scan_files:
        kinds = Counter(reason_kind(one.reason) for one in exclusions).most_common(3)
        raise SourceError(
            f"--src {path_to_text(str(spec.src))} has no scan by its paths: "
            f"{listed([f'{count:,} {reason}' for reason, count in kinds])}. They were read as {layout.title}."
        )
    scan_files, exclusions = _drop_copies(scan_files, exclusions, names, without_id)
    _check_no_folder_left_out(spec, layout, rules, scan_files, exclusions)
    return scan_files, exclusions, headers


def _drop_copies(
    scan_files: Sequence[ScanFile], exclusions: list[Exclusion], names: Mapping[str, str], without_id: AbstractSet[str]
) -> tuple[list[ScanFile], list[Exclusion]]:
    """Keep one of the files that an annotation tool made of one name, in the test folder if one is there.

    names: the name within the tool's, by path. without_id: the paths of images whose patient is not known.
    """
    if not names:
        return list(scan_files), exclusions
    first: dict[tuple[str, str, str], ScanFile] = {}
    for file in sorted(scan_files, key=lambda file: (("test", "val", "train", "").index(file.source_split), file.path)):
        name = names.get(file.path) or PurePosixPath(file.path).name
        patient = "" if file.path in without_id else file.patient
        kept = first.setdefault((file.label, patient, name.lower()), file)
        if kept is not file and (file.path in names or kept.path in names):
            exclusions.append(Exclusion(file.path, f"copy of one scan by an annotation tool: {kept.path}"))
    dropped = {one.path for one in exclusions}
    return [file for file in scan_files if file.path not in dropped], exclusions


def _listing(
    walk: Walk | RemoteWalk,
    layout: Layout,
    scan_files: Sequence[ScanFile],
    exclusions: Sequence[Exclusion],
    headers: Mapping[str, VolumeHeader],
) -> SourceListing:
    if headers:
        scan_files, of_frames = with_frames(scan_files, headers, {file.key for file in walk.files})
        exclusions = [*exclusions, *of_frames]
    usual = isinstance(layout, KermanyLayout)
    return SourceListing(
        layout.root if isinstance(layout, KermanyLayout) else "",
        tuple(sorted(scan_files, key=lambda file: file.path)),
        tuple(sorted(exclusions)),
        _listing_sha256(walk.files, exclusions, [file for file in scan_files if file.frame or not usual]),
        (layout.title,),
    )


def _listing_sha256(files: Sequence[RegularFile], exclusions: Sequence[Exclusion], read: Sequence[ScanFile]) -> str:
    """SHA-256, in hex, over the path and size of every file, and over the paths of the exclusions.

    read: files of which what was read is part of it too.
    """
    digest = hashlib.sha256()
    sizes = ((file.key, file.bytes) for file in sorted(files, key=attrgetter("key")))
    for key, size in heapq.merge(sizes, sorted((exclusion.path, -1) for exclusion in exclusions)):
        digest.update(f"{key}\0{size}\n".encode())
    for file in sorted(read, key=lambda file: file.path):
        facts = (file.path, file.label, file.patient, file.image_number, file.source_split, file.eye, file.volume)
        digest.update("\0".join(map(str, (*facts, file.axial_um))).encode() + b"\n")
    return digest.hexdigest()


def _kermany_roots(walk: Walk | RemoteWalk) -> set[str]:
    """The folders, relative to src, that hold the class folders, directly or in those of splits."""
    roots = set()
    known = None  # a folder of scans, of which the others say nothing more
    for file in walk.files:
        folder, _, base_name = file.key.rpartition("/")
        if folder == known:
            continue
        folders = folder.split("/") if folder else []
        name = parse_scan_name(base_name) or parse_scan_name(unwrapped(base_name))
        if name is not None and folders[-1:] == [name.patient]:
            folders.pop()
        if not folders or name is None or name.label != folders[-1].strip().upper():
            continue
        known = folder
        above = folders[:-2] if len(folders) > 1 and split_of_folder(folders[-2]) else folders[:-1]
        if "__MACOSX" not in above:
            roots.add("/".join(above))
    return roots


def _single_root(walk: Walk | RemoteWalk, roots: AbstractSet[str]) -> str:
    """The only one of the folders. Raises SourceError if there is none, or several."""
    shown = path_to_text(str(walk.src))
    if not roots:
        unread = walk.unread if isinstance(walk, Walk) else []
        links = [entry for entry in unread if entry.link_target]
        hint = f" Not read: {_keys_and_reasons(unread)}." if unread else ""
        if links and isinstance(walk, Walk) and not walk.follow_links:
            hint = f" It has {_links(links)}, and links are not followed; give --follow-links to take what is behind."
        paths = sorted(file.key for file in walk.files)
        if links and not any(map(is_image_name, paths)):
            if not any(Path(entry.link_target).exists() for entry in links):
                raise SourceError(
                    f"--src {shown} has no image but {_links(links)}, leading nowhere; put there what they lead to."
                )
            if isinstance(walk, Walk) and not walk.follow_links:
                raise SourceError(f"--src {shown} has no image of its own.{hint}")
        raise SourceError(
            f"--src {shown} has no class folders: expected [train|val|test/]CLASS/CLASS-patientID-number.jpeg, "
            f"such as train/CNV/CNV-1016042-1.jpeg, or a layout that is known ({', '.join(PRESETS)}); found "
            f"{listed(paths, 3) or 'no regular file'}. Say how to read them by --table FILE.csv or --pattern "
            f"'{{class}}/{{patient}}_{{number}}.{{ext}}'.{hint}"
        )
    if len(roots) > 1:
        examples = ", ".join(f"'{root or '.'}'" for root in sorted(roots)[:5])
        raise SourceError(
            f"--src {shown} holds {len(roots)} data sets ({examples}); give one of these folders as --src. If they are "
            "parts of one data set, say how the paths of all are read, such as --pattern "
            "'**/{split}/{class}/{class}-{patient}-{number}.{ext}': as several sources, they would have no patient in "
            "common."
        )
    return next(iter(roots))


def _check_link_target(src: Path, key: str, target: str, keep_out: Sequence[Path]) -> None:
    """Raise SourceError if a followed link leads to one of the paths that are written to, or to a folder above it."""
    for path in keep_out:
        written, read = path.resolve(), Path(target)
        if written.is_relative_to(read) or read.is_relative_to(written):
            raise SourceError(
                f"--src {path_to_text(str(src))}: the link {key} leads to {path_to_text(target)}, which is only read, "
                f"but {path_to_text(str(path))} is to be written there; name another place to write to."
            )


def _check_no_folder_left_out(
    spec: SourceSpec, layout: Layout, rules: Rules, scan_files: Sequence[ScanFile], exclusions: Sequence[Exclusion]
) -> None:
    """Raise SourceError if all images of a folder that may be a class, or a split, have another name.

    That is one beside the folders of scans, or in that of a split, with some images. Not where the layout was asked
    for, nor for an inspection, which shows that.
    """
    if spec.pattern or spec.table is not None or rules.any_layout:
        return
    named_otherwise: dict[str, list[str]] = defaultdict(list)  # folder -> the images in it that are not read
    read = {_folder_of(file.file) for file in scan_files}
    for one in exclusions:
        folder = _folder_of(one.path)
        if one.reason.startswith((_NOT_ASKED_FOR, WITHOUT_ID)):
            read.add(folder)
        elif one.reason.startswith(BY_NAME) and PurePosixPath(one.path).suffix.lower() in IMAGE_ENDINGS:
            named_otherwise[folder].append(one.path)
    few = max(_FEW, len(scan_files) // 100)  # in a folder beside those of classes, which may hold figures or notes
    missing = [
        paths[0]
        for folder, paths in sorted(named_otherwise.items())
        if len(paths) >= (_FEW if _is_in_split(folder) else few)
        and folder not in read
        and _may_be_class_or_split(folder, read, rules.class_of())
    ]
    if missing:
        preset = KERMANY if isinstance(layout, KermanyLayout) else layout.title.partition(":")[0]
        name = f"{spec.name}=" if spec.name else ""
        raise SourceError(
            f"--src {path_to_text(str(spec.src))}: the paths were read as {layout.title}, but no image of "
            f"{number(len(missing), 'folder')} is called so, such as {listed(missing, 3)}. Say how all are to be read "
            "by --table, or by --pattern, such as --pattern "
            rf"'{name}(?:.*/)?(?P<class>[^/]+)/(?:.*\D)?(?P<patient>\d+)-(?P<number>\d+)\.\w+'; or leave "
            f"{'these' if len(missing) > 1 else 'it'} out by --pattern {name}{preset}."
        )


def _may_be_class_or_split(folder: str, read: AbstractSet[str], class_of: Mapping[str, str] | None) -> bool:
    """Whether a folder may be that of a class or a split, by its place. read: the folders of scans."""
    name = PurePosixPath(folder).name
    if split_of_folder(name):
        return not any(other.startswith(f"{folder}/") for other in read)
    is_beside = _folder_of(folder) in map(_folder_of, read)
    return (is_beside or _is_in_split(folder)) and (class_of is None or name.strip().upper() in class_of)


def _is_in_split(folder: str) -> bool:
    """Whether a folder is that of a split, or directly in one."""
    return any(split_of_folder(name) for name in folder.split("/")[-2:])


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _check_nothing_missed(walk: Walk, layout: Layout, scan_files: Sequence[ScanFile]) -> None:
    """Raise SourceError if scans may be missing because a link was not followed or a folder cannot be read."""
    labels = {*KERMANY_CLASSES, *(scan_file.label for scan_file in scan_files)}
    has_splits = any(scan_file.source_split for scan_file in scan_files)
    if isinstance(layout, KermanyLayout):
        missed = [entry for entry in walk.unread if _may_hold_scans(walk, entry, layout.root, labels, has_splits)]
    else:
        missed = [entry for entry in walk.unread if _may_be_a_scan(entry, layout)]
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


def _may_be_a_scan(entry: UnreadEntry, layout: Layout) -> bool:
    """Whether an entry that was not read may be a scan or hold some, for layouts whose folders are not known."""
    found = read_path(entry.key, layout)
    if isinstance(found, PathFacts):
        return True
    return not entry.is_file and not PurePosixPath(entry.key).name.startswith(".") and "__MACOSX" not in entry.key


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
        in_split = len(above) == 1 and bool(split_of_folder(above[0]))
        if not above and split_of_folder(name):
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
