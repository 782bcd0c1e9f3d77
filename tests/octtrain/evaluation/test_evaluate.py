"""Which dataset a run is evaluated on, exposure of its model, and where the results go."""

import csv
import dataclasses
import hashlib
import json
import shutil
import subprocess
from contextlib import suppress

import pytest

pytest.importorskip("tensorflow")

from octprep.format import images_csv
from octprep.format.errors import LeakError, ManifestError, OutputError, SettingError, SourceError
from octprep.format.manifest import Manifest
from octprep.terminal.commands import verbosity
from octtrain.evaluation.evaluate import evaluate
from octtrain.runs.run import Run
from tests.worlds.runs import metrics_of, quiet
from tests.worlds.shards import CLASSES, write_images, write_shards

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, to fill or to make read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_trained_model_is_accurate_and_its_results_are_complete(trained, shards):
    run, lines, _ = trained
    report = evaluate(run, log=quiet)
    assert report.balanced_accuracy.value > 0.95
    assert report.accuracy.total == 24
    assert len(metrics_of(run.folder)) == 3
    assert sum(line.startswith("epoch") for line in lines) == 3
    stored = json.loads((run.folder / "evaluate-test.json").read_text())
    assert stored["balanced_accuracy"]["value"] == report.balanced_accuracy.value
    assert (stored["per_patient"]["cases"], stored["per_patient"]["patients"]) == (24, 6)  # each id in four classes
    assert stored["leak_warning"] is None
    assert stored["digest"] == Manifest.load(shards).digest
    with (run.folder / "predictions-test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == 24
    assert all(row["truth"] == row["path"].split("/")[1] for row in rows)
    assert all(abs(sum(float(row[name]) for name in CLASSES) - 1) < 1e-4 for row in rows)
    assert sum(row["truth"] == row["prediction"] for row in rows) == report.accuracy.count


def test_the_digest_decides_which_dataset_it_is(untrained, tmp_path):
    own, others = Manifest.load(untrained / "shards").digest, Manifest.load(untrained / "others").digest
    shutil.copytree(untrained / "run", tmp_path / "run")
    shutil.copytree(untrained / "others", tmp_path / "shards")  # where the run's relative path leads
    for shards in (None, untrained / "others"):
        with pytest.raises(ManifestError, match=rf"{others[:12]}.*\({own[:12]}\).*--shards DIR.*--dataset") as caught:
            evaluate(tmp_path / "run", shards=shards, log=quiet)
        assert caught.value.exit_code == 1
    with pytest.raises(SettingError, match="give one of them"):
        evaluate(tmp_path / "run", shards=untrained / "shards", dataset=untrained / "others", log=quiet)
    assert not list((tmp_path / "run").glob("evaluate-*"))

    lines = []
    evaluate(tmp_path / "run", dataset=tmp_path / "shards", log=lines.append)
    assert f"dataset {others[:12]}, not the run's own ({own[:12]})" in lines[0]
    assert {path.name for path in (tmp_path / "run").glob("*-test*")} == {
        f"{name}-test-{others[:8]}.{kind}"
        for name, kind in (("evaluate", "json"), ("predictions", "csv"), ("patients", "csv"))
    }  # fmt: skip
    lines.clear()
    evaluate(tmp_path / "run", dataset=untrained / "shards", log=lines.append)  # its own is its own by any option
    assert f"(dataset {own[:12]}): 24 images of 6 patients" in lines[0]
    names = [f"{tmp_path}/run/{name}" for name in ("evaluate-test.json", "predictions-test.csv", "patients-test.csv")]
    assert lines[-2] == f"wrote {names[0]}, {names[1]} and {names[2]}"
    assert lines[-1] == f"next: `octtrain predict {tmp_path}/run IMAGE...` classifies B-scans"


def test_a_run_behind_a_link_finds_its_shards(untrained, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    link = tmp_path / "deep" / "er" / "run"
    link.symlink_to(untrained / "run")
    assert Run.load(link).shards == untrained.resolve() / "shards"


def test_moved_shards_and_other_datasets_have_their_own_results(trained, shards, tmp_path):
    run, *_ = trained
    moved = tmp_path / "deeper" / "than" / "before" / "run"
    shutil.copytree(run.folder, moved)
    with pytest.raises(SourceError, match="--shards DIR"):
        evaluate(moved, log=quiet)
    evaluate(moved, shards=shards, log=quiet)
    own_results = (moved / "evaluate-test.json").read_bytes()
    other, _ = write_shards(tmp_path / "other", {"test": 4}, seed=1, first_patient=50_000)
    with pytest.raises(ManifestError, match=rf"{other.digest[:12]}.*\({run.manifest.digest[:12]}\).*--dataset"):
        evaluate(moved, shards=tmp_path / "other", log=quiet)
    lines = []
    assert evaluate(moved, dataset=tmp_path / "other", log=lines.append).accuracy.total == 16
    assert f"(dataset {other.digest[:12]}, not the run's own ({run.manifest.digest[:12]}))" in lines[0]
    assert not any("LEAKY" in line for line in lines)
    assert (moved / "evaluate-test.json").read_bytes() == own_results
    stored = json.loads((moved / f"evaluate-test-{other.digest[:8]}.json").read_text())
    assert (stored["digest"], stored["trained_on"]) == (other.digest, run.manifest.digest)
    assert stored["leak_warning"] is None
    assert (moved / f"predictions-test-{other.digest[:8]}.csv").is_file()
    with pytest.raises(ManifestError, match="no split 'fold9'; it has train, val, test"):
        evaluate(run.folder, "fold9", log=quiet)


def test_shards_of_another_task_are_an_error_with_the_difference(trained, tmp_path):
    run, *_ = trained
    write_shards(tmp_path / "size", {"test": 1}, height=40, first_patient=50_000)
    with pytest.raises(ManifestError, match=r"is another dataset .*: height 32 in the run, 40 here\. Build it"):
        evaluate(run.folder, dataset=tmp_path / "size", log=quiet)
    write_shards(tmp_path / "names", {"test": 1}, classes=CLASSES[::-1], first_patient=50_000)
    with pytest.raises(
        ManifestError, match="class names CNV, DME, DRUSEN, NORMAL in the run, NORMAL, DRUSEN, DME, CNV here"
    ):
        evaluate(run.folder, dataset=tmp_path / "names", log=quiet)


def test_exposed_patients_are_an_error_with_some_of_their_ids_or_marked(trained, tmp_path, monkeypatch):
    run, *_ = trained
    other, _ = write_shards(tmp_path / "other", {"test": 30}, seed=1)  # of patients 0 to 29; train has 0 to 23
    with pytest.raises(
        LeakError, match=r"selected on, 24 of the 30 patients .*: patients 0, 1, 10, 11, 12 and 19 more"
    ) as caught:
        evaluate(run.folder, dataset=tmp_path / "other", log=quiet)
    with (
        monkeypatch.context() as patch,
        pytest.raises(LeakError, match=r"24 of the 30 patients and 0 images of test\. Evaluate on"),
    ):
        patch.setattr(verbosity, "quiet", True)  # as --quiet does
        evaluate(run.folder, dataset=tmp_path / "other", log=quiet)
    assert caught.value.exit_code == 1
    assert "--allow-leaks" in str(caught.value)
    assert not list(run.folder.glob(f"*{other.digest[:8]}*"))
    copied = tmp_path / "run"
    shutil.copytree(run.folder, copied)
    lines = []
    evaluate(copied, dataset=tmp_path / "other", allow_leaks=True, log=lines.append)
    assert lines[1].startswith("LEAKY: the model was exposed to 24 of the 30 patients")
    stored = json.loads((copied / f"evaluate-test-{other.digest[:8]}.json").read_text())
    assert stored["leak_warning"] == lines[1]
    assert stored["exposed"]["patients"] == 24


def test_an_exposed_image_under_another_patient_id_is_an_error(trained, tmp_path):
    run, *_ = trained
    other, _ = write_shards(tmp_path / "other", {"test": 2}, first_patient=50_000)
    first, *rows = images_csv.read_checked(tmp_path / "other", other).rows
    first = dataclasses.replace(first, sha256=run.exposure().images[0].sha256)
    write_images(tmp_path / "other", other, [first, *rows])
    with pytest.raises(LeakError, match="selected on, 1 image of test, under other patient ids"):
        evaluate(run.folder, dataset=tmp_path / "other", log=quiet)


def test_the_training_split_is_an_error_and_val_is_a_caveat(trained, shards, tmp_path):
    shutil.copytree(trained[0].folder, tmp_path / "run")
    with pytest.raises(LeakError, match="24 of the 24 patients and 96 images of train"):
        evaluate(tmp_path / "run", "train", shards, log=quiet)
    lines = []
    evaluate(tmp_path / "run", "train", shards, allow_leaks=True, log=lines.append)
    assert lines[1].startswith("LEAKY")
    lines = []
    evaluate(tmp_path / "run", "val", shards, log=lines.append)
    assert lines[1] == "val was used to select the best epoch, so these results are a little too good"
    stored = json.loads((tmp_path / "run" / "evaluate-val.json").read_text())
    assert (stored["leak_warning"], stored["caveats"]) == (None, [lines[1]])


def test_a_read_only_run_is_an_error_before_the_work_and_out_takes_the_results(untrained, disk, tmp_path):
    for name in ("run", "shards"):
        shutil.copytree(untrained / name, disk / name)
    shard = next((disk / "shards" / "test").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")  # the next error, if the run could be written to
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OutputError, match=r"run .*cannot be written to \(Read-only file system\).* --out DIR"):
        evaluate(disk / "run", log=quiet)
    lines = []
    evaluate(disk / "run", shards=untrained / "shards", out=tmp_path / "new" / "out", log=lines.append)
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {
        "evaluate-test.json",
        "predictions-test.csv",
        "patients-test.csv",
    }
    assert lines[-2].startswith(f"wrote {tmp_path}/new/out/evaluate-test.json, ")
    with pytest.raises(OutputError, match=r"--out .*/blocked cannot be written to"):
        (tmp_path / "blocked").touch()
        evaluate(untrained / "run", out=tmp_path / "blocked", log=quiet)


def test_results_of_another_run_are_not_overwritten(untrained, tmp_path):
    evaluate(untrained / "run", out=tmp_path / "out", log=quiet)
    evaluate(untrained / "run", out=tmp_path / "out", log=quiet)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shutil.copytree(untrained / "run", tmp_path / "other")
    with pytest.raises(OutputError, match=r"evaluate-test\.json holds the results of .*/run; give another --out"):
        evaluate(tmp_path / "other", shards=untrained / "shards", out=tmp_path / "out", log=quiet)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_metrics_are_printed_even_if_they_cannot_be_written(untrained, disk):
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    lines = []
    with pytest.raises(OutputError, match=r"cannot be written to .* \(No space left on device\)"):
        evaluate(untrained / "run", out=disk, log=lines.append)
    assert any("balanced accuracy" in line for line in lines)
    assert {path.name for path in disk.iterdir()} == {"filler"}


def test_caveats_are_printed_and_in_the_file(untrained, tmp_path):
    lines = []
    evaluate(untrained / "run", dataset=untrained / "others", out=tmp_path, log=lines.append)
    stored = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert stored["per_class"]["DRUSEN"]["auc"] == {"value": None, "interval": None}
    assert any(line.startswith("test has no image of DRUSEN") for line in stored["caveats"])
    assert any(line.startswith("few patients in test (CNV 2, DME 2, NORMAL 2)") for line in stored["caveats"])
    assert set(stored["caveats"]) <= set(lines)


def test_prevalence_and_slices_are_printed_and_in_the_file(untrained, tmp_path):
    manifest = Manifest.load(untrained / "others")
    shutil.copytree(untrained / "others", tmp_path / "others")
    rows = images_csv.read_checked(untrained / "others", manifest).rows
    rows = [dataclasses.replace(row, width=512 + 256 * (i % 2)) for i, row in enumerate(rows)]
    write_images(tmp_path / "others", manifest, rows)
    with pytest.raises(SettingError, match="names AMD, but the classes are CNV"):
        evaluate(untrained / "run", dataset=tmp_path / "others", prevalence={"AMD": 0.1}, log=quiet)
    lines = []
    shares = {"CNV": 0.1, "DME": 0.1, "DRUSEN": 0.0}
    out = tmp_path / "out"
    evaluate(untrained / "run", dataset=tmp_path / "others", out=out, prevalence=shares, log=lines.append)
    stored = json.loads(next(out.glob("*.json")).read_text())
    for part in (stored, stored["per_patient"]):
        assert part["at_prevalence"]["prevalence"] == pytest.approx({**shares, "NORMAL": 0.8})
    slices = [(part["column"], part["values"], part["images"]) for part in stored["slices"]]
    assert sorted(slices) == [("source width", "512", 3), ("source width", "768", 3)]
    assert "80.0%" in "\n".join(lines)


def test_shards_that_octprep_did_not_write_are_an_error(untrained, tmp_path):
    shutil.copytree(untrained / "others", tmp_path / "shards")
    manifest = Manifest.load(tmp_path / "shards")
    path = tmp_path / "shards" / "images.csv"
    rows = images_csv.read_checked(tmp_path / "shards", manifest).rows
    for content in (b"path,split\na,test\n", b"\xff\xfe\n", b'"open'):
        changed = write_images(tmp_path / "shards", manifest, rows)
        path.write_bytes(content)
        dataclasses.replace(changed, images_sha256=hashlib.sha256(content).hexdigest()).save(tmp_path / "shards")
        with pytest.raises(ManifestError, match=r"images\.csv is not a table that octprep wrote"):
            evaluate(untrained / "run", dataset=tmp_path / "shards", out=tmp_path, log=quiet)

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
        evaluate(untrained / "run", dataset=tmp_path / "five", out=tmp_path, log=quiet)
