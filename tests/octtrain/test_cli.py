"""The program octtrain: help, exit codes, errors in one line, and what it prints where."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from octprep.terminal import interrupts
from octtrain import cli
from octtrain.config import MODELS, FitConfig
from tests.worlds.runs import ROOT, TINY, command, program, scan_file, start
from tests.worlds.shards import write_shards

pytestmark = pytest.mark.slow


def test_the_command_line_imports_nothing_heavy():
    absent = ["tensorflow", "keras", "numpy", "cv2", "google_crc32c"]
    code = f"""
import contextlib, sys
sys.modules.update(dict.fromkeys({absent}))
from octtrain.cli import main
for words in ("", "fit", "evaluate", "predict", "crossval", "leakage", "bench"):
    print("help of", words)
    with contextlib.suppress(SystemExit):
        main([*words.split(), "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    overall, *of_commands = done.stdout.split("help of ")[1:]
    assert len(of_commands) == 6
    for text in of_commands:
        name = text.partition("\n")[0]
        assert name in overall
        assert f"{name} [OPTIONS]" in text


def test_the_help_names_every_model_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = program(capsys, "fit", "--help")
    assert code == 0
    text = " ".join(out.split())
    config = FitConfig()
    assert all(name in text for name in MODELS)
    for value in (config.epochs, config.batch_size, config.lr, config.seed, config.patience):
        assert f"[default: {value}]" in text


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict", "crossval", "leakage", "bench"])
def test_every_command_has_an_example_in_its_help(capsys, name):
    code, out, _ = program(capsys, name, "--help")
    assert code == 0
    assert f"Example: octtrain {name} " in out


def test_the_version_is_printed(capsys):
    from octtrain import __version__

    assert program(capsys, "--version") == (0, f"octtrain {__version__}\n", "")


def test_quiet_prints_warnings_and_errors_only(untrained, tmp_path, capsys):
    code, out, err = program(capsys, "evaluate", untrained / "run", "--out", tmp_path, "--quiet")
    assert (code, out, err) == (0, "", "")
    assert json.loads((tmp_path / "evaluate-test.json").read_text())["images"] == 24


def test_json_on_standard_output_stands_alone(untrained, tmp_path, capsys):
    code, out, err = program(capsys, "evaluate", untrained / "run", "--out", tmp_path, "--json", "-")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "evaluate-test.json").read_text())
    assert "balanced accuracy" in err
    assert err.splitlines()[-1].startswith("next: `octtrain predict ")


def fails_early(*arguments, interrupt=False, **env):
    """Exit code and standard error of a training that ends before it has imported TensorFlow.

    With interrupt, it is interrupted while TensorFlow's libraries are being loaded.
    """
    process = start("fit", *arguments, cwd=ROOT, **env)
    if interrupt:
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtensorflow" not in maps.read_text():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err.count("\n")) == ("", 1)
    return process.returncode, err


def test_an_unsupported_backend_is_a_one_line_error(shards, tmp_path):
    code, err = fails_early(shards, "--run", tmp_path / "run", KERAS_BACKEND="torch")
    assert (code, err) == (
        2,
        "octtrain: KERAS_BACKEND chooses the backend 'torch', but octtrain runs on TensorFlow or JAX; set the variable "
        "KERAS_BACKEND to tensorflow or jax.\n",
    )
    (tmp_path / "keras.json").write_text('{"backend": "nonsense"}')
    code, err = fails_early(shards, "--run", tmp_path / "run", KERAS_HOME=str(tmp_path), KERAS_BACKEND="")
    assert code == 2
    assert err.startswith(f"octtrain: {tmp_path / 'keras.json'} chooses the backend 'nonsense', but octtrain runs on")
    (tmp_path / "keras.json").write_text('{"floatx": "float128"}')
    code, err = fails_early(shards, "--run", tmp_path / "run", KERAS_HOME=str(tmp_path))
    assert code == 2
    assert err.startswith("octtrain: Keras cannot start (Invalid `floatx` configuration.")
    assert f"correct or delete {tmp_path / 'keras.json'}" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited as Linux does")
@pytest.mark.parametrize("kib", [600_000, 1_500_000])
def test_too_little_memory_to_load_the_libraries_is_one_line(run, tmp_path, kib):
    image = scan_file(tmp_path / "a.jpeg")
    limited = ["sh", "-c", f'ulimit -v {kib}; exec "$@"', "sh", *command("predict", run, image)]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("octtrain: memory ran out while Keras and its backend were loaded (")
    assert "keras.json" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="loaded libraries are read from Linux's /proc")
def test_an_interruption_while_libraries_are_imported_is_one_line(shards, tmp_path):
    code, err = fails_early(shards, "--run", tmp_path / "run", interrupt=True)
    assert code == 130
    assert err == "octtrain: interrupted; nothing was trained yet; the same command starts it again.\n"
    assert not (tmp_path / "run").exists()


def test_predictions_and_exclusions_go_to_different_streams(run, tmp_path, capsys):
    image = scan_file(tmp_path / "a.jpeg")
    (tmp_path / "b.jpeg").touch()
    code, out, err = program(capsys, "predict", run, image, tmp_path / "b.jpeg", "--csv", tmp_path / "o.csv")
    assert code == 0
    assert out.startswith(f"{image}  ")
    assert len(out.splitlines()) == 3
    assert err.startswith(f"excluded {tmp_path / 'b.jpeg'}: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate", "{tmp}/none"], 2, "does not exist; make one with"),
        (["evaluate", "{run}", "--split", "fold1"], 1, "no split 'fold1'"),
        (["evaluate", "{run}", "--split", "train"], 1, "patient 0. Evaluate on patients it was not exposed to"),
        (["predict", "{run}", "{tmp}/none.jpeg"], 2, "does not exist"),
        (["fit", "{tmp}", "--run", "{tmp}/r"], 1, "has no manifest.json"),
        (["fit", "{shards}", "--run", ""], 2, "--run is empty; give a path"),
        (["fit", "{shards}", "--run="], 2, "--run is empty; give a path"),
        (["evaluate", "{run}", "--json", ""], 2, "--json is empty; give a path"),
        (["predict", "{run}", ""], 2, "an argument is empty; give a path"),
        (["fit", "{shards}", "--run", "{tmp}/r", "--lr", "0"], 2, "lr must be auto, or above 0"),
        (["fit", "{shards}", "--run", "{tmp}/r", "--fold", "0"], 2, "omit --fold"),
        (
            ["fit", "{shards}", "--run", "{tmp}/r", "--config", "{tmp}/none.toml"],
            2,
            "none.toml cannot be read: No such",
        ),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line_and_an_exit_code(run, tmp_path, capsys, arguments, code, message):
    paths = {"tmp": tmp_path, "run": run, "shards": run.parent / "shards"}
    exit_code, out, err = program(capsys, *[argument.format(**paths) for argument in arguments])
    assert (exit_code, out) == (code, "")
    assert err.startswith("octtrain: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_a_name_that_is_not_utf8_is_printed_in_one_spelling(shards, tmp_path, capsys, monkeypatch):
    folder = tmp_path / os.fsdecode(b"fold\xfcr")
    shutil.copytree(shards, folder / "s")
    monkeypatch.chdir(folder)
    run, image = folder / "runs" / "s-tiny", scan_file(folder / "a.jpeg")
    spelt = rf"{tmp_path}/fold\xfcr"
    spelt_run = f"{spelt}/runs/s-tiny"
    fit = ["fit", folder / "s", "--run", run, "--model", TINY, "--epochs", 1, "--batch-size", 16]
    for words, printed in (
        (fit, [f"run: {spelt_run}", f"wrote {spelt_run}/model.keras", f"evaluate '{spelt_run}'"]),
        (fit, [f"octtrain: {spelt_run} already holds a run"]),
        (["calibrate", run], [f"wrote {spelt_run}/calibration.json", f"evaluate '{spelt_run}'"]),
        (["evaluate", run], [f"predict '{spelt_run}'"]),
        (["figures", run, "--out", folder / "f"], [f"into {spelt}/f"]),
        (["predict", run, image, "--csv", folder / "p.csv"], [f"wrote {spelt}/p.csv"]),
        (["predict", run, folder / "none.jpeg"], [f"octtrain: {spelt}/none.jpeg does not exist"]),
        (["evaluate", folder / "none"], [f"octtrain: {spelt}/none does not exist"]),
    ):
        _, out, err = program(capsys, *words)
        assert [text for text in printed if text not in out + err] == []
        assert "udcfc" not in ascii(out + err)


def test_settings_come_from_a_file_and_the_command_line_replaces_them(run, tmp_path, capsys):
    shards, file = run.parent / "shards", tmp_path / "settings.toml"
    for text, options, message in (
        ("fold = 0", [], "omit --fold"),  # so the file's value has arrived
        ("fold = 0\nlr = 0", ["--lr", "0.1"], "omit --fold"),
        ("fold = 0\nlr = 0", [], f"{file}: lr must be auto, or above 0"),
        ("bach-size = 3", [], "did you mean batch-size?"),
    ):
        file.write_text(text)
        code, out, err = program(capsys, "fit", shards, "--run", tmp_path / "r", "--config", file, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_an_unknown_model_is_an_error_with_the_choices(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, err = program(capsys, "fit", run.parent / "shards", "--run", tmp_path / "r", "--model", "vgg")
    assert (code, out) == (2, "")
    assert "no model called 'vgg'; choose one of octnet-s" in err
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("options", [[], ["--json", "-"]])
def test_standard_output_that_is_full_is_one_line(untrained, tmp_path, options):
    with Path("/dev/full").open("w") as full:
        arguments = command("evaluate", untrained / "run", "--out", tmp_path, *options)
        done = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == ("octtrain: standard output cannot be written: No space left on device.")
    assert len(done.stderr.splitlines()) == 1 or options


def test_results_are_written_without_a_home_folder_and_although_the_reader_has_gone(untrained, tmp_path):
    """And nothing that TensorFlow logs is shown."""
    environment = {key: value for key, value in os.environ.items() if key != "HOME"}
    arguments = command("evaluate", untrained / "run", "--out", tmp_path / "out")
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluate-test.json",
        "predictions-test.csv",
        "patients-test.csv",
    }


def test_an_interruption_before_the_last_repeat_says_that_nothing_was_written(tmp_path, monkeypatch):
    advice = []
    monkeypatch.setattr(
        "octtrain.experiments.leakage.experiment.leakage", lambda *_, **__: advice.append(interrupts.advice())
    )
    with pytest.raises(SystemExit):
        cli.main(["leakage", str(tmp_path)])
    assert advice == ["not all repeats were done, so nothing was written"]


def test_too_few_patients_are_a_one_line_error(tmp_path, capsys):
    write_shards(tmp_path / "s", {"train": 3})
    with pytest.raises(SystemExit) as caught:
        cli.main(["leakage", str(tmp_path / "s")])
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert output.err.startswith("octtrain: each class needs 5 patients")
    assert len(output.err.splitlines()) == 1
