"""Which dataset a run is measured on, where the results go, and what is said of them."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
from octprep.format import images_csv
from octprep.format.errors import ManifestError, OutputError, SettingError
from octprep.format.manifest import Manifest
from octtrain.evaluation.evaluate import evaluate
from octtrain.runs.folder import Run
from tests.worlds.shards import untrained_run, write_images, write_shards

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RESULTS = {"evaluate-test.json", "predictions-test.csv"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards, others of the same kind, and an untrained run: its answers do not matter here."""
    folder = tmp_path_factory.mktemp("evaluate")
    manifest, _ = write_shards(folder / "shards", {"train": 1, "val": 1, "test": 6})
    write_shards(folder / "others", {"test": 2}, seed=1, first_patient=50_000, skip={"test": ["DRUSEN"]})
    untrained_run(folder / "run", manifest, folder / "shards")
    return folder


def quiet(line):
    pass


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, to fill or to make read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_the_digest_decides_which_dataset_it_is(place, tmp_path):
    own, others = Manifest.load(place / "shards").digest, Manifest.load(place / "others").digest
    shutil.copytree(place / "run", tmp_path / "run")
    shutil.copytree(place / "others", tmp_path / "shards")  # where the run's relative path leads
    for shards in (None, place / "others"):
        with pytest.raises(ManifestError, match=rf"{others[:12]}.*\({own[:12]}\).*--shards DIR.*--dataset") as caught:
            evaluate(tmp_path / "run", shards=shards, say=quiet)
        assert caught.value.exit_code == 1
    with pytest.raises(SettingError, match="give one of them"):
        evaluate(tmp_path / "run", shards=place / "shards", dataset=place / "others", say=quiet)
    assert not list((tmp_path / "run").glob("evaluate-*"))

    lines = []
    evaluate(tmp_path / "run", dataset=tmp_path / "shards", say=lines.append)
    assert f"dataset {others[:12]}, not the run's own ({own[:12]})" in lines[0]
    assert {path.name for path in (tmp_path / "run").glob("*-test*")} == {
        f"evaluate-test-{others[:8]}.json", f"predictions-test-{others[:8]}.csv"
    }  # fmt: skip
    lines.clear()
    evaluate(tmp_path / "run", dataset=place / "shards", say=lines.append)  # its own is its own by any option
    assert f"(dataset {own[:12]}): 24 images of 6 patients" in lines[0]
    assert lines[-1].startswith(f"wrote {tmp_path}/run/evaluate-test.json and {tmp_path}/run/predictions-test.csv; ")


def test_a_run_behind_a_link_finds_its_shards(place, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    link = tmp_path / "deep" / "er" / "run"
    link.symlink_to(place / "run")
    assert Run.load(link).shards == place.resolve() / "shards"


def test_a_run_that_cannot_be_written_to_is_named_before_the_work_and_out_takes_the_results(place, disk, tmp_path):
    for name in ("run", "shards"):
        shutil.copytree(place / name, disk / name)
    shard = next((disk / "shards" / "test").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")  # would be found out next
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OutputError, match=r"run .*cannot be written to \(Read-only file system\).* --out DIR"):
        evaluate(disk / "run", say=quiet)
    lines = []
    evaluate(disk / "run", shards=place / "shards", out=tmp_path / "new" / "out", say=lines.append)
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {
        "evaluate-test.json",
        "predictions-test.csv",
    }
    assert lines[-1].startswith(f"wrote {tmp_path}/new/out/evaluate-test.json and ")
    with pytest.raises(OutputError, match=r"--out .*/blocked cannot be written to"):
        (tmp_path / "blocked").touch()
        evaluate(place / "run", out=tmp_path / "blocked", say=quiet)


def test_results_of_another_run_are_not_written_over(place, tmp_path):
    evaluate(place / "run", out=tmp_path / "out", say=quiet)
    evaluate(place / "run", out=tmp_path / "out", say=quiet)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shutil.copytree(place / "run", tmp_path / "other")
    with pytest.raises(OutputError, match=r"evaluate-test\.json holds the results of .*/run; give another --out"):
        evaluate(tmp_path / "other", shards=place / "shards", out=tmp_path / "out", say=quiet)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_numbers_are_shown_even_where_they_cannot_be_written(place, disk):
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    lines = []
    with pytest.raises(OutputError, match=r"cannot be written to .* \(No space left on device\)"):
        evaluate(place / "run", out=disk, say=lines.append)
    assert any("balanced accuracy" in line for line in lines)
    assert {path.name for path in disk.iterdir()} == {"filler"}


def test_doubts_stand_in_what_is_printed_and_in_the_file(place, tmp_path):
    lines = []
    evaluate(place / "run", dataset=place / "others", out=tmp_path, say=lines.append)
    stored = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert stored["per_class"]["DRUSEN"]["auc"] is None
    assert any(line.startswith("test has no image of DRUSEN") for line in stored["remarks"])
    assert any(line.startswith("few patients in test (CNV 2, DME 2, NORMAL 2)") for line in stored["remarks"])
    assert set(stored["remarks"]) <= set(lines)


def test_odd_shards_are_named_whatever_their_digests_say(place, tmp_path):
    shutil.copytree(place / "others", tmp_path / "shards")
    manifest = Manifest.load(tmp_path / "shards")
    path = tmp_path / "shards" / "images.csv"
    rows = images_csv.read_checked(tmp_path / "shards", manifest).rows
    for content in (b"path,split\na,test\n", b"\xff\xfe\n", b'"open'):
        changed = write_images(tmp_path / "shards", manifest, rows)
        path.write_bytes(content)
        dataclasses.replace(changed, images_sha256=hashlib.sha256(content).hexdigest()).save(tmp_path / "shards")
        with pytest.raises(ManifestError, match=r"images\.csv is not a table that octprep wrote"):
            evaluate(place / "run", dataset=tmp_path / "shards", out=tmp_path, say=quiet)

    write_shards(tmp_path / "five", {"test": 1}, classes=("A", "B", "C", "D", "E"), first_patient=60_000)
    five = Manifest.load(tmp_path / "five")
    splits = {
        name: tuple(
            dataclasses.replace(shard, per_class=(*shard.per_class[:3], sum(shard.per_class[3:]))) for shard in part
        )
        for name, part in five.splits.items()
    }
    dataclasses.replace(five, class_names=manifest.class_names, splits=splits).save(tmp_path / "five")
    with pytest.raises(ManifestError, match="has labels from 0 to 4, but its manifest names 4 classes"):
        evaluate(place / "run", dataset=tmp_path / "five", out=tmp_path, say=quiet)


def test_the_program_needs_no_home_and_writes_its_results_although_nobody_reads(place, tmp_path):
    command = [sys.executable, "-c", "from octtrain.cli import main; main()", "evaluate", place / "run"]
    environment = {key: value for key, value in os.environ.items() if key != "HOME"}
    arguments = list(map(str, [*command, "--out", tmp_path / "out"]))
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS
