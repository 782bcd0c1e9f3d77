"""How a source is to be read: its folder or URL, a table or a pattern, and what becomes of classes and patient ids."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octprep.format.class_map import parse_class_map
from octprep.format.config import BuildConfig, Patients
from octprep.format.errors import SettingError
from octprep.source.layouts import NO_CLASS, PathFacts
from octprep.source.tables import parse_columns
from octprep.storage.remote import Location, RemoteFolder, Source, SourceFolders, location
from octprep.wording import listed

_MAX_CLASSES = 30  # that an error lists
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")  # of a source


@dataclass(frozen=True)
class SourceSpec:
    """One source, and how its paths are read. Without a table and a pattern its layout is recognised."""

    src: Location
    name: str = ""  # of the source, where there are several
    table: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # what the table says -> its column
    unknown: tuple[str, ...] = ()  # cells of the table that say nothing
    pattern: str = ""  # the name of a preset, a pattern or a regular expression; with a table, for what it lacks

    def __post_init__(self) -> None:
        if (self.columns or self.unknown) and not self.table:
            raise SettingError(f"--columns and --unknown are for a --table, and {self.src} has none; give one.")

    def absolute(self) -> SourceSpec:
        """The same by a path that does not depend on the working directory."""
        return dataclasses.replace(self, src=self.src.absolute()) if isinstance(self.src, Path) else self


def parse_sources(
    sources: Sequence[str],
    tables: Sequence[str] = (),
    columns: Sequence[str] = (),
    unknown: Sequence[str] = (),
    patterns: Sequence[str] = (),
) -> list[SourceSpec]:
    """The sources of a command line.

    sources: paths or URLs, or NAME=PATH; of several, each gets a name, by default that of its folder. The others are
    for the only source, or NAME=VALUE for one of several; NAME may be given for the only one too. Raises SettingError
    if they do not fit together.
    """
    named = [_named(text) for text in sources]
    if len(named) > 1:
        named = [(name or _folder_name(location(place)), place) for name, place in named]
    names = [name for name, _ in named]
    if len(set(map(str.casefold, names))) < len(names):
        raise SettingError(f"two sources are called {_twice(names)}; give them names: --src NAME=DIR.")
    only = names[0] or _folder_name(location(named[0][1])) if len(named) == 1 else ""
    options = {
        option: _by_source(option, texts, names, only)
        for option, texts in (
            ("--table", tables),
            ("--columns", columns),
            ("--unknown", unknown),
            ("--pattern", patterns),
        )
    }
    return [
        SourceSpec(
            location(place),
            name,
            table=Path(text) if (text := options["--table"].get(name)) else None,
            columns=parse_columns(text) if (text := options["--columns"].get(name)) else {},
            unknown=tuple(word.strip() for word in options["--unknown"].get(name, "").split(",") if word.strip()),
            pattern=options["--pattern"].get(name, ""),
        )
        for name, place in named
    ]


def source_arguments(
    specs: Sequence[SourceSpec], *, patients: Patients = "auto", classes: str = "", follow_links: bool = False
) -> list[str]:
    """The words of a command line that read the same sources in the same way: the inverse of `parse_sources`."""
    words: list[str] = []
    for spec in specs:
        name = f"{spec.name}=" if spec.name else ""
        is_usual = len(specs) > 1 and spec.name == _folder_name(spec.src)  # which the command line gives it
        words += ["--src", f"{'' if is_usual else name}{spec.src}"]
        for option, text in (
            ("--table", str(spec.table or "")),
            ("--columns", ",".join(f"{what}={column}" for what, column in spec.columns.items())),
            ("--unknown", ",".join(spec.unknown)),
            ("--pattern", spec.pattern),
        ):
            words += [option, f"{name}{text}"] if text else []
    words += ["--patients", patients] if patients != "auto" else []
    words += ["--classes", classes] if classes else []
    return words + ["--follow-links"] * follow_links


def quick_inspection(specs: Sequence[SourceSpec], **ways: Any) -> str:
    """The command that says why files of the sources are excluded. ways: as for `source_arguments`."""
    return shlex.join(["octprep", "inspect", "--quick", *source_arguments(specs, **ways)])


def _folder_name(place: Location) -> str:
    """The name of one source of several to which none is given."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", place.name)


def _named(text: str) -> tuple[str, str]:
    """The name and the place of NAME=PLACE; "" for a place without a name."""
    name, equals, place = text.partition("=")
    if equals and place and _NAME.fullmatch(name) and not Path(text).exists():
        return name, place
    return "", text


def _by_source(option: str, texts: Sequence[str], names: Sequence[str], only: str) -> dict[str, str]:
    """What an option says, by the name of the source. Raises SettingError as `parse_sources` does.

    only: what the only source may be called, be it by its folder; "" if there are several.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if len(names) == 1:
            is_named = bool(equals) and name == only and not _is_whole(option, text, value)
            name, value = names[0], value if is_named else text
        if name not in names:
            raise SettingError(
                f"{option} {text} must say of which source it is, as {option} {names[0]}=...; the sources are "
                f"{', '.join(names)}."
            )
        if name in found:
            raise SettingError(f"{option} is given twice{f' for {name}' if name else ''}; give it once a source.")
        found[name] = value
    return found


def _is_whole(option: str, text: str, value: str) -> bool:
    """Whether an option's NAME=VALUE is its value with the name: a file called so, or path=COLUMN of --columns."""
    return Path(text).exists() if option == "--table" else option == "--columns" and "=" not in value.split(",")[0]


def _twice(names: Sequence[str]) -> str:
    lower = [name.casefold() for name in names]
    return next(name for name in names if lower.count(name.casefold()) > 1)


def source_specs(given: Location | SourceSpec | Sequence[SourceSpec] | str) -> list[SourceSpec]:
    """One source or several, by what names them. Raises SettingError if several have no names, or two the same."""
    if isinstance(given, SourceSpec):
        return [given]
    if isinstance(given, str | Path | RemoteFolder):
        return [SourceSpec(location(given))]
    names = [spec.name for spec in given]
    if not names or (len(names) > 1 and ("" in names or len({name.casefold() for name in names}) < len(names))):
        raise SettingError(f"several sources need different names; got {', '.join(map(repr, names)) or 'none'}")
    return list(given)


def source_of(specs: Sequence[SourceSpec]) -> Source:
    """The place of one source, or the named places of several."""
    if len(specs) == 1 and not specs[0].name:
        return specs[0].src
    return SourceFolders(tuple((spec.name, spec.src) for spec in specs))


@dataclass(frozen=True)
class Rules:
    """What becomes of the classes and patient ids that a layout reads."""

    patients: Patients = "auto"
    classes: str = ""  # such as AMD=CNV+DRUSEN,NORMAL
    any_layout: bool = False  # take images whose layout is not known for scans without a class, for a look at them
    _found: set[str] = field(default_factory=set, init=False, repr=False, compare=False)  # classes of the sources

    @classmethod
    def of(cls, config: BuildConfig) -> Rules:
        """Those of a build."""
        return cls(config.patients, config.classes)

    def class_of(self) -> Mapping[str, str] | None:
        """The class that each of the source's becomes, by upper case; None where they stay as they are."""
        if not self.classes:
            return None
        members = parse_class_map(self.classes, bare=True)
        return {member.upper(): name.upper() for name, classes in members.items() for member in classes}

    def note(self, label: str) -> None:
        """Note that a source has a class, upper case, for `require_found`."""
        self._found.add(label)

    def require_found(self) -> None:
        """Raise SettingError if --classes names a class of which no source has a file. To call once all are listed."""
        found = self._found - {NO_CLASS}
        missing = [label for label in self.class_of() or () if label not in found]
        if missing and found:
            raise SettingError(
                f"--classes {self.classes} names {listed(missing)}, of which --src has no file; its classes are "
                f"{listed(sorted(found), _MAX_CLASSES)}. Correct the name, or leave it out."
            )

    def patient_of(self, path: str, facts: PathFacts, source: str, *, per_class: bool) -> str:
        """The patient that an image counts for; "" if its id is not known and must be. per_class: of the layout."""
        if not facts.patient:
            return "/".join(filter(None, (source, path))) if self.patients == "unknown" else ""
        held = per_class if self.patients in ("auto", "unknown") else self.patients == "per-class"
        return ":".join(filter(None, (source, facts.label if held else "", facts.patient)))
