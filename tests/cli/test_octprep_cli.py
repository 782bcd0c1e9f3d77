"""The command lines: help without heavy imports, one line for every error, and what is printed where."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from octprep.format.config import BALANCES, CROPS, DENOISERS, RESIZES, STRATEGIES
from tests.worlds.archive import archive, files_of, write_folder, write_scan

HEAVY = ["numpy", "cv2", "tensorflow", "keras", "google_crc32c", "jinja2"]


def run(*words, program="octprep", block=(), env=None):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({list(block)})); sys.argv = {[program, *map(str, words)]}; "
        f"from {program}.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("cli"), archive())


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    assert run("build", "--src", source, "--out", out, "--size", "32").returncode == 0
    return out


@pytest.mark.parametrize("program", ["octprep", "octtrain"])
def test_help_needs_nothing_heavy(program):
    done = run("--help", program=program, block=HEAVY)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.slow
def test_preparation_never_imports_tensorflow(source, tmp_path):
    block = ["tensorflow", "keras", "octtrain"]
    done = run("build", "--src", source, "--out", tmp_path / "out", "--size", "32", "--workers", 1, block=block)
    assert done.returncode == 0, done.stderr
    assert run("verify", tmp_path / "out", "--workers", 1, block=block).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("octprep.format.manifest", HEAVY),
        ("octprep.pipeline", ["tensorflow", "keras", "octtrain"]),
        ("octprep.report", ["tensorflow", "keras", "octtrain", "matplotlib"]),
        (
            "octtrain.training.fit, octtrain.evaluation.evaluate, octtrain.experiments.leakage.experiment",
            ["cv2", "google_crc32c", "PIL"],
        ),
        ("octtrain.prediction.preparing", ["tensorflow", "keras"]),
    ],
)
def test_each_package_imports_without_the_dependencies_of_the_other(module, absent):
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {module}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_inspect_build_verify_report_and_build_again(source, tmp_path):
    out = tmp_path / "out"
    done = run("inspect", "--quick", "--src", source, "--json", tmp_path / "scan.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "scan.json").read_text())["files"] == len(archive())
    done = run("build", "--src", source, "--out", out, "--size", "32x48")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no patient and no image content is in two splits" in done.stdout
    assert "shares: of the scans not in test, " in done.stdout
    assert "all guarantees hold" in run("verify", out).stdout
    written = (out / "report.html").read_bytes()
    done = run("report", out, "--src", source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"wrote {out / 'report.html'} (")
    assert (out / "report.html").read_bytes() == written
    failed = run("report", out)
    assert failed.returncode == 2
    assert "was left alone" in failed.stderr
    assert (out / "report.html").read_bytes() == written
    assert run("report", out, "--without-source").returncode == 0
    assert b"Made without the source" in (out / "report.html").read_bytes()
    again = run("build", "--src", source, "--out", out, "--size", "32x48").stdout
    assert "nothing was done" in again
    assert "wrote" not in again
    (out / "report.html").unlink()
    again = run("build", "--src", source, "--out", out, "--size", "32x48").stdout
    assert "only report.html had to be written." in again
    assert (out / "report.html").read_bytes() == written
    index = files_of(out / "index")
    shutil.rmtree(out / "index")
    assert "note: there is no index" in run("verify", out).stdout
    done = run("index", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"wrote {out / 'index'} (")
    assert files_of(out / "index") == index
    (out / "index" / "val.csv").write_text("")
    (out / "report.html").unlink()
    violated = run("verify", out)
    assert violated.returncode == 1 and "`octprep index` writes it again" in violated.stdout
    again = run("build", "--src", source, "--out", out, "--size", "32x48").stdout
    assert "only report.html and the folder index had to be written." in again
    assert files_of(out / "index") == index
    (out / "images.csv").write_text("")
    broken = run("verify", out)
    assert broken.returncode == 1
    assert "guarantee 2 VIOLATED" in broken.stdout


USAGE_ERRORS = [
    (["build", "--src", "{tmp}/absent", "--out", "{tmp}/out"], 2, "does not exist"),
    (["build", "--src", "{tmp}/empty", "--out", "{tmp}/out"], 2, "is empty"),
    (["build", "--src", "{tmp}/plain", "--out", "{tmp}/out"], 2, "has no class folders"),
    (["build", "--src", "{tmp}/lonely", "--out", "{tmp}/out"], 2, "class DME has 1 patient"),
    (["build", "--src", "{src}", "--out", "{tmp}/plain"], 2, "is left alone"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--size", "0"], 2, "got height 0"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--size", "big"], 2, "got 'big'"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--fractions", "1,2"], 2, "three numbers"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--workers", "-1"], 2, "workers must be 1 or more"),
    (
        ["build", "--src", "{src}", "--out", "{tmp}/out", "--split", "kfold", "--balance", "oversample"],
        2,
        "folds take",
    ),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--max-per-patient", "-1"], 2, "got -1"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--split", "file"], 2, "without such a file"),
    (
        ["build", "--src", "{src}", "--out", "{tmp}/out", "--split", "by-patient", "--split-file", "{tmp}/who.csv"],
        2,
        "so --split by-patient cannot",
    ),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--split-file", "{tmp}/absent"], 2, "absent cannot be read"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--split-file", "{tmp}/plain/notes.txt"], 2, "must have a"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--split-file", "{tmp}/who.csv"], 2, "4711 and 4712. Give"),
    (["build", "--src", "{src}", "--out", "{tmp}/out", "--split-file", "{tmp}/leak.csv"], 1, "leak: 1 patient (1)"),
    (["verify", "{tmp}/plain"], 1, "has no manifest.json"),
    (["index", "{tmp}/plain"], 1, "has no manifest.json"),
    (["report", "{tmp}/plain"], 1, "has no manifest.json"),
    (["report", "{tmp}/absent"], 1, "is not a folder"),
    (["report", "{shards}/manifest.json"], 1, "is not a folder"),
    (["report", "{shards}", "--src", "{tmp}/absent"], 2, "does not exist"),
    (["report", "{shards}", "--src", "{src}/train"], 2, "has none of the files"),
    (["report", "{shards}", "--src", "x" * 300], 2, "cannot be reached (File name too long)"),
    (["inspect", "--quick", "--src", "{src}", "--json", "{src}/found.json"], 2, "which is only read"),
    (["inspect", "{src}", "--json", "{tmp}/x", "--report", "{tmp}/x"], 2, "give each a file of its own"),
    (["inspect", "--src", "{src}", "--quick", "--report", "{tmp}/x"], 2, "needs a full inspection"),
    (["inspect"], 2, "--src is missing: name a folder"),
    (["build", "{src}"], 2, "--out is missing: name a folder"),
    (["build", "{src}", "{tmp}/out", "more"], 2, "more is one folder too many"),
    (["build", "{src}", "{tmp}/out", "--quiet", "--verbose"], 2, "exclude each other"),
    (["inspect", "--quick", "--src", "x" * 300], 2, "cannot be reached (File name too long)"),
    (["build", "--src", "{src}", "--out", "{tmp}/" + "x" * 300], 2, "cannot be written: File name too long"),
    (["inspect", "--src", "{src}", "--report", "{tmp}/" + "x" * 300], 2, "cannot be written: File name too long"),
    (["synthesize", "{tmp}/out", "--truth", "{tmp}/" + "x" * 300], 2, "cannot be written: File name too long"),
    (["report", "{shards}", "--src", "{tmp}/plain"], 2, "has none of the files"),
    (["inspect", "--quick", "--src", "{tmp}/empty"], 2, "is empty"),
    (["synthesize", "{tmp}/plain"], 2, "plain"),
    (["scan", "--src", "{src}"], 2, "octprep scan is now `octprep inspect --quick`"),
    (["verify", "{shards}", "--certificate", "-", "--json", "-"], 2, "both ask for standard output"),
    (["synthesize", "{tmp}/out", "--patients", "3"], 2, "3"),
]
END = "-- end with "

# Runs command lines one after the other in one process, as importing the program takes a while.
COMMANDS = f"""
import json, sys
from octprep.cli import main
for words in json.load(sys.stdin):
    sys.argv = ["octprep", *words]
    code = 0
    try:
        main()
    except SystemExit as error:
        code = error.code or 0
    print({END!r} + str(code), file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def usage_errors(source, shards, tmp_path_factory):
    """Of each command: exit code, standard error, its folder and what was in it before."""
    folders = [tmp_path_factory.mktemp("usage") for _ in USAGE_ERRORS]
    for folder in folders:
        (folder / "empty").mkdir()
        (folder / "plain").mkdir()
        (folder / "plain" / "notes.txt").write_text("x")
        write_folder(folder / "lonely", [*(f"CNV-{n}-1" for n in range(5)), "DME-9-1"])
        (folder / "who.csv").write_text("patient,split\n1,train\n4711,test\n4712,test\n")
        (folder / "leak.csv").write_text(
            "path,split\ntrain/CNV/CNV-1-1.jpeg,train\ntrain/CNV/CNV-1-2.jpeg,test\ntest/DME/DME-150-1.jpeg,test\n"
        )
    before = [files_of(folder) for folder in folders]
    commands = [
        [word.format(tmp=folder, src=source, shards=shards) for word in words]
        for (words, *_), folder in zip(USAGE_ERRORS, folders, strict=True)
    ]
    done = subprocess.run([sys.executable, "-c", COMMANDS], input=json.dumps(commands), capture_output=True, text=True)
    *parts, rest = re.split(rf"{END}(\d+)\n", done.stderr)  # text, code, text, code, ...
    assert (len(parts), rest) == (2 * len(commands), ""), done.stderr
    return list(zip(map(int, parts[1::2]), parts[::2], folders, before, strict=True))


@pytest.mark.parametrize("number", range(len(USAGE_ERRORS)), ids=lambda number: " ".join(USAGE_ERRORS[number][0])[:80])
def test_every_usage_error_is_one_line_and_leaves_nothing_behind(usage_errors, number):
    _, expected, sentence = USAGE_ERRORS[number]
    code, err, folder, before = usage_errors[number]
    assert code == expected
    assert sentence in err
    assert err.startswith("octprep: ")
    assert err.count("\n") == 1
    assert files_of(folder) == before
    assert not (folder / "out").exists()


def test_a_folder_that_may_not_be_entered_is_a_one_line_error(source, shards, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    if os.access(locked, os.X_OK):
        pytest.skip("this user may enter every folder")
    for words in (["report", shards, "--src", locked / "x"], ["inspect", "--quick", "--src", locked / "x"]):
        done = run(*words)
        assert done.returncode == 2
        assert done.stderr.startswith(f"octprep: --src {locked / 'x'} cannot be reached (Permission denied); ")
        assert done.stderr.count("\n") == 1
    done = run("build", "--src", source, "--out", locked / "x")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"--out {locked / 'x'} cannot be written: Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("program", "command", "sentence"),
    [
        ("octprep", "build", "interrupted; run the same command to resume."),
        ("octprep", "inspect", "interrupted; run the same command again."),
        ("octtrain", "fit", "interrupted."),
    ],
)
def test_an_interruption_is_one_line_that_says_what_is_kept(program, command, sentence):
    code = (
        f"import os, signal, sys; from {program} import cli; sys.argv = [{program!r}, {command!r}]; "
        f"cli.app.command({command!r})(lambda: os.kill(os.getpid(), signal.SIGINT)); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{program}: {sentence}\n")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_build_stays_under_500_mb_a_process(source, tmp_path):
    code = (
        "import pathlib; from octprep.pipeline import build; from octprep.format.config import BuildConfig; "
        f"build(pathlib.Path({str(source)!r}), pathlib.Path({str(tmp_path / 'out')!r}), BuildConfig(), workers=1); "
        "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )  # not getrusage: its peak is inherited from the process that starts this one
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000


@pytest.mark.parametrize(
    ("program", "command", "choices"),
    [
        ("octprep", "build", [STRATEGIES, CROPS, RESIZES, BALANCES, tuple(DENOISERS)]),
    ],
)
def test_help_lists_the_choices_of_an_option_and_hides_no_brackets(program, command, choices):
    done = run(command, "--help", program=program, env={"COLUMNS": "300"})
    assert done.returncode == 0, done.stderr
    for allowed in choices:
        assert f"<{'|'.join(allowed)}>" in done.stdout
    assert "<str>" not in done.stdout
    if program == "octprep":
        assert "CLASS/CLASS-patientID-number.jpeg, or that under train/, val/ and test/" in done.stdout


def test_an_unknown_choice_is_an_error_that_lists_the_choices(source, tmp_path):
    done = run("build", "--src", source, "--out", tmp_path / "out", "--denoise", "x", env={"COLUMNS": "300"})
    assert done.returncode == 2
    assert all(f"'{name}'" in done.stderr for name in ("x", *DENOISERS))
    assert not (tmp_path / "out").exists()


def test_build_takes_its_folders_as_arguments_too(source, shards, tmp_path):
    for words in ([source, tmp_path / "a"], ["--out", tmp_path / "b", source], ["--src", source, tmp_path / "c"]):
        done = run("build", *words, "--size", "32")
        assert done.returncode == 0, done.stderr
    digests = {json.loads((tmp_path / name / "manifest.json").read_bytes())["digest"] for name in "abc"}
    assert digests == {json.loads((shards / "manifest.json").read_bytes())["digest"]}


@pytest.mark.parametrize("program", ["octprep", "octtrain"])
def test_version_is_that_of_the_package(program):
    from importlib.metadata import version

    done = run("--version", program=program, block=HEAVY)
    assert (done.returncode, done.stdout) == (0, f"{program} {version('octprep')}\n")


def next_command(done):
    """The words of the command that the last line of a program's output names."""
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1]
    assert line.startswith("next: octprep ")
    return shlex.split(line)[2:]


def test_the_command_after_inspect_reads_the_sources_in_the_same_way(source, tmp_path):
    scans = sorted(source.rglob("*.jpeg"))
    flat, table = tmp_path / "flat scans", tmp_path / "my labels.csv"
    flat.mkdir()
    rows = ["picture,what,who"]
    for number, scan in enumerate(scans):
        label, patient, _ = scan.stem.split("-")
        (flat / f"{number}.jpeg").symlink_to(scan)
        rows.append(f"{number},{label},{patient if number % 20 else '-1'}")
    table.write_text("\n".join(rows))
    ways = [
        *("--table", table, "--columns", "path=picture,class=what,patient=who", "--unknown", "-1"),
        *("--classes", "AMD=CNV+DRUSEN,NORMAL", "--patients", "unknown", "--follow-links"),
    ]
    words = next_command(run("inspect", "--quick", flat, *ways))
    assert words == [
        "build",
        "--src",
        str(flat),
        *map(str, ways[:6]),
        *ways[8:10],
        *ways[6:8],
        *ways[10:],
        "--out",
        "shards",
    ]
    built = run(*words[:-1], tmp_path / "shards", "--size", "32")
    assert built.returncode == 0, built.stderr
    assert " CNV" not in built.stdout

    first = ["--src", f"archive={source}", "--src", flat, "--table", f"flat_scans={table}", "--follow-links"]
    words = next_command(
        run("inspect", "--quick", *first, "--columns", "flat_scans=path=picture,class=what,patient=who")
    )
    assert words[1:7] == ["--src", f"archive={source}", "--src", str(flat), "--table", f"flat_scans={table}"]


def test_the_command_after_inspect_has_what_a_build_would_ask_for(tmp_path):
    for number in range(3):
        write_scan(tmp_path / "ids" / ("CNV", "DME")[number % 2] / f"picture {number}.jpeg")
        write_scan(tmp_path / "flat" / f"{number}.jpeg")
    words = ["--patients", "unknown", "--out", "shards"]
    assert next_command(run("inspect", "--quick", tmp_path / "ids"))[-4:] == words
    assert next_command(run("inspect", "--quick", tmp_path / "flat"))[-4:] == ["--table", "FILE.csv", "--out", "shards"]


def test_json_to_stdout_is_json_alone_and_the_text_goes_to_stderr(source, shards):
    for words in (["verify", shards], ["inspect", source, "--quick"]):
        done = run(*words, "--json", "-")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
        assert done.stderr


def test_verify_writes_its_results_as_json(shards, tmp_path):
    assert run("verify", shards, "--json", tmp_path / "result.json").returncode == 0
    result = json.loads((tmp_path / "result.json").read_bytes())
    manifest = json.loads((shards / "manifest.json").read_bytes())
    assert (result["digest"], result["all_guarantees_hold"], result["violations"]) == (manifest["digest"], True, [])
    assert result["records"] == sum(shard["records"] for split in manifest["splits"].values() for shard in split)


def test_certificate_is_one_line_and_is_written_only_if_all_guarantees_hold(shards, tmp_path):
    done = run("verify", shards, "--certificate", "-")
    assert done.stdout.count("\n") == 1
    assert "certifies dataset sha256:" in done.stdout
    assert run("verify", shards, "--certificate", tmp_path / "certificate.txt").returncode == 0
    assert (tmp_path / "certificate.txt").read_text() == done.stdout
    import shutil

    damaged = Path(shutil.copytree(shards, tmp_path / "damaged"))
    (damaged / "images.csv").write_text("")
    done = run("verify", damaged, "--certificate", tmp_path / "none.txt")
    assert done.returncode == 1
    assert "no certificate was written" in done.stderr
    assert not (tmp_path / "none.txt").exists()


@pytest.mark.slow
def test_a_name_that_is_not_utf8_is_printed_in_one_spelling(source, tmp_path):
    folder = tmp_path / os.fsdecode(b"fold\xfcr")
    folder.mkdir()
    shards, damaged = folder / "s", folder / "d"
    spelt = rf"{tmp_path}/fold\xfcr"
    for words, printed in (
        (["inspect", source, "--quick", "--json", folder / "i.json"], f"wrote {spelt}/i.json"),
        (["build", "--src", source, "--out", shards, "--size", "32"], f"wrote {spelt}/s/manifest.json"),
        (["verify", shards, "--certificate", folder / "c.txt"], f"wrote {spelt}/c.txt"),
        (["index", shards], f"wrote {spelt}/s/index"),
        (["report", shards, "--src", source], f"wrote {spelt}/s/report.html"),
        (["export", shards, "--to", "webdataset", "--out", folder / "t"], f"{spelt}/t: "),
        (["synthesize", folder / "drawn", "--patients", "24", "--max-scans", "1"], f"{spelt}/drawn: "),
        (["verify", folder / "none"], f"octprep: {spelt}/none is not a folder"),
        (["verify", damaged, "--certificate", folder / "n.txt"], f"written to {spelt}/n.txt"),
    ):
        done = run(*words)
        assert printed in done.stdout + done.stderr
        assert "udcfc" not in done.stdout + done.stderr
        if words[0] == "build":
            shutil.copytree(shards, damaged)
            (damaged / "images.csv").write_text("")


def test_quiet_prints_errors_only(source, shards, tmp_path):
    for words in (
        ["verify", shards],
        ["inspect", source, "--quick"],
        ["build", source, tmp_path / "out", "--size", "32"],
    ):
        done = run(*words, "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verbose_names_each_stage(source, tmp_path):
    done = run("build", source, tmp_path / "out", "--size", "32", "--verbose")
    assert done.returncode == 0, done.stderr
    assert "octprep: comparing scans" in done.stderr


def test_the_public_names_are_callable_after_their_modules_were_imported():
    code = (
        "import octprep, octprep.pipeline, octprep.verification, octprep.inspection\n"
        "assert all(callable(getattr(octprep, name)) for name in octprep.__all__ if name != '__version__')\n"
        "assert octprep.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); import octprep, octtrain; octprep.BuildConfig()"
    subprocess.run([sys.executable, "-c", code], check=True)
