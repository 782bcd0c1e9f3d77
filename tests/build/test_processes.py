"""Commands as processes: interruptions, closed streams, systems that lack something, two at a time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from octprep import synthetic
from octprep.format import files
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import Notice, OutputError
from octprep.pipeline import build
from octprep.synthetic import dataset as drawing
from octprep.workers import WorkerPool
from tests.worlds.archive import archive, files_of, write_folder

pytestmark = pytest.mark.slow

SIZE = ["--size", "32x48", "--shard-mb", "0.02"]
CONFIG = BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02)
RESUME = "run the same command to resume.\n"

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finding the workers needs Linux")


def octprep(*words):
    return [sys.executable, "-m", "octprep.cli", *map(str, words)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("source"), archive(3, {"CNV": 40, "DME": 30, "DRUSEN": 20, "NORMAL": 30})
    )


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "shards"
    build(source, out, CONFIG, workers=2)
    return out


def workers_of(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            with suppress(OSError):
                found += [int(child)] * (b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())
    return found


def a_receipt(out, pid):
    return any((out / ".octprep-work" / "cache").glob("*.json"))


def a_worker_that_starts(out, pid):
    return bool(workers_of(pid))


@needs_proc
@pytest.mark.parametrize(
    ("when", "signals"),
    [
        (a_receipt, [signal.SIGINT]),
        (a_receipt, [signal.SIGINT] * 3),
        (a_worker_that_starts, [signal.SIGINT] * 2),
        (a_receipt, [signal.SIGTERM]),
        (a_receipt, [signal.SIGTERM, signal.SIGINT]),
    ],
    ids=["Ctrl-C", "three times", "while workers start", "SIGTERM", "SIGTERM and Ctrl-C"],
)
def test_an_interruption_ends_a_build_with_one_sentence_and_the_work_kept(source, shards, tmp_path, when, signals):
    out = tmp_path / "out"
    command = octprep("build", "--src", source, "--out", out, "--workers", 2, *SIZE)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    while process.poll() is None and not when(out, process.pid):
        time.sleep(0.002)
    for number in signals:
        if number == signal.SIGTERM:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)  # as a terminal does
        time.sleep(0.05)
    try:
        said = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    what = "interrupted" if signals[0] == signal.SIGINT else "ended by SIGTERM"
    assert said == ("", f"octprep: {what}; {RESUME}")
    assert process.returncode == 128 + signals[0]
    assert a_receipt(out, 0) == (when is a_receipt)
    build(source, out, CONFIG, workers=1)
    assert files_of(out) == files_of(shards)


@needs_proc
def test_an_interruption_ends_the_program_although_its_cleanup_hangs(source, tmp_path):
    words = octprep("build", "--src", source, "--out", tmp_path / "out", "--workers", 2, *SIZE)[3:]
    code = (
        "import sys, time; from octprep import cli, workers\n"
        "workers.WorkerPool.__exit__ = lambda *_: time.sleep(100)\n"
        f"sys.argv = ['octprep', *{words}]\n"
        "cli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not a_receipt(tmp_path / "out", process.pid):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    try:
        said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (said[1], process.returncode) == (f"octprep: interrupted; {RESUME}", 130)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "2>/dev/full | true"])
def test_a_build_needs_no_standard_streams(source, shards, tmp_path, closed):
    command = octprep("build", "--src", source, "--out", tmp_path / "out", "--workers", 2, *SIZE)
    line = " ".join(f"'{word}'" for word in command)
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line} {closed}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(tmp_path / "out") == files_of(shards)
    done = subprocess.run(["bash", "-c", f"{line.replace('build', 'biuld')} 2>&-"], capture_output=True)
    assert done.returncode == 2


def test_an_output_that_takes_nothing_is_a_sentence(source, shards):
    command = octprep("build", "--src", source, "--out", shards, *SIZE)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "octprep: standard output cannot be written: No space left on device.\n"
    assert done.returncode == 2


@pytest.mark.parametrize("how", ["file", "standard input"])
def test_a_script_needs_no_main_guard(source, shards, tmp_path, how):
    script = (
        "from pathlib import Path; from octprep.pipeline import build; from octprep.format.config import BuildConfig, Preprocessing\n"
        "config = BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02)\n"
        f"print(build(Path({str(source)!r}), Path({str(tmp_path / 'out')!r}), config, workers=2).built)\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-" if how == "standard input" else str(tmp_path / "script.py")]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert files_of(tmp_path / "out") == files_of(shards)


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", "Read-only file system"), ("size=4k", "No space left on device")]
)
def test_without_locks_between_processes_one_does_all_the_work(source, shards, tmp_path, options, reason):
    command = octprep("build", "--src", source, "--out", tmp_path / "out", "--workers", 2, *SIZE)
    fill = "cat /dev/zero > /dev/shm/full 2>/dev/null;"
    line = " ".join(f"'{word}'" for word in command)
    shell = f"mount -t tmpfs -o {options} tmpfs /dev/shm && {{ {fill} {line}; }}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", shell], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("another /dev/shm needs root")
    lines = [line for line in done.stderr.splitlines() if line.startswith("octprep")]
    assert lines == [
        f"octprep: no worker processes can be started ({reason}), so one process does all of the work. "
        "Is /dev/shm there, writable and not full?"
    ]
    assert done.returncode == 0
    assert files_of(tmp_path / "out") == files_of(shards)


def test_without_descriptors_the_engine_goes_on_alone_and_says_why():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, hard))
    try:
        with pytest.warns(Notice, match=r"Too many open files\), so one process"), WorkerPool(2) as engine:
            assert list(engine.run(abs, [-1, -2, -3])) == [1, 2, 3]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_full_table_of_open_files_is_named(source, tmp_path):
    code = (
        "import resource, sys; from octprep import cli, prepared\n"
        "true = prepared.results\n"
        "def results(*given):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "    return true(*given)\n"
        "prepared.results = results\n"
        f"sys.argv = ['octprep', *{octprep('build', '--src', source, '--out', tmp_path / 'out', '--workers', 1)[3:]}]\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("octprep: no more files can be opened (Too many open files). What is done is kept")
    assert done.stderr.count("\n") == 1


def test_memory_that_runs_out_late_is_a_sentence_and_the_work_is_kept(source, shards, tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys; from octprep import cli, images\n"
        "images.table = lambda *_: bytearray(1 << 62)\n"
        f"sys.argv = ['octprep', *{octprep('build', '--src', source, '--out', out, '--workers', 1, *SIZE)[3:]}]\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("octprep: memory ran out. What is done is kept")
    assert len(list((out / ".octprep-work" / "cache").glob("*.bin"))) > 1
    build(source, out, CONFIG, workers=1)
    assert files_of(out) == files_of(shards)


@pytest.fixture
def few(monkeypatch):
    """Phantoms of few patients, drawn in a moment."""
    population = drawing.population
    monkeypatch.setattr(
        drawing, "population", lambda *given, **more: [v for v in population(*given, **more) if len(v.scans) < 4][:8]
    )


def draw(out):
    return synthetic.draw(out, patients=24, faults=False, workers=1)


def test_two_drawings_do_not_write_to_one_folder(tmp_path, few):
    (tmp_path / "out").mkdir()
    with files.locked(tmp_path / "out", "octprep synthesize"), pytest.raises(OutputError, match="another octprep synthesize"):
        draw(tmp_path / "out")
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


@pytest.mark.parametrize("has_flock", [True, False])
def test_phantoms_fill_the_working_folder_and_an_empty_volume(tmp_path, few, monkeypatch, has_flock):
    monkeypatch.setattr(files, "HAS_FLOCK", has_flock)
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
def test_a_drawing_that_was_killed_at_any_moment_is_made_again_whole(tmp_path, few):
    draw(tmp_path / "whole")
    volumes = len(drawing.population(24, 0, faults=False))
    calls = {"new": (3, volumes + 1), "empty": (3, volumes + 1, volumes + 2, volumes + 3)}  # the last ones give names
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


def test_phantoms_into_a_link_that_leads_to_itself_are_a_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="leads to itself"):
        draw(tmp_path / "loop")
    with pytest.raises(OutputError, match="leads to itself"):
        synthetic.draw(tmp_path / "out", patients=24, truth=tmp_path / "loop")
