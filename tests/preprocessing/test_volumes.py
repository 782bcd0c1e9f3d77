"""DICOM and .vol files: the gray values of their B-scans, what is stated of them, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from octprep import preprocessing
from octprep.format.errors import UnreadableImage
from octprep.preprocessing import volumes
from octprep.preprocessing.volume_header import VolumeHeader
from tests.worlds import volume_files
from tests.worlds.image_files import saved
from tests.worlds.volume_files import INVALID, dicom, drawn, reflectance, vol

PIXELS = drawn("volume")
DEEP = PIXELS.astype(np.uint16) * 257 - 60


def header(data: bytes) -> VolumeHeader | None:
    return volumes.read_header(io.BytesIO(data))


def frames(data: bytes) -> list[np.ndarray]:
    volume = volumes.load_volume(data)
    return [volumes.decode_frame(volume, number)[0] for number in range(1, len(volume.header.frames) + 1)]


def jpeg_2000(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    return stream.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


@pytest.mark.parametrize("syntax", [volume_files.LITTLE, volume_files.BIG, volume_files.IMPLICIT, volume_files.RLE])
@pytest.mark.parametrize("pixels", [PIXELS, DEEP], ids=["8 bits", "16 bits"])
def test_frames_have_the_gray_values_of_a_png_of_the_same_pixels(syntax, pixels):
    wanted = [preprocessing.decode_with_flags(saved(frame, "PNG"))[0] for frame in pixels]
    assert np.array_equal(frames(dicom(pixels, syntax=syntax)), wanted)


def test_jpeg_frames_have_the_gray_values_of_the_jpegs():
    encoded = [jpeg(frame) for frame in PIXELS]
    data = dicom(PIXELS, syntax=volume_files.JPEG_BASELINE, encoded=encoded)
    assert np.array_equal(frames(data), [preprocessing.decode(one) for one in encoded])


def test_jpeg_2000_frames_without_loss_have_the_pixels_that_were_written():
    data = dicom(PIXELS, syntax=volume_files.JPEG_2000, encoded=[jpeg_2000(frame) for frame in PIXELS])
    assert np.array_equal(frames(data), PIXELS)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_frames_whose_smallest_value_is_white_are_inverted(bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    values = (PIXELS.astype(np.int64) << (bits - 8)).astype(dtype)
    stated = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": bits, "HighBit": bits - 1}
    assert np.array_equal(frames(dicom((1 << bits) - 1 - values, attributes=stated)), PIXELS)


def test_frames_of_one_file_are_mapped_by_the_bits_that_it_states():
    dark = np.full_like(DEEP[:1], 150)  # alone they would be taken for values of 8 bits
    dark[:, 0] = 0
    stated = {"BitsStored": 12, "HighBit": 11}
    data = dicom(np.concatenate([DEEP >> 4, dark]), attributes=stated)
    assert np.array_equal(frames(data)[:3], DEEP >> 8)
    flags = volumes.decode_frame(volumes.load_volume(data), 4)[1]
    assert flags == ("16-bit",) and int(frames(data)[3].max()) == 150 >> 4


def test_a_frame_of_one_gray_level_is_refused_alone():
    volume = volumes.load_volume(dicom(np.concatenate([PIXELS, np.zeros_like(PIXELS[:1])])))
    assert np.array_equal(volumes.decode_frame(volume, 3)[0], PIXELS[2])
    with pytest.raises(UnreadableImage, match="nothing to see: all its pixels have the gray level 0"):
        volumes.decode_frame(volume, 4)


def test_gray_frames_in_rgb_are_read_and_coloured_ones_are_refused():
    rgb = np.repeat(PIXELS[..., None], 3, axis=-1)
    assert np.array_equal(frames(dicom(rgb)), PIXELS)
    rgb[..., 0] = 255 - rgb[..., 0]
    with pytest.raises(UnreadableImage, match="in colour"):
        frames(dicom(rgb))


def test_the_eye_and_the_distance_of_rows_are_those_that_the_file_states_of_each_frame():
    data = dicom(PIXELS, eyes=["R", "L", "B"], spacing=[0.0039, 0.0117])
    assert [(facts.eye, facts.axial_um) for facts in header(data).frames] == [("OD", 3.9), ("OS", 3.9), ("", 3.9)]
    assert header(data).patient == "P7"


def test_what_a_file_does_not_state_is_not_guessed():
    data = dicom(PIXELS[:1], attributes={"PatientID": None, "NumberOfFrames": None})
    assert header(data).patient == ""
    assert [(facts.eye, facts.axial_um) for facts in header(data).frames] == [("", 0.0)]
    assert header(dicom(PIXELS, spacing=[1.0, 1.0])).frames[0].axial_um == 0  # no device has rows 1 mm apart


def test_the_eye_of_a_file_without_functional_groups_is_read():
    assert header(dicom(PIXELS[:1], attributes={"ImageLaterality": "L"})).frames[0].eye == "OS"


def test_circular_and_en_face_frames_are_excluded_and_the_others_read():
    data = dicom(PIXELS, orientations=["LINEAR", "NONLINEAR", "TRANSVERSE"])
    assert [facts.exclusion.partition(":")[0] for facts in header(data).frames] == [
        "",
        "circular scan",
        "en-face image",
    ]
    volume = volumes.load_volume(data)
    assert np.array_equal(volumes.decode_frame(volume, 1)[0], PIXELS[0])
    with pytest.raises(UnreadableImage, match="circular scan"):
        volumes.decode_frame(volume, 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dicom(PIXELS, attributes={"SOPClassUID": volume_files.PHOTOGRAPH}), "another kind: Ophthalmic Photography"),
        (dicom(PIXELS, attributes={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}), "another kind: CT"),
        (dicom(PIXELS, attributes={"SOPClassUID": None, "Modality": None}), "another kind: none"),
        (dicom(PIXELS, attributes={"Rows": 60_000, "Columns": 60_000}), "too large: 60000x60000"),
        (dicom(PIXELS, attributes={"NumberOfFrames": 2_000_000_000}), "too large: 2,000,000,000 frames"),
        (dicom(PIXELS, attributes={"NumberOfFrames": 0}), "holds no frame"),
        (dicom(PIXELS, attributes={"Rows": None}), "without pixels"),
        (dicom(PIXELS[:, :32]), "too small: 128x32"),
        (dicom(PIXELS, attributes={"PhotometricInterpretation": "PALETTE COLOR"}), "PALETTE COLOR"),
        (dicom(PIXELS, attributes={"BitsAllocated": None}), "8 of None bits; export its B-scans as PNG"),
        (dicom(PIXELS, attributes={"PixelRepresentation": 1}), "8 of 8 bits, signed; export its B-scans as PNG"),
        (dicom(PIXELS, syntax=volume_files.JPEG_LOSSLESS, encoded=[b"\xff\xd8"] * 3), "JPEG Lossless"),
    ],
)
def test_dicom_files_that_cannot_be_used_are_refused_before_a_pixel_is_decoded(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        header(data)


def test_the_end_that_is_missing_of_a_dicom_is_noticed():
    data = dicom(PIXELS)
    with pytest.raises(UnreadableImage, match="DICOM"):
        frames(data[: len(data) // 2])
    with pytest.raises(UnreadableImage):
        header(data[:300])
    encoded = [jpeg(frame) for frame in PIXELS]
    cut = dicom(PIXELS, syntax=volume_files.JPEG_BASELINE, encoded=[encoded[0][:-200], *encoded[1:]])
    with pytest.raises(UnreadableImage, match="truncated JPEG"):
        frames(cut)


@pytest.mark.parametrize("syntax", [volume_files.JPEG_BASELINE, volume_files.JPEG_2000])
def test_a_compressed_frame_of_another_size_than_stated_is_refused(syntax):
    encode = jpeg if syntax == volume_files.JPEG_BASELINE else jpeg_2000
    larger = drawn("larger", 3, 192, 256)
    with pytest.raises(UnreadableImage, match=r"size|corrupt"):
        frames(dicom(PIXELS, syntax=syntax, encoded=[encode(frame) for frame in larger]))


def test_reflectance_of_a_vol_is_shown_by_its_fourth_root():
    volume = volumes.load_volume(vol(reflectance(PIXELS)))
    for number, pixels in enumerate(PIXELS, 1):
        gray, flags = volumes.decode_frame(volume, number)
        assert np.array_equal(gray, pixels) and flags == ("float", "reflectance")


def test_a_vol_is_black_where_it_has_no_value_and_white_beyond_its_range():
    values = reflectance(PIXELS)
    values[0, :10], values[0, 10:20], values[0, 20:30] = INVALID, np.nan, 2.0
    gray, _ = volumes.decode_frame(volumes.load_volume(vol(values)), 1)
    assert not gray[:20].any() and (gray[20:30] == 255).all() and np.array_equal(gray[30:], PIXELS[0, 30:])


def test_a_vol_states_eye_distance_of_rows_and_patient():
    found = header(vol(reflectance(PIXELS), eye="OS", row_mm=0.0039, patient="A 12"))
    assert found.patient == "A 12" and [(facts.eye, facts.axial_um) for facts in found.frames] == [("OS", 3.9)] * 3
    unknown = header(vol(reflectance(PIXELS), eye="", row_mm=0, patient=""))
    assert unknown.patient == "" and unknown.frames[0].eye == "" and unknown.frames[0].axial_um == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (vol(reflectance(PIXELS), pattern=2), "circular scan"),
        (vol(reflectance(PIXELS))[:-1], "truncated .vol"),
        (vol(reflectance(PIXELS))[:1000], "truncated .vol"),
        (vol(reflectance(PIXELS[:, :32])), "too small"),
        (vol(np.zeros((0, 96, 128), np.float32)), "holds no frame"),
    ],
)
def test_vol_files_that_cannot_be_used_are_refused(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        header(data)


def test_eyepy_reads_the_same_values_and_facts_from_a_vol():
    reader = pytest.importorskip("eyepy.io.he.vol_reader")
    data = vol(reflectance(PIXELS), eye="OS", row_mm=0.0039, pattern=4, patient="A 12")
    theirs, ours = reader.vol_format.parse(data), volumes.load_volume(data)
    assert (theirs.scan_position, theirs.scan_pattern, theirs.patient_id) == ("OS", 4, "A 12")
    assert theirs.scale_y == pytest.approx(0.0039)
    for number, bscan in enumerate(theirs.bscans, 1):
        assert np.array_equal(ours.values(number), bscan.data)


def test_equal_frames_have_equal_digests_and_others_do_not():
    first, second = (volumes.load_volume(dicom(pixels)) for pixels in (PIXELS, PIXELS[::-1]))
    assert volumes.frame_sha256(first, 1) == volumes.frame_sha256(second, 3) != volumes.frame_sha256(first, 2)
    shown = {"PhotometricInterpretation": "MONOCHROME1"}
    inverted = volumes.load_volume(dicom(PIXELS, attributes=shown))
    assert volumes.frame_sha256(inverted, 1) != volumes.frame_sha256(first, 1)


@pytest.mark.parametrize("number", [0, 4])
def test_a_frame_that_a_file_does_not_have_is_named(number):
    with pytest.raises(UnreadableImage, match=f"no frame {number}, but 3"):
        volumes.decode_frame(volumes.load_volume(vol(reflectance(PIXELS))), number)


def test_without_pydicom_a_dicom_is_refused_with_the_extra_to_install(tmp_path):
    path = tmp_path / "scan"
    path.write_bytes(dicom(PIXELS))
    code = f"""
import sys
sys.modules["pydicom"] = None
from octprep.format.errors import UnreadableImage
from octprep.preprocessing import volumes
try:
    volumes.read_header(open({str(path)!r}, "rb"))
except UnreadableImage as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'octprep[dicom]'" in done.stdout


def test_nothing_of_pydicom_is_imported_before_a_dicom_is_read():
    code = "import sys, octprep.pipeline, octprep.source.listing; sys.exit('pydicom' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_volume_that_is_named_as_a_picture_is_refused_with_what_to_do():
    with pytest.raises(UnreadableImage, match=r"give it the ending .dcm"):
        preprocessing.decode(dicom(PIXELS))
    with pytest.raises(UnreadableImage, match=r"give it the ending .vol"):
        preprocessing.decode(vol(reflectance(PIXELS)))
