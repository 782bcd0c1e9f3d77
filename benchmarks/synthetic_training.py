"""What in a training on synthetic scans lets a network read genuine ones: how many, which crop, which settings?

    python -m benchmarks.synthetic_training --out out --genuine OCT2017/test --genuine other/folder \\
        1000 5000:patients=5000 "5000 whole:patients=5000,crop=none" "former:scans=drawn/elsewhere"

Every variant is a name, and after a colon what differs from the defaults: `patients`, `difficulty` and `max_scans` of
the scans that are drawn, or `scans`, a folder of drawn ones; `crop` and `size` of the shards; `model`, `epochs` and all
other settings of `octtrain.fit`. A name that is a number is a number of patients. With max_scans=1 the classes have as
many patients each.

For each seed of each variant octtrain trains once, and the network classifies the genuine scans in the folders as
`octtrain predict` does. Prints the balanced accuracy per scan, averaged over the seeds, with a 95 % interval by a
percentile bootstrap of patients (scans without a patient id count as one patient for each class of a folder); that of
the single seeds, whose spread the interval leaves out; and the difference from the first variant, whose interval is
paired: the same patients, drawn together.

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

from benchmarks.genuine import Reading, read_scans, verdicts
from benchmarks.models import Verdicts, as_json, balanced_accuracy, patient_interval, percent, pooled, slug
from benchmarks.models import write_json as save
from octprep.synthetic.population import FRACTIONS

DEFAULTS: Mapping[str, Any] = {
    "patients": 1000,
    "difficulty": "hard",
    "max_scans": 1,
    "crop": "retina",
    "size": 224,
    "model": "octnet-s",
    "epochs": 12,
}
TOGETHER = "together"
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # variant -> what `train_and_judge` returned, by seed


def variant(text: str) -> tuple[str, dict[str, Any]]:
    """NAME or NAME:KEY=VALUE,... -> the name and all settings. Raises ValueError for a setting without a value."""
    name, _, rest = text.partition(":")
    settings = dict(DEFAULTS)
    if name.isdecimal():
        settings["patients"] = int(name)
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{item!r} of {text!r} is not KEY=VALUE")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return name, settings


def build_shards(out: Path, settings: Mapping[str, Any]) -> Path:
    """The shards of a variant's scans; what is missing is drawn and built, and shared between variants."""
    import octprep
    from octprep import synthetic

    drawn = f"{settings['patients']}-{settings['difficulty']}-{settings['max_scans']}"
    scans = Path(settings["scans"]) if "scans" in settings else out / "scans" / drawn
    if not scans.exists():
        mix = dict.fromkeys(FRACTIONS, 1.0) if settings["max_scans"] == 1 else FRACTIONS
        synthetic.draw(
            scans,
            patients=settings["patients"],
            difficulty=settings["difficulty"],
            max_scans=settings["max_scans"],
            class_mix=mix,
        )
    shards = out / "shards" / slug(f"{scans.resolve().name}-{settings['crop']}-{settings['size']}")
    recipe = octprep.Preprocessing(crop=settings["crop"], height=settings["size"], width=settings["size"])
    octprep.build(scans, shards, octprep.BuildConfig(recipe=recipe))
    return shards


def train_and_judge(
    shards: Path, folder: Path, seed: int, settings: Mapping[str, Any], genuine: Sequence[Path]
) -> dict[str, Any]:
    """Train once, and return the best balanced accuracy on val and the verdicts on each folder of genuine scans."""
    import keras

    import octtrain

    keras.utils.clear_session()
    of_data = {"patients", "difficulty", "max_scans", "crop", "size", "scans"}
    run = octtrain.fit(
        shards,
        folder,
        seed=seed,
        resume=(folder / "config.json").exists(),
        log=lambda line: None,
        show_progress=False,
        **{key: value for key, value in settings.items() if key not in of_data},
    )
    result: dict[str, Any] = {"val": max(row["val_balanced_accuracy"] for row in run.history())}
    together: list[Reading] = []
    for source in genuine:
        readings = read_scans(str(folder), source)
        together += readings
        result[source.name] = as_json(verdicts(readings), len(readings))
    result[TOGETHER] = as_json(verdicts(together), len(together))
    return result


def difference(first: Verdicts, second: Verdicts) -> tuple[float, float, float]:
    """The balanced accuracy of the first less that of the second, on the same scans, and its paired 95 % interval."""
    if (list(first.patients), list(first.classes)) != (list(second.patients), list(second.classes)):
        raise ValueError("two variants were not judged on the same scans; use another --out")
    paired = Verdicts(first.patients, first.classes, first.correct - second.correct)
    return balanced_accuracy(paired.correct, paired.classes), *patient_interval(paired)


def table(results: Results, source: str) -> str:
    """A Markdown table of a folder of genuine scans, a row for each variant; differences are from the first."""
    lines = [
        "| variant | synthetic val, % | balanced accuracy, % (95 %) | single seeds | difference, points (95 %) |",
        "|---|---|---|---|---|",
    ]
    baseline = None
    for name, found in results.items():
        given = pooled(found, source)
        if given is None:
            continue
        single = [pooled([one], source) for one in found if source in one]
        seeds = " ".join(f"{100 * balanced_accuracy(one.correct, one.classes):.1f}" for one in single if one)
        val = sum(one["val"] for one in found) / len(found)
        cell = ""
        if baseline is None:
            baseline = given
        else:
            mean, low, high = (100 * value for value in difference(given, baseline))
            cell = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {name} | {100 * val:.1f} | {percent(given)} | {seeds} | {cell} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", type=variant, metavar="NAME:KEY=VALUE,...")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything measured")
    parser.add_argument("--genuine", type=Path, action="append", required=True, metavar="DIR", help="genuine scans")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each variant")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in options.variants}
    for seed in range(options.seeds):  # so that an interrupted run has as many seeds of every variant
        for name, settings in options.variants:
            kept = {"settings": settings, "genuine": [str(source) for source in options.genuine]}
            path = options.out / "results" / f"{slug(name)}.{seed}.json"
            if not path.exists():
                shards = build_shards(options.out, settings)
                folder = options.out / "runs" / f"{slug(name)}-{seed}"
                save(path, kept | train_and_judge(shards, folder, seed, settings, options.genuine))
            result = json.loads(path.read_text())
            if {key: result[key] for key in kept} != kept:
                parser.error(f"{path} holds the result of other settings: {result['settings']}, {result['genuine']}")
            results[name].append(result)
            print(f"{name}, seed {seed}: val {result['val']:.3f}", flush=True)
    for source in (*(source.name for source in options.genuine), TOGETHER):
        scans = len(next(iter(results.values()))[0][source]["classes"])
        print(f"\n{source}, {scans} scans\n\n{table(results, source)}", flush=True)


if __name__ == "__main__":
    main()
