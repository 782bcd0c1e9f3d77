"""Denoisers smooth speckle, keep edges, and say what they need."""

import subprocess
import sys

import numpy as np
import pytest

from octprep import preprocessing
from octprep.format.config import DENOISERS, Preprocessing
from tests.worlds.archive import archive, write_folder
from tests.worlds.layers import layered


@pytest.mark.parametrize("denoiser", sorted(set(DENOISERS) - {"none"}))
def test_every_denoiser_smooths_speckle_and_keeps_the_edge(denoiser):
    gray, _, lower = layered(0, 0)
    denoised = preprocessing.denoise(gray, Preprocessing(denoise=denoiser))
    edge = int(lower[0])
    flat = np.s_[40:140, 40:470]
    assert denoised[flat].std() / denoised[flat].mean() < 0.9 * gray[flat].std() / gray[flat].mean()
    before, after = (
        float(image[edge - 6 : edge - 2].mean()) - image[edge + 2 : edge + 6].mean() for image in (gray, denoised)
    )
    assert after > 0.85 * before


def test_wavelet_says_what_to_install_where_pywavelets_is_missing(tmp_path):
    code = (
        "import sys; sys.modules['pywt'] = None; import pathlib; from octprep import pipeline; "
        "from octprep.format.config import BuildConfig, Preprocessing; "
        f"pipeline.build(pathlib.Path({str(tmp_path / 'src')!r}), pathlib.Path({str(tmp_path / 'out')!r}), "
        "BuildConfig(recipe=Preprocessing(denoise='wavelet')))"
    )
    write_folder(tmp_path / "src", archive())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SettingError: denoise wavelet needs PyWavelets" in done.stderr
    assert "octprep[wavelet]" in done.stderr
    assert not (tmp_path / "out").exists()
