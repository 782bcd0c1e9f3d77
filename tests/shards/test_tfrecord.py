"""TFRecord files: octprep writes the bytes that TensorFlow writes, and each reads the other's."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep.shards import tfrecord

tf = pytest.importorskip("tensorflow", reason="TensorFlow is the reference here")

values = st.one_of(
    st.binary(max_size=300),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8),
)


def no_key_begins_another(example):
    """protobuf's C and C++ implementations sort such keys differently; the features of a record have none."""
    return not any(key != longer and longer.startswith(key) for key in example for longer in example)


features = st.dictionaries(st.text(max_size=20), values, max_size=6).filter(no_key_begins_another)


def tensorflow_bytes(example):
    message = tf.train.Example()
    for key, value in example.items():
        feature = message.features.feature[key]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value[0], float):
            feature.float_list.value.extend(value)
        else:
            feature.int64_list.value.extend(value)
    return message.SerializeToString(deterministic=True)


@settings(max_examples=300, deadline=None)
@given(features)
def test_bytes_are_those_that_tensorflow_writes(example):
    assert tfrecord.encode(example) == tensorflow_bytes(example)


@settings(max_examples=300, deadline=None)
@given(features)
def test_decoding_inverts_encoding(example):
    decoded = tfrecord.decode(tfrecord.encode(example))
    assert decoded == {key: [value] if isinstance(value, bytes) else list(value) for key, value in example.items()}


def test_numbers_that_other_writers_do_not_pack_are_read():
    packed = tf.train.Int64List(value=[3, -1]).SerializeToString()
    one_by_one = b"".join(b"\x08" + number for number in (b"\x03", b"\xff" * 9 + b"\x01"))  # one field a number
    assert packed != one_by_one
    data = one_by_one
    for tag, before in ((b"\x1a", b""), (b"\x12", b"\x0a\x05label"), (b"\x0a", b""), (b"\x0a", b"")):
        data = before + tag + bytes([len(data)]) + data
    assert list(tf.train.Example.FromString(data).features.feature["label"].int64_list.value) == [3, -1]
    assert tfrecord.decode(data) == {"label": [3, -1]}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_decoded_or_raise_record_error(data):
    with contextlib.suppress(tfrecord.RecordError):
        tfrecord.decode(data)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_files_are_those_that_tensorflow_writes_and_reads(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("records")
    with tf.io.TFRecordWriter(str(folder / "theirs")) as writer:
        for record in records:
            writer.write(record)
    (folder / "ours").write_bytes(b"".join(map(tfrecord.frame, records)))
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    assert list(tf.data.TFRecordDataset(str(folder / "ours")).as_numpy_iterator()) == records
    assert list(tfrecord.read(folder / "theirs")) == records


@pytest.mark.parametrize("position", range(0, 40, 3))
def test_a_flipped_bit_raises_an_error_that_names_the_record(tmp_path, position):
    damaged = bytearray(tfrecord.frame(b"first record") + tfrecord.frame(b"second record"))
    damaged[position] ^= 0x10
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with pytest.raises(tfrecord.RecordError, match=f"record {int(position >= 28)} at byte {28 * int(position >= 28)}"):
        list(tfrecord.read(path))


@pytest.mark.parametrize("keep", [3, 20, 27, 30, 50])
def test_a_truncated_file_raises_an_error(tmp_path, keep):
    path = tmp_path / "cut"
    path.write_bytes((tfrecord.frame(b"first record") + tfrecord.frame(b"second record"))[:keep])
    with pytest.raises(tfrecord.RecordError, match="the file ends inside"):
        list(tfrecord.read(path))


def test_values_that_an_example_cannot_hold_are_an_error():
    with pytest.raises(ValueError, match="'empty' is empty"):
        tfrecord.encode({"empty": []})
    with pytest.raises(TypeError, match="bytes, ints or floats"):
        tfrecord.encode({"text": ["a"]})


def test_offsets_are_those_of_the_records(tmp_path):
    records = [b"a", b"", b"b" * 1000]
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"".join(map(tfrecord.frame, records)))
    assert [tfrecord.read_at(path, offset) for offset in tfrecord.offsets(path)] == records
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(tfrecord.RecordError, match="ends inside the record"):
        tfrecord.offsets(path)
