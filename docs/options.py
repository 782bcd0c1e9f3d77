"""Write docs/options.md, the tables of options, from the fields of the settings dataclasses: `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.options import Setting, settings
from octtrain.calibration.config import CalibrationConfig
from octtrain.config import FitConfig
from octtrain.experiments.bench.config import BenchConfig
from octtrain.experiments.crossval.config import CrossvalConfig

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

`--config FILE` takes them from a TOML file, in which the keys are the options' names, with hyphens or underscores:

```toml
epochs = 20
batch-size = 64
weights = "imagenet"
```

An option on the command line replaces the file's value. Paths are relative to the current folder, as on the command
line. An unknown key is an error. Every run folder holds a complete file, config.toml, with all settings of the run and
their descriptions; `octtrain fit SHARDS --config runs/NAME/config.toml` trains with the same settings again.

## octtrain calibrate

What the thresholds must keep (`octtrain.calibration.config.CalibrationConfig`; see calibration.md):

{_table(CalibrationConfig)}

## octtrain crossval

All options of `octtrain fit` but `--fold` and `--test-fold`, and

{_table(CrossvalConfig)}

## octtrain bench

What is measured, and how long (`octtrain.experiments.bench.config.BenchConfig`):

{_table(BenchConfig)}
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
    if setting.option.metavar:
        return setting.option.metavar
    if setting.choices:
        return ", ".join(setting.choices)
    if setting.kind is bool:
        return ""
    kinds = get_args(setting.kind) or (setting.kind,)  # of such as int | None
    return {int: "integer", float: "number"}.get(kinds[0], "text")


def _default(setting: Setting, kind: type) -> str:
    if setting.option.default_text:
        return setting.option.default_text
    if setting.kind is bool:
        return "on" if setting.default else "off"
    return setting.text(kind())


if __name__ == "__main__":
    PAGE.write_text(page())
