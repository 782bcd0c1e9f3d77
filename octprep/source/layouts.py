"""What a path says of a scan: the layout of a source, by Kermany et al., by a pattern, or by a table.

A layout says of each path which class, patient and split it is of, or why the file is not a scan. The presets are
layouts of published data sets; those marked `untested` were written from their published conventions alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Protocol

from octprep.format.config import believed_axial_um
from octprep.format.errors import SettingError
from octprep.format.names import PICTURE_ENDINGS, parse_scan_name, split_of_folder, unwrapped, without_hash

MAX_NUMBER = 2**31 - 1  # of an image within its patient
KERMANY = "kermany"  # the preset of the data set that is expected first
NO_CLASS = "(NO CLASS)"  # the label of images whose class is not known
IMAGE_ENDINGS = PICTURE_ENDINGS | {".dcm", ".vol"}
_NO_CLASS_FOLDER = "not in a class folder"
_OTHER_NAME = "name is not CLASS-patientID-number.jpeg"
_OTHER_CLASS = "name and folder disagree"
_NO_MATCH = "path does not match the pattern"
BY_NAME = (_OTHER_NAME, _OTHER_CLASS, _NO_MATCH)  # why a file where scans are is not one, up to the colon
_EYES = {
    **dict.fromkeys(("od", "r", "re", "right"), "OD"),
    **dict.fromkeys(("os", "l", "le", "left"), "OS"),
}


@dataclass(frozen=True, slots=True)
class PathFacts:
    """What a layout says of a scan."""

    label: str  # class, upper case
    patient: str  # "" if it is not stated
    number: int = 0  # of the image within the patient; 0 if it is not stated
    split: str = ""  # train, val or test, or "" if it is not stated
    eye: str = ""  # OD (right) or OS (left), or "" if it is not stated
    volume: str = ""  # the examination that the B-scan is of, or "" if it is not stated
    axial_um: float = 0.0  # distance of two rows in micrometres, or 0 if it is not stated
    name: str = ""  # the base name that an annotation tool has put into another one, or ""


def is_image_name(path: str) -> bool:
    """Whether a path has the ending of an image, or none, as DICOM files often have; what it is, its content says."""
    ending = PurePosixPath(path).suffix.lower()
    return ending in IMAGE_ENDINGS or not ending or ending[1:].isdigit()  # the last part of a DICOM UID


class Layout(Protocol):
    """How the paths of a source are read."""

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        ...

    @property
    def per_class(self) -> bool:
        """Whether the same patient id under two classes is of two patients, as far as is known."""
        ...

    def read(self, path: str) -> PathFacts | str:
        """What a path, relative to the source, says of a scan, or why it is not one."""
        ...


@dataclass(frozen=True)
class KermanyLayout:
    """[split/]CLASS/CLASS-patientID-number.jpeg, below a folder of the source."""

    root: str = ""  # that folder, relative to the source
    title: str = "CLASS/CLASS-patientID-number.jpeg, as Kermany et al. published their scans"
    per_class: bool = False

    def read(self, path: str) -> PathFacts | str:
        """See `Layout`."""
        inner = path
        if self.root:
            if not path.startswith(f"{self.root}/"):
                return f"outside {self.root}, which holds the class folders"
            inner = path.removeprefix(f"{self.root}/")
        *folders, base_name = inner.split("/")
        wrapped = ""
        parsed = parse_scan_name(base_name)
        if parsed is None and (wrapped := unwrapped(base_name)):
            parsed = parse_scan_name(wrapped)
        if parsed is not None and len(folders) > 1 and folders[-1] == parsed.patient:
            folders.pop()  # a folder for each patient, below that of the class
        split = split_of_folder(folders[0]) if len(folders) == 2 else ""
        if not folders or len(folders) > 2 or (len(folders) == 2 and not split):
            return _NO_CLASS_FOLDER
        if parsed is None:
            return _OTHER_NAME
        if parsed.label != folders[-1].strip().upper():
            return f"{_OTHER_CLASS}: {parsed.label} in {folders[-1]}"
        return PathFacts(parsed.label, parsed.patient, parsed.number, split, name=wrapped)


@dataclass(frozen=True)
class PatternLayout:
    """The layout of a regular expression with named groups, which a whole path must match."""

    title: str
    expression: str  # of the path below `root`; groups: class, patient, number, split, eye, volume
    per_class: bool = False
    root: str = ""  # relative to the source

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.expression, re.IGNORECASE)

    def read(self, path: str) -> PathFacts | str:
        """See `Layout`."""
        found = self.match(path)
        return found if isinstance(found, str) else facts_of(*found)

    def match(self, path: str) -> tuple[dict[str, str], str] | str:
        """The groups that a path has, and the name within that of an annotation tool; or why it does not match."""
        inner = path
        if self.root:
            if not path.startswith(f"{self.root}/"):
                return f"outside {self.root}, which holds the class folders"
            inner = path.removeprefix(f"{self.root}/")
        folder, slash, base_name = inner.rpartition("/")
        inner_name = without_hash(base_name)
        # A pattern for any name would match that of a tool as well, so what is surely one is taken off first.
        for name in dict.fromkeys(filter(None, (inner_name, base_name, unwrapped(base_name)))):
            if match := self._compiled.fullmatch(f"{folder}{slash}{name}"):
                found = {key.rstrip("0123456789"): value for key, value in match.groupdict().items() if value}
                return found, inner_name or ("" if name == base_name else name)
        return _NO_MATCH


def facts_of(found: Mapping[str, str], name: str = "") -> PathFacts | str:
    """The facts in texts: class, patient, number, split, eye, volume; or why they are not those of a scan."""
    texts = {key: " ".join(value.split()) for key, value in found.items()}
    label = texts.get("class", "").upper()
    if not label:
        return "class is not stated"
    number = texts.get("number", "0")
    if not re.fullmatch(r"[0-9]{1,15}(\.0+)?", number) or int(number.partition(".")[0]) > MAX_NUMBER:
        return f"number is not a whole number of at most 10 digits: {number}"
    axial_um = _spacing(texts.get("axial_um", "0"))
    if axial_um is None:
        return f"axial_um is not a number of micrometres from 0.5 to 20: {texts['axial_um']}"
    split = texts.get("split", "")
    if split and not split_of_folder(split):
        return f"split is not train, val or test: {split}"
    return PathFacts(
        label=label,
        patient=texts.get("patient", ""),
        number=int(number.partition(".")[0]),
        split=split_of_folder(split),
        eye=_EYES.get(texts.get("eye", "").lower(), ""),
        volume=texts.get("volume", ""),
        axial_um=axial_um,
        name=name,
    )


@dataclass(frozen=True)
class UnknownLayout:
    """For a look at files of which no class is known: every one of them may be a scan."""

    title: str = "no layout that is known: no class and no patient"
    per_class: bool = False

    def read(self, path: str) -> PathFacts | str:
        """See `Layout`."""
        return PathFacts(NO_CLASS, "") if is_image_name(path) else "not an image by its ending"


def _spacing(text: str) -> float | None:
    """A distance of two rows in micrometres, 0 if it is not known, or None for what is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == 0 or believed_axial_um(value) else None


# What the names in braces of a pattern stand for.
_PLACEHOLDERS = {
    "class": r"[^/]+?",
    "patient": r"[^/]+?",
    "number": r"[0-9]{1,10}",
    "split": r"train|training|val|valid|validation|test|testing",
    "eye": r"OD|OS|RE|LE|R|L|right|left",
    "volume": r"[^/]+?",
    "ext": r"[A-Za-z0-9]{1,5}",
}


def compile_pattern(text: str, *, needs_class: bool = True) -> PatternLayout:
    """The layout of --pattern: a pattern with names in braces, or a regular expression.

    `{split}/{class}/{patient}_{number}.{ext}` is a pattern; `*` in one stands for any characters of a name, and `**/`
    for any folders. A regular expression has named groups such as (?P<class>[^/]+); one whose name ends in a digit,
    such as eye2, is another place of the same. Raises SettingError for a text that is neither, that has a group of
    another name, or none for the class if it needs one.
    """
    if "(?P<" in text:
        expression, title = text, "a regular expression"
    elif "{" in text:
        expression, title = _of_braces(text), f"the pattern {text}"
    else:
        raise SettingError(
            f"--pattern {text} is neither a preset ({', '.join((KERMANY, *PRESETS))}) nor a pattern such as "
            "'{split}/{class}/{patient}_{number}.{ext}', nor a regular expression with groups such as (?P<class>[^/]+)."
        )
    try:
        groups = re.compile(expression).groupindex
    except re.error as error:
        raise SettingError(f"--pattern {text} is not a regular expression: {error}.") from None
    names = {name.rstrip("0123456789") for name in groups}
    if unknown := sorted(names - _PLACEHOLDERS.keys()):
        raise SettingError(f"--pattern {text} has a group {unknown[0]}; known are {', '.join(_PLACEHOLDERS)}.")
    if needs_class and "class" not in names:
        raise SettingError(
            f"--pattern {text} does not say where the class is; write {{class}} or (?P<class>...) there, or give a "
            "--table that has it."
        )
    return PatternLayout(title, expression)


def _of_braces(text: str) -> str:
    """The regular expression of a pattern with names in braces."""
    used: set[str] = set()
    pieces = []
    for piece in re.split(r"(\{[^{}]*\}|\*\*/|\*)", text):
        if piece == "**/":
            pieces.append(r"(?:.*/)?")
        elif piece == "*":
            pieces.append(r"[^/]*")
        elif piece.startswith("{") and piece.endswith("}"):
            name = piece[1:-1]
            if name not in _PLACEHOLDERS:
                raise SettingError(f"--pattern {text} has {piece}; known are {', '.join(_PLACEHOLDERS)}.")
            pieces.append(f"(?P={name})" if name in used else f"(?P<{name}>{_PLACEHOLDERS[name]})")
            used.add(name)
        elif brace := next((brace for brace in "{}" if brace in piece), ""):
            raise SettingError(f"--pattern {text} has a {brace} alone; write a name between {{ and }}.")
        else:
            pieces.append(re.escape(piece))
    return "".join(pieces)


@dataclass(frozen=True)
class Preset:
    """The layout of a published data set, or of a habit that many follow."""

    name: str
    title: str
    expression: str  # of PatternLayout, below the folder that holds the splits or classes
    per_class: bool = False
    min_classes: int = 1  # that a source must have to be recognised by itself
    needs_table: bool = False  # the paths do not have the class
    untested: bool = False  # written from published conventions; no scan of the data set was at hand

    def layout(self, root: str) -> PatternLayout:
        """As a layout. root: the folder that holds the splits or classes, relative to the source; "" for the source."""
        return PatternLayout(self.description, self.expression, self.per_class, root)

    @property
    def description(self) -> str:
        """The title, and whether it was tried on the data set."""
        return f"{self.name}: {self.title}" + (" (untested on the real set)" if self.untested else "")


_SPLIT = rf"(?:(?P<split>{_PLACEHOLDERS['split']})/)?"
_ENDING = r"(?:\.[A-Za-z0-9]{1,5})+"
_ENDING_OR_NONE = r"(?:\.[A-Za-z0-9]{1,5})*"
_EYE = r"(?P<eye>OD|OS)"
_ALL = (
    Preset(
        "octdl",
        "CLASS/class_patient_number.jpg, as OCTDL",
        rf"(?P<class>AMD|DME|ERM|NO|RAO|RVO|VID)/(?P=class)_(?P<patient>[0-9]+)_(?P<number>[0-9]{{1,9}}){_ENDING}",
    ),
    Preset(
        "srinivasan",
        "CLASSn/TIFFs/8bitTIFFs/number.tif, as Srinivasan et al. 2014; the patient is the folder CLASSn",
        rf"(?P<patient>(?P<class>[A-Za-z]+)[0-9]+)/TIFFs/8bitTIFFs/(?P<number>[0-9]{{1,9}}){_ENDING}",
        untested=True,
    ),
    Preset(
        "noor",
        "CLASS/DIAGNOSIS (patient)/Image (number), as Noor Eye Hospital",
        rf"(?P<class>[^/]+)/(?P<patient>[^/]+ ?\([0-9]+\))/Image ?\((?P<number>[0-9]{{1,9}})\){_ENDING}",
        per_class=True,
        untested=True,
    ),
    Preset(
        "exam-names",
        "[split/]class/subject_patient_number + exam time + eye, a set of macular diseases",
        rf"{_SPLIT}(?P<class>[^/]+)/subject_(?P<patient>[0-9]+)_(?P<number>[0-9]{{1,9}}?)(?P<volume>[0-9]{{14}}){_EYE}"
        rf"[0-9][A-Z]+{_ENDING}",
        per_class=True,
    ),
    Preset(
        "oct-c8",
        "split/CLASS/class_split_number.jpg, as OCT-C8; no patients, and pooled from several sets",
        rf"{_SPLIT}(?P<class>[^/]+)/(?P=class)_(?:train|val|test)_(?P<number>[0-9]{{1,9}}){_ENDING}",
        untested=True,
    ),
    Preset(
        "octid",
        "CLASSnumber.jpeg, as OCTID; no patients",
        rf"(?:(?:AMRD|CSR|DR|MH|NORMAL)/)?(?P<class>AMRD|CSR|DR|MH|NORMAL)(?P<number>[0-9]{{1,9}}){_ENDING}",
        untested=True,
    ),
    Preset(
        "neh",
        "CLASS/patient/[OD|OS/]scan, as NEH, by the class of the patient; its data_information.csv has those of scans",
        rf"(?P<class>NORMAL|DRUSEN|CNV)/(?P<patient>[0-9]+)/(?:{_EYE}/)?[^/]*?(?P<number>[0-9]{{1,9}})?[^/0-9]*{_ENDING}",
        per_class=True,
        untested=True,
    ),
    Preset(
        "topcon-mm",
        "oct_images/patient-eye-number, as TOPCON-MM, with its oct_labels.csv as --table",
        rf"(?:.*/)?oct_images/(?P<patient>[A-Za-z0-9]+)-(?P<eye>OD|OS|[RL]E?|left|right)-(?P<number>[0-9]{{1,9}}){_ENDING}",
        needs_table=True,
        untested=True,
    ),
    Preset(
        "class-names",
        "[split/]CLASS/CLASS-patient-number, with hyphens, underscores or spaces, and the eye if it is there",
        rf"{_SPLIT}(?P<class>[^/]+)/(?P=class)[-_ ](?P<patient>[A-Za-z0-9.]+)(?:[-_ ]{_EYE})?[-_ ]"
        rf"(?P<number>[0-9]{{1,9}})(?:[-_ ](?P<eye2>OD|OS))?{_ENDING}",
    ),
    Preset(
        "class-patient",
        "[split/]CLASS/patient/number, a folder for each patient",
        rf"{_SPLIT}(?P<class>[^/]+)/(?P<patient>[^/]*[0-9][^/]*)/(?:{_EYE}/)?[^/]*?(?P<number>[0-9]{{1,9}})?[^/0-9]*"
        rf"{_ENDING_OR_NONE}",
        per_class=True,
        min_classes=2,
    ),
    Preset(
        "class-folders",
        "[split/]CLASS/ and any name; no patients",
        rf"{_SPLIT}(?P<class>[^/]+)/[^/]*?(?P<number>[0-9]{{1,9}})?[^/0-9]*{_ENDING_OR_NONE}",
        min_classes=2,
    ),
)
PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}
