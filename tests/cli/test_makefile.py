"""The variables of the Makefile: empty ones are the defaults, and paths may hold spaces."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words):
    """What make prints, not as a part of another make that runs these tests."""
    variables = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "GPU=0", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=variables).stdout


@pytest.mark.parametrize(
    ("words", "out", "run"),
    [
        ([], "pipeline/shards", "pipeline/run"),
        (["OUT=", "RUN="], "pipeline/shards", "pipeline/run"),
        (["SRC=scans", "OUT= ", "RUN="], "shards", "runs/first"),
        (["OUT=my shards", "RUN=my run"], "my shards", "my run"),
    ],
)
def test_an_empty_folder_is_the_default_one(words, out, run):
    shown = make("--eval", 'show: ; @printf "%s|%s" "$$OUT" "$$RUN"', "show", *words)
    assert shown == f"{out}|{run}"


def test_the_environment_may_lie_in_a_folder_with_a_space(tmp_path):
    folder = tmp_path / "my env"
    (folder / "bin").mkdir(parents=True)
    (folder / ".installed").touch()
    for name in ("ruff", "mypy", "lint-imports"):
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
    assert make("lint", f"VENV={folder}").split() == ["ruff", "ruff", "mypy", "lint-imports"]
    assert f". '{folder}/bin/activate'" in make("help", f"VENV={folder}")
    assert ".venv/bin/activate" in make("help", "VENV=")
