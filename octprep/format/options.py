"""A setting described once, at its field of a settings dataclass: help, panel, choices and words for reports.

The command line, the command that a report prints, the words of a report and the table of options in the docs are all
derived from it. Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin

_KEY = "option"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Option:
    """How one field is set on a command line, and described."""

    help: str  # one sentence or two; "" if the field has no option
    panel: str = ""  # heading of --help under which it is listed
    name: str = ""  # of the option, where it is not the field's with hyphens: "--size"
    metavar: str = ""  # what stands for the value in --help, where the type does not say it
    default_text: str = ""  # the default in --help, where it depends on another setting
    completions: tuple[str, ...] = ()  # values that a shell completes, where the type has no closed set of choices
    parse: Callable[[str], Any] | None = None  # from the command line's text; raises ValueError
    also: tuple[str, ...] = ()  # further fields that it sets: `parse` gives a value for each
    text: Callable[[Any], str] | None = None  # its text on a command line, of an instance of the dataclass
    only_on: bool = False  # the switch has no --no- form that turns it off
    title: str = ""  # what a report calls it; "" if reports do not list it
    words: Mapping[Any, str] | str = ""  # the value in words, or by value; `{name}` is a setting of the same dataclass
    when: tuple[str, tuple[Any, ...]] | None = None  # reports list it only if this field has one of these values


@dataclass(frozen=True)
class Setting:
    """A field with its option."""

    field: str  # its name
    kind: Any  # its type
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """The option's name on the command line, such as `--shard-mb`."""
        return self.option.name or "--" + self.field.replace("_", "-")

    def text(self, values: Any) -> str:
        """What a command line has for it, of an instance of its dataclass."""
        return self.option.text(values) if self.option.text else text_of(getattr(values, self.field))

    def fields(self, value: Any) -> dict[str, Any]:
        """The fields that the option sets, with their values. value: a text for `parse`, else what the field takes.

        Raises ValueError as `parse` does.
        """
        if not self.option.parse:
            return {self.field: value}
        parsed = self.option.parse(value)
        return dict(zip((self.field, *self.option.also), parsed if self.option.also else (parsed,), strict=True))

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are allowed, where they are a closed set."""
        kinds = get_args(self.kind) if get_origin(self.kind) is not typing.Literal else (self.kind,)
        return next((get_args(kind) for kind in kinds if get_origin(kind) is typing.Literal), ())


def option(default: Any, **described: Any) -> Any:
    """A dataclass field with a default and an `Option` of these arguments."""
    return field(default=default, metadata={_KEY: Option(**described)})


def same_option(kind: type, name: str) -> Any:
    """A dataclass field with the default and the Option of a field of another settings dataclass."""
    [original] = [item for item in dataclasses.fields(kind) if item.name == name]
    return field(default=original.default, metadata=original.metadata)


def settings(kind: type) -> Iterator[Setting]:
    """The fields of a dataclass that are described by an Option, in their order."""
    kinds = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if _KEY in item.metadata:
            yield Setting(item.name, kinds[item.name], item.default, item.metadata[_KEY])


def described(values: Any) -> Iterator[tuple[str, str]]:
    """The title and the value in words of every setting that reports list. values: an instance of a dataclass."""
    for setting in settings(type(values)):
        shown = setting.option
        if not shown.title or (shown.when and getattr(values, shown.when[0]) not in shown.when[1]):
            continue
        value = getattr(values, setting.field)
        words = shown.words if isinstance(shown.words, str) else shown.words.get(value, shown.words.get(None, ""))
        yield shown.title, (words or text_of(value)).format(**vars(values))


def text_of(value: Any) -> str:
    """A value as the command line takes it: the shortest text that reads back as the same."""
    if isinstance(value, tuple):
        return ",".join(map(text_of, value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)


def arguments(values: Any, defaults: Any) -> list[str]:
    """The command line, option by option, that turns `defaults` into `values`: two instances of one dataclass."""
    words: list[str] = []
    for setting in settings(type(values)):
        value, text = getattr(values, setting.field), setting.text(values)
        if not setting.option.help or text == setting.text(defaults):
            continue
        if isinstance(value, bool):
            words.append(setting.flag if value else setting.flag.replace("--", "--no-", 1))
        else:
            words += [setting.flag, text]
    return words


def make(kind: type[T], values: Mapping[str, Any], **others: Any) -> T:
    """An instance of a settings dataclass.

    values: by the names of fields; those of other dataclasses are ignored. others: further fields.
    """
    names = {name for setting in settings(kind) for name in (setting.field, *setting.option.also)}
    return kind(**{name: value for name, value in values.items() if name in names}, **others)
