"""The lines that a training prints before its first epoch."""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from octprep.format.images_csv import ImageRow
from octprep.format.paths import path_to_text
from octprep.wording import number
from octtrain.runs.history import Row
from octtrain.runs.run import Run
from octtrain.runtime import describe_device, library_versions
from octtrain.training.balance import class_weights
from octtrain.training.caveats import exposure_warnings, few_patients_warnings, leak_warnings
from octtrain.training.schedule import learning_rate


def opening_lines(
    run: Run,
    stored: Run,
    rows: Sequence[ImageRow],
    splits: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    feed: str,
    batch_size: int,
    steps_done: int,
    history: Sequence[Row],
) -> list[str]:
    """Where, on what, with what and from where a training starts, with warnings.

    run: its settings without `auto`.  stored: the run as it was started, if it is resumed.  rows: the images of the
    dataset.  splits: those to train on, and those to validate on.  feed: its name, and why.  steps_done: of the epoch
    that is resumed.  history: the finished epochs.
    """
    config, manifest = run.config, run.manifest
    train, val = splits
    images = manifest.records(*train)
    steps = max(1, images // batch_size)
    lines = [
        f"run: {path_to_text(str(run.folder))}",
        *describe_device(config.precision),
        f"{config.model}: {images:,} images a training epoch ({', '.join(train)}), {manifest.records(*val):,} to "
        f"validate ({', '.join(val)}), {number(steps, 'step')} of {batch_size}, learning rate {float(config.lr):.2g}",
        f"feed: {feed}",
        *([f"teacher: {path_to_text(config.teacher)}"] if config.teacher else []),
        *leak_warnings(run),
        *exposure_warnings(run, rows, train),
        *few_patients_warnings(rows, manifest.class_names, train, val),
    ]
    weights = class_weights(manifest, train)
    if weights is None:
        lines.append(f"classes balanced by the shards ({manifest.config.balance}), so not weighted")
    else:
        per_class = ", ".join(f"{name} {weights[i]:.3f}" for i, name in enumerate(manifest.class_names))
        lines.append(f"class weights: {per_class}")
    if history or steps_done:
        inside = f"{number(steps_done, 'step')} of epoch {len(history) + 1}" if steps_done else ""
        lines.append(f"resuming after {inside or f'epoch {len(history)}'}")
        lines += _changes(run, stored, steps * len(history) + steps_done, steps)
    return lines


def _changes(run: Run, stored: Run, done: int, steps: int) -> list[str]:
    """Lines about what differs from when the run was started. done: steps so far; steps: of an epoch."""
    lines = []
    if stored.config.epochs != run.config.epochs:
        old, new = (
            float(ops.convert_to_numpy(learning_rate(config, steps, config.epochs)(done)))
            for config in (stored.config, run.config)
        )
        lines.append(
            f"--epochs was {stored.config.epochs} and is {run.config.epochs}: the learning rate follows the cosine of "
            f"{run.config.epochs} epochs from here on, so it is now {new:.2g} instead of {old:.2g}"
        )
    installed = library_versions()
    changed = [
        f"{name} {version} then, {installed.get(name, 'none')} now"
        for name, version in stored.libraries.items()
        if installed.get(name) != version
    ]
    if changed:
        lines.append(f"WARNING: the run was started with other versions ({'; '.join(changed)}); numbers may differ.")
    return lines
