"""Image files of every kind that is read, and of kinds that are not, drawn from a seed, and damaged ones."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from octprep import preprocessing
from tests.worlds.archive import draw_scan

TIFF_COMPRESSIONS = (None, "packbits", "tiff_lzw", "tiff_adobe_deflate")
LOSSLESS = ("PNG", "TIFF", "BMP", "WebP")
ORIENTATION = 0x0112  # the tag of EXIF and TIFF


@dataclass(frozen=True)
class ImageFile:
    """A file, and what reading it must give."""

    kind: str
    data: bytes
    gray: np.ndarray | None = None  # (rows, columns) uint8, upright
    flags: tuple[str, ...] = ()
    reason: str = ""  # part of it, if the file cannot be used


def decoded_by_threads(data: bytes, count: int) -> list[np.ndarray]:
    """The gray values of an image as each of several threads decodes them at once."""
    decoded: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: decoded.append(preprocessing.decode(data))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return decoded


def saved(pixels: np.ndarray | Image.Image, image_format: str, orientation: int = 1, **options: Any) -> bytes:
    """Pixels as a file without loss, stored turned, as its EXIF data or, in a TIFF, its tag say."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    if orientation > 1:
        image = turned_away(image, orientation)
        if image_format == "TIFF":
            options["tiffinfo"] = {ORIENTATION: orientation}
        else:
            options["exif"] = exif(orientation)
    if image_format == "WebP":
        options |= {"lossless": True, "exact": True, "method": 0}
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def turned_jpeg(gray: np.ndarray, orientation: int) -> tuple[bytes, np.ndarray]:
    """A JPEG that is stored turned, as its EXIF data say, and its gray values as they are to be shown."""
    stream = io.BytesIO()
    turned_away(Image.fromarray(gray), orientation).save(stream, "JPEG", quality=95, exif=exif(orientation))
    data = np.frombuffer(stream.getvalue(), np.uint8)
    stored = Image.fromarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION))
    stored.getexif()[ORIENTATION] = orientation
    return stream.getvalue(), np.asarray(ImageOps.exif_transpose(stored))


def turned_away(image: Image.Image, orientation: int) -> Image.Image:
    """An upright image as it is stored under an orientation, so that a reader who obeys it turns it back."""
    copy = image.copy()
    copy.getexif()[ORIENTATION] = {6: 8, 8: 6}.get(orientation, orientation)
    turned = ImageOps.exif_transpose(copy)
    turned.info.clear()
    return turned


def exif(orientation: int) -> bytes:
    """EXIF data that state an orientation."""
    content = Image.Exif()
    content[ORIENTATION] = orientation
    return content.tobytes()


def tiled_tiff(pixels: np.ndarray, tile: int = 64, order: str = "<") -> bytes:
    """Gray pixels, uint8, uint16 or float32, as a TIFF of uncompressed tiles; order: < little or > big endian."""
    rows, columns = pixels.shape
    down, across = -(-rows // tile), -(-columns // tile)
    padded = np.pad(pixels, ((0, down * tile - rows), (0, across * tile - columns)))
    padded = padded.astype(padded.dtype.newbyteorder(order))
    tiles = [
        padded[y : y + tile, x : x + tile].tobytes()
        for y in range(0, down * tile, tile)
        for x in range(0, across * tile, tile)
    ]
    count, size = len(tiles), len(tiles[0])
    entries = 10
    after = 8 + 2 + entries * 12 + 4
    offsets_at, counts_at = after, after + 4 * count
    first = counts_at + 4 * count
    short, long = 3, 4
    directory = [
        (256, long, 1, columns), (257, long, 1, rows), (258, short, 1, pixels.itemsize * 8), (259, short, 1, 1),
        (262, short, 1, 1), (322, long, 1, tile), (323, long, 1, tile), (324, long, count, offsets_at),
        (325, long, count, counts_at), (339, short, 1, 3 if pixels.dtype.kind == "f" else 1),
    ]  # fmt: skip
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, entries)
    for tag, kind, number, value in directory:
        if tag in (324, 325) and number == 1:
            value = first if tag == 324 else size
        packed = struct.pack(f"{order}HH", value, 0) if kind == short else struct.pack(f"{order}I", value)
        data += struct.pack(f"{order}HHI", tag, kind, number) + packed
    data += struct.pack(f"{order}I", 0)
    data += struct.pack(f"{order}{count}I", *(first + index * size for index in range(count)))
    data += struct.pack(f"{order}{count}I", *[size] * count)
    return data + b"".join(tiles)


def _png(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    mode = str(rng.choice(["L", "RGB", "RGBA", "LA", "P"]))
    image = Image.fromarray(gray).convert(mode)
    return ImageFile(f"PNG {mode}", saved(image, "PNG", int(rng.integers(1, 9))), gray)


def _tiff(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    mode = str(rng.choice(["L", "RGB", "RGBA", "LA", "P"]))
    compression = TIFF_COMPRESSIONS[int(rng.integers(4))]
    data = saved(Image.fromarray(gray).convert(mode), "TIFF", int(rng.integers(1, 9)), compression=compression)
    return ImageFile(f"TIFF {mode} {compression}", data, gray)


def _bmp(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    mode = str(rng.choice(["L", "RGB", "P"]))
    return ImageFile(f"BMP {mode}", saved(Image.fromarray(gray).convert(mode), "BMP"), gray)


def _webp(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    mode = str(rng.choice(["RGB", "RGBA"]))
    return ImageFile(f"WebP {mode}", saved(Image.fromarray(gray).convert(mode), "WebP", int(rng.integers(1, 9))), gray)


def _jpeg(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    orientation = int(rng.integers(1, 9))
    return ImageFile(f"JPEG orientation {orientation}", *turned_jpeg(gray, orientation))


def _one_bit(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    image_format = LOSSLESS[int(rng.integers(3))]
    pixels = np.where(gray > 60, 255, 0).astype(np.uint8)
    return ImageFile(f"{image_format} 1 bit", saved(Image.fromarray(pixels).convert("1"), image_format), pixels)


def _16_bit(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    full = gray.astype(np.uint16)
    full[0, 0] = gray[0, 0] = 255  # so that the depth shows
    bits = int(rng.choice([12, 16]))
    values = (full << (bits - 8)) + rng.integers(0, 1 << (bits - 8), gray.shape).astype(np.uint16)
    kind = str(rng.choice(["PNG", "TIFF", "tiles", "big endian", "lzw"]))
    data = {
        "PNG": lambda: saved(values, "PNG"),
        "TIFF": lambda: saved(values, "TIFF"),
        "lzw": lambda: saved(values, "TIFF", compression="tiff_lzw"),
        "tiles": lambda: tiled_tiff(values),
        "big endian": lambda: tiled_tiff(values, order=">"),
    }[kind]()
    return ImageFile(f"{bits} of 16 bits, {kind}", data, gray, ("16-bit",))


def _float(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    kind = str(rng.choice(["0 to 1", "0 to 255", "reflectance"]))
    levels = gray / np.float32(255)
    levels[0, 0], gray[0, 0] = 1, 255  # so that the range shows
    values = {"0 to 1": levels, "0 to 255": levels * 255, "reflectance": levels**4}[kind].astype(np.float32)
    flags = ("float", "reflectance") if kind == "reflectance" else ("float",)
    data = tiled_tiff(values) if rng.random() < 0.5 else saved(values, "TIFF", compression="tiff_adobe_deflate")
    return ImageFile(f"float, {kind}", data, gray, flags)


def _transparent(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    alpha = rng.integers(0, 256, gray.shape).astype(np.uint8)
    data = saved(Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)]), "PNG")
    return ImageFile("transparent", data, ((gray.astype(int) * alpha + 127) // 255).astype(np.uint8))


def _drawn(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    rgb = np.dstack([gray] * 3)
    cv2.line(rgb, (10, 10), (50, 50), (255, 0, 0), 1)
    return ImageFile("drawn", saved(rgb, LOSSLESS[int(rng.integers(4))]), None, ("drawn",))


def _refused(gray: np.ndarray, rng: np.random.Generator) -> ImageFile:
    image, other = Image.fromarray(gray), Image.fromarray(gray[::-1].copy())
    coloured = cv2.cvtColor(cv2.applyColorMap(np.maximum(gray, 40), cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    panels = np.vstack([gray, np.full((12, gray.shape[1]), 255, np.uint8), gray, gray])
    nan = np.where(gray > 50, np.nan, gray).astype(np.float32)
    stream = io.BytesIO()
    image.convert("CMYK").save(stream, "JPEG")
    files: list[tuple[str, Callable[[], bytes], str]] = [
        ("APNG", lambda: saved(image, "PNG", save_all=True, append_images=[other]), "several images"),
        (
            "animated WebP",
            lambda: saved(image.convert("RGB"), "WebP", save_all=True, append_images=[other.convert("RGB")]),
            "several images",
        ),
        ("pages", lambda: saved(image, "TIFF", save_all=True, append_images=[other]), "several images"),
        ("GIF", lambda: saved(image, "GIF"), "a GIF"),
        ("CMYK TIFF", lambda: saved(image.convert("CMYK"), "TIFF"), "without a gray level"),
        ("CMYK JPEG", lambda: stream.getvalue(), "without a gray level: 4 channels"),
        ("32 bits", lambda: saved(Image.fromarray(gray.astype(np.int32)), "TIFF"), "without a gray level"),
        ("not a number", lambda: saved(nan, "TIFF"), "not finite"),
        ("flat", lambda: tiled_tiff(np.full((70, 70), 0.5, np.float32)), "same value"),
        ("false colour PNG", lambda: saved(coloured, "PNG"), "in colour"),
        ("false colour JPEG", lambda: cv2.imencode(".jpg", coloured)[1].tobytes(), "in colour"),
        ("panels", lambda: saved(panels, LOSSLESS[int(rng.integers(4))]), "several panels"),
        ("small", lambda: saved(gray[:63], LOSSLESS[int(rng.integers(4))]), "too small"),
        ("large PNG", lambda: png_of_size(30_000, 30_000), "too large"),
        ("empty", lambda: b"", "empty file"),
        ("text", lambda: b"patient,class\n", "something unknown"),
    ]
    kind, make, reason = files[int(rng.integers(len(files)))]
    return ImageFile(kind, make(), reason=reason)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(rows: int, columns: int) -> bytes:
    """A gray PNG whose header states a size, without pixels."""
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


_KINDS = (_png, _tiff, _bmp, _webp, _jpeg, _one_bit, _16_bit, _float, _transparent, _drawn, _refused, _refused)


def draw_image_file(seed: int) -> ImageFile:
    """The file of a seed: one of all kinds above, with a scan of its own."""
    rng = np.random.default_rng([31, seed])
    rows, columns = (int(side) for side in rng.integers(64, 300, 2))
    return _KINDS[seed % len(_KINDS)](draw_scan(f"file {seed}", rows, columns), rng)


def damaged(data: bytes, seed: int) -> bytes:
    """A file cut short, or with some bytes flipped, overwritten, removed, repeated or inserted."""
    rng = np.random.default_rng([32, seed])
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        # Half of the damage is done to the headers, where most can go wrong.
        at = int(rng.integers(min(len(changed), 200) if rng.random() < 0.5 else len(changed))) if changed else 0
        many = int(rng.integers(1, 40))
        match int(rng.integers(6)):
            case 0:
                del changed[at:]
            case 1 if changed:
                changed[at] ^= 1 << int(rng.integers(8))
            case 2:
                changed[at : at + many] = rng.bytes(many)
            case 3:
                del changed[at : at + many]
            case 4:
                changed[at:at] = changed[at : at + many]
            case 5:
                changed[at : at + 4] = bytes([int(rng.choice([0, 255]))]) * 4
    return bytes(changed)
