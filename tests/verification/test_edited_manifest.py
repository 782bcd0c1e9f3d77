"""verify reports every edit of the manifest, also where its digest was updated after it."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from octprep import cli
from octprep.format.config import BuildConfig, Preprocessing
from octprep.format.errors import ManifestError
from octprep.format.manifest import Manifest
from octprep.pipeline import build
from tests.worlds.archive import archive, write_folder
from tests.worlds.edits import edit_manifest, violations_of

CHANGED = "was changed after it was written"


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
        (set_config(split="by-patient", fractions=[1, 1, 1]), None),  # could give the same splits
        (set_config(split="kfold", balance="none"), "config.split is kfold, but the splits are train, val, test"),
        (set_config(split="as-given"), "config.split is as-given, but"),
        (set_config(near_duplicates=False), "treated otherwise than config says (off)"),
        (set_config(max_per_patient=1), "config.max_per_patient is 1, but train has"),
        (set_recipe(height=48, width=32), "crop: "),
        (set_recipe(height=33), "has an image that is not 33 x 48"),
        (set_recipe(flatten=True), "lacks features or has others than it should: row_offset"),
        (set_recipe(crop="none"), "config.recipe.crop is none"),
        (lambda raw: raw["leaks"].update(patients=["1"]), "declares patient 1 in two splits"),
        (lambda raw: raw["leaks"].update(contents=["ab" * 32]), "declares content abab"),
        (lambda raw: raw["leaks"].update(near=[["a", "b"]]), "declares near-identical pair a = b"),
        (lambda raw: raw["source"].update(found=1), "where the manifest says 1"),
        (lambda raw: raw["source"].update(kept=9999), "where the manifest says 9,999"),
        (lambda raw: raw["source"].update(excluded=0), "where the manifest says 0"),
        (lambda raw: raw["libraries"].pop("opencv"), "lacks opencv"),
        (lambda raw: raw["libraries"].update(numpy="new"), "'new', which is not a version"),
        (lambda raw: raw["splits"]["test"][0].update(sha256="0" * 64), "where the manifest says 0000"),
        (lambda raw: raw["splits"]["test"][0].update(bytes=7), "where the manifest says 7"),
        (lambda raw: raw["splits"].pop("val"), "the splits are train, test"),
        (lambda raw: raw.update(images_sha256="0" * 64), CHANGED),
        (lambda raw: raw.update(duplicates_sha256="0" * 64), CHANGED),
    ],
)
def test_edit_is_named_though_the_digest_fits(shards, edit, words):
    edit_manifest(shards, edit)
    violations = [f"{where} {message}" for _, where, message in violations_of(shards)]
    assert not any("digest" in text for text in violations)
    if words:
        assert any(words in text for text in violations), violations
        assert len(violations) < 12  # an error in every row is reported once


def test_edit_without_a_new_digest(shards):
    raw = json.loads((shards / "manifest.json").read_text())
    raw["source"]["found"] += 1
    (shards / "manifest.json").write_text(json.dumps(raw))
    assert any((check, where) == (5, "manifest.json") for check, where, _ in violations_of(shards))


def test_same_content_in_other_bytes(shards):
    raw = json.loads((shards / "manifest.json").read_bytes())
    (shards / "manifest.json").write_text(json.dumps(raw))
    message = "was rewritten: it says the same, but not in the bytes that octprep writes"
    assert violations_of(shards) == [(5, "manifest.json", message)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw["splits"]["test"][0].update(name="../test/00000-of-00001.tfrecord"),
        lambda raw: raw["splits"]["test"][0].update(name="test/../../test/00000-of-00001.tfrecord"),
        lambda raw: raw["splits"]["test"][0].update(name="/etc/passwd"),
        lambda raw: raw["splits"]["test"][0].update(name=None),
        lambda raw: raw["splits"].update({"..": raw["splits"].pop("val")}),
        lambda raw: raw["splits"].update({"a/b": []}),
        lambda raw: raw["splits"].update(val=raw["splits"]["test"]),
        lambda raw: raw["splits"]["test"].append(raw["splits"]["test"][0]),
        lambda raw: raw.update(splits=[]),
        lambda raw: raw["splits"]["test"][0].update(sha256=True),
        lambda raw: raw["splits"]["test"][0].update(sha256="AB" * 32),
        lambda raw: raw["splits"]["test"][0].update(records=True),
        lambda raw: raw["splits"]["test"][0].update(records=1.5),
        lambda raw: raw["splits"]["test"][0].update(records=10**400),
        lambda raw: raw["splits"]["test"][0].update(bytes="x"),
        lambda raw: raw["splits"]["test"][0]["per_class"].__setitem__(0, 99),
        lambda raw: raw["splits"]["test"][0]["per_class"].pop(),
        lambda raw: raw.update(images_sha256=True),
        lambda raw: raw.update(class_names=["A", "A", "B", "C"]),
        lambda raw: raw["class_names"].pop(),
        lambda raw: raw.update(libraries={"numpy": 2}),
        lambda raw: raw.update(extra=1),
        lambda raw: raw.update(source=[]),
        lambda raw: raw["source"].pop("found"),
        lambda raw: raw["source"].update(listing="00"),
        lambda raw: raw["source"].update(more=[[[[[]]]]]),
        lambda raw: raw["leaks"].update(contents=["x"]),
        lambda raw: raw["leaks"].update(near=[["a"]]),
        lambda raw: raw.update(leaks={"patients": 3}),
        lambda raw: raw["config"].update(seed=float("nan")),
        lambda raw: raw["config"].update(shard_mb=float("inf")),
        lambda raw: raw["config"].update(shard_mb="128"),
        lambda raw: raw["config"].update(near_duplicates=1),
        lambda raw: raw["config"]["recipe"].update(height=32.0),
        lambda raw: raw["config"]["recipe"].pop("resize"),
    ],
)
def test_manifest_that_no_build_writes_is_an_error_for_every_reader(shards, edit):
    edit_manifest(shards, edit)
    with pytest.raises(ManifestError, match=r"manifest\.json (is not a manifest that octprep wrote|cannot be read)"):
        Manifest.load(shards)
    done = CliRunner().invoke(cli.app, ["verify", str(shards)])
    assert isinstance(done.exception, ManifestError)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 50_000, b"\xff", b"9" * 5000, b'{"format_version": true}', b'{"format_version": 2.0}'],
    ids=["lists", "objects", "not UTF-8", "long number", "true", "2.0"],
)
def test_unusable_json_is_one_violation(shards, content):
    (shards / "manifest.json").write_bytes(content)
    assert len(violations_of(shards)) == 1


def test_leaks_that_a_build_allowed_must_be_the_actual_ones(tmp_path):
    src = write_folder(tmp_path / "src", [*archive(), "train/CNV-50-7"])
    out = tmp_path / "out"
    recipe = Preprocessing(height=32, width=48)
    build(src, out, BuildConfig(recipe=recipe, split="as-given", allow_leaks=True), workers=0)
    assert {check for check, _, _ in violations_of(out)} == {1}
    edit_manifest(out, lambda raw: raw["leaks"].update(patients=["51"]))
    assert {message for check, _, message in violations_of(out) if check == 5} == {
        "declares patient 51 in two splits, but the records show no such thing",
        "does not declare patient 50, which is in two splits",
    }
    edit_manifest(out, lambda raw: (raw["leaks"].update(patients=["50"]), raw["config"].update(allow_leaks=False)))
    [message] = [message for check, _, message in violations_of(out) if check == 5]
    assert message == "are declared, but config.allow_leaks is false"


def test_unfinished_folder_is_an_error_that_says_so(good, tmp_path):
    folder = shutil.copytree(good, tmp_path / "out")
    (folder / "manifest.json").unlink()
    (folder / ".octprep-work").mkdir()
    for command in ("verify", "report"):
        done = CliRunner().invoke(cli.app, [command, str(folder)])
        assert isinstance(done.exception, ManifestError)
        assert "it is being built, or its build was interrupted" in str(done.exception)


def test_folder_of_format_2_is_an_error_that_says_to_rebuild(shards):
    edit_manifest(shards, lambda raw: raw.update(format_version=2))
    message = r"has format version 2, but this version of octprep reads format version 3\. Rebuild the folder with"
    for command in ("verify", "report"):
        done = CliRunner().invoke(cli.app, [command, str(shards)])
        assert isinstance(done.exception, ManifestError)
        assert re.search(message, str(done.exception))
