"""Commands whose options come from settings dataclasses (`octprep.format.options`), and what all commands have.

typer is imported here, so the programs import this module after they watch for Ctrl-C.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
    line. Raises SettingError, when the command runs, for a text that a setting cannot be made of, and for such a URL.
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

        own = inspect.signature(function, eval_str=True).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
        parameters += [p.replace(kind=keyword) for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters += [_parameter(setting) for setting in options]
        for name, help_text in (("quiet", "Print errors and warnings only."), ("verbose", "Print what is done.")):
            annotation = Annotated[bool, typer.Option(f"--{name}", help=help_text, rich_help_panel="Output")]
            parameters.append(inspect.Parameter(name, keyword, default=False, annotation=annotation))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(epilog=f"Example: {example}")(run)
        return function

    return register


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
