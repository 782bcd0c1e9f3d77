"""A full inspection finds every planted fault and no others, and does not change the source."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from octprep import cli, console, preprocessing
from octprep.duplicates import search
from octprep.format.errors import OutputError, SettingError, SourceError, StoppedError
from octprep.format.files import write_output_file
from octprep.format.flags import MEANINGS
from octprep.inspection import checks, inspect, page, sentences, similarity
from octprep.inspection.features import stored_pixels
from octprep.source.published import PUBLISHED, PublishedDataset
from octprep.wording import listed
from tests.inspection.planted import HOSTILE_FOLDER, write_class_folders
from tests.worlds.archive import CLASSES, SAMPLE, archive, draw_scan, files_of, write_folder, write_scan

pytestmark = pytest.mark.slow


def test_every_planted_fault_is_found(source, inspection):
    printed = console.inspection_summary(source, inspection)
    findings = inspection.findings
    planted = [path.name for path in (source / HOSTILE_FOLDER).rglob("*-999998?-*.jpeg")]
    assert len(planted) == 4
    near_duplicates = inspection.pixels.similarity.duplicates
    paired = {path.rpartition("/")[2] for pair in near_duplicates for path in (pair.first, pair.second)}
    assert paired >= {*planted, "DRUSEN-7777771-1.jpeg"}
    merged = listed([patient for group in findings.merged_ids for patient in group.patients], 99)
    for name in planted:
        assert name.split("-")[1] in merged
        assert name in printed
    names = {
        folder: {path.name for path in (source / HOSTILE_FOLDER / folder).rglob("*-*-*.jpeg")}
        for folder in inspection.images
    }
    shared = {name.split("-")[1] for name in names["test"]} & {
        name.split("-")[1] for name in names["train"] | names["val"]
    }
    assert {leak.patient for leak in findings.patient_leaks} >= shared
    assert len(shared) >= 8
    assert len([same for same in findings.content_leaks if same.reason == "same bytes"]) == 2
    assert len(findings.near_duplicate_leaks) >= 3
    assert len(findings.patients_in_several_classes) == 3
    assert "truncated JPEG" in printed
    assert "Leaky as it is: " in printed
    assert checks.recommendation(inspection) in printed


def test_flags_are_counted_with_three_examples(tmp_path):
    src = write_folder(tmp_path / "src", archive(2))
    drawn = [path for path in sorted(src.rglob("*.jpeg")) if path.parent.name == "CNV"][:4]
    for path in drawn:
        rgb = np.dstack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)] * 3)
        cv2.line(rgb, (20, 20), (90, 20), (0, 0, 255), 1)
        cv2.imwrite(str(path), rgb)
    found = inspect(src, workers=0)
    assert found.flags["drawn"] == [path.relative_to(src).as_posix() for path in drawn]
    names = listed(found.flags["drawn"], 3)
    assert names.endswith(" and 1 more")
    printed = console.inspection_summary(src, found)
    assert f"\n  drawn 4 ({MEANINGS['drawn']}): {names}\n" in printed
    assert f"scans with a flag: {len(found.scans)}\n  small {len(found.scans)} (" in printed  # all have 128 columns
    content = json.loads(found.to_json())
    assert content["flags"] == {"small": len(found.scans), "drawn": 4}
    assert [scan["flags"] for scan in content["scans"] if "drawn" in scan["flags"]] == [["drawn", "small"]] * 4
    assert names in page.render(src, found).decode()


def test_label_conflicts_are_listed(source, inspection):
    (conflict,) = inspection.findings.label_conflicts
    assert {scan.label for scan in conflict.scans} == {"CNV", "DME"}
    assert conflict.scans[-1].path.endswith("DME-7777770-1.jpeg")
    near = inspection.findings.near_duplicate_conflicts  # with the original, and with another near-duplicate of it
    assert near
    assert all(pair.first.endswith("DRUSEN-7777771-1.jpeg") for pair in near)
    assert re.search(
        r"contents under more than one class: 1\n .*DME-7777770-1.jpeg: same bytes",
        console.inspection_summary(source, inspection),
    )


def test_the_near_duplicates_are_those_of_a_build(source, inspection):
    descriptors = [item.descriptor for item in inspection.pixels.features]
    pairs = search.near_duplicate_pairs(
        inspection.scans, descriptors, lambda index: stored_pixels(source, inspection.scans[index])
    )
    assert pairs == sorted(inspection.pixels.similarity.duplicates)


def test_the_gray_levels_are_those_of_the_decoded_scan(source, inspection):
    item = inspection.pixels.features[0]
    gray = preprocessing.read_image(source / item.scan.path)[0]
    assert item.decoded_mean == pytest.approx(gray.mean(), abs=0.006)
    assert item.decoded_std == pytest.approx(gray.std(), abs=0.006)


def test_workers_do_not_change_a_byte(source, inspection, html):
    again = inspect(source, workers=2)
    assert again.to_json() == inspection.to_json()
    assert page.render(source, again) == html.read_bytes()


def test_a_negative_seed_is_an_error(source):
    with pytest.raises(SettingError, match="got -1"):
        inspect(source, seed=-1)


def test_the_json_holds_everything(inspection):
    raw = json.loads(inspection.to_json())
    assert not raw["quick"]
    assert len(raw["scans"]) == len(inspection.scans)
    assert raw["scans"][0].keys() >= {"path", "sha256", "patient_group", "fill_fraction", "stored_mean"}
    assert raw["similarity"]["threshold"] == similarity.THRESHOLD
    assert len(raw["merged_patient_ids"]) == len(inspection.findings.merged_ids)
    assert raw["contents_in_several_classes"][0]["classes"] == ["CNV", "DME"]
    assert [accuracy["feature"] for accuracy in raw["shortcut_features"]["accuracies"]][-1] == "all together"


def test_class_folders_without_splits_have_no_leaks_but_shortcuts(tmp_path):
    src = write_class_folders(tmp_path / "src", {"CNV": 95, "NORMAL": 60})
    shutil.copy(src / "CNV" / "CNV-1-1.jpeg", src / "NORMAL" / "NORMAL-99-1.jpeg")
    report, json_file = tmp_path / "a.html", tmp_path / "a.json"
    command = ["inspect", src, "--workers", 1, "--report", report, "--json", json_file]
    done = CliRunner().invoke(cli.app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Not split into folders yet, so nothing leaks; 1 content under more than one class\n")
    assert "patients in more than one folder" not in done.stdout
    assert "File bytes alone predict the class" in done.stdout
    assert "1 and 99 (4 scans): CNV/CNV-1-1.jpeg = NORMAL/NORMAL-99-1.jpeg: same bytes" in done.stdout
    assert f"\nwrote {report}\nwrote {json_file}\n" in done.stdout
    assert "There are no split folders" in report.read_text()
    assert json.loads(json_file.read_text())["images"] == {"": {"CNV": 24, "NORMAL": 25}}


def test_a_published_version_is_recognised(inspection):
    assert inspection.published is None
    assert sentences.published_sentence(inspection).startswith("The counts match no published version")
    published = PublishedDataset(next(iter(PUBLISHED)))
    recognised = type(inspection)(**vars(inspection) | {"published": published})
    assert sentences.published_sentence(recognised) == f"By its counts this is {published}"


def test_a_clean_split_passes_every_check(tmp_path):
    for folder, first in (("train", 0), ("test", 100)):
        for class_index, label in enumerate(CLASSES):
            for patient in range(3):
                scan = tmp_path / "src" / folder / label / f"{label}-{first + 10 * class_index + patient}-1.jpeg"
                write_scan(scan, key=scan.name)
    inspection = inspect(tmp_path / "src", workers=0)
    assert checks.headline(inspection) == "No leak between train and test was found"
    assert {check.state for check in checks.checks(inspection)[:5]} == {checks.YES}
    html = page.render(tmp_path / "src", inspection).decode()
    assert '<h1 class="good">' in html
    assert html.count("<p>None.</p>") >= 6


@pytest.mark.parametrize("option", ["--report", "--json"])
def test_nothing_is_written_under_the_source_or_to_a_folder(tmp_path, option):
    src = write_class_folders(tmp_path / "src", {"CNV": 80, "NORMAL": 80})
    before = files_of(tmp_path)
    for path, message in (
        (src / "page.html", "lies inside --src"),
        (src / ".." / "src" / "CNV" / "a", "lies inside --src"),
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a", "there is no folder"),
    ):
        done = CliRunner().invoke(cli.app, ["inspect", str(src), "--workers", "1", option, str(path)])
        assert isinstance(done.exception, OutputError)
        assert message in str(done.exception)
    assert files_of(tmp_path) == before
    with pytest.raises(OutputError, match="cannot be written"):
        write_output_file(option, tmp_path / "none" / "a", b"")


def test_a_source_without_a_readable_scan_is_an_error(tmp_path):
    path = tmp_path / "src" / "CNV" / "CNV-1-1.jpeg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(SourceError, match="has no readable scan; `octprep inspect --quick"):
        inspect(tmp_path / "src", workers=0)


def test_a_file_that_changes_during_the_inspection_is_an_error(tmp_path):
    path = write_scan(tmp_path / "CNV" / "CNV-1-1.jpeg")
    scan = inspect(tmp_path, workers=0).scans[0]
    path.write_bytes(cv2.imencode(".jpeg", draw_scan("other"))[1].tobytes())
    with pytest.raises(StoppedError, match=r"CNV-1-1.jpeg .* so it is not the file that was listed"):
        stored_pixels(tmp_path, scan)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real scans is missing")
def test_the_real_sample_leaks_three_patients_and_merges_no_ids():
    inspection = inspect(SAMPLE, workers=0)
    assert [leak.patient for leak in inspection.findings.patient_leaks] == ["53018", "732516", "6294785"]
    assert inspection.findings.merged_ids == inspection.pixels.similarity.duplicates == ()
    assert checks.headline(inspection) == "Leaky as it is: 3 patients are in more than one folder"
