"""Which run and which images the arguments of `octtrain predict` name."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from octprep.format.errors import SettingError, SourceError
from octtrain.prediction.inputs import choose_runs
from tests.worlds.runs import program, scan_file

pytestmark = pytest.mark.slow


def test_the_run_is_the_first_argument_or_the_latest_one(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = scan_file(Path("a.jpeg"))
    assert choose_runs([run, image]) == ([run], [image], False)
    code, out, err = program(capsys, "predict", image)
    assert (code, out) == (2, "")
    assert "octtrain fit" in err
    shutil.copytree(run, tmp_path / "runs" / "a")
    shutil.copytree(run.parent / "shards", tmp_path / "runs" / "shards")  # for the run's relative path; no run
    assert choose_runs([image]) == ([Path("runs/a")], [image], True)
    assert choose_runs([Path("runs/a"), run, image]) == ([Path("runs/a"), run], [image], False)
    code, out, err = program(capsys, "predict", image)
    assert (code, err) == (0, "the latest run: runs/a\n")
    assert out.startswith("a.jpeg  ")
    code, out, err = program(capsys, "evaluate", "--allow-leaks")
    assert (code, err) == (0, "the latest run: runs/a\n")
    assert out.startswith("runs/a on test of ")
    for arguments, error, message in (
        (["nosuchrun", image], SourceError, "^nosuchrun does not exist"),
        ([run], SourceError, "no image is named after the run"),
        ([image, run], SettingError, "name the run first"),
        (["runs/shards", image], SourceError, r"manifest\.json but no config\.json, so it is not a run folder"),
    ):
        with pytest.raises(error, match=message):
            choose_runs(list(map(Path, arguments)))
