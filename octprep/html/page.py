"""What every page of octprep stands in: the templates' environment, the style sheet, and what a page may load."""

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
    """For the templates of a package. Every value that a template prints is made visible, then escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    found.filters["number"] = lambda value: f"{value:,}"
    found.filters["percent"] = charts.percent
    found.filters["heat"] = lambda share: round(share * 10)
    return found


def asset(name: str, package: str = "octprep.report") -> str:
    """A file beside the templates of a package."""
    return resources.files(package).joinpath("template", name).read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """What a page may load: pictures inside it, its one style sheet and its one script; nothing from anywhere."""
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )


def _digest(text: str) -> str:
    """What a content security policy calls an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
