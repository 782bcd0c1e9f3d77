"""The cache of prepared scans: a batch is prepared once, and again if anything of it was damaged."""

import dataclasses

import numpy as np
import pytest

from octprep import preprocessing
from octprep.duplicates import dct_descriptor
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
from octprep.prepare import prepare_scan
from octprep.shards import cache
from octprep.shards.cache import CachedScan
from octprep.source.files import Exclusion
from octprep.source.listing import list_source
from tests.worlds.archive import archive, write_folder

RECIPE = Preprocessing(height=32, width=48, flatten=True)


@pytest.fixture
def task(tmp_path):
    source = write_folder(tmp_path / "source", archive(1))
    path = source / "train" / "CNV" / "CNV-0-1.jpeg"
    path.write_bytes(path.read_bytes()[:-400])  # cut short
    (tmp_path / "cache").mkdir()
    listing = list_source(source)
    (batch,) = cache.batch_tasks(source, tmp_path / "cache", listing.scan_files, RECIPE, "png")
    return batch


def known(task):
    """The files of a batch that need not be prepared again, by path."""
    files = cache.read_receipts(task.folder, cache.preparation_key(task.recipe, task.encoding))
    return {file.path: file for file in files}


def with_settings(task, recipe=RECIPE, encoding="png"):
    """The same batch with other settings."""
    key = cache.preparation_key(recipe, encoding)
    return dataclasses.replace(task, recipe=recipe, encoding=encoding, key=key)


def test_a_receipt_gives_back_everything_that_was_prepared(task):
    assert cache.cache_batch(task) == "000000"
    files = cache.read_receipt(task)
    assert [(file.path, file.bytes, file.changed_ns) for file in files] == [
        (file.path, file.bytes, file.changed_ns) for file in task.files
    ]
    assert all(file.changed_ns > 0 for file in files)
    results = [file.result for file in files]
    assert len(results) == len(task.files) > 10
    cut_short = [result for result in results if isinstance(result, Exclusion)]
    assert [(exclusion.path, exclusion.reason) for exclusion in cut_short] == [
        ("train/CNV/CNV-0-1.jpeg", "truncated JPEG")
    ]
    flattened = 0
    for scan_file, item in zip(task.files, results, strict=True):
        if isinstance(item, CachedScan):
            gray = preprocessing.decode((task.src / item.scan.path).read_bytes())
            image = preprocessing.preprocess(gray, RECIPE)
            assert item.geometry == image.geometry
            assert item.measurements.crop == image.geometry.crop
            assert item.measurements == prepare_scan(task.src, scan_file, RECIPE).measurements
            assert item.descriptor == dct_descriptor(image.pixels)
            assert np.array_equal(cache.read_pixels(task.folder, item, RECIPE, "png"), image.pixels)
            flattened += bool(item.geometry.rpe_curve)
    assert flattened > 3


def test_files_that_are_prepared_are_known_for_the_same_preparation_alone(task):
    cache.cache_batch(task)
    assert list(known(task)) == [file.path for file in task.files]
    for other in ({"encoding": "raw"}, {"recipe": dataclasses.replace(RECIPE, width=49)}):
        other_task = with_settings(task, **other)
        cache.cache_batch(other_task)
        assert len(known(other_task)) == len(task.files)
        assert not known(task)
        assert not list(task.folder.iterdir()), "what cannot be used is removed"
        cache.cache_batch(task)


def test_batches_get_names_that_no_other_has(task):
    cache.cache_batch(task)
    (task.folder / "000041.json").write_bytes(b"")
    tasks = cache.batch_tasks(task.src, task.folder, task.files * 5, RECIPE, "png")
    assert [task.name for task in tasks] == ["000042", "000043"]
    assert [len(task.files) for task in tasks] == [cache.BATCH, 5 * len(task.files) - cache.BATCH]


@pytest.mark.parametrize("suffix", ["bin", "json"])
@pytest.mark.parametrize("how", ["missing", "cut", "longer", "a byte"])
def test_of_a_damaged_batch_nothing_is_known(task, suffix, how):
    cache.cache_batch(task)
    path = task.folder / f"{task.name}.{suffix}"
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {"cut": whole[:-1], "longer": whole + b" ", "a byte": whole[:middle] + b"~" + whole[middle + 1 :]}
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(damaged[how])
    assert not known(task)
    assert not list(task.folder.iterdir())


def test_damage_that_happens_after_the_check_stops_the_build_and_is_repaired_by_the_next(task):
    cache.cache_batch(task)
    results = [file.result for file in cache.read_receipt(task)]
    item = next(result for result in results if isinstance(result, CachedScan))
    pixels, receipt = task.folder / "000000.bin", task.folder / "000000.json"
    pixels.write_bytes(b"\0" + pixels.read_bytes()[1:])
    with pytest.raises(StoppedError, match=r"000000\.bin was damaged after it was written. Run the same command again"):
        cache.read_pixels(task.folder, item, RECIPE, "png")
    receipt.write_bytes(receipt.read_bytes()[:-1])
    with pytest.raises(StoppedError, match=r"000000\.json was damaged after it was written"):
        cache.read_receipt(task)
    cache.cache_batch(task)
    assert cache.read_pixels(task.folder, item, RECIPE, "png").shape == (32, 48)


def test_a_receipt_that_another_build_has_replaced_is_not_read(task):
    cache.cache_batch(task)
    cache.cache_batch(with_settings(task, encoding="raw"))
    with pytest.raises(StoppedError, match=r"000000\.json was damaged after it was written"):
        cache.read_receipt(task)
