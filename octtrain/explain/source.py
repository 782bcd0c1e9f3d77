"""From the stored image, and the places of a map over it, to the pixels of the source scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from octprep.preprocessing import Geometry

Float64 = NDArray[np.float64]


def at_source(
    values: Float64,
    geometry: Geometry,
    stored_shape: tuple[int, int],
    source_shape: tuple[int, int],
    *,
    smooth: bool = True,
) -> tuple[Float64, NDArray[np.bool_]]:
    """The values of a map at each pixel of the source scan, and whether that pixel lies in the crop.

    values: (rows, columns), of places that divide the stored image into equal parts.  geometry: of the scan, flattening
    included.  stored_shape, source_shape: height and width, pixels.  smooth: interpolate between the middles of the
    places; otherwise every pixel has the value of its place.

    Both results are of source_shape. Outside the crop the value is 0.
    """
    column, row = np.meshgrid(np.arange(source_shape[1]), np.arange(source_shape[0]))
    x, y = geometry.stored_position(column, row)
    top, bottom, left, right = geometry.crop
    flattened_row = geometry.affine[4] * y + geometry.affine[5]  # the crop counts rows as flattened
    inside = (column >= left) & (column < right) & (flattened_row > top - 0.5) & (flattened_row < bottom - 0.5)
    rows, columns = values.shape
    u = (y + 0.5) * rows / stored_shape[0] - 0.5
    v = (x + 0.5) * columns / stored_shape[1] - 0.5
    at = _interpolated(values, u, v) if smooth else values[_index(u, rows), _index(v, columns)]
    return np.where(inside, at, 0.0), inside


def over_stored(values: Float64, shape: tuple[int, ...], *, smooth: bool = False) -> Float64:
    """The values of a map at each pixel of the stored image: (height, width).

    smooth: as of `at_source`; otherwise each pixel has the value of its place.
    """
    u, v = ((np.arange(side) + 0.5) * count / side - 0.5 for side, count in zip(shape, values.shape, strict=True))
    if smooth:
        return _interpolated(values, u[:, None], v[None])
    return values[np.ix_(_index(u, values.shape[0]), _index(v, values.shape[1]))]


def _interpolated(values: Float64, u: Float64, v: Float64) -> Float64:
    """Bilinear interpolation at fractional rows u and columns v; beyond the outermost places their value."""
    u, v = np.clip(u, 0, values.shape[0] - 1), np.clip(v, 0, values.shape[1] - 1)
    i, j = (np.minimum(w.astype(int), max(n - 2, 0)) for w, n in zip((u, v), values.shape, strict=True))
    below, right = (np.minimum(k + 1, n - 1) for k, n in zip((i, j), values.shape, strict=True))
    du, dv = u - i, v - j
    upper = values[i, j] * (1 - dv) + values[i, right] * dv
    lower = values[below, j] * (1 - dv) + values[below, right] * dv
    return np.asarray(upper * (1 - du) + lower * du)


def _index(position: Float64, count: int) -> NDArray[np.intp]:
    return np.clip(np.rint(position), 0, count - 1).astype(np.intp)
