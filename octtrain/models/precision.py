"""The precision that a model computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import keras

from octprep.format.errors import SettingError

Precision = Literal["float32", "bfloat16"]
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@contextmanager
def layers_computing_in(precision: Precision) -> Iterator[None]:
    """Let the layers that are made inside compute in a precision; their weights are float32 in any case.

    Raises SettingError for an unknown precision.
    """
    if precision not in _POLICIES:
        raise SettingError(f"precision must be one of {', '.join(_POLICIES)}; got {precision!r}")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
