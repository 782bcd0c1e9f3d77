"""A quick inspection decodes every scan and compares names and bytes."""

import json

import cv2
import numpy as np
import pytest

from octprep import console
from octprep.format.config import Preprocessing
from octprep.inspection import checks, inspect, page
from octprep.prepare import prepare_scan
from octprep.source.listing import list_source
from tests.worlds.archive import CLASSES, SAMPLE, archive, draw_scan, files_of, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An archive with a leak, a patient in two classes, a duplicate and two files that cannot be decoded."""
    src = write_folder(tmp_path_factory.mktemp("quick"), [*archive(), "train/CNV-50-7", "train/DME-0-1"])
    cnv = src / "train" / "CNV"
    (cnv / "CNV-0-90.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes())
    (cnv / "CNV-0-91.jpeg").write_bytes((cnv / "CNV-0-1.jpeg").read_bytes()[:-400])
    (cnv / "CNV-0-92.jpeg").write_bytes(b"<html>not found</html>")
    return src


@pytest.fixture(scope="module")
def inspection(source):
    before = files_of(source)
    result = inspect(source, quick=True, workers=2)
    assert files_of(source) == before
    return result


def test_leaks_duplicates_and_unreadable_files_are_found(source, inspection):
    findings = inspection.findings
    assert [leak.patient for leak in findings.patient_leaks] == ["50"]
    assert findings.patients_in_several_classes == {"0": ("CNV", "DME")}
    (same,) = findings.duplicates
    assert [scan.path for scan in same.scans] == ["train/CNV/CNV-0-1.jpeg", "train/CNV/CNV-0-90.jpeg"]
    assert inspection.sizes == {"128x96": len(archive()) + 3}
    assert inspection.images["test"] == dict.fromkeys(CLASSES, 2)
    assert [exclusion.path for exclusion in inspection.exclusions] == [
        "train/CNV/CNV-0-91.jpeg",
        "train/CNV/CNV-0-92.jpeg",
    ]
    assert inspection.file_count == len(files_of(source)) == len(inspection.scans) + len(inspection.exclusions)


def test_a_duplicate_under_another_id_merges_the_ids(tmp_path):
    src = write_folder(tmp_path, archive())
    (src / "train" / "DME" / "DME-77-1.jpeg").write_bytes((src / "test" / "CNV" / "CNV-50-1.jpeg").read_bytes())
    findings = inspect(src, quick=True, workers=0).findings
    assert [merged.patients for merged in findings.merged_ids] == [("50", "77")]
    assert len(findings.content_leaks) == len(findings.label_conflicts) == 1


def test_checks_that_need_pixels_are_unknown(inspection):
    assert inspection.pixels is None
    states = {check.name: check.state for check in checks.checks(inspection)}
    assert states == {
        "Patients disjoint": checks.NO,
        "Contents disjoint": checks.YES,
        "Near-duplicates disjoint": checks.UNKNOWN,
        "One id per patient": checks.YES,
        "Labels agree": checks.YES,
        "No shortcut features": checks.UNKNOWN,
    }
    assert checks.headline(inspection) == "Leaky as it is: 1 patient is in more than one folder"
    with pytest.raises(ValueError, match="needs a full inspection"):
        page.render(inspection.root, inspection)


def test_the_json_has_null_for_what_needs_pixels(inspection):
    raw = json.loads(inspection.to_json())
    assert raw["quick"]
    assert raw["similarity"] is raw["shortcut_features"] is raw["near_duplicates_in_several_splits"] is None
    assert raw["sizes"] == {"128x96": len(archive()) + 3}
    assert raw["equal_contents"][0]["paths"] == ["train/CNV/CNV-0-1.jpeg", "train/CNV/CNV-0-90.jpeg"]
    assert len(raw["scans"]) == len(inspection.scans)
    assert "linked" not in raw["scans"][0]


def test_the_findings_are_printed(source, inspection):
    printed = console.inspection_summary(source, inspection)
    assert "patients in more than one folder of the split: 1 (50)" in printed
    assert "train/CNV/CNV-0-1.jpeg = train/CNV/CNV-0-90.jpeg" in printed
    assert "sizes (width x height): 128x96" in printed


def test_a_source_without_a_readable_scan_is_reported(tmp_path):
    path = tmp_path / "src" / "CNV" / "CNV-1-1.jpeg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    inspection = inspect(tmp_path / "src", quick=True, workers=0)
    assert (inspection.scans, len(inspection.exclusions), inspection.images) == ((), 1, {})
    assert "0 scans, 1 excluded" in console.inspection_summary(tmp_path / "src", inspection)
    assert json.loads(inspection.to_json())["scans"] == []


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is missing")
def test_the_real_sample_is_read_whole_and_its_leaks_are_found():
    inspection = inspect(SAMPLE, quick=True)
    assert len(inspection.scans) == 38
    assert not inspection.exclusions
    assert [leak.patient for leak in inspection.findings.patient_leaks] == ["53018", "732516", "6294785"]
    assert inspection.findings.patients_in_several_classes == {
        "53018": ("CNV", "DRUSEN"),
        "732516": ("CNV", "DRUSEN"),
        "1081406": ("DME", "NORMAL"),
    }


def test_flags_are_those_of_a_full_inspection(tmp_path):
    src = write_folder(tmp_path, archive(2))
    path = src / "train" / "CNV" / "CNV-0-1.jpeg"
    gray = draw_scan("framed", 200, 400)
    gray[:12] = gray[-12:] = gray[:, :12] = gray[:, -12:] = 255
    rgb = np.dstack([gray] * 3)
    rgb[60:64, 100:150] = (0, 0, 255)
    cv2.imwrite(str(path), rgb, [cv2.IMWRITE_JPEG_QUALITY, 98])
    result = inspect(src, quick=True, workers=0)
    assert result.flags_of["train/CNV/CNV-0-1.jpeg"] == ("drawn", "white-frame")
    prepared = [prepare_scan(src, file, Preprocessing()) for file in list_source(src).scan_files]
    assert {scan.scan.path: scan.measurements.flags for scan in prepared} == result.flags_of
    assert set(result.flags) == {"drawn", "small", "white-frame"}
    assert "drawn 1 (" in console.inspection_summary(src, result)
    assert json.loads(result.to_json())["flags"]["small"] == len(result.scans) - 1
