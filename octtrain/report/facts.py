"""What was trained on what, what was checked, and what is not known: for the report and the model card alike."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octprep.format.files import NotReadable, read_bytes
from octprep.format.manifest import Manifest
from octprep.format.options import arguments, described
from octprep.format.paths import path_to_text
from octprep.wording import listed, number
from octtrain.calibration.frozen import CALIBRATION_NAME
from octtrain.config import FitConfig
from octtrain.evaluation.metrics import MIN_PATIENTS
from octtrain.report.evaluation import Evaluation
from octtrain.runs.history import best_epoch
from octtrain.runs.run import MODEL_NAME, Run

MAX_MODEL_BYTES = 4_000_000_000
SHOWN_ERRORS = 12

UNKNOWN = (
    "Another training with the same settings could be better or worse; the intervals are for other patients only.",
    "Other devices, clinics and ways to select patients were not evaluated, unless the split holds them.",
    "Labels were taken as they are; whether they are right was not checked.",
    "Age, sex, origin and other diseases of the patients are not in the data that the program sees, so results by "
    "them, and fairness, are unknown.",
    "Which scans are of one eye or one visit is not known; a patient is a patient id, or several that share a scan.",
)


@dataclass(frozen=True)
class Check:
    """Something that was checked, in words."""

    name: str
    state: str  # holds, violated, unknown or not applicable
    sentence: str


@dataclass(frozen=True)
class Error:
    """An image that is misclassified."""

    path: str
    patient: str
    truth: str
    prediction: str
    probability: float  # of the prediction
    of_truth: float  # probability of the truth


def amount(content: Mapping[str, Any]) -> str:
    """How many images and patients were evaluated, as a phrase."""
    return f"{number(content['images'], 'image')} of {number(content['patients'], 'patient')}"


def dataset(evaluation: Evaluation) -> str:
    """What was evaluated on, as a phrase."""
    content = evaluation.content
    what = "the run's own dataset" if evaluation.is_own_dataset else "another dataset than the run's"
    model = f", by the mean of {len(evaluation.runs)} runs" if evaluation.is_ensemble else ""
    return f"{content['split']} of {what} ({content['digest'][:12]}){model}"


def models(evaluation: Evaluation) -> str:
    """The name of the model, or those of the members."""
    return listed(list(dict.fromkeys(run.config.model for run in evaluation.runs)))


def folder_name(run: Run) -> str:
    """The name of a run's folder."""
    return path_to_text(run.folder.resolve().name)


def training(run: Run) -> list[tuple[str, str]]:
    """What was trained on what, as names and values."""
    manifest, history = run.manifest, run.history()
    splits = [name for names in (run.provenance.trained_on, run.provenance.selected_on) for name in names]
    return [
        ("Model", run.config.model),
        (
            "Weights to start from",
            run.config.weights + (f"; teacher {run.config.teacher}" if run.config.teacher else ""),
        ),
        ("Dataset digest", manifest.digest),
        ("Classes", ", ".join(manifest.class_names)),
        ("Trained on", listed([_split(manifest, name) for name in run.provenance.trained_on])),
        ("Best epoch selected on", listed([_split(manifest, name) for name in run.provenance.selected_on])),
        ("Patients that the model was exposed to", _exposed_patients(run, splits)),
        (
            "Epochs",
            f"{len(history)} of at most {run.config.epochs}; the best is {best_epoch(history)}" if history else "-",
        ),
        ("Seed", str(run.config.seed)),
        ("Started", run.started or "not recorded"),
        ("Device when it started", run.device or "not recorded"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.libraries.items())),
        ("SHA-256 of model.keras", _model_sha256(run)),
    ]


def preparation(evaluation: Evaluation) -> list[tuple[str, str]]:
    """How the dataset was prepared and split, as names and values."""
    config = evaluation.run.manifest.config
    return [*described(config.recipe), *described(config)]


def command(run: Run) -> str:
    """`octtrain fit` with every option that differs from its default. SHARDS stands for the folder of shards."""
    return shlex.join(["octtrain", "fit", "SHARDS", *arguments(run.config, FitConfig())])


def checks(evaluation: Evaluation) -> list[Check]:
    """Exposure, leaks between splits, and whether thresholds were fixed before the split was seen."""
    return [_exposure(evaluation), _leaks(evaluation), _thresholds(evaluation), _unfamiliar(evaluation)]


def chance(evaluation: Evaluation) -> float | None:
    """The balanced accuracy of guessing; None where fewer than two classes occur."""
    present = [counts for counts in evaluation.content["confusion"]["counts"] if sum(counts)]
    return 1 / len(present) if len(present) > 1 else None


def is_above_chance(evaluation: Evaluation) -> bool:
    """Whether the interval of the balanced accuracy lies above guessing."""
    guess, interval = chance(evaluation), evaluation.content["balanced_accuracy"]["interval"]
    return guess is not None and interval is not None and interval[0] > guess


def worse_slices(evaluation: Evaluation) -> str:
    """A sentence on the slices that are worse than the whole; "" if there is none."""
    slices = evaluation.content["slices"]
    worse = [f"{each['column']} {each['values']}" for each in slices if each["is_worse"]]
    judged = sum(each["patients"] >= MIN_PATIENTS for each in slices)
    if not worse:
        return ""
    return (
        f"Worse than the whole: {listed(worse)}. {number(judged, 'slice')} with {MIN_PATIENTS} patients or more were "
        f"looked at, of which about {judged * 0.025:.1f} would look worse by chance alone."
    )


def unknown(evaluation: Evaluation) -> list[str]:
    """What the results do not say, in sentences."""
    content = evaluation.content
    lines = [_sentence(line) for line in content["caveats"]]
    if not evaluation.calibration:
        lines.append(
            "No thresholds of referral, abstention or familiarity were applied: the run had no calibration for this "
            "dataset's classes when it was evaluated (`octtrain calibrate`, then `octtrain evaluate`)."
        )
    if left_out := content.get("left_out"):
        parts = listed([f"{number(count, 'image')} of {name}" for name, count in sorted(left_out.items())])
        lines.append(f"Left out, as the model does not know the class: {parts}.")
    return [*lines, *UNKNOWN]


def worst_errors(evaluation: Evaluation, most: int = SHOWN_ERRORS) -> tuple[list[Error], int]:
    """Of each patient the error that the model was most certain of, surest first, and the number of all errors.

    most: how many are returned at most.
    """
    found, names = evaluation.predictions, evaluation.class_names
    predicted = found.probabilities.argmax(axis=1)
    wrong = [int(i) for i in (predicted != found.truth).nonzero()[0]]
    wrong.sort(key=lambda i: (-float(found.probabilities[i].max()), found.paths[i]))
    worst_of = {found.groups[i]: i for i in reversed(wrong)}
    chosen = sorted(worst_of.values(), key=wrong.index)
    return [
        Error(
            found.paths[i],
            found.patients[i],
            names[found.truth[i]],
            names[predicted[i]],
            float(found.probabilities[i].max()),
            float(found.probabilities[i, found.truth[i]]),
        )
        for i in chosen[:most]
    ], len(wrong)


def _exposure(evaluation: Evaluation) -> Check:
    content, incomplete = evaluation.content, [run for run in evaluation.runs if not run.exposure().complete]
    name, exposed = "The model was not exposed to these patients", content["exposed"]
    if exposed["patients"] or exposed["images"]:
        found = f"{number(exposed['patients'], 'patient')} and {number(exposed['images'], 'image')}"
        return Check(
            name, "violated", f"It was exposed to {found} of {content['split']}, so these results are too good."
        )
    if incomplete:
        sources = listed(list(dict.fromkeys(run.sources_of_exposure for run in incomplete)))
        return Check(name, "unknown", f"The training patients of {sources} are unknown; see below.")
    return Check(
        name,
        "holds",
        f"No patient id and no file content of {content['split']} is among those that the model, its initial weights "
        "or its teacher were trained on. Images that were encoded again under another id would not be recognised.",
    )


def _leaks(evaluation: Evaluation) -> Check:
    name = "No patient is in two splits of the dataset"
    if leaks := next(filter(None, (run.manifest.leaks for run in evaluation.runs)), None):
        found = f"{number(len(leaks.patients), 'patient')} and {number(len(leaks.contents), 'image content')}"
        return Check(name, "violated", f"By the manifest, {found} are in two splits of the training dataset.")
    return Check(
        name,
        "holds",
        "By the manifest of the training dataset: no patient and no image content is in two splits. "
        "octprep verify checks it from the shards.",
    )


def _thresholds(evaluation: Evaluation) -> Check:
    name, calibration = "Thresholds were fixed before the split was seen", evaluation.calibration
    if not calibration:
        return Check(name, "not applicable", "None were frozen, so none were applied.")
    chosen_on = calibration["chosen_on"]
    what = f"{'The calibration' if evaluation.is_ensemble else CALIBRATION_NAME} ({calibration['sha256'][:12]})"
    if evaluation.is_own_dataset and chosen_on == evaluation.content["split"]:
        return Check(name, "violated", f"{what} was chosen on {chosen_on} itself.")
    return Check(
        name,
        "holds",
        f"{what} was chosen on {chosen_on} and applied here as it is. How often this split was "
        "looked at before is not recorded.",
    )


def _unfamiliar(evaluation: Evaluation) -> Check:
    name, calibration = "The images are like those of the training", evaluation.calibration
    if not calibration:
        return Check(name, "not applicable", "No limits were frozen, so this was not measured.")
    images, patients = calibration["unfamiliar"]["images"], calibration["unfamiliar"]["patients"]
    share = images["count"] / images["total"]
    return Check(
        name,
        "holds" if share <= 0.05 else "violated",
        f"{images['count']:,} of {number(images['total'], 'image')} ({100 * share:.1f} %) and {patients['count']:,} of "
        f"{number(patients['total'], 'patient')} are beyond a frozen limit; 5 % of the images are tolerated here.",
    )


def _split(manifest: Manifest, name: str) -> str:
    return f"{name} ({number(manifest.records(name), 'record')})"


def _exposed_patients(run: Run, splits: Sequence[str]) -> str:
    patients = run.exposed_patients()
    order = [*splits, *sorted({*patients} - {*splits})]
    return ", ".join(f"{patients.get(name, 0):,} in {name.replace('_', ' ')}" for name in order)


def _model_sha256(run: Run) -> str:
    try:
        data = read_bytes(run.folder / MODEL_NAME, MAX_MODEL_BYTES)[0]
    except (OSError, NotReadable):
        return "not readable"
    return hashlib.sha256(data).hexdigest()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def results_rows(content: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """The name of each result of all classes, its place in the JSON with dots, and its decimals."""
    rows = [
        ("balanced accuracy", "balanced_accuracy", 3),
        ("accuracy", "accuracy", 3),
        ("macro F1", "macro_f1", 3),
        ("macro AUC", "macro_auc", 3),
        ("Matthews' correlation", "mcc", 3),
    ]
    if content["weighted_error_percent"]:
        rows.append(("weighted error, %", "weighted_error_percent", 1))
    return rows
