"""Scans that an interrupted build has cached: used again, unless they or their receipts were changed."""

import dataclasses
import json

import pytest

from octprep import pipeline, preprocessing
from octprep.duplicates import dct_descriptor, pixel_comparison, search
from octprep.format.errors import OutputError, StoppedError
from octprep.pipeline import build
from octprep.shards import cache, prepared, searches, stages, workdir
from octprep.shards.searches import SEARCHES_NAME
from octprep.source.listing import list_source
from tests.worlds.archive import files_of, write_scan
from tests.worlds.builds import CONFIG, cache_of, damage, receipts, record_compared


@pytest.fixture
def receipt(source, tmp_path, monkeypatch):
    """The receipt of the only batch of an unfinished build in tmp_path/out, in which all scans are cached."""

    def stop(*_, **__):
        raise StoppedError("here")

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(search, "near_duplicate_pairs", stop)
        build(source, tmp_path / "out", CONFIG, workers=0)
    return cache_of(tmp_path / "out") / "000000.json"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (', "50", ', ', "51", '),
        ('"000000.bin", ', '"000001.bin", '),
        ('"key": "', '"key": "0'),
        ('"pixels_crc": ', '"pixels_crc": 1'),
        ('"rows_sha256": "', '"rows_sha256": "0'),
        ("{", "["),
    ],
)
def test_a_batch_whose_receipt_was_changed_is_cached_again(source, shards, tmp_path, receipt, old, new):
    text = receipt.read_text()
    assert old in text
    receipt.write_text(text.replace(old, new, 1))
    build(source, tmp_path / "out", CONFIG, workers=0)
    assert files_of(tmp_path / "out") == files_of(shards)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "a byte"])
def test_a_batch_whose_pixels_were_damaged_is_cached_again(source, shards, tmp_path, receipt, how):
    damage(receipt.with_suffix(".bin"), how)
    build(source, tmp_path / "out", CONFIG, workers=0)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_scans_are_cached_again_under_other_settings_only_where_these_change_the_pixels(
    source, tmp_path, receipt, monkeypatch
):
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(OutputError, match="unfinished build with other settings: seed 0 there, 1 now"):
        build(source, tmp_path / "out", other, workers=0)
    monkeypatch.setattr(preprocessing, "preprocess", None)  # no scan is prepared again
    assert build(source, tmp_path / "out", other, workers=0, overwrite=True).built


def test_a_receipt_of_another_version_is_made_again(source, shards, tmp_path, receipt, monkeypatch):
    listing = list_source(source)
    task = cache.batch_tasks(source, receipt.parent, listing.scan_files, CONFIG.recipe, "raw")[0]
    files = cache.read_receipt(dataclasses.replace(task, name="000000"))
    head = json.loads(receipt.read_bytes().splitlines()[0])
    key, to_row = cache.preparation_key(CONFIG.recipe, "raw"), cache.to_row
    assert head["key"] == key

    @dataclasses.dataclass(frozen=True)
    class OtherScan(cache.CachedScan):
        eye: str = ""

    with monkeypatch.context() as patch:
        patch.setattr(cache, "CachedScan", OtherScan)
        other_key = cache.preparation_key(CONFIG.recipe, "raw")
        assert other_key != key, "with one more field it is another version"
    with monkeypatch.context() as patch:
        patch.setattr(cache, "to_row", lambda file: [*to_row(file), ""])
        cache._write_receipt(receipt, other_key, files, head["pixels_bytes"], head["pixels_crc"])
    build(source, tmp_path / "out", CONFIG, workers=0)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_scans_that_were_prepared_without_near_duplicates_serve_a_build_with_them(
    source, shards, tmp_path, monkeypatch
):
    without = dataclasses.replace(CONFIG, near_duplicates=False)
    build(source, tmp_path / "out", without, workers=0)
    known = prepared.read(tmp_path / "out", tmp_path / "out", without)
    scans = [file.result for file in known.files if isinstance(file.result, cache.CachedScan)]
    assert {scan.descriptor for scan in scans} == {b""}
    made = []
    monkeypatch.setattr(stages, "dct_descriptor", lambda pixels: made.append(dct_descriptor(pixels)) or made[-1])
    build(source, tmp_path / "out", CONFIG, workers=0, overwrite=True)
    assert files_of(tmp_path / "out") == files_of(shards)
    assert len(made) == len(scans), "one for each"


def test_correlations_that_an_interrupted_build_has_measured_are_not_measured_again(source, tmp_path, monkeypatch):
    compared = record_compared(monkeypatch)

    def interrupted():
        def stop(*_, **__):
            raise StoppedError("here")

        compared.clear()
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(pipeline, "write_shards", stop)
            build(source, tmp_path / "out", CONFIG, workers=0)
        (cache_of(tmp_path / "out") / SEARCHES_NAME).unlink()
        return len(compared)

    every = interrupted()
    assert every > 100
    assert interrupted() == 0
    file = cache_of(tmp_path / "out") / "correlations.json"
    for old, new in ((", 0.", ", 0.9"), ('{"key": "', '{"key": "0'), ("{", "[")):
        changed = file.read_text().replace(old, new, 1)
        assert changed != file.read_text()
        file.write_text(changed)
        assert interrupted() == every, "a file that was changed is not used"


def test_worker_processes_find_the_same_near_duplicates_as_this_process(source, tmp_path, monkeypatch):
    compared = record_compared(monkeypatch)
    monkeypatch.setattr(pixel_comparison, "_WORTH_STARTING", 1)

    def found(name, workers):
        def stop(*_, **__):
            raise StoppedError("here")

        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(pipeline, "write_shards", stop)
            build(source, tmp_path / name, CONFIG, workers=workers)
        key = cache.preparation_key(CONFIG.recipe, CONFIG.encoding)
        return dict(cache.read_rows(cache_of(tmp_path / name) / SEARCHES_NAME, key))

    by_processes = found("processes", 2)
    assert len(compared) <= pixel_comparison._TASK_PAIRS, "the last few, which are one task"
    compared.clear()
    assert by_processes == found("here", 0)
    assert len(compared) > 3 * pixel_comparison._TASK_PAIRS


@pytest.fixture
def unpublished(src, tmp_path, monkeypatch):
    """What builds of `src` in tmp_path/out compare before they stop in front of publishing."""
    compared = []

    def recorded(name, work):
        return lambda *arguments, **options: compared.append(name) or work(*arguments, **options)

    monkeypatch.setattr(search, "near_duplicate_pairs", recorded("pairs", search.near_duplicate_pairs))
    monkeypatch.setattr(searches, "measure_distances", recorded("distances", searches.measure_distances))

    def stop(*_, **__):
        raise StoppedError("here")

    def run():
        compared.clear()
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(workdir, "publish", stop)
            build(src, tmp_path / "out", CONFIG, workers=0, overwrite=True)
        return set(compared)

    return run


def test_what_an_interrupted_build_found_by_comparing_scans_is_not_searched_for_again(
    src, shards, tmp_path, unpublished
):
    assert unpublished() == {"pairs", "distances"}
    assert unpublished() == set()
    build(src, tmp_path / "out", CONFIG, workers=0)
    assert files_of(tmp_path / "out") == files_of(shards)


def test_scans_are_compared_again_if_one_has_another_descriptor(tmp_path, unpublished):
    unpublished()
    [receipt] = receipts(tmp_path / "out")
    head, rows = cache._checked_receipt(receipt)
    files = [cache.from_row(row) for row in json.loads(rows)]
    scan = files[0].result
    descriptor = bytes([scan.descriptor[0] ^ 1]) + scan.descriptor[1:]
    details = scan.details.removesuffix(scan.descriptor) + descriptor
    files[0] = dataclasses.replace(files[0], result=dataclasses.replace(scan, details=details))
    cache._write_receipt(receipt, head["key"], files, head["pixels_bytes"], head["pixels_crc"])
    assert unpublished() == {"pairs", "distances"}


def test_scans_are_compared_again_if_a_file_is_added_or_has_another_patient(src, tmp_path, unpublished):
    unpublished()
    scan = src / "train" / "CNV" / "CNV-50-7.jpeg"
    scan.rename(scan.with_name("CNV-51-7.jpeg"))
    assert unpublished() == {"pairs", "distances"}
    assert unpublished() == set()
    write_scan(scan)
    assert unpublished() == {"pairs", "distances"}


@pytest.mark.parametrize(
    ("old", "new"), [('"key": "', '"key": "0'), ('"rows_sha256": "', '"rows_sha256": "0'), ("[", "{")]
)
def test_kept_searches_that_were_changed_are_not_used(tmp_path, unpublished, old, new):
    unpublished()
    file = cache_of(tmp_path / "out") / SEARCHES_NAME
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    assert unpublished() == {"pairs", "distances"}
    assert unpublished() == set()


def test_kept_searches_of_other_versions_are_not_used(tmp_path, unpublished):
    unpublished()
    file = cache_of(tmp_path / "out") / SEARCHES_NAME
    _, rows = cache._checked_receipt(file)
    cache.write_rows(file, "another key", json.loads(rows))
    assert unpublished() == {"pairs", "distances"}
