"""Which layout a source has: the one that is asked for, or the first that fits nearly all of its images."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from octprep.format.names import split_of_folder
from octprep.source.layouts import IMAGE_ENDINGS, PRESETS, Layout, PathFacts, PatternLayout, Preset, is_image_name

_FITS = 0.9  # of the images that a layout must fit to be recognised
_MAX_TRIED = 20_000  # images that are tried
_MAX_LOOKED_AT = 1_000  # files by which it is seen whether the layout of Kermany et al. fits
_COUNTED = re.compile(r"(.*?)[0-9]+")  # a name that ends in a number


def recognise_layout(paths: Sequence[str], *, with_patients: bool = False) -> PatternLayout | None:
    """The first preset that fits nearly all images. paths: of all files, relative to the source, as text.

    with_patients: only one by which all of these have a patient id.
    """
    images = _images(paths)
    found = (layout for preset in PRESETS.values() for layout in _fitting(preset, images, with_patients=with_patients))
    return next(found, None)


def fits_nearly_all(layout: Layout, paths: Sequence[str]) -> bool:
    """Whether a layout fits nearly all images, by some of them. paths: as in `recognise_layout`."""
    images = _images(random.Random(0).sample(paths, min(len(paths), _MAX_LOOKED_AT)))
    fitting = sum(isinstance(layout.read(path), PathFacts) for path in images)
    return bool(images) and fitting >= _FITS * len(images)


def preset_layout(preset: Preset, paths: Sequence[str]) -> PatternLayout:
    """A preset that is asked for, with the folder below which it fits best."""
    images = _images(paths)

    def fits(root: str) -> int:
        layout = preset.layout(root)
        return sum(not isinstance(layout.match(path), str) for path in images[:_MAX_TRIED])

    return preset.layout(max(_roots(images), key=fits))


def _images(paths: Sequence[str]) -> list[str]:
    """The files that are images by their ending, and not those that macOS or a person has hidden.

    Where none has such an ending, those without any: README and LICENSE lie beside images, too.
    """
    may_be = [
        path
        for path in paths
        if is_image_name(path) and "__MACOSX" not in path and not PurePosixPath(path).name.startswith(".")
    ]
    return [path for path in may_be if PurePosixPath(path).suffix.lower() in IMAGE_ENDINGS] or may_be


def _fitting(preset: Preset, images: Sequence[str], *, with_patients: bool) -> Iterator[PatternLayout]:
    """The preset below each folder where it fits."""
    for root in _roots(images):
        layout = preset.layout(root)
        tried = [layout.read(path) for path in images[:_MAX_TRIED]]
        facts = [found for found in tried if isinstance(found, PathFacts)]
        labels = {found.label for found in facts}
        if not facts or len(facts) < _FITS * len(tried) or len(labels) < preset.min_classes:
            continue
        if preset.min_classes > 1 and _are_counted(labels):
            continue
        if with_patients and not all(found.patient for found in facts):
            continue
        yield layout


def _roots(images: Sequence[str]) -> list[str]:
    """The folders that all images lie in, the deepest first, but not a folder of a split."""
    folders = [PurePosixPath(path).parent.parts for path in images] or [()]
    common: list[str] = []
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    roots = [common[:depth] for depth in range(len(common), -1, -1)]
    return ["/".join(root) for root in roots if not root or not split_of_folder(root[-1])]


def _are_counted(labels: set[str]) -> bool:
    """Whether folders that would be classes are numbered, such as P1 and P2, so that they are rather patients."""
    stems = {match[1] if (match := _COUNTED.fullmatch(label)) else None for label in labels}
    return len(stems) == 1 and None not in stems
