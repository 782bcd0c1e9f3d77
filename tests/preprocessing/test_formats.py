"""Files of every format give the same gray values for the same pixels, or a reason; never others, never a crash."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from octprep import preprocessing
from octprep.format.config import Preprocessing
from octprep.format.errors import UnreadableImage
from octprep.preprocessing import pillow_formats
from tests.image_faults import read_damaged_file, read_odd_file
from tests.worlds.archive import draw_scan
from tests.worlds.image_files import (
    LOSSLESS,
    TIFF_COMPRESSIONS,
    chunk,
    decoded_by_threads,
    png_of_size,
    saved,
    tiled_tiff,
    turned_jpeg,
)
from tests.worlds.layers import jpeg, layered


def test_odd_files_give_their_pixels_or_a_reason():
    assert len({read_odd_file(seed) for seed in range(156)}) > 50


def test_damaged_files_give_pixels_or_a_reason():
    assert len({read_damaged_file(seed) for seed in range(156)}) > 10


def test_the_same_pixels_are_stored_whatever_the_format():
    gray = preprocessing.decode(jpeg(layered(30, 20)[0], 90))
    stored = preprocessing.preprocess(gray, Preprocessing()).pixels
    image = Image.fromarray(gray)
    files = [saved(image.convert(mode), name) for name in LOSSLESS for mode in ("RGB", *("L" * (name != "WebP")))]
    files += [saved(image, "TIFF", compression=compression) for compression in TIFF_COMPRESSIONS]
    files += [tiled_tiff(gray), tiled_tiff(gray.astype(np.uint16) * 257), tiled_tiff(gray / np.float32(255))]
    for data in files:
        decoded, flags = preprocessing.decode_with_flags(data)
        assert np.array_equal(preprocessing.preprocess(decoded, Preprocessing(), flags).pixels, stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_exif_is_honoured(orientation):
    gray = draw_scan("turned", 80, 120)
    data, upright = turned_jpeg(gray, orientation)
    assert upright.shape == gray.shape
    assert np.array_equal(preprocessing.decode(data), upright)
    for image_format in ("PNG", "TIFF", "WebP"):
        image = Image.fromarray(gray).convert("RGB")
        assert np.array_equal(preprocessing.decode(saved(image, image_format, orientation)), gray)


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01", b"garbage"]
)
def test_damaged_exif_data_leave_the_image_as_it_is(exif):
    good = jpeg(draw_scan("x"))
    segment = b"Exif\0\0" + exif
    data = good[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2) + segment + good[2:]
    assert np.array_equal(preprocessing.decode(data), preprocessing.decode(good))


def test_sixteen_bits_are_cut_to_the_upper_eight():
    values = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    gray, flags = preprocessing.decode_with_flags(saved(values, "PNG"))
    assert np.array_equal(gray, values >> 8)
    assert flags == ("16-bit",)
    of_12_bits, _ = preprocessing.decode_with_flags(saved(values % 4096, "TIFF"))
    assert np.array_equal(of_12_bits, values % 4096 >> 4)


def strip_tiff(pixels, order="<", extra=(), planar=1):
    """Pixels, (rows, columns) or (rows, columns, channels), as a TIFF of one strip without compression.

    order: < little or > big endian. extra: what the channels beyond gray or RGB are (TIFF 6.0, ExtraSamples).
    """
    rows, columns, channels = (*pixels.shape, 1)[:3]
    stored = np.moveaxis(pixels, -1, 0) if planar == 2 else pixels
    strips = [part.astype(pixels.dtype.newbyteorder(order)).tobytes() for part in (stored if planar == 2 else [stored])]
    tags = {
        256: [columns], 257: [rows], 258: [pixels.itemsize * 8] * channels, 259: [1],
        262: [2 if channels - len(extra) == 3 else 1], 273: [0] * len(strips), 277: [channels], 278: [rows],
        279: [len(strip) for strip in strips], 284: [planar],
        339: [{"u": 1, "i": 2, "f": 3, "c": 6}[pixels.dtype.kind]] * channels,
    }  # fmt: skip
    if extra:
        tags[338] = list(extra)
    behind = first = 8 + 2 + 12 * len(tags) + 4  # values that need over 4 bytes, then the strips
    first += sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [first + sum(map(len, strips[:index])) for index in range(len(strips))]
    entries, values_behind = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            values_behind += packed
            packed = struct.pack(f"{order}I", behind + len(values_behind) - len(packed))
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + values_behind + b"".join(strips)


def png_of_16_bits(pixels):
    """Pixels, (rows, columns, 2 to 4 channels) uint16, as a PNG."""
    rows, columns, channels = pixels.shape
    header = struct.pack(">IIBBBBB", columns, rows, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    compressed = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + compressed + chunk(b"IEND", b"")


def files_of_16_bits(values):
    """Gray values, (rows, columns) uint16, as colour and with alpha, in every layout that is read."""
    rgb = np.dstack([values] * 3)
    opaque = np.dstack([rgb, np.full_like(values, 65535)])
    for pixels in (rgb, opaque, opaque[..., 2:]):
        yield png_of_16_bits(pixels)
    yield cv2.imencode(".png", rgb)[1].tobytes()
    for compression in (1, 5, 8, 32773):  # none, LZW, deflate, PackBits
        yield cv2.imencode(".tiff", rgb, [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1].tobytes()
    for order in "<>":
        yield strip_tiff(rgb, order)
        for extra in (0, 1, 2):  # unspecified, alpha that the colours were multiplied by, alpha
            yield strip_tiff(opaque, order, extra=(extra,))


@pytest.mark.parametrize("largest", [65535, 4095, 255])
def test_sixteen_bits_in_colour_are_those_in_gray_where_the_channels_are_equal(largest):
    values = np.random.default_rng(largest).integers(0, largest + 1, (70, 90)).astype(np.uint16)
    values[0, :2] = 0, largest
    gray, flags = preprocessing.decode_with_flags(saved(values, "PNG"))
    assert (flags, gray.max()) == (("16-bit",), 255)
    files = list(files_of_16_bits(values))
    assert len(files) == 16
    for data in files:
        in_colour, flags = preprocessing.decode_with_flags(data)
        assert flags == ("16-bit",)
        assert np.array_equal(in_colour, gray)


@pytest.mark.parametrize(("largest", "shift"), [(65535, 8), (4095, 4), (255, 0)])
def test_colours_of_sixteen_bits_are_those_of_eight(largest, shift):
    values = np.random.default_rng(shift).integers(0, largest + 1, (70, 90, 3)).astype(np.uint16)
    values[0, 0] = largest
    of_8_bits = saved((values >> shift).astype(np.uint8), "PNG")
    with pytest.raises(UnreadableImage, match="in colour"):
        preprocessing.decode(of_8_bits)
    expected = preprocessing.decode(of_8_bits, "luminance")
    for data in (png_of_16_bits(values), strip_tiff(values), strip_tiff(values, ">")):
        gray, flags = preprocessing.decode_with_flags(data, "luminance")
        assert flags == ("16-bit", "colour")
        assert np.array_equal(gray, expected)


@pytest.mark.parametrize(("largest", "shift"), [(65535, 8), (4095, 4), (255, 0)])
def test_transparent_pixels_of_sixteen_bits_are_black_as_those_of_eight(largest, shift):
    pixels = np.random.default_rng(shift).integers(0, largest + 1, (70, 90, 4)).astype(np.uint16)
    pixels[..., :3] = pixels[..., :1]
    pixels[0, 0], pixels[0, 1, 3] = largest, 0
    expected = preprocessing.decode(saved(Image.fromarray((pixels >> shift).astype(np.uint8)), "PNG"))
    assert (expected[0, 0], expected[0, 1]) == (255, 0)
    for data in (png_of_16_bits(pixels), strip_tiff(pixels, extra=(2,)), png_of_16_bits(pixels[..., 2:])):
        assert np.array_equal(preprocessing.decode(data), expected)
    multiplied = pixels.copy()
    multiplied[..., :3] = expected[..., None].astype(np.uint16) << shift
    multiplied[0, 0] = largest
    assert np.array_equal(preprocessing.decode(strip_tiff(multiplied, extra=(1,))), expected)


def test_channels_of_sixteen_bits_behind_one_another_are_refused():
    rgb = np.dstack([draw_scan("planar").astype(np.uint16) * 16] * 3)
    with pytest.raises(UnreadableImage, match="PlanarConfiguration 2"):
        preprocessing.decode(strip_tiff(rgb, planar=2))
    of_8_bits = (rgb >> 4).astype(np.uint8)
    assert np.array_equal(preprocessing.decode(strip_tiff(of_8_bits, planar=2)), of_8_bits[..., 0])


@pytest.mark.parametrize(
    ("dtype", "channels", "kind"),
    [
        (np.float64, 1, "64-bit floating point"),
        (np.float16, 1, "16-bit floating point"),
        (np.float32, 3, "3 channels of 32-bit floating point"),
        (np.int8, 1, "8-bit signed integers"),
        (np.int16, 1, "16-bit signed integers"),
        (np.int32, 1, "32-bit signed integers"),
        (np.uint32, 1, "32-bit unsigned integers"),
        (np.uint64, 1, "64-bit unsigned integers"),
        (np.complex64, 1, "64-bit complex floating point"),
        (np.uint16, 2, "2 channels of 16-bit unsigned integers"),
    ],
)
def test_a_tiff_in_pixels_that_are_not_read_is_refused_by_the_name_of_their_type(dtype, channels, kind):
    pixels = (draw_scan("typed") // 2).astype(dtype)
    if channels > 1:
        pixels = np.dstack([pixels] * channels)
    reason = f"pixels without a gray level: {kind}; save them as gray or RGB of 8 or 16 bits unsigned, or as gray in "
    for data in (strip_tiff(pixels), strip_tiff(pixels, ">")):
        with pytest.raises(UnreadableImage) as caught:
            preprocessing.decode(data)
        assert str(caught.value) == f"{reason}float32"


def test_white_is_zero_in_a_tiff_that_says_so():
    values = (np.arange(80 * 80, dtype=np.uint16) * 10).reshape(80, 80)
    data = bytearray(tiled_tiff(values))
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8] = 0
    assert np.array_equal(preprocessing.decode(bytes(data)), (65535 - values) >> 8)


def test_decibels_are_scaled_between_percentiles():
    decibels = np.random.default_rng(0).normal(-40, 10, (90, 90)).astype(np.float32)
    gray, flags = preprocessing.decode_with_flags(tiled_tiff(decibels))
    black, white = np.percentile(decibels, (0.1, 99.9))
    expected = np.clip((decibels.astype(float) - black) / (white - black), 0, 1) * 255
    assert np.abs(gray - expected).max() <= 0.5 + 1e-4
    assert flags == ("float",)


def test_linear_reflectance_is_shown_as_its_fourth_root():
    levels = np.linspace(0, 1, 8100, dtype=np.float32).reshape(90, 90)
    for reflectance in (levels**8, levels**8 * 7e4):
        gray, flags = preprocessing.decode_with_flags(tiled_tiff(reflectance.astype(np.float32)))
        assert flags == ("float", "reflectance")
        assert np.abs(gray[:89] / 255 - (reflectance[:89] / reflectance.max()) ** 0.25).max() < 0.01
    raw = np.rint(levels**16 * 65535).astype(np.uint16)
    assert preprocessing.decode_with_flags(saved(raw, "TIFF"))[1] == ("16-bit", "reflectance")


def test_size_and_cost_are_checked_before_an_image_is_decoded():
    huge_tile = bytearray(tiled_tiff(np.zeros((64, 64), np.uint8)))
    for tag in (322, 323):
        entry = huge_tile.index(struct.pack("<HHI", tag, 4, 1))
        huge_tile[entry + 8 : entry + 12] = struct.pack("<I", 60_000)
    strips = saved(np.zeros((20_001, 64), np.uint8), "TIFF", tiffinfo={278: 1})
    webp = bytearray(saved(np.zeros((64, 64, 3), np.uint8), "WebP"))
    webp[21:25] = ((16_382 << 14) + 16_382).to_bytes(4, "little")
    bmp = bytearray(saved(np.zeros((64, 64), np.uint8), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    for data, reason in [
        (png_of_size(60_000, 60_000), "too large: 60000x60000"),
        (bytes(bmp), "too large: 60000x60000"),
        (bytes(webp), "too large: 16383x16383"),
        (bytes(huge_tile), "tiles larger"),
        (strips, "too slow to decode: more than 20,000 strips"),
    ]:
        with pytest.raises(UnreadableImage, match=reason):
            preprocessing.decode(data)


def test_text_that_grows_when_it_is_unpacked_is_a_bad_image_and_no_lack_of_memory():
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000)))
    profile = chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(9_000_000)))
    good = saved(draw_scan("text"), "PNG")
    for added in (text * 80, profile):
        data = good[:33] + added + good[33:]
        with pytest.raises(UnreadableImage, match="corrupt PNG"):
            preprocessing.decode(data)


def test_too_little_memory_is_no_bad_image(tmp_path):
    """In a process of its own, as the limit of its address space cannot be raised again."""
    black = Image.new("RGB", (4000, 4000))
    for image_format in LOSSLESS:
        (tmp_path / "image").write_bytes(
            saved(black, image_format, **({"compression": "tiff_lzw"} if image_format == "TIFF" else {}))
        )
        code = (
            "import resource, sys; from pathlib import Path; from octprep import preprocessing\n"
            "data = Path(sys.argv[1]).read_bytes()\n"
            "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000,) * 2)\n"
            "try: preprocessing.decode(data)\n"
            "except MemoryError: print('too little memory')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "image"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "too little memory\n", image_format


def test_threads_decode_at_once_and_leave_the_filters_of_warnings_alone():
    gray = draw_scan("threads", 300, 400)
    before = list(warnings.filters)
    decoded = decoded_by_threads(saved(gray, "TIFF", compression="tiff_lzw"), 8)
    assert len(decoded) == 8
    assert all(np.array_equal(pixels, gray) for pixels in decoded)
    assert warnings.filters == before


def test_odd_metadata_are_not_warned_of():
    stream = io.BytesIO()
    Image.fromarray(draw_scan("odd")).save(stream, "TIFF", tiffinfo={282: 1.0})
    data = bytearray(stream.getvalue())
    entry = data.index(struct.pack("<H", 282))
    data[entry + 4 : entry + 8] = struct.pack("<I", 2**31)  # more values than the file has bytes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preprocessing.decode(bytes(data)).shape == (96, 128)


def test_the_name_of_a_file_does_not_matter(tmp_path):
    gray = draw_scan("named")
    for name, data in (("a.jpeg", saved(gray, "PNG")), ("b.png", saved(gray, "TIFF")), ("c", saved(gray, "BMP"))):
        (tmp_path / name).write_bytes(data)
        assert np.array_equal(preprocessing.read_image(tmp_path / name)[0], gray)


def test_every_format_is_known_by_its_first_bytes():
    gray = np.zeros((64, 64), np.uint8)
    for name in LOSSLESS:
        assert pillow_formats.format_of(saved(Image.fromarray(gray).convert("RGB"), name)) == name
    assert pillow_formats.format_of(tiled_tiff(gray, order=">")) == "TIFF"
    assert pillow_formats.format_of(saved(gray, "TIFF", big_tiff=True)) == "TIFF"
    gray[0] = 9
    assert np.array_equal(preprocessing.decode(saved(gray, "TIFF", big_tiff=True)), gray)


def test_a_bmp_of_16_bits_for_all_channels_together_is_read():
    levels = np.tile(np.arange(64, dtype=np.uint16) // 2, (64, 1))  # of 5 bits
    packed = (levels << 11 | (levels << 1) << 5 | levels).astype("<u2")[::-1]  # bottom up
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 16, 3, packed.nbytes, 2835, 2835, 0, 0)
    start = 14 + len(header) + len(masks)
    data = b"BM" + struct.pack("<IHHI", start + packed.nbytes, 0, 0, start) + header + masks + packed.tobytes()
    gray, flags = preprocessing.decode_with_flags(data)
    assert flags == () and np.abs(gray.astype(int) - np.rint(levels * 255 / 31).astype(int)).max() <= 4
