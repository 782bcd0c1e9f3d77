"""The command line: parse, call one function, print. Whatever takes long to import is imported inside the commands."""

from __future__ import annotations

from octprep.terminal import interrupts

if interrupts.is_program("octtrain", __name__):
    interrupts.watch("octtrain")  # before the imports that take a while

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from octprep import terminal
from octprep.format.errors import SettingError
from octprep.format.files import STDOUT
from octprep.format.options import make
from octprep.format.paths import path_to_text
from octprep.storage.remote import location
from octprep.terminal.commands import Json, command, verbosity, version_option
from octtrain.calibration.config import CalibrationConfig
from octtrain.config import FitConfig, Hyperparameters, merge_settings
from octtrain.experiments.bench.config import BenchConfig
from octtrain.experiments.crossval.config import NOT_OPTIONS, CrossvalConfig
from octtrain.experiments.leakage.config import LeakageConfig
from octtrain.settings_file import merge_file

app = typer.Typer(
    name="octtrain",
    help="Train, evaluate and use models on the shards that octprep builds.",
    epilog="Example: octtrain fit shards, then octtrain evaluate, then octtrain predict scan.jpeg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Shards = Annotated[Path, typer.Argument(help="Folder or URL of shards, made by `octprep build`.", show_default=False)]

Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Folder of a run, made by `octtrain fit`, or `synthetic`, the weights that come with the package; by "
        "default the latest one in runs/. Of several, the mean of their probabilities is used.",
        show_default=False,
    ),
]
OwnShards = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|URL",
        help="The shards that the run was trained on, if they were moved.",
        show_default=False,
        rich_help_panel="Data",
    ),
]


@app.callback()
def program(
    version: version_option("octtrain") = False,  # type: ignore[valid-type]
) -> None:
    """Train, evaluate and use models on the shards that octprep builds."""


@command(app, "octtrain fit shards --model octnet-m --epochs 20", FitConfig, only_given=True, urls=("shards",))
def fit(
    shards: Shards,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New folder for the run, or with --resume an existing one. By default runs/SHARDS-MODEL-NUMBER, or "
            "with --resume the latest run on these shards in runs/.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue after the last finished epoch, with the run's own settings; only --epochs and --patience "
            "may be changed.",
            rich_help_panel="Run",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file of settings, by the names of the options below, such as `batch-size = 64`; an option on "
            "the command line replaces its value. Every run folder has such a file, config.toml.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Train a model on shards, and keep the epoch with the best balanced accuracy on val."""
    interrupts.advise(f"nothing was trained yet; the same command {'resumes' if resume else 'starts'} it again")
    settings = merge_file(config, FitConfig, settings)
    merge_settings(FitConfig(), settings)  # reports a value out of range before TensorFlow is imported
    with importing_keras():
        from octtrain.training import fit as training

    training.fit(location(shards), run, resume=resume, log=log, **settings)


@command(app, "octtrain evaluate runs/shards-octnet-s-1 --json metrics.json", urls=("shards", "dataset"))
def evaluate(
    runs: Runs = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Split to evaluate on: test, val or a fold.", rich_help_panel="Data")
    ] = "test",
    shards: OwnShards = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|URL",
            help="Other shards to evaluate on, of the same preprocessing, and of the same classes unless --classes "
            "says how they correspond.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=CLASS+CLASS,...",
            help="For a dataset of other classes: classes to evaluate by, and which of the model or the dataset each "
            "is made of, such as AMD=CNV+DRUSEN,NO=NORMAL. A class that is not named stays; images of classes that the "
            "model does not know are left out and counted.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    prevalence: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS=SHARE,...",
            help="Also give precision, negative predictive value and accuracy where the classes are as frequent as "
            "this, such as CNV=0.05,DME=0.05,DRUSEN=0.1 and the rest NORMAL. They follow from the sensitivities on "
            "this split; the model's verdicts are not changed.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    allow_leaks: Annotated[
        bool,
        typer.Option(
            "--allow-leaks",
            help="Evaluate even if the model was exposed to these patients, and mark the result.",
            rich_help_panel="Data",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the results; by default that of the run, or of the first.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Evaluate a run's best model: sensitivity, specificity and AUC per class, urgent referral, weighted error."""
    interrupts.advise("nothing was written")
    from octprep.format.class_map import parse_class_map
    from octtrain.evaluation.prevalence import parse_prevalence

    class_map = parse_class_map(classes) if classes is not None else None
    shares = parse_prevalence(prevalence) if prevalence is not None else None
    with importing_keras():
        from octtrain.evaluation import evaluate as evaluation
        from octtrain.report.write import write_pages

    evaluation.evaluate(
        runs or [_latest_run()],
        split,
        None if shards is None else location(shards),
        dataset=None if dataset is None else location(dataset),
        out=out,
        json_file=json_file,
        allow_leaks=allow_leaks,
        classes=class_map,
        prevalence=shares,
        write_pages=write_pages,
        log=log_for(json_file),
    )


def _latest_run() -> Path:
    """The latest run in runs/, which is named on standard error. Raises SourceError if there is none."""
    from octtrain.runs.locations import latest_run

    run = latest_run()
    terminal.warn(f"the latest run: {path_to_text(str(run))}")
    return run


Evaluated = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Folder of a run that was evaluated; by default the latest one in runs/. Several, if they were evaluated "
        "as one.",
        show_default=False,
    ),
]
ResultsOf = Annotated[
    str,
    typer.Option(
        metavar="SPLIT",
        help="Results to show, as in the names of their files: test, val, a fold, or such as test-1a2b3c4d of another "
        "dataset.",
        rich_help_panel="Data",
    ),
]


@command(app, "octtrain report runs/shards-octnet-s-1")
def report(
    runs: Evaluated = None,
    split: ResultsOf = "test",
    shards: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The shards that were evaluated, whose pixels the page shows, if they are not the run's own or were "
            "moved.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
) -> None:
    """Write the report and the model card of an evaluated run again, into its folder; evaluate has done so."""
    interrupts.advise("nothing was written")
    with importing_keras():
        from octtrain.report import write

    write.report(runs or [_latest_run()], split, shards, log=log)


@command(app, "octtrain figures runs/shards-octnet-s-1 --out figures")
def figures(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for the files.", show_default=False, rich_help_panel="Output"),
    ],
    runs: Evaluated = None,
    split: ResultsOf = "test",
    file_format: Annotated[
        Literal["svg", "pdf", "both"],
        typer.Option("--format", help="Of the files; pdf needs the extra `figures`.", rich_help_panel="Output"),
    ] = "svg",
) -> None:
    """Write the charts of a run's report as SVG or PDF files, for a paper."""
    interrupts.advise("not all figures were written")
    with importing_keras():
        from octtrain.report import write

    write.figures(runs or [_latest_run()], out, split, file_format=file_format, log=log)


@command(app, "octtrain calibrate runs/shards-octnet-s-1 --sensitivity 0.97", CalibrationConfig, urls=("shards",))
def calibrate(
    runs: Runs = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Split to choose on; by default the one that the epoch was selected on, val. Not test.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    shards: OwnShards = None,
    **settings: Any,
) -> None:
    """Choose temperature, thresholds, limits and how patients are predicted on val, and freeze them in the run."""
    interrupts.advise("nothing was written")
    config = make(CalibrationConfig, settings)
    with importing_keras():
        from octtrain.evaluation import calibrate as calibration

    calibration.calibrate(
        runs or [_latest_run()], split, None if shards is None else location(shards), config=config, log=log
    )


@command(app, "octtrain compare runs/shards-octnet-s-1 runs/shards-octnet-m-1")
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Folders of evaluated runs, of cross-validations or of results (--out), or files "
            "predictions-SPLIT.csv; each is compared with the first.",
            show_default=False,
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT",
            help="Results to compare, as in the names of their files: test, val, a fold, or such as test-1a2b3c4d of "
            "another dataset. Of a cross-validation it is all folds.",
            rich_help_panel="Data",
        ),
    ] = "test",
    json_file: Json = None,
) -> None:
    """Compare evaluated runs on the same patients: all metrics, their differences, and 95 % intervals."""
    from octtrain.evaluation import compare as comparison

    comparison.compare(runs, split, json_file=json_file, log=log_for(json_file))


@command(app, "octtrain predict runs/shards-octnet-s-1 scans/ --csv predictions.csv")
def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN]... IMAGE...|DIR",
            help="B-scans, or folders of them, after a run's folder or `synthetic`, the weights that come with the "
            "package; without one the latest run in runs/ is used. Of several runs, the mean of their probabilities is "
            "given.",
            show_default=False,
        ),
    ],
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write all probabilities, and the reasons of exclusions. The file grows with every batch; one that "
            "already holds predictions of this model is continued.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Withhold the verdict on scans that are unlike those of the training; needs a run that was "
            "calibrated.",
            rich_help_panel="Output",
        ),
    ] = False,
) -> None:
    """Classify B-scans as they come from the device; files that cannot be read are excluded with a reason."""
    interrupts.advise("no file was classified yet")
    with importing_keras():
        from octtrain.prediction import classify
        from octtrain.prediction.inputs import choose_runs

    runs, images, is_latest = choose_runs(inputs)
    if is_latest:
        terminal.warn(f"the latest run: {path_to_text(str(runs[0]))}")
    classify.predict(runs, images, csv, strict=strict, log=log, warn=terminal.warn)


@command(app, "octtrain explain runs/shards-octnet-s-1 scans/ --out evidence")
def explain(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] IMAGE...|DIR",
            help="B-scans, or folders of them, after a run's folder; without one the latest run in runs/ is used.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for the pictures, a PNG for each scan, named after it.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ],
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Class to explain; by default the most probable one."),
    ] = None,
    occlusion: Annotated[
        bool,
        typer.Option(
            "--occlusion/--no-occlusion",
            help="Also cover parts of the scan in turn, which takes a hundred times longer.",
        ),
    ] = True,
    patch: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Side of the gray patch, stored pixels; by default a seventh of the image.",
            show_default=False,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="From one place of the patch to the next; by default half of its side.",
            show_default=False,
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Draw on B-scans where the model finds evidence for a class, with an occlusion map as a check."""
    interrupts.advise("no picture was written yet")
    with importing_keras():
        from octtrain.explain import explain as explaining
        from octtrain.prediction.inputs import choose_runs

    runs, images, is_latest = choose_runs(inputs)
    if len(runs) > 1:
        raise SettingError(f"explain takes one run, and {len(runs)} are named; explain the members one by one.")
    if is_latest:
        terminal.warn(f"the latest run: {path_to_text(str(runs[0]))}")
    explaining.explain(
        runs[0],
        images,
        out,
        class_name=class_name,
        with_occlusion=occlusion,
        patch=patch,
        stride=stride,
        json_file=json_file,
        log=log_for(json_file),
        warn=terminal.warn,
    )


@command(
    app,
    "octtrain crossval shards --seeds 3 --epochs 20",
    FitConfig,
    CrossvalConfig,
    only_given=True,
    without=NOT_OPTIONS,
    urls=("shards",),
)
def crossval(
    shards: Annotated[
        Path,
        typer.Argument(help="Folder or URL of shards, made by `octprep build --split kfold`.", show_default=False),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the runs and the results. One that was started with the same settings is resumed. By "
            "default runs/SHARDS-MODEL-crossval-NUMBER, or with --resume the latest of these shards in runs/.",
            show_default=False,
            rich_help_panel="Run",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where it stopped, with its own settings; only --folds, --seeds, --epochs and --patience may be "
            "changed.",
            rich_help_panel="Run",
        ),
    ] = False,
    json_file: Json = None,
    **settings: Any,
) -> None:
    """Train a model without each fold, and predict every patient by models that were not exposed to them."""
    interrupts.advise("nothing was trained yet; the same command starts it again")
    CrossvalConfig().merged(settings)  # reports a value out of range before TensorFlow is imported
    with importing_keras():
        from octtrain.experiments.crossval import experiment

    experiment.crossval(location(shards), run, resume=resume, json_file=json_file, log=log_for(json_file), **settings)


@command(
    app, "octtrain leakage shards --repeats 10 --json leakage.json", Hyperparameters, LeakageConfig, urls=("shards",)
)
def leakage(shards: Shards, json_file: Json = None, **settings: Any) -> None:
    """Show how much better a model looks on a split by image than on one by patient (Tampu et al. 2022)."""
    interrupts.advise("not all repeats were done, so nothing was written")
    config = make(LeakageConfig, settings, fit=make(FitConfig, settings, patience=0))
    with importing_keras():
        from octtrain.experiments.leakage import experiment

    experiment.leakage(location(shards), config, json_file, log=log_for(json_file))


@command(app, "octtrain bench shards --model octnet-m --json bench.json", BenchConfig, urls=("shards",))
def bench(shards: Shards, json_file: Json = None, **settings: Any) -> None:
    """Measure what limits a training: reading, copying, augmentation and steps, each alone and all together."""
    interrupts.advise("not everything was measured, so nothing was written")
    config = make(BenchConfig, settings)
    with importing_keras():
        from octtrain.experiments.bench import experiment

    experiment.bench(location(shards), config, json_file, log=log_for(json_file))


def log(line: str) -> None:
    """Print to standard output, unless --quiet is given."""
    if not verbosity.quiet:
        terminal.say(line)


def log_for(json_file: Path | None) -> Callable[[str], None]:
    """`log`, or the same on standard error if `--json -` takes standard output."""
    if json_file != STDOUT:
        return log

    def log_to_stderr(lines: str) -> None:
        if not verbosity.quiet:
            for line in lines.split("\n"):
                terminal.warn(line)

    return log_to_stderr


@contextmanager
def importing_keras() -> Iterator[None]:
    """Import Keras and its backend without what they log, and with the settings that octtrain needs.

    With TF_CPP_MIN_LOG_LEVEL at 0, or --verbose, everything is shown. At 1 it is not: JAX leaves that in the
    environment of every program that imports it, for the programs that it starts. Raises MissingPackage, with what to
    install, if one is missing.
    """
    from octtrain.runtime import MissingPackage, prepare_keras

    if verbosity.verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    try:
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
            prepare_keras()
            yield
            return
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in (None, "1"):
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        with _no_stderr():
            prepare_keras()
            yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in (
            "tensorflow",
            "keras",
            "jax",
            "jaxlib",
            "torch",
            "scipy",
            "h5py",
            "PIL",
        ):
            raise MissingPackage(
                f'{error.name} is not installed; install what training needs by `pip install "octprep[train]"`, or on '
                'JAX by `pip install "octprep[jax]"`.'
            ) from None
        raise


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Drop what C++ libraries write to standard error while they load, before they read any log level."""
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (OSError, AttributeError, ValueError):  # there is no standard error
        yield
        return
    try:
        with Path(os.devnull).open("w") as null:
            os.dup2(null.fileno(), 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)


def _run(args: list[str] | None) -> None:
    """Run a command; with --verbose, print the traceback of an error that otherwise ends in one sentence."""
    try:
        app(args)
    except Exception:
        if verbosity.verbose:
            traceback.print_exc()
        raise


def main(args: list[str] | None = None) -> None:
    """The program `octtrain`: an error that the user can fix ends it with one sentence and an exit code.

    With `args`, which only tests give, signals are left to the process that calls it.
    """
    terminal.run_program(
        "octtrain", lambda: _run(args), memory_advice="close other programs and try again", watch=args is None
    )


if __name__ == "__main__":
    main()
