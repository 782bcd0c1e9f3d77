"""The backend and device that Keras runs on."""

import os
import stat
import sys

import pytest

pytest.importorskip("tensorflow")
import keras

from octtrain import runtime
from octtrain.models import build_model

pytestmark = pytest.mark.slow


LOG = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795634773.893388    5006 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use AVX2.
W0000 00:00:1795634774.981185    5006 gpu_device.cc:2365] Cannot dlopen some GPU libraries. Please make sure \
the missing libraries mentioned above are installed properly.
2026-11-25 19:40:00.000000: W tensorflow/core/common_runtime/gpu/gpu_device.cc:2365] Skipping registering GPU devices...
W0000 00:00:1795634774.981186    5006 gpu_device.cc:2365] Skipping registering GPU devices...
"""


def test_the_reason_why_a_gpu_is_not_used_is_taken_from_the_log():
    assert runtime.gpu_messages(LOG) == (
        "Cannot dlopen some GPU libraries. Please make sure the missing libraries mentioned above are installed "
        "properly. Skipping registering GPU devices..."
    )
    assert runtime.gpu_messages("") == runtime.NO_REASON


@pytest.mark.skipif(os.name == "nt", reason="a program is made of a script")
def test_an_unused_gpu_is_a_warning_with_the_reason(tmp_path, monkeypatch):
    if runtime.has_nvidia():
        pytest.skip("this machine has a GPU")
    assert len(runtime.describe_device()) == 1
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    device, warning = runtime.describe_device()
    assert device.startswith(f"computing with tensorflow {runtime.library_versions()['tensorflow']} on the CPU (")
    assert device.endswith(f"in float32; Keras {keras.__version__}")
    assert warning.startswith("WARNING: this machine has an NVIDIA GPU, but tensorflow does not use it: ")
    assert "cuda" in warning.lower() or "GPU" in warning.split("use it: ")[1]


@pytest.mark.parametrize(
    ("installed", "variable", "file", "expected"),
    [
        ("tensorflow jax", None, None, "tensorflow"),
        ("tensorflow", None, None, "tensorflow"),
        ("jax", None, None, "jax"),
        ("jax", None, '{"backend": "tensorflow"}', "jax"),  # Keras itself writes that
        ("tensorflow jax", None, '{"backend": "jax"}', "jax"),
        ("tensorflow jax", "jax", '{"backend": "tensorflow"}', "jax"),
        ("jax", "tensorflow", None, "tensorflow"),  # which is then an error
        ("", None, None, "tensorflow"),
        ("tensorflow jax", "", "damaged", "tensorflow"),
    ],
)
def test_the_backend_is_the_one_asked_for_or_else_the_one_installed(
    tmp_path, monkeypatch, installed, variable, file, expected
):
    monkeypatch.setattr(runtime, "is_installed", lambda name: name in installed.split())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if variable is not None:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    if file is not None:
        (tmp_path / "keras.json").write_text(file)
    monkeypatch.delitem(sys.modules, "keras")
    assert runtime.selected_backend() == expected


def test_models_compute_in_float32_whatever_keras_is_set_to():
    try:
        keras.config.set_image_data_format("channels_first")
        keras.config.set_dtype_policy("mixed_float16")
        model = build_model("octnet-s", (32, 48, 1), 4)
        assert {layer.dtype_policy.name for layer in model.layers} <= {"float32", "uint8"}
        assert model.layers[2].data_format == "channels_last"
        assert keras.config.image_data_format() == "channels_last"
    finally:
        runtime.prepare_keras()
