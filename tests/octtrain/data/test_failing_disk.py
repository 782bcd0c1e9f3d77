"""Shards that are read for training from a disk that fails: tried again for a moment, and never called damaged."""

import errno
import os

import pytest

from tests.worlds.disks import run_on_failing_disk

pytestmark = pytest.mark.slow

SHARD = "test/00000-of-00002.tfrecord"
CHECK = """
import sys
from pathlib import Path
from octprep.format.manifest import Manifest
folder = Path(sys.argv[1])
Manifest.load(folder).check_files(folder, ("test",))
"""
GATHER = """
import sys
import numpy as np
from octtrain.data import mapped
mapped._MAPPED_BYTES = 0  # so that shards are read, as large ones are
images = mapped.MappedImages(sys.argv[1], "test")
sys.stdout.write(str(images.gather(np.arange(images.image_count, dtype=np.int32)).sum()))
"""
STREAM = """
import sys
from pathlib import Path
from octtrain.data import stream
folder = Path(sys.argv[1])
with stream.data_errors_as_manifest_errors(folder):
    sys.stdout.write(str(sum(len(labels) for _, labels in stream.batches(folder, "test"))))
"""


@pytest.mark.parametrize("call", ["open", "read"])
@pytest.mark.parametrize("program", [CHECK, GATHER])
def test_a_shard_is_read_again_and_is_not_called_damaged(shards, failing_disk, program, call):
    sound, moment, lasting = (
        run_on_failing_disk(failing_disk, shards / SHARD, times, "-c", program, shards, call=call)
        for times in (0, 2, 99)
    )
    assert sound.returncode == 0, sound.stderr
    assert (moment.returncode, moment.stdout, moment.stderr) == (0, sound.stdout, "")
    assert lasting.stderr.splitlines()[-1] == (
        f"octprep.format.errors.StoppedError: {shards / SHARD} cannot be read (Input/output error): that says nothing "
        "about the shards; check the disk, then run the same command again."
    )


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_shard_that_tensorflow_cannot_read_is_not_called_damaged(shards, failing_disk, error):
    done = run_on_failing_disk(failing_disk, shards / SHARD, 99, "-c", STREAM, shards, error=error)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"octprep.format.errors.StoppedError: The shards in {shards} cannot be read ({shards / SHARD}; "
        f"{os.strerror(error)}): that says nothing about the shards; check the disk, and that this user may read them, "
        "then run the same command again."
    )
