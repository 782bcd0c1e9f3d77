"""The names of array types. What shape and range a function's arrays have is in its docstring."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]  # an image, (rows, columns), 0 (black) to 255 (white), row 0 on the vitreous side
Bytes = NDArray[np.uint8]  # bytes that are not an image, such as descriptors
Mask = NDArray[np.uint8]  # (rows, columns), 255 inside an area, 0 elsewhere
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
