"""Records and pixels: encoding and decoding are inverse, invalid bytes are errors, and TensorFlow reads the same."""

import dataclasses
import struct
import zlib

import cv2
import numpy as np
import pytest

from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.shards.records import Record, decode_pixels, decode_record, encode_pixels, encode_record, read_records
from octprep.shards.tfrecord import RecordError
from tests.worlds.archive import archive, write_folder

RECIPE = Preprocessing(height=32, width=48)
FLAT = dataclasses.replace(RECIPE, flatten=True)
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48)).astype(np.uint8)
RECORD = Record(
    image=PIXELS.tobytes(),
    label=2,
    patient="17",
    path="train/DRUSEN/DRUSEN-17-4.jpeg",
    number=4,
    sha256="ab" * 32,
    source_size=(496, 512),
    affine=(2.5, 0.0, 0.75, 0.0, 3.5, 100.25),
    repeat=1,
)


def features(record: Record = RECORD) -> dict[str, object]:
    return {
        key: values[0] if isinstance(values[0], bytes) else values
        for key, values in tfrecord.decode(encode_record(record)).items()
    }


@pytest.mark.parametrize(
    ("record", "recipe"),
    [(RECORD, RECIPE), (dataclasses.replace(RECORD, row_offset=(0.5, -2.0) * 24), FLAT)],
    ids=["plain", "flattened"],
)
def test_a_record_is_decoded_as_it_was_encoded(record, recipe):
    assert decode_record(encode_record(record), recipe) == record


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        ({"affine": None}, "lacks features or has others than it should: affine"),
        ({"extra": [1]}, "lacks features or has others than it should: extra"),
        ({"row_offset": [0.0] * 48}, "lacks features or has others than it should: row_offset"),
        ({"label": [1, 2]}, "has a feature of the wrong kind or length: label"),
        ({"number": [1.0]}, "has a feature of the wrong kind or length: number"),
        ({"path": [1]}, "has a feature of the wrong kind or length: path"),
        ({"repeat": [-1]}, "has a number out of range: repeat"),
        ({"source_size": [2**31, 5]}, "has a number out of range: source_size"),
        ({"affine": [float("nan")] * 6}, "has a number that is not finite: affine"),
        ({"affine": [float("inf")] * 6}, "has a number that is not finite: affine"),
        ({"patient": b"\xff"}, "has text that is not UTF-8"),
        ({"path": b""}, "has a feature of the wrong length"),
        ({"sha256": b"short"}, "has a feature of the wrong length"),
    ],
)
def test_a_record_with_other_features_is_an_error(edit, problem):
    edited = {key: value for key, value in (features() | edit).items() if value is not None}
    with pytest.raises(RecordError, match=problem):
        decode_record(tfrecord.encode(edited), RECIPE)


def test_bytes_that_are_not_an_example_are_an_error():
    with pytest.raises(RecordError, match=r"is not a record of format 3: not a tf\.train\.Example"):
        decode_record(b"\xff\xff\xff", RECIPE)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_pixels_are_decoded_as_they_were_encoded(encoding):
    assert np.array_equal(decode_pixels(encode_pixels(PIXELS, encoding), 32, 48, encoding), PIXELS)


def png(width, height, depth=8, colour=0, data=b""):
    """A PNG that claims this size, whatever its data are."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "image",
    [
        b"",
        PIXELS.tobytes()[:-1],
        encode_pixels(PIXELS, "png")[:25],
        encode_pixels(PIXELS, "png")[:60],
        encode_pixels(PIXELS[:-1], "png"),
        cv2.imencode(".png", np.dstack([PIXELS] * 3))[1].tobytes(),
        cv2.imencode(".png", PIXELS.astype(np.uint16))[1].tobytes(),
        cv2.imencode(".jpeg", PIXELS)[1].tobytes(),
        png(60_000, 60_000),
    ],
    ids=["empty", "short", "header", "cut", "smaller", "colour", "16 bits", "jpeg", "bomb"],
)
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_other_bytes_than_pixels_are_an_error(image, encoding):
    assert decode_pixels(image, 32, 48, encoding) is None


# read_records


@pytest.fixture(scope="module", params=["raw", "png"])
def shards(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = BuildConfig(recipe=FLAT, encoding=request.param, shard_mb=0.05)
    build(write_folder(folder / "source", archive()), folder / "shards", config, workers=0)
    return folder / "shards"


def test_records_are_those_that_tensorflow_reads(shards):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is the reference here")
    manifest = Manifest.load(shards)
    for split in ("train", "val", "test"):
        ours = list(read_records(shards, split))
        files = [str(shards / shard.name) for shard in manifest.splits[split]]
        theirs = list(tf.data.TFRecordDataset(files).as_numpy_iterator())
        assert len(ours) == len(theirs) == sum(shard.records for shard in manifest.splits[split]) > 0
        for record, data in zip(ours, theirs, strict=True):
            feature = tf.train.Example.FromString(data).features.feature
            image = feature["image"].bytes_list.value[0]
            pixels = tf.io.decode_png(image)[..., 0] if manifest.config.encoding == "png" else None
            expected = np.frombuffer(image, np.uint8).reshape(32, 48) if pixels is None else pixels.numpy()
            assert record.pixels.dtype == np.uint8
            assert np.array_equal(record.pixels, expected)
            assert record.label == feature["label"].int64_list.value[0]
            assert record.path.encode() == feature["path"].bytes_list.value[0]
            assert record.patient.encode() == feature["patient"].bytes_list.value[0]
            assert record.repeat == feature["repeat"].int64_list.value[0]
            assert record.source_size == tuple(feature["source_size"].int64_list.value)
            assert record.affine == tuple(feature["affine"].float_list.value)
            assert record.row_offset == tuple(feature["row_offset"].float_list.value)
    assert {record.label for record in read_records(shards, "test")} == {0, 1, 2, 3}


def test_an_unknown_split_is_named_with_the_known_ones(shards):
    with pytest.raises(ManifestError, match="has no split 'tset'; choose one of train, val, test"):
        read_records(shards, "tset")


def test_a_folder_without_a_manifest_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match="manifest"):
        read_records(tmp_path, "train")


@pytest.mark.parametrize("how", ["flipped", "cut", "missing", "a record less", "a link"])
def test_a_damaged_shard_is_named_after_its_good_records(shards, how):
    path = shards / Manifest.load(shards).splits["train"][0].name
    whole = path.read_bytes()
    frames = tfrecord.offsets(path)
    try:
        if how == "flipped":
            damaged = bytearray(whole)
            damaged[frames[1] + 30] ^= 1
            path.write_bytes(damaged)
        elif how == "cut":
            path.write_bytes(whole[:-3])
        elif how == "a record less":
            path.write_bytes(whole[: frames[-1]])
        elif how == "a link":
            path.rename(path.with_name("elsewhere"))
            path.symlink_to("elsewhere")
        else:
            path.unlink()
        good = []
        with pytest.raises(ManifestError, match=f"{path.name}: .*repair it by the `octprep build`"):
            good.extend(read_records(shards, "train"))  # keeps what came before the error
        last = len(frames) - 1
        assert len(good) == {"flipped": 1, "cut": last, "a record less": last}.get(how, 0)
    finally:
        path.unlink(missing_ok=True)
        path.with_name("elsewhere").unlink(missing_ok=True)
        path.write_bytes(whole)
