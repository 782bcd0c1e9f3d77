"""Progress inside an epoch: a bar on any terminal, lines elsewhere, nothing with --quiet."""

import os
import re
import subprocess
import sys

import pytest

from octtrain.training.progress import Progress

EPOCH = """
import sys, time
sys.stderr.reconfigure(errors="backslashreplace")
from octtrain.training.progress import Progress

lines = []
progress = Progress(lines.append, quiet=QUIET)
with progress.epoch(3, 12, steps=40, batch_size=32):
    for step in range(40):
        progress.update(step + 1, 0.5, 1234.5)
        time.sleep(0.02)
assert not lines
print("done")
"""


def on_terminal(code, *, columns=80, close=False, **environment):
    """Standard output of a program, and what its standard error, a terminal, has shown."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, (24).to_bytes(2, sys.byteorder) + columns.to_bytes(2, sys.byteorder) * 3)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    shown = b""
    try:
        while not (close and b"loss" in shown) and (data := os.read(ours, 10_000)):
            shown += data
    except OSError:  # the program has closed the terminal
        pass
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"done\n", 0)
    return shown


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii:strict"])
def test_a_bar_is_shown_on_a_terminal_and_removed(encoding):
    shown = on_terminal(EPOCH.replace("QUIET", "False"), PYTHONIOENCODING=encoding).decode(encoding.split(":")[0])
    drawn = shown.split("\r")
    assert re.match(r"epoch 3/12  loss 0\.5000  1,23[45] images/s  00:0[01] left \|.+\| *\d+%", drawn[-3])
    assert (drawn[-2].strip(), drawn[-1]) == ("", "")
    assert "\n" not in shown


@pytest.mark.parametrize("columns", [0, 10, 40])
def test_a_bar_fits_a_narrow_terminal(columns):
    shown = on_terminal(EPOCH.replace("QUIET", "False"), columns=columns).decode()
    assert max(map(len, shown.split("\r"))) <= (columns or 1000)


def test_a_terminal_that_is_closed_does_not_stop_the_training():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + EPOCH.replace("QUIET", "False")
    on_terminal(code, close=True)


def test_quiet_shows_nothing():
    assert on_terminal(EPOCH.replace("QUIET", "True")) == b""
    lines = []
    run(Progress(lines.append, quiet=True, interval=0))
    assert lines == []


def run(progress):
    with progress.epoch(3, 12, steps=5000, batch_size=20):
        for step in (1, 2000, 5000):
            progress.update(step, 0.5, 1000.0)


@pytest.mark.parametrize("stderr", ["as it is", "none", "closed"])
def test_lines_are_logged_where_there_is_no_terminal(monkeypatch, tmp_path, stderr):
    with (tmp_path / "closed").open("w") as closed:
        pass
    if stderr != "as it is":
        monkeypatch.setattr(sys, "stderr", None if stderr == "none" else closed)
    lines = []
    run(Progress(lines.append, interval=0))
    assert lines == [
        "epoch 3/12  step 1 of 5,000  loss 0.5000  1,000 images/s  01:39 left",
        "epoch 3/12  step 2,000 of 5,000  loss 0.5000  1,000 images/s  01:00 left",
        "epoch 3/12  step 5,000 of 5,000  loss 0.5000  1,000 images/s  00:00 left",
    ]


def test_a_short_epoch_has_no_lines():
    lines = []
    run(Progress(lines.append))
    assert lines == []


@pytest.mark.parametrize("rate", [0.0, float("nan")])
def test_an_unknown_rate_and_a_loss_that_is_no_number_are_shown(rate):
    lines = []
    progress = Progress(lines.append, interval=0)
    with progress.epoch(1, 1, steps=2, batch_size=8):
        progress.update(1, float("nan"), rate)
    assert lines == ["epoch 1/1  step 1 of 2  loss nan"]
