"""The folder of a cross-validation: its settings, from which an interrupted one is resumed, and its results."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from octprep.format.errors import ManifestError, OctError, OutputError, SettingError, SourceError
from octprep.format.files import NotReadable, atomic_write, read_bytes
from octprep.format.manifest import Manifest
from octtrain import json_output
from octtrain.config import FitConfig
from octtrain.experiments.crossval.config import CrossvalConfig
from octtrain.runs.folder import changed_settings
from octtrain.runs.locations import RUNS, is_vacant, not_vacant

SETTINGS_NAME = "settings.json"  # not config.json, which makes a folder a run
CROSSVAL_VERSION = 1
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Stored:
    """A cross-validation as it was started."""

    config: CrossvalConfig
    digest: str  # of the dataset
    started: str  # ISO 8601


def read_stored(folder: Path) -> Stored | None:
    """What settings.json says; None if nothing was started in the folder.

    Raises OutputError if it holds something else, ManifestError if the file was edited or damaged.
    """
    path = folder / SETTINGS_NAME
    if not path.is_file():
        if is_vacant(folder):
            return None
        raise not_vacant(folder, "the folder of a cross-validation")
    try:
        raw = json.loads(read_bytes(path, MAX_BYTES)[0])
        if raw["crossval_version"] != CROSSVAL_VERSION:
            raise ValueError(f"it is of version {raw['crossval_version']}, not {CROSSVAL_VERSION}")
        folds = raw["folds"] if raw["folds"] == "all" else tuple(raw["folds"])
        config = CrossvalConfig(fit=FitConfig(**raw["config"]), folds=folds, seeds=raw["seeds"])
        return Stored(config, str(raw["digest"]), str(raw["started"]))
    except (OSError, NotReadable, KeyError, TypeError, ValueError, SettingError, RecursionError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise ManifestError(
            f"{path} is not what `octtrain crossval` wrote ({reason}). Restore it, or give another --run."
        ) from None


def write_stored(folder: Path, config: CrossvalConfig, manifest: Manifest, started: str | None) -> None:
    """Write settings.json. started: None: now."""
    content: dict[str, Any] = {
        "crossval_version": CROSSVAL_VERSION,
        "started": started or datetime.now(UTC).isoformat(timespec="microseconds"),
        "digest": manifest.digest,
        "folds": config.folds if config.folds == "all" else list(config.folds),
        "seeds": config.seeds,
        "config": dataclasses.asdict(config.fit),
    }
    atomic_write(folder / SETTINGS_NAME, json_output.encode(content))


def require_same(folder: Path, stored: Stored, config: CrossvalConfig, manifest: Manifest) -> None:
    """Raise OutputError if a cross-validation is to go on with other settings or on other shards.

    What may change: the folds and the number of seeds, and what may when a run is resumed.
    """
    if stored.digest != manifest.digest:
        raise OutputError(
            f"{folder} was started on other shards (digest {stored.digest[:12]} there, {manifest.digest[:12]} here); "
            "give those, or another --run."
        )
    started = dataclasses.replace(stored.config.fit, feed=config.fit.feed)  # each run has a feed of its own
    changes = changed_settings(started, config.fit, "there")
    if changes:
        raise OutputError(
            f"{folder} was started with other settings ({'; '.join(changes)}); resume it without these options, or "
            "give another --run."
        )


def latest_crossval(digest: str, runs: Path = RUNS) -> Path:
    """The cross-validation of a dataset in a folder of runs that was started last. Raises SourceError if none was."""
    started: list[tuple[str, Path]] = []
    with suppress(OSError):
        for path in runs.glob(f"*/{SETTINGS_NAME}"):
            with suppress(OctError):
                stored = read_stored(path.parent)
                if stored and stored.digest == digest:
                    started.append((stored.started, path.parent))
    if not started:
        raise SourceError(
            f"the folder {runs} holds no cross-validation of these shards; omit --resume to start one, or name the "
            "folder of one that lies elsewhere by --run DIR."
        )
    return max(started)[1]
