"""The backend and device that Keras runs on, and the settings that every model here needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from octprep.format.errors import OctError, SettingError, StoppedError, is_out_of_memory
from octprep.wording import number

BACKENDS = ("tensorflow", "jax")
EXTRAS = {"tensorflow": "train", "jax": "jax"}  # that install a backend
_INSTALLED = "what is installed"  # as that which configures the backend
_is_substitute = False  # whether JAX was chosen because TensorFlow is not installed
PROBE_SECONDS = 60  # limit of the process that finds out why no GPU can be used

NO_REASON = "it gives no reason; it may be installed without support for NVIDIA GPUs."

# The start of a line of TensorFlow's or JAX's log: a level and numbers, or a date and a level, then file:line].
_LOG = re.compile(r"^(\S*\d{4}[^\]]*?\.(cc|py|h):\d+\] ?|WARNING:\S*: ?)")


class MissingPackage(OctError):
    """A package is needed that is not installed."""


def is_installed(name: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return sys.modules[name] is not None if name in sys.modules else find_spec(name) is not None


def require_tensorflow(what: str, instead: str) -> None:
    """Raise MissingPackage if TensorFlow is not installed.

    what: what TensorFlow is needed for, as a sentence.  instead: what else to do.
    """
    if not is_installed("tensorflow"):
        raise MissingPackage(
            f'{what}, and TensorFlow is not installed; run `pip install "octprep[train]"`, or {instead}.'
        )


def prepare_keras() -> None:
    """Set Keras to what the models here need: channels last, float32, and no limits on epochs and steps.

    This overrides keras.json and the environment. The backend is that of KERAS_BACKEND or keras.json, else TensorFlow,
    or JAX where only that is installed. On JAX, the GPU is hidden from TensorFlow, which only reads shards.

    Raises SettingError if Keras is set to another backend than TensorFlow or JAX, to one that is not installed, or
    cannot start; MissingPackage if neither is installed; StoppedError if memory runs out.
    """
    global _is_substitute
    if sys.modules.get("keras") is None:
        name, configured_by = _configured_backend()
        _check_backend(name, configured_by)
        if configured_by == _INSTALLED:
            os.environ["KERAS_BACKEND"] = name  # Keras reads it when it is imported
            _is_substitute = True
    try:
        import keras
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever Keras raises for a setting that it does not know
        reason = str(error).strip() or type(error).__name__
        if is_out_of_memory(error):
            raise StoppedError(
                f"memory ran out while Keras and its backend were loaded ({reason}); close other programs, or allow "
                "more memory (`ulimit -v`, or the limit of the job or container), and try again."
            ) from None
        raise SettingError(
            f"Keras cannot start ({reason}); correct or delete {_keras_json()}, "
            "and check the environment variables that begin with KERAS_."
        ) from None
    _check_backend(keras.config.backend(), "Keras")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy("float32")
    for name in ("set_max_epochs", "set_max_steps_per_epoch"):
        if hasattr(keras.config, name):
            getattr(keras.config, name)(None)
    if keras.config.backend() == "jax" and "tensorflow" in sys.modules:
        hide_gpu_from_tensorflow()


def hide_gpu_from_tensorflow() -> None:
    """Leave the GPU's memory to JAX; TensorFlow reads shards, and would take all of it."""
    import tensorflow as tf

    with suppress(RuntimeError):  # TensorFlow has initialised its devices already
        tf.config.set_visible_devices([], "GPU")


def library_versions() -> dict[str, str]:
    """Name -> version of the libraries that a training's numbers depend on."""
    import keras

    versions = {}
    for name in ("octprep", "keras", keras.config.backend(), "numpy"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def describe_device(precision: str = "float32") -> list[str]:
    """A line with backend, device and precision, and a warning if the machine has an NVIDIA GPU that is not used."""
    import keras

    backend = keras.config.backend()
    why = ", as TensorFlow is not installed," if _is_substitute else ""
    lines = [
        f"computing with {backend} {_version(backend)}{why} on {device_name()} in {precision}; "
        f"Keras {keras.__version__}"
    ]
    if not gpus() and has_nvidia():
        lines.append(f"WARNING: this machine has an NVIDIA GPU, but {backend} does not use it: {why_no_gpu(backend)}")
    return lines


def device_name() -> str:
    """What the backend computes on, such as `gpu:0 (NVIDIA H200)` or `the CPU (2 cores)`."""
    import keras

    if not (used := gpus()):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return f"the CPU ({number(cores, 'core')})"
    names = sorted({_product_name(gpu) for gpu in used} - {""})
    return f"{', '.join(keras.distribution.list_devices('gpu'))} ({', '.join(names)})"


def has_nvidia() -> bool:
    """Whether the machine has an NVIDIA driver."""
    return (
        Path("/proc/driver/nvidia").exists()
        or any(Path("/dev").glob("nvidia[0-9]*"))
        or shutil.which("nvidia-smi") is not None
    )


def why_no_gpu(backend: str) -> str:
    """A backend's own reason for not using a GPU, from the log of a new process that logs everything."""
    code = {
        "tensorflow": "import tensorflow as tf; tf.config.list_physical_devices('GPU')",
        "jax": "import jax; jax.devices()",
    }[backend]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", env=env,
            timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return NO_REASON
    return gpu_messages(done.stderr)


def gpu_messages(log: str) -> str:
    """The lines of a log about GPUs, each once, without time and source file; at most four."""
    lines = [_LOG.sub("", line).strip() for line in log.splitlines()]
    about_gpus = [
        line for line in dict.fromkeys(lines) if re.search("gpu|cuda|cudnn|nvidia|dlopen", line, re.IGNORECASE)
    ]
    return " ".join(about_gpus[:4]) or NO_REASON


def gpus() -> list[Any]:
    """The GPUs that the backend computes on, in its own type."""
    if selected_backend() == "jax":
        import jax

        return [device for device in jax.devices() if device.platform == "gpu"]
    import tensorflow as tf

    return list(tf.config.list_physical_devices("GPU"))


def _product_name(gpu: Any) -> str:
    """What a GPU is called; "" where TensorFlow does not know."""
    if selected_backend() == "jax":
        return str(gpu.device_kind)
    import tensorflow as tf

    with suppress(Exception):  # an experimental call, and only a name
        return str(tf.config.experimental.get_device_details(gpu)["device_name"])
    return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _keras_json() -> Path:
    """The file from which Keras reads its settings."""
    folder = os.environ.get("KERAS_HOME")
    if folder is None:
        user = Path("~").expanduser()
        folder = str((user if os.access(user, os.W_OK) else Path("/tmp")) / ".keras")
    return Path(folder).expanduser() / "keras.json"


def selected_backend() -> str:
    """The backend that Keras runs on, or would if it were imported now."""
    keras = sys.modules.get("keras")
    return str(keras.config.backend()) if keras else _configured_backend()[0]


def _configured_backend() -> tuple[str, str]:
    """The backend that Keras is to run on, and what configures it: JAX too, where TensorFlow is not installed."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name, "KERAS_BACKEND"
    path, name = _keras_json(), ""
    with suppress(OSError, ValueError, RecursionError):
        raw = json.loads(path.read_bytes())
        if isinstance(raw, Mapping) and isinstance(raw.get("backend"), str):
            name = raw["backend"]
    # Keras itself writes "tensorflow" into keras.json, in whatever environment it is first imported.
    if name and name != "tensorflow":
        return name, str(path)
    if not is_installed("tensorflow") and is_installed("jax"):
        return "jax", _INSTALLED
    return "tensorflow", "Keras"


def _check_backend(name: str, configured_by: str) -> None:
    advice = "set the variable KERAS_BACKEND to tensorflow or jax"
    if name not in BACKENDS:
        raise SettingError(
            f"{configured_by} chooses the backend {name!r}, but octtrain runs on TensorFlow or JAX; {advice}."
        )
    if is_installed(name):
        return
    if configured_by == "Keras":
        raise MissingPackage(
            'neither TensorFlow nor JAX is installed; run `pip install "octprep[train]"` for TensorFlow, or '
            '`pip install "octprep[jax]"` for JAX.'
        )
    raise SettingError(
        f"{configured_by} chooses the backend {name}, which is not installed; run "
        f'`pip install "octprep[{EXTRAS[name]}]"`, or {advice}.'
    )
