"""The output folder of synthetic scans: one writer at a time, complete or drawn again, and kinds of folders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from octprep import synthetic
from octprep.format import locks
from octprep.format.errors import OutputError
from octprep.format.locks import locked
from octprep.synthetic import dataset
from tests.worlds.archive import files_of

pytestmark = pytest.mark.slow


@pytest.fixture
def few(monkeypatch):
    """Synthetic scans of few patients, drawn in a moment."""
    population = dataset.population
    monkeypatch.setattr(
        dataset, "population", lambda *given, **more: [v for v in population(*given, **more) if len(v.scans) < 4][:8]
    )


def draw(out):
    return synthetic.draw(out, patients=24, faults=False, workers=1)


def test_two_processes_do_not_draw_into_one_folder(tmp_path, few):
    (tmp_path / "out").mkdir()
    with (
        locked(tmp_path / "out", "octprep synthesize"),
        pytest.raises(OutputError, match="another octprep synthesize"),
    ):
        draw(tmp_path / "out")
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


@pytest.mark.parametrize("has_flock", [True, False])
def test_the_working_folder_and_an_empty_volume_can_be_drawn_into(tmp_path, few, monkeypatch, has_flock):
    monkeypatch.setattr(locks, "HAS_FLOCK", has_flock)
    draw(tmp_path / "new")
    for name in ("here", "volume"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    draw(Path())
    assert files_of(tmp_path / "here") == files_of(tmp_path / "new")
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "volume"], capture_output=True).returncode:
        pytest.skip("mounting a volume needs root")
    try:
        draw(tmp_path / "volume")
        assert files_of(tmp_path / "volume") == files_of(tmp_path / "new")
    finally:
        subprocess.run(["umount", tmp_path / "volume"], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "new", "volume"]


KILLER = """
import json, os, signal, sys
from pathlib import Path
from octprep import synthetic
from octprep.synthetic import dataset

population = dataset.population
dataset.population = lambda *given, **more: [v for v in population(*given, **more) if len(v.scans) < 4][:8]
for out, call in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        calls, renamed, drawn = [0], Path.rename, dataset._draw_volume
        def counted(true):
            def one(*given):
                calls[0] += 1
                if calls[0] == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return true(*given)
            return one
        Path.rename, dataset._draw_volume = counted(renamed), counted(drawn)
        synthetic.draw(Path(out), patients=24, faults=False, workers=1)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the drawings are forked")
def test_a_folder_whose_drawing_was_killed_is_drawn_again(tmp_path, few):
    draw(tmp_path / "whole")
    volumes = len(dataset.population(24, 0, faults=False))
    calls = {"new": (3, volumes + 1), "empty": (3, volumes + 1, volumes + 2, volumes + 3)}  # the last ones rename
    jobs = [(f"{kind} {call}", call) for kind, numbers in calls.items() for call in numbers]
    for name, _ in jobs:
        if name.startswith("empty"):
            (tmp_path / name).mkdir()
    words = json.dumps([[str(tmp_path / name), call] for name, call in jobs])
    done = subprocess.run([sys.executable, "-c", KILLER, words], capture_output=True, text=True)
    assert done.stdout.split() == ["9"] * len(jobs), done.stderr
    for name, _ in jobs:
        draw(tmp_path / name)
        assert files_of(tmp_path / name) == files_of(tmp_path / "whole")
        shutil.rmtree(tmp_path / name)
    assert list(tmp_path.iterdir()) == [tmp_path / "whole"]


def test_a_link_that_leads_to_itself_is_an_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="leads to itself"):
        draw(tmp_path / "loop")
    with pytest.raises(OutputError, match="leads to itself"):
        synthetic.draw(tmp_path / "out", patients=24, truth=tmp_path / "loop")
