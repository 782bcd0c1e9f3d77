"""What `octprep export` writes is read by the libraries that it is written for; it is complete, or it is not there."""

import dataclasses
import gc
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import octprep
from octprep import cli, interchange, terminal
from octprep.format.errors import ManifestError, OutputError, SettingError, StoppedError
from octprep.format.manifest import Manifest
from octprep.interchange import exporting
from octprep.pipeline import build
from tests.worlds import builds
from tests.worlds.archive import archive, files_of, write_folder
from tests.worlds.builds import CONFIG, SMALL
from tests.worlds.edits import restore

ENCODINGS = [
    dataclasses.replace(CONFIG, recipe=dataclasses.replace(SMALL, flatten=True)),
    dataclasses.replace(CONFIG, encoding="png"),
]
METADATA = ("label", "patient", "path", "number", "sha256", "repeat")


@pytest.fixture(scope="module", params=ENCODINGS, ids=["raw", "png"])
def folder(request, tmp_path_factory):
    """A finished folder in several shards, with repeats in train. Only to be read."""
    made = tmp_path_factory.mktemp("export")
    build(write_folder(made / "src", archive()), made / "shards", request.param, workers=1)
    return made / "shards"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    made = tmp_path_factory.mktemp("raw")
    build(write_folder(made / "src", archive()), made / "shards", CONFIG, workers=1)
    return made / "shards"


@pytest.fixture(scope="module")
def copied(raw, tmp_path_factory):
    return shutil.copytree(raw, tmp_path_factory.mktemp("copy") / "shards")


@pytest.fixture
def shards(raw, copied):
    """A copy of the folder; what a test changes is put back after it."""
    yield copied
    restore(raw, copied)


def expected(folder, split, repeats=False):
    """The records that are to be exported."""
    return [record for record in octprep.read_records(folder, split) if repeats or not record.repeat]


def require_equal(found, records):
    """found: (pixels, metadata) in any order; each record once."""
    by_key = {(metadata["path"], metadata["repeat"]): (pixels, metadata) for pixels, metadata in found}
    assert len(by_key) == len(found) == len(records) > 0
    for record in records:
        pixels, metadata = by_key[record.path, record.repeat]
        np.testing.assert_array_equal(pixels, record.pixels)
        assert {key: metadata[key] for key in METADATA} == {key: getattr(record, key) for key in METADATA}
        assert tuple(metadata["source_size"]) == record.source_size
        assert tuple(metadata["affine"]) == record.affine
        assert tuple(metadata.get("row_offset", ())) == record.row_offset


@pytest.fixture
def unclosed():
    """WebDataset leaves the tars open, which Python finds when it collects garbage."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("repeats", [False, True])
def test_webdataset_reads_each_image_once_with_its_label_and_metadata(folder, tmp_path, repeats, unclosed):
    webdataset = pytest.importorskip("webdataset", reason="WebDataset is not installed")
    result = octprep.export(folder, tmp_path / "out", "webdataset", repeats=repeats, workers=1)
    names = Manifest.load(folder).class_names
    for split, exported in result.splits.items():
        files = [str(tmp_path / "out" / name) for name in exported.files]
        assert [Path(name).name for name in files] == [f"{split}-{number:06d}.tar" for number in range(len(files))]
        samples = list(webdataset.WebDataset(files, shardshuffle=False).decode("l8"))
        require_equal([(sample["png"], sample["json"]) for sample in samples], expected(folder, split, repeats))
        assert exported.records == len(samples) == len({sample["__key__"] for sample in samples})
        for sample in samples:
            assert sample["cls"] == sample["json"]["label"]
            assert (sample["json"]["class"], sample["json"]["split"]) == (names[sample["cls"]], split)
        assert exported.per_class == {
            name: sum(sample["cls"] == label for sample in samples) for label, name in enumerate(names)
        }
    assert len(result.splits["train"].files) > 1
    assert (result.splits["train"].records == Manifest.load(folder).records("train")) == repeats


def test_images_are_gray_pngs_of_8_bits(folder, tmp_path):
    octprep.export(folder, tmp_path / "out", "webdataset", workers=1)
    with tarfile.open(tmp_path / "out" / "val-000000.tar") as tar:
        entries = tar.getmembers()
        images = [
            Image.open(io.BytesIO(tar.extractfile(entry).read())) for entry in entries if entry.name.endswith("png")
        ]
    assert {(image.format, image.mode, image.size) for image in images} == {("PNG", "L", (48, 32))}
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) for entry in entries} == {(0, 0, 0, "", 0o644)}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of datasets and what it imports
@pytest.mark.parametrize("repeats", [False, True])
def test_hugging_face_reads_each_image_once_with_its_class_and_metadata(folder, tmp_path, repeats, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    out = tmp_path / "out"
    result = octprep.export(folder, out, "parquet", repeats=repeats, workers=1)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    names = Manifest.load(folder).class_names
    assert list(loaded) == list(result.splits)
    for split, exported in result.splits.items():
        count = len(exported.files)
        assert list(exported.files) == [f"{split}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
        assert isinstance(loaded[split].features["image"], datasets.Image)
        assert loaded[split].features["label"] == datasets.ClassLabel(names=list(names))
        rows = list(loaded[split])
        require_equal([(np.asarray(row["image"]), row) for row in rows], expected(folder, split, repeats))
        assert {row["image"].mode for row in rows} == {"L"} and {row["split"] for row in rows} == {split}
        assert exported.records == len(rows)
    files = {"train": str(out / "train-*.parquet"), "other": str(out / "val-*.parquet")}
    named = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert named["other"].features == loaded["val"].features
    assert named["other"]["path"] == loaded["val"]["path"]


@pytest.mark.slow
def test_equal_shards_give_equal_bytes_whatever_the_number_of_workers(raw, tmp_path):
    for to in interchange.FORMATS:
        if to == "parquet":
            pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        octprep.export(raw, tmp_path / f"{to} 1", to, workers=1)
        octprep.export(raw, tmp_path / f"{to} 2", to, workers=2)
        files = files_of(tmp_path / f"{to} 1")
        assert files == files_of(tmp_path / f"{to} 2")
        assert len(files) == len(list(raw.glob("*/*.tfrecord"))) + (2 if to == "parquet" else 1)


def test_the_summary_says_what_was_exported(raw, tmp_path, capsys):
    def run(*words):
        cli.app(["export", *map(str, words)], standalone_mode=False)
        return capsys.readouterr().out

    out = tmp_path / "out"
    text = run(raw, "--to", "webdataset", "--out", out, "--json", tmp_path / "result.json", "--workers", 1)
    content = (out / "octprep-export.json").read_bytes()
    assert (tmp_path / "result.json").read_bytes() == content
    summary, manifest = json.loads(content), Manifest.load(raw)
    images = Counter(record.label for record in expected(raw, "train"))
    assert (summary["dataset"], summary["format"], summary["repeats"]) == (manifest.digest, "webdataset", False)
    assert summary["octprep"] == octprep.__version__ and summary["contains_patient_ids"]
    assert summary["splits"]["train"]["records"] == images.total() < manifest.records("train")
    assert list(summary["splits"]["train"]["per_class"].values()) == [images[label] for label in range(4)]
    assert {name for split in summary["splits"].values() for name in split["files"]} == {
        p.name for p in out.glob("*.tar")
    }
    assert "patient ids" in text and f"{out}/train-{{000000..0000" in text and manifest.digest in text
    whole = run(raw, "--to", "webdataset", "--out", tmp_path / "repeats", "--repeats", "--json", "-", "--workers", 1)
    assert json.loads(whole)["splits"]["train"]["records"] == manifest.records("train")


def test_a_split_without_records_has_no_files(raw, tmp_path, monkeypatch):
    manifest = Manifest.load(raw)
    [empty] = manifest.splits["val"]
    empty = dataclasses.replace(empty, records=0, per_class=(0, 0, 0, 0))
    manifest = dataclasses.replace(manifest, splits={**manifest.splits, "val": (empty,)})
    monkeypatch.setattr(exporting.Manifest, "load", lambda folder: manifest)
    result = octprep.export(raw, tmp_path / "out", "webdataset", workers=1)
    assert (result.splits["val"].files, result.splits["val"].records) == ((), 0)
    assert not list((tmp_path / "out").glob("val*"))


# Errors: one sentence, an exit code, and nothing in the output folder


def message(capsys, *words):
    """The exit code and the sentence of a command."""
    with pytest.raises(SystemExit) as left:
        terminal.run_program("octprep", lambda: cli.app(["export", *map(str, words)]), memory_advice="", watch=False)
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "No such file or directory"),
        ("cut", "the file ends inside the record"),
        ("a byte", r"record \d+ at byte \d+: the data fail their CRC"),
        ("another shard", "has SHA-256 .* where the manifest says"),
    ],
)
def test_a_damaged_shard_is_named_and_nothing_is_left(shards, tmp_path, capsys, how, reason):
    first, second = (shards / shard.name for shard in Manifest.load(shards).splits["train"][:2])
    if how == "another shard":  # of as many records, all of them sound
        data = second.read_bytes()
        first.write_bytes(data)
    else:
        builds.damage(first, how)
    with pytest.raises(ManifestError, match=rf"{first}.* {reason}.*`octprep build` that made it"):
        octprep.export(shards, tmp_path / "out", "webdataset", workers=1)
    code, text = message(capsys, shards, "--to", "webdataset", "--out", tmp_path / "out", "--workers", 1)
    assert code == 1 and text.startswith(f"octprep: {first}") and text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_left_as_it_is(raw, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    code, text = message(capsys, raw, "--to", "webdataset", "--out", tmp_path)
    assert (code, text.count("\n")) == (2, 1)
    assert f"{tmp_path} is not empty, but a new or empty folder is needed" in text
    assert files_of(tmp_path) == {"notes.txt": b"mine"}


def test_the_folder_of_shards_is_not_written_to(shards, tmp_path):
    before = files_of(shards)
    for out in (shards, shards / "tars", shards / "train" / ".." / "tars"):
        with pytest.raises(OutputError, match="which is only read"):
            octprep.export(shards, out, "webdataset")
    assert files_of(shards) == before


def test_other_formats_and_a_missing_pyarrow_are_errors(raw, tmp_path, monkeypatch):
    with pytest.raises(SettingError, match="to must be one of webdataset, parquet; got 'csv'"):
        octprep.export(raw, tmp_path / "out", "csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SettingError, match=r"needs pyarrow, which is not installed: pip install 'octprep\[export\]'"):
        octprep.export(raw, tmp_path / "out", "parquet")
    with pytest.raises(ManifestError, match=r"has no manifest\.json"):
        octprep.export(tmp_path, tmp_path / "out", "webdataset")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_export_leaves_nothing(raw, tmp_path, monkeypatch, existing):
    out = tmp_path / "out"
    if existing:
        out.mkdir()

    def interrupt(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_write", interrupt)  # of the summary, after all shards
        with pytest.raises(KeyboardInterrupt):
            octprep.export(raw, out, "webdataset", workers=1)
    assert list(tmp_path.rglob("*")) == ([out] if existing else [])
    octprep.export(raw, out, "webdataset", workers=1)
    assert (out / "octprep-export.json").exists()


def test_files_in_an_existing_folder_are_complete_before_the_summary_shows_it(raw, tmp_path, monkeypatch):
    moved = []

    def rename(path, target):
        moved.append(Path(target).name)
        shutil.move(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    octprep.export(raw, tmp_path, "webdataset", workers=1)
    assert moved[-1] == "octprep-export.json" and len(moved) == len(set(moved)) == len(list(tmp_path.iterdir()))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(raw, tmp_path, capsys):
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(StoppedError, match=r"disk of .* is full, so nothing was kept there: free some space"):
            octprep.export(raw, disk / "out", "webdataset", workers=1)
        code, text = message(capsys, raw, "--to", "webdataset", "--out", disk / "out", "--workers", 1)
        assert (code, text.count("\n")) == (1, 1)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_export_needs_no_tensorflow(raw, tmp_path):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'octtrain', 'pyarrow'])); "
        f"import octprep; octprep.export({str(raw)!r}, {str(tmp_path / 'out')!r}, 'webdataset', workers=1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
