"""Sources of DICOM and .vol files: each B-scan in them is a scan of its own, with a row in images.csv."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import cv2
import pytest

import octprep
from octprep.prepare import prepare_scan
from octprep.source.listing import list_source
from octprep.source.options import SourceSpec
from tests.worlds.builds import CONFIG
from tests.worlds.volume_files import dicom, drawn, reflectance, vol

pytest.importorskip("pydicom")
LABELS = ("CNV", "NORMAL")
PATIENTS = 6  # of each class
FRAMES = 3 * len(LABELS) * PATIENTS


def volumes_of(root: Path, name: str = "{label}/p{patient}/scan.dcm") -> Path:
    """A folder with a DICOM or .vol file of three B-scans for each patient."""
    for index, label in enumerate(LABELS):
        for patient in range(PATIENTS):
            path = root / name.format(label=label, patient=100 * index + patient)
            pixels = drawn(f"{label}-{patient}")
            path.parent.mkdir(parents=True, exist_ok=True)
            is_vol = patient % 2 and path.suffix == ".dcm"
            eyes = ["R", "L", "L"] if patient % 4 else []
            data = dicom(pixels, eyes=eyes, attributes={"PatientID": f"P{100 * index + patient}"})
            path.write_bytes(vol(reflectance(pixels), eye="OS") if is_vol else data)
    return root


def pictures_of(root: Path) -> Path:
    """The same B-scans, each as a PNG."""
    for index, label in enumerate(LABELS):
        for patient in range(PATIENTS):
            for number, pixels in enumerate(drawn(f"{label}-{patient}"), 1):
                path = root / label / f"p{100 * index + patient}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    return root


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stored(folder: Path) -> dict[str, bytes]:
    """Stored pixels by patient and number, from all splits."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        f"{record.patient} {record.number}": record.image
        for split in manifest["splits"]
        for record in octprep.read_records(folder, split)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    source = volumes_of(root / "volumes")
    octprep.build(source, root / "shards", CONFIG, workers=0)
    return source, root / "shards"


def test_each_frame_has_a_row_and_the_stored_pixels_of_a_png_of_it(built, tmp_path):
    source, shards = built
    octprep.build(pictures_of(tmp_path / "pictures"), tmp_path / "shards", CONFIG, workers=0)
    assert stored(shards) == stored(tmp_path / "shards") and len(stored(shards)) == FRAMES
    rows = rows_of(shards)
    first = [row for row in rows if row["path"].startswith("CNV/p1/")]
    assert [(row["path"], row["image_number"]) for row in first] == [
        ("CNV/p1/scan.dcm#1", "1"), ("CNV/p1/scan.dcm#2", "2"), ("CNV/p1/scan.dcm#3", "3"),
    ]  # fmt: skip
    assert {row["bytes"] for row in first} == {str((source / "CNV/p1/scan.dcm").stat().st_size)}
    assert len({row["sha256"] for row in rows}) == len(rows) == FRAMES


def test_the_eye_is_that_of_the_frame_and_empty_where_the_file_does_not_state_it(built):
    eyes = {row["path"]: row["eye"] for row in rows_of(built[1])}
    assert [eyes[f"CNV/p2/scan.dcm#{number}"] for number in (1, 2, 3)] == ["OD", "OS", "OS"]
    assert eyes["CNV/p4/scan.dcm#1"] == "" and eyes["CNV/p3/scan.dcm#1"] == "OS"


def test_a_build_of_volumes_verifies_and_shows_its_frames(built):
    source, shards = built
    assert not octprep.verify(shards, workers=0).violations
    page = (shards / "report.html").read_text()
    assert "data:image/jpeg" in page and "not shown: the file" not in page
    inspection = octprep.inspect(source, quick=True, workers=0)
    assert len(inspection.scans) == FRAMES


def test_a_second_build_keeps_what_is_there_and_one_frame_that_changed_is_found(built, tmp_path):
    source = volumes_of(tmp_path / "volumes")
    assert octprep.build(source, tmp_path / "shards", CONFIG, workers=0).built
    assert not octprep.build(source, tmp_path / "shards", CONFIG, workers=0).built
    path = source / "CNV/p0/scan.dcm"
    pixels = drawn("CNV-0")
    pixels[1] = 255 - pixels[1]
    path.write_bytes(dicom(pixels, attributes={"PatientID": "P0"}))
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        assert octprep.build(source, tmp_path / "shards", CONFIG, workers=0).built
    assert any("1 source file changed" in str(one.message) and "scan.dcm#2" in str(one.message) for one in notices)


def test_the_patient_is_the_one_of_the_file_where_the_paths_name_none(tmp_path):
    source = volumes_of(tmp_path, "{label}/{patient}scan.dcm")
    listing = list_source(source)
    assert {file.patient for file in listing.scan_files if file.label == "NORMAL"} == {
        f"P{100 + patient}" if patient % 2 == 0 else "P7" for patient in range(PATIENTS)
    }


def test_files_without_an_ending_are_recognised_by_their_content(tmp_path):
    source = volumes_of(tmp_path, "{label}/p{patient}/IM0001")
    (source / "CNV/p0/README").write_text("no scan")
    spec = SourceSpec(source, pattern="{class}/{patient}/*")
    files = list_source(spec).scan_files
    assert sum(file.frame > 0 for file in files) == FRAMES and [f.path for f in files if not f.frame] == [
        "CNV/p0/README"
    ]


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619.2.55"])
def test_a_layout_is_recognised_of_files_without_an_ending_or_called_by_their_uid(tmp_path, name):
    source = volumes_of(tmp_path, f"{{label}}/p{{patient}}/{name}")
    listing = list_source(source)
    assert (
        listing.layouts[0].startswith("class-patient: ")
        and sum(file.frame > 0 for file in listing.scan_files) == FRAMES
    )


def test_a_jpeg_with_the_ending_of_a_dicom_is_a_jpeg(tmp_path):
    path = tmp_path / "CNV" / "CNV-12-3.dcm"
    path.parent.mkdir()
    path.write_bytes(cv2.imencode(".jpeg", drawn("jpeg")[0])[1].tobytes())
    [file] = list_source(tmp_path).scan_files
    assert (file.path, file.frame, file.image_number) == ("CNV/CNV-12-3.dcm", 0, 3)


def test_a_file_of_one_frame_keeps_the_number_that_its_name_states(tmp_path):
    for number, frames in ((3, 1), (4, 2)):
        path = tmp_path / "CNV" / f"CNV-12-{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dicom(drawn("one", frames)))
    found = [(file.path, file.image_number) for file in list_source(tmp_path).scan_files]
    assert found == [("CNV/CNV-12-3.dcm#1", 3), ("CNV/CNV-12-4.dcm#1", 1), ("CNV/CNV-12-4.dcm#2", 2)]


def test_what_a_table_says_of_a_file_goes_for_its_frames_before_what_the_file_states(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").write_bytes(dicom(drawn("a"), eyes=["R"] * 3, spacing=[0.0039, 0.01]))
    (tmp_path / "scans" / "b.dcm").write_bytes(dicom(drawn("b"), eyes=["R"] * 3, spacing=[0.0039, 0.01]))
    table = tmp_path / "table.csv"
    table.write_text("file,class,patient,eye,axial_um\na,CNV,1,OS,2.5\nb,DME,2,,\n")
    files = list_source(SourceSpec(tmp_path / "scans", table=table)).scan_files
    assert {(f.path[0], f.label, f.patient, f.eye, f.axial_um) for f in files} == {
        ("a", "CNV", "1", "OS", 2.5),
        ("b", "DME", "2", "OD", 3.9),
    }


@pytest.mark.parametrize(("spacing", "rows"), [(0.0039, 198), (0.0078, 99), (None, 200)])
def test_a_band_is_as_deep_as_the_rows_that_a_file_states(tmp_path, spacing, rows):
    path = tmp_path / "CNV" / "CNV-1-1.dcm"
    path.parent.mkdir()
    path.write_bytes(dicom(drawn("band", 1, 400, 128), spacing=spacing and [spacing, 0.01]))
    recipe = octprep.Preprocessing(height=32, width=48, crop="band", band_rows=200)
    prepared = prepare_scan(tmp_path, list_source(tmp_path).scan_files[0], recipe)
    top, bottom, _, _ = prepared.measurements.crop
    assert bottom - top == rows


def test_circular_frames_are_rows_with_the_reason(tmp_path):
    path = tmp_path / "CNV" / "p1" / "scan.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(dicom(drawn("a"), orientations=["LINEAR", "NONLINEAR", "LINEAR"]))
    circle = path.with_name("circle.vol")
    circle.write_bytes(vol(reflectance(drawn("c", 1)), pattern=2))
    listing = list_source(SourceSpec(tmp_path, pattern="{class}/{patient}/*"))
    assert [file.path for file in listing.scan_files] == ["CNV/p1/scan.dcm#1", "CNV/p1/scan.dcm#3"]
    assert [(one.path, one.reason.partition(":")[0]) for one in listing.exclusions] == [
        ("CNV/p1/circle.vol", "circular scan"),
        ("CNV/p1/scan.dcm#2", "circular scan"),
    ]


def test_a_file_that_has_the_name_of_a_frame_is_not_mistaken_for_it(tmp_path):
    path = tmp_path / "CNV" / "p1" / "scan.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(dicom(drawn("a")))
    path.with_name("scan.dcm#2").write_bytes(b"another file")
    listing = list_source(SourceSpec(tmp_path, pattern="{class}/{patient}/*"))
    assert [(file.path, file.frame) for file in listing.scan_files] == [("CNV/p1/scan.dcm#2", 0)]
    assert listing.exclusions[0].path == "CNV/p1/scan.dcm" and "scan.dcm#2" in listing.exclusions[0].reason


def test_pseudonyms_replace_the_patient_of_a_file_and_keep_its_frames_apart(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    source = volumes_of(tmp_path / "source", "{label}/{patient}scan.dcm")
    octprep.build(source, tmp_path / "shards", CONFIG, workers=0, pseudonyms=key)
    text = (tmp_path / "shards" / "images.csv").read_text()
    assert "P10" not in text and "scan" not in text
    assert len({row["path"] for row in rows_of(tmp_path / "shards")}) == FRAMES
    assert not octprep.verify(tmp_path / "shards", workers=0).violations
    assert not octprep.build(source, tmp_path / "shards", CONFIG, workers=0, pseudonyms=key).built
