"""One synthetic B-scan: its layers, lesions, vessels, choroid and vitreous, and their true rows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float32, Gray
from octprep.synthetic.anatomy import (
    COLUMNS,
    FLUID,
    HEIGHT,
    MATERIAL,
    RPE,
    UNDER,
    PatientAppearance,
    Retina,
    gaussian,
    healthy,
)
from octprep.synthetic.difficulty import Rng
from octprep.synthetic.disease import Disease
from octprep.synthetic.imaging import expose
from octprep.synthetic.lesions import settle
from octprep.synthetic.marks import Canvas
from octprep.synthetic.random_fields import RandomField, pattern

_VOLUME_MM = 1.8  # from the first B-scan of a volume to the last; the fovea lies in the middle
_DISC_MARGIN = 0.25  # millimetres before the edge of the disc, where the layers begin to end
_VESSEL_LENGTH = 4  # of a choroidal vessel, as a multiple of its width in columns of the picture at half its size
_SCLERA = 0.09  # gray level below the choroid


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A synthetic B-scan and its ground truth. Rows are fractional and count from 0 at the top."""

    pixels: Gray  # (rows, width), 0..255
    ilm: Float32  # (width,) row of the inner limiting membrane; 0 where it lies above the upper edge
    rpe: Float32  # (width,) row of the lower edge of the pigment epithelium, which drusen and membranes lift
    bruch: Float32  # (width,) row of Bruch's membrane
    disc: NDArray[np.bool_]  # (width,) columns of the optic disc, which has neither layers nor such rows
    fill: Gray  # (rows, width), 1 where white or black covers the scan, 0 elsewhere
    lesion: Gray  # (rows, width), 1 where the disease changed the layers or is a cyst, 0 elsewhere; see `_changed`
    label: str
    quality: int = 78  # of the JPEG that the device writes


def draw_scan(appearance: PatientAppearance, disease: Disease, position: float, rng: Rng) -> Phantom:
    """Draw the B-scan at a position 0..1 of a patient's volume; rng gives only the speckle."""
    y = _VOLUME_MM * (position - 0.5)
    view = appearance.view
    retina = healthy(appearance, y)
    before = retina.thickness.copy()
    for lesion in disease.lesions:
        lesion.reshape(retina)
    settle(retina, before)
    is_changed = _changed(before, retina.thickness)
    place, fall = view.jump
    retina.bruch[:] += np.where(retina.x > place, fall, 0)
    _place_in_frame(retina, view.beyond)
    edges = retina.edges()
    image = _stacked(edges, retina.brightness)
    if edges[0].min() < 0:
        _add_mirrored(image, edges, retina.brightness)
    _texture_tissue(image, edges, appearance, y)
    _draw_vitreous(image, edges[0], appearance, retina)
    _draw_choroid(image, appearance, retina)
    canvas = Canvas(image, edges, retina, _between(edges, is_changed))
    for mark in disease.marks:
        mark.paint(canvas)
    _cast_shadows(image, edges[0], appearance, retina)
    lesion_mask, disc = canvas.lesion, retina.x > appearance.disc - _DISC_MARGIN
    if appearance.mirrored:
        image, edges, lesion_mask, disc = image[:, ::-1], edges[:, ::-1], lesion_mask[:, ::-1], disc[::-1]
    pixels = expose(np.ascontiguousarray(image), view, rng)
    ilm, rpe, bruch = (np.maximum(_widened(edges[k], view.width), 0) for k in (0, UNDER, -1))
    lesion_map = np.zeros_like(pixels)
    wide = (view.width, HEIGHT)
    lesion_map[:HEIGHT] = cv2.resize(np.ascontiguousarray(lesion_mask), wide, interpolation=cv2.INTER_NEAREST)
    return Phantom(
        pixels=pixels,
        ilm=ilm,
        rpe=rpe,
        bruch=bruch,
        disc=_widened(np.asarray(disc, np.float32), view.width) > 0,
        fill=np.zeros_like(pixels),
        lesion=lesion_map,
        label=disease.label,
        quality=view.quality,
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


def _place_in_frame(retina: Retina, beyond: float) -> None:
    """Move the retina so that its face is below row 12 and, where possible, Bruch's membrane above row 440.

    beyond: up to so many rows of the retina are to lie above the upper edge instead, in half of the columns at most.
    """
    retina.bruch[:] -= max(float(retina.bruch.max()) - 440, 0)
    face = retina.edges()[0]
    if beyond:
        retina.bruch[:] += max(-beyond - face.min(), 12 - np.median(face), 30 - retina.bruch.min())
    else:
        retina.bruch[:] += max(12 - face.min(), 0)
    np.minimum(retina.bruch, HEIGHT - 1, out=retina.bruch)


def _stacked(edges: Float32, brightness: Float32) -> Float32:
    """(HEIGHT, COLUMNS): brightness[k] from edges[k] to edges[k + 1], antialiased there, and 0 elsewhere."""
    steps = np.zeros((HEIGHT + 2, COLUMNS), np.float32)
    columns = np.arange(COLUMNS)
    clipped = np.clip(edges, 0, HEIGHT)
    whole = clipped.astype(np.intp)
    fraction = clipped - whole
    none = np.zeros((1, COLUMNS), np.float32)
    jumps = np.diff(np.concatenate((none, brightness, none)), axis=0)
    for row, lower, jump in zip(whole, fraction, jumps, strict=True):
        steps[row, columns] += (1 - lower) * jump
        steps[row + 1, columns] += lower * jump
    for row, above in zip(steps[1:], steps, strict=False):  # a third of the time of np.cumsum
        row += above
    return steps[:HEIGHT]


def _add_mirrored(image: Float32, edges: Float32, brightness: Float32) -> None:
    """Add what lies above the upper edge, mirrored there, as a spectral-domain device shows it.

    The device cannot tell equal distances before and behind the plane of its reference mirror (Wojtkowski et al., Opt
    Lett 27:1415, 2002). Lights add up, and a gray level is the fourth root of the light.
    """
    rows = int(min(-edges[0].min(), HEIGHT - 2)) + 2
    mirrored = _stacked(-edges[::-1], brightness[::-1])[:rows]
    image[:rows] = (image[:rows] ** 4 + mirrored**4) ** 0.25


def _texture_tissue(image: Float32, edges: Float32, appearance: PatientAppearance, y: float) -> None:
    """Uneven brightness of the retina, stretched along its layers, and lumps in what lesions contain."""
    top, bottom = int(max(edges[0].min(), 0)), int(min(edges[-1].max() + 1, HEIGHT))
    shape = (bottom - top, COLUMNS)
    fine = pattern((appearance.texture_seed, 1), y, (5, 8), shape)
    fine *= np.float32(0.06)
    fine += 1
    image[top:bottom] *= fine
    lesion = edges[RPE] - edges[FLUID] + edges[-1] - edges[UNDER]
    if float(lesion.max()) < 4:
        return
    lumps = pattern((appearance.texture_seed, 3), y, (6, 9), shape)
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    inside = ((rows >= edges[MATERIAL]) & (rows < edges[MATERIAL + 1])) | (
        (rows >= edges[UNDER] + 1) & (rows < edges[-1])
    )
    np.multiply(image[top:bottom], np.clip(1 + 0.3 * lumps, 0.5, 1.5), out=image[top:bottom], where=inside)


def _draw_vitreous(image: Float32, ilm: Float32, appearance: PatientAppearance, retina: Retina) -> None:
    """Haze, the face of a detached vitreous body, and the optics' reflex, above the retina."""
    view = appearance.view
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
    bottom = int(min(ilm.max() + 1, HEIGHT))
    above = rows[:bottom] < ilm
    haze = np.full((bottom, COLUMNS), view.haze, np.float32)
    if appearance.hyaloid is not None:
        height, rise, line, more = appearance.hyaloid
        bay = np.sqrt(retina.x**2 + 0.3) - 0.55
        face = ilm.min() - (height + (rise + 30) * bay) / view.row_um
        face = np.minimum(face, ilm - 2)
        cloud = 1 + 0.5 * pattern((appearance.texture_seed, 4), retina.y, (40, 90), (bottom, COLUMNS))
        haze += more * cloud * (rows[:bottom] < face)
        strength = np.clip(
            0.6 + 0.6 * RandomField.draw(0.5, np.random.default_rng(appearance.texture_seed)).at(retina.x, retina.y),
            0,
            1,
        )
        near = slice(int(max(face.min() - 6, 0)), int(np.clip(face.max() + 7, 0, bottom)))
        haze[near] += line * strength * np.exp(-(((rows[near] - face) / 1.1) ** 2))
    np.copyto(image[:bottom], haze, where=above)
    if view.ghost:
        row, column = 24 + 14 * np.sin(appearance.texture_seed), COLUMNS / 2
        spot = np.exp(-(((rows[:60] - row) / 3) ** 2) - ((np.arange(COLUMNS) - column) / 11) ** 2)
        np.add(image[:60], view.ghost * spot, out=image[:60], where=rows[:60] < ilm)


def _draw_choroid(image: Float32, appearance: PatientAppearance, retina: Retina) -> None:
    """Vessels that grow wider with depth, with bright walls, in light that fades into the sclera."""
    bruch = retina.bruch
    top = int(np.clip(bruch.min(), 0, HEIGHT - 2))
    rows = np.arange(top, HEIGHT, dtype=np.float32)[:, None]
    depth = (rows - bruch) * np.float32(retina.row_um)
    share = np.clip(depth / np.float32(appearance.choroid), 0, 1)
    vessels = _choroidal_vessels(appearance, retina.y, share)
    fade = np.asarray(cv2.exp(np.asarray(-np.maximum(depth, 0) / appearance.choroid_decay, np.float32)), np.float32)
    inside = np.clip((appearance.choroid - depth) / 50, 0, 1)  # 0 in the sclera
    tissue = appearance.choroid_brightness * fade * (1 + inside * vessels)
    tissue *= 1 - 0.12 * (1 - inside) * (share >= 1)
    tissue += _SCLERA * np.sqrt(fade)
    # A gray level is the fourth root of the light.
    tissue *= np.asarray(np.sqrt(np.clip(retina.light, 0.05, 4)), np.float32)
    image[top:] += tissue * np.clip(rows + 1 - bruch, 0, 1)


def _choroidal_vessels(appearance: PatientAppearance, y: float, share: Float32) -> Float32:
    """By how much vessels (below 0) and their walls (above 0) change the choroid's brightness.

    share: (rows, COLUMNS) depth as a fraction of the choroid's, as is what is returned.
    """
    rows, columns = share.shape
    half = ((rows + 1) // 2, columns // 2)  # nothing here is finer than two pixels
    seed = appearance.texture_seed
    small, middle, large = (
        pattern((seed, number), y, cell, half, length=_VESSEL_LENGTH)
        for number, cell in ((5, (2.2, 2.2)), (6, (4.5, 5)), (7, (10, 14)))
    )
    depth = np.asarray(cv2.resize(share, half[::-1], interpolation=cv2.INTER_NEAREST), np.float32)
    vessels = np.where(depth < 0.15, small, np.where(depth < 0.4, 0.5 * small + 0.8 * middle, 0.4 * middle + large))
    vessels = cv2.GaussianBlur(np.asarray(vessels, np.float32), (0, 0), 0.8)
    change = 0.4 * np.clip(-vessels, 0, 1) - appearance.lumina * np.clip(1.3 * vessels, 0, 1)
    wide = cv2.resize(np.asarray(change, np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide, np.float32)


def _cast_shadows(image: Float32, ilm: Float32, appearance: PatientAppearance, retina: Retina) -> None:
    """Vessels near the surface, and the shadows of them and of opacities on all that lies below."""
    light = np.ones_like(retina.x)
    columns_per_mm = (COLUMNS - 1) / float(retina.x[-1] - retina.x[0])
    for centre, width, transmitted in appearance.vessels:
        place = centre + 0.3 * retina.y * np.sin(7 * centre)
        light *= 1 - (1 - transmitted) * np.exp(-(((retina.x - place) / (1.3 * width)) ** 4))
        column = (place - float(retina.x[0])) * columns_per_mm
        if 1 <= column < COLUMNS - 1 and width > 0.026:
            row = float(ilm[int(column)]) + 6
            lumen = (round(16 * max(width * columns_per_mm, 1)), round(16 * min(width * 1000 / retina.row_um, 7)))
            cv2.ellipse(image, (round(16 * column), round(16 * row)), lumen, 0, 0, 360, [0.48], -1, cv2.LINE_AA, 4)
    above = np.ones_like(light)
    for centre, width, transmitted in appearance.opacities:
        above *= 1 - (1 - transmitted) * gaussian(retina.x, centre, width)
    u = np.linspace(-1, 1, COLUMNS, dtype=np.float32)
    above *= 1 - 0.2 * u**4  # and light is lost towards the ends of the scan
    top = int(max(ilm.min(), 0))
    depth = np.arange(top, HEIGHT, dtype=np.float32)[:, None] - ilm
    light, above = np.sqrt(light), np.asarray(above, np.float32)
    np.multiply(image[top:], above, out=image[top:], where=depth > 0)
    np.multiply(image[top:], light, out=image[top:], where=depth > 9)


def _widened(line: Float32, width: int) -> Float32:
    """A curve over COLUMNS columns as the resized image has it: pixel centres map to pixel centres."""
    x = (np.arange(width) + 0.5) * (COLUMNS / width) - 0.5
    return np.asarray(np.interp(x, np.arange(COLUMNS), line), np.float32)
