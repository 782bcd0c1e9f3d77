"""Every file of a source is listed as a scan or an exclusion; links and unreadable folders never hide scans."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import SourceError
from octprep.format.manifest import Manifest
from octprep.inspection import inspect
from octprep.pipeline import build
from octprep.source.files import Exclusion
from octprep.source.listing import list_source
from tests.worlds.archive import archive, path_of, write_folder
from tests.worlds.tables import read_cells

CONFIG = BuildConfig(recipe=Preprocessing(height=96, width=96), near_duplicates=False)
ONE = path_of("test/CNV-50-1")


def exclusions_of(out):
    return {row["path"]: row["exclusion_reason"] for row in read_cells(out) if row["exclusion_reason"]}


def test_the_folder_of_the_class_folders_is_the_root(tmp_path):
    write_folder(tmp_path / "OCT2017 ", archive())
    (tmp_path / "__MACOSX" / "OCT2017 " / "train" / "CNV").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "OCT2017 " / "train" / "CNV" / "._CNV-0-1.jpeg").write_bytes(b"\0\5\26\7")
    source = list_source(tmp_path)
    assert source.root == "OCT2017 "
    assert len(source.scan_files) == len(archive())
    assert all(scan_file.path.startswith("OCT2017 /") for scan_file in source.scan_files)
    assert [exclusion.reason for exclusion in source.exclusions] == ["macOS metadata, not a scan"]


def test_folders_without_a_data_set_are_errors(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        list_source(tmp_path / "absent")
    with pytest.raises(SourceError, match="is empty"):
        list_source(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match="is a file"):
        list_source(tmp_path / "notes.txt")
    with pytest.raises(SourceError, match=r"has no class folders: expected .*found notes.txt"):
        list_source(tmp_path)
    write_folder(tmp_path / "one", archive())
    write_folder(tmp_path / "two", archive())
    with pytest.raises(SourceError, match=r"holds 2 data sets \('one', 'two'\)"):
        list_source(tmp_path)


def test_pipes_and_odd_names_are_excluded_without_being_opened(tmp_path):
    src = write_folder(tmp_path, archive())
    os.mkfifo(src / "train" / "CNV" / "CNV-66-1.jpeg")
    Path(os.fsdecode(os.fsencode(src) + b"/train/CNV/CNV-\xff-1.jpeg")).write_bytes(b"x")
    reasons = {exclusion.path: exclusion.reason for exclusion in list_source(src).exclusions}
    assert reasons == {
        "train/CNV/CNV-66-1.jpeg": "not a regular file",
        "train/CNV/CNV-\\xff-1.jpeg": "name is not CLASS-patientID-number.jpeg",
    }


@contextmanager
def without_root():
    """Without the rights of root, which may enter every folder."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_an_unreadable_folder_is_an_error_if_it_may_hold_scans(tmp_path):
    root = Path(tempfile.mkdtemp())  # unlike tmp_path, every user may enter it
    try:
        root.chmod(0o755)
        src = write_folder(root / "src", archive())
        for name in ("train/DME", "lost+found"):
            (src / name).mkdir(exist_ok=True)
            (src / name).chmod(0)
        with (
            without_root(),
            pytest.raises(SourceError, match=r"DME \(cannot be read: Permission denied\) would be missing"),
        ):
            list_source(src)
        (src / "train" / "DME").chmod(0o755)
        with without_root():
            (exclusion,) = list_source(src).exclusions
        assert exclusion == Exclusion("lost+found", "cannot be read: Permission denied")
    finally:
        shutil.rmtree(root)


# Links


def move_behind_link(source, name):
    """Put a part of the source elsewhere, and a link to it in its place."""
    away = source.parent / "disk2" / name.replace("/", "-")
    away.parent.mkdir(exist_ok=True)
    (source / name).rename(away)
    (source / name).symlink_to(away)
    return away


@pytest.mark.parametrize("name", ["test", "train/NORMAL", ONE])
def test_a_link_where_scans_should_be_is_an_error_or_is_followed(source, tmp_path, name):
    whole = list_source(source)
    move_behind_link(source, name)
    words = rf"has 1 link \({name}\) where scans or their folders should be, .*Give --follow-links to take it"
    with pytest.raises(SourceError, match=words):
        list_source(source)
    with pytest.raises(SourceError, match="--follow-links"):
        build(source, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
    listing = list_source(source, follow_links=True)
    assert (listing.scan_files, listing.exclusions, listing.listing_sha256) == (
        whole.scan_files,
        (),
        whole.listing_sha256,
    )
    assert len(inspect(source, follow_links=True, quick=True, workers=0).scans) == len(archive())


@pytest.mark.slow
def test_followed_links_give_the_same_dataset_as_the_files(source, tmp_path):
    build(source, tmp_path / "plain", CONFIG, workers=0)
    move_behind_link(source, "train/NORMAL")
    move_behind_link(source, ONE)
    assert build(source, tmp_path / "linked", CONFIG, workers=0, follow_links=True).built
    assert not build(source, tmp_path / "linked", CONFIG, workers=0, follow_links=True).built
    plain, linked = (Manifest.load(tmp_path / name) for name in ("plain", "linked"))
    assert plain.digest == linked.digest
    assert b"not inside the source" not in (tmp_path / "linked" / "report.html").read_bytes()


def test_links_to_splits_or_data_sets_are_named(source, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for name in ("train", "test"):
        (links / name).symlink_to(source / name)
    with pytest.raises(SourceError, match=r"2 links \(test and train\), .*give --follow-links"):
        list_source(links)
    assert len(list_source(links, follow_links=True).scan_files) == len(archive())
    two_sets = tmp_path / "two"
    write_folder(two_sets / "one", archive())
    (two_sets / "two").symlink_to(source)
    with pytest.raises(SourceError, match=r"1 link \(two\)"):
        list_source(two_sets)
    with pytest.raises(SourceError, match="holds 2 data sets"):
        list_source(two_sets, follow_links=True)
    (tmp_path / "alias").symlink_to(source)
    assert len(list_source(tmp_path / "alias").scan_files) == len(archive())  # --src itself may be one


def test_the_error_of_a_source_of_nothing_but_links_names_them(source, tmp_path):
    links = tmp_path / "links"
    (links / "train").mkdir(parents=True)
    (links / "train/CNV").symlink_to(source / "train/CNV")
    with pytest.raises(SourceError, match=r"has no image of its own. It has 1 link .* give --follow-links"):
        list_source(links)
    (links / "train/CNV").unlink()
    (links / "train/CNV").symlink_to(tmp_path / "gone")
    for follow_links in (False, True):
        with pytest.raises(SourceError, match=r"has no image but 1 link .train/CNV., leading nowhere"):
            list_source(links, follow_links=follow_links)


def test_links_to_other_files_are_excluded_with_a_reason(source, tmp_path):
    (tmp_path / "notes").mkdir()
    (source / "papers").symlink_to(tmp_path / "notes")
    (source / "README").symlink_to("/nowhere")
    (source / "train" / "CNV" / ".foo").symlink_to("/nowhere")
    (source / "train" / "CNV" / "list.txt").symlink_to(source / ONE)
    (source / "again").symlink_to(source)
    listing = list_source(source)
    reasons = {exclusion.path: exclusion.reason for exclusion in listing.exclusions}
    assert reasons == dict.fromkeys(
        ["README", "again", "papers", "train/CNV/.foo", "train/CNV/list.txt"], "link, not followed"
    )
    assert len(listing.scan_files) == len(archive())


def test_loops_and_repeated_links_give_each_scan_once_and_dead_links_are_an_error(source):
    (source / "again").symlink_to(source)
    (source / "train" / "CNV" / "up").symlink_to("..")
    (source / "train" / "CNV" / "CNV-0-1.jpg").symlink_to("CNV-0-1.jpeg")
    listing = list_source(source, follow_links=True)
    assert len(listing.scan_files) == len(archive())
    reasons = {exclusion.path: exclusion.reason for exclusion in listing.exclusions}
    assert reasons == {
        "again": "link back to a folder above it",
        "train/CNV/up": "link back to a folder above it",
        "train/CNV/CNV-0-1.jpg": "link to a scan that is listed already: train/CNV/CNV-0-1.jpeg",
    }
    (source / "train" / "CNV" / "CNV-9-9.jpeg").symlink_to("/nowhere")
    with pytest.raises(SourceError, match=r"train/CNV/CNV-9-9.jpeg \(link that leads nowhere\) would be missing"):
        list_source(source, follow_links=True)


@pytest.mark.slow
def test_one_file_linked_under_two_classes_is_a_label_conflict(source, tmp_path):
    (source / "train" / "DME" / "DME-0-1.jpeg").symlink_to(source / "train" / "CNV" / "CNV-0-1.jpeg")
    build(source, tmp_path / "out", CONFIG, workers=0, follow_links=True)
    assert exclusions_of(tmp_path / "out") == dict.fromkeys(
        ["train/CNV/CNV-0-1.jpeg", "train/DME/DME-0-1.jpeg"], "same bytes under different classes: CNV and DME"
    )


def test_followed_links_may_not_lead_to_the_output(source, tmp_path):
    away = move_behind_link(source, "train/NORMAL")
    for out in (away / "shards", tmp_path / "disk2"):
        with pytest.raises(SourceError, match=r"the link train/NORMAL leads to .* name another place to write to"):
            build(source, out, CONFIG, follow_links=True)
    with pytest.raises(SourceError, match="name another place to write to"):
        inspect(source, quick=True, follow_links=True, keep_out=[away / "listing.json"])
