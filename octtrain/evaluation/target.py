"""What a model, of one run or of an ensemble, is evaluated on: a split of a dataset, and its exposure to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from octprep.format import images_csv
from octprep.format.errors import LeakError, ManifestError, SourceError
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Leaks, Manifest
from octprep.storage.cache import open_dataset
from octprep.storage.remote import Location
from octprep.terminal.commands import verbosity
from octprep.wording import listed, number
from octtrain import pretrained
from octtrain.evaluation.class_map import ClassMap, make_class_map
from octtrain.runs import exposure
from octtrain.runs.ensemble import CLASS_NAMES, describe_runs, task_differences
from octtrain.runs.exposure import TrainingImage
from octtrain.runs.run import Run

MAX_NAMED = 5  # patients in one message; none with --quiet, whose output is often kept in logs
LEAKS_BETWEEN_SPLITS = "LEAKY: patients in two splits of this dataset, so these results are too good"

ENSEMBLE = "-ensemble"  # what the names of results of several runs end in


@dataclass(frozen=True, kw_only=True)
class EvaluationTarget:
    """A split of a dataset that a run's model, or an ensemble, is evaluated on."""

    runs: tuple[Run, ...]  # of the model, or of the members of the ensemble
    place: Location  # folder or URL of the dataset, which need not be the run's
    shards: Path  # the folder that it is read from
    manifest: Manifest  # of that dataset
    rows: Sequence[ImageRow] = field(repr=False)  # the images in its images.csv
    split: str
    patients: int  # of the split
    exposed: Leaks  # patients and file contents of the split that the model was exposed to
    leak_warning: str | None  # why the results are too good; None if they are not
    caveats: tuple[str, ...]  # further limits of the results
    class_map: ClassMap | None = None  # where the model's classes, or the dataset's, are mapped onto shared ones
    left_out: Mapping[str, int] = field(default_factory=dict)  # class that the model does not know -> images

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the results."""
        return self.class_map.shared if self.class_map else self.manifest.class_names

    @property
    def run_digest(self) -> str:
        """The digest of the dataset that the run, or the first member, was trained on."""
        return self.runs[0].manifest.digest

    @property
    def is_own_dataset(self) -> bool:
        """Whether the run, or the first member, was trained on this dataset."""
        return self.manifest.digest == self.run_digest

    @property
    def name(self) -> str:
        """A part of file names: the split, for another dataset than the run's the start of its digest, and so on."""
        split = self.split if self.is_own_dataset else f"{self.split}-{self.manifest.digest[:8]}"
        split += "-mapped" if self.class_map else ""
        return split if len(self.runs) == 1 else f"{split}{ENSEMBLE}"


def resolve_target(
    runs: Sequence[Run],
    split: str,
    shards: Location | None = None,
    dataset: Location | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> EvaluationTarget:
    """Find the dataset, check that the model can be used on it, and compare its patients with the exposure.

    runs: of the model, or the members of an ensemble, which was exposed to whatever one of them was.  shards: where the
    dataset of the run, or of the first member, is, by default where it was.  dataset: another one to evaluate on.
    classes: shared class -> those of the model or the dataset that it is made of; None: both have the same.
    Raises SettingError, SourceError and ManifestError as `evaluate` does.
    """
    run = runs[0]
    place = dataset or shards or run.shards
    if place == run.shards and pretrained.is_packaged(run.folder):
        raise SourceError(
            f"the weights `{pretrained.NAME}` come without the scans they were trained on; name the shards to evaluate "
            "on by --dataset DIR."
        )
    if isinstance(place, Path) and not place.is_dir():
        raise SourceError(
            f"the dataset {place} does not exist."
            if dataset
            else f"the shards {place} do not exist; name their folder by --shards DIR."
        )
    folder = open_dataset(place)
    manifest = Manifest.load(folder)
    if not dataset and manifest.digest != run.manifest.digest:
        raise ManifestError(
            f"{place} holds another dataset (digest {manifest.digest[:12]}) than the one {run.folder} was trained on "
            f"({run.manifest.digest[:12]}). Name the folder of that one by --shards DIR, or give --dataset {place} to "
            "evaluate on this one instead."
        )
    require_same_task(run, manifest, place, has_class_map=classes is not None)
    model_classes = run.manifest.class_names
    class_map = None if classes is None else make_class_map(classes, model_classes, manifest.class_names)
    if split not in manifest.splits:
        raise ManifestError(f"{place} has no split {split!r}; it has {', '.join(manifest.splits)}.")
    if not manifest.records(split):
        raise ManifestError(f"Split {split!r} of {place} holds no images, so there is nothing to evaluate on.")

    rows = images_csv.read_checked(folder, manifest).rows
    unknown: set[str] = set()
    if class_map is not None:
        unknown = {label for i, label in enumerate(manifest.class_names) if class_map.of_dataset[i] is None}
    left_out = Counter(row.label for row in rows if row.split == split and row.label in unknown)
    evaluated = exposure.images_of((row for row in rows if row.label not in unknown), (split,))
    if not evaluated:
        raise ManifestError(
            f"Split {split!r} of {place} holds no image of a class that the model knows, but "
            f"{listed(sorted(left_out))}. Say what these are by --classes."
        )
    images: list[TrainingImage] = []
    caveats: list[str] = []
    for member in runs:
        exposed_to, complete = member.exposure()
        selected_on_split = manifest.digest == member.manifest.digest and split in member.provenance.selected_on
        # That the best epoch was selected on these images is a caveat, not a leak.
        images += [image for image in exposed_to if not (selected_on_split and image.split == split)]
        caveats += _caveats(member, split, selected_on_split, complete)
    caveats += [manifest.unknown_patients] if manifest.unknown_patients else []
    exposed = exposure.exposed(images, evaluated)
    patients = len({image.patient for image in evaluated})
    leak_warning = None
    if exposed:
        amount = _describe_exposed(exposed, patients, split)
        leak_warning = f"LEAKY: the model was exposed to {amount}, so these results are too good"
    elif manifest.leaks and any(manifest.digest == member.manifest.digest for member in runs):
        leak_warning = LEAKS_BETWEEN_SPLITS
    return EvaluationTarget(
        runs=tuple(runs),
        place=place,
        shards=folder,
        manifest=manifest,
        rows=rows,
        split=split,
        patients=patients,
        exposed=exposed,
        leak_warning=leak_warning,
        caveats=tuple(dict.fromkeys(caveats)),
        class_map=class_map,
        left_out=left_out,
    )


def require_same_task(run: Run, manifest: Manifest, shards: Location, *, has_class_map: bool = False) -> None:
    """Raise ManifestError if a dataset's class names or preprocessing differ from those the run was trained with.

    has_class_map: the class names may differ.
    """
    differences = [
        f"{name} {expected} in the run, {actual} here"
        for name, expected, actual in task_differences(run.manifest, manifest)
        if not (has_class_map and name == CLASS_NAMES)
    ]
    if differences:
        raise ManifestError(
            f"{shards} is another dataset (digest {manifest.digest[:12]}) than the one {run.folder} was trained on "
            f"({run.manifest.digest[:12]}), and the model cannot be used on it: {'; '.join(differences)}. Build it "
            "with the settings of the run's dataset"
            + (
                ", or say which classes are the same by --classes."
                if run.manifest.class_names != manifest.class_names
                else "."
            )
        )


def require_unexposed(target: EvaluationTarget) -> None:
    """Raise LeakError, with the patients, if the model was exposed to patients or images of the split."""
    if not target.exposed:
        return
    ids = target.exposed.patients
    named = bool(ids) and not verbosity.quiet
    patients = f": {'patient' if len(ids) == 1 else 'patients'} {listed(ids, MAX_NAMED)}" if named else ""
    folders = describe_runs(target.runs)
    model = f"the model in {folders}" if len(target.runs) == 1 else f"a model in {folders}"
    condition = "" if target.is_own_dataset else ", or if the ids refer to different patients"
    raise LeakError(
        f"{model} was trained on, or selected on, "
        f"{_describe_exposed(target.exposed, target.patients, target.split)}{patients}. Evaluate on patients it was "
        f"not exposed to; to evaluate all the same{condition}, give --allow-leaks, and the result is marked LEAKY."
    )


def _describe_exposed(exposed: Leaks, patients: int, split: str) -> str:
    images = number(len(exposed.contents), "image")
    if not exposed.patients:
        return f"{images} of {split}, under other patient ids"
    return f"{len(exposed.patients):,} of the {number(patients, 'patient')} and {images} of {split}"


def _caveats(run: Run, split: str, selected_on_split: bool, complete: bool) -> list[str]:
    caveats = []
    if selected_on_split:
        caveats.append(f"{split} was used to select the best epoch, so these results are a little too good")
    if not complete:
        caveats.append(
            f"the model learnt from {run.sources_of_exposure}, whose training patients are unknown; they may include "
            "patients of this split"
        )
    return caveats
