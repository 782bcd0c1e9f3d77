import csv
import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import cv2
import numpy as np
from octtrain_world import CLASSES, picture, record, write_shards

from octprep import imaging, tfrecord
from octprep.schema import OutputError, Recipe, Shard, SourceError
from octtrain import cli, data
from octtrain.models import build_model
from octtrain.predict import Classified, Skipped, load, predict
from octtrain.run import FitConfig, Run

ROOT = Path(__file__).parents[1]


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
    made = Run(folder=folder / "run", config=FitConfig(), manifest=manifest, shards=folder / "shards")
    made.begin()
    made.save_model(build_model("octnet-s", (32, 32, 1), 4), made.folder / "model.keras")
    return made.folder


def quiet(line):
    pass


def program(capsys, *arguments):
    """Exit code, standard output and standard error of the program."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, arguments)))
    said = capsys.readouterr()
    return caught.value.code or 0, said.out, said.err


def test_prediction_sees_the_pixels_that_training_saw(tmp_path):
    recipe = Recipe(height=48, width=64)
    manifest, _ = write_shards(tmp_path / "s", {"test": 1}, shards=1)
    jpeg = scan(tmp_path / "CNV-1-1.jpeg")
    prepared = imaging.prepare(imaging.decode(jpeg.read_bytes()), recipe).pixels
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
    ((images, _),) = data.batches(tmp_path / "s", manifest, ["test"], 1)
    np.testing.assert_array_equal(load(jpeg, manifest.recipe), images[0, ..., 0])


def test_every_file_is_classified_or_skipped_with_a_reason(run, tmp_path):
    good = [scan(tmp_path / "in" / f"deep/{name}.jpeg", seed=i) for i, name in enumerate("cab")]
    for name, content in {".DS_Store": b"\0\0\0\1Bud1", "._a.jpeg": b"\0\x05\x16\x07", "x.txt": b"no image"}.items():
        (tmp_path / "in" / name).write_bytes(content)
    cut = tmp_path / "in" / "cut.jpeg"
    cut.write_bytes(good[0].read_bytes()[:-300])
    said, warned = [], []
    results = predict(run, [tmp_path / "in"], tmp_path / "out.csv", say=said.append, warn=warned.append)
    assert [result.path for result in results if isinstance(result, Classified)] == sorted(good)
    assert {result.path.name for result in results if isinstance(result, Skipped)} == {
        ".DS_Store", "._a.jpeg", "x.txt", "cut.jpeg"
    }  # fmt: skip
    assert len(said) == 3
    assert len(warned) == 4
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
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
    assert said[-1].split(" agree ")[0].endswith(" of 2")


@pytest.mark.parametrize("name", ["GLAUCOMA-1-1.jpeg", "test/GLAUCOMA/left.jpeg", "test/GLAUCOMA/GLAUCOMA-1-1.jpeg"])
def test_a_class_that_the_model_does_not_know_is_refused(run, tmp_path, name):
    scan(tmp_path / "test" / "CNV" / "CNV-1-1.jpeg")
    scan(tmp_path / name)
    with pytest.raises(SourceError, match=r"class GLAUCOMA, but .* trained on CNV, DME, DRUSEN, NORMAL") as caught:
        predict(run, [tmp_path], say=quiet)
    assert caught.value.exit_code == 2


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
    assert len(out.splitlines()) == 1
    assert err.startswith(f"skipped {tmp_path / 'b.jpeg'}: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate", "{tmp}/none"], 2, "does not exist; make one with"),
        (["evaluate", "{run}", "--split", "fold1"], 1, "no split 'fold1'"),
        (["evaluate", "{run}", "--split", "train"], 1, "patient 0. Measure on patients it has not seen"),
        (["predict", "{run}", "{tmp}/none.jpeg"], 2, "does not exist"),
        (["fit", "{tmp}", "--run", "{tmp}/r"], 1, "has no manifest.json"),
        (["fit", "{shards}", "--run", "{tmp}/r", "--model", "vgg"], 2, "no model called 'vgg'"),
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
    command = [sys.executable, "-c", "from octtrain.cli import main; main()", "predict", run, scan(tmp_path / "a.jpeg")]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


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
