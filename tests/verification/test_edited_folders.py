"""Whatever is edited in a finished folder is a named fault, also where all sums are put right after it."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from octprep import cli, console
from octprep.duplicates.exact import DuplicatePair
from octprep.duplicates.file import DuplicatesFile
from octprep.format import images_csv
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from octprep.shards import tfrecord
from octprep.verification import verify
from tests.worlds.archive import archive, files_of, write_folder

pytestmark = pytest.mark.slow

QUICK = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SUMS = "was changed after it was written"
# Columns of which a record, a path or duplicates.json shows every cell of a kept row.
SHOWN = [column for column in images_csv.COLUMNS if column not in ("bytes", "border", "confidence", "note")]
ODD = ["", " ", "\0", "-1", "0", "1", "1.0", "01", "1e3", "nan", "inf", "9" * 5000, "train", "x", "\u0661", "CNV", "'"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Shards with joined patients, copies left out, junk, and repeats in train."""
    folder = tmp_path_factory.mktemp("edits")
    src = write_folder(folder / "src", archive())
    cnv, dme = src / "train" / "CNV", src / "train" / "DME"
    (cnv / "CNV-1-90.jpeg").write_bytes((cnv / "CNV-1-1.jpeg").read_bytes())
    (dme / "DME-777-1.jpeg").write_bytes((dme / "DME-100-1.jpeg").read_bytes())
    (src / "notes.txt").write_text("junk")
    build(src, folder / "out", BuildConfig(recipe=Preprocessing(height=32, width=48), shard_mb=0.02), workers=1)
    assert verify(folder / "out", workers=1).faults == ()
    return folder / "out"


@pytest.fixture(scope="module")
def shards(good, tmp_path_factory):
    """A copy; what a test changes is put back before the next."""
    return shutil.copytree(good, tmp_path_factory.mktemp("copy") / "shards")


@pytest.fixture(autouse=True)
def put_back(request):
    yield
    if "shards" in request.fixturenames:
        restore(request.getfixturevalue("good"), request.getfixturevalue("shards"))


def restore(good, shards):
    there, wanted = files_of(shards), files_of(good)
    for name in there.keys() | wanted.keys():
        if name not in wanted:
            (shards / name).unlink()
        elif there.get(name) != wanted[name]:
            (shards / name).write_bytes(wanted[name])


def faults_of(folder):
    """What is wrong, as (law, where, what); a manifest that is none is a fault too, and nothing else is raised."""
    try:
        return [tuple(fault) for fault in verify(folder, workers=1).faults]
    except ManifestError as error:
        assert "manifest.json" in str(error)
        return [(5, "manifest.json", str(error))]


def write_table(folder, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, images_csv.COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (folder / "images.csv").write_bytes(text.getvalue().encode())


def reseal(folder, **fields):
    """Put right the sums of images.csv, duplicates.json and all shards, and the manifest's digest."""
    raw = json.loads((folder / "manifest.json").read_bytes()) | fields
    for name, key in (("images.csv", "images_sha256"), ("duplicates.json", "duplicates_sha256")):
        raw[key] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for part in raw["splits"].values():
        for shard in part:
            data = (folder / shard["name"]).read_bytes()
            records = [tfrecord.decode(record) for record in tfrecord.read(folder / shard["name"])]
            labels = [record["label"][0] for record in records]
            counts = [labels.count(label) for label in range(len(raw["class_names"]))]
            shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            shard |= {"records": sum(counts), "per_class": counts}
    digest_again(folder, raw)


def digest_again(folder, raw):
    raw.pop("digest", None)
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"digest": digest, **raw}, indent=1) + "\n")


@QUICK
@given(data=st.data())
def test_any_edit_of_any_byte_of_any_file_is_named(good, shards, data):
    names = sorted(name for name in files_of(good) if name != "report.html")
    name = data.draw(st.sampled_from(["manifest.json", "images.csv", "duplicates.json", *names]))
    before = (good / name).read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    taken = data.draw(st.integers(0, 3))
    put = data.draw(st.binary(max_size=3) | st.sampled_from([b" ", b"\n", b"[" * 9999, b"9" * 9999, b'"', b","]))
    after = before[:at] + put + before[at + taken :]
    assume(after != before)
    try:
        (shards / name).write_bytes(after)
        assert any(name in where for _, where, _ in faults_of(shards))
    finally:
        restore(good, shards)


@QUICK
@given(data=st.data())
def test_any_edit_of_any_cell_is_named(good, shards, data):
    rows = images_csv.read((good / "images.csv").read_bytes())
    cell = st.tuples(
        st.integers(0, len(rows) - 1), st.sampled_from(images_csv.COLUMNS), st.sampled_from(ODD) | st.text(max_size=5)
    )
    before = [dict(row) for row in rows]
    for row, column, value in data.draw(st.lists(cell, min_size=1, max_size=3)):
        rows[row][column] = value
    assume(rows != before)
    try:
        write_table(shards, rows)
        assert any(where.startswith("images.csv") for _, where, _ in faults_of(shards))
    finally:
        restore(good, shards)


@settings(QUICK, max_examples=25)
@given(data=st.data())
def test_an_edit_of_any_cell_that_records_show_is_named_though_all_sums_fit(good, shards, data):
    rows = images_csv.read((good / "images.csv").read_bytes())
    kept = [row for row in rows if row["shard"]]
    row = data.draw(st.sampled_from(kept))
    column = data.draw(st.sampled_from(SHOWN))
    nudged = []
    if re.fullmatch(r"-?[0-9.]+", row[column]) and "." in row[column]:
        places = 10 ** (4 if column == "sharpness" else 2)
        nudged = [repr(round(float(row[column]) + step / places, 4)) for step in (-1, 1)]
    elif re.fullmatch(r"-?[0-9]{1,9}", row[column]):
        nudged = [str(int(row[column]) + step) for step in (-1, 1)]
    others = [other[column] for other in kept]
    value = data.draw(st.sampled_from([*nudged * 9, *ODD, *others]))
    assume(value != row[column])
    path = row["path"]
    row[column] = value
    try:
        write_table(shards, rows)
        reseal(shards)
        found = faults_of(shards)
        assert found
        if "\0" not in value and len(value) < 5000:
            assert any(path in where + what or value in what for _, where, what in found)
    finally:
        restore(good, shards)


def test_form_and_path_of_a_file_that_was_left_out_are_looked_at(good, shards):
    rows = images_csv.read((good / "images.csv").read_bytes())
    copy = next(row for row in rows if row["left_out"].startswith("same bytes"))
    for column, value in (
        ("class", "DME" if copy["class"] != "DME" else "CNV"), ("patient", "4711"), ("number", "91"), ("folder", ""),
        ("group", "9"), ("split", "test"), ("copies", "1"), ("shard", "test/00000-of-00001.tfrecord"),
        ("left_out", ""), ("width", "wide"), ("mean", "nan"), ("border", "2"), ("sha256", "ab"), ("bytes", ""),
    ):  # fmt: skip
        kept, copy[column] = copy[column], value
        write_table(shards, rows)
        reseal(shards)
        assert any(copy["path"] in where for _, where, _ in faults_of(shards)), column
        copy[column] = kept


RECORD = {
    "label": lambda value: [(value[0] + 1) % 4],
    "patient": lambda value: [b"4711"],
    "path": lambda value: [value[0].replace(b"-1", b"-9")],
    "number": lambda value: [value[0] + 1],
    "sha256": lambda value: [bytes(reversed(value[0]))],
    "source_size": lambda value: [value[0], value[1] + 1],
    "affine": lambda value: [*value[:2], value[2] + 1, *value[3:]],
    "image": lambda value: [bytes(byte // 2 for byte in value[0])],
    "repeat": lambda value: [value[0] + 1],
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("feature", RECORD)
def test_an_edit_of_any_feature_of_a_record_is_named_though_all_sums_fit(shards, split, feature):
    name = Manifest.load(shards).splits[split][0].name
    records = [tfrecord.decode(data) for data in tfrecord.read(shards / name)]
    changed = next(record for record in records if b"-1.jpeg" in record["path"][0] and record["repeat"] == [0])
    path = changed["path"][0].decode()
    changed[feature] = RECORD[feature](changed[feature])
    write_records(shards / name, records)
    reseal(shards)
    assert any(path in where + what for law, where, what in faults_of(shards) if law != 5)


def write_records(path, records):
    flat = ({key: v[0] if isinstance(v[0], bytes) else v for key, v in record.items()} for record in records)
    path.write_bytes(b"".join(tfrecord.frame(tfrecord.encode(record)) for record in flat))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(more=[1]), "lacks features or has others than it should: more"),
        (lambda record: record.pop("number"), "lacks features or has others than it should: number"),
        (lambda record: record.update(affine=[float("nan")] * 6), "has a number that cannot be"),
        (lambda record: record.update(label=[b"1"]), "wrong kind or length: label"),
        (lambda record: record.update(source_size=[3]), "wrong kind or length: source_size"),
        (lambda record: record.update(patient=[b"\xff"]), "has text that is not UTF-8"),
        (lambda record: record.update(copy=[-1]), "has a number that cannot be"),
        (lambda record: record.update(image=[b"x"]), "has an image that is not 32 x 48 gray pixels"),
    ],
)
def test_a_record_that_is_none_is_named_alone(shards, change, words):
    """And neither its shard's counts nor the rows that point there."""
    name = Manifest.load(shards).splits["test"][0].name
    records = [tfrecord.decode(data) for data in tfrecord.read(shards / name)]
    change(records[1])
    write_records(shards / name, records)
    raw = json.loads((shards / "manifest.json").read_bytes())
    data = (shards / name).read_bytes()
    raw["splits"]["test"][0] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    digest_again(shards, raw)
    [(law, where, what)] = faults_of(shards)
    assert (law, where) == (5, f"{name} record 1")
    assert words in what


def test_bytes_that_no_feature_tells_are_named(shards):
    """A field that protocol buffers pass over: the record reads the same, but octprep did not write it."""
    name = Manifest.load(shards).splits["test"][0].name
    records = list(tfrecord.read(shards / name))
    (shards / name).write_bytes(b"".join(map(tfrecord.frame, [records[0] + b"\x12\x01x", *records[1:]])))
    reseal(shards)
    assert [what for _, _, what in faults_of(shards)] == ["is not encoded as octprep encodes a record"]


def test_one_damaged_byte_is_one_line_with_its_cause(shards):
    name = Manifest.load(shards).splits["test"][0].name
    data = bytearray((shards / name).read_bytes())
    data[len(data) // 3] ^= 1
    (shards / name).write_bytes(data)
    verdict = verify(shards, workers=1)
    [fault] = verdict.faults
    assert (fault.law, fault.where) == (5, name)
    assert "CRC; it has SHA-256" in fault.what
    assert verdict.unread == (name,)
    lines = console.verified(shards, verdict).splitlines()
    assert lines[0].startswith("law 5 BROKEN")
    assert name in lines[1]
    assert [line[:12] for line in lines[2:6]] == [f"law {law} open  " for law in (1, 2, 3, 4)]
    rows = images_csv.read((shards / "images.csv").read_bytes())
    pointing = sum(name in row["shard"].split() for row in rows)
    assert lines[6].endswith(f"could not be read whole; {pointing} rows of images.csv point there")


def test_a_wrong_row_is_seen_where_another_shard_is_damaged(shards):
    name = Manifest.load(shards).splits["test"][0].name
    (shards / name).write_bytes((shards / name).read_bytes()[:-1])
    rows = images_csv.read((shards / "images.csv").read_bytes())
    row = next(row for row in rows if row["split"] == "val")
    row["mean"] = "1.0"
    write_table(shards, rows)
    assert {(law, where.split()[-1]) for law, where, _ in faults_of(shards)} == {
        (5, name), (2, "images.csv"), (2, row["path"]),
    }  # fmt: skip


def set_config(**settings):
    return lambda raw: raw["config"].update(settings)


def set_recipe(**settings):
    return lambda raw: raw["config"]["recipe"].update(settings)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda raw: raw["class_names"].reverse(), "class CNV: "),
        (lambda raw: raw["class_names"].__setitem__(0, "AMD"), "AMD"),
        (set_config(balance="none"), "config.balance is none, which repeats nothing"),
        (set_config(balance="undersample"), "config.balance is undersample, which repeats nothing"),
        (set_config(encoding="png"), "has an image that is not 32 x 48 gray pixels in a PNG"),
        (set_config(split="grouped", fractions=[1, 1, 1]), None),  # the same splits could come of it
        (set_config(split="kfold", balance="none"), "config.split is kfold, but the splits are train, val, test"),
        (set_config(split="official"), "config.split is official, but"),
        (set_config(near_duplicates=False), "treated otherwise than config says (off)"),
        (set_config(max_per_patient=1), "config.max_per_patient is 1, but train has"),
        (set_recipe(height=48, width=32), "crop: "),
        (set_recipe(height=33), "has an image that is not 33 x 48"),
        (set_recipe(flatten=True), "lacks features or has others than it should: shift"),
        (set_recipe(crop="none"), "config.recipe.crop is none"),
        (lambda raw: raw["leaks"].update(patients=["1"]), "declares patient 1 in two splits"),
        (lambda raw: raw["leaks"].update(contents=["ab" * 32]), "declares content abab"),
        (lambda raw: raw["leaks"].update(near=[["a", "b"]]), "declares near-identical pair a = b"),
        (lambda raw: raw["source"].update(found=1), "where the manifest says 1"),
        (lambda raw: raw["source"].update(left_out=0), "where the manifest says 0"),
        (lambda raw: raw["libraries"].pop("opencv"), "lacks opencv"),
        (lambda raw: raw["libraries"].update(numpy="new"), "'new', which is no version"),
        (lambda raw: raw["splits"]["test"][0].update(sha256="0" * 64), "where the manifest says 0000"),
        (lambda raw: raw["splits"]["test"][0].update(bytes=7), "where the manifest says 7"),
        (lambda raw: raw["splits"].pop("val"), "the splits are train, test"),
        (lambda raw: raw.update(images_sha256="0" * 64), SUMS),
        (lambda raw: raw.update(duplicates_sha256="0" * 64), SUMS),
    ],
)
def test_an_edit_of_the_manifest_is_named_though_its_digest_fits(shards, edit, words):
    raw = json.loads((shards / "manifest.json").read_bytes())
    edit(raw)
    digest_again(shards, raw)
    found = [f"{where} {what}" for _, where, what in faults_of(shards)]
    assert not any("digest" in text for text in found)
    if words:
        assert any(words in text for text in found), found
        assert len(found) < 12  # what is wrong in every row is said once


def test_a_manifest_with_the_same_content_in_other_bytes_is_named(shards):
    raw = json.loads((shards / "manifest.json").read_bytes())
    (shards / "manifest.json").write_text(json.dumps(raw))
    assert faults_of(shards) == [
        (5, "manifest.json", "was rewritten: it says the same, but not in the bytes that octprep writes")
    ]


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw["splits"]["test"][0].update(name="../test/00000-of-00001.tfrecord"),
        lambda raw: raw["splits"]["test"][0].update(name="test/../../test/00000-of-00001.tfrecord"),
        lambda raw: raw["splits"]["test"][0].update(name="/etc/passwd"),
        lambda raw: raw["splits"].update({"..": raw["splits"].pop("val")}),
        lambda raw: raw["splits"].update({"a/b": []}),
        lambda raw: raw["splits"]["test"].append(raw["splits"]["test"][0]),
        lambda raw: raw["splits"]["test"][0].update(sha256=True),
        lambda raw: raw["splits"]["test"][0].update(sha256="AB" * 32),
        lambda raw: raw["splits"]["test"][0].update(records=True),
        lambda raw: raw["splits"]["test"][0].update(records=10**400),
        lambda raw: raw["splits"]["test"][0]["per_class"].__setitem__(0, 99),
        lambda raw: raw.update(images_sha256=True),
        lambda raw: raw.update(class_names=["A", "A", "B", "C"]),
        lambda raw: raw.update(libraries={"numpy": 2}),
        lambda raw: raw.update(extra=1),
        lambda raw: raw["source"].update(listing="00"),
        lambda raw: raw["source"].update(more=[[[[[]]]]]),
        lambda raw: raw["leaks"].update(contents=["x"]),
        lambda raw: raw["leaks"].update(near=[["a"]]),
        lambda raw: raw["config"].update(seed=float("nan")),
        lambda raw: raw["config"].update(shard_mb=float("inf")),
        lambda raw: raw["config"].update(shard_mb="128"),
        lambda raw: raw["config"].update(near_duplicates=1),
        lambda raw: raw["config"]["recipe"].update(height=32.0),
        lambda raw: raw["config"]["recipe"].pop("fit"),
    ],
)
def test_a_manifest_that_no_build_writes_is_refused_by_everything(shards, edit):
    raw = json.loads((shards / "manifest.json").read_bytes())
    edit(raw)
    digest_again(shards, raw)
    with pytest.raises(ManifestError, match=r"manifest\.json (is not a manifest that octprep wrote|cannot be read)"):
        Manifest.load(shards)
    done = CliRunner().invoke(cli.app, ["verify", str(shards)])
    assert isinstance(done.exception, ManifestError)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 50_000, b"\xff", b"9" * 5000, b'{"format_version": true}', b'{"format_version": 2.0}'],
    ids=["lists", "objects", "not UTF-8", "long number", "true", "2.0"],
)
def test_odd_json_is_a_sentence(shards, content):
    (shards / "manifest.json").write_bytes(content)
    assert len(faults_of(shards)) == 1
    restored = json.dumps(json.loads(content)) if content.startswith(b'{"f') else content
    (shards / "duplicates.json").write_bytes(content)
    assert restored


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"9" * 5000, b"{}", b"[]", b'{"pairs": 3}'])
def test_odd_joins_are_named(shards, content):
    (shards / "duplicates.json").write_bytes(content)
    assert any("duplicates.json" in where and "cannot be read" in what for _, where, what in faults_of(shards))
    with pytest.raises(ManifestError, match=r"joins\.json cannot be read"):
        console.join_lines(shards, Manifest.load(shards))


def test_edited_joins_are_named_though_all_sums_fit(good, shards):
    found = DuplicatesFile.from_json((good / "duplicates.json").read_bytes())
    rows = images_csv.read((good / "images.csv").read_bytes())
    one, other = (next(row for row in rows if row["split"] == split) for split in ("train", "test"))
    for joins in (
        (),
        (*found.pairs, DuplicatePair(one["path"], other["path"], "near-identical", 0.9)),
        (*found.pairs, DuplicatePair("a", "b", "near-identical", 0.9)),
        tuple(dataclasses.replace(join, reason="near-identical", correlation=0.95) for join in found.pairs),
        tuple(dataclasses.replace(join, correlation=0.95) for join in found.pairs),
    ):
        (shards / "duplicates.json").write_bytes(dataclasses.replace(found, pairs=joins).to_json())
        reseal(shards)
        assert faults_of(shards), joins


def test_equal_stored_pixels_in_two_splits_are_a_leak_without_a_search_for_near_duplicates(tmp_path):
    """The same pixels in another file, under another id: nothing but the pixels tells."""
    src = write_folder(tmp_path / "src", archive())
    build(
        src, tmp_path / "out", BuildConfig(recipe=Preprocessing(height=32, width=48), near_duplicates=False), workers=1
    )
    manifest = Manifest.load(tmp_path / "out")
    train, test = (manifest.splits[split][0].name for split in ("train", "test"))
    learnt = next(map(tfrecord.decode, tfrecord.read(tmp_path / "out" / train)))
    judged = [tfrecord.decode(data) for data in tfrecord.read(tmp_path / "out" / test)]
    judged[0]["image"] = learnt["image"]
    write_records(tmp_path / "out" / test, judged)
    reseal(tmp_path / "out")
    verdict = verify(tmp_path / "out", workers=1)
    [what] = [fault.what for fault in verdict.faults if fault.law == 1]
    assert "has the same stored pixels, in test, as" in what
    assert learnt["path"][0].decode() in what
    assert "no equal stored pixels are in two splits" in console.verified(tmp_path / "out", verdict)


def test_leaks_that_a_build_was_allowed_must_be_those_there_are(tmp_path):
    src = write_folder(tmp_path / "src", [*archive(), "train/CNV-50-7"])
    recipe = Preprocessing(height=32, width=48)
    build(src, tmp_path / "out", BuildConfig(recipe=recipe, split="official", allow_leaks=True), workers=1)
    assert {law for law, _, _ in faults_of(tmp_path / "out")} == {1}
    raw = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    raw["leaks"]["patients"] = ["51"]
    digest_again(tmp_path / "out", raw)
    assert {what for law, _, what in faults_of(tmp_path / "out") if law == 5} == {
        "declares patient 51 in two splits, but the records show no such thing",
        "does not declare patient 50, which is in two splits",
    }
    raw["leaks"]["patients"], raw["config"]["allow_leaks"] = ["50"], False
    digest_again(tmp_path / "out", raw)
    [what] = [what for law, _, what in faults_of(tmp_path / "out") if law == 5]
    assert what == "are declared, but config.allow_leaks is false"


def linked_shard(folder, name):
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def linked_split(folder, name):
    split = (folder / name).parent
    split.rename(folder.parent / "elsewhere")
    split.symlink_to(folder.parent / "elsewhere")


def piped_shard(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)


def folder_for_shard(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (linked_shard, "is a link, not a file"),
        (linked_split, "lies in test, which is a link, not a folder"),
        (piped_shard, "is not a regular file"),
        (folder_for_shard, "is not a regular file"),
    ],
)
def test_shards_that_lie_elsewhere_or_are_no_files_are_named_and_not_read(good, tmp_path, change, words):
    folder = shutil.copytree(good, tmp_path / "out")
    manifest = Manifest.load(folder)
    name = manifest.splits["test"][0].name
    change(folder, name)
    with pytest.raises(ManifestError, match=words):
        manifest.check_files(folder, ("test",))
    assert any(where == name and words in what for _, where, what in faults_of(folder))
    with pytest.raises(tfrecord.RecordError, match=words):
        list(tfrecord.read(folder / name))


@pytest.mark.parametrize("name", ["manifest.json", "images.csv", "duplicates.json"])
@pytest.mark.parametrize("kind", ["pipe", "link", "endless"])
def test_a_table_that_is_a_pipe_or_a_link_is_named_at_once(good, tmp_path, name, kind):
    folder = shutil.copytree(good, tmp_path / "out")
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(good / name if kind == "link" else "/dev/zero")
    assert any(name in where for _, where, _ in faults_of(folder))


def test_a_folder_whose_build_is_not_finished_says_so(good, tmp_path):
    folder = shutil.copytree(good, tmp_path / "out")
    (folder / "manifest.json").unlink()
    (folder / ".octprep-work").mkdir()
    for command in ("verify", "certify", "report"):
        done = CliRunner().invoke(cli.app, [command, str(folder)])
        assert isinstance(done.exception, ManifestError)
        assert "it is being built, or its build was interrupted" in str(done.exception)


def test_control_characters_of_an_edited_table_are_not_printed(shards):
    rows = images_csv.read((shards / "images.csv").read_bytes())
    next(row for row in rows if row["shard"])["path"] = "a\x1b[31mred\u202e"
    write_table(shards, rows)
    printed = console.verified(shards, verify(shards, workers=1))
    assert "\x1b" not in printed
    assert "a\\x1b[31mred\\u202e" in printed


def test_thousands_of_faults_are_counted_and_the_first_printed(shards):
    rows = images_csv.read((shards / "images.csv").read_bytes())
    kept = next(row for row in rows if row["shard"])
    write_table(shards, [*rows, *({**kept, "path": f"x{n}"} for n in range(300))])
    verdict = verify(shards, workers=1)
    printed = console.verified(shards, verdict)
    assert len(verdict.faults) > 300
    assert re.search(r"^  and [0-9,]+ more$", printed, re.MULTILINE)
    assert len(printed.splitlines()) < 120
