"""Write docs/options.md, the tables of options, from the fields of the settings dataclasses: `make docs`."""

from __future__ import annotations

from pathlib import Path

from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.options import Setting, settings
from octtrain.config import FitConfig

PAGE = Path(__file__).with_name("options.md")


def page() -> str:
    """The content of docs/options.md."""
    return f"""# Options

Generated from the settings by `make docs`. `octprep COMMAND --help` and `octtrain COMMAND --help` show the same, and
the options for input and output. From Python, each is a field of the dataclass named here.

## octprep build

How images are preprocessed (`octprep.Preprocessing`):

{_table(Preprocessing)}

How they are split and stored (`octprep.BuildConfig`):

{_table(BuildConfig)}

## octtrain fit

How a model is trained (`octtrain.FitConfig`):

{_table(FitConfig)}
"""


def _table(kind: type) -> str:
    """The options of a settings dataclass as a Markdown table."""
    rows = ["| option | values | default | meaning |", "|---|---|---|---|"]
    for setting in settings(kind):
        if setting.option.help:
            cells = [f"`{_flag(setting)}`", _values(setting), _default(setting, kind), setting.option.help]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _flag(setting: Setting) -> str:
    if setting.kind is bool and not setting.option.only_on:
        return f"{setting.flag}`, `{setting.flag.replace('--', '--no-', 1)}"
    return setting.flag


def _values(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    if setting.kind is bool:
        return ""
    return setting.option.metavar or {"int": "integer", "float": "number"}.get(
        getattr(setting.kind, "__name__", ""), "number" if "float" in str(setting.kind) else "text"
    )


def _default(setting: Setting, kind: type) -> str:
    if setting.option.default_text:
        return setting.option.default_text
    if setting.kind is bool:
        return "on" if setting.default else "off"
    return setting.text(kind())


if __name__ == "__main__":
    PAGE.write_text(page())
