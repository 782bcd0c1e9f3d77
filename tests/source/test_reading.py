"""Files that cannot be read stop the work and are not excluded: failing disks, too little memory, files that change."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import StoppedError
from octprep.inspection import inspect
from octprep.pipeline import build
from octprep.source.listing import list_source
from octprep.source.reading import DecodedBatch, FlaggedScan, read_scans, with_retries
from octprep.workers import WorkerPool
from tests.worlds.archive import archive, draw_scan, files_of, path_of, write_folder
from tests.worlds.disks import run_on_failing_disk
from tests.worlds.tables import read_cells

pytestmark = pytest.mark.slow

RECIPE = Preprocessing(height=96, width=96)
CONFIG = BuildConfig(recipe=RECIPE, near_duplicates=False)
ONE = path_of("test/CNV-50-1")


def listed_file(src, path=ONE):
    """One file as it was listed."""
    return next(scan_file for scan_file in list_source(src).scan_files if scan_file.path == path)


def exclusions_of(out):
    return {row["path"]: row["exclusion_reason"] for row in read_cells(out) if row["exclusion_reason"]}


# Failures of the machine


def run_failing(failing_disk, times, error, *arguments):
    command = ["-m", "octprep.cli", *arguments, "--workers", "1"]
    return run_on_failing_disk(failing_disk, Path(ONE).name, times, *command, error=error)


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE])
def test_a_disk_that_fails_briefly_excludes_nothing(source, tmp_path, failing_disk, error):
    done = run_failing(failing_disk, 2, error, "inspect", "--quick", source, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert "excluded: none" in done.stdout


@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE])
def test_a_disk_that_keeps_failing_stops_inspection_and_build_and_the_build_resumes(
    source, tmp_path, failing_disk, error
):
    out = tmp_path / "out"
    command = ["build", "--src", source, "--out", out, "--size", "96", "--no-near-duplicates"]
    done = run_failing(failing_disk, 99, error, *command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"octprep: {source / ONE} cannot be read: {os.strerror(error)}. That says nothing")
    assert done.stderr.count("\n") == 1
    assert build(source, out, CONFIG).built
    assert exclusions_of(out) == {}
    done = run_failing(failing_disk, 99, error, "inspect", source, *["--quick"] * (error == errno.EACCES))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{ONE} cannot be read" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="how much memory is used is read from /proc")
@pytest.mark.parametrize(
    ("flags", "room"),  # too little for the pixels; enough for these, but not for libjpeg's own buffers
    [([], 8_000_000), ([cv2.IMWRITE_JPEG_PROGRESSIVE, 1], 30_000_000)],
    ids=["baseline", "progressive"],
)
def test_too_little_memory_is_not_a_corrupt_jpeg(tmp_path, flags, room):
    big = np.kron(draw_scan("big", 400, 400), np.ones((10, 10), np.uint8))
    for name, pixels in (("CNV-1-1", draw_scan("small")), ("CNV-1-2", big)):
        (tmp_path / "CNV").mkdir(exist_ok=True)
        (tmp_path / "CNV" / f"{name}.jpeg").write_bytes(cv2.imencode(".jpeg", pixels, flags)[1].tobytes())
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from octprep.source.listing import list_source
        from octprep.source.reading import DecodedBatch, read_scans
        src = Path(sys.argv[1])
        small, big = list_source(src).scan_files
        read_scans(DecodedBatch(src, (small,)))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
        read_scans(DecodedBatch(src, (big,)))
        """)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(tmp_path), str(room)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "StoppedError: there is too little memory for" in done.stderr
    assert "CNV-1-2.jpeg" in done.stderr
    assert isinstance(read_scans(DecodedBatch(tmp_path, (listed_file(tmp_path, "CNV/CNV-1-2.jpeg"),)))[0], FlaggedScan)


def test_too_little_memory_in_preprocessing_is_not_a_bad_scan(source):
    def greedy(src, scan_file):
        np.ones((2**30, 2**30), np.uint8)

    def greedy_opencv(src, scan_file):
        cv2.resize(np.zeros((4, 4), np.uint8), (2**30, 2**30))

    for work in (greedy, greedy_opencv):
        with pytest.raises(StoppedError, match=f"there is too little memory for .*{ONE}"):
            with_retries(source, listed_file(source), work)


def test_a_bug_names_the_file_and_keeps_the_rest(source, tmp_path, monkeypatch):
    true = preprocessing.preprocess
    last = list_source(source).scan_files[-1].path  # of the second batch
    failing = preprocessing.decode((source / last).read_bytes())

    def mistaken(gray, recipe, *more):
        if gray.shape == failing.shape and (gray == failing).all():
            raise ZeroDivisionError("division\nby zero")
        return true(gray, recipe, *more)

    monkeypatch.setattr(preprocessing, "preprocess", mistaken)
    with pytest.raises(StoppedError, match=rf"{last} made octprep fail \(ZeroDivisionError: division\\x0aby zero"):
        build(source, tmp_path / "out", CONFIG, workers=0)
    assert len(list((tmp_path / "out" / ".octprep-work" / "cache").glob("*.json"))) == 1
    monkeypatch.undo()
    assert build(source, tmp_path / "out", CONFIG, workers=0).built


def threads(_):
    return cv2.getNumThreads()


def test_opencv_has_one_thread_in_workers_and_its_setting_in_the_caller_stays(source, tmp_path):
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        with WorkerPool(2) as engine:
            assert list(engine.run(threads, [1, 2, 3])) == [1, 1, 1]
        build(source, tmp_path / "out", CONFIG, workers=0)
        inspect(source, quick=True, workers=0)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


# A source that changes


def remove(path):
    path.unlink()


def grow(path):
    path.write_bytes(path.read_bytes() + b"\0")


def touch(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def linked_parent(path):
    away = path.parents[3] / "away"
    shutil.copytree(path.parent, away)  # with the same modification times
    shutil.rmtree(path.parent)
    path.parent.symlink_to(away, target_is_directory=True)


def gone_source(path):
    path.parents[2].rename(path.parents[3] / "unmounted")


@pytest.mark.parametrize("change", [remove, grow, touch, pipe, folder, link, linked_parent, gone_source])
def test_a_file_that_changed_after_listing_stops_the_work(source, change):
    scan_file = listed_file(source)
    change(source / ONE)
    begin = time.monotonic()
    with pytest.raises(StoppedError, match=f"{ONE} .*so it is not the file that was listed"):
        read_scans(DecodedBatch(source, (scan_file,)))
    assert time.monotonic() - begin < 60, "it waited for a pipe"


def test_a_source_that_vanishes_stops_the_build_which_resumes_when_it_is_back(source, tmp_path):
    names = sorted(path for path in source.rglob("*.jpeg"))

    def vanish(what, done, total):
        if what == "preparing scans" and done:
            for path in names[64:]:
                path.rename(path.with_suffix(".away"))

    write_folder(source, [f"train/NORMAL-{n}-1" for n in range(700, 740)])  # more than a batch
    names = sorted(source.rglob("*.jpeg"))
    out = tmp_path / "out"
    with pytest.raises(StoppedError, match=r"is gone, so it is not the file"):
        build(source, out, CONFIG, workers=0, progress=vanish)
    assert len(list((out / ".octprep-work" / "cache").glob("*.json"))) == 1
    assert not (out / "manifest.json").exists()
    for path in source.rglob("*.away"):
        path.rename(path.with_suffix(".jpeg"))
    build(source, out, CONFIG, workers=0)
    build(source, tmp_path / "undisturbed", CONFIG, workers=0)
    assert files_of(out) == files_of(tmp_path / "undisturbed")


def test_a_huge_file_is_excluded_without_being_read(tmp_path):
    src = write_folder(tmp_path, archive())
    with (src / "train" / "CNV" / "CNV-66-1.jpeg").open("wb") as file:
        file.truncate(50_000_000_000)  # takes no space on the disk
    (exclusion,) = inspect(src, quick=True, workers=0).exclusions
    assert exclusion.reason == "too large: 50,000,000,000 bytes, more than 64 MB"
