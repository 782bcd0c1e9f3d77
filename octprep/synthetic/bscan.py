"""One synthetic B-scan: layers, fluid, vessels, choroid, speckle and exposure, with the true rows of its layers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray
from octprep.synthetic.anatomy import (
    COLUMNS,
    HEIGHT,
    INL,
    MATERIAL,
    ONL,
    PatientAppearance,
    Retina,
    gaussian,
    healthy,
)
from octprep.synthetic.difficulty import Rng
from octprep.synthetic.disease import Disease, apply_disease

_VITREOUS, _FACE, _DEEP = 0.02, 0.26, 0.03  # reflectivities, 0..1


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A synthetic B-scan and its ground truth. Rows are fractional and count from 0 at the top."""

    pixels: Gray  # (HEIGHT, width), 0..255
    ilm: Float32  # (width,) row of the inner limiting membrane
    rpe: Float32  # (width,) row of the lower edge of the pigment epithelium, which drusen and membranes lift
    bruch: Float32  # (width,) row of Bruch's membrane
    fill: Gray  # (HEIGHT, width), 1 where white or black covers the scan, 0 elsewhere
    lesion: Gray  # (HEIGHT, width), 1 where the disease changed the layers or is a cyst, 0 elsewhere; see `_changed`
    label: str


def draw_scan(appearance: PatientAppearance, disease: Disease, position: float, rng: Rng) -> Phantom:
    """Draw the B-scan at a position 0..1 of a patient's volume; rng gives only the speckle."""
    across = np.linspace(0, 1, COLUMNS, dtype=np.float32)
    x = appearance.left + appearance.field * across
    retina = healthy(appearance, position, x)
    before = retina.thickness.copy()
    light = apply_disease(retina, disease, position, x)
    is_changed = _changed(before, retina.thickness)
    retina.thickness[:] *= appearance.axial_scale
    retina.bruch[:] += (appearance.axial_scale - 1) * (retina.bruch - appearance.bruch_row)
    _keep_in_frame(retina)
    edges = retina.edges()
    image = _layered(retina, edges, appearance, position, x)
    _texture_choroid(image, retina.bruch, light, appearance, position)
    if disease.label == "CNV":
        _texture_membrane(image, edges, appearance, position)
    lesion = _between(edges, is_changed)
    lesion |= _fill_cysts(image, edges, disease, appearance, position)
    _cast_shadows(image, edges[0], appearance, position, across)
    if appearance.mirrored:
        image, edges, lesion = image[:, ::-1], edges[:, ::-1], lesion[:, ::-1]
    pixels = _expose(np.ascontiguousarray(image), appearance, rng)
    ilm, rpe, bruch = (_widened(edges[k], appearance.width) for k in (0, -2, -1))
    wide = cv2.resize(np.ascontiguousarray(lesion), pixels.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return Phantom(
        pixels=pixels,
        ilm=ilm,
        rpe=rpe,
        bruch=bruch,
        fill=np.zeros_like(pixels),
        lesion=np.asarray(wide, np.uint8),
        label=disease.label,
    )


def _changed(before: Float32, after: Float32) -> NDArray[np.bool_]:
    """Where a disease made a layer thicker or thinner: by more than two rows, and a quarter of the most of that layer.

    before, after: (layers, COLUMNS) rows, as is what is returned.
    """
    change = np.abs(after - before)
    return np.asarray(change > np.maximum(2, 0.25 * change.max(axis=1, keepdims=True)))


def _between(edges: Float32, is_changed: NDArray[np.bool_]) -> Gray:
    """1 from the uppermost changed layer of each column to the end of its lowest, 0 elsewhere: (HEIGHT, COLUMNS)."""
    top = np.where(is_changed, edges[:-1], HEIGHT).min(axis=0)
    bottom = np.where(is_changed, edges[1:], 0).max(axis=0)
    rows = np.arange(HEIGHT)[:, None]
    return np.asarray((rows >= top) & (rows < bottom), np.uint8)


def _keep_in_frame(retina: Retina) -> None:
    """Move the retina so that its face is below row 12 and, where possible, Bruch's membrane above row 440."""
    retina.bruch[:] -= max(float(retina.bruch.max()) - 440, 0)
    retina.bruch[:] += max(12 - float(retina.edges()[0].min()), 0)


def _layered(retina: Retina, edges: Float32, appearance: PatientAppearance, position: float, x: Float32) -> Float32:
    """Reflectivities, (HEIGHT, COLUMNS): vitreous, retina, and a choroid that does not fade yet."""
    vitreous = np.full_like(x, _VITREOUS)
    rows, values = [*edges], [vitreous, *retina.reflectivity, np.full_like(x, appearance.choroid_gain)]
    if appearance.hyaloid:
        bay = np.sqrt((x - appearance.fovea) ** 2 + 0.02) - 0.14  # rounded over the pit
        wave = 5 * np.sin(5 * x + appearance.undulation[1] + position)
        face = edges[0].min() - appearance.hyaloid * (0.4 + bay) - wave
        face = np.minimum(face, edges[0] - 3)
        rows = [face, face + 1.6, *rows]
        values = [np.full_like(x, appearance.haze), np.full_like(x, _FACE), *values]
    return _stacked(np.asarray(rows, np.float32), np.asarray(values, np.float32))


def _stacked(rows: Float32, values: Float32) -> Float32:
    """An image (HEIGHT, COLUMNS), values[k] between the curves rows[k - 1] and rows[k], antialiased at the curves."""
    steps = np.zeros((HEIGHT + 2, COLUMNS), np.float32)
    steps[0] = values[0]
    columns = np.arange(COLUMNS)
    clipped = np.clip(rows, 0, HEIGHT)
    whole = clipped.astype(np.intp)
    fraction = clipped - whole
    for row, lower, jump in zip(whole, fraction, np.diff(values, axis=0), strict=True):
        steps[row, columns] += (1 - lower) * jump
        steps[row + 1, columns] += lower * jump
    return np.asarray(np.cumsum(steps, axis=0)[:HEIGHT], np.float32)


def _pattern(
    appearance: PatientAppearance, number: int, position: float, grid: tuple[int, int], shape: tuple[int, int]
) -> Float32:
    """A smooth random pattern of the patient with mean 0 and a standard deviation of about 0.6.

    It changes slowly with the position in the volume. grid: rows and columns of the random values that are interpolated
    to `shape`.
    """
    rng = np.random.default_rng([appearance.texture_seed, number])
    first, second = rng.standard_normal((2, *grid), dtype=np.float32)
    coarse = np.cos(1.5 * position) * first + np.sin(1.5 * position) * second
    wide = cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide, np.float32)


def _texture_choroid(
    image: Float32, bruch: Float32, light: Float32, appearance: PatientAppearance, position: float
) -> None:
    """Dark vessels, larger with depth, in a choroid whose light decays, and the dark below it."""
    top = int(max(bruch.min(), 0))
    rows = np.arange(top, HEIGHT, dtype=np.float32)[:, None]
    depth = np.maximum(rows - bruch, 0)
    small = _pattern(appearance, 1, position, (60, 36), (HEIGHT, COLUMNS))[top:]
    large = _pattern(appearance, 2, position, (26, 20), (HEIGHT, COLUMNS))[top:]
    vessels = np.where(depth < 0.35 * appearance.choroid_decay, 0.7 * small, large)
    lumen = np.clip(2.4 * vessels - 0.2, 0, 1) * np.clip(depth / 8, 0, 1)
    fade = np.asarray(cv2.exp(np.asarray(-depth / appearance.choroid_decay, np.float32)), np.float32)
    tissue = appearance.choroid_gain * fade * (1 - 0.6 * lumen) * (1 + 0.15 * large) * light + _DEEP
    np.copyto(image[top:], tissue, where=depth > 0)


def _texture_membrane(image: Float32, edges: Float32, appearance: PatientAppearance, position: float) -> None:
    """Bright and dark lumps in what lies between the outer segments and Bruch's membrane."""
    top, bottom = int(max(edges[MATERIAL].min(), 0)), int(min(edges[-1].max() + 1, HEIGHT))
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    lumps = _pattern(appearance, 3, position, (max((bottom - top) // 6, 2), COLUMNS // 6), (bottom - top, COLUMNS))
    inside = (rows >= edges[MATERIAL]) & (rows < edges[-1]) & (edges[-1] - edges[MATERIAL] > 14)
    np.multiply(image[top:bottom], np.clip(1 + 0.45 * lumps, 0.4, 1.6), out=image[top:bottom], where=inside)


def _fill_cysts(
    image: Float32, edges: Float32, disease: Disease, appearance: PatientAppearance, position: float
) -> Gray:
    """Dark cysts with thin walls between them, as high as their layer has room for; returns 1 in them, 0 elsewhere."""
    mask = np.zeros(image.shape, np.uint8)
    for number, cyst in enumerate(disease.cysts):
        centre, width, height = cyst.at(position)
        column = int(np.clip((centre - appearance.left) / appearance.field, 0.03, 0.97) * (COLUMNS - 1))
        layer = INL if number % 3 == 0 else ONL
        upper, lower = float(edges[layer, column]), float(edges[layer + 1, column])
        half = min(height * appearance.axial_scale, 0.5 * (lower - upper) + 2)
        row = min((upper + lower) / 2, lower - half + 2)
        # A sub-pixel ellipse: OpenCV takes coordinates in 1/16.
        size = (round(16 * max(width / appearance.field * COLUMNS, 1.5)), round(16 * max(half, 1.5)))
        cv2.ellipse(mask, (16 * column, round(16 * row)), size, 0, 0, 360, [255], -1, cv2.LINE_AA, 4)
    if disease.cysts:
        image += (mask * np.float32(1 / 255)) * (disease.cyst_light - image)
    return np.asarray(mask > 127, np.uint8)


def _cast_shadows(image: Float32, ilm: Float32, appearance: PatientAppearance, position: float, x: Float32) -> None:
    """Vessels in the nerve fibre layer, and the shadows of them and of opacities on all that lies below.

    x: (COLUMNS,) fractions of the scan's width.
    """
    light = np.ones_like(x)
    for start, width, transmitted in appearance.vessels:
        centre = (start + 0.06 * (position - 0.5)) % 1
        light *= 1 - (1 - transmitted) * np.exp(-0.5 * ((x - centre) / width) ** 2)
        column = int(centre * (COLUMNS - 1))
        lumen = (max(round(width * COLUMNS), 1), 4)
        cv2.ellipse(image, (column, int(ilm[column]) + 5), lumen, 0, 0, 360, [0.75], -1)
    for start, width, transmitted in appearance.opacities:
        light *= 1 - (1 - transmitted) * gaussian(x, (start + 0.06 * (position - 0.5)) % 1, width)
    top = int(max(ilm.min(), 0))
    below = np.arange(top, HEIGHT, dtype=np.float32)[:, None] > ilm + 8
    light *= 1 - 0.3 * (2 * x - 1) ** 4  # and light is lost towards the ends of the scan
    np.multiply(image[top:], light, out=image[top:], where=below)


def _expose(image: Float32, appearance: PatientAppearance, rng: Rng) -> Gray:
    """Reflectivities -> gray levels of the patient's device: widened, brought to its exposure, speckled.

    The gain is chosen for each scan so that its mean gray level is the patient's: the amount of bright tissue must not
    show in the mean. Speckle has the long dark tail of a compressed exponential intensity.
    """
    wide = np.asarray(cv2.resize(image, (appearance.width, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32)
    blur = appearance.blur * appearance.width / 512
    wide = np.asarray(cv2.GaussianBlur(wide, (0, 0), sigmaX=0.4 * blur, sigmaY=0.7 * appearance.blur), np.float32)
    mean = float(cv2.mean(image)[0])
    gain = float(np.clip((appearance.mean - appearance.vitreous) / max(mean - _VITREOUS, 1e-3), 120, 330))
    intensity = rng.standard_exponential((HEIGHT, appearance.width), dtype=np.float32)
    grain = np.sqrt(np.sqrt(intensity, out=intensity), out=intensity)
    blur = appearance.grain * appearance.width / 512
    grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), sigmaX=blur, sigmaY=0.45), np.float32)
    grain -= np.float32(0.9064)  # the mean of the fourth root of an exponential variable
    grain *= np.float32(1 / float(grain[::7, ::7].std()))
    wide *= np.float32(gain)
    wide += (np.float32(appearance.speckle) * wide + np.float32(appearance.noise)) * grain
    wide += np.float32(appearance.vitreous - gain * _VITREOUS)
    return np.asarray(cv2.convertScaleAbs(np.maximum(wide, 0)), np.uint8)


def _widened(line: Float32, width: int) -> Float32:
    """A curve over COLUMNS columns as the resized image has it: pixel centres map to pixel centres."""
    x = (np.arange(width) + 0.5) * (COLUMNS / width) - 0.5
    return np.asarray(np.interp(x, np.arange(COLUMNS), line), np.float32)
