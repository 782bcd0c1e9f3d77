"""What all pages of octprep share: the Jinja environment, the style sheet, and the content security policy."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup

from octprep.html import charts
from octprep.html.text import visible


@cache
def environment(package: str) -> jinja2.Environment:
    """The Jinja environment for the templates of a package and the shared ones.

    Every value that a template prints is escaped, after its hidden characters were made visible.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "template") for name in (package, "octprep.html")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["percent"] = charts.percent
    environment.filters["heat"] = lambda share: round(share * 10)
    return environment


def asset(name: str, package: str = "octprep.html") -> str:
    """The text of a file in the template folder of a package, such as the style sheet that all pages share."""
    return resources.files(package).joinpath("template", name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """The content security policy of a page: its own pictures, one style sheet, one script, nothing from elsewhere."""
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_source_hash(style)}'; script-src '{_source_hash(script)}'"
    )


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
