"""Class weights, by which every class counts the same."""

from __future__ import annotations

from collections.abc import Sequence

from octprep.format.manifest import Manifest


def class_weights(manifest: Manifest, train: Sequence[str]) -> dict[int, float] | None:
    """Class index -> weight, by which every class counts the same; None if the shards are balanced already."""
    if manifest.config.balance != "none":
        return None
    return balanced_class_weights(
        [sum(manifest.per_class(split)[name] for split in train) for name in manifest.class_names]
    )


def balanced_class_weights(counts: Sequence[int]) -> dict[int, float]:
    """Class index -> n / (classes present * count): every class counts the same, and the mean over the images is 1."""
    present = sum(count > 0 for count in counts)
    return {i: sum(counts) / (present * count) if count else 1.0 for i, count in enumerate(counts)}
