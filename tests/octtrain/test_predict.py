import csv
import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import cv2
import numpy as np

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import ManifestError, OutputError, SettingError, SourceError, StoppedError
from octprep.format.manifest import Shard
from octprep.shards import tfrecord
from octtrain import cli
from octtrain.data import stream
from octtrain.evaluation.evaluate import evaluate
from octtrain.models import build_model
from octtrain.prediction import Prediction, Skipped, choose_run, load, predict
from octtrain.runs.folder import FitConfig, Run
from tests.worlds.shards import CLASSES, picture, record, untrained_run, write_shards

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def scan(path, label=0, seed=0):
    """A B-scan as a JPEG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.resize(picture(label, np.random.default_rng(seed), 64, 64), (256, 128))
    path.write_bytes(cv2.imencode(".jpeg", image)[1].tobytes())
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an untrained model: what it answers does not matter here."""
    folder = tmp_path_factory.mktemp("predict")
    manifest, _ = write_shards(folder / "shards", {"train": 1, "val": 1, "test": 1})
    return untrained_run(folder / "run", manifest, folder / "shards").folder


def quiet(line):
    pass


def table(path):
    """The rows of --csv by their paths; the file must hold whole rows only, each path once."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines(), strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def command(*arguments):
    """The program, for a process of its own."""
    return [sys.executable, "-c", "from octtrain.cli import main; main()", *map(str, arguments)]


def program(capsys, *arguments):
    """Exit code, standard output and standard error of the program."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, arguments)))
    said = capsys.readouterr()
    return caught.value.code or 0, said.out, said.err


def test_prediction_sees_the_pixels_that_training_saw(tmp_path):
    recipe = Preprocessing(height=48, width=64)
    manifest, _ = write_shards(tmp_path / "s", {"test": 1}, shards=1)
    jpeg = scan(tmp_path / "CNV-1-1.jpeg")
    prepared = preprocessing.preprocess(preprocessing.decode(jpeg.read_bytes()), recipe).pixels
    content = tfrecord.frame(record(prepared, 0, "1", "CNV-1-1.jpeg"))
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
    ((images, _),) = stream.batches(tmp_path / "s", manifest, ["test"], 1)
    np.testing.assert_array_equal(load(jpeg, manifest.recipe), images[0, ..., 0])


def test_every_file_is_classified_or_skipped_with_a_reason(run, tmp_path):
    good = [scan(tmp_path / "in" / f"deep/{name}.jpeg", seed=i) for i, name in enumerate("cab")]
    for name, content in {".DS_Store": b"\0\0\0\1Bud1", "._a.jpeg": b"\0\x05\x16\x07", "x.txt": b"no image"}.items():
        (tmp_path / "in" / name).write_bytes(content)
    cut = tmp_path / "in" / "cut.jpeg"
    cut.write_bytes(good[0].read_bytes()[:-300])
    said, warned = [], []
    results = predict(run, [tmp_path / "in"], tmp_path / "out.csv", say=said.append, warn=warned.append)
    assert [result.path for result in results if isinstance(result, Prediction)] == sorted(good)
    assert {result.path.name for result in results if isinstance(result, Skipped)} == {
        ".DS_Store", "._a.jpeg", "x.txt", "cut.jpeg"
    }  # fmt: skip
    assert len(said) == 4
    assert said[-1] == f"3 classified, 4 skipped; wrote {tmp_path / 'out.csv'} (7 rows)"
    assert len(warned) == 4
    rows = {Path(path).name: row for path, row in table(tmp_path / "out.csv").items()}
    assert len(rows) == 7
    assert all(bool(row["skipped"]) != bool(row["prediction"]) for row in rows.values())
    probabilities = [float(rows["a.jpeg"][name]) for name in CLASSES]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert rows["a.jpeg"]["prediction"] == CLASSES[int(np.argmax(probabilities))]


def test_answers_do_not_depend_on_what_else_is_asked(run, tmp_path):
    files = [scan(tmp_path / f"{i:02}.jpeg", i % 4, i) for i in range(35)]  # more than a batch
    together = predict(run, [tmp_path], say=quiet)
    alone = predict(run, [files[33]], say=quiet)
    np.testing.assert_allclose(together[33].probabilities, alone[0].probabilities, atol=1e-5)


def test_predictions_are_compared_with_what_names_and_folders_tell(run, tmp_path):
    scan(tmp_path / "CNV" / "CNV-1-1.jpeg")
    scan(tmp_path / "DRUSEN" / "left.jpeg")
    scan(tmp_path / "other" / "unknown" / "c.jpeg")
    said = []
    results = predict(run, [tmp_path], say=said.append)
    assert [result.known for result in results] == ["CNV", "DRUSEN", None]
    assert said[-2].split(" agree ")[0].endswith(" of 2")


def test_what_a_name_says_is_a_label_only_where_the_model_knows_the_class(run, tmp_path):
    labels = {
        "OCT-2024-01.jpeg": None,
        "AMD-12-1.jpeg": None,
        "cnv-12-1.jpeg": "CNV",
        "CNV/OCT-2024-01.jpeg": "CNV",
        "GLAUCOMA/left.jpeg": None,  # beside a class folder
        "GLAUCOMA/DME-2024-01.jpeg": "DME",
    }
    for name in labels:
        scan(tmp_path / name)
    said, warned = [], []
    results = predict(run, [tmp_path], say=said.append, warn=warned.append)
    assert {result.path.relative_to(tmp_path).as_posix(): result.known for result in results} == labels
    assert warned == []
    remark = next(line for line in said if "does not know" in line)
    assert remark.startswith("3 files named or placed as of a class that the model does not know (")
    assert all(f"{name} 1" in remark for name in ("OCT", "AMD", "GLAUCOMA"))
    assert any(" of 3 agree " in line for line in said)


def test_any_name_that_a_file_system_allows_is_a_row_of_its_own(run, tmp_path):
    folder = tmp_path / "in"
    names = [b"M\xfcller.jpeg", "Müller 図.jpeg".encode(), b"a\x1b[31m.jpeg", b"b\r\nc.jpeg", b'"quoted", d.jpeg']
    for name in names:
        scan(folder / "x.jpeg").rename(folder / os.fsdecode(name))
    done = subprocess.run(
        command("predict", run, folder, "--csv", tmp_path / "o.csv"),
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252:strict"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert set(table(tmp_path / "o.csv")) == {
        f"{folder}/{name}"
        for name in ("M\\xfcller.jpeg", "Müller 図.jpeg", "a\\x1b[31m.jpeg", "b\\x0d\\x0ac.jpeg", '"quoted", d.jpeg')
    }
    lines = done.stdout.decode("cp1252").splitlines()
    assert len(lines) == len(names) + 1
    assert any("Müller \\u56f3.jpeg  " in line for line in lines)
    assert not any(set(line) & {"\x1b", "\r"} for line in lines)


def test_what_is_no_file_is_named_and_links_are_not_walked(run, tmp_path):
    folder = tmp_path / "in"
    scan(folder / "a.jpeg")
    (folder / "loop").symlink_to(tmp_path)
    (folder / "linked.jpeg").symlink_to(scan(tmp_path / "elsewhere" / "b.jpeg"))
    os.mkfifo(folder / "pipe.jpeg")
    with (folder / "huge.jpeg").open("wb") as file:
        file.truncate(50_000_000_000)
    results = {result.path.name: result for result in predict(run, [folder], say=quiet, warn=quiet)}
    assert {name for name, result in results.items() if isinstance(result, Prediction)} == {"a.jpeg", "linked.jpeg"}
    assert "not a regular file" in results["pipe.jpeg"].reason
    assert "50,000,000,000 bytes" in results["huge.jpeg"].reason
    assert "link to a folder" in results["loop"].reason
    assert len(results) == 5


def test_a_failure_to_read_is_no_bad_image_and_is_tried_again(run, tmp_path):
    folder = tmp_path / "in"
    scan(folder / "a.jpeg")
    (folder / "b.jpeg").symlink_to(tmp_path / "away.jpeg")  # as on a disk that is not mounted
    said, warned = [], []
    with pytest.raises(StoppedError, match=r"1 of 2 could not be read \(.*b\.jpeg: No such file") as caught:
        predict(run, [folder], tmp_path / "o.csv", say=said.append, warn=warned.append)
    assert caught.value.exit_code == 1
    assert warned == [f"skipped {folder}/b.jpeg: could not be read: No such file or directory"]
    assert table(tmp_path / "o.csv")[f"{folder}/a.jpeg"]["prediction"]
    scan(tmp_path / "away.jpeg")
    said.clear()
    predict(run, [folder], tmp_path / "o.csv", say=said.append, warn=warned.append)
    assert [line.split("  ")[0] for line in said[1:-1]] == [f"{folder}/b.jpeg"]  # a.jpeg is kept
    rows = (tmp_path / "o.csv").read_text().splitlines(keepends=True)
    path, *_, size, modified, model = rows[1].split(",")
    rows[1] = f"{path}{',' * 6}could not be read: Input/output error,{size},{modified},{model}"  # a disk that was ill
    (tmp_path / "o.csv").write_text("".join(rows))
    predict(run, [folder], tmp_path / "o.csv", say=said.append, warn=warned.append)
    assert all(row["prediction"] for row in table(tmp_path / "o.csv").values())


def test_what_may_not_be_read_is_named_and_the_rest_is_done(run, tmp_path):
    for name in ("yes/a.jpeg", "yes/b.jpeg", "no/c.jpeg"):
        scan(tmp_path / "in" / name)
    (tmp_path / "in" / "yes" / "b.jpeg").chmod(0)
    (tmp_path / "in" / "no").chmod(0)
    if os.access(tmp_path / "in" / "no", os.R_OK):
        pytest.skip("this user may read everything")
    try:
        assert choose_run([run, tmp_path / "in" / "no"])[1] == [tmp_path / "in" / "no"]
        with pytest.raises(StoppedError, match=r"2 of 3 could not be read \(.*Permission denied"):
            predict(run, [tmp_path / "in"], tmp_path / "o.csv", say=quiet, warn=quiet)
    finally:
        (tmp_path / "in" / "no").chmod(0o700)
    rows = table(tmp_path / "o.csv")
    assert [Path(path).name for path, row in rows.items() if row["skipped"]] == ["no", "b.jpeg"]


def test_rows_that_are_there_are_kept_unless_their_files_changed(run, tmp_path):
    files = [scan(tmp_path / "in" / f"{i:02}.jpeg", i % 4, i) for i in range(40)]
    (tmp_path / "in" / "99.txt").write_bytes(b"no image")
    predict(run, [tmp_path / "in"], tmp_path / "whole.csv", say=quiet, warn=quiet)
    whole = (tmp_path / "whole.csv").read_bytes()
    csv_file = tmp_path / "o.csv"
    csv_file.write_bytes(whole[: whole.rfind(b"\n", 0, -200) + 20])  # a kill in the middle of a line
    said = []
    results = predict(run, [tmp_path / "in"], csv_file, say=said.append, warn=quiet)
    assert list(table(csv_file)) == list(table(tmp_path / "whole.csv"))
    assert csv_file.read_bytes()[:2000] == whole[:2000]  # probabilities may differ in their last digit in other batches
    assert said[0].endswith(" of the 41 files already; their rows are kept")
    assert len(results) == 41
    assert [result.path for result in results][:40] == files

    said.clear()
    scan(files[7], 3, 99)
    predict(run, [tmp_path / "in"], csv_file, say=said.append, warn=quiet)
    assert [line.split("  ")[0] for line in said[1:-1]] == [str(files[7])]
    rows = table(csv_file)
    assert len(rows) == 41
    assert rows[str(files[7])] != table(tmp_path / "whole.csv")[str(files[7])]

    csv_file.write_bytes(whole[:9])  # a kill in the middle of the header
    predict(run, [tmp_path / "in"], csv_file, say=quiet, warn=quiet)
    assert len(table(csv_file)) == 41


def test_a_file_of_anything_else_is_never_written_over(run, tmp_path):
    image = scan(tmp_path / "a.jpeg")
    predict(run, [image], tmp_path / "o.csv", say=quiet)
    text = (tmp_path / "o.csv").read_text()
    shutil.copytree(run, tmp_path / "other")
    other = Run.load(tmp_path / "other")
    other.save_model(build_model("octnet-s", (32, 32, 1), 4), other.folder / "model.keras")
    cases = {
        "image": (run, image.read_bytes(), "something else"),
        "notes": (run, b"path,remark\na.jpeg,good\n", "something else"),
        "edited": (run, text.replace(",0.", ";0.").encode(), "a line 2 that"),
        "twice": (run, (text + text.splitlines()[1] + "\n").encode(), "a line 3 that"),
        "other model": (other.folder, text.encode(), "another model"),
    }
    for name, (folder, content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(OutputError, match=message):
            predict(folder, [image], path, say=quiet)
        assert path.read_bytes() == content, name
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in {"folder": "is a folder", "pipe": "not a regular file", "no/o.csv": "the folder of"}.items():
        with pytest.raises(OutputError, match=message):
            predict(run, [image], tmp_path / name, say=quiet)


def test_the_file_of_rows_is_no_input_of_its_own(run, tmp_path):
    scan(tmp_path / "a.jpeg")
    for _ in range(2):
        results = predict(run, [tmp_path], tmp_path / "o.csv", say=quiet, warn=quiet)
        assert [result.path.name for result in results] == ["a.jpeg"]
    (tmp_path / "link.csv").symlink_to("o.csv")
    results = predict(run, [tmp_path], tmp_path / "link.csv", say=quiet, warn=quiet)
    assert [result.path.name for result in results] == ["a.jpeg"]


def test_a_file_of_rows_that_goes_away_or_is_in_use_ends_the_work(run, tmp_path):
    files = [scan(tmp_path / "in" / f"{i:02}.jpeg", seed=i) for i in range(40)]
    (tmp_path / "out").mkdir()

    def remove(line):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    with pytest.raises(StoppedError, match="was removed or replaced while it was written"):
        predict(run, files, tmp_path / "out" / "o.csv", say=remove)

    def again(line):
        if "  " not in line:
            return  # the closing line, after the file was closed
        with pytest.raises(OutputError, match="another `octtrain predict` is writing to"):
            predict(run, files, tmp_path / "o.csv", say=quiet)

    predict(run, files[:1], tmp_path / "o.csv", say=again)


def test_a_full_disk_keeps_whole_rows(run, tmp_path):
    files = [scan(tmp_path / "in" / f"{i:02}.jpeg", seed=i) for i in range(70)]
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        with pytest.raises(StoppedError, match=r"No space left on device.*keeps 32 rows"):
            predict(run, files, disk / "o.csv", say=quiet)
        assert len(table(disk / "o.csv")) == 32
        shutil.copy(disk / "o.csv", tmp_path / "o.csv")
    finally:
        subprocess.run(["umount", disk], check=True)
    predict(run, files, tmp_path / "o.csv", say=quiet)
    assert len(table(tmp_path / "o.csv")) == 70


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_prediction_keeps_its_rows_and_goes_on(run, tmp_path, how):
    image = scan(tmp_path / "in" / "000.jpeg")
    for i in range(1, 640):
        os.link(image, tmp_path / "in" / f"{i:03}.jpeg")
    arguments = ["predict", run, tmp_path / "in", "--csv", tmp_path / "o.csv"]
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=err)
    while process.poll() is None and not ((tmp_path / "o.csv").exists() and len(table_lines(tmp_path / "o.csv")) > 32):
        time.sleep(0.01)
    process.send_signal(how)
    code = process.wait()
    kept = len(table_lines(tmp_path / "o.csv"))
    assert 32 < kept < 600
    message = (tmp_path / "err").read_text()
    if how == signal.SIGINT:
        assert code == 130
        assert message.startswith("octtrain: interrupted; ")
        assert "the same command goes on" in message
        assert message.count("\n") == 1
    said = []
    predict(run, [tmp_path / "in"], tmp_path / "o.csv", say=said.append)
    assert "of the 640 files already" in said[0]
    assert len(table(tmp_path / "o.csv")) == 640


def table_lines(path):
    return path.read_bytes().split(b"\n")[:-1]


def test_a_reader_that_goes_leaves_the_rows_whole_and_is_no_error(run, tmp_path):
    for i in range(70):
        scan(tmp_path / "in" / f"{i:02}.jpeg", seed=i)
    arguments = command("predict", run, tmp_path / "in", "--csv", tmp_path / "o.csv")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert len(table(tmp_path / "o.csv")) == 70

    def gone(line):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):  # which the program ends with, as there is nothing else to do
        predict(run, [tmp_path / "in"], say=gone)


def test_the_run_is_the_first_argument_or_the_latest_one(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = scan(Path("a.jpeg"))
    assert choose_run([run, image]) == (run, [image], False)
    code, out, err = program(capsys, "predict", image)
    assert (code, out) == (2, "")
    assert "octtrain fit" in err
    shutil.copytree(run, tmp_path / "runs" / "mine")
    shutil.copytree(run.parent / "shards", tmp_path / "runs" / "shards")  # for the run's relative path; no run
    assert choose_run([image]) == (Path("runs/mine"), [image], True)
    code, out, err = program(capsys, "predict", image)
    assert (code, err) == (0, "the latest run: runs/mine\n")
    assert out.startswith("a.jpeg  ")
    code, out, err = program(capsys, "evaluate", "--allow-leaks")
    assert (code, err) == (0, "the latest run: runs/mine\n")
    assert out.startswith("runs/mine on test of ")
    for arguments, error, message in (
        (["nosuchrun", image], SourceError, "^nosuchrun does not exist"),
        ([run], SourceError, "no image is named after the run"),
        ([image, run], SettingError, "give the run first"),
        (["runs/shards", image], SourceError, r"manifest\.json but no config\.json, so it is no run folder"),
    ):
        with pytest.raises(error, match=message):
            choose_run(list(map(Path, arguments)))


def test_other_libraries_are_named_and_other_pixels_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    manifest = Run.load(run).manifest
    image = scan(tmp_path / "a.jpeg")

    def made_by(recipe=manifest.recipe, **libraries):
        config = dataclasses.replace(manifest.config, recipe=recipe)
        other = dataclasses.replace(manifest, config=config, libraries=libraries)
        shutil.rmtree(tmp_path / "run")
        untrained_run(tmp_path / "run", other, run.parent / "shards")

    made_by(opencv="3.4.1", octprep="0.0.1")
    warned = []
    predict(tmp_path / "run", [image], say=quiet, warn=warned.append)
    assert len(warned) == 2
    assert any("OpenCV 3.4.1 made the shards" in line for line in warned)
    assert any("octprep 0.0.1 made the shards" in line for line in warned)
    made_by(dataclasses.replace(manifest.recipe, version=1), octprep="0.0.1")
    with pytest.raises(ManifestError, match=r"revision 1 of the imaging \(octprep 0\.0\.1\), but this octprep"):
        predict(tmp_path / "run", [image], say=quiet)


def test_a_model_whose_answers_are_no_numbers_says_nothing(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    made = Run.load(tmp_path / "run")
    model = build_model("octnet-s", (32, 32, 1), 4)
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    made.save_model(model, made.folder / "model.keras")
    with pytest.raises(ManifestError, match="are no numbers"):
        predict(made.folder, [scan(tmp_path / "a.jpeg")], say=quiet)
    with pytest.raises(ManifestError, match="are no numbers"):
        evaluate(made.folder, shards=run.parent / "shards", say=quiet)
    made.save_model(build_model("octnet-s", (32, 32, 1), 3), made.folder / "model.keras")
    with pytest.raises(ManifestError, match="4 classes, so it is not the run's"):
        predict(made.folder, [tmp_path / "a.jpeg"], say=quiet)


def test_inputs_that_are_not_there_or_hold_nothing(run, tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        predict(run, [tmp_path / "none.jpeg"], say=quiet)
    with pytest.raises(SourceError, match="there is no file in"):
        predict(run, [tmp_path], say=quiet)
    image = scan(tmp_path / "a.jpeg")
    with pytest.raises(OutputError, match="the folder of --csv"):
        predict(run, [image], tmp_path / "no" / "out.csv", say=quiet)
    image.write_bytes(b"")
    with pytest.raises(SourceError, match="none of the 1 files could be classified"):
        predict(run, [image], say=quiet, warn=quiet)


def test_the_program_predicts_and_keeps_reasons_apart(run, tmp_path, capsys):
    image = scan(tmp_path / "a.jpeg")
    (tmp_path / "b.jpeg").touch()
    code, out, err = program(capsys, "predict", run, image, tmp_path / "b.jpeg", "--csv", tmp_path / "o.csv")
    assert code == 0
    assert out.startswith(f"{image}  ")
    assert len(out.splitlines()) == 2
    assert err.startswith(f"skipped {tmp_path / 'b.jpeg'}: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate", "{tmp}/none"], 2, "does not exist; make one with"),
        (["evaluate", "{run}", "--split", "fold1"], 1, "no split 'fold1'"),
        (["evaluate", "{run}", "--split", "train"], 1, "patient 0. Measure on patients it has not seen"),
        (["predict", "{run}", "{tmp}/none.jpeg"], 2, "does not exist"),
        (["fit", "{tmp}", "--run", "{tmp}/r"], 1, "has no manifest.json"),
        (["fit", "{shards}", "--run", "{tmp}/r", "--lr", "0"], 2, "lr must be above 0"),
        (["fit", "{shards}", "--run", "{tmp}/r", "--fold", "0"], 2, "leave --fold out"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_an_exit_code(run, tmp_path, capsys, arguments, code, message):
    places = {"tmp": tmp_path, "run": run, "shards": run.parent / "shards"}
    found, out, err = program(capsys, *[argument.format(**places) for argument in arguments])
    assert (found, out) == (code, "")
    assert err.startswith("octtrain: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_a_model_that_is_not_there_is_named_beside_those_that_are(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = program(capsys, "fit", run.parent / "shards", "--run", tmp_path / "r", "--model", "vgg")
    assert (code, out) == (2, "")
    assert "'vgg' is not one of 'octnet-s'" in err
    assert not (tmp_path / "r").exists()


def test_without_tensorflow_the_program_says_what_to_install(run):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras'])); "
        f"import octtrain.cli as c; c.main(['evaluate', {str(run)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "octprep[train]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_program_shows_nothing_of_tensorflows_chatter(run, tmp_path):
    arguments = command("predict", run, scan(tmp_path / "a.jpeg"))
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2


def test_the_help_names_every_model_and_default(capsys, monkeypatch):
    from octtrain.models import BUILDERS

    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = program(capsys, "fit", "--help")
    assert code == 0
    text = " ".join(out.split())
    config = FitConfig()
    assert all(name in text for name in BUILDERS)
    for value in (config.epochs, config.batch_size, config.lr, config.seed):
        assert f"({value})" in text
    assert f"({config.patience}; 0: never)" in text
