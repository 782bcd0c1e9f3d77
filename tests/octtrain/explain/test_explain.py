"""The command `octtrain explain`: a picture for every scan, all numbers as JSON, and errors that say what to do."""

import dataclasses
import io
import json
import os

import cv2
import numpy as np
import pytest

pytest.importorskip("keras")
from PIL import Image

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import OutputError, SettingError, SourceError, StoppedError
from octtrain.explain.explain import explain, picture_names
from octtrain.prediction.classify import load_run
from octtrain.runs.run import Run
from tests.worlds.layers import layered
from tests.worlds.networks import tiny_run
from tests.worlds.runs import program, quiet, scan_file
from tests.worlds.shards import untrained_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    files = [scan_file(folder / f"CNV/CNV-1-{k}.jpeg", seed=k) for k in (1, 2)]
    (folder / "CNV" / "notes.txt").write_bytes(b"no image")
    return folder, files


def test_the_numbers_are_those_of_the_model_and_sum_to_its_logits(run, scans, tmp_path, capsys):
    folder, files = scans
    code, out, err = program(capsys, "explain", run, folder, "--out", tmp_path / "out", "--json", tmp_path / "e.json")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"excluded {folder}/CNV/notes.txt: ")
    content = json.loads((tmp_path / "e.json").read_text())
    assert list(content["excluded"]) == [str(folder / "CNV" / "notes.txt")]
    predictions = {str(result.path): result for result in load_run(run).predict(files)}
    assert [image["path"] for image in content["images"]] == list(map(str, files))
    for image in content["images"]:
        prediction = predictions[image["path"]]
        assert (image["class"], image["prediction"], image["stated_class"]) == (
            prediction.label,
            prediction.label,
            "CNV",
        )
        np.testing.assert_allclose(list(image["probabilities"].values()), prediction.probabilities, atol=1e-5)
        total = np.sum(image["evidence"]) + image["bias"]
        assert total == pytest.approx(image["logits"][prediction.label], abs=1e-4)
        assert abs(image["sum_error"]) < 1e-4
        source, _ = preprocessing.read_image(files[0])
        geometry = preprocessing.preprocess(source, load_run(run).run.manifest.recipe).geometry
        assert image["affine"] == list(geometry.affine)
        patches = content["patches"]
        assert np.shape(image["occlusion"]) == (len(patches["rows"]), len(patches["columns"]))
        assert content["field"]["stored_pixels"] == [32, 32] == content["stored_size"]
        assert image["field_in_source_pixels"] == [
            round(32 * geometry.affine[4], 1), round(32 * geometry.affine[0], 1)
        ]  # fmt: skip
        assert image["picture"] in out
    assert "sees all of the 32x32 stored pixels" in out


def test_a_picture_shows_the_scan_as_it_is_and_colours_only_its_crop(run, tmp_path):
    file = tmp_path / "scan.jpeg"
    cv2.imwrite(str(file), layered(60, 30, width=512)[0])
    manifest = Run.load(run).manifest
    config = dataclasses.replace(manifest.config, recipe=Preprocessing(height=32, width=32))
    untrained_run(tmp_path / "run", dataclasses.replace(manifest, config=config), run.parent / "shards")
    (result,) = explain(tmp_path / "run", [file], tmp_path, class_name="DRUSEN", with_occlusion=False, log=quiet)
    assert (result.class_name, result.fallen) == ("DRUSEN", None)
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "scan-evidence.png").read_bytes())))
    rows, columns = result.source.shape
    below = 12 + 20 * 4  # the lines of text
    scan = picture[below : below + rows, 12 : 12 + columns]
    np.testing.assert_array_equal(scan, np.repeat(result.source[..., None], 3, axis=2))
    overlay = picture[below : below + rows, 24 + columns : 24 + 2 * columns].astype(int)
    top, bottom, left, right = result.stored.geometry.crop
    assert (bottom - top) * (right - left) < 0.8 * rows * columns
    is_inside = np.zeros((rows, columns), bool)
    is_inside[top:bottom, left:right] = True
    redness = overlay[..., 0] - overlay[..., 2]
    assert not redness[~is_inside].any()
    assert result.places.shape == (1, 1) and result.places.any()
    assert (np.sign(redness[is_inside]) == np.sign(result.places)).mean() > 0.99


def test_a_model_of_another_form_gets_an_occlusion_map_only(untrained, scans, tmp_path):
    tiny_run(tmp_path / "run", untrained / "shards")
    lines = []
    (result,) = explain(
        tmp_path / "run", scans[1][:1], tmp_path / "out", json_file=tmp_path / "e.json", log=lines.append
    )
    assert lines[0].endswith("has no evidence map; the pictures show an occlusion map only")
    assert result.places is None and result.correlation is None and result.fallen.any()
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["field"] is None
    assert "evidence" not in content["images"][0]
    with pytest.raises(SettingError, match="no evidence map; run it without --no-occlusion"):
        explain(tmp_path / "run", scans[1][:1], tmp_path / "out", with_occlusion=False, log=quiet)


def test_pictures_have_names_of_their_own_and_never_replace_an_input(run, tmp_path):
    names = ["a/x.png", "b/x.jpeg", "b/X.tif", "out/y-evidence.png", "c/y.png", f"c/{'z' * 240}.png"]
    pictures = list(picture_names([tmp_path / name for name in names], tmp_path / "out"))
    assert pictures[:3] == ["x-evidence.png", "x-evidence-2.png", "X-evidence-3.png"]
    assert pictures[4] == "y-evidence-2.png"
    assert len({name.casefold() for name in pictures}) == len(names)
    assert max(map(len, pictures)) < 200
    file = scan_file(tmp_path / "scan.jpeg").rename(tmp_path / os.fsdecode(b"M\xfcller.jpeg"))
    (result,) = explain(run, [file], tmp_path / "out", with_occlusion=False, log=quiet)
    assert result.picture == "M\\xfcller-evidence.png"
    assert (tmp_path / "out" / result.picture).is_file()


def test_what_cannot_be_read_or_written_is_an_error(run, scans, tmp_path, capsys):
    folder, files = scans
    with pytest.raises(SettingError, match=r"--class AMD is not a class of .*; give one of CNV, DME, DRUSEN and"):
        explain(run, files, tmp_path / "out", class_name="AMD", log=quiet)
    with pytest.raises(SourceError, match="0 of 1 file could be read"):
        explain(run, [folder / "CNV" / "notes.txt"], tmp_path / "out", log=quiet, warn=quiet)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"--out .*file cannot be written to"):
        explain(run, files, tmp_path / "file", log=quiet)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "away.jpeg").symlink_to(tmp_path / "none.jpeg")
    scan_file(tmp_path / "in" / "b.jpeg")
    with pytest.raises(StoppedError, match=r"1 of 2 files could not be read \(.*away\.jpeg"):
        explain(run, [tmp_path / "in"], tmp_path / "out", with_occlusion=False, log=quiet, warn=quiet)
    assert (tmp_path / "out" / "b-evidence.png").is_file()
    code, out, err = program(capsys, "explain", run, run, files[0], "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "explain takes one run" in err
