"""The settings of a training, checked when they are made. Only the standard library is imported.

Help, choices and panel of the command line's options are written at the fields, and
`octprep.terminal.commands` makes the options from them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from octprep.format.errors import SettingError
from octprep.format.options import option, settings
from octprep.wording import listed

MODELS = (
    "octnet-s",
    "octnet-m",
    "octnet-l",
    "efficientnet-lite0",
    "mobilenetv3-small",
    "mobilenetv3-large",
    "efficientnetv2-b0",
    "convnext-tiny",
    "resnet50v2",
    "inceptionv3",
)
MAX_EPOCHS = 100_000  # of one run

_OWN_MODEL = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
FEEDS = ("auto", "resident", "mapped", "stream")
BASE_BATCH_SIZE = 32  # for which BASE_LR is meant
BASE_LR = 1e-3

_Auto = Literal["auto"]


def _auto_or(kind: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    """A parser of "auto" or a number."""

    def parse(text: str) -> Any:
        try:
            return text if text == "auto" else kind(text)
        except ValueError:
            raise ValueError(f"{what} must be auto or a number; got {text!r}") from None

    return parse


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The settings that all trainings have in common: those of `fit` and those of an experiment."""

    model: str = option(
        "octnet-s",
        help=f"The network: {', '.join(MODELS)}, or MODULE:FUNCTION for your own. The function is called with "
        "the images' height and width and the number of classes, and returns a Keras model from (n, height, width, 1) "
        "uint8 to (n, classes) probabilities.",
        panel="Model",
        metavar="NAME|MODULE:FUNCTION",
        completions=MODELS,
    )
    epochs: int = option(12, help="Passes over the training images, at most.", panel="Training")
    batch_size: int | _Auto = option(
        "auto",
        help="Images in one training step; auto: 256 on a GPU, 32 on a CPU.",
        panel="Training",
        metavar="N|auto",
        parse=_auto_or(int, "batch-size"),
    )
    lr: float | _Auto = option(
        "auto",
        help="Peak learning rate, above 0 and at most 10: reached after the warm-up, then a cosine down to 0. auto: "
        "0.001 for batches of 32, and by the square root of the batch size for others.",
        panel="Training",
        metavar="RATE|auto",
        parse=_auto_or(float, "lr"),
    )
    seed: int = option(0, help="Decides initial weights, order of images and augmentation.", panel="Training")


@dataclass(frozen=True, kw_only=True)
class FitConfig(Hyperparameters):
    """How a model is trained. Validates on construction; raises SettingError for a value outside its range."""

    weights: str = option(
        "none",
        help="Weights to start from: `synthetic`, those that come with the package, of a network that was trained on "
        "synthetic scans alone; or a file, the model.keras of another run or the backbone's weights that Keras "
        "publishes. The octnets have none from ImageNet; those of efficientnet-lite0 come with the extra `lite`, the "
        "others are downloaded.",
        panel="Model",
        metavar="none|imagenet|synthetic|FILE",
        completions=("none", "imagenet", "synthetic"),
    )
    patience: int = option(
        6, help="Stop after this many epochs without a better balanced accuracy on val; 0: never.", panel="Training"
    )
    fold: int | None = option(
        None,
        help="The fold to validate on, from 0; for shards built with --split kfold.",
        panel="Training",
        default_text="no folds",
    )
    test_fold: int | None = option(
        None,
        help="The fold to leave out of training and validation, from 0, so that `octtrain evaluate --split fold0` and "
        "so on can test the model on it.",
        panel="Training",
        default_text="none",
    )
    teacher: str | None = option(
        None,
        help="Folder of a run whose model teaches this one (Hinton et al. 2015): 0.7 of the loss is the divergence "
        "from its softened predictions, and 0.3 that of the labels. Of the same classes and preprocessing.",
        panel="Model",
        metavar="RUN",
        default_text="none",
    )

    fine_tune: int = option(
        0,
        help="Train only the head for this many epochs, and then all layers at a tenth of the learning rate; for "
        "initial weights of another task. 0: all layers from the start.",
        panel="Model",
        metavar="EPOCHS",
    )
    sampling: Literal["images", "patients"] = option(
        "images",
        help="Draw every record once an epoch, or so that every class counts the same, and in it every patient.",
        panel="Training",
    )
    warmup: float = option(
        1.0, help="Epochs in which the learning rate rises from a 25th to its peak.", panel="Training", metavar="EPOCHS"
    )
    weight_decay: float = option(
        0.01, help="Of AdamW; not applied to biases and to batch normalisation.", panel="Training"
    )
    clip_norm: float = option(
        1.0, help="Scale the gradient of a weight tensor down to this norm; 0: never.", panel="Training"
    )
    label_smoothing: float = option(
        0.0, help="Share of a label's probability that is spread over all classes, 0 to 0.5.", panel="Training"
    )
    augmentation: float = option(
        1.0,
        help="Strength of the random changes of training images: shift, tilt, mirroring, brightness, speckle. 0: none; "
        "2: twice as much of each.",
        panel="Training",
        metavar="STRENGTH",
    )
    mixup: float = option(
        0.0,
        help="MixUp (Zhang et al. 2018): mix images and labels in pairs, by a share from a beta distribution with this "
        "parameter, such as 0.2; 0: none.",
        panel="Training",
        metavar="ALPHA",
    )
    ema: float = option(
        0.0,
        help="Validate and keep an exponential moving average of the weights with this momentum, such as 0.999; 0: the "
        "weights themselves.",
        panel="Training",
        metavar="MOMENTUM",
    )
    feed: Literal["auto", "resident", "mapped", "stream"] = option(
        "auto",
        help="Where images come from: held on the device, gathered from memory-mapped shards, or streamed from them. "
        "auto: resident on a GPU if they fit in 60 % of its free memory, else mapped; stream for PNG.",
        panel="Speed",
    )
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        help="Of the computation; weights, head and the kept model are float32. auto: bfloat16 on GPUs that have it.",
        panel="Speed",
    )
    jit: Literal["auto", "on", "off"] = option(
        "auto", help="Compile with XLA, on TensorFlow. auto: on a GPU.", panel="Speed"
    )
    devices: int = option(1, help="Number of GPUs to train on.", panel="Speed")
    deterministic: bool = option(
        False,
        help="Use only operations that give the same bits every time; slower on a GPU.",
        panel="Speed",
        only_on=True,
    )

    def __post_init__(self) -> None:
        for name in ("model", "weights"):
            if type(getattr(self, name)) is not str:
                raise SettingError(f"{name} must be a name; got {getattr(self, name)!r}")
        if self.teacher is not None and (type(self.teacher) is not str or not self.teacher):
            raise SettingError(f"teacher must be the folder of a run; got {self.teacher!r}")
        for name in ("fold", "test_fold"):
            if (fold := getattr(self, name)) is not None:
                _check_number(name, fold, int, 0, math.inf)
        for name, (kind, low, high) in _RANGES.items():
            if (value := getattr(self, name)) != "auto" or name not in _AUTO:
                _check_number(name, value, kind, low, high)
        for setting in settings(FitConfig):
            if setting.choices and setting.field not in _AUTO and getattr(self, setting.field) not in setting.choices:
                raise SettingError(
                    f"{_flag(setting.field)} must be one of {', '.join(setting.choices)}; got "
                    f"{getattr(self, setting.field)!r}"
                )
        if type(self.deterministic) is not bool:
            raise SettingError(f"deterministic must be true or false; got {self.deterministic!r}")
        check_model_name(self.model)
        if self.fine_tune and self.fine_tune >= self.epochs:
            raise SettingError(
                f"fine-tune must be less than epochs, {self.epochs}: the epochs after it train all layers; got "
                f"{self.fine_tune}"
            )

    def resolved(self, *, batch_size: int, **others: Any) -> FitConfig:
        """These settings without `auto` for batch size and learning rate, and with others replaced.

        batch_size: what `auto` stands for on this machine, at most the number of records.
        """
        size = batch_size if self.batch_size == "auto" else self.batch_size
        lr = BASE_LR * math.sqrt(size / BASE_BATCH_SIZE) if self.lr == "auto" else self.lr
        return dataclasses.replace(self, batch_size=size, lr=lr, **others)


# Field -> type, least and greatest value.
_RANGES: Mapping[str, tuple[type, float, float]] = {
    "epochs": (int, 1, MAX_EPOCHS),
    "batch_size": (int, 1, 1_000_000),
    "patience": (int, 0, math.inf),
    "seed": (int, 0, 2**32 - 1),
    "fine_tune": (int, 0, MAX_EPOCHS),
    "devices": (int, 1, 1024),
    "lr": (float, 0, 10),
    "warmup": (float, 0, MAX_EPOCHS),
    "weight_decay": (float, 0, 10),
    "clip_norm": (float, 0, math.inf),
    "label_smoothing": (float, 0, 0.5),
    "augmentation": (float, 0, 3),
    "mixup": (float, 0, 10),
    "ema": (float, 0, 0.99999),
}
_AUTO = ("batch_size", "lr")  # fields that may be "auto" instead of a number


def _check_number(name: str, value: object, kind: type, low: float, high: float) -> None:
    """Raise SettingError unless a value is a number of a kind between two others."""
    auto = "auto or " if name in _AUTO else ""
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        what = "a whole number" if kind is int else "a number"
        raise SettingError(f"{_flag(name)} must be {auto}{what}; got {value!r}")
    if name == "lr" and not 0 < value <= high:
        raise SettingError(f"lr must be auto, or above 0 and at most 10, such as 0.001; got {value:,}")
    if not low <= value:
        raise SettingError(f"{_flag(name)} must be {auto}at least {low:,}; got {value:,}")
    if value > high:
        raise SettingError(f"{_flag(name)} must be {auto}at most {high:,}; got {value:,}")


def check_model_name(name: str) -> None:
    """Raise SettingError unless a name is one of MODELS or looks like MODULE:FUNCTION."""
    if name not in MODELS and not is_own_model(name):
        raise SettingError(
            f"no model called {name!r}; choose one of {', '.join(MODELS)}, or name a function of your own that builds "
            "one, such as my_package.my_module:build"
        )


def is_own_model(name: str) -> bool:
    """Whether a model's name has the form MODULE:FUNCTION, a function of the user's own."""
    return _OWN_MODEL.fullmatch(name) is not None


def merge_settings(base: FitConfig, given: Mapping[str, Any]) -> FitConfig:
    """`base` with some settings replaced. given: field of FitConfig -> value.

    Raises SettingError for a value outside its range or a field that does not exist.
    """
    names = [field.name for field in dataclasses.fields(FitConfig)]
    if unknown := [name for name in given if name not in names]:
        raise SettingError(f"there is no setting {listed(unknown)}; the settings of a training are {listed(names)}")
    return dataclasses.replace(base, **given)


def _flag(name: str) -> str:
    return name.replace("_", "-")
