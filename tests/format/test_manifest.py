"""Settings and manifest: invalid values, edits, and other versions are errors that name them."""

import dataclasses
import json
import subprocess
import sys

import pytest

from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError, OctError, SettingError
from octprep.format.manifest import MANIFEST_NAME, Leaks, Manifest, Shard, version_differences


def manifest():
    first, second = (
        Shard(name=f"train/{n:05d}-of-00002.tfrecord", records=4, per_class=(2, 2), bytes=10, sha256="ab" * 32)
        for n in range(2)
    )
    return Manifest(
        class_names=("CNV", "NORMAL"),
        config=BuildConfig(split="by-patient"),
        splits={"train": (first, second), "test": ()},
        leaks=Leaks(patients=("12",)),
        source={"found": 5, "kept": 4, "excluded": 1, "listing": "00" * 32},
        images_sha256="cd" * 32,
        duplicates_sha256="ef" * 32,
        libraries={"numpy": "2"},
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Preprocessing(height=0), "between 16 and 4096 pixels a side; got height 0"),
        (lambda: Preprocessing(width=5000), "got width 5000"),
        (lambda: Preprocessing(field_of_view=2), "between 5 and 60 degrees; got 2"),
        (lambda: Preprocessing(denoise="wavelet", denoise_strength=0), "factor on its thresholds"),
        (
            lambda: Preprocessing(denoise="mean"),
            "denoise must be one of median, bilateral, lee, nlm, wavelet, none; got 'mean'",
        ),
        (lambda: Preprocessing(denoise="median", denoise_strength=4), "3, 5, 7 or 9; got 4"),
        (lambda: Preprocessing(denoise="lee", denoise_strength=2), "strength of lee is its window"),
        (lambda: Preprocessing(margin_above=-0.1), "margin-above must be between 0 and 2"),
        (lambda: Preprocessing(band_rows=30), "band-rows must be between 64 and 4096 rows of the source; got 30"),
        (lambda: Preprocessing(denoise="nlm", denoise_strength=-1), "above 0"),
        (lambda: Preprocessing(denoise="none", denoise_strength=1), "takes no --denoise-strength"),
        (lambda: Preprocessing(crop="face"), "crop must be one of retina, band, none"),
        (lambda: Preprocessing(resize="fill"), "resize must be one of stretch, pad"),
        (lambda: BuildConfig(split="random"), "split must be one of auto, keep-test"),
        (lambda: BuildConfig(balance="both"), "balance must be one of"),
        (lambda: BuildConfig(encoding="gif"), "encoding must be one of"),
        (lambda: BuildConfig(fractions=(1, 0, 0)), "three numbers above 0"),
        (lambda: BuildConfig(fractions=(0, 0, 0)), "or 0,0,1 for a test split alone; got 0,0,0"),
        (lambda: BuildConfig(fractions=(0, 0, 1), split="keep-test"), "for --split by-patient; got split 'keep-test'"),
        (lambda: BuildConfig(fractions=(float("nan"), 1, 1)), "three numbers above 0"),
        (lambda: BuildConfig(folds=1), "between 2 and 100; got 1"),
        (lambda: BuildConfig(shard_mb=0), "above 0; got 0"),
        (lambda: BuildConfig(seed=-1), "between 0 and"),
        (lambda: BuildConfig(max_per_patient=-1), "0 to keep all; got -1"),
        (lambda: BuildConfig(split="file"), "got split 'file' without such a file"),
        (lambda: BuildConfig(split_file_sha256="00"), "got split 'auto' with such a file"),
        (lambda: BuildConfig(allow_leaks=True), "allow-leaks is for --split as-given"),
        (lambda: BuildConfig(split="kfold", balance="oversample"), "--balance none with --split kfold"),
    ],
)
def test_invalid_settings_are_errors_that_name_the_value(make, words):
    with pytest.raises(SettingError) as caught:
        make()
    assert words in str(caught.value)


def test_a_manifest_reads_back_as_it_was_saved(tmp_path):
    manifest().save(tmp_path)
    assert Manifest.load(tmp_path) == manifest()
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]
    assert Manifest.load(tmp_path).per_class("train") == {"CNV": 4, "NORMAL": 4}
    assert Manifest.load(tmp_path).per_class("test") == {"CNV": 0, "NORMAL": 0}


def test_any_change_of_a_manifest_is_detected(tmp_path):
    manifest().save(tmp_path)
    path = tmp_path / MANIFEST_NAME
    raw = json.loads(path.read_text())
    for key in set(raw) - {"digest", "format_version"}:
        changed = json.loads(path.read_text())
        match changed[key]:
            case dict() as inner:
                first = next(iter(inner))
                inner[first] = [] if isinstance(inner[first], list) else None
            case list() as inner:
                inner.append("ZZZ")
            case str():
                changed[key] = "x" + changed[key]
        folder = tmp_path / key
        folder.mkdir()
        (folder / MANIFEST_NAME).write_text(json.dumps(changed))
        with pytest.raises(ManifestError, match=r"changed after it was written|not a manifest that octprep wrote"):
            Manifest.load(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no manifest.json"),
        ("{", "cannot be read"),
        ("[]", "format version None"),
        ('{"format_version": 99}', "format version 99, but this version of octprep reads format version 3"),
        ('{"format_version": 3}', "not a manifest that octprep wrote"),
        ('{"format_version": 3, "class_names": 3}', "not a manifest that octprep wrote"),
    ],
)
def test_a_file_that_is_not_a_manifest_is_a_one_line_error(tmp_path, content, words):
    if content is not None:
        (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(ManifestError, match=words):
        Manifest.load(tmp_path)
    with pytest.raises(ManifestError, match="is not a folder"):
        Manifest.load(tmp_path / "absent")


def test_files_are_compared_with_the_manifest(tmp_path):
    with pytest.raises(ManifestError, match="is missing"):
        manifest().check_files(tmp_path, ("train",))
    with pytest.raises(ManifestError, match="has no split 'val'; it has train, test"):
        manifest().check_files(tmp_path, ("val",))
    path = tmp_path / "train" / "00000-of-00002.tfrecord"
    path.parent.mkdir()
    path.write_bytes(b"123")
    with pytest.raises(ManifestError, match="has 3 bytes where the manifest says 10"):
        manifest().check_files(tmp_path, ("train",))
    path.write_bytes(b"0123456789")
    with pytest.raises(ManifestError, match="has SHA-256"):
        manifest().check_files(tmp_path, ("train",))


def test_the_format_package_imports_only_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import octprep.format.manifest; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=".", capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["octprep"]


def test_every_error_has_an_exit_code():
    codes = {error.exit_code for error in OctError.__subclasses__()}
    assert codes <= {1, 2}


def test_changed_library_versions_are_named_with_both_versions():
    made = dataclasses.replace(manifest(), libraries={"octprep": "1.0", "opencv": "4.1", "numpy": "2"})
    assert version_differences(made, {"octprep": "1.0", "opencv": "4.1", "numpy": "3"}) == []
    assert version_differences(made, {"octprep": "1.1", "opencv": "4.2"}) == [
        "octprep 1.0 made the shards, 1.1 is installed",
        "OpenCV 4.1 made the shards, 4.2 is installed",
    ]
    assert version_differences(made, {"pywavelets": "1"}) == []
