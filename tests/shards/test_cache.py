"""The cache of prepared scans: a batch is prepared once, and again if anything of it was damaged."""

import dataclasses

import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import StoppedError
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
    (batch,) = cache.batch_tasks(source, tmp_path / "cache", list_source(source).scan_files, RECIPE, "png")
    return batch


@pytest.fixture
def preprocessed(monkeypatch):
    """The gray values that are preprocessed, in order."""
    calls, preprocess = [], preprocessing.preprocess

    def recorded(gray, recipe):
        calls.append(gray)
        return preprocess(gray, recipe)

    monkeypatch.setattr(preprocessing, "preprocess", recorded)
    return calls


def test_a_receipt_gives_back_everything_that_was_prepared(task):
    assert cache.cache_batch(task) == "000000"
    results = cache.read_receipt(task)
    assert len(results) == len(task.files) > 10
    cut_short = [result for result in results if isinstance(result, Exclusion)]
    assert [(exclusion.path, exclusion.reason) for exclusion in cut_short] == [
        ("train/CNV/CNV-0-1.jpeg", "truncated JPEG")
    ]
    flattened = 0
    for item in results:
        if isinstance(item, CachedScan):
            gray = preprocessing.decode((task.src / item.scan.path).read_bytes())
            image = preprocessing.preprocess(gray, RECIPE)
            assert item.geometry == image.geometry
            assert item.measurements.crop == image.geometry.crop
            assert item.measurements.sharpness == round(image.measurements.sharpness, 4)
            assert np.array_equal(cache.read_pixels(task.folder, item, RECIPE, "png"), image.pixels)
            flattened += bool(item.geometry.rpe_curve)
    assert flattened > 3


def test_a_batch_is_prepared_once(task, preprocessed):
    cache.cache_batch(task)
    first = len(preprocessed)
    assert first == len(task.files) - 1
    cache.cache_batch(task)
    assert len(preprocessed) == first
    for other in ({"encoding": "raw"}, {"recipe": dataclasses.replace(RECIPE, width=49)}):
        cache.cache_batch(dataclasses.replace(task, **other))
    assert len(preprocessed) == 3 * first


@pytest.mark.parametrize("suffix", ["bin", "json"])
@pytest.mark.parametrize("how", ["missing", "cut", "longer", "a byte"])
def test_a_damaged_batch_is_prepared_again(task, preprocessed, suffix, how):
    cache.cache_batch(task)
    path = task.folder / f"{task.name}.{suffix}"
    whole, results = path.read_bytes(), cache.read_receipt(task)
    middle = len(whole) // 2
    damaged = {"cut": whole[:-1], "longer": whole + b" ", "a byte": whole[:middle] + b"~" + whole[middle + 1 :]}
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(damaged[how])
    preprocessed.clear()
    cache.cache_batch(task)
    assert len(preprocessed) == len(task.files) - 1
    assert path.read_bytes() == whole
    assert cache.read_receipt(task) == results


def test_damage_that_happens_after_the_check_stops_the_build_and_is_repaired_by_the_next(task):
    cache.cache_batch(task)
    item = next(item for item in cache.read_receipt(task) if isinstance(item, CachedScan))
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
    cache.cache_batch(dataclasses.replace(task, encoding="raw"))
    with pytest.raises(StoppedError, match=r"000000\.json was damaged after it was written"):
        cache.read_receipt(task)
