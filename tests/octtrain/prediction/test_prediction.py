"""Prediction: the pixels of training, exclusions with a reason, and labels stated by file names."""

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import cv2
import numpy as np
from PIL import Image

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import ManifestError, OutputError, SourceError, StoppedError
from octprep.format.manifest import Shard
from octprep.shards import tfrecord
from octtrain.data import stream
from octtrain.evaluation.evaluate import evaluate
from octtrain.models import build_model
from octtrain.prediction.classify import Exclusion, Prediction, load_run, predict, prepare_image
from octtrain.runs.folder import RunFolder
from octtrain.runs.run import Run
from tests.worlds.decoders import faulty_decoder, mark
from tests.worlds.image_files import LOSSLESS, saved, tiled_tiff
from tests.worlds.runs import ROOT, command, quiet, read_rows, scan_file
from tests.worlds.shards import CLASSES, record, untrained_run, write_shards
from tests.worlds.volume_files import dicom, drawn, reflectance, vol

pytestmark = pytest.mark.slow


def test_prediction_takes_the_pixels_of_training(tmp_path):
    recipe = Preprocessing(height=48, width=64)
    manifest, _ = write_shards(tmp_path / "s", {"test": 1}, shards=1)
    jpeg = scan_file(tmp_path / "CNV-1-1.jpeg")
    pixels = preprocessing.preprocess(preprocessing.decode(jpeg.read_bytes()), recipe).pixels
    content = tfrecord.frame(record(pixels, 0, "1", "CNV-1-1.jpeg"))
    shard = Shard(
        name="test/a.tfrecord",
        records=1,
        per_class=(1, 0, 0, 0),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    (tmp_path / "s" / shard.name).write_bytes(content)
    config = dataclasses.replace(manifest.config, recipe=recipe)
    manifest = dataclasses.replace(manifest, config=config, splits={"test": (shard,)})
    ((images, _),) = stream.batches(tmp_path / "s", ["test"], batch_size=1, manifest=manifest)
    np.testing.assert_array_equal(prepare_image(jpeg, manifest.recipe), images[0, ..., 0])


def test_every_file_is_classified_or_excluded_with_a_reason(run, tmp_path):
    good = [scan_file(tmp_path / "in" / f"deep/{name}.jpeg", seed=i) for i, name in enumerate("cab")]
    for name, content in {".DS_Store": b"\0\0\0\1Bud1", "._a.jpeg": b"\0\x05\x16\x07", "x.txt": b"no image"}.items():
        (tmp_path / "in" / name).write_bytes(content)
    truncated = tmp_path / "in" / "cut.jpeg"
    truncated.write_bytes(good[0].read_bytes()[:-300])
    lines, warnings = [], []
    results = predict(run, [tmp_path / "in"], tmp_path / "out.csv", log=lines.append, warn=warnings.append)
    assert [result.path for result in results if isinstance(result, Prediction)] == sorted(good)
    assert {result.path.name for result in results if isinstance(result, Exclusion)} == {
        ".DS_Store", "._a.jpeg", "x.txt", "cut.jpeg"
    }  # fmt: skip
    assert len(lines) == 5
    assert lines[-2] == f"3 classified, 4 excluded; wrote {tmp_path / 'out.csv'} (7 rows)"
    assert len(warnings) == 4
    rows = {Path(path).name: row for path, row in read_rows(tmp_path / "out.csv").items()}
    assert len(rows) == 7
    assert all(bool(row["exclusion_reason"]) != bool(row["prediction"]) for row in rows.values())
    probabilities = [float(rows["a.jpeg"][name]) for name in CLASSES]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert rows["a.jpeg"]["prediction"] == CLASSES[int(np.argmax(probabilities))]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="crashes are recognised by POSIX signals")
def test_files_that_crash_or_hang_the_decoder_cost_only_themselves(run, tmp_path):
    files = [scan_file(tmp_path / "in" / f"{i:02}.jpeg", i % 4, i) for i in range(40)]  # more than a batch
    reasons = {
        files[1]: ("SIGSEGV", "made the image decoder crash (SIGSEGV)"),
        files[3]: ("SIGABRT", "made the image decoder crash (SIGABRT)"),
        files[35]: ("HANG", "took the image decoder more than 2 s"),
    }
    for path, (what, _) in reasons.items():
        mark(path, what)
    done = subprocess.run(
        command("predict", run, tmp_path / "in", "--csv", tmp_path / "out.csv"),
        env=faulty_decoder(tmp_path), check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "37 classified, 3 excluded" in done.stdout
    rows = {Path(path): row for path, row in read_rows(tmp_path / "out.csv").items()}
    assert [*rows] == files
    for path, row in rows.items():
        assert row["exclusion_reason"] == (reasons[path][1] if path in reasons else "")
        assert bool(row["prediction"]) == (path not in reasons)


def test_a_prediction_does_not_depend_on_the_other_files(run, tmp_path):
    files = [scan_file(tmp_path / f"{i:02}.jpeg", i % 4, i) for i in range(35)]  # more than a batch
    together = predict(run, [tmp_path], log=quiet)
    alone = predict(run, [files[33]], log=quiet)
    np.testing.assert_allclose(together[33].probabilities, alone[0].probabilities, atol=1e-5)


def test_a_prediction_does_not_depend_on_the_format_of_the_file(run, tmp_path):
    jpeg = scan_file(tmp_path / "in" / "scan.jpeg")
    gray = preprocessing.decode(jpeg.read_bytes())
    for name in LOSSLESS:
        (tmp_path / "in" / f"as-{name}.dat").write_bytes(saved(Image.fromarray(gray).convert("RGB"), name))
    (tmp_path / "in" / "tiles.jpeg").write_bytes(tiled_tiff(gray.astype(np.uint16) << 8))
    results = predict(run, [tmp_path / "in"], log=quiet)
    assert len(results) == 6
    expected = prepare_image(jpeg, Run.load(run).manifest.recipe)
    for result in results:
        assert np.array_equal(prepare_image(result.path, Run.load(run).manifest.recipe), expected)
        np.testing.assert_allclose(result.probabilities, results[-2].probabilities, atol=1e-6)


def test_each_frame_of_a_volume_is_classified_as_its_picture_is(run, tmp_path):
    pytest.importorskip("pydicom")
    pixels = drawn("volume")
    folder = tmp_path / "CNV"
    folder.mkdir()
    (folder / "scan").write_bytes(dicom(pixels, orientations=["LINEAR", "NONLINEAR", "LINEAR"]))
    (folder / "scan.vol").write_bytes(vol(reflectance(pixels)))
    (folder / "cut.vol").write_bytes(vol(reflectance(pixels))[:-1])
    for number, frame in enumerate(pixels, 1):
        (folder / f"{number}.png").write_bytes(saved(frame, "PNG"))
    results = {result.path.name: result for result in predict(run, [folder], log=quiet, warn=quiet)}
    for number in (1, 2, 3):
        of_vol, of_png = results[f"scan.vol#{number}"], results[f"{number}.png"]
        assert np.array_equal(of_vol.probabilities, of_png.probabilities) and of_vol.true_label == "CNV"
    assert np.array_equal(results["scan#3"].probabilities, results["3.png"].probabilities)
    assert "circular scan" in results["scan#2"].reason and "truncated .vol" in results["cut.vol"].reason
    assert len(results) == 10

    table = tmp_path / "o.csv"
    predict(run, [folder / "scan.vol"], table, log=quiet)
    lines: list[str] = []
    predict(run, [folder / "scan.vol#2"], table, log=lines.append)  # one frame, which is in the table
    assert "already holds 1 of the 1 files" in lines[0] and len(read_rows(table)) == 3


def test_what_is_unusual_about_a_scan_is_printed_and_kept_in_the_csv(run, tmp_path):
    rgb = np.dstack([cv2.imread(str(scan_file(tmp_path / "in" / "a.jpeg")), cv2.IMREAD_GRAYSCALE)] * 3)
    false_colour = cv2.applyColorMap(rgb, cv2.COLORMAP_JET)
    cv2.imwrite(str(tmp_path / "in" / "c.png"), false_colour)
    cv2.line(rgb, (20, 20), (90, 20), (0, 0, 255), 1)
    cv2.imwrite(str(tmp_path / "in" / "b.png"), rgb)
    lines, warnings = [], []
    results = predict(run, [tmp_path / "in"], tmp_path / "o.csv", log=lines.append, warn=warnings.append)
    assert [result.flags for result in results[:2]] == [("small",), ("drawn", "small")]
    assert lines[1].endswith("  drawn  small")
    assert isinstance(results[2], Exclusion)
    assert "c.png: in colour: " in warnings[0]
    assert warnings[0].endswith("the run's recipe excludes (--colour refuse); export it in gray without drawings")
    assert "octprep build" not in warnings[0]
    rows = read_rows(tmp_path / "o.csv")
    assert rows[str(tmp_path / "in" / "b.png")]["flags"] == "drawn small"
    again = predict(run, [tmp_path / "in"], tmp_path / "o.csv", log=quiet, warn=quiet)
    assert [result.flags for result in again[:2]] == [("small",), ("drawn", "small")]


def test_predictions_are_compared_with_names_and_folders(run, tmp_path):
    scan_file(tmp_path / "CNV" / "CNV-1-1.jpeg")
    scan_file(tmp_path / "DRUSEN" / "left.jpeg")
    scan_file(tmp_path / "other" / "unknown" / "c.jpeg")
    lines = []
    results = predict(run, [tmp_path], log=lines.append)
    assert [result.true_label for result in results] == ["CNV", "DRUSEN", None]
    assert lines[-3].split(" agree ")[0].endswith(" of 2")


def test_a_name_states_a_class_only_if_the_model_knows_it(run, tmp_path):
    labels = {
        "OCT-2024-01.jpeg": None,
        "AMD-12-1.jpeg": None,
        "cnv-12-1.jpeg": "CNV",
        "CNV/OCT-2024-01.jpeg": "CNV",
        "GLAUCOMA/left.jpeg": None,  # next to a class folder
        "GLAUCOMA/DME-2024-01.jpeg": "DME",
    }
    for name in labels:
        scan_file(tmp_path / name)
    lines, warnings = [], []
    results = predict(run, [tmp_path], log=lines.append, warn=warnings.append)
    assert {result.path.relative_to(tmp_path).as_posix(): result.true_label for result in results} == labels
    assert warnings == []
    unknown = next(line for line in lines if "does not know" in line)
    assert unknown.startswith("3 files named after, or in a folder of, a class that the model does not know (")
    assert all(f"{name} 1" in unknown for name in ("OCT", "AMD", "GLAUCOMA"))
    assert any(" of 3 agree " in line for line in lines)


def test_hostile_file_names_are_escaped(run, tmp_path):
    folder = tmp_path / "in"
    names = [b"M\xfcller.jpeg", "Müller 図.jpeg".encode(), b"a\x1b[31m.jpeg", b"b\r\nc.jpeg", b'"quoted", d.jpeg']
    for name in names:
        scan_file(folder / "x.jpeg").rename(folder / os.fsdecode(name))
    done = subprocess.run(
        command("predict", run, folder, "--csv", tmp_path / "o.csv"),
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252:strict"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert set(read_rows(tmp_path / "o.csv")) == {
        f"{folder}/{name}"
        for name in ("M\\xfcller.jpeg", "Müller 図.jpeg", "a\\x1b[31m.jpeg", "b\\x0d\\x0ac.jpeg", '"quoted", d.jpeg')
    }
    lines = done.stdout.decode("cp1252").splitlines()
    assert len(lines) == len(names) + 2
    assert any("Müller \\u56f3.jpeg  " in line for line in lines)
    assert not any(set(line) & {"\x1b", "\r"} for line in lines)


def test_special_files_are_excluded_and_links_to_folders_are_not_followed(run, tmp_path):
    folder = tmp_path / "in"
    scan_file(folder / "a.jpeg")
    (folder / "loop").symlink_to(tmp_path)
    (folder / "linked.jpeg").symlink_to(scan_file(tmp_path / "elsewhere" / "b.jpeg"))
    os.mkfifo(folder / "pipe.jpeg")
    with (folder / "huge.jpeg").open("wb") as file:
        file.truncate(50_000_000_000)
    results = {result.path.name: result for result in predict(run, [folder], log=quiet, warn=quiet)}
    assert {name for name, result in results.items() if isinstance(result, Prediction)} == {"a.jpeg", "linked.jpeg"}
    assert "not a regular file" in results["pipe.jpeg"].reason
    assert "50,000,000,000 bytes" in results["huge.jpeg"].reason
    assert "link to a folder" in results["loop"].reason
    assert len(results) == 5


def test_a_failure_to_read_is_not_a_bad_image_and_is_retried(run, tmp_path):
    folder = tmp_path / "in"
    scan_file(folder / "a.jpeg")
    (folder / "b.jpeg").symlink_to(tmp_path / "away.jpeg")  # as on a disk that is not mounted
    lines, warnings = [], []
    with pytest.raises(StoppedError, match=r"1 of 2 files could not be read \(.*b\.jpeg: No such file") as caught:
        predict(run, [folder], tmp_path / "o.csv", log=lines.append, warn=warnings.append)
    assert caught.value.exit_code == 1
    assert warnings == [f"excluded {folder}/b.jpeg: could not be read: No such file or directory"]
    assert read_rows(tmp_path / "o.csv")[f"{folder}/a.jpeg"]["prediction"]
    scan_file(tmp_path / "away.jpeg")
    lines.clear()
    predict(run, [folder], tmp_path / "o.csv", log=lines.append, warn=warnings.append)
    assert [line.split("  ")[0] for line in lines[1:-2]] == [f"{folder}/b.jpeg"]  # the row of a.jpeg is kept
    rows = (tmp_path / "o.csv").read_text().splitlines(keepends=True)
    path, *_, size, modified, model = rows[1].split(",")
    rows[1] = f"{path}{',' * 7}could not be read: Input/output error,{size},{modified},{model}"  # of a failing disk
    (tmp_path / "o.csv").write_text("".join(rows))
    predict(run, [folder], tmp_path / "o.csv", log=lines.append, warn=warnings.append)
    assert all(row["prediction"] for row in read_rows(tmp_path / "o.csv").values())


def test_unreadable_files_are_named_and_the_others_are_classified(run, tmp_path):
    for name in ("yes/a.jpeg", "yes/b.jpeg", "no/c.jpeg"):
        scan_file(tmp_path / "in" / name)
    (tmp_path / "in" / "yes" / "b.jpeg").chmod(0)
    (tmp_path / "in" / "no").chmod(0)
    if os.access(tmp_path / "in" / "no", os.R_OK):
        pytest.skip("this user may read everything")
    try:
        with pytest.raises(StoppedError, match=r"2 of 3 files could not be read \(.*Permission denied"):
            predict(run, [tmp_path / "in"], tmp_path / "o.csv", log=quiet, warn=quiet)
    finally:
        (tmp_path / "in" / "no").chmod(0o700)
    rows = read_rows(tmp_path / "o.csv")
    assert [Path(path).name for path, row in rows.items() if row["exclusion_reason"]] == ["no", "b.jpeg"]


def test_other_libraries_are_a_warning_and_other_pixels_an_error(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    manifest = Run.load(run).manifest
    image = scan_file(tmp_path / "a.jpeg")

    def made_by(recipe=manifest.recipe, **libraries):
        config = dataclasses.replace(manifest.config, recipe=recipe)
        other = dataclasses.replace(manifest, config=config, libraries=libraries)
        shutil.rmtree(tmp_path / "run")
        untrained_run(tmp_path / "run", other, run.parent / "shards")

    made_by(opencv="3.4.1", octprep="0.0.1")
    warnings = []
    predict(tmp_path / "run", [image], log=quiet, warn=warnings.append)
    assert len(warnings) == 2
    assert any("OpenCV 3.4.1 made the shards" in line for line in warnings)
    assert any("octprep 0.0.1 made the shards" in line for line in warnings)
    made_by(dataclasses.replace(manifest.recipe, version=1), octprep="0.0.1")
    with pytest.raises(ManifestError, match=r"preprocessing version 1 \(octprep 0\.0\.1\), but this octprep"):
        predict(tmp_path / "run", [image], log=quiet)


def test_probabilities_that_are_not_finite_are_an_error(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(Run.load(tmp_path / "run"))
    model = build_model("octnet-s", (32, 32, 1), 4)
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    folder.save_model(model, folder.path / "model.keras")
    with pytest.raises(ManifestError, match="are not numbers"):
        predict(folder.path, [scan_file(tmp_path / "a.jpeg")], log=quiet)
    with pytest.raises(ManifestError, match="are not numbers"):
        evaluate(folder.path, shards=run.parent / "shards", log=quiet)
    folder.save_model(build_model("octnet-s", (32, 32, 1), 3), folder.path / "model.keras")
    with pytest.raises(ManifestError, match="4 classes, so it is not this run's model"):
        predict(folder.path, [tmp_path / "a.jpeg"], log=quiet)


def test_inputs_that_do_not_exist_or_are_empty_are_an_error(run, tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        predict(run, [tmp_path / "none.jpeg"], log=quiet)
    with pytest.raises(SourceError, match="there is no file in"):
        predict(run, [tmp_path], log=quiet)
    image = scan_file(tmp_path / "a.jpeg")
    with pytest.raises(OutputError, match="the folder of --csv"):
        predict(run, [image], tmp_path / "no" / "out.csv", log=quiet)
    image.write_bytes(b"")
    with pytest.raises(SourceError, match="0 of 1 file could be classified"):
        predict(run, [image], log=quiet, warn=quiet)


def test_a_loaded_run_predicts_without_printing(run, tmp_path, capsys):
    scan_file(tmp_path / "CNV" / "a.jpeg")
    (tmp_path / "b.txt").touch()
    loaded = load_run(str(run))
    prediction, exclusion = loaded.predict(str(tmp_path))
    assert isinstance(exclusion, Exclusion)
    assert isinstance(prediction, Prediction)
    assert loaded.class_names == CLASSES
    assert prediction.label == CLASSES[int(prediction.probabilities.argmax())]
    assert (prediction.true_label, prediction.probabilities.shape, prediction.probabilities.dtype) == (
        "CNV", (4,), np.float32
    )  # fmt: skip
    assert loaded.prepare_image(prediction.path).shape == (32, 32)
    assert capsys.readouterr() == ("", "")
