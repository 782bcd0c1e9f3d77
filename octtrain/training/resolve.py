"""Settings and feed of a training on this machine: what `auto` stands for, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from octprep.format.errors import ManifestError, SettingError
from octprep.format.images_csv import ImageRow
from octprep.format.manifest import Manifest
from octprep.storage.cache import CAP_VARIABLE, Streaming
from octtrain import devices
from octtrain.config import FitConfig
from octtrain.data.feeds import (
    CHUNK_BYTES,
    CHUNK_STEPS,
    GPU_CHUNK_BYTES,
    Feed,
    MappedFeed,
    Place,
    ResidentFeed,
    StreamFeed,
    chunk_steps,
)
from octtrain.data.mapped import MappedImages
from octtrain.data.passes import require_tensorflow_for_pngs, require_tensorflow_for_streaming
from octtrain.runtime import gpus, require_tensorflow, selected_backend

GPU_BATCH_SIZE = 256
CPU_BATCH_SIZE = 32
FeedName = Literal["resident", "mapped", "stream"]
CPU_CHUNK_STEPS = 4  # a step takes long, and the training is to answer signals and show progress between chunks


def resolve(config: FitConfig, records: int) -> FitConfig:
    """Settings without `auto`, but for the feed. records: of an epoch, the largest batch size."""
    has_gpu = bool(gpus())
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if devices.has_bfloat16() else "float32"
    batch_size = min(records, GPU_BATCH_SIZE * config.devices if has_gpu else CPU_BATCH_SIZE)
    resolved = config.resolved(batch_size=batch_size, precision=precision)
    if min(int(resolved.batch_size), records) % config.devices:
        raise SettingError(
            f"batch-size must be a multiple of --devices {config.devices}; got {resolved.batch_size} and "
            f"{records:,} records"
        )
    return resolved


class FeedChoice:
    """The images of a training, and the feed that `auto` stands for. `reason` says why, as the rest of a sentence.

    streaming: how splits are read that are not all in the cache; they need the feed stream. Raises ManifestError if the
    index beside the shards is damaged or, unless auto, missing; SettingError if the feed does not go with the shards or
    the devices; MissingPackage if it needs TensorFlow, which is not installed.
    """

    def __init__(
        self,
        config: FitConfig,
        shards: Path,
        manifest: Manifest,
        train: Sequence[str],
        val: Sequence[str],
        rows: Sequence[ImageRow] | None,
        streaming: Streaming | None = None,
    ) -> None:
        self.config, self.shards, self.manifest, self.streaming = config, shards, manifest, streaming
        self.splits = (tuple(train), tuple(val))
        self.images: tuple[MappedImages, ...] = ()
        self.name: FeedName
        self.name, self.reason = self._choose(rows)
        if self.name == "stream" and config.sampling == "patients":
            raise SettingError(f"--sampling patients needs images by number, but the feed is stream: {self.reason}")

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.manifest.recipe.height * self.manifest.recipe.width

    @property
    def resident_bytes(self) -> int:
        """Bytes of all images of train and val, each once; 0 of a stream, which does not number them."""
        return sum(images.image_count for images in self.images) * self.image_bytes

    def _choose(self, rows: Sequence[ImageRow] | None) -> tuple[FeedName, str]:
        wanted = self.config.feed
        if self.streaming is not None:
            if wanted in ("resident", "mapped"):
                raise SettingError(
                    f"--feed {wanted} needs all shards at once, but {self.streaming.reason}; use --feed stream, or set "
                    f"{CAP_VARIABLE} to more"
                )
            require_tensorflow_for_streaming(self.streaming)
            return "stream", self.streaming.reason
        if self.manifest.config.encoding != "raw":
            if wanted in ("resident", "mapped"):
                raise SettingError(
                    f"--feed {wanted} is for shards of raw pixels, and these are of {self.manifest.config.encoding}; "
                    "use --feed stream, or build them with --encoding raw"
                )
            require_tensorflow_for_pngs(self.shards, self.manifest)
            return "stream", f"the shards hold {self.manifest.config.encoding.upper()}"
        if wanted == "stream":
            require_tensorflow("--feed stream is TensorFlow's way of reading", "use --feed mapped")
            return wanted, "as --feed says"
        try:
            self.images = tuple(
                MappedImages(self.shards, split, manifest=self.manifest, rows=rows) for split in self.splits
            )
        except ManifestError as error:
            if wanted != "auto" or selected_backend() == "jax":
                raise
            return "stream", f"without an index there is no faster one ({error})"
        several = self.config.devices > 1 and selected_backend() == "tensorflow"
        if wanted == "resident" and several:
            raise SettingError("--feed resident is for one device on TensorFlow; use --feed mapped, or JAX")
        if wanted != "auto":
            return wanted, "as --feed says"
        if several:
            return "mapped", "several devices share every batch"
        return self._resident_or_mapped()

    def _resident_or_mapped(self) -> tuple[FeedName, str]:
        needed = self.resident_bytes
        free = devices.free_memory()
        if free is None:
            return "mapped", "there is no GPU" if not gpus() else "the GPU's free memory is unknown"
        share = f"{needed / 1e9:.1f} GB of images, {free / 1e9:.1f} GB free on the GPU"
        if needed <= devices.RESIDENT_SHARE * free:
            return "resident", share
        return "mapped", f"{share}, of which they may take {devices.RESIDENT_SHARE:.0%}"

    def chunk_steps(self, batch_size: int) -> int:
        """How many steps one call of the training program does, at most."""
        limit, room = (CHUNK_STEPS, GPU_CHUNK_BYTES) if gpus() else (CPU_CHUNK_STEPS, CHUNK_BYTES)
        return limit if self.name == "resident" else chunk_steps(batch_size, self.image_bytes, limit=limit, room=room)

    def open(self, place: Place) -> Feed:
        """The feed. place: puts images on the device."""
        config = self.config
        assert config.batch_size != "auto"
        size = config.batch_size
        if self.name == "stream":
            return StreamFeed(
                self.shards,
                self.manifest,
                *self.splits,
                batch_size=size,
                chunk_steps=self.chunk_steps(size),
                seed=config.seed,
                place=place,
                streaming=self.streaming,
            )
        kind = ResidentFeed if self.name == "resident" else MappedFeed
        return kind(
            *self.images,
            batch_size=size,
            chunk_steps=self.chunk_steps(size),
            seed=config.seed,
            sampling=config.sampling,
            place=place,
        )
