"""octtrain bench: what is measured, the sentence about it, and the errors."""

import json
import shutil

import pytest

pytest.importorskip("keras")

from octprep.format.errors import ManifestError, OutputError, SettingError
from octtrain.config import FitConfig
from octtrain.experiments.bench.config import BenchConfig
from octtrain.experiments.bench.experiment import bench
from octtrain.experiments.bench.rates import FeedRates, Rate, conclusion, format_table
from tests.worlds.shards import write_shards

CONFIG = BenchConfig(model="tests.worlds.networks:tiny", batch_size=8, seconds=0.02)


def feed_rates(name="mapped", *, together=90.0, waited=0.0, **rates):
    """Rates by the names of parts, in images per second; `together` took 10 seconds."""
    given = {"read": 9000.0, "host": 8000.0, "transfer": 7000.0, "augmentation": 500.0, "step": 100.0, **rates}
    parts = {part: rate and Rate(images=rate * 2, seconds=2.0) for part, rate in given.items()}
    return FeedRates(name=name, together=Rate(images=10 * together, seconds=10.0), waited=waited, **parts)


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        (feed_rates(read=50), "reading the shards limits the training: 50 images/s alone"),
        (feed_rates(host=60), "gathering images out of the shards limits"),
        (feed_rates("stream", host=60), "parsing records limits"),
        (feed_rates(transfer=70), "copying images to the device limits"),
        (feed_rates(), "the training step limits the training: 100 images/s alone, 90 with all the rest"),
        (feed_rates(augmentation=150), "the training step, most of it augmentation, limits"),
        (feed_rates("resident", read=None, host=None, transfer=None), "With the feed resident, the training step"),
    ],
)
def test_the_sentence_names_the_slowest_part(feed, words):
    sentence = conclusion([feed])
    assert words in sentence
    assert sentence.count(".") == 1 and sentence.endswith(".")


def test_the_sentence_is_about_the_fastest_feed():
    feeds = [feed_rates("mapped", together=60, host=65), feed_rates("stream", together=80, read=85)]
    assert conclusion(feeds).startswith("With stream, the fastest feed, reading the shards limits the training: 85 ")


@pytest.mark.parametrize(
    ("together", "waited", "share"),
    [
        (100, 4.0, 0.0),  # the host waited, but the device worked on steps submitted before
        (50, 2.0, 0.2),
        (50, 8.0, 0.5),
        (120, 0.0, 0.0),  # faster than the steps alone, as measurements vary
    ],
)
def test_the_device_waits_no_longer_than_the_host_and_than_the_steps_leave(together, waited, share):
    feed = feed_rates(together=together, waited=waited)
    assert feed.waiting == pytest.approx(share)
    assert f"the device waits for images {share:.0%}".replace("%", " %") in conclusion([feed])


def test_the_table_has_a_column_for_each_feed_and_a_dash_where_a_part_is_missing():
    table = format_table([feed_rates(), feed_rates("resident", read=None, host=None, transfer=None)]).splitlines()
    assert table[0].split() == ["images/s", "mapped", "resident"]
    assert table[1].split()[-2:] == ["9,000", "-"]
    assert not any("GPU" in line for line in table)  # of memory that was not measured there is no row
    assert len({len(line) for line in table}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0}, "seconds must be above 0 and at most 3600; got 0"),
        ({"feed": "fast"}, "feed must be one of all, resident, mapped, stream; got 'fast'"),
        ({"model": "vgg"}, "no model called 'vgg'"),
        ({"batch_size": 0}, "batch-size must be auto or at least 1|batch-size must be auto or between 1"),
    ],
)
def test_settings_are_validated(change, message):
    with pytest.raises(SettingError, match=message):
        BenchConfig(**change)


def test_the_training_that_is_measured_is_that_of_fit_by_default():
    assert BenchConfig().fit("auto") == FitConfig()
    assert BenchConfig(model="octnet-m", batch_size=64).fit("mapped") == FitConfig(
        model="octnet-m", batch_size=64, feed="mapped"
    )


@pytest.fixture(scope="module")
def result(shards, tmp_path_factory):
    """A measurement of all feeds, the lines that it printed, and its JSON."""
    lines, file = [], tmp_path_factory.mktemp("bench") / "bench.json"
    return bench(shards, CONFIG, file, log=lines.append), lines, json.loads(file.read_text())


@pytest.mark.slow
def test_every_part_of_every_feed_is_measured(result):
    measured, lines, stored = result
    assert {feed.name for feed in measured.feeds} == {"mapped", "resident", "stream"}
    assert (measured.records, measured.batch_size, measured.image_bytes) == (96, 8, 32 * 32)
    for feed in measured.feeds:
        is_resident = feed.name == "resident"
        assert [feed.read is None, feed.host is None, feed.transfer is None] == [is_resident] * 3
        assert (feed.load is not None) == is_resident
        for rate in (*feed.parts.values(), feed.augmentation, feed.together):
            assert rate.images > 0 and rate.seconds >= CONFIG.seconds
        for rate in filter(None, (feed.host, feed.transfer, feed.step, feed.augmentation, feed.together)):
            assert rate.images % measured.batch_size == 0  # whole steps
        assert 0 <= feed.waited <= feed.together.seconds
        assert feed.memory > 1e7
        if is_resident:
            assert feed.load.images == 96 + 24
    assert lines[-4] == f"\n{measured.conclusion}"
    assert stored["conclusion"] == measured.conclusion
    assert [feed["name"] for feed in stored["feeds"]] == [feed.name for feed in measured.feeds]
    assert stored["precision"] == "float32" and stored["libraries"]["keras"]
    assert stored["feeds"][0]["together"]["images_per_second"] == measured.feeds[0].together.per_second


@pytest.mark.slow
def test_feeds_that_do_not_go_with_the_shards_are_named_with_the_reason(tmp_path):
    write_shards(tmp_path / "png", {"train": 4, "val": 2}, encoding="png")
    lines = []
    measured = bench(tmp_path / "png", CONFIG, log=lines.append)
    assert [feed.name for feed in measured.feeds] == ["stream"]
    assert measured.left_out.keys() == {"mapped", "resident"}
    assert any(line.startswith("not measured: mapped, --feed mapped is for shards of raw pixels") for line in lines)
    with pytest.raises(SettingError, match="--feed mapped is for shards of raw pixels"):
        bench(tmp_path / "png", BenchConfig(feed="mapped"), log=lines.append)


def test_without_an_index_there_is_no_mapped_feed(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "shards")
    shutil.rmtree(tmp_path / "shards" / "index")
    with pytest.raises(ManifestError, match="octprep index"):
        bench(tmp_path / "shards", BenchConfig(feed="mapped"), log=print)


def test_damage_and_a_json_that_cannot_be_written_are_errors_before_anything_is_measured(shards, tmp_path):
    with pytest.raises(OutputError, match="does not exist; make it first"):
        bench(shards, CONFIG, tmp_path / "none" / "bench.json", log=print)
    shutil.copytree(shards, tmp_path / "shards")
    next((tmp_path / "shards" / "train").iterdir()).write_bytes(b"")
    with pytest.raises(ManifestError):
        bench(tmp_path / "shards", CONFIG, log=print)
    write_shards(tmp_path / "test-only", {"test": 2})
    with pytest.raises(ManifestError, match="no images in split 'train'"):
        bench(tmp_path / "test-only", CONFIG, log=print)
