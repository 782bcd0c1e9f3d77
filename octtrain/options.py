"""Command-line options made from the fields of a settings dataclass (see `octprep.format.options`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from octprep.format.options import Setting, settings


def with_options(
    kind: type, only: Sequence[str] | None = None, completions: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command that takes `**settings`: it gets an option for every described field of a dataclass.

    only: names of the fields; by default all.  completions: field -> values that the shell completes, besides choices.
    Help, panel and default are the field's.
    """
    chosen = [setting for setting in settings(kind) if only is None or setting.field in only]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        rest = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        parameters = [
            *named,
            *(_parameter(setting, (completions or {}).get(setting.field, ())) for setting in chosen),
            *rest,
        ]

        @functools.wraps(command)
        def wrapped(**given: Any) -> Any:
            return command(**given)

        annotations = {parameter.name: parameter.annotation for parameter in parameters}
        wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = annotations
        del wrapped.__wrapped__  # or typer would look at the signature of that
        return wrapped

    return decorate


def without_rest(command: Callable[..., Any]) -> Callable[..., Any]:
    """Remove `**settings` from a command's signature, once all options are added, as Typer has no use for it."""
    signature = inspect.signature(command)
    parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def given_settings(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Those of some settings that the user gave, rather than left at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in values}
    return {name: value for name, value in values.items() if getattr(sources[name], "name", "") != "DEFAULT"}


def _parameter(setting: Setting, completions: Sequence[str]) -> inspect.Parameter:
    option = setting.option

    def complete(incomplete: str) -> list[str]:
        return [value for value in completions if value.startswith(incomplete)]

    info = typer.Option(
        setting.flag,
        help=option.help,
        rich_help_panel=option.panel or None,
        metavar=option.metavar or None,
        show_default=setting.default is not None,
        autocompletion=complete if completions else None,
    )
    return inspect.Parameter(
        setting.field,
        inspect.Parameter.KEYWORD_ONLY,
        default=setting.default,
        annotation=Annotated[setting.kind, info],
    )
