"""Which crop lets a network that was trained on synthetic scans read genuine scans best?

    python -m benchmarks.crops --out crops --genuine OCT2017/test --genuine other/folder

For each `--crop` of octprep (retina, band, none) the same synthetic scans are built into shards, and octnet-s is
trained on them by `octtrain.fit` with its default settings, once for each seed; every training classifies the genuine
scans in the folders as `octtrain predict` does. The probabilities for a patient's scans of one class are averaged to
one verdict; a scan whose name has no patient counts as a patient of its own.

Prints, for each folder, the balanced accuracy averaged over the seeds, with a 95 % interval by a percentile bootstrap
of patients, and the difference from `--crop retina`, whose interval is paired: the same patients, drawn together. The
intervals do not say how a larger number of seeds would vary; the accuracies of the single seeds are printed for that.

Every training leaves its result in the folder --out. Run again, the command trains only what is missing there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.models import Verdicts, as_json, balanced_accuracy, patient_interval, percent, pooled, verdicts
from benchmarks.models import write_json as save
from octprep.format.config import CROPS
from octprep.format.names import parse_scan_name
from octprep.synthetic.difficulty import DIFFICULTIES

BASELINE = "retina"
SETTINGS = ("patients", "difficulty", "size", "epochs", "model")  # that all results in a folder share
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # crop -> what `train_and_judge` returned, by seed


def build_shards(out: Path, crop: str, options: argparse.Namespace) -> Path:
    """Shards of the synthetic scans with a crop; the scans are drawn if they are missing."""
    import octprep
    from octprep import synthetic

    scans, shards = out / "scans", out / f"shards-{crop}"
    if not scans.exists():
        synthetic.draw(scans, patients=options.patients, seed=0, difficulty=options.difficulty)
    recipe = octprep.Preprocessing(crop=crop, height=options.size, width=options.size)
    octprep.build(scans, shards, octprep.BuildConfig(recipe=recipe))
    return shards


def train_and_judge(shards: Path, folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train once, and return the best balanced accuracy on val and the verdicts on each folder of genuine scans."""
    import keras

    import octtrain
    from octtrain.prediction.classify import Prediction, load_run

    keras.utils.clear_session()
    run = octtrain.fit(
        shards,
        folder,
        model=options.model,
        seed=seed,
        epochs=options.epochs,
        resume=(folder / "config.json").exists(),
        log=lambda line: None,
        show_progress=False,
    )
    loaded = load_run(run)
    result: dict[str, Any] = {"val": max(row["val_balanced_accuracy"] for row in run.history())}
    for source in options.genuine:
        known = [found for found in loaded.predict([source]) if isinstance(found, Prediction) and found.true_label]
        names = [parse_scan_name(found.path.name) for found in known]
        patients = [name.patient if name else str(found.path) for name, found in zip(names, known, strict=True)]
        truth = [found.true_label or "" for found in known]
        given = verdicts(patients, truth, [found.probabilities for found in known], loaded.class_names)
        result[str(source)] = as_json(given, len(known))
    return result


def difference(first: Verdicts, second: Verdicts) -> tuple[float, float, float]:
    """The balanced accuracy of the first less that of the second, on the same scans, and its paired 95 % interval."""
    if (first.patients, first.classes) != (second.patients, second.classes):
        raise ValueError("two crops were not judged on the same scans; use another --out")
    paired = Verdicts(first.patients, first.classes, first.correct - second.correct)
    return balanced_accuracy(paired.correct, paired.classes), *patient_interval(paired)


def table(results: Results, source: str) -> str:
    """A Markdown table of a folder of genuine scans, a row for each crop that was judged on it."""
    lines = [
        "| crop | balanced accuracy, % (95 %) | single seeds | difference from retina, points (95 %) |",
        "|---|---|---|---|",
    ]
    baseline = pooled(results.get(BASELINE, ()), source)
    for crop, found in results.items():
        judged = [one for one in found if source in one]
        given = pooled(judged, source)
        if given is None:
            continue
        single = [pooled([one], source) for one in judged]
        seeds = " ".join(f"{100 * balanced_accuracy(one.correct, one.classes):.1f}" for one in single if one)
        cell = ""
        if baseline and crop != BASELINE:
            mean, low, high = (100 * value for value in difference(given, baseline))
            cell = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {crop} | {percent(given)} | {seeds} | {cell} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything measured")
    parser.add_argument("--genuine", type=Path, action="append", default=[], metavar="DIR", help="genuine scans")
    parser.add_argument("--crops", nargs="+", choices=CROPS, default=list(CROPS))
    parser.add_argument("--seeds", type=int, default=5, help="trainings with each crop")
    parser.add_argument("--model", default="octnet-s")
    parser.add_argument("--patients", type=int, default=400, help="synthetic patients to train on")
    parser.add_argument("--difficulty", choices=DIFFICULTIES, default="hard", help="of the synthetic scans")
    parser.add_argument("--size", type=int, default=224, help="side of the stored images")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in SETTINGS}
    settings["genuine"] = [str(source) for source in options.genuine]
    kept = options.out / "settings.json"
    options.out.mkdir(parents=True, exist_ok=True)
    if kept.exists() and json.loads(kept.read_text()) != settings:
        parser.error(f"{options.out} holds results of other settings: {kept.read_text()}")
    save(kept, settings)
    results: dict[str, list[dict[str, Any]]] = {crop: [] for crop in options.crops}
    for seed in range(options.seeds):  # so that an interrupted run has as many seeds of every crop
        for crop in options.crops:
            path = options.out / "results" / f"{crop}.{seed}.json"
            if not path.exists():
                shards = build_shards(options.out, crop, options)
                save(path, train_and_judge(shards, options.out / "runs" / f"{crop}-{seed}", seed, options))
            results[crop].append(json.loads(path.read_text()))
            print(f"crop {crop}, seed {seed}: val {results[crop][-1]['val']:.3f}", flush=True)
    for source in settings["genuine"]:
        counts = {one[source]["scans"] for found in results.values() for one in found}
        print(f"\n{source}, {' or '.join(map(str, sorted(counts)))} scans\n\n{table(results, source)}")


if __name__ == "__main__":
    main()
