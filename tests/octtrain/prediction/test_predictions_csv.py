"""The CSV of predictions: which existing files are continued, and what an interruption leaves."""

import os
import shutil
import signal
import subprocess
import time

import pytest

pytest.importorskip("tensorflow")

from octprep.format.errors import OutputError, StoppedError
from octtrain.models import build_model
from octtrain.prediction.classify import predict
from octtrain.runs.folder import RunFolder
from octtrain.runs.run import Run
from tests.worlds.runs import ROOT, command, quiet, read_rows, scan_file

pytestmark = pytest.mark.slow


def test_rows_are_kept_unless_their_files_changed(run, tmp_path):
    files = [scan_file(tmp_path / "in" / f"{i:02}.jpeg", i % 4, i) for i in range(40)]
    (tmp_path / "in" / "99.txt").write_bytes(b"no image")
    predict(run, [tmp_path / "in"], tmp_path / "complete.csv", log=quiet, warn=quiet)
    complete = (tmp_path / "complete.csv").read_bytes()
    csv_file = tmp_path / "o.csv"
    csv_file.write_bytes(complete[: complete.rfind(b"\n", 0, -200) + 20])  # a kill in the middle of a line
    lines = []
    results = predict(run, [tmp_path / "in"], csv_file, log=lines.append, warn=quiet)
    assert list(read_rows(csv_file)) == list(read_rows(tmp_path / "complete.csv"))
    assert (
        csv_file.read_bytes()[:2000] == complete[:2000]
    )  # probabilities may differ in their last digit in other batches
    assert lines[0].endswith(" of the 41 files; their rows are kept")
    assert len(results) == 41
    assert [result.path for result in results][:40] == files

    lines.clear()
    scan_file(files[7], 3, 99)
    predict(run, [tmp_path / "in"], csv_file, log=lines.append, warn=quiet)
    assert [line.split("  ")[0] for line in lines[1:-2]] == [str(files[7])]
    rows = read_rows(csv_file)
    assert len(rows) == 41
    assert rows[str(files[7])] != read_rows(tmp_path / "complete.csv")[str(files[7])]

    csv_file.write_bytes(complete[:9])  # a kill in the middle of the header
    predict(run, [tmp_path / "in"], csv_file, log=quiet, warn=quiet)
    assert len(read_rows(csv_file)) == 41


def test_a_file_with_other_content_is_not_overwritten(run, tmp_path):
    image = scan_file(tmp_path / "a.jpeg")
    predict(run, [image], tmp_path / "o.csv", log=quiet)
    text = (tmp_path / "o.csv").read_text()
    shutil.copytree(run, tmp_path / "other")
    other = RunFolder(Run.load(tmp_path / "other"))
    other.save_model(build_model("octnet-s", (32, 32, 1), 4), other.path / "model.keras")
    cases = {
        "image": (run, image.read_bytes(), "something other"),
        "notes": (run, b"path,remark\na.jpeg,good\n", "something other"),
        "edited": (run, text.replace(",0.", ";0.").encode(), "a line 2 that"),
        "twice": (run, (text + text.splitlines()[1] + "\n").encode(), "a line 3 that"),
        "other model": (other.path, text.encode(), "another model"),
    }
    for name, (folder, content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(OutputError, match=message):
            predict(folder, [image], path, log=quiet)
        assert path.read_bytes() == content, name
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in {"folder": "is a folder", "pipe": "not a regular file", "no/o.csv": "the folder of"}.items():
        with pytest.raises(OutputError, match=message):
            predict(run, [image], tmp_path / name, log=quiet)


def test_the_csv_itself_is_not_classified(run, tmp_path):
    scan_file(tmp_path / "a.jpeg")
    for _ in range(2):
        results = predict(run, [tmp_path], tmp_path / "o.csv", log=quiet, warn=quiet)
        assert [result.path.name for result in results] == ["a.jpeg"]
    (tmp_path / "link.csv").symlink_to("o.csv")
    results = predict(run, [tmp_path], tmp_path / "link.csv", log=quiet, warn=quiet)
    assert [result.path.name for result in results] == ["a.jpeg"]


def test_a_csv_that_is_removed_or_in_use_is_an_error(run, tmp_path):
    files = [scan_file(tmp_path / "in" / f"{i:02}.jpeg", seed=i) for i in range(40)]
    (tmp_path / "out").mkdir()

    def remove(line):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    with pytest.raises(StoppedError, match="was removed or replaced while it was written"):
        predict(run, files, tmp_path / "out" / "o.csv", log=remove)

    def again(line):
        if "  " not in line:
            return  # the last lines, after the file was closed
        with pytest.raises(OutputError, match="another `octtrain predict` is writing to"):
            predict(run, files, tmp_path / "o.csv", log=quiet)

    predict(run, files[:1], tmp_path / "o.csv", log=again)


def test_a_full_disk_keeps_whole_rows(run, tmp_path):
    files = [scan_file(tmp_path / "in" / f"{i:02}.jpeg", seed=i) for i in range(70)]
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        with pytest.raises(StoppedError, match=r"No space left on device.*keeps 32 rows"):
            predict(run, files, disk / "o.csv", log=quiet)
        assert len(read_rows(disk / "o.csv")) == 32
        shutil.copy(disk / "o.csv", tmp_path / "o.csv")
    finally:
        subprocess.run(["umount", disk], check=True)
    predict(run, files, tmp_path / "o.csv", log=quiet)
    assert len(read_rows(tmp_path / "o.csv")) == 70


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_prediction_keeps_its_rows_and_can_be_resumed(run, tmp_path, number):
    image = scan_file(tmp_path / "in" / "000.jpeg")
    for i in range(1, 640):
        os.link(image, tmp_path / "in" / f"{i:03}.jpeg")
    arguments = ["predict", run, tmp_path / "in", "--csv", tmp_path / "o.csv"]
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=err)
    while process.poll() is None and not ((tmp_path / "o.csv").exists() and len(lines_of(tmp_path / "o.csv")) > 32):
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait()
    row_count = len(lines_of(tmp_path / "o.csv"))
    assert 32 < row_count < 600
    message = (tmp_path / "err").read_text()
    if number == signal.SIGINT:
        assert code == 130
        assert message.startswith("octtrain: interrupted; ")
        assert "rerun the same command to resume" in message
        assert message.count("\n") == 1
    lines = []
    predict(run, [tmp_path / "in"], tmp_path / "o.csv", log=lines.append)
    assert "of the 640 files; their rows are kept" in lines[0]
    assert len(read_rows(tmp_path / "o.csv")) == 640


def lines_of(path):
    return path.read_bytes().split(b"\n")[:-1]


def test_rows_are_written_although_the_reader_of_the_output_has_gone(run, tmp_path):
    for i in range(70):
        scan_file(tmp_path / "in" / f"{i:02}.jpeg", seed=i)
    arguments = command("predict", run, tmp_path / "in", "--csv", tmp_path / "o.csv")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert len(read_rows(tmp_path / "o.csv")) == 70

    def gone(line):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):  # which the program ends with, as there is nothing else to do
        predict(run, [tmp_path / "in"], log=gone)
