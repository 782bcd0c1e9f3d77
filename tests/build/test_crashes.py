"""A file on which the image decoder crashes or hangs is excluded, and the build goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from octprep.format.manifest import Manifest
from tests.worlds.builds import OPTIONS, octprep, receipts
from tests.worlds.clusters import local_cluster
from tests.worlds.decoders import ROOT, faulty_decoder, mark
from tests.worlds.tables import read_cells

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="crashes are recognised by POSIX signals"),
]

CRASHES = {
    "train/CNV/CNV-0-1.jpeg": ("SIGSEGV", "made the image decoder crash (SIGSEGV)"),
    "train/CNV/CNV-0-2.jpeg": ("SIGABRT", "made the image decoder crash (SIGABRT)"),
    "train/DME/DME-100-3.jpeg": ("HANG", "took the image decoder more than 2 s"),
}


@pytest.fixture
def environment(tmp_path):
    """Of processes in which the decoder has a mistake."""
    return faulty_decoder(tmp_path)


@pytest.fixture
def hostile(src):
    """A source, and a function that marks a file of it with what it does to the decoder."""
    return src, lambda path, what: mark(src / path, what)


def run(environment, *words):
    """A finished process; none that it started may be left."""
    process = subprocess.Popen(
        octprep(*words), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    output, errors = process.communicate(timeout=300)
    assert not left(process.pid)
    return process.returncode, output, errors


def left(group):
    """Whether a process of a group is left after 10 seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def excluded(out):
    return {row["path"]: row["exclusion_reason"] for row in read_cells(out) if row["exclusion_reason"]}


def test_files_that_crash_or_hang_the_decoder_cost_only_themselves_whatever_the_number_of_workers(
    large_source, environment, tmp_path
):
    src = shutil.copytree(large_source, tmp_path / "src")  # of several batches
    for path, (what, _) in CRASHES.items():
        mark(src / path, what)
    digests = set()
    for workers in (1, 2, 5):
        out = tmp_path / f"out{workers}"
        code, _, errors = run(environment, "build", src, out, "--workers", workers, *OPTIONS)
        assert (code, errors) == (0, "")
        assert excluded(out).items() >= {path: reason for path, (_, reason) in CRASHES.items()}.items()
        assert {path.name for path in out.iterdir()} >= {"manifest.json"} and not receipts(out)
        digests.add(Manifest.load(out).digest)
    assert len(digests) == 1
    # the same files are excluded again where their reasons are checked, and nothing is built
    for path in src.rglob("*.jpeg"):
        os.utime(path, (1, 1))
    code, _, errors = run(environment, "build", src, out, "--workers", 2, *OPTIONS)
    assert (code, errors) == (0, "")
    assert Manifest.load(out).digest in digests


@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_an_inspection_excludes_a_file_that_crashes_the_decoder(hostile, environment, options):
    src, mark = hostile
    mark("train/CNV/CNV-0-1.jpeg", "SIGSEGV")
    code, output, errors = run(environment, "inspect", src, "--workers", 2, *options)
    assert (code, errors) == (0, "")
    assert "made the image decoder crash (SIGSEGV)" in output


@pytest.mark.parametrize(("workers", "what"), [(1, "EXIT"), (2, "SIGKILL")])
def test_a_worker_that_is_killed_or_exits_stops_the_build_and_the_next_run_resumes(
    hostile, environment, tmp_path, workers, what
):
    src, mark = hostile
    mark("train/NORMAL/NORMAL-300-1.jpeg", what)
    code, _, errors = run(environment, "build", src, tmp_path / "out", "--workers", workers, *OPTIONS)
    assert code == 1
    assert errors.startswith("octprep: a worker process was killed (usually out of memory). Run the same command again")
    assert errors.count("\n") == 1
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    assert run(environment, "build", src, tmp_path / "out", "--workers", workers, *OPTIONS)[0] == 0
    assert not {path: reason for path, reason in excluded(tmp_path / "out").items() if "decoder" in reason}


def test_a_file_that_does_not_crash_again_alone_is_kept(hostile, environment, tmp_path):
    src, mark = hostile
    mark("train/CNV/CNV-0-1.jpeg", "ONCE")
    code, _, errors = run(environment, "build", src, tmp_path / "out", "--workers", 2, *OPTIONS)
    assert (code, errors) == (0, "")
    assert (tmp_path / "crashed").exists()
    assert "train/CNV/CNV-0-1.jpeg" not in excluded(tmp_path / "out")


def test_a_crash_that_no_file_repeats_alone_ends_the_build_the_second_time(hostile, environment, tmp_path):
    src, mark = hostile
    mark("train/CNV/CNV-0-1.jpeg", "SECOND")
    mark("train/CNV/CNV-0-2.jpeg", "SECOND")  # crashes if another such file was decoded by the same process
    code, _, errors = run(environment, "build", src, tmp_path / "out", "--workers", 2, *OPTIONS)
    assert code == 1
    assert "made the image decoder crash (SIGSEGV), which no single file does alone. Run the same" in errors


def test_the_time_limit_of_one_thread_is_not_that_of_another():
    code = (
        "import threading, time\n"
        "from octprep import crashes\n"
        "def hang():\n"
        "    with crashes.time_limit():\n"
        "        time.sleep(1000)\n"
        "crashes.DECODE_SECONDS = 0.5\n"
        "crashes.allow_time_limit()\n"
        "threading.Thread(target=hang).start()\n"
        "while True:\n"
        "    with crashes.time_limit():\n"
        "        time.sleep(0.01)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -signal.SIGALRM


@pytest.mark.parametrize(("what", "reason"), [found for found in CRASHES.values() if found[0] in ("SIGSEGV", "HANG")])
def test_a_file_that_crashes_or_hangs_the_workers_of_a_cluster_is_found_on_this_machine(
    hostile, environment, tmp_path, monkeypatch, what, reason
):
    pytest.importorskip("distributed")
    src, mark = hostile
    path = "train/CNV/CNV-0-1.jpeg"
    mark(path, what)
    code, _, errors = run(environment, "build", src, tmp_path / "local", "--workers", 1, *OPTIONS)
    assert (code, errors) == (0, "")
    # Dask gives a task up when it has killed a worker more than that, three by default.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with local_cluster(tmp_path / "dask", workers=0) as cluster:
        cluster.add_workers(2, {"PYTHONPATH": environment["PYTHONPATH"]})
        out = tmp_path / "out"
        code, _, errors = run(environment, "build", src, out, "--cluster", cluster.file, *OPTIONS)
        assert code == 0, errors
        assert sum(worker.poll() is not None for worker in cluster.workers) == 1
    assert excluded(out)[path] == reason
    assert Manifest.load(out).digest == Manifest.load(tmp_path / "local").digest
