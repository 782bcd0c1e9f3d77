"""What the devices that Keras computes on can do: memory, half precision, several at once."""

from __future__ import annotations

import os
import subprocess
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from octprep.format.errors import Notice, SettingError
from octtrain.runtime import gpus, selected_backend

RESIDENT_SHARE = 0.6  # of a device's free memory that resident images may take
_BFLOAT16_SINCE = 8.0  # compute capability of NVIDIA's GPUs (Ampere)
_XLA_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def has_bfloat16() -> bool:
    """Whether all GPUs compute in bfloat16; False without one: CPUs are mostly slower in it."""
    capabilities = [_compute_capability(device) for device in gpus()]
    return bool(capabilities) and all(capability >= _BFLOAT16_SINCE for capability in capabilities)


def free_memory() -> int | None:
    """Free bytes of the first GPU; None without one, or where neither backend nor driver says."""
    if not (devices := gpus()):
        return None
    if selected_backend() == "jax":
        stats = devices[0].memory_stats() or {}
        if "bytes_limit" in stats:
            return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return int(done.stdout.split()[0]) * 2**20
    return None


def peak_memory() -> int | None:
    """Most bytes that this program has had on the first GPU so far; None without one, or where that is not known."""
    if not (devices := gpus()):
        return None
    with suppress(Exception):  # an experimental call, or numbers that a platform of JAX does not have
        if selected_backend() == "jax":
            return int(devices[0].memory_stats()["peak_bytes_in_use"])
        import tensorflow as tf

        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return None


def shared_by(devices: int) -> AbstractContextManager[Any]:
    """A scope in which models are made that so many devices train together.

    Raises SettingError if there are fewer.
    """
    if devices == 1:
        return nullcontext()
    available = _devices()
    if len(available) < devices:
        raise SettingError(
            f"--devices {devices}, but {selected_backend()} has {len(available)} here: {', '.join(map(str, available))}"
        )
    if selected_backend() == "jax":
        return nullcontext()
    import tensorflow as tf

    names = [f"{device.device_type}:{device.name.rsplit(':', 1)[-1]}" for device in available[:devices]]
    scope: AbstractContextManager[Any] = tf.distribute.MirroredStrategy(names).scope()
    return scope


def make_deterministic() -> None:
    """Use only operations that give the same bits every time. Call it before anything is computed."""
    if selected_backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        return
    if _XLA_DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_DETERMINISTIC}".strip()
        if _jax_has_started():
            warnings.warn(
                Notice(f"JAX has started already; for bits that repeat on a GPU set XLA_FLAGS={_XLA_DETERMINISTIC}"),
                stacklevel=2,
            )


def _devices() -> list[Any]:
    """The GPUs, or without any the backend's CPU devices."""
    if selected_backend() == "jax":
        import jax

        return list(jax.devices())
    import tensorflow as tf

    return list(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))


def _jax_has_started() -> bool:
    with suppress(ImportError, AttributeError):
        from jax.extend.backend import backends_are_initialized  # type: ignore[attr-defined]

        return bool(backends_are_initialized())
    return True


def _compute_capability(device: Any) -> float:
    with suppress(Exception):  # an experimental call of TensorFlow, or an attribute that only NVIDIA's devices have
        if selected_backend() == "jax":
            return float(device.compute_capability)
        import tensorflow as tf

        major, minor = tf.config.experimental.get_device_details(device)["compute_capability"]
        return float(major) + float(minor) / 10
    return 0.0
