"""What could not be read is never taken for a bad scan, and every file name survives: real pipes, links, failures."""

import csv
import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from octprep.inspection.quick import survey

from octprep import preprocessing
from octprep.format import files, images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import SourceError, StoppedError, UnreadableImage
from octprep.format.files import path_to_text, text_to_path
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.source import files as source_files
from octprep.splits import split_file
from octprep.verification import verify
from octprep.workers import WorkerPool
from tests.worlds.archive import archive, draw_scan, files_of, path_of, write_folder, write_scan
from tests.worlds.tables import read_cells

pytestmark = pytest.mark.slow

RECIPE = Preprocessing(height=96, width=96)
CONFIG = BuildConfig(recipe=RECIPE, near_duplicates=False)
ONE = path_of("test/CNV-50-1")


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "src", archive())


def listed(src, path=ONE):
    """What the listing saw of one file."""
    return next(named for named in source_files.find(src).named if named.path == path)


def left_out(out):
    return {row["path"]: row["exclusion_reason"] for row in read_cells(out) if row["exclusion_reason"]}


# A machine that fails


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory):
    """A library that makes open() fail for a name, as often and with the error that the environment says."""
    folder = tmp_path_factory.mktemp("shim")
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("a disk that fails is made with gcc and LD_PRELOAD, on Linux")
    (folder / "fail.c").write_text(
        textwrap.dedent("""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <errno.h>
        #include <stdarg.h>
        #include <stdlib.h>
        #include <string.h>
        static int bad(const char *path) {
            static int done = 0;
            const char *name = getenv("FAIL_NAME");
            if (!name || !path || !strstr(path, name) || done >= atoi(getenv("FAIL_TIMES"))) return 0;
            done++;
            errno = atoi(getenv("FAIL_ERRNO"));
            return 1;
        }
        #define OPEN(name) \\
        int name(const char *path, int flags, ...) { \\
            static int (*real)(const char *, int, ...); \\
            va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \\
            if (bad(path)) return -1; \\
            if (!real) real = dlsym(RTLD_NEXT, #name); \\
            return real(path, flags, mode); \\
        }
        OPEN(open) OPEN(open64)
        """)
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "fail.so", "fail.c", "-ldl"], cwd=folder, check=True)
    return folder / "fail.so"


def run_failing(failing_disk, times, error, *arguments):
    environment = {"LD_PRELOAD": str(failing_disk), "FAIL_NAME": Path(ONE).name, "FAIL_TIMES": str(times)}
    command = [sys.executable, "-m", "octprep.cli", *map(str, arguments), "--workers", "1"]
    environment = os.environ | environment | {"FAIL_ERRNO": str(error)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE])
def test_a_disk_that_fails_for_a_moment_loses_nothing(source, tmp_path, failing_disk, error):
    done = run_failing(failing_disk, 2, error, "scan", "--src", source, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert "unusable: none" in done.stdout


@pytest.mark.parametrize("error", [errno.EACCES, errno.ESTALE])
def test_a_disk_that_goes_on_failing_stops_scan_and_build_and_the_build_goes_on(source, tmp_path, failing_disk, error):
    out = tmp_path / "out"
    command = ["build", "--src", source, "--out", out, "--size", "96", "--near-duplicates", "off"]
    done = run_failing(failing_disk, 99, error, *command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"octprep: {source / ONE} cannot be read: {os.strerror(error)}. That says nothing")
    assert done.stderr.count("\n") == 1
    assert build(source, out, CONFIG).fresh
    assert left_out(out) == {}
    done = run_failing(failing_disk, 99, error, "audit" if error == errno.EACCES else "scan", "--src", source)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{ONE} cannot be read" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="how much memory is used is read from /proc")
@pytest.mark.parametrize(
    ("flags", "room"),  # too little for the pixels; enough for these, but not for what libjpeg needs besides
    [([], 8_000_000), ([cv2.IMWRITE_JPEG_PROGRESSIVE, 1], 30_000_000)],
    ids=["baseline", "progressive"],
)
def test_too_little_memory_is_no_corrupt_jpeg(tmp_path, flags, room):
    big = np.kron(draw_scan("big", 400, 400), np.ones((10, 10), np.uint8))
    for name, pixels in (("CNV-1-1", draw_scan("small")), ("CNV-1-2", big)):
        (tmp_path / "CNV").mkdir(exist_ok=True)
        (tmp_path / "CNV" / f"{name}.jpeg").write_bytes(cv2.imencode(".jpeg", pixels, flags)[1].tobytes())
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from octprep import scan
        src = Path(sys.argv[1])
        small, big = scan.find(src).named
        scan.inspect((src, [small]))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
        scan.inspect((src, [big]))
        """)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(tmp_path), str(room)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "StoppedError: there is too little memory for" in done.stderr
    assert "CNV-1-2.jpeg" in done.stderr
    assert isinstance(source_files.inspect((tmp_path, [listed(tmp_path, "CNV/CNV-1-2.jpeg")]))[0], source_files.Scan)


def test_a_lack_of_memory_in_preparing_is_none_of_the_scan_either(source):
    def greedy(src, named):
        np.ones((2**30, 2**30), np.uint8)

    def greedy_opencv(src, named):
        cv2.resize(np.zeros((4, 4), np.uint8), (2**30, 2**30))

    for work in (greedy, greedy_opencv):
        with pytest.raises(StoppedError, match=f"there is too little memory for .*{ONE}"):
            source_files.carefully(source, listed(source), work)


def test_a_mistake_of_ours_names_the_file_and_keeps_the_rest(source, tmp_path, monkeypatch):
    true = preprocessing.prepare
    last = source_files.find(source).named[-1].path  # of the second batch
    bad = preprocessing.decode((source / last).read_bytes())

    def mistaken(gray, recipe):
        if gray.shape == bad.shape and (gray == bad).all():
            raise ZeroDivisionError("division\nby zero")
        return true(gray, recipe)

    monkeypatch.setattr(preprocessing, "prepare", mistaken)
    with pytest.raises(StoppedError, match=rf"{last} made octprep fail \(ZeroDivisionError: division\\x0aby zero"):
        build(source, tmp_path / "out", CONFIG, workers=1)
    assert len(list((tmp_path / "out" / ".octprep-work" / "prepared").glob("*.json"))) == 1
    monkeypatch.undo()
    assert build(source, tmp_path / "out", CONFIG, workers=1).fresh


def threads(_):
    return cv2.getNumThreads()


def test_opencv_works_on_one_core_in_workers_and_stays_as_it_was_in_the_caller(source, tmp_path):
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        with WorkerPool(2) as engine:
            assert list(engine.run(threads, [1, 2, 3])) == [1, 1, 1]
        build(source, tmp_path / "out", CONFIG, workers=1)
        survey(source, workers=1)
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
    shutil.copytree(path.parent, away)  # with equal times of change
    shutil.rmtree(path.parent)
    path.parent.symlink_to(away, target_is_directory=True)


def gone_source(path):
    path.parents[2].rename(path.parents[3] / "unmounted")


@pytest.mark.parametrize("change", [remove, grow, touch, pipe, folder, link, linked_parent, gone_source])
def test_a_file_that_is_another_one_when_it_is_read_stops_the_work(source, change):
    named = listed(source)
    change(source / ONE)
    begin = time.monotonic()
    with pytest.raises(StoppedError, match=f"{ONE} .*so it is not the file that was listed"):
        source_files.inspect((source, [named]))
    assert time.monotonic() - begin < 60, "it waited for a pipe"


def test_a_source_that_goes_away_in_mid_build_stops_it_and_it_goes_on_when_it_is_back(source, tmp_path):
    names = sorted(path for path in source.rglob("*.jpeg"))

    def vanish(what, done, total):
        if what == "preparing scans" and done:
            for path in names[64:]:
                path.rename(path.with_suffix(".away"))

    write_folder(source, [f"train/NORMAL-{n}-1" for n in range(700, 740)])  # more than a batch
    names = sorted(source.rglob("*.jpeg"))
    out = tmp_path / "out"
    with pytest.raises(StoppedError, match=r"is gone, so it is not the file"):
        build(source, out, CONFIG, workers=1, progress=vanish)
    assert len(list((out / ".octprep-work" / "prepared").glob("*.json"))) == 1
    assert not (out / "manifest.json").exists()
    for path in source.rglob("*.away"):
        path.rename(path.with_suffix(".jpeg"))
    build(source, out, CONFIG, workers=1)
    build(source, tmp_path / "undisturbed", CONFIG, workers=1)
    assert files_of(out) == files_of(tmp_path / "undisturbed")


@contextmanager
def as_nobody():
    """Without the rights of root, which may enter every folder."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_listed_folder_that_may_not_be_read_is_an_error_if_it_may_hold_scans(tmp_path):
    where = Path(tempfile.mkdtemp())  # which, other than tmp_path, every user may enter
    try:
        where.chmod(0o755)
        src = write_folder(where / "src", archive())
        for name in ("train/DME", "lost+found"):
            (src / name).mkdir(exist_ok=True)
            (src / name).chmod(0)
        with (
            as_nobody(),
            pytest.raises(SourceError, match=r"DME \(cannot be read: Permission denied\) would be missing"),
        ):
            source_files.find(src)
        (src / "train" / "DME").chmod(0o755)
        with as_nobody():
            (rejection,) = source_files.find(src).rejections
        assert rejection == source_files.Exclusion("lost+found", "cannot be read: Permission denied")
    finally:
        shutil.rmtree(where)


# Links


def behind(source, name):
    """Put a part of the source elsewhere, and a link to it in its place."""
    away = source.parent / "disk2" / name.replace("/", "-")
    away.parent.mkdir(exist_ok=True)
    (source / name).rename(away)
    (source / name).symlink_to(away)
    return away


@pytest.mark.parametrize("name", ["test", "train/NORMAL", ONE])
def test_a_link_where_scans_should_be_is_an_error_or_is_followed(source, tmp_path, name):
    whole = source_files.find(source)
    behind(source, name)
    words = rf"has 1 link \({name}\) where scans or their folders should be, .*Give --follow-links to take it"
    with pytest.raises(SourceError, match=words):
        source_files.find(source)
    with pytest.raises(SourceError, match="--follow-links"):
        build(source, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
    found = source_files.find(source, follow_links=True)
    assert (found.named, found.rejections, found.listing) == (whole.named, (), whole.listing)
    assert len(survey(source, follow_links=True, workers=1).scans) == len(archive())


def test_links_give_the_bytes_that_the_files_give_and_a_build_goes_on_with_them(source, tmp_path):
    build(source, tmp_path / "plain", CONFIG, workers=1)
    behind(source, "train/NORMAL")
    behind(source, ONE)
    assert build(source, tmp_path / "linked", CONFIG, workers=1, follow_links=True).fresh
    assert not build(source, tmp_path / "linked", CONFIG, workers=1, follow_links=True).fresh
    plain, linked = (Manifest.load(tmp_path / name) for name in ("plain", "linked"))
    assert plain.digest == linked.digest
    assert b"not inside the source" not in (tmp_path / "linked" / "report.html").read_bytes()


def test_all_links_or_a_link_to_a_data_set_are_named(source, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for name in ("train", "test"):
        (links / name).symlink_to(source / name)
    with pytest.raises(SourceError, match=r"2 links \(test, train\), .*give --follow-links"):
        source_files.find(links)
    assert len(source_files.find(links, follow_links=True).named) == len(archive())
    beside = tmp_path / "beside"
    write_folder(beside / "one", archive())
    (beside / "two").symlink_to(source)
    with pytest.raises(SourceError, match=r"1 link \(two\)"):
        source_files.find(beside)
    with pytest.raises(SourceError, match="holds 2 data sets"):
        source_files.find(beside, follow_links=True)
    (tmp_path / "door").symlink_to(source)
    assert len(source_files.find(tmp_path / "door").named) == len(archive())  # --src itself may be one


def test_links_that_no_scan_is_behind_are_left_out_with_the_reason(source, tmp_path):
    (tmp_path / "notes").mkdir()
    (source / "papers").symlink_to(tmp_path / "notes")
    (source / "README").symlink_to("/nowhere")
    (source / "train" / "CNV" / ".foo").symlink_to("/nowhere")
    (source / "train" / "CNV" / "list.txt").symlink_to(source / ONE)
    (source / "again").symlink_to(source)
    found = source_files.find(source)
    reasons = {rejection.path: rejection.reason for rejection in found.rejections}
    assert reasons == dict.fromkeys(
        ["README", "again", "papers", "train/CNV/.foo", "train/CNV/list.txt"], "link, not followed"
    )
    assert len(found.named) == len(archive())


def test_loops_and_twins_give_each_scan_once_and_dead_links_are_an_error(source):
    (source / "again").symlink_to(source)
    (source / "train" / "CNV" / "up").symlink_to("..")
    (source / "train" / "CNV" / "CNV-0-1.jpg").symlink_to("CNV-0-1.jpeg")
    found = source_files.find(source, follow_links=True)
    assert len(found.named) == len(archive())
    reasons = {rejection.path: rejection.reason for rejection in found.rejections}
    assert reasons == {
        "again": "link back to a folder above it",
        "train/CNV/up": "link back to a folder above it",
        "train/CNV/CNV-0-1.jpg": "link to a scan that is there by another name: train/CNV/CNV-0-1.jpeg",
    }
    (source / "train" / "CNV" / "CNV-9-9.jpeg").symlink_to("/nowhere")
    with pytest.raises(SourceError, match=r"train/CNV/CNV-9-9.jpeg \(link that leads nowhere\) would be missing"):
        source_files.find(source, follow_links=True)


def test_one_file_under_two_classes_stays_a_contradiction(source, tmp_path):
    (source / "train" / "DME" / "DME-0-1.jpeg").symlink_to(source / "train" / "CNV" / "CNV-0-1.jpeg")
    build(source, tmp_path / "out", CONFIG, workers=1, follow_links=True)
    assert left_out(tmp_path / "out") == dict.fromkeys(
        ["train/CNV/CNV-0-1.jpeg", "train/DME/DME-0-1.jpeg"], "same bytes under different classes: CNV and DME"
    )


def test_no_followed_link_leads_to_what_is_written(source, tmp_path):
    away = behind(source, "train/NORMAL")
    for out in (away / "shards", tmp_path / "disk2"):
        with pytest.raises(SourceError, match=r"the link train/NORMAL leads to .* name another place to write to"):
            build(source, out, CONFIG, follow_links=True)
    with pytest.raises(SourceError, match="name another place to write to"):
        survey(source, follow_links=True, keep_out=[away / "found.json"])


# Limits


def test_a_huge_file_is_left_out_without_being_read(tmp_path):
    src = write_folder(tmp_path, archive())
    with (src / "train" / "CNV" / "CNV-66-1.jpeg").open("wb") as file:
        file.truncate(50_000_000_000)  # takes no space on the disk
    (found,) = survey(src, workers=1).rejections
    assert found.reason == "too large: 50,000,000,000 bytes, more than 64 MB"
    with pytest.raises(UnreadableImage, match="50,000,000,000 bytes"):
        preprocessing.read_image(src / "train" / "CNV" / "CNV-66-1.jpeg")


def test_an_image_file_is_read_or_refused_with_a_reason_and_a_failure_is_an_error(tmp_path):
    path = write_scan(tmp_path / "a.jpeg")
    assert np.array_equal(preprocessing.read_image(path), preprocessing.decode(path.read_bytes()))
    os.mkfifo(tmp_path / "pipe.jpeg")
    with pytest.raises(UnreadableImage, match="is not a regular file"):
        preprocessing.read_image(tmp_path / "pipe.jpeg")
    with pytest.raises(FileNotFoundError):
        preprocessing.read_image(tmp_path / "none.jpeg")


def segment(marker, data):
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data


def progressive(rows, columns, scans):
    """A flat gray JPEG in so many progressive scans, as few bytes each as can be."""
    blocks = -(-rows // 8) * -(-columns // 8)
    runs = ("0" + "1" * 14) * (blocks // (2**15 - 1) + 1)
    runs += "1" * (-len(runs) % 8)
    skip = bytes(int(runs[at : at + 8], 2) for at in range(0, len(runs), 8)).replace(b"\xff", b"\xff\0")
    data = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    data += segment(0xC2, b"\x08" + rows.to_bytes(2) + columns.to_bytes(2) + b"\1\1\x11\0")
    data += segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1\1" + bytes(14) + b"\xe0\0")
    data += segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8))
    for number in range(scans - 1):
        data += segment(0xDA, b"\1\1\0" + bytes([1 + number % 62] * 2) + b"\0") + skip
    return data + b"\xff\xd9"


def test_scans_of_a_progressive_jpeg_are_limited_before_it_is_decoded():
    assert preprocessing.decode(progressive(96, 128, 100)).shape == (96, 128)
    with pytest.raises(UnreadableImage, match="too slow to decode: over 100 progressive scans of 128x96 pixels"):
        preprocessing.decode(progressive(96, 128, 101))
    with pytest.raises(UnreadableImage, match="over 20 progressive scans of 8000x4000"):
        preprocessing.decode(progressive(4000, 8000, 21))
    genuine = cv2.imencode(".jpeg", np.dstack([draw_scan("p")] * 3), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert genuine.count(b"\xff\xda") == 10
    assert preprocessing.decode(genuine).shape == (96, 128)
    hidden = genuine[:2] + segment(0xE1, b"\xff\xda" * 500) + genuine[2:]  # no scans, but bytes of a comment
    assert np.array_equal(preprocessing.decode(hidden), preprocessing.decode(genuine))


def test_a_file_of_nothing_but_markers_ends_soon():
    for middle in (b"\xff" * 20_000_000, b"\xff\xe0\0\2" * 2_000_000, b"\xff\xd0" * 10_000_000, b"\xff\0" * 10_000_000):
        with pytest.raises(UnreadableImage, match="JPEG"):
            preprocessing.decode(b"\xff\xd8" + middle)


# Names


ODD = (
    b"Icon\r",
    b"CNV-\xff-1.jpeg",
    b"CNV-\xfe-1.jpeg",
    b"a\nb\x1b[31m.jpeg",
    b'x,"y\\x0d.jpeg',
    "ä\u202e\u2028.jpeg".encode(),
)


@pytest.fixture
def odd_source(tmp_path):
    """A data set below a folder of odd bytes, with odd names among its scans."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/src/caf\xe9\r\\x"))
    write_folder(root, archive())
    for number, name in enumerate(ODD):
        path = os.fsencode(root / "train" / "CNV") + b"/" + name
        Path(os.fsdecode(path)).write_bytes(b"%d" % number)
    return tmp_path / "src"


def test_any_name_survives_the_whole_way(odd_source, tmp_path):
    out = tmp_path / "out"
    build(odd_source, out, dataclasses.replace(CONFIG, near_duplicates=True), workers=1)
    rows = read_cells(out)
    paths = [row["path"] for row in rows]
    assert len(paths) == len(set(paths)) == len(archive()) + len(ODD)
    assert all(path.isprintable() or "\u202e" in path for path in paths)
    there = {path for path in odd_source.rglob("*") if path.is_file()}
    assert {odd_source / text_to_path(path) for path in paths} == there
    reasons = {row["path"].rpartition("/")[2]: row["exclusion_reason"] for row in rows if row["exclusion_reason"]}
    assert reasons["Icon\\x0d"] == source_files.MACOS
    assert {"CNV-\\xff-1.jpeg", "CNV-\\xfe-1.jpeg", "a\\x0ab\\x1b[31m.jpeg", 'x,"y\\\\x0d.jpeg'} < reasons.keys()
    assert verify(out, workers=1).violations == ()
    assert not build(odd_source, out, dataclasses.replace(CONFIG, near_duplicates=True), workers=1).fresh
    (tmp_path / "who.csv").write_bytes((out / "images.csv").read_bytes())
    who = split_file.load(tmp_path / "who.csv")
    config = dataclasses.replace(CONFIG, split="file", splits_sha256=who.sha256)
    build(odd_source, tmp_path / "again", config, assignment=who, workers=1)
    moved = {row["path"]: row["split"] for row in read_cells(tmp_path / "again")}
    assert moved == {row["path"]: row["split"] for row in rows}


@pytest.mark.parametrize("look", ["scan", "audit"])
def test_nothing_that_a_terminal_would_obey_is_printed(odd_source, tmp_path, look):
    page = tmp_path / "found.json"
    for src in (odd_source, next(odd_source.iterdir()))[look == "audit" :]:
        command = [sys.executable, "-m", "octprep.cli", look, "--src", src, "--json", page, "--workers", "1"]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 0, done.stderr
        printed = (done.stdout + done.stderr).decode()
        assert printed.replace("\n", "").isprintable()
        assert path_to_text(str(src)) in printed
    page.read_text(encoding="utf-8")
    (odd_source / "empty\x1b[1m").mkdir()
    with pytest.raises(SourceError) as caught:
        source_files.find(odd_source / "empty\x1b[1m")
    assert str(caught.value).isprintable()


def test_a_table_with_other_bytes_is_a_value_error(source, tmp_path):
    build(source, tmp_path / "out", CONFIG, workers=1)
    good = (tmp_path / "out" / "images.csv").read_bytes()
    head, first, *rest = good.split(b"\n")
    assert images_csv.decode(good).count == len(archive())
    for bad in (
        b"",
        good + b"\0",
        good + b"\xff",
        good.replace(b"path", b"Path", 1),
        b"\n".join([head, first + b",1", *rest]),
        b"\n".join([head, first.rpartition(b",")[0], *rest]),
        b"\n".join([head, b'"' + b"x" * csv.field_size_limit() + b'"', *rest]),
        b"\n".join([head, b"a\rb" + first, *rest]),
        good + b'"',
    ):
        with pytest.raises(ValueError, match=r"."):
            images_csv.decode(bad)
    table = images_csv.decode(good)
    assert images_csv.encode([*table.rows, *table.excluded]) == good
    assert files.path_to_text("a\rb") == "a\\x0db"
