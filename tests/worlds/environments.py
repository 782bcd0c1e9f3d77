"""Environments of Python in which some installed packages are missing."""

import os
import re
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Environment:
    """All packages that are installed here, but for those whose names begin with one of some words.

    They are links in a folder, which is the only one of packages that its programs have. KERAS_HOME is a folder of its
    own, and no backend is chosen.
    """

    def __init__(self, folder, *missing):
        self.packages, keras_home = folder / "packages", folder / "keras"
        self.packages.mkdir(parents=True)
        keras_home.mkdir()
        for installed in map(Path, (*site.getsitepackages(), site.getusersitepackages())):
            for entry in installed.iterdir() if installed.is_dir() else ():
                name = re.sub(r"\W", "_", entry.name.lower())
                link = self.packages / entry.name
                if entry.suffix != ".pth" and not name.startswith(missing) and not link.exists():
                    link.symlink_to(entry)
        self.variables = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
        self.variables |= {
            "PYTHONPATH": os.pathsep.join([str(self.packages), str(ROOT)]),
            "KERAS_HOME": str(keras_home),
        }

    def python(self, *arguments, cwd=ROOT):
        """A finished process of Python: no folder of packages but this environment's is read (-S)."""
        command = [sys.executable, "-S", *map(str, arguments)]
        return subprocess.run(command, env=self.variables, cwd=cwd, capture_output=True, text=True, check=False)
