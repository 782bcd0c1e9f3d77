"""Filters against speckle, and the libraries they need.

median and bilateral are OpenCV's, nlm is its non-local means (Buades et al., CVPR 2005). Lee's filter (IEEE Trans. PAMI
2:165, 1980) replaces an intensity I in a window with mean m and squared coefficient of variation C^2 = var / m^2 by

    m + k (I - m),   k = max(0, 1 - C_speckle^2 / C^2).

The wavelet filter shrinks each band b of an orthogonal transform by a soft threshold,

    sign(b) max(|b| - t, 0),   t = factor * noise_std^2 / signal_std

(BayesShrink: Chang et al., IEEE TIP 9:1532, 2000).
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from octprep.arrays import Float32, Gray
from octprep.format.config import Preprocessing
from octprep.format.errors import SettingError

_INTENSITY = ((np.arange(256) / 255) ** 4).astype(np.float32)  # of each gray level
_WAVELET, _LEVELS = "sym4", 4
_MAD_OF_NORMAL = 0.6745  # the median of a standard normal variable's absolute value


def library_versions(recipe: Preprocessing) -> dict[str, str]:
    """Name and version of each library that decides the pixels of a recipe.

    Raises SettingError if one is not installed.
    """
    versions = {"numpy": np.__version__, "opencv": cv2.__version__, "simplejpeg": simplejpeg.__version__}
    if recipe.denoise == "wavelet":
        try:
            import pywt
        except ImportError:
            raise SettingError(
                "denoise wavelet needs PyWavelets, which is not installed: pip install 'octprep[wavelet]', or choose "
                "another denoiser"
            ) from None
        versions["pywavelets"] = pywt.__version__
    return versions


def denoise(gray: Gray, recipe: Preprocessing) -> Gray:
    """The recipe's filter at source resolution; strengths are explained at octprep.format.config.DENOISERS.

    gray: (rows, columns) uint8; the result has its shape. Raises SettingError as `library_versions` does.
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
    """Lee's filter for multiplicative noise, on intensities.

    Devices show the fourth root of the intensity, so that is undone first. Where the intensity varies no more than
    speckle does, the local mean replaces the pixel; the more it varies, the more of the pixel is kept. How much speckle
    varies is taken from the scan: the median of the local variation.
    """
    intensity = cv2.LUT(gray, _INTENSITY)
    mean = cv2.boxFilter(intensity, -1, (window, window))
    variance = np.maximum(cv2.sqrBoxFilter(intensity, cv2.CV_32F, (window, window)) - mean * mean, 0)
    variation = variance / np.maximum(mean * mean, 1e-12)
    kept = np.clip(1 - float(np.median(variation[::4, ::4])) / np.maximum(variation, 1e-12), 0, 1)
    filtered = np.maximum(mean + kept * (intensity - mean), 0)
    return np.asarray(cv2.convertScaleAbs(np.sqrt(np.sqrt(filtered)), alpha=255.0), np.uint8)


def _wavelet(gray: Gray, factor: float) -> Gray:
    """Soft thresholds on a wavelet transform, one for each band.

    Speckle is wider than a pixel, so its standard deviation is estimated at every scale, from the median absolute
    coefficient of the diagonal band.
    """
    library_versions(Preprocessing(denoise="wavelet"))
    import pywt

    rows, columns = gray.shape
    levels = min(_LEVELS, pywt.dwt_max_level(min(rows, columns), _WAVELET))
    coarse, *scales = pywt.wavedec2(gray.astype(np.float32), _WAVELET, mode="symmetric", level=levels)
    shrunk = []
    for bands in scales:
        noise_std = float(np.median(np.abs(bands[2]))) / _MAD_OF_NORMAL
        shrunk.append(tuple(_shrink(band, noise_std, factor) for band in bands))
    smooth = pywt.waverec2([coarse, *shrunk], _WAVELET, mode="symmetric")[:rows, :columns]
    return np.asarray(np.clip(np.rint(smooth), 0, 255), np.uint8)


def _shrink(band: Float32, noise_std: float, factor: float) -> Float32:
    """All coefficients nearer to 0 by the threshold."""
    signal_std = max(float(np.mean(band * band)) - noise_std * noise_std, 1e-6) ** 0.5
    threshold = np.float32(factor * noise_std * noise_std / signal_std)
    return np.asarray(np.sign(band) * np.maximum(np.abs(band) - threshold, 0), np.float32)
