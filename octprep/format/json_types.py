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

MAX_INTEGER = 2**63  # every whole number is below it


_LARGEST = 1e300  # and every other one not above this


def read_json(data: bytes) -> Any:
    """Decoded JSON in UTF-8. Raises ValueError for anything else, for NaN and for what is nested too deeply."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number that JSON knows")


_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def check_type(value: Any, kind: Any, where: str) -> None:
    """Raise ValueError if decoded JSON is not what a type, such as that of a field of Manifest, makes of it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        wanted = _fields(typing.cast(type, kind))
        if not isinstance(value, dict) or value.keys() != wanted.keys():
            found = sorted(value.keys() ^ wanted.keys()) if isinstance(value, dict) else [type(value).__name__]
            raise ValueError(f"{where or 'it'} lacks or adds fields ({', '.join(map(repr, found[:5]))})")
        for name, part in wanted.items():
            check_type(value[name], part, f"{where}.{name}".lstrip("."))
    elif origin is tuple:
        if not isinstance(value, list) or (... not in parts and len(value) != len(parts)):
            raise ValueError(f"{where} is no list of the right length")
        for place, item in enumerate(value):
            check_type(item, parts[0] if ... in parts else parts[place], f"{where}[{place}]")
    elif origin is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no set of names and values")
        for name, item in value.items():
            check_type(item, parts[1], f"{where}.{name if name.isprintable() else repr(name)}")
    elif origin is types.UnionType:
        if value is not None or type(None) not in parts:
            check_type(value, parts[0], where)
    elif kind in _KINDS and not _is(value, kind):
        raise ValueError(f"{where} is no {_KINDS[kind]}: {shown(value)}")
    elif kind is Any and not _plain(value, 3):
        raise ValueError(f"{where} holds what no build writes")


@lru_cache
def _fields(kind: type) -> Mapping[str, Any]:
    """The fields of a dataclass that JSON holds, with their types."""
    kinds = typing.get_type_hints(kind)
    return {part.name: kinds[part.name] for part in dataclasses.fields(kind) if part.name != "digest_ok"}


def shown(value: Any) -> str:
    """A JSON value in a sentence."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _plain(value: Any, depth: int) -> bool:
    """Whether JSON holds nothing but text and numbers that can be, in no more than so many layers."""
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_plain(item, depth - 1) for item in inner)
    return value is None or any(_is(value, kind) for kind in _KINDS)


def _is(value: Any, kind: type) -> bool:
    """Whether a JSON value is of this kind; True is no number, and a whole number will do for any."""
    if kind is float and type(value) is float:
        return math.isfinite(value) and abs(value) <= _LARGEST
    return type(value) is (int if kind is float else kind) and (type(value) is not int or abs(value) < MAX_INTEGER)
