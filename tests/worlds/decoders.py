"""An image decoder that a file can make crash or hang, in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A decoder with a mistake, in every process: what a file does to it stands at its end, where a JPEG may hold anything.
DECODER = """
import os, signal, time
from pathlib import Path
import simplejpeg
from octprep import crashes

CRASHED = Path(__file__).parents[1] / "crashed"
crashes.DECODE_SECONDS = 2.0
seen = []
decode = simplejpeg.decode_jpeg

def decode_jpeg(data, *arguments, **options):
    name, _, number = data[-20:].rpartition(b"#")[2].decode("latin-1").partition(" ")
    if name == "HANG":
        time.sleep(1000)
    elif name == "EXIT":
        os._exit(3)
    elif name == "ONCE" and not CRASHED.exists():
        CRASHED.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name == "SECOND":
        seen.append(data)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
    elif name.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, name))
    return decode(data, *arguments, **options)

simplejpeg.decode_jpeg = decode_jpeg
"""


def faulty_decoder(folder: Path) -> dict[str, str]:
    """The environment of processes in which the decoder has a mistake; its code is written to a folder."""
    (folder / "decoder").mkdir()
    (folder / "decoder" / "sitecustomize.py").write_text(DECODER)
    paths = [str(folder / "decoder"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def mark(path: Path, what: str) -> None:
    """Mark a JPEG with what it does to that decoder, such as SIGSEGV."""
    with path.open("ab") as file:
        file.write(f"#{what} ".encode())
