"""The crop's frame on the source, and when a scan is inpainted."""

import base64
import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octprep import preprocessing, report
from octprep.format.config import Preprocessing
from octprep.format.images_csv import MAX_SIDE
from octprep.report import pictures
from tests.worlds.pages import kept_rows

RECIPE = Preprocessing(height=32, width=48)


@pytest.fixture(scope="module")
def row(built):
    return kept_rows(built)[0]


def with_crop(row, crop, **fields):
    return dataclasses.replace(row, measurements=dataclasses.replace(row.measurements, crop=crop), **fields)


@given(
    crop=st.tuples(*[st.integers(1 - MAX_SIDE, MAX_SIDE - 1)] * 2, st.integers(0, 150), st.integers(0, 150)),
    flattened=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_any_crop_of_a_valid_row_can_be_drawn_as_a_frame(row, source, crop, flattened):
    image = with_crop(row, (*sorted(crop[:2]), *sorted(crop[2:])), width=150)
    offsets = np.linspace(-9.0, 9.0, 48) if flattened else np.zeros(48)
    stored = pictures.StoredScan(np.zeros((32, 48), np.uint8), np.linspace(40.0, 80.0, 48), offsets)
    steps = pictures.steps(report.SourceImages(source), image, stored, RECIPE, pictures.LARGE, inpainted=False)
    assert steps.source.uri


def frame_rows(row, source, offsets):
    """The first and last row of the crop's frame in the columns 10, 64 and 118 of a source of 128 columns."""
    image = with_crop(row, (20, 60, 0, 128))
    stored = pictures.StoredScan(np.zeros((32, 128), np.uint8), np.arange(128.0), offsets)
    steps = pictures.steps(report.SourceImages(source), image, stored, RECIPE, pictures.LARGE, inpainted=False)
    data = np.frombuffer(base64.b64decode(steps.source.uri.partition(",")[2]), np.uint8)
    blue, _, red = np.moveaxis(cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int), 2, 0)
    amber = [np.flatnonzero((red - blue)[:, column] > 40) for column in (10, 64, 118)]
    return np.array([(rows.min(), rows.max()) for rows in amber])


def test_frame_follows_the_retina_where_the_scan_was_flattened(row, source):
    straight = frame_rows(row, source, np.zeros(128))
    assert np.abs(straight - (20, 59)).max() <= 2
    assert np.abs(frame_rows(row, source, np.full(128, 12.0)) - (32, 71)).max() <= 2
    slope = np.arange(128.0) / 8 - 8
    assert np.abs(frame_rows(row, source, slope) - straight - slope[[10, 64, 118], None]).max() <= 2


def test_scan_is_inpainted_only_where_that_is_shown(row, source, monkeypatch):
    monkeypatch.setattr(preprocessing, "find_fill", None)
    steps = pictures.steps(report.SourceImages(source), row, None, RECIPE, pictures.SMALL, inpainted=False)
    assert steps.source.uri
    assert steps.inpainted is None
