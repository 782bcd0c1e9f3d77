"""Models of the user's own, named as MODULE:FUNCTION."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

keras = pytest.importorskip("keras")

from octprep.format.errors import SettingError  # noqa: E402
from octtrain.config import FitConfig  # noqa: E402
from octtrain.models import build_model, last_feature_map, logits_model  # noqa: E402
from tests.worlds.runs import ROOT, initialised, program  # noqa: E402

SOURCE = """
import keras
from keras import layers

def build(height, width, classes, outputs=None, dtype="uint8", activation="softmax"):
    pixels = keras.Input((height, width, 1), dtype=dtype)
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, 2, activation="relu")(x))
    return keras.Model(pixels, layers.Dense(outputs or classes, activation=activation)(x))

def too_many(height, width, classes):
    return build(height, width, classes, outputs=7)

def floats(height, width, classes):
    return build(height, width, classes, dtype="float32")

def logits(height, width, classes):
    return build(height, width, classes, activation=None)

def small(height, width, classes):
    return build(16, 16, classes)

def fails(height, width, classes):
    raise RuntimeError("no idea")

def nothing(height, width, classes):
    return None

def softmax_apart(height, width, classes):
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, layers.Softmax()(layers.Dense(classes)(x)))

def sequential(height, width, classes):
    return keras.Sequential([
        keras.Input((height, width, 1), dtype="uint8"), layers.Rescaling(1 / 255), layers.Conv2D(4, 3),
        layers.GlobalAveragePooling2D(), layers.Dense(classes, activation="softmax", name="probabilities"),
    ])

def normalized(height, width, classes, dtype="float32"):
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(pixels)))
    x = layers.Dense(classes, activation="sigmoid", dtype=dtype)(x)
    return keras.Model(pixels, x / keras.ops.sum(x, axis=-1, keepdims=True))

def half(height, width, classes):
    return normalized(height, width, classes, None)

class Halve(layers.Layer):
    def call(self, x):
        return x / 2

@keras.saving.register_keras_serializable("custom")
class Double(layers.Layer):
    def call(self, x):
        return x * 2

def with_layer(layer, height, width, classes):
    pixels = keras.Input((height, width, 1), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(layer()(layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, layers.Dense(classes, activation="softmax")(x))

def unregistered(height, width, classes):
    return with_layer(Halve, height, width, classes)

def registered(height, width, classes):
    return with_layer(Double, height, width, classes)

text = "no function"
"""

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 1), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the module my_models."""
    (tmp_path / "my_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_models", None)
    return tmp_path


def test_a_function_in_the_working_folder_builds_the_model(folder):
    model = build_model("my_models:build", (32, 48, 1), 3)
    assert (model.input_shape, model.output_shape) == ((None, 32, 48, 1), (None, 3))
    assert FitConfig(model="package.module:build").model == "package.module:build"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:build", "the module no_such_module cannot be imported .*must be installed, or lie in"),
        ("my_models:missing", "the module my_models has no missing"),
        ("my_models:text", "has no function, but another object, called text"),
        ("my_models:fails", r"failed when called as \(32, 32, 4\), .*: RuntimeError: no idea"),
        ("my_models:nothing", "returned a NoneType; it must be a keras.Model"),
        ("my_models:small", r"takes uint8 of shape \(None, 16, 16, 1\); it must be .* from \(n, 32, 32, 1\) uint8"),
        ("my_models:floats", "takes float32 of shape"),
        ("my_models:too_many", r"gives float32 of shape \(None, 7\); it must be .* to \(n, 4\) float32"),
        ("my_models:logits", "are not probabilities; it must be a keras.Model"),
    ],
)
def test_a_model_of_another_form_is_a_one_line_error(folder, name, message):
    with pytest.raises(SettingError, match=message) as caught:
        build_model(name, (32, 32, 1), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["build", "softmax_apart", "sequential"])
def test_the_logits_of_a_model_that_ends_in_dense_and_softmax_are_exact_and_float32_in_any_precision(folder, name):
    for precision in ("float32", "bfloat16"):
        model = build_model(f"my_models:{name}", (32, 48, 1), 3, precision=precision)
        assert keras.config.dtype_policy().name == "float32"
        assert (model.input_shape, model.output_shape) == ((None, 32, 48, 1), (None, 3))
        dense = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
        dense.bias.assign([90.0, -90.0, 0.0])
        logits = logits_model(model)
        assert logits.output.dtype == model.output.dtype == "float32"
        values = np.asarray(logits.predict_on_batch(IMAGES))
        assert values.max() > 80  # no logarithm of a probability
        assert (values != values.astype(ml_dtypes.bfloat16)).any()
        model.save(folder / "a.keras")
        saved = np.asarray(logits_model(keras.saving.load_model(folder / "a.keras")).predict_on_batch(IMAGES))
        np.testing.assert_array_equal(saved, values)


def test_the_logits_of_another_model_are_logarithms_of_its_probabilities(folder):
    model = build_model("my_models:normalized", (32, 48, 1), 3, precision="bfloat16")
    values = np.asarray(logits_model(model).predict_on_batch(IMAGES))
    np.testing.assert_allclose(np.exp(values), np.asarray(model.predict_on_batch(IMAGES)), rtol=1e-6)


def test_another_model_whose_last_layer_computes_in_half_precision_is_an_error(folder):
    with pytest.raises(SettingError, match=r"gives bfloat16 .* float32 probabilities.* dtype='float32'"):
        build_model("my_models:half", (32, 48, 1), 3, precision="bfloat16")


def test_a_model_without_a_layer_of_features_is_an_error_where_one_is_needed(folder):
    with pytest.raises(SettingError, match="has no layer called 'features'"):
        last_feature_map(build_model("my_models:build", (32, 48, 1), 3))


def test_imagenet_weights_are_not_for_own_models(folder):
    with pytest.raises(SettingError, match="my_models:build is your own model"):
        build_model("my_models:build", (32, 32, 1), 4, "imagenet")


@pytest.mark.slow
def test_a_run_of_an_own_model_is_trained_resumed_and_evaluated(folder, shards, capsys):
    arguments = ["fit", shards, "--model", "my_models:build", "--epochs", 1, "--batch-size", 48]
    code, out, err = program(capsys, *arguments)
    assert (code, err) == (0, "")
    run = folder / "runs" / "shards-my_models-build-1"
    assert out.splitlines()[0] == f"run: {run.relative_to(folder)}"
    assert json.loads((run / "config.json").read_text())["config"]["model"] == "my_models:build"
    assert program(capsys, "fit", shards, "--run", run, "--resume", "--epochs", 2)[0] == 0
    assert "24 images of 6 patients" in program(capsys, "evaluate", run)[1]


LOAD = """
import octtrain
from octprep.format.errors import ManifestError
for name in ("build", "unregistered", "registered"):
    try:
        octtrain.load_run(name).model
        print(name, "loaded")
    except ManifestError as error:
        print(name, error)
"""


@pytest.mark.slow
def test_a_saved_model_loads_without_its_module_unless_it_has_custom_layers(folder, shards, monkeypatch):
    for name in ("build", "unregistered", "registered"):
        run_folder = initialised(folder / name, shards, FitConfig(model=f"my_models:{name}"))
        model = build_model(f"my_models:{name}", run_folder.run.image_shape, 4)
        run_folder.save_model(model, run_folder.path / "model.keras")
    run_folder.run.load_model()  # its layer is registered in this process
    (folder / "my_models.py").unlink()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, cwd=folder, check=True)
    plain, *custom = done.stdout.splitlines()
    assert plain == "build loaded"
    assert [line.split()[0] for line in custom] == ["unregistered", "registered"]
    for line in custom:
        assert "@keras.saving.register_keras_serializable()" in line
        assert "`import my_models` in Python before octtrain.evaluate or octtrain.load_run" in line
