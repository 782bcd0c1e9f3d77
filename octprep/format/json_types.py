"""JSON checked against the types of a dataclass. Only the standard library is imported."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MAX_INTEGER = 2**63  # every integer is below it
_MAX_FLOAT = 1e300
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def read_json(data: bytes) -> Any:
    """Decoded JSON in UTF-8. Raises ValueError for anything else, for NaN and for what is nested too deeply."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def check_type(value: Any, kind: Any, path: str) -> None:
    """Raise ValueError if decoded JSON is not of a type, such as the type of a field of Manifest.

    path: of the value within the JSON, such as `config.seed`, for the message; "" for the whole.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        kinds = _field_types(typing.cast(type, kind))
        if not isinstance(value, dict) or value.keys() != kinds.keys():
            names = sorted(value.keys() ^ kinds.keys()) if isinstance(value, dict) else [type(value).__name__]
            raise ValueError(f"{path or 'it'} has missing or additional fields ({', '.join(map(repr, names[:5]))})")
        for name, field_kind in kinds.items():
            check_type(value[name], field_kind, f"{path}.{name}".lstrip("."))
    elif origin is tuple:
        if not isinstance(value, list) or (... not in arguments and len(value) != len(arguments)):
            raise ValueError(f"{path} is not a list of the right length")
        for index, item in enumerate(value):
            check_type(item, arguments[0] if ... in arguments else arguments[index], f"{path}[{index}]")
    elif origin is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"{path} is not an object with names and values")
        for name, item in value.items():
            check_type(item, arguments[1], f"{path}.{name if name.isprintable() else repr(name)}")
    elif origin is typing.Literal:
        if type(value) is not str or value not in arguments:
            raise ValueError(f"{path} is not one of {', '.join(arguments)}: {shown(value)}")
    elif origin in (types.UnionType, typing.Union):
        if value is not None or type(None) not in arguments:
            check_type(value, arguments[0], path)
    elif kind in _NAMES and not _is_a(value, kind):
        raise ValueError(f"{path} is not {_NAMES[kind]}: {shown(value)}")
    elif kind is Any and not _is_plain(value, 3):
        raise ValueError(f"{path} has a value that no build writes")


@lru_cache
def _field_types(kind: type) -> Mapping[str, Any]:
    """The fields of a dataclass that JSON holds, with their types; a field with repr=False is not in JSON."""
    kinds = typing.get_type_hints(kind)
    return {field.name: kinds[field.name] for field in dataclasses.fields(kind) if field.repr}


def shown(value: Any) -> str:
    """A JSON value for a sentence, at most 60 characters."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _is_plain(value: Any, depth: int) -> bool:
    """Whether JSON holds only text, switches and numbers in range, nested at most `depth` deep."""
    if isinstance(value, list | dict):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_plain(item, depth - 1) for item in items)
    return value is None or any(_is_a(value, kind) for kind in _NAMES)


def _is_a(value: Any, kind: type) -> bool:
    """Whether a JSON value is of a type: True is not a number, and an integer is also a float."""
    if kind is float and type(value) is float:
        return math.isfinite(value) and abs(value) <= _MAX_FLOAT
    return type(value) is (int if kind is float else kind) and (type(value) is not int or abs(value) < MAX_INTEGER)
