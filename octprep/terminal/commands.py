"""Commands whose options come from settings dataclasses (`octprep.format.options`), and what all commands have.

typer is imported here, so the programs import this module after they watch for Ctrl-C.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from octprep.format.errors import SettingError
from octprep.format.options import Setting, settings, text_of
from octprep.format.paths import url_of_path


@dataclass
class Verbosity:
    """How much the running command prints: as --quiet and --verbose say."""

    quiet: bool = False
    verbose: bool = False


verbosity = Verbosity()

Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Write all results to this file as JSON; - is stdout.", show_default=False
    ),
]


def version_option(program: str) -> Any:
    """The annotation of a callback's parameter for --version, which prints the version of the programs and exits."""

    def show(given: bool) -> None:
        if given:
            from importlib.metadata import version

            typer.echo(f"{program} {version('octprep')}")
            raise typer.Exit

    return Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=show)]


def command(
    app: typer.Typer,
    example: str,
    *kinds: type,
    only_given: bool = False,
    without: Sequence[str] = (),
    urls: Sequence[str] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command of `app`, with --quiet, --verbose and the options of settings dataclasses.

    example: a command line, shown below the help.  without: fields that are no options of this command.  urls: the
    parameters of paths that may be URLs (`octprep.storage.remote.location`); in others a URL is an error. The settings'
    values arrive as the function's `**values`, by field; with only_given, only of the options that are on the command
    line. Raises SettingError, when the command runs, for a text that a setting cannot be made of, for such a URL, and
    for an empty text in place of a path.
    """
    options = [s for kind in kinds for s in settings(kind) if s.option.help and s.field not in without]

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*, context: typer.Context, quiet: bool, verbose: bool, **given: Any) -> None:
            if quiet and verbose:
                raise SettingError("--quiet and --verbose exclude each other; give one of them.")
            verbosity.quiet, verbosity.verbose = quiet, verbose
            _refuse_urls({name: value for name, value in given.items() if name not in urls})
            for setting in options:
                value = given.pop(setting.field)
                if not only_given or _is_given(context, setting.field):
                    try:
                        given |= setting.fields(value)
                    except ValueError as error:
                        raise SettingError(str(error)) from None
            function(**given)

        own = list(inspect.signature(function, eval_str=True).parameters.values())
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
        parameters += [p.replace(kind=keyword) for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters += [_parameter(setting) for setting in options]
        for name, help_text in (("quiet", "Print errors and warnings only."), ("verbose", "Print what is done.")):
            annotation = Annotated[bool, typer.Option(f"--{name}", help=help_text, rich_help_panel="Output")]
            parameters.append(inspect.Parameter(name, keyword, default=False, annotation=annotation))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(cls=_refusing_empty_paths(own), epilog=f"Example: {example}")(run)
        return function

    return register


def _refusing_empty_paths(parameters: Iterable[inspect.Parameter]) -> type[TyperCommand]:
    """The class of a command that refuses an empty text as a path, which pathlib would take for the working folder.

    parameters: those of its function.
    """
    options: set[str] = set()
    for parameter in parameters:
        if get_origin(parameter.annotation) is Annotated and "Path" in str(get_args(parameter.annotation)[0]):
            option = get_args(parameter.annotation)[1]
            names = [option.default, *(option.param_decls or ())]  # Typer takes the first name for a default
            options.update([n for n in names if isinstance(n, str)] or [f"--{parameter.name.replace('_', '-')}"])

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            for previous, word in pairwise(["", *args]):
                name = previous if word == "" else word.removesuffix("=") if word.endswith("=") else None
                if name in options or (word == "" and not previous.startswith("-")):
                    shown = name if name in options else "an argument"
                    raise SettingError(f"{shown} is empty; give a path, such as . for the working folder.")
            return list(super().parse_args(ctx, args))

    return Command


def _refuse_urls(given: Mapping[str, Any]) -> None:
    """Raise SettingError for a URL where only a path can be used. given: values of parameters, by name."""
    for name, value in given.items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and (url := url_of_path(path)):
                raise SettingError(f"{name.replace('_', '-')} {url} is a URL; give a path of this machine.")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line, rather than left at its default."""
    return getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"


def _parameter(setting: Setting) -> inspect.Parameter:
    """A setting as a parameter that Typer makes an option of."""
    option, kind, default = setting.option, setting.kind, setting.default
    if option.parse:
        kind, default = str, text_of(default)
    names = [setting.flag]
    if kind is bool and not option.only_on:
        names = [f"{setting.flag}/{setting.flag.replace('--', '--no-', 1)}"]

    def complete(incomplete: str) -> list[str]:
        return [value for value in option.completions if value.startswith(incomplete)]

    annotation: Any = Annotated[
        kind,
        typer.Option(
            *names,
            help=option.help,
            metavar=option.metavar or None,
            show_default=option.default_text or (default is not None and not option.only_on),
            rich_help_panel=option.panel or None,
            autocompletion=complete if option.completions else None,
        ),
    ]
    return inspect.Parameter(setting.field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
