"""Settings in a TOML file: `octtrain fit --config FILE`, and the config.toml of a run.

    epochs = 20
    batch-size = 64
    weights = "imagenet"

The keys are the names of the options, with hyphens or underscores, and the values are what the command line takes. So a
path means the same in both: where it is not absolute, it is relative to the current folder.
"""

from __future__ import annotations

import difflib
import json
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from octprep.format.errors import SettingError
from octprep.format.files import NotReadable, atomic_write, read_bytes
from octprep.format.options import Setting, settings, text_of
from octprep.format.paths import path_to_text
from octprep.wording import cut, listed

MAX_BYTES = 1_000_000  # a larger file is not read

_KINDS = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def merge_file(path: Path | None, kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, replaced by those that are given besides. None: there is no file.

    kind: a settings dataclass.  given, and what is returned: field -> value.

    Raises SettingError for a file that cannot be read or holds something else, and for values that `kind` does not
    take together.
    """
    if path is None:
        return dict(given)
    values = {**read_settings(path, kind), **given}
    try:
        kind(**values)
    except SettingError as error:
        kind(**given)  # where the file is not to blame, raises the error that does not name it
        raise SettingError(f"{path}: {error}") from None
    return values


def read_settings(path: Path, kind: type) -> dict[str, Any]:
    """The settings in a TOML file: field of the dataclass `kind` -> value. Not all need be there.

    Raises SettingError if the file cannot be read, is not TOML, has a key that is no option of `kind`, or a value of
    another type; ranges are not checked.
    """
    try:
        raw = tomllib.loads(read_bytes(path, MAX_BYTES)[0].decode("utf-8-sig"))
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror or error}") from None
    except NotReadable as error:
        raise SettingError(f"{path} cannot be read: it {error}") from None
    except (ValueError, RecursionError) as error:
        raise SettingError(f'{path} is not TOML ({error}); it needs lines such as `model = "octnet-m"`') from None
    by_key = {_key(setting): setting for setting in settings(kind) if setting.option.help}
    values: dict[str, Any] = {}
    for name, value in raw.items():
        key = name.replace("_", "-")
        if key not in by_key:
            raise SettingError(f"{path}: {_unknown(name, value, list(by_key))}")
        if by_key[key].field in values:
            raise SettingError(f"{path}: {key} is there twice, as {key.replace('-', '_')} too; remove one of them")
        try:
            values |= _fields(by_key[key], value)
        except ValueError as error:
            raise SettingError(f"{path}: {error}") from None
    return values


def write_settings(path: Path, values: Any) -> None:
    """Write all settings of a settings dataclass, with their descriptions; `read_settings` gives the same ones."""
    lines = ["# All settings. The same training again: octtrain fit SHARDS --config FILE"]
    for setting in settings(type(values)):
        if setting.option.help:
            lines += ["", *_comment(setting), _line(setting, values)]
    atomic_write(path, ("\n".join(lines) + "\n").encode())


def _key(setting: Setting) -> str:
    return setting.flag.removeprefix("--")


def _unknown(name: str, value: Any, keys: list[str]) -> str:
    """What to say about a key that is no option."""
    if isinstance(value, dict):
        return f"there is a table {name!r}, but settings are not grouped in tables; remove the line with its name"
    close = difflib.get_close_matches(name.replace("_", "-"), keys, n=1)
    advice = f"; did you mean {close[0]}?" if close else "."
    return f"there is no setting {name!r}{advice} The settings are {listed(sorted(keys), len(keys))}"


def _fields(setting: Setting, value: Any) -> dict[str, Any]:
    """The fields that an option sets, with their values. Raises ValueError if it does not take the value."""
    kinds = get_args(setting.kind) or (setting.kind,)
    if setting.option.parse:
        kinds, expected = (
            (str, int, float),
            f"a text in quotes{', ' * bool(setting.option.metavar)}{setting.option.metavar}",
        )
    elif setting.choices:
        kinds, expected = (str,) if value in setting.choices else (), f"one of {', '.join(setting.choices)}"
    else:
        expected = " or ".join(_KINDS[kind] for kind in kinds if kind in _KINDS)
    if type(value) is int and int not in kinds and float in kinds:
        value = float(str(value))  # `float(value)` raises an error where this gives infinity
    if type(value) not in kinds:
        raise ValueError(f"{_key(setting)} must be {expected}; got {cut(repr(value), 60)}")
    return setting.fields(text_of(value) if setting.option.parse else value)


def _comment(setting: Setting) -> list[str]:
    """An option's description, with its choices and its default."""
    option, default = setting.option, setting.default
    text = option.help
    if setting.choices and not option.parse:
        text += f" One of {', '.join(setting.choices)}."
    if option.default_text or default is not None:
        text += f" Default: {option.default_text or _toml(text_of(default) if option.parse else default)}."
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _line(setting: Setting, values: Any) -> str:
    """A setting's line; one that is not set, or that TOML cannot hold, is a comment."""
    key, value = _key(setting), getattr(values, setting.field)
    if value is None:
        return f"# {key} ="
    text = setting.text(values) if setting.option.text else value
    if isinstance(text, str) and not _is_unicode(text):
        return f"# {key} = {_toml(path_to_text(text))}, with bytes that TOML cannot hold: give {setting.flag}"
    return f"{key} = {_toml(text)}"


def _toml(value: str | int | float | bool) -> str:
    """A value in TOML."""
    if isinstance(value, str):
        # What JSON escapes, TOML reads in the same way; TOML forbids one control character more.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which stand for bytes of a file name that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
