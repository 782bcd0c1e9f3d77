"""Train, evaluate and use models on the shards that octprep builds.

    run = octtrain.fit("shards", epochs=12)
    octtrain.calibrate(run)
    report = octtrain.evaluate(run)
    for result in octtrain.load_run(run.folder).predict(["scan.jpeg"]):
        print(result.path, result)

Importing this package imports neither TensorFlow nor Keras nor NumPy; the first use of a function does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from octtrain.config import FitConfig
    from octtrain.data.batches import training_batches
    from octtrain.data.mapped import MappedImages
    from octtrain.evaluation.calibrate import calibrate
    from octtrain.evaluation.compare import compare
    from octtrain.evaluation.evaluate import evaluate
    from octtrain.experiments.crossval.experiment import crossval
    from octtrain.prediction.classify import load_run, predict
    from octtrain.training.fit import fit

__all__ = [
    "FitConfig",
    "MappedImages",
    "calibrate",
    "compare",
    "crossval",
    "evaluate",
    "fit",
    "load_run",
    "predict",
    "training_batches",
]

_WITHOUT_KERAS = ("FitConfig", "MappedImages", "compare")

_MODULES = {
    "FitConfig": "octtrain.config",
    "MappedImages": "octtrain.data.mapped",
    "calibrate": "octtrain.evaluation.calibrate",
    "compare": "octtrain.evaluation.compare",
    "crossval": "octtrain.experiments.crossval.experiment",
    "evaluate": "octtrain.evaluation.evaluate",
    "fit": "octtrain.training.fit",
    "load_run": "octtrain.prediction.classify",
    "predict": "octtrain.prediction.classify",
    "training_batches": "octtrain.data.batches",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("octprep")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _WITHOUT_KERAS:
        from octtrain.runtime import prepare_keras

        prepare_keras()
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
