"""Filters against speckle, and the libraries they need."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Gray
from octprep.format.config import Preprocessing
from octprep.format.errors import SettingError

_INTENSITY = ((np.arange(256) / 255) ** 4).astype(np.float32)  # of each gray level
_WAVELET, _LEVELS = "sym4", 4
_NORMAL = 0.6745  # the median of a standard normal variable's absolute value


def libraries(recipe: Preprocessing) -> dict[str, str]:
    """Name and version of what makes the pixels of a recipe.

    Raises SettingError if one is not installed.
    """
    found = {"numpy": np.__version__, "opencv": cv2.__version__}
    if recipe.denoise == "wavelet":
        try:
            import pywt
        except ImportError:
            raise SettingError(
                "denoise wavelet needs PyWavelets, which is not installed: pip install 'octprep[wavelet]', or choose "
                "another denoiser"
            ) from None
        found["pywavelets"] = pywt.__version__
    return found


def denoise(gray: Gray, recipe: Preprocessing) -> Gray:
    """The recipe's filter at source resolution; strengths are explained at octprep.format.config.DENOISERS.

    gray: (rows, columns) uint8; what comes back has its shape. Raises SettingError as `libraries` does.
    """
    assert recipe.denoise_strength is not None
    match recipe.denoise:
        case "median":
            return cv2.medianBlur(gray, int(recipe.denoise_strength)).astype(np.uint8, copy=False)
        case "bilateral":
            return cv2.bilateralFilter(gray, 5, recipe.denoise_strength, 5).astype(np.uint8, copy=False)
        case "lee":
            return _lee(gray, int(recipe.denoise_strength))
        case "wavelet":
            return _wavelet(gray, recipe.denoise_strength)
        case "nlm":
            filtered = cv2.fastNlMeansDenoising(
                gray, h=recipe.denoise_strength, templateWindowSize=7, searchWindowSize=21
            )
            return filtered.astype(np.uint8, copy=False)
        case _:
            return gray


def _lee(gray: Gray, window: int) -> Gray:
    """Lee's filter for multiplicative noise (IEEE Trans. PAMI 2:165, 1980), on intensities.

    Devices show the fourth root of the intensity, so that is undone first. Where the light varies no more than speckle
    does, the local mean replaces the pixel; the more it varies, the more of the pixel is kept. How much speckle varies
    is taken from the scan: the median of the local variation.
    """
    light = cv2.LUT(gray, _INTENSITY)
    mean = cv2.boxFilter(light, -1, (window, window))
    variance = np.maximum(cv2.sqrBoxFilter(light, cv2.CV_32F, (window, window)) - mean * mean, 0)
    variation = variance / np.maximum(mean * mean, 1e-12)
    kept = np.clip(1 - float(np.median(variation[::4, ::4])) / np.maximum(variation, 1e-12), 0, 1)
    filtered = np.maximum(mean + kept * (light - mean), 0)
    return np.asarray(cv2.convertScaleAbs(np.sqrt(np.sqrt(filtered)), alpha=255.0), np.uint8)


def _wavelet(gray: Gray, factor: float) -> Gray:
    """Soft thresholds on a wavelet transform, one for each band (BayesShrink: Chang et al., IEEE TIP 9:1532, 2000).

    Speckle is wider than a pixel, so its deviation is measured at every scale, in the diagonal band, by the median.
    """
    libraries(Preprocessing(denoise="wavelet"))
    import pywt

    rows, columns = gray.shape
    levels = min(_LEVELS, pywt.dwt_max_level(min(rows, columns), _WAVELET))
    coarse, *scales = pywt.wavedec2(gray.astype(np.float32), _WAVELET, mode="symmetric", level=levels)
    shrunk = []
    for bands in scales:
        noise = float(np.median(np.abs(bands[2]))) / _NORMAL
        shrunk.append(tuple(_shrink(band, noise, factor) for band in bands))
    calm = pywt.waverec2([coarse, *shrunk], _WAVELET, mode="symmetric")[:rows, :columns]
    return np.asarray(np.clip(np.rint(calm), 0, 255), np.uint8)


def _shrink(band: NDArray[np.float32], noise: float, factor: float) -> NDArray[np.float32]:
    """All coefficients nearer to 0 by factor * noise**2 / deviation of what is not noise."""
    signal = max(float(np.mean(band * band)) - noise * noise, 1e-6) ** 0.5
    threshold = np.float32(factor * noise * noise / signal)
    return np.asarray(np.sign(band) * np.maximum(np.abs(band) - threshold, 0), np.float32)
