"""`octprep build` as a process: interruptions, killed workers, concurrent builds, missing locks, memory or space."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from octprep.format.errors import OutputError, StoppedError
from octprep.format.manifest import MANIFEST_NAME
from octprep.pipeline import build
from octprep.verification import verify
from tests.worlds.archive import files_of
from tests.worlds.builds import (
    CONFIG,
    OPTIONS,
    cache_of,
    needs_proc,
    octprep,
    receipts,
    start_build,
    wait_until,
    workers_of,
)

pytestmark = pytest.mark.slow

RESUME = "run the same command to resume.\n"


def finish(process):
    """The output and errors of a process that ends soon; it is killed, with its workers, if it does not."""
    try:
        return process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def run_patched(patch, *words):
    """Run octprep after some statements that change it."""
    code = f"import sys; from octprep import cli\n{patch}\nsys.argv = {['octprep', *map(str, words)]}\ncli.main()\n"
    return [sys.executable, "-c", code]


# Interruptions


@needs_proc
@pytest.mark.parametrize(
    ("when", "signals"),
    [
        ("a batch is cached", [signal.SIGINT]),
        ("a batch is cached", [signal.SIGINT] * 3),
        ("a worker starts", [signal.SIGINT] * 2),
        ("a batch is cached", [signal.SIGTERM]),
        ("a batch is cached", [signal.SIGTERM, signal.SIGINT]),
    ],
    ids=["Ctrl-C", "three times", "while workers start", "SIGTERM", "SIGTERM and Ctrl-C"],
)
def test_an_interrupted_build_ends_with_one_sentence_and_can_be_resumed(
    large_source, large_shards, tmp_path, when, signals
):
    out = tmp_path / "out"
    process = start_build(large_source, out, "--workers", 2)
    cached = when == "a batch is cached"
    wait_until(lambda: bool(receipts(out) if cached else workers_of(process.pid)), process)
    for number in signals:
        if number == signal.SIGTERM:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)  # as a terminal does
        time.sleep(0.05)
    output = finish(process)
    reason = "interrupted" if signals[0] == signal.SIGINT else "ended by SIGTERM"
    assert output == ("", f"octprep: {reason}; {RESUME}")
    assert process.returncode == 128 + signals[0]
    assert bool(receipts(out)) == cached
    build(large_source, out, CONFIG, workers=0)
    assert files_of(out) == files_of(large_shards)


@needs_proc
def test_an_interruption_ends_the_program_although_its_cleanup_hangs(large_source, tmp_path):
    out = tmp_path / "out"
    patch = "import time; from octprep import workers; workers.WorkerPool.__exit__ = lambda *_: time.sleep(100)"
    command = run_patched(patch, "build", "--src", large_source, "--out", out, "--workers", 2, *OPTIONS)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(receipts(out)), process)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (errors, process.returncode) == (f"octprep: interrupted; {RESUME}", 130)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_a_killed_build_is_resumed_with_the_batches_that_it_cached(large_source, large_shards, tmp_path):
    out = tmp_path / "out"
    process = start_build(large_source, out, "--workers", 2)
    wait_until(lambda: len(receipts(out)) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(receipts(out)) >= 2, "the build was over before it could be killed"
    assert not (out / MANIFEST_NAME).exists()
    batch = receipts(out)[0].with_suffix(".bin")
    inode = batch.stat().st_ino
    kept = []
    with batch.open("rb"):  # so that the inode is not used again
        build(
            large_source,
            out,
            CONFIG,
            workers=0,
            progress=lambda *_: kept.append(batch.exists() and batch.stat().st_ino == inode),
        )
    assert kept[0] and kept[1], "a finished batch was cached again"
    assert files_of(out) == files_of(large_shards)


@needs_proc
def test_a_killed_worker_ends_the_build_with_one_sentence_and_the_next_run_resumes(
    large_source, large_shards, tmp_path
):
    out = tmp_path / "out"
    process = start_build(large_source, out, "--workers", 2)
    wait_until(lambda: bool(receipts(out)), process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, errors = finish(process)
    assert process.returncode == 1
    assert errors.startswith("octprep: a worker process was killed (usually out of memory).")
    assert errors.count("\n") == 1
    assert build(large_source, out, CONFIG, workers=0).built
    assert files_of(out) == files_of(large_shards)


@needs_proc
def test_two_builds_do_not_write_to_one_folder(large_source, large_shards, tmp_path):
    out = tmp_path / "out"
    process = start_build(large_source, out, "--workers", 1)
    wait_until((out / ".octprep-work" / "config.json").exists, process)
    with pytest.raises(OutputError, match="another octprep build is writing"):
        build(large_source, out, CONFIG)
    process.communicate()
    assert process.returncode == 0
    assert files_of(out) == files_of(large_shards)


# Standard streams and scripts


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "2>/dev/full | true"])
def test_a_build_needs_no_standard_streams(source, shards, tmp_path, closed):
    command = octprep("build", "--src", source, "--out", tmp_path / "out", "--workers", 2, *OPTIONS)
    line = " ".join(f"'{word}'" for word in command)
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line} {closed}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(tmp_path / "out") == files_of(shards)
    done = subprocess.run(["bash", "-c", f"{line.replace('build', 'biuld')} 2>&-"], capture_output=True)
    assert done.returncode == 2


def test_standard_output_that_cannot_be_written_is_an_error(source, out):
    with Path("/dev/full").open("w") as full:
        command = octprep("build", "--src", source, "--out", out, *OPTIONS)
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "octprep: standard output cannot be written: No space left on device.\n"
    assert done.returncode == 2


@pytest.mark.parametrize("how", ["file", "standard input"])
def test_a_script_needs_no_main_guard(large_source, large_shards, tmp_path, how):
    script = (
        "from pathlib import Path\n"
        "from octprep.format.config import BuildConfig, Preprocessing\n"
        "from octprep.pipeline import build\n"
        "config = BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02)\n"
        f"print(build(Path({str(large_source)!r}), Path({str(tmp_path / 'out')!r}), config, workers=2).built)\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-" if how == "standard input" else str(tmp_path / "script.py")]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert files_of(tmp_path / "out") == files_of(large_shards)


# Systems without locks, file descriptors, memory or space


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", "Read-only file system"), ("size=4k", "No space left on device")]
)
def test_without_locks_between_processes_one_process_does_all_the_work(
    large_source, large_shards, tmp_path, options, reason
):
    command = octprep("build", "--src", large_source, "--out", tmp_path / "out", "--workers", 2, *OPTIONS)
    fill = "cat /dev/zero > /dev/shm/full 2>/dev/null;"
    line = " ".join(f"'{word}'" for word in command)
    shell = f"mount -t tmpfs -o {options} tmpfs /dev/shm && {{ {fill} {line}; }}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", shell], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("another /dev/shm needs root")
    lines = [line for line in done.stderr.splitlines() if line.startswith("octprep")]
    assert lines == [
        f"octprep: no worker processes can be started ({reason}), so this process does all of the work. "
        "Is /dev/shm there, writable and not full?"
    ]
    assert done.returncode == 0
    assert files_of(tmp_path / "out") == files_of(large_shards)


def test_too_many_open_files_are_reported(source, tmp_path):
    patch = (
        "import resource; from octprep.shards import cache\n"
        "original = cache.read_receipt\n"
        "def results(*arguments):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "    return original(*arguments)\n"
        "cache.read_receipt = results"
    )
    command = run_patched(patch, "build", "--src", source, "--out", tmp_path / "out", "--workers", 1)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("octprep: no more files can be opened (Too many open files). What is done is kept")
    assert done.stderr.count("\n") == 1


def test_a_lack_of_memory_is_reported_and_the_cached_scans_are_kept(source, shards, tmp_path):
    out = tmp_path / "out"
    patch = "from octprep.format import images_csv; images_csv.encode_sorted = lambda *_: bytearray(1 << 62)"
    command = run_patched(patch, "build", "--src", source, "--out", out, "--workers", 1, *OPTIONS)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("octprep: memory ran out. What is done is kept")
    assert list(cache_of(out).glob("*.bin"))
    build(source, out, CONFIG, workers=0)
    assert files_of(out) == files_of(shards)


def test_a_full_disk_is_reported_and_the_next_run_resumes(large_source, tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(StoppedError, match=r"disk of --out .* is full"):
            build(large_source, disk / "out", CONFIG, workers=0)
        assert not (disk / "out" / MANIFEST_NAME).exists()
        assert not list(disk.rglob("*.part-*"))
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        build(large_source, disk / "out", CONFIG, workers=0)
        assert verify(disk / "out", workers=0).violations == ()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="ulimit is of POSIX shells")
def test_a_limit_of_file_sizes_stops_the_build_which_resumes_without_it(source, tmp_path):
    command = octprep("build", "--src", source, "--out", tmp_path / "out", *OPTIONS)
    limited = ["sh", "-c", 'ulimit -f 40; exec "$@"', "sh", *command]  # blocks of 512 or 1,024 bytes
    failed = subprocess.run(limited, capture_output=True, text=True)
    assert failed.returncode == 1 and "cannot be written (File too large). What is done is kept" in failed.stderr
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert not verify(tmp_path / "out").violations
