"""Every file becomes a scan or a rejection with a reason; nothing under the source is touched or left."""

import os
from pathlib import Path

import pytest
from octprep.inspection.quick import survey

from octprep.format.errors import SourceError
from octprep.source import files
from octprep.source.files import Exclusion, PublishedDataset, ScanFile, read_name
from tests.worlds.archive import CLASSES, SAMPLE, archive, files_of, write_folder


@pytest.mark.parametrize(
    ("path", "label", "patient", "number", "folder"),
    [
        ("train/CNV/CNV-1016042-12.jpeg", "CNV", "1016042", 12, "train"),
        ("Train/cnv/cnv-7-1.JPG", "CNV", "7", 1, "train"),
        ("DRUSEN/DRUSEN-5-2.jpeg", "DRUSEN", "5", 2, ""),
        ("val/NORMAL/NORMAL-5-2.png", "NORMAL", "5", 2, "val"),  # what it is, its content says, not its ending
    ],
)
def test_names_are_read(path, label, patient, number, folder):
    assert read_name(path, 10, "") == ScanFile(path, label, patient, number, folder, 10)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("train/CNV/._CNV-1-1.jpeg", "macOS metadata"),
        ("__MACOSX/train/CNV/CNV-1-1.jpeg", "macOS metadata"),
        ("train/.DS_Store", "macOS metadata"),
        ("train/CNV/.hidden", "hidden file"),
        ("train/CNV/CNV-1.jpeg", "name is not CLASS-patientID-number.jpeg"),
        ("train/CNV/CNV-1-1.jpeg~", "name is not"),
        ("train/CNV/DME-1-1.jpeg", "name and folder disagree: DME in CNV"),
        ("README.txt", "not in a class folder"),
        ("other/CNV/CNV-1-1.jpeg", "not in a class folder"),
        ("train/CNV/more/CNV-1-1.jpeg", "not in a class folder"),
    ],
)
def test_what_is_no_scan_is_rejected_with_a_reason(path, reason):
    found = read_name(path, 10, "")
    assert isinstance(found, Exclusion)
    assert found.reason.startswith(reason)


def test_a_data_set_inside_single_folders_is_found(tmp_path):
    write_folder(tmp_path / "OCT2017 ", archive())
    (tmp_path / "__MACOSX" / "OCT2017 " / "train" / "CNV").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "OCT2017 " / "train" / "CNV" / "._CNV-0-1.jpeg").write_bytes(b"\0\5\26\7")
    source = files.find(tmp_path)
    assert source.root == "OCT2017 "
    assert len(source.named) == len(archive())
    assert all(named.path.startswith("OCT2017 /") for named in source.named)
    assert [rejection.reason for rejection in source.rejections] == ["macOS metadata, not a scan"]


def test_folders_that_are_no_source_are_refused_with_a_sentence(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        files.find(tmp_path / "absent")
    with pytest.raises(SourceError, match="is empty"):
        files.find(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match="is a file"):
        files.find(tmp_path / "notes.txt")
    with pytest.raises(SourceError, match=r"has no class folders: expected .*found notes.txt"):
        files.find(tmp_path)
    write_folder(tmp_path / "one", archive())
    write_folder(tmp_path / "two", archive())
    with pytest.raises(SourceError, match=r"holds 2 data sets \('one', 'two'\)"):
        files.find(tmp_path)


def test_pipes_and_odd_names_are_rejected_without_being_opened(tmp_path):
    src = write_folder(tmp_path, archive())
    os.mkfifo(src / "train" / "CNV" / "CNV-66-1.jpeg")
    Path(os.fsdecode(os.fsencode(src) + b"/train/CNV/CNV-\xff-1.jpeg")).write_bytes(b"x")
    reasons = {rejection.path: rejection.reason for rejection in files.find(src).rejections}
    assert reasons == {
        "train/CNV/CNV-66-1.jpeg": "not a regular file",
        "train/CNV/CNV-\\xff-1.jpeg": "name is not CLASS-patientID-number.jpeg",
    }


def test_a_survey_finds_what_is_wrong_and_changes_nothing(tmp_path):
    src = write_folder(tmp_path, [*archive(), "train/CNV-50-7", "train/DME-0-1"])
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-90.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes())
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])
    (cnv / "CNV-0-92.jpeg").write_bytes(b"<html>not found</html>")
    before = files_of(src)
    found = survey(src, workers=2)
    assert files_of(src) == before
    assert found.leaks.patients == ("50",)
    assert found.two_classes == {"0": ("CNV", "DME")}
    assert found.equal_contents == [("train/CNV/CNV-0-1.jpeg", "train/CNV/CNV-0-90.jpeg")]
    assert found.sizes == {"128x96": len(archive()) + 3}
    assert found.images["test"] == dict.fromkeys(CLASSES, 2)
    assert {rejection.path for rejection in found.rejections} == {"train/CNV/CNV-0-91.jpeg", "train/CNV/CNV-0-92.jpeg"}
    assert found.files == len(before) == len(found.scans) + len(found.rejections)


def test_published_counts_are_recognised():
    def entries(train, test, val):
        for folder, counts in (("train", train), ("test", test), ("val", val)):
            for label, number in zip(CLASSES, counts, strict=True):
                yield from (ScanFile(f"{folder}{label}{n}", label, "1", n, folder, 1) for n in range(number))

    counts = (37205, 11348, 8616, 26315)
    assert files.published_version(entries(counts, (242,) * 4, (8,) * 4)) == PublishedDataset("Kaggle kermany2018")
    assert files.published_version(entries(counts, (250,) * 4, (0,) * 4)) == PublishedDataset("Mendeley version 2")
    third = files.published_version(entries((37205, 11348, 8616, 51140), (250,) * 4, (0,) * 4))
    assert third == PublishedDataset("Mendeley version 3")
    lacking = files.published_version(entries((37205, 11347, 8616, 26315), (242,) * 4, (9, 8, 8, 8)))
    assert lacking == PublishedDataset(
        "Kaggle kermany2018", ("train/DME 11,348 there, 11,347 here", "val/CNV 8 there, 9 here")
    )
    assert str(lacking) == ("nearly Kaggle kermany2018 (train/DME 11,348 there, 11,347 here; val/CNV 8 there, 9 here)")
    assert files.published_version(entries((36000, 11348, 8616, 26315), (242,) * 4, (8,) * 4)) is None
    assert files.published_version(entries((1, 2, 3, 4), (0,) * 4, (0,) * 4)) is None


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is not here")
def test_the_sample_is_read_whole_and_its_leaks_are_found():
    found = survey(SAMPLE)
    assert len(found.scans) == 38
    assert not found.rejections
    assert found.leaks.patients == ("53018", "732516", "6294785")
    assert found.two_classes == {"1081406": ("DME", "NORMAL"), "53018": ("CNV", "DRUSEN"), "732516": ("CNV", "DRUSEN")}
