"""The option `--json FILE`: metrics as JSON in a file, or on standard output for `-`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octprep.format.errors import OutputError
from octprep.format.files import STDOUT, write_output_file
from octprep.format.paths import path_to_text
from octprep.terminal import say


def encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON object; NaN and infinity are errors."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def check(path: Path) -> None:
    """Raise OutputError if a file cannot be written, before anything is computed for it."""
    if path == STDOUT:
        return
    text, folder = path_to_text(str(path)), path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"the folder of --json {text} does not exist; make it first.")
    if path.is_dir():
        raise OutputError(f"--json {text} is a folder; name a file.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder of --json {text} cannot be written to; name a file elsewhere.")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object to a file, whole or not at all, or to standard output. Raises OutputError if that fails."""
    if path == STDOUT:
        say(encode(content).decode().rstrip("\n"))
        return
    write_output_file("--json", path, encode(content))
