"""Accuracy against cost of all networks: writes docs/models.md and docs/models.jpg.

    python -m benchmarks.models --out models
    python -m benchmarks.models --out models --genuine OCT2017/test --models octnet-s octnet-m --seeds 3 --size 112

Cost is measured at 224x224 whatever --size is: all models take turns, so that other work on the machine harms all of
them alike, and the fastest turn of each counts. A model that has had 12 s of one kind of turn sits out the others.

Accuracy is that of trainings by `octtrain.fit` with its default settings on hard synthetic scans alone, on the patients
of another seed, and with --genuine on genuine scans in folders. The probabilities for a patient's scans of one class
are averaged to one verdict. Balanced accuracy is averaged over the seeds of the training; its 95 % interval is a
percentile bootstrap, 2,000 draws of patients with all their verdicts by all seeds. It does not say how a larger number
of seeds would vary.

Everything measured is kept in the folder --out. Run again, the command measures only what is missing there, so models
and seeds can be added; `--only-page` writes the page from what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray

from octprep.format.names import parse_scan_name
from octtrain.config import MODELS

FORMER = {"former octnet-s": "benchmarks.old_octnet:octnet_s", "former octnet-m": "benchmarks.old_octnet:octnet_m"}
IMAGENET = ", from ImageNet"  # after the name of a model whose training starts from those weights
RATE_SIDE, RATE_BATCH, CLASSES = 224, 16, 4
TURN_SECONDS = 12  # of a model, training or inference, after which it takes no further turns
DRAWS = 2000
TRAIN_FRACTIONS = (0.75, 0.2, 0.05)  # of the patients to train on; the last are not used
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
MEASURED_ON = ("unseen", "genuine")


@dataclass(frozen=True)
class Verdicts:
    """Whether the mean probabilities for each patient's scans of one class are highest for that class."""

    patients: list[str]  # of each verdict; a patient with scans of two classes has two
    classes: list[str]
    correct: NDArray[np.float64]  # (n,) 0 or 1; averaged over seeds, between


def multiplications(model: Any) -> int:
    """Of the convolutions and dense layers of a flat Keras model, for one image."""
    from keras import layers

    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
            total += int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:-1], initial=1))
    return total


def verdicts(patients: Sequence[str], truth: Sequence[str], probabilities: Any, class_names: Sequence[str]) -> Verdicts:
    """Of scans, one verdict for each patient and class. probabilities: (scans, classes)."""
    scans: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, key in enumerate(zip(patients, truth, strict=True)):
        scans[key].append(index)
    keys, rows = sorted(scans), np.asarray(probabilities, np.float64)
    predicted = [class_names[int(rows[scans[key]].mean(axis=0).argmax())] for key in keys]
    correct = np.array([label == name for (_, label), name in zip(keys, predicted, strict=True)], np.float64)
    return Verdicts([patient for patient, _ in keys], [label for _, label in keys], correct)


def balanced_accuracy(
    correct: NDArray[np.float64], classes: Sequence[str], weights: NDArray[np.float64] | None = None
) -> float:
    """Mean over the classes of the fraction that is correct. weights: of each verdict; a class without any is left."""
    weights = np.ones(len(correct)) if weights is None else weights
    names = np.array(classes)
    totals = {name: weights[names == name].sum() for name in np.unique(names)}
    return float(
        np.mean([weights[names == name] @ correct[names == name] / total for name, total in totals.items() if total])
    )


def patient_interval(given: Verdicts, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the balanced accuracy: patients are drawn with replacement, each with all their verdicts."""
    names, patient_of = np.unique(np.array(given.patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    values = [
        balanced_accuracy(given.correct, given.classes, np.bincount(drawn, minlength=len(names))[patient_of] * 1.0)
        for drawn in (rng.integers(len(names), size=len(names)) for _ in range(draws))
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of those (cost, accuracy) that no other beats in one without losing in the other."""
    return [
        name
        for name, (cost, value) in points.items()
        if not any(
            other_cost <= cost and other_value >= value and (other_cost, other_value) != (cost, value)
            for other_cost, other_value in points.values()
        )
    ]


# Measuring


def spec(name: str) -> tuple[str, str]:
    """The model and the weights that a row's name stands for, as settings of `octtrain.fit`."""
    model = name.removesuffix(IMAGENET)
    return FORMER.get(model, model), "imagenet" if name.endswith(IMAGENET) else "none"


def measure_cost(names: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Name -> parameters, multiplications, images per second, CPU milliseconds an image, and turns taken."""
    import keras
    import tensorflow as tf

    from benchmarks.octnet_designs import training_step
    from octtrain.models import build_model, logits_model

    images = tf.constant(np.random.default_rng(0).integers(0, 256, (RATE_BATCH, RATE_SIDE, RATE_SIDE, 1), np.uint8))
    labels = tf.constant(np.arange(RATE_BATCH) % CLASSES)
    cost: dict[str, dict[str, float]] = {}
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in names:
        model = build_model(spec(name)[0], (RATE_SIDE, RATE_SIDE, 1), CLASSES)
        cost[name] = {"parameters": model.count_params(), "multiplications": multiplications(model)}
        step = training_step(logits_model(model), keras.optimizers.AdamW(1e-3))
        infer = tf.function(partial(model, training=False), jit_compile=False)
        calls[name, "training"], calls[name, "inference"] = partial(step, images, labels), partial(infer, images)
        for call in (calls[name, "training"], calls[name, "inference"]):
            np.asarray(call())  # traces
    wall: dict[tuple[str, str], list[float]] = defaultdict(list)
    cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for key, call in calls.items():
            if sum(wall[key]) > TURN_SECONDS:
                continue
            begin, cpu_begin = time.perf_counter(), time.process_time()
            np.asarray(call())  # waits for the result
            wall[key].append(time.perf_counter() - begin)
            cpu[key].append(time.process_time() - cpu_begin)
    for name in names:
        for kind in ("training", "inference"):
            cost[name][f"{kind}_per_second"] = RATE_BATCH / min(wall[name, kind])
            cost[name][f"{kind}_turns"] = len(wall[name, kind])
        cost[name]["cpu_ms"] = 1000 * min(cpu[name, "inference"]) / RATE_BATCH
    return cost


def shards_of(out: Path, kind: str, patients: int, size: int, seed: int, max_per_patient: int = 0) -> Path:
    """Shards of hard synthetic scans, made if they are missing."""
    import octprep
    from octprep import synthetic

    scans, shards = out / f"scans-{kind}", out / f"shards-{kind}"
    if not scans.exists():
        synthetic.draw(scans, patients=patients, seed=seed, difficulty="hard", faults=False)
    config = octprep.BuildConfig(
        recipe=octprep.Preprocessing(height=size, width=size),
        split="by-patient",
        fractions=TRAIN_FRACTIONS,
        max_per_patient=max_per_patient,
        balance="auto" if kind == "train" else "none",  # of the unseen patients all splits are used, each scan once
    )
    octprep.build(scans, shards, config)
    return shards


def train_and_judge(
    name: str, seed: int, epochs: int, shards: Mapping[str, Path], genuine: Sequence[Path], out: Path
) -> dict[str, Any]:
    """Train once, and return what is to be kept: verdicts on unseen and genuine scans, seconds, best epoch."""
    import keras

    import octtrain
    from octprep.format.manifest import Manifest
    from octtrain.evaluation.evaluate import predict_split
    from octtrain.prediction.classify import Prediction, load_run

    keras.utils.clear_session()
    model, weights = spec(name)
    folder, begin = out / "runs" / f"{slug(name)}-{seed}", time.monotonic()
    folder.parent.mkdir(exist_ok=True)
    run = octtrain.fit(
        shards["train"],
        folder,
        model=model,
        weights=weights,
        seed=seed,
        epochs=epochs,
        resume=(folder / "config.json").exists(),
        log=lambda line: None,
        show_progress=False,
    )
    history = run.history()
    result: dict[str, Any] = {
        "seconds": time.monotonic() - begin,
        "val": max(row["val_balanced_accuracy"] for row in history),
        "epochs": len(history),
    }
    manifest = Manifest.load(shards["unseen"])
    class_names = manifest.class_names
    parts = [
        predict_split(run.load_model(), manifest, shards["unseen"], split)
        for split in manifest.splits
        if manifest.records(split)
    ]
    patients = [patient for part in parts for patient in part.patients]
    truth = [class_names[label] for part in parts for label in part.truth]
    probabilities = np.concatenate([part.probabilities for part in parts])
    result["unseen"] = as_json(verdicts(patients, truth, probabilities, class_names), len(truth))
    if genuine:
        known = [found for found in load_run(run).predict(genuine) if isinstance(found, Prediction)]
        scans = [
            (parsed.patient, found.true_label, found.probabilities)
            for found in known
            if found.true_label and (parsed := parse_scan_name(found.path.name))
        ]
        named, labels, rows = zip(*scans, strict=True)
        result["genuine"] = as_json(verdicts(named, labels, rows, class_names), len(scans))
    return result


def as_json(given: Verdicts, scans: int) -> dict[str, Any]:
    return {"scans": scans, "patients": given.patients, "classes": given.classes, "correct": given.correct.tolist()}


def pooled(results: Iterable[Mapping[str, Any]], kind: str) -> Verdicts | None:
    """The verdicts of several trainings, averaged; None without any. kind: unseen or genuine."""
    found = [result[kind] for result in results if kind in result]
    if not found:
        return None
    if any((one["patients"], one["classes"]) != (found[0]["patients"], found[0]["classes"]) for one in found):
        raise ValueError(f"the trainings were not judged on the same {kind} scans; use another --out")
    return Verdicts(found[0]["patients"], found[0]["classes"], np.mean([one["correct"] for one in found], axis=0))


def slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


# The page


def percent(given: Verdicts | None) -> str:
    """A balanced accuracy with its interval, as a cell."""
    if given is None:
        return "not run"
    low, high = patient_interval(given)
    return f"{100 * balanced_accuracy(given.correct, given.classes):.1f} ({100 * low:.0f} to {100 * high:.0f})"


def rounded(value: float) -> str:
    """A rate or a cost with at least two digits."""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def table(
    names: Sequence[str], cost: Mapping[str, Mapping[str, float]], results: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """The Markdown table. results: name -> what `train_and_judge` returned, for each seed."""
    lines = [
        "| model | parameters, M | MAC, M | training, images/s | inference, images/s | CPU time, ms an image | "
        "seeds | unseen synthetic patients, % | genuine scans, % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in names:
        one = cost.get(name.removesuffix(IMAGENET))
        cells = ["not run"] * 5
        if one:
            cells = [f"{one['parameters'] / 1e6:.2f}", f"{one['multiplications'] / 1e6:,.0f}"]
            cells += [rounded(one[key]) for key in ("training_per_second", "inference_per_second", "cpu_ms")]
        found = results.get(name, ())
        cells += [str(len(found)), *(percent(pooled(found, kind)) for kind in MEASURED_ON)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(points: Mapping[str, tuple[float, float, float, float]], best: Sequence[str], size: int, path: Path) -> None:
    """The plot. points: name -> CPU milliseconds an image, accuracy, and the ends of its interval, in percent."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for name, (cost, value, low, high) in points.items():
        on_frontier = name in best
        axes.errorbar(
            cost,
            value,
            yerr=[[max(0, value - low)], [max(0, high - value)]],
            fmt="o" if on_frontier else "s",
            color="#1f5fa8" if on_frontier else "#8a8f98",
            elinewidth=1,
            capsize=3,
            markersize=7,
        )
        # to the right and below the line, which rises to the right
        axes.annotate(name, (cost, value), xytext=(8, -12), textcoords="offset points", fontsize=9)
    line = sorted((points[name][:2] for name in best), key=lambda point: point[0])
    axes.plot(*zip(*line, strict=True), color="#1f5fa8", linewidth=1, linestyle="--", zorder=0)
    axes.set_xscale("log")
    ticks = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
    low_x, high_x = (bound(cost for cost, *_ in points.values()) for bound in (min, max))
    axes.set_xlim(low_x * 0.8, high_x * 3.5)
    axes.set_xticks([tick for tick in ticks if low_x * 0.8 <= tick <= high_x * 3.5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("CPU time of inference for an image of 224x224, ms")
    axes.set_ylabel("balanced accuracy, %")
    axes.set_title(f"Unseen synthetic patients, hard scans at {size}x{size}, by patient; bars: 95 %", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, pil_kwargs={"quality": 88})


def write_page(out: Path, rows: Sequence[str]) -> None:
    """Write docs/models.md and docs/models.jpg from what the folder holds."""
    settings = json.loads((out / "settings.json").read_text())
    cost_file = out / "cost.json"
    cost = json.loads(cost_file.read_text()) if cost_file.exists() else {"models": {}, "machine": "", "rounds": 0}
    results = {name: load_results(out, name) for name in rows}
    pools = {name: pooled(found, "unseen") for name, found in results.items()}
    points = {}
    for name, given in pools.items():
        one = cost["models"].get(name.removesuffix(IMAGENET))
        if given and one:
            low, high = patient_interval(given)
            value = balanced_accuracy(given.correct, given.classes)
            points[name] = (one["cpu_ms"], 100 * value, 100 * low, 100 * high)
    best = frontier({name: point[:2] for name, point in points.items()})
    if points:
        draw(points, best, settings["size"], PAGE.with_suffix(".jpg"))
    PAGE.write_text(page(rows, cost, results, settings, points, best))


def page(
    rows: Sequence[str],
    cost: Mapping[str, Any],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    settings: Mapping[str, Any],
    points: Mapping[str, tuple[float, float, float, float]],
    best: Sequence[str],
) -> str:
    """The content of docs/models.md."""
    size, run = settings["size"], next((found[0] for found in results.values() if found), None)
    counts = {kind: amount(run[kind]) for kind in MEASURED_ON if run and kind in run}
    few = [name for name in rows if 0 < len(results[name]) < 5]
    missing = [name for name in rows if not results[name]]
    seeds = defaultdict(list)
    for name in rows:
        seeds[len(results[name])].append(name)
    trained = [f"{count}: {'; '.join(names)}" for count, names in sorted(seeds.items(), reverse=True) if count]
    in_order = sorted(best, key=lambda name: points[name][0])
    default = "octnet-s"
    if default not in points:
        verdict = f"`{default}`, the default, was not run."
    else:
        verdict = f"`{default}`, the default, is {'' if default in best else 'not '}on it."
        top = max(points, key=lambda name: points[name][1])
        if top != default:
            verdict += (
                f" The most accurate is {top}: {points[top][1] - points[default][1]:.0f} points above the default, for "
                f"{points[top][0] / points[default][0]:.0f} times its CPU time."
            )
    return f"""# Accuracy and cost of the models

Written by `benchmarks/models.py`. The accuracies are of synthetic scans and of short trainings: they rank the models
for a first training on a CPU and do not say what a model reaches on your archive.

{table(rows, cost["models"], results)}

![Balanced accuracy against CPU time of inference](models.jpg)

**Frontier.** Of the models that were trained, no other is both at least as accurate on unseen synthetic patients and
at least as cheap at inference as these, from the cheapest:
{bullets(in_order)}

{textwrap.fill(verdict, 119)}

Where intervals overlap, or with fewer than 5 seeds, the order may be chance. After so short a training at small size it
is above all an order of how soon a model learns, and the octnets' first convolution, which keeps a quarter of the
sides, may lose more in images smaller than {RATE_SIDE} x {RATE_SIDE}. The former octnets are those of before the
redesign (`benchmarks/old_octnet.py`) and cannot be chosen by name.

## What was measured

- *Parameters, MAC*: of the model for four classes and {RATE_SIDE} x {RATE_SIDE} pixels; MAC are the multiplications of
  its convolutions and dense layers for one image.
- *Rates and CPU time*: always at {RATE_SIDE} x {RATE_SIDE}, in float32 without XLA, on batches of {RATE_BATCH} images,
  on {cost["machine"]}. All models took turns, up to {cost["rounds"]} each, and the fastest turn of each counts;
  a model that had had {TURN_SECONDS} s took no more{_few_turns(cost["models"])}. Other programs were running on
  the machine, so compare the models with each other and not with other tables. The CPU time is summed over the cores.
- *Accuracy*: trained by `octtrain fit` with its default settings, {settings["epochs"]} epochs,
  **{format_size(size)}**, on scans of {settings["patients"]} synthetic patients, at most
  {settings["max_per_patient"]} of each in train (`octprep synthesize --difficulty hard --no-faults`;
  {100 * TRAIN_FRACTIONS[0]:.0f} % of the patients in train, {100 * TRAIN_FRACTIONS[1]:.0f} % in val), and on nothing
  else. Rows "from ImageNet" start from ImageNet weights, all others from random ones, from which deep networks are far
  from converged after so few epochs.
- *Unseen synthetic patients*: {counts.get("unseen", "not run")}, drawn with another seed.
- *Genuine scans*: {counts.get("genuine", "not run")} of OCT2017, which are not in the repository, classified as
  `octtrain predict` does by the models trained on synthetic scans alone. Chance is 25 %.
- *Balanced accuracy*: the probabilities for a patient's scans of one class are averaged to one verdict; the mean over
  the four classes of the fraction of right verdicts, averaged over the seeds of the training. In parentheses the 95 %
  interval: patients drawn with replacement, {DRAWS:,} draws, all seeds together.

Seeds of the training.{_fewer(few)}
{bullets(trained)}

Not run (accuracy):
{bullets(missing)}

## To run it

```
python -m benchmarks.models --out models --patients 400 --unseen 200 --epochs 12 --genuine OCT2017/test
```

trains every model with 5 seeds at {RATE_SIDE} x {RATE_SIDE}, which takes days on a CPU. `--models` and `--seeds` choose
some, and the same command with the same `--out` adds what is missing. The page above is of

```
python -m benchmarks.models --out models --size {size} --patients {settings["patients"]} \\
    --max-per-patient {settings["max_per_patient"]} --unseen {settings["unseen"]} \\
    --epochs {settings["epochs"]} --genuine DIR...
```
"""


def format_size(size: int) -> str:
    """The size of the images of the trainings, and whether the rates were measured at another."""
    return f"at {size} x {size} pixels" + (f", not at {RATE_SIDE}" if size != RATE_SIDE else "")


def bullets(lines: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n" + "\n".join(f"- {line}" for line in lines or ("none",))


def amount(result: Mapping[str, Any]) -> str:
    """How many scans were judged, as text."""
    patients = len(set(result["patients"]))
    return f"{result['scans']:,} scans of {patients:,} patients ({len(result['patients']):,} verdicts)"


def _few_turns(cost: Mapping[str, Mapping[str, float]]) -> str:
    """The models that took a single turn of training or inference, as text."""
    single = [name for name, one in cost.items() if min(one["training_turns"], one["inference_turns"]) == 1]
    return f" ({', '.join(single)}: a single one)" if single else ""


def _fewer(names: Sequence[str]) -> str:
    return " Fewer than 5 say little about the variation between trainings." if names else ""


def load_results(out: Path, name: str) -> list[dict[str, Any]]:
    """What the finished trainings of a row left, by seed."""
    paths = sorted((out / "results").glob(f"{slug(name)}.*.json"), key=lambda path: int(path.name.split(".")[-2]))
    return [json.loads(path.read_text()) for path in paths]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything measured")
    rows = [*FORMER, *MODELS, "efficientnet-lite0" + IMAGENET]
    parser.add_argument("--models", nargs="+", metavar="NAME", choices=rows, default=rows, help="; ".join(rows))
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each model; 0: cost alone")
    parser.add_argument("--size", type=int, default=224, help="side of the images of the trainings")
    parser.add_argument("--patients", type=int, default=400, help="synthetic patients to train on")
    parser.add_argument(
        "--max-per-patient", type=int, default=3, help="scans of one that are trained on, so that no patient dominates"
    )
    parser.add_argument("--unseen", type=int, default=200, help="synthetic patients to judge on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each model to measure its cost; 0: none")
    parser.add_argument("--genuine", type=Path, nargs="+", default=[], metavar="DIR", help="folders of genuine scans")
    parser.add_argument("--only-page", action="store_true", help="measure nothing, write the page")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    settings = {key: getattr(options, key) for key in ("size", "patients", "max_per_patient", "unseen", "epochs")}
    if not options.only_page:
        kept = out / "settings.json"
        if kept.exists() and json.loads(kept.read_text()) != settings:
            parser.error(f"{out} holds results of other settings: {kept.read_text()}")
        write_json(kept, settings)
        measure(options, out)
    write_page(out, rows)
    print(PAGE.read_text().split("##")[0])


def measure(options: argparse.Namespace, out: Path) -> None:
    """Measure what is missing in the folder."""
    shards = {
        "train": shards_of(out, "train", options.patients, options.size, 0, options.max_per_patient),
        "unseen": shards_of(out, "unseen", options.unseen, options.size, 1000),
    }
    networks = list(dict.fromkeys(name.removesuffix(IMAGENET) for name in options.models))
    cost_file = out / "cost.json"
    if options.rounds and not cost_file.exists():  # at one time, for all models that are asked for
        measured = measure_cost(networks, options.rounds)
        write_json(cost_file, {"machine": machine(), "rounds": options.rounds, "models": measured})
    for seed in range(options.seeds):
        for name in options.models:
            path = out / "results" / f"{slug(name)}.{seed}.json"
            if path.exists():
                continue
            result = train_and_judge(name, seed, options.epochs, shards, options.genuine, out)
            write_json(path, result)
            given = {kind: percent(pooled([result], kind)) for kind in MEASURED_ON}
            print(f"{name}, seed {seed}: {result['seconds']:.0f} s, val {result['val']:.3f}, {given}", flush=True)


if __name__ == "__main__":
    main()
