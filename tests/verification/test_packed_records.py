"""Records that are packed come back as they were, and take little memory."""

import dataclasses
import hashlib
import tracemalloc

import numpy as np

from octprep.verification.records import PackedRecords, Records, RecordSummary

SHARDS = {"train": ["train/00000-of-00002.tfrecord", "train/00001-of-00002.tfrecord"], "val": [], "test": ["test/0"]}


def summary(shard, index, image, repeat=0, patient=None):
    digest = hashlib.sha256(str(image).encode()).digest()
    return RecordSummary(
        shard=shard,
        index=index,
        path=f"CNV/CNV-{1_000_000 + image // 19}-{image}.jpeg",
        patient=patient or str(1_000_000 + image // 19),
        label=image % 4,
        sha256=digest.hex(),
        repeat=repeat,
        image_number=image,
        stated=(None, "OD", ""),
        source_size=(496, 512 + image % 2),
        affine=(2.0, 0.0, float(image), 0.0, 2.0, -0.5),
        offset=50_000 * index,
        pixel_digest=digest[:16],
        feature_digest=digest[16:],
        measures=() if repeat else (80.25, 30.5, 0.125),
        comparable=bool(image % 3),
    )


def test_records_come_back_as_they_were_in_the_order_of_their_shards():
    first, second = SHARDS["train"]
    (other,) = SHARDS["test"]
    by_shard = {
        first: [summary(first, 0, 5), summary(first, 1, 3), summary(first, 4, 5, repeat=1)],
        second: [summary(second, 0, 3, repeat=1), summary(second, 1, 40)],
        other: [summary(other, 0, 5), summary(other, 1, 41)],
    }
    expected = [record for of_shard in by_shard.values() for record in of_shard]
    arriving = [(name, PackedRecords.of(by_shard[name])) for name in (other, first, second)]
    records = Records(SHARDS, arriving)
    assert list(records) == expected
    assert records.splits == {"train": range(5), "val": range(5, 5), "test": range(5, 7)}
    path = expected[0].path
    assert [records[number] for number in records.with_path(path)] == [r for r in expected if r.path == path]
    assert records.first(path) == expected[0] and records.first("CNV/CNV-1-1.jpeg") is None
    assert records.repeated("train") == [[0, 2], [1, 3]] and records.repeated("test") == []
    assert not list(records.unusual_repeats("train"))
    assert set(records.in_several_splits()) == {
        ("patient", 5, 0), ("patient", 6, 4), ("sha256", 5, 0), ("pixel_digest", 5, 0)
    }  # fmt: skip
    assert records.that_may_leak("train", set()) == [0, 1, 2, 3, 4]
    assert records.that_may_leak("test", set()) == [5, 6]

    changed = dataclasses.replace(expected[2], pixel_digest=bytes(16))
    by_shard[first][2] = changed
    records = Records(SHARDS, [(name, PackedRecords.of(of_shard)) for name, of_shard in by_shard.items()])
    assert list(records.unusual_repeats("train")) == [[0, 2]]
    assert not len(Records({"train": []}, []))


def test_a_record_takes_few_bytes_of_memory():
    count, each_shard = 6000, 500
    names = [f"train/{number:05d}" for number in range(count // each_shard)]
    contents = [
        (name, PackedRecords.of([summary(name, index, shard * each_shard + index) for index in range(each_shard)]))
        for shard, name in enumerate(names)
    ]
    tracemalloc.start()
    try:
        records = Records({"train": names}, contents)
        np.asarray(records.firsts)
        paths = sum(map(len, records.paths))
        each = tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()
    assert paths and len(records) == count
    assert each < 300, f"{each:.0f} bytes a record; 1.6 million must fit into 1.5 GB with all else"
