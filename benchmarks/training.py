"""Training from shards against what people would otherwise use, on two CPU cores and in one run.

    training    images a second that octnet-s is trained on: with one chunk of images that lie in memory already, with
                the feeds mapped and stream as `octtrain fit` uses them, and by `model.fit` on
                `keras.utils.image_dataset_from_directory` behind Keras' own layers of augmentation
    input       shuffled batches of 32 images, without a training: from shards, from a folder of JPEGs by Keras, and
                from an Arrow table by Hugging Face `datasets` (extra `bench`), with its format numpy and by the fastest
                way that was found
    cold disk   an epoch in random order, of shards that the system no longer has in its memory, against reading other
                such shards in order
    memory      the most that the process of a training had, with shards of 1 GB, and with --big of 4 GB

Contenders take turns, several rounds of them after one to warm up; medians are printed. On a machine that others use
too, the CPU seconds tell more than those of the clock. Every turn of a training starts an epoch, so the ratio
to images in memory is what short epochs have. Prints the aims beside the values.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]
BATCH = 32  # images
CORES = 2
MODEL = "octnet-s"
PARTS = ("training", "input", "cold disk", "memory")


@dataclass(frozen=True)
class Turn:
    """What one turn of a contender took: seconds of the clock, and of CPU in all threads."""

    images: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Line:
    """A line of the result. aim: as text; is_met: None without an aim."""

    name: str
    value: float
    unit: str
    aim: str = ""
    is_met: bool | None = None


def take_turns(contenders: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[Turn]]:
    """Run contenders, which return numbers of images, in rounds; the first starts later in every round."""
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    names = list(contenders)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start, cpu = time.perf_counter(), time.process_time()
            images = contenders[name]()
            turns[name].append(Turn(images, time.perf_counter() - start, time.process_time() - cpu))
    return turns


def rate(turns: list[Turn], *, cpu: bool = False) -> float:
    """The median of images per second, of the clock or of CPU."""
    return statistics.median(turn.images / (turn.cpu_seconds if cpu else turn.seconds) for turn in turns)


def ratio(ours: list[Turn], theirs: list[Turn], *, cpu: bool = False) -> float:
    """The median over the rounds of how many times faster the first are."""
    return statistics.median(rate([a], cpu=cpu) / rate([b], cpu=cpu) for a, b in zip(ours, theirs, strict=True))


def at_least(name: str, value: float, aim: float, unit: str = "times") -> Line:
    return Line(name, value, unit, f">= {aim:,g}", value >= aim)


def compare(lines: list[Line], turns: Mapping[str, list[Turn]], ours: str, theirs: str, aim: float) -> None:
    """Add the ratio of two contenders, by the clock and by CPU."""
    for name, cpu in (("", False), (", by CPU", True)):
        value = ratio(turns[ours], turns[theirs], cpu=cpu)
        lines.append(at_least(f"{ours} / {theirs}{name}", value, aim))


def rates(turns: Mapping[str, list[Turn]]) -> list[Line]:
    """Two lines for each contender."""
    return [
        line
        for name, of_name in turns.items()
        for line in (
            Line(name, rate(of_name), "images/s"),
            Line(f"{name}, by CPU", rate(of_name, cpu=True), "images/CPU s"),
        )
    ]


def training(src: Path, shards: Path, options: argparse.Namespace) -> list[Line]:
    """Rates of training, of which the feeds' are those of `octtrain.training.epochs.train_epoch`."""
    import keras

    from octtrain.config import FitConfig
    from octtrain.models import build_model
    from octtrain.training.epochs import EpochState, train_epoch

    steps, (choices, trainer, classes, shape) = (
        options.steps,
        _trainer(shards, FitConfig(model=MODEL, batch_size=BATCH)),
    )
    feeds = {name: choice.open(trainer.programs.place) for name, choice in choices.items()}
    with closing(feeds["mapped"].training(0)) as chunks:
        chunk = next(chunks)

    def in_memory(steps: int = steps) -> int:
        totals = trainer.programs.zeros()
        for _ in range(-(-steps // chunk.steps)):
            totals = trainer.train(chunk, totals, 0, 0)
        float(totals.loss)
        return -(-steps // chunk.steps) * chunk.steps * BATCH

    def fed_by(name: str) -> Callable[[], int]:
        epochs = itertools.count()

        def train(steps: int = steps) -> int:
            state = EpochState.begin(next(epochs), classes)
            # The call that returns True is followed by one more chunk, which was submitted already.
            train_epoch(
                trainer, feeds[name], state, lambda state, _: state.steps + chunk.steps >= steps, is_compiled=True
            )
            return state.steps * BATCH

        return train

    network = build_model(MODEL, shape, classes)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.RandomFlip("horizontal"),
            layers.RandomTranslation(0.08, 0.08),
            layers.RandomRotation(0.02),
            layers.RandomBrightness(0.2),
            layers.RandomContrast(0.2),
            layers.GaussianNoise(1.0),  # the most that it takes
            network,
        ]
    )
    model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
    dataset = _from_directory(src)

    def keras_fit(steps: int = steps) -> int:
        batches = dataset.take(steps).prefetch(2)
        model.fit(batches, verbose=0)
        return steps * BATCH

    ours = {"images in memory": in_memory, "mapped": fed_by("mapped"), "stream": fed_by("stream")}
    contenders: dict[str, Any] = {**ours, "model.fit": keras_fit}
    for work in contenders.values():
        work(2 * chunk.steps)
    turns = take_turns(contenders, options.rounds)
    lines = rates(turns)
    for name in ("mapped", "stream"):
        compare(lines, turns, name, "images in memory", 0.97)
    compare(lines, turns, "mapped", "model.fit", 2)
    return lines


def input_rates(src: Path, shards: Path, options: argparse.Namespace) -> list[Line]:
    """Rates of shuffled batches that nothing is done with."""
    import numpy as np

    from octtrain.data import mapped, stream
    from octtrain.data.mapped import MappedImages
    from octtrain.data.order import in_steps, shuffled

    images = MappedImages(shards, "train")
    dataset = _from_directory(src)

    def orders() -> Iterator[Any]:
        return (in_steps(shuffled(len(images), 0, epoch), BATCH) for epoch in itertools.count())

    def gathered() -> Iterator[int]:
        for order in orders():
            for records in order:
                yield len(images.gather(images.image_of[records]))

    def in_a_thread() -> Iterator[int]:
        with closing(mapped.batches(images, orders())) as batches:
            for pixels, _ in batches:
                yield len(pixels)

    def streamed() -> Iterator[int]:
        for pixels, _ in stream.training_batches(shards, "train", batch_size=BATCH, epochs=range(1_000_000)):
            yield len(pixels)

    def by_keras() -> Iterator[int]:
        while True:
            for pixels, _ in dataset:
                yield len(pixels)

    contenders: dict[str, Callable[[], Iterator[int]]] = {
        "mapped, gather": gathered, "mapped, batches": in_a_thread, "stream": streamed,
        "image_dataset_from_directory": by_keras,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=shards.parent) as cache:
        if importlib.util.find_spec("datasets"):
            as_numpy, as_arrow = _arrow_tables(images, cache)

            def by_datasets() -> Iterator[int]:
                for seed in itertools.count():
                    for rows in as_numpy.shuffle(seed=seed).iter(BATCH):
                        yield len(rows["image"].view(np.uint8).reshape(-1, *images.image_shape))

            def by_datasets_arrow() -> Iterator[int]:
                for order in orders():
                    for records in order:
                        rows = as_arrow[records]["image"].to_pylist()
                        yield len(np.frombuffer(b"".join(rows), np.uint8).reshape(-1, *images.image_shape))

            contenders |= {"datasets, numpy": by_datasets, "datasets, arrow": by_datasets_arrow}
        turns = {name: [] for name in contenders}
        for i in range(options.rounds + 1):
            for name, batches in contenders.items():
                turn = _for_seconds(batches, options.seconds)
                if i:
                    turns[name].append(turn)
    lines = rates(turns)
    best = max(("mapped, gather", "mapped, batches"), key=lambda name: rate(turns[name]))
    lines.append(at_least("mapped", rate(turns[best]), 150_000, "images/s"))
    lines.append(at_least("mapped, by CPU", rate(turns[best], cpu=True), 150_000, "images/CPU s"))
    compare(lines, turns, best, "image_dataset_from_directory", 100)
    compare(lines, turns, "stream", "image_dataset_from_directory", 20)
    for name in contenders:
        if name.startswith("datasets"):
            compare(lines, turns, best, name, 1.3)
    if "datasets, numpy" not in contenders:
        print("Hugging Face datasets is not installed (extra `bench`), so it was not measured.")
    return lines


def cold_disk(shards: Path, options: argparse.Namespace) -> list[Line]:
    """MB/s of an epoch in random order from a cold disk, and of reading in order."""
    from octprep.format.manifest import Manifest
    from octtrain.data import mapped
    from octtrain.data.mapped import MappedImages
    from octtrain.data.order import in_steps, shuffled

    manifest = Manifest.load(shards)
    files = {split: [shards / shard.name for shard in manifest.splits[split]] for split in ("train", "val")}
    found: dict[str, list[float]] = {"disk": [], "with": [], "without": []}
    buffer = bytearray(8_000_000)
    for _ in range(options.rounds):
        _forget([*files["train"], *files["val"]])
        start, size = time.perf_counter(), 0
        for path in files["val"]:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    size += count
        found["disk"].append(size / (time.perf_counter() - start) / 1e6)
        for name in ("with", "without"):
            _forget(files["train"])
            images = MappedImages(shards, "train")
            start, size = time.perf_counter(), 0
            if name == "with":
                images.read_ahead()
            for pixels, _ in mapped.batches(images, [in_steps(shuffled(len(images), 0, 0), BATCH)]):
                size += pixels.nbytes
            found[name].append(size / (time.perf_counter() - start) / 1e6)
            del images
    disk, ahead, bare = (statistics.median(found[name]) for name in ("disk", "with", "without"))
    return [
        Line("disk, read in order", disk, "MB/s"),
        Line("mapped epoch, cold, read ahead", ahead, "MB/s"),
        Line("mapped epoch, cold, not read ahead", bare, "MB/s"),
        Line("mapped epoch, read ahead / disk", ahead / disk, "times"),
    ]


def memory(shards: Path, gigabytes: int) -> list[Line]:
    """The most memory of a process that trains, by feed."""
    lines = []
    for name in ("stream", "mapped", "resident"):
        command = [sys.executable, __file__, "--train", name, str(shards)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        gigabytes_used = json.loads(done.stdout.splitlines()[-1])["max_rss"] / 1e9
        what = f"{name}, shards of {gigabytes} GB"
        if name == "resident":
            lines.append(Line(what, gigabytes_used, "GB"))
        else:
            lines.append(Line(what, gigabytes_used, "GB", "<= 1.5", gigabytes_used <= 1.5))
    return lines


def train_once(feed_name: str, shards: Path) -> None:
    """One epoch through a feed, of which every 50th chunk is trained on, and print the most memory of this process."""
    from octtrain.config import FitConfig
    from octtrain.experiments.bench.measure import peak_memory

    choices, trainer, *_ = _trainer(shards, FitConfig(model=MODEL, batch_size=BATCH), (feed_name,))
    feed = choices[feed_name].open(trainer.programs.place)
    totals, images = trainer.programs.zeros(), 0
    with closing(feed.training(0)) as chunks:
        for i, chunk in enumerate(chunks):
            images += chunk.steps * feed.batch_size
            if i % 50 == 0:
                totals = trainer.train(chunk, totals, 0, 0)
    float(totals.loss)
    print(json.dumps({"images": images, "max_rss": peak_memory()}))


def _trainer(shards: Path, config: Any, feeds: tuple[str, ...] = ("mapped", "stream")) -> tuple[Any, Any, int, Any]:
    """The choices of feeds and a trainer as `fit` makes them, the number of classes, and the images' shape."""
    import dataclasses

    from octprep.format import images_csv
    from octprep.format.manifest import Manifest
    from octtrain.runtime import prepare_keras
    from octtrain.training.resolve import FeedChoice, resolve
    from octtrain.training.trainer import Trainer

    prepare_keras()
    manifest = Manifest.load(shards)
    records = manifest.records("train")
    config = resolve(config, records)
    rows = images_csv.read_checked(shards, manifest).rows
    choices = {
        name: FeedChoice(dataclasses.replace(config, feed=name), shards, manifest, ["train"], ["val"], rows)
        for name in feeds
    }
    shape, classes = (manifest.recipe.height, manifest.recipe.width, 1), len(manifest.class_names)
    return choices, Trainer(config, shape, [1.0] * classes, records // BATCH), classes, shape


def _from_directory(src: Path) -> Any:
    import keras

    return keras.utils.image_dataset_from_directory(
        src / "train", color_mode="grayscale", image_size=(224, 224), batch_size=BATCH, seed=0, verbose=False
    )


def _arrow_tables(images: Any, cache: str) -> tuple[Any, Any]:
    """The records as rows of bytes and label, with the formats numpy and arrow."""
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.Features({"image": datasets.Value("binary"), "label": datasets.Value("int64")})

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(len(images)):
            pixels, label = images[i]
            yield {"image": pixels.tobytes(), "label": label}

    table = datasets.Dataset.from_generator(rows, features=kinds, cache_dir=cache)
    return table.with_format("numpy"), table.with_format("arrow")


def _for_seconds(batches: Callable[[], Iterator[int]], seconds: float) -> Turn:
    """Images that come for some seconds after the first batch."""
    with closing(batches()) as counts:  # type: ignore[type-var]
        next(counts)
        images, start, cpu = 0, time.perf_counter(), time.process_time()
        for count in counts:
            images += count
            if time.perf_counter() - start >= seconds:
                break
        return Turn(images, time.perf_counter() - start, time.process_time() - cpu)


def _forget(paths: list[Path]) -> None:
    """Have the system drop what it holds of files in its memory."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_large(folder: Path, gigabytes: int) -> None:
    """Shards of noise, three quarters of them in train."""
    import numpy as np

    sys.path.append(str(ROOT))
    from tests.worlds.shards import CLASSES, write_folder

    count = gigabytes * 1_000_000_000 // 50_600
    images = np.random.default_rng(0).integers(0, 256, (16, 224, 224), np.uint8)
    scans = [
        (f"train/{CLASSES[i % 4]}/{CLASSES[i % 4]}-{i}-1.jpeg", i % 4, images[i % len(images)]) for i in range(count)
    ]
    rows = {"train": scans[: count * 3 // 4], "val": scans[count * 3 // 4 :]}
    write_folder(folder, rows, shards=16 * gigabytes, height=224, width=224)


def format_table(parts: Mapping[str, list[Line]]) -> str:
    """All lines, with their aims."""
    rows = []
    for part, lines in parts.items():
        rows.append(f"\n{part}")
        for line in lines:
            value = f"{line.value:,.0f}" if line.value >= 1000 else f"{line.value:.3g}"
            met = "" if line.is_met is None else f"   aim {line.aim}: {'met' if line.is_met else 'MISSED'}"
            rows.append(f"  {line.name:58} {value:>9} {line.unit:13}{met}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--patients", type=int, default=120, help="about 12 scans each, for the parts training and input"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contender that are counted")
    parser.add_argument("--steps", type=int, default=16, help="of a turn in the part training")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn in the part input")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--big", action="store_true", help="measure memory with shards of 4 GB too")
    parser.add_argument("--work", type=Path, help="folder for what is written, which is kept and used again")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--train", nargs=2, metavar=("FEED", "SHARDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if options.train:
        train_once(options.train[0], Path(options.train[1]))
        return
    parts: dict[str, list[Line]] = {}
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        work = options.work or Path(temporary)
        src, shards = work / "scans", work / "shards"
        octprep = [sys.executable, "-m", "octprep.cli"]
        if {"training", "input"} & set(options.only) and not (shards / "manifest.json").exists():
            draw = ["synthesize", str(src), "--no-faults", "--patients", str(options.patients)]
            subprocess.run([*octprep, *draw], check=True)
            subprocess.run([*octprep, "build", str(src), str(shards)], check=True, stdout=subprocess.DEVNULL)
        large = {size: work / f"large-{size}" for size in (1, 4)[: 1 + options.big]}
        if {"cold disk", "memory"} & set(options.only):
            for size, folder in large.items():
                if not (folder / "manifest.json").exists():
                    write_large(folder, size)
        measurements: dict[str, Callable[[], list[Line]]] = {
            "training": lambda: training(src, shards, options),
            "input": lambda: input_rates(src, shards, options),
            "cold disk": lambda: cold_disk(large[1], options),
            "memory": lambda: [line for size, folder in large.items() for line in memory(folder, size)],
        }
        for part in PARTS:
            if part in options.only:
                parts[part] = measurements[part]()
                print(format_table({part: parts[part]}), flush=True)
    missed = [line.name for lines in parts.values() for line in lines if line.is_met is False]
    print(f"\naims missed: {', '.join(missed) or 'none'}")
    if options.json:
        content = {part: [asdict(line) for line in lines] for part, lines in parts.items()}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
