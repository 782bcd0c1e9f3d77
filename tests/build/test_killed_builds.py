"""A build that is killed at any moment: the next one ends with the same bytes, and readers never get half a dataset."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from octprep import preprocessing
from octprep.format.manifest import MANIFEST_NAME, Manifest
from octprep.pipeline import build
from octprep.shards import cache, workdir
from tests.worlds.archive import files_of
from tests.worlds.builds import CONFIG

pytestmark = pytest.mark.slow

# Where a build kills itself: a function of octprep, and at which of its calls.
STAGES = {
    "lock": ("shards.workdir.existing_build", 1),
    "cache a batch": ("shards.cache._write_receipt", 3),
    "cache a scan": ("preprocessing.preprocess", 20),
    "compare": ("duplicates.search.near_duplicate_pairs", 1),
    "write a record": ("shards.tfrecord.frame", 30),
    "write a shard": ("shards.writer._shard", 2),
    "images.csv": ("format.images_csv.encode_sorted", 1),
    "duplicates.json": ("duplicates.duplicates_json.collect", 1),
    "report": ("report.render", 1),
    "publish": ("shards.workdir.move_shards", 1),
    "publish shards": ("shards.workdir.sync", 2),
    "publish tables": ("shards.workdir.sync", 6),
    "publish manifest": ("format.manifest.Manifest.save", 1),
    "half a manifest": ("KILL AT MANIFEST", 1),
    "clean up": ("shards.workdir.clean_up", 1),
    "half cleaned up": ("KILL AT RMTREE", 1),
}
# Until it publishes, a build does not change an existing dataset, so one stage before that is enough.
CASES = [(stage, "empty") for stage in STAGES] + [(stage, "older") for stage in list(STAGES)[-8:]]

KILLER = """
import importlib, json, os, shutil, signal, sys
from pathlib import Path
from octprep import pipeline
from octprep.format import files
from octprep.shards import cache
from tests.worlds.builds import CONFIG

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(function, call):
    if function == "KILL AT MANIFEST":
        sync = files.sync
        files.sync = lambda path: die() if path.name.endswith("manifest.json") else sync(path)
        return
    if function == "KILL AT RMTREE":
        shutil.rmtree = lambda path, **_: ((path / "config.json").unlink(), die())
        return
    *modules, name = function.split(".")
    module = importlib.import_module("octprep")
    for part in modules:
        if not hasattr(module, part):
            importlib.import_module(f"{module.__name__}.{part}")
        module = getattr(module, part)
    original, calls = getattr(module, name), [0]
    def counted(*arguments, **options):
        calls[0] += 1
        if calls[0] == call:
            die()
        return original(*arguments, **options)
    setattr(module, name, counted)

src, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
for out, function, call in jobs:
    child = os.fork()
    if not child:
        cache.BATCH = 8
        arm(function, call)
        pipeline.build(src, Path(out), CONFIG, workers=0, overwrite=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def kill_builds(source, jobs):
    """Build into each of some folders, and kill the build at a call of a function."""
    if not hasattr(os, "fork"):
        pytest.skip("the builds are forked")
    words = json.dumps([[str(out), *stage] for out, stage in jobs])
    command = [sys.executable, "-c", KILLER, source, words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(jobs), done.stderr


@pytest.fixture(scope="module")
def killed(source, older_shards, tmp_path_factory):
    """Folders in which a build was killed: by stage, and by whether an older dataset was there before."""
    root = tmp_path_factory.mktemp("killed")
    folders = {(stage, before): root / f"{stage} {before}" for stage, before in CASES}
    for (_, before), out in folders.items():
        if before == "older":
            shutil.copytree(older_shards, out)
    kill_builds(source, [(out, STAGES[stage]) for (stage, _), out in folders.items()])
    return folders


@pytest.mark.parametrize(("stage", "before"), CASES)
def test_a_build_killed_in_any_stage_is_resumed_to_the_same_bytes_and_leaves_no_stray_file(
    killed, source, shards, older_shards, stage, before
):
    out = killed[stage, before]
    if (out / MANIFEST_NAME).exists():  # then it is a whole dataset, the older or the new one
        manifest = Manifest.load(out)
        assert manifest.digest in (Manifest.load(shards).digest, Manifest.load(older_shards).digest)
        assert workdir.find_damage(out, manifest) == []
    published = stage in ("clean up", "half cleaned up")
    assert published == ((out / MANIFEST_NAME).exists() and Manifest.load(out).config.seed == CONFIG.seed)
    result = build(source, out, CONFIG, workers=0, overwrite=before == "older" and not published)
    assert result.built != published
    assert files_of(out) == files_of(shards)


def test_what_a_killed_build_has_done_is_not_done_again(source, shards, tmp_path, monkeypatch):
    out = tmp_path / "out"
    kill_builds(source, [(out, ("shards.workdir.sync", 4))])  # while it publishes
    assert not (out / MANIFEST_NAME).exists()
    assert list(out.glob("train/*.tfrecord"))
    monkeypatch.setattr(cache, "BATCH", 8)
    monkeypatch.setattr(preprocessing, "preprocess", None)  # no scan is prepared again
    build(source, out, CONFIG, workers=0)
    assert files_of(out) == files_of(shards)
