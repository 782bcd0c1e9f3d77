"""The pictures of README and docs/, drawn from synthetic scans: `make pictures` writes them next to this file.

preparation.jpg: a scan of each class with the crop, cleaned, as stored, and as stored with --flatten. band.jpg: a thin
and a swollen retina with both crops, and as stored with each. denoisers.jpg: the same region of a scan after each
denoiser. report.jpg: the top of a report.html as a browser shows it, light and dark; only where Chromium is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from octprep import preprocessing
from octprep.arrays import Gray
from octprep.format.config import DENOISERS, Preprocessing
from octprep.synthetic import CLASSES, Phantom, scans
from octprep.synthetic.faults import encode

HERE = Path(__file__).parent
GAP, TITLE, INK, PAPER = 6, 24, (40, 44, 52), (255, 255, 255)


def main() -> None:
    drawn = [(scan, preprocessing.decode(encode(scan.pixels))) for _, scan in scans(60, seed=3)]  # with its truth
    rows = []
    for label in CLASSES:
        candidates = [(scan, gray) for scan, gray in drawn if scan.label == label]
        # A scan on which every step has an effect: with fill, and with a steep retina.
        _, gray = max(candidates, key=lambda pair: min(pair[0].fill.mean(), 0.08) + np.ptp(pair[0].bruch) / 2000)
        rows.append(before_and_after(gray))
    titles = ["source, with the crop", "cleaned", "as stored", "as stored, --flatten"]
    save(sheet(titles, CLASSES, rows), "preparation.jpg")

    def thickness(pair: tuple[Phantom, Gray]) -> float:
        """The largest of the retina in rows; 0 where tilt or fill would hide how thick it is."""
        scan, _ = pair
        is_plain = np.ptp(scan.bruch) < 60 and not scan.fill.any()
        return float((scan.bruch - scan.ilm).max()) if is_plain else 0.0

    thin = min((pair for pair in drawn if pair[0].label == "NORMAL" and thickness(pair)), key=thickness)
    swollen = max((pair for pair in drawn if pair[0].label == "DME"), key=thickness)
    titles = ["source: retina orange, band blue", "stored, --crop retina", "stored, --crop band"]
    save(sheet(titles, ("thin", "swollen"), [both_crops(gray) for _, gray in (thin, swollen)]), "band.jpg")

    _, gray = next(pair for pair in drawn if pair[0].label == "DRUSEN" and not pair[0].fill.any())
    top, bottom, _, _ = preprocessing.preprocess(gray, Preprocessing()).geometry.crop
    region = np.s_[top:bottom, gray.shape[1] // 3 : gray.shape[1] // 3 + 220]
    names = sorted(DENOISERS, key=lambda name: name != "none")
    denoised = [enlarged(preprocessing.denoise(gray, Preprocessing(denoise=name))[region], 2) for name in names]
    half = len(denoised) // 2
    sheets = [sheet(names[:half], [""], [denoised[:half]]), sheet(names[half:], [""], [denoised[half:]])]
    save(np.vstack(sheets), "denoisers.jpg")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("Chromium is not installed: report.jpg is not drawn")
    else:
        save(report(browser), "report.jpg")


def before_and_after(gray: Gray) -> list[Gray]:
    """Four pictures of equal height: with the crop's frame (RGB), cleaned, stored, stored with --flatten."""
    plain, flat = (preprocessing.preprocess(gray, Preprocessing(flatten=flatten)) for flatten in (False, True))
    depths = preprocessing.find_fill(gray)
    cleaned = gray if depths is None else preprocessing.inpaint(gray, depths)
    top, bottom, left, right = plain.geometry.crop
    marked = np.stack([gray] * 3, axis=-1)
    cv2.rectangle(marked, (left, top), (right - 1, bottom - 1), (255, 176, 0), max(gray.shape[1] // 200, 2))
    wide = [cv2.resize(picture, (348, 224), interpolation=cv2.INTER_AREA) for picture in (marked, cleaned)]
    return [*wide, plain.pixels, flat.pixels]


def both_crops(gray: Gray) -> list[Gray]:
    """Three pictures of equal height: the source with the frames of both crops (RGB), stored with each."""
    marked, stored = np.stack([gray] * 3, axis=-1), []
    for crop, ink in (("band", (90, 160, 255)), ("retina", (255, 176, 0))):
        image = preprocessing.preprocess(gray, Preprocessing(crop=crop))
        top, bottom, left, right = image.geometry.crop
        cv2.rectangle(marked, (left, top), (right - 1, bottom - 1), ink, max(gray.shape[1] // 200, 2))
        stored.append(image.pixels)
    return [cv2.resize(marked, (348, 224), interpolation=cv2.INTER_AREA), *reversed(stored)]


def enlarged(gray: Gray, factor: int) -> Gray:
    return np.asarray(cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST), np.uint8)


def sheet(titles: list[str], names: tuple[str, ...] | list[str], rows: list[list[Gray]]) -> Gray:
    """Rows of pictures, gray or RGB, with titles above the columns and a name before each row."""
    margin = 84 if any(names) else GAP
    heights = [row[0].shape[0] for row in rows]
    widths = [picture.shape[1] for picture in rows[0]]
    size = (margin + sum(widths) + GAP * len(widths), TITLE + sum(heights) + GAP * len(heights))
    page = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    y = TITLE
    for row, name, height in zip(rows, names, heights, strict=True):
        x = margin
        pen.text((8, y + height / 2), name, INK, font, anchor="lm")
        for picture, title, width in zip(row, titles, widths, strict=True):
            pen.text((x, TITLE / 2), title, INK, font, anchor="lm")
            page.paste(Image.fromarray(picture), (x, y))
            x += width + GAP
        y += height + GAP
    return np.asarray(page)


def report(browser: str) -> Gray:
    """The top of the report of a small build, light and dark side by side."""
    from playwright.sync_api import sync_playwright

    octprep = [sys.executable, "-m", "octprep.cli"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        src, out = Path(folder, "OCT2017"), Path(folder, "shards")
        subprocess.run([*octprep, "synthesize", str(src), "--patients", "60"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*octprep, "build", "--src", str(src), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        chromium = playwright.chromium.launch(executable_path=browser, args=arguments)
        shots = []
        for scheme in ("light", "dark"):
            page = chromium.new_page(viewport={"width": 900, "height": 1180}, color_scheme=scheme)
            page.goto((out / "report.html").as_uri())
            shot = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR_RGB)
            shots.append(cv2.resize(shot, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA))
        chromium.close()
    return np.hstack([shots[0], np.full((len(shots[0]), 2 * GAP, 3), 255, np.uint8), shots[1]])


def save(pixels: Gray, name: str) -> None:
    Image.fromarray(pixels).save(HERE / name, quality=82, optimize=True)
    print(f"docs/{name}: {pixels.shape[1]} x {pixels.shape[0]}, {(HERE / name).stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
