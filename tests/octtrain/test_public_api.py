"""octtrain as a library: names, what they import, and that they work through the package alone."""

import subprocess
import sys

import pytest

import octtrain
from octprep.format.errors import ManifestError, SettingError
from tests.worlds.runs import ROOT, quiet, scan_file


def test_importing_the_package_imports_nothing_heavy():
    absent = ["tensorflow", "keras", "numpy", "cv2", "scipy", "typer"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import octtrain; octtrain.FitConfig(epochs=3); "
        "assert set(octtrain.__all__) <= set(dir(octtrain)); assert octtrain.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_names_are_functions_whatever_was_imported_before():
    pytest.importorskip("tensorflow")
    import octtrain.data.stream
    import octtrain.evaluation.evaluate
    import octtrain.prediction.classify
    import octtrain.training.fit

    for name in octtrain.__all__:
        assert callable(getattr(octtrain, name)), name
        assert len(getattr(octtrain, name).__doc__.splitlines()) > 1 or name == "FitConfig"
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        octtrain.train  # noqa: B018


@pytest.mark.slow
def test_a_model_is_trained_evaluated_and_used(shards, tmp_path):
    pytest.importorskip("tensorflow")
    run = octtrain.fit(str(shards), tmp_path / "run", epochs=2, batch_size=16, lr=3e-3, patience=0, log=quiet)
    assert [row["epoch"] for row in run.history()] == [1, 2]
    more = octtrain.fit(shards, run.folder, resume=True, epochs=3, log=quiet)
    assert len(more.history()) == 3
    report = octtrain.evaluate(run, log=quiet)
    again = octtrain.evaluate(str(run.folder), "test", out=tmp_path / "out", log=quiet)
    assert report.as_json() == again.as_json()
    assert report.accuracy.total == 24
    (prediction,) = octtrain.load_run(run.folder).predict([scan_file(tmp_path / "scan.jpeg")])
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-4)


def test_training_batches_have_the_documented_form(shards):
    pytest.importorskip("tensorflow")
    batches = octtrain.training_batches(shards, "train", batch_size=40, epochs=range(2))
    shapes = [(images.shape, images.dtype.name, labels.shape, labels.dtype.name) for images, labels in batches]
    assert shapes == [((40, 32, 32, 1), "uint8", (40,), "int64")] * 4
    with pytest.raises(ManifestError, match="has no split 'fold0'"):
        octtrain.training_batches(shards, "fold0")


def test_settings_are_validated_before_anything_is_made(shards, tmp_path):
    pytest.importorskip("tensorflow")
    with pytest.raises(SettingError, match="there is no setting epoch; "):
        octtrain.fit(shards, tmp_path / "run", epoch=3)
    with pytest.raises(SettingError, match="lr must be auto, or above 0"):
        octtrain.fit(shards, tmp_path / "run", octtrain.FitConfig(epochs=1), lr=0)
    assert not (tmp_path / "run").exists()
