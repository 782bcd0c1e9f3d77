"""The command line: parse, call one function, print. Whatever takes long to import is imported inside the commands."""

from __future__ import annotations

from octprep.terminal import interrupts

if interrupts.is_program("octtrain", __name__):
    interrupts.watch("octtrain")  # before the imports that take a while

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from octprep.format.errors import OctError
from octprep.format.manifest import Manifest
from octprep.terminal import run_program, say, warn

Model = Literal["octnet-s", "octnet-m", "mobilenetv3-small", "efficientnetv2-b0", "inceptionv3"]

app = typer.Typer(
    name="octtrain",
    help="Train, measure and use models on the shards that octprep builds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class MissingTensorFlow(OctError):
    """The packages that training needs are not installed."""


@app.command()
def fit(
    shards: Annotated[Path, typer.Argument(help="Folder of shards, made by `octprep build`.")],
    run: Annotated[
        Path | None,
        typer.Option(
            help="New folder for the run, or with --resume one to go on with; by default "
            "runs/SHARDS-MODEL-NUMBER here, or with --resume the latest run on these shards in runs/.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Model | None,
        typer.Option(help="The network (octnet-s).", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most this many (12).", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step (32).", show_default=False)] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate (0.001).", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides weights, order and augmentation (0).", show_default=False)
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="none|imagenet|FILE", help="To start from (none).", show_default=False)
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="The fold to validate on, for shards in folds.", show_default=False)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="End after this many epochs without a better balanced accuracy (6; 0: never).", show_default=False
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on after the last finished epoch, with the run's own settings; --epochs and --patience may be "
            "given again.",
        ),
    ] = False,
) -> None:
    """Train a model on shards; keep the epoch with the best balanced accuracy on val."""
    interrupts.advise(f"nothing was trained yet, and the same command {'goes on' if resume else 'begins again'}")
    with heavy_imports():
        from octtrain.runs.folder import latest_run, resolve
        from octtrain.training import fit as fitting

    given = {
        "model": model,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "weights": weights,
        "fold": fold,
        "patience": patience,
    }
    if resume and run is None:
        run = latest_run(digest=Manifest.load(shards).digest)
        say(f"resuming {run}, the latest run on these shards")
    config = resolve(run, {name: value for name, value in given.items() if value is not None}, resume=resume)
    fitting.fit(shards, run, config, resume=resume, say=say)


@app.command()
def evaluate(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="Folder of a run, made by `octtrain fit`; by default the latest one in runs/.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="What to measure on: test, val or a fold.")] = "test",
    shards: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the shards that the run was trained on are now.", show_default=False),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Other shards to measure on, of the same classes and recipe.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the results; by default the run's.", show_default=False),
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Go on if the model has seen these patients, and mark the result.")
    ] = False,
) -> None:
    """Measure a run's best model: sensitivity and specificity per class, AUC, urgent referral, weighted error."""
    interrupts.advise("nothing was written")
    with heavy_imports():
        from octtrain.evaluation import evaluate as evaluation
        from octtrain.runs.folder import latest_run

    if run is None:
        run = latest_run()
        warn(f"the latest run: {run}")
    evaluation.evaluate(run, split, shards, dataset=dataset, out=out, allow_leaks=allow_leaks, say=say)


@app.command()
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] IMAGE...|DIR",
            help="B-scans, or folders of them, after a run's folder; without one the latest run in runs/ is taken.",
        ),
    ],
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For all probabilities and what was skipped; grows as it goes, and one of this run is gone on with.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Classify B-scans as they come from the device; what cannot be read is skipped with a reason."""
    interrupts.advise("no file was classified yet")
    with heavy_imports():
        from octtrain import prediction as prediction

    run, images, chosen = prediction.choose_run(inputs)
    if chosen:
        warn(f"the latest run: {run}")
    prediction.predict(run, images, csv, say=say, warn=warn)


@app.command()
def leakage(
    shards: Annotated[Path, typer.Argument(help="Folder of shards, made by `octprep build`.")],
    model: Annotated[Model, typer.Option(help="The network.")] = "octnet-s",
    epochs: Annotated[int, typer.Option(help="Of every training.")] = 12,
    repeats: Annotated[int, typer.Option(help="Pairs of trainings.")] = 5,
    folds: Annotated[int, typer.Option(help="One of so many parts is held out, another one in each repeat.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.001,
    seed: Annotated[int, typer.Option(help="Decides splits, weights, order and augmentation.")] = 0,
    max_images: Annotated[int, typer.Option(help="Use at most so many images, of whole patients.")] = 2000,
    json: Annotated[Path | None, typer.Option(help="File for everything measured.", show_default=False)] = None,
) -> None:
    """Show how much better a model looks on a split by image than by patient (Tampu et al. 2022)."""
    interrupts.advise("not all repeats were done, so nothing was written")
    with heavy_imports():
        from octtrain.experiments import leakage as experiment
        from octtrain.runs.folder import FitConfig

    fit_config = FitConfig(model=model, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, patience=0)
    config = experiment.LeakageConfig(fit=fit_config, repeats=repeats, folds=folds, max_images=max_images)
    experiment.leakage(shards, config, json, say=say)


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import TensorFlow and Keras without their chatter, with the settings that octtrain needs; say what to install if
    they are missing.

    With TF_CPP_MIN_LOG_LEVEL at 0 everything is shown. At 1 not: JAX leaves that in the environment of every program
    that imports it, for the programs that it starts.
    """
    from octtrain.runtime import prepare_keras

    try:
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
            prepare_keras()
            yield
            return
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in (None, "1"):
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        with _quiet_stderr():
            prepare_keras()
            yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("tensorflow", "keras", "jax", "torch"):
            raise MissingTensorFlow(
                f'{error.name} is not installed; install what training needs by `pip install "octprep[train]"`.'
            ) from None
        raise


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop what C++ libraries write to standard error while they load, before they read any log level."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError, ValueError):  # there is none
        yield
        return
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def main(args: list[str] | None = None) -> None:
    """The program `octtrain`: an error that the user can fix ends it with one sentence and an exit code.

    With `args`, which only tests give, signals are left to the process that calls it.
    """
    run_program("octtrain", lambda: app(args), memory_advice="close other programs and try again", watch=args is None)


if __name__ == "__main__":
    main()
