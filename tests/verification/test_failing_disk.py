"""A disk that fails for a moment does not stop a verification, and one that keeps failing is no violation."""

import errno

import pytest

from tests.worlds.disks import run_on_failing_disk

pytestmark = pytest.mark.slow

SHARD = "test/00000-of-00001.tfrecord"
FILES = [
    SHARD,
    "manifest.json",
    "images.csv",
    "duplicates.json",
    "index/test.csv",
    "index/test/00000-of-00001.tfrecord.idx",
]


def run_verify(failing_disk, shards, name, times, **how):
    return run_on_failing_disk(
        failing_disk, shards / name, times, "-m", "octprep.cli", "verify", shards, "--workers", "1", **how
    )


@pytest.mark.parametrize("call", ["open", "read"])
@pytest.mark.parametrize("name", FILES)
def test_what_fails_for_a_moment_is_read_again(good, failing_disk, name, call):
    assert (good / name).stat().st_size
    done = run_verify(failing_disk, good, name, 2, call=call)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all guarantees hold" in done.stdout


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("call", ["open", "read"])
def test_what_keeps_failing_stops_verify_and_is_no_violation(good, failing_disk, name, call):
    done = run_verify(failing_disk, good, name, 99, call=call)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"octprep: {good / name} cannot be read (Input/output error): that says nothing about the shards; check the "
        "disk, then run the same command again.\n"
    )


def test_a_shard_that_this_user_may_not_read_is_no_violation(good, failing_disk):
    done = run_verify(failing_disk, good, SHARD, 99, error=errno.EACCES)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{SHARD} cannot be read (Permission denied): this user may not read it, which says nothing" in done.stderr
