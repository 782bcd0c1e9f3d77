"""What a spectral-domain device makes of the light that tissue reflects: blur, roll-off, speckle, noise, gray levels.

A gray level of the archive's device is the fourth root of the intensity. Intensity that is averaged from k independent
frames has a gamma distribution of shape k (Goodman, Speckle Phenomena in Optics, 2007), the detector's noise too. The
device takes away part of the mean noise, which leaves black holes where there is no signal.
"""

from __future__ import annotations

import cv2
import numpy as np

from octprep.arrays import Float32, Gray
from octprep.synthetic.anatomy import HEIGHT, View
from octprep.synthetic.difficulty import Rng

_MIDDLE = 0.4  # the gray level that an exponent does not change


def expose(image: Float32, view: View, rng: Rng) -> Gray:
    """Gray levels 0..1, (HEIGHT, columns) -> the device's picture, (view.rows, view.width) uint8.

    Rows beyond HEIGHT repeat the last one, with a speckle of their own.
    """
    roll_off = view.gain * (1 - view.roll_off * np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None])
    levels = np.maximum(image, 0) * roll_off
    levels = np.asarray(cv2.pow(levels * np.float32(1 / _MIDDLE), view.gamma), np.float32)
    wide = np.asarray(cv2.resize(levels, (view.width, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32)
    light = np.asarray(cv2.GaussianBlur(wide, (0, 0), sigmaX=view.side_blur, sigmaY=view.blur), np.float32)
    light *= np.float32(_MIDDLE)
    np.square(light, out=light)
    np.square(light, out=light)
    share, *step = view.double
    if share:
        moved = np.array([[1, 0, step[1]], [0, 1, step[0]]], np.float32)
        other = cv2.warpAffine(light, moved, (view.width, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        light += np.float32(share) * (np.asarray(other, np.float32) - light)
    if view.rows > HEIGHT:
        light = np.pad(light, ((0, view.rows - HEIGHT), (0, 0)), mode="edge")
    # Signal and noise are one wave field at the detector, and so have one speckle.
    noise = np.float32(view.noise**4)
    light += noise
    light *= _speckle(view, rng)
    light -= np.float32(view.cut) * noise
    np.maximum(light, 0, out=light)
    gray = np.sqrt(np.sqrt(light, out=light), out=light)
    return np.asarray(cv2.convertScaleAbs(gray, alpha=255 * (1 - view.black), beta=255 * view.black), np.uint8)


def _speckle(view: View, rng: Rng) -> Float32:
    """Intensities of averaged speckle of mean 1, (view.rows, view.width).

    By the approximation of Wilson and Hilferty (PNAS 17:684, 1931): the cube root of a gamma variable is nearly normal.
    So is the mean of several uniform variables, which take a fifth of the time of normal ones.
    """
    uniform = (
        np.frombuffer(rng.bytes(view.rows * view.width), np.uint8).reshape(view.rows, view.width).astype(np.float32)
    )
    down, across = view.grain
    across = across * view.width / view.field / 88
    normal = np.asarray(cv2.GaussianBlur(uniform, (0, 0), sigmaX=across, sigmaY=down), np.float32)
    spread = 1 / (9 * view.looks)
    scale = np.sqrt(spread) / float(normal[::5, ::5].std())
    normal *= np.float32(scale)
    normal += np.float32(1 - spread - 127.5 * scale)
    np.maximum(normal, 0, out=normal)
    cube = np.square(normal)
    cube *= normal
    return np.asarray(cube, np.float32)
