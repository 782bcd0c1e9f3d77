"""Tensors from a file that PyTorch wrote in its form of before version 1.6, read without PyTorch and without its code.

Such a file is four pickles (a magic number, a version, facts about the system, and a dictionary from names to tensors),
a pickled list of the storages' keys, and then every storage: its number of values, 8 bytes, and the values. A tensor is
a view of a storage: an offset, a shape and strides. Whatever else a pickle asks for is an error.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MAX_BYTES = 200_000_000  # of a file
_STORAGES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


# Named tuples: a pickle can set the attributes of an object that it has made, but not those of a tuple.


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    size: int  # values


class _View(NamedTuple):
    storage: _Storage
    offset: int  # values
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # values


def read_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> array of every tensor in a file, float32 or int64.

    Raises ValueError with the reason if it is not such a file, or its pickles hold anything but tensors; OSError if it
    cannot be read.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    file = io.BytesIO(path.read_bytes())
    try:
        magic, version, _ = (_Unpickler(file).load() for _ in range(3))
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError("it does not begin as a file of PyTorch's old form")
        views, keys = _Unpickler(file).load(), _Unpickler(file).load()
    except ValueError:
        raise
    except Exception as error:  # pickles of another form raise what their instructions happen to raise
        raise ValueError(f"its pickles are damaged or hold more than tensors: {error}") from None
    if not isinstance(views, Mapping) or not all(isinstance(view, _View) for view in views.values()):
        raise ValueError("it does not hold a dictionary of tensors")
    values = _read_storages(file, keys, {view.storage.key: view.storage for view in views.values()})
    return {str(name): _array(name, view, values[view.storage.key]) for name, view in views.items()}


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows three things by name, none of which is imported by it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in _STORAGES:
            return name
        raise ValueError(f"it asks for {module}.{name}, which is no part of a tensor")

    def persistent_load(self, reference: Any) -> _Storage:
        kind, storage, key, _, size, *_ = reference
        if kind != "storage" or storage not in _STORAGES or type(size) is not int or not 0 <= size <= _MAX_BYTES:
            raise ValueError(f"it refers to {reference!r:.100}, which is no storage of floats or integers")
        return _Storage(str(key), _STORAGES[storage], size)


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    """What `torch._utils._rebuild_tensor_v2` is called with: gradients and hooks are ignored."""
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, _Storage) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("one of its tensors is not a view of a storage")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _read_storages(
    file: io.BytesIO, keys: Any, storages: Mapping[str, _Storage]
) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise ValueError("the storages that it lists are not those of its tensors")
    values = {}
    for key in map(str, keys):
        storage = storages[key]
        size = int.from_bytes(file.read(8), "little", signed=True)
        content = file.read(storage.size * storage.dtype.itemsize)
        if size != storage.size or len(content) != storage.size * storage.dtype.itemsize:
            raise ValueError(f"its storage {key} does not have the {storage.size:,} values that its tensors expect")
        values[key] = np.frombuffer(content, storage.dtype)
    if file.read(1):
        raise ValueError("it has bytes after its last storage")
    return values


def _array(name: Any, view: _View, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of a view, after a check that it lies within its storage and is no larger than it."""
    if len(view.shape) != len(view.strides) or math.prod(view.shape) > view.storage.size:
        raise ValueError(f"its tensor {name} is larger than its storage")
    last = view.offset + sum((length - 1) * stride for length, stride in zip(view.shape, view.strides, strict=True))
    if 0 in view.shape or last >= view.storage.size:
        raise ValueError(f"its tensor {name} reaches beyond its storage")
    strides = [stride * values.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(values[view.offset :], view.shape, strides).copy()
