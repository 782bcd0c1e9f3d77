"""The measurement: every feed's parts alone and together, a table, and what limits the training."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from octprep.format import images_csv
from octprep.format.errors import ManifestError, SettingError
from octprep.format.files import STDOUT
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.format.paths import path_to_text, quoted
from octprep.storage.cache import fetch_shards, holding, open_dataset
from octprep.storage.remote import Location
from octprep.wording import number
from octtrain import devices, json_output
from octtrain.config import FitConfig
from octtrain.experiments.bench import measure
from octtrain.experiments.bench.config import BenchConfig
from octtrain.experiments.bench.rates import FeedRates, Rate, conclusion, format_table
from octtrain.runs.run import choose_splits
from octtrain.runtime import MissingPackage, describe_device, gpus, library_versions, prepare_keras
from octtrain.training.balance import class_weights
from octtrain.training.resolve import FeedChoice, resolve
from octtrain.training.trainer import Trainer

FEEDS: tuple[Literal["mapped", "resident", "stream"], ...] = ("mapped", "resident", "stream")
PROBE = "octtrain.experiments.bench.probe:mean_brightness"


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """All that was measured."""

    digest: str  # of the dataset
    config: BenchConfig  # as it was given
    device: str  # a line of text
    precision: str
    libraries: dict[str, str]  # name -> version
    records: int  # of an epoch
    image_bytes: int
    batch_size: int
    read_bytes_per_second: float
    feeds: tuple[FeedRates, ...]
    left_out: dict[str, str]  # feed -> why it does not go with the shards or the device

    @property
    def conclusion(self) -> str:
        """What limits the training, in one sentence."""
        return conclusion(self.feeds)

    def as_json(self) -> dict[str, Any]:
        """For json.dumps."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content |= {"config": dataclasses.asdict(self.config), "feeds": [feed.as_json() for feed in self.feeds]}
        return {**content, "conclusion": self.conclusion}


@holding()
def bench(
    place: Location, config: BenchConfig, json_file: Path | None = None, *, log: Callable[[str], None] = print
) -> BenchResult:
    """Measure the parts of a training on these shards, print what limits it, and write a JSON if asked.

    Nothing is kept of the trainings. Raises ManifestError for damaged shards, SettingError if the settings or the feed
    do not go with the shards or the device, OutputError if the JSON cannot be written.
    """
    if json_file:
        json_output.check(json_file)
    shards = open_dataset(place)
    manifest = Manifest.load(shards)
    train, val = choose_splits(manifest, config.fold)
    fetch_shards(place, shards, manifest, (*train, *val), log)
    manifest.check_files(shards, (*train, *val))
    prepare_keras()
    records = manifest.records(*train)
    fit = resolve(config.fit("auto"), records)
    choices, left_out = choose_feeds(config.feed, fit, shards, manifest, train, val)
    read, bytes_per_second = measure.read_rate(shards, manifest, train, config.seconds)
    bench_ = FeedBench(fit, manifest, train, records, config.seconds)
    device, *warnings = describe_device(str(fit.precision))
    log(device)
    for line in warnings:
        log(line)
    log(f"{config.model}: {number(records, 'image')} an epoch ({', '.join(train)}), in steps of {fit.batch_size}")
    feeds = []
    for name, choice in choices.items():
        feeds.append(bench_.measure(choice, read))
        log(f"{name}: {feeds[-1].together.per_second:,.0f} images/s")
    result = BenchResult(
        digest=manifest.digest,
        config=config,
        device=device,
        precision=str(fit.precision),
        libraries=library_versions(),
        records=records,
        image_bytes=manifest.recipe.height * manifest.recipe.width,
        batch_size=int(fit.batch_size),
        read_bytes_per_second=bytes_per_second,
        feeds=tuple(feeds),
        left_out=left_out,
    )
    log("")
    log(f"{format_table(feeds)}\n\nThe shards were read at {bytes_per_second / 1e6:,.0f} MB/s.")
    for name, reason in left_out.items():
        log(f"not measured: {name}, {reason}")
    log(f"\n{result.conclusion}")
    if json_file:
        json_output.write(json_file, result.as_json())
    log("")
    log(
        f"wrote {path_to_text(str(json_file))}"
        if json_file and json_file != STDOUT
        else "wrote no file; --json FILE keeps this"
    )
    best = max(feeds, key=lambda feed: feed.together.per_second)
    model = f" --model {shlex.quote(config.model)}" if config.model != FitConfig().model else ""
    log(f"next: `octtrain fit {quoted(place)}{model} --feed {best.name}` trains with the fastest feed")
    return result


def choose_feeds(
    wanted: str, fit: FitConfig, shards: Path, manifest: Manifest, train: Sequence[str], val: Sequence[str]
) -> tuple[dict[str, FeedChoice], dict[str, str]]:
    """The feeds to measure, and why others are not, by name. wanted: one of them, or all; fit: without `auto`.

    Raises ManifestError, SettingError or MissingPackage if the one that is wanted, or each, does not go with the shards
    or the device.
    """
    rows = images_csv.read_checked(shards, manifest).rows
    if wanted != "all":
        return {wanted: _choose(wanted, fit, shards, manifest, train, val, rows)}, {}
    choices: dict[str, FeedChoice] = {}
    left_out: dict[str, str] = {}
    for name in FEEDS:
        try:
            choice = _choose(name, fit, shards, manifest, train, val, rows)
            if name == "resident":
                _check_fits(choice)
        except (ManifestError, SettingError, MissingPackage) as error:
            left_out[name] = str(error)
        else:
            choices[name] = choice
    if not choices:
        raise SettingError("; ".join(dict.fromkeys(left_out.values())))
    return choices, left_out


def _choose(
    name: str,
    fit: FitConfig,
    shards: Path,
    manifest: Manifest,
    train: Sequence[str],
    val: Sequence[str],
    rows: Sequence[ImageRow],
) -> FeedChoice:
    feed = cast(Literal["mapped", "resident", "stream"], name)
    return FeedChoice(dataclasses.replace(fit, feed=feed), shards, manifest, train, val, rows)


def _check_fits(choice: FeedChoice) -> None:
    """Raise SettingError if all images are too much for the free memory, of the GPU or, without one, of the machine."""
    needed = choice.resident_bytes
    free = devices.free_memory() if gpus() else measure.free_memory()
    if free is not None and needed > devices.RESIDENT_SHARE * free:
        raise SettingError(
            f"{needed / 1e9:.1f} GB of images do not fit in {devices.RESIDENT_SHARE:.0%} of the {free / 1e9:.1f} GB "
            "that are free"
        )


class FeedBench:
    """Measures feeds with the same compiled programs. fit: without `auto`; seconds: for each part."""

    def __init__(self, fit: FitConfig, manifest: Manifest, train: Sequence[str], records: int, seconds: float) -> None:
        self.seconds, self.classes = seconds, len(manifest.class_names)
        shape = (manifest.recipe.height, manifest.recipe.width, 1)
        weights = class_weights(manifest, train) or {}
        per_class = [weights.get(i, 1.0) for i in range(self.classes)]
        steps = max(1, records // int(fit.batch_size))
        self.trainer = Trainer(fit, shape, per_class, steps)
        self.probe = Trainer(dataclasses.replace(fit, model=PROBE), shape, per_class, steps)

    def measure(self, choice: FeedChoice, read: Rate) -> FeedRates:
        """The parts of a training with one feed, alone and together. read: of the shards' bytes."""
        seconds, trainer = self.seconds, self.trainer
        is_resident = choice.name == "resident"
        host = transfer = load = None
        if not is_resident:
            on_host = choice.open(_leave)
            host = measure.host_rate(on_host, seconds)
            transfer = measure.transfer_rate(trainer, measure.first_chunk(on_host).images, seconds)
        start = measure.now()
        feed = choice.open(trainer.programs.place)
        chunk = measure.first_chunk(feed)
        if is_resident:
            measure.wait_for(chunk.images)
            images = sum(images.image_count for images in choice.images)
            load = Rate(images=images, seconds=measure.now() - start)
        augmentation = measure.step_rate(self.probe, chunk, seconds)
        step = measure.step_rate(trainer, chunk, seconds)
        del chunk
        together, waited = measure.together_rate(trainer, feed, self.classes, seconds)
        return FeedRates(
            name=choice.name,
            read=None if is_resident else read,
            host=host,
            transfer=transfer,
            augmentation=augmentation,
            step=step,
            together=together,
            waited=waited,
            load=load,
            memory=measure.peak_memory(),
            device_memory=devices.peak_memory(),
        )


def _leave(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images, left where they are instead of placed on the device."""
    return images
