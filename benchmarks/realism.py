"""How do the synthetic scans differ from genuine ones, and can a small network tell them apart?

    python -m benchmarks.realism --genuine OCT2017/test other/folder --difficulty easy hard --picture sheet.png

Genuine scans are all images in the folders, below class folders; contents that were seen before, files that cannot be
read and scans without a clear retina are left out and counted. Patients are the ids in the names. Names without one
may be neighbours, so all scans of one class of one folder count as one patient.

Every genuine scan is paired with a synthetic one of its class and, where there is one, of its width. That one is
compressed with the quantization tables of the genuine file, from pixels that were never compressed, so both have been
through one JPEG of the same quality. Fill is found in both by `octprep.preprocessing.find_fill`, and nothing within
RINGING pixels of it is measured or shown to the network.

**Measured on each scan**, on both by the same functions, with the retina and the lower edge of the pigment epithelium
from `octprep.preprocessing.find_retina`:

- gray levels: mean, percentiles, fractions of black and of white pixels;
- mean A-scan: gray level at rows above (-) and below (+) the epithelium's lower edge, over all columns;
- speckle: the scan less its Gaussian blur of 2 pixels. Its standard deviation divided by the blurred gray level, for
  pixels of some levels; and the lag, in pixels, at which its autocorrelation along rows and columns falls to 1/e, in
  the vitreous and in the retina;
- thickness: rows from the retina's uppermost bright row to the epithelium, the scan flattened; tilt: rows by which the
  epithelium's curve, its linear term, falls from the middle to the right end, taken as positive;
- sharpness: the variance of the Laplacian of the retina at full size, half and a quarter, divided by the variance of
  the gray levels there.

Printed are the median and the 5 to 95 % range over scans, and the Kolmogorov-Smirnov distance between the two sets (0:
the same distribution, 1: no overlap); of gray levels also the Wasserstein distance of the pooled histograms.

**A network** of 47,249 weights gets crops of 64 x 64 pixels, as many genuine as synthetic ones, and says which they
are: at the scan's own resolution, half of them centred on the retina and half in the vitreous or the choroid; and
another one crops of the scan as octprep stores it (`--crop retina`, 224 x 224). It is trained for a fixed number of
epochs on three quarters of the patients of both kinds and tested on the others, four times. The AUC, of crops and of
the mean over a scan's crops, is that of all four test parts together, with a 95 % interval by a bootstrap of patients,
genuine and synthetic ones separately. At 0.5 this network, trained on these few scans, cannot tell them apart. The
interval does not hold what another training would change.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # not where a test imports it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from octprep import synthetic
from octprep.arrays import Float32, Gray
from octprep.format.config import Preprocessing
from octprep.format.errors import OctError
from octprep.format.names import parse_scan_name
from octprep.preprocessing import curve_offset, decode, find_fill, find_retina, preprocess, read_image

SIDE = 64  # of a crop, pixels
CROPS = 4  # of each scan, on the retina, outside of it, and of the stored scan
FOLDS = 4
EPOCHS = 10
RESAMPLES = 2000
RINGING = 8  # pixels beside fill that JPEG has touched
PROFILE = (-100, -75, -50, -35, -20, -10, -3, 5, 15, 30, 60)  # rows from the epithelium's lower edge
LEVELS = ((8, 24), (24, 48), (48, 80), (80, 120), (120, 180))  # gray levels of the blurred scan
MAX_LAG = 8
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp")
Rng = np.random.Generator


@dataclass(frozen=True)
class Scan:
    """One scan, and where its retina is."""

    patient: str
    label: str
    pixels: Gray  # (rows, columns)
    valid: NDArray[np.bool_]  # (rows, columns), False in fill and near it
    top: float  # of the retina, above the epithelium's mean row, in the scan flattened
    rpe: Float32  # (columns,) row of the epithelium's lower edge
    tilt: float  # rows from the middle to the right end

    def rows_from_rpe(self) -> Float32:
        """Each pixel's row less that of the epithelium: (rows, columns)."""
        return np.asarray(np.arange(len(self.pixels))[:, None] - self.rpe, np.float32)

    def retina(self) -> NDArray[np.bool_]:
        """The valid pixels of the retina: (rows, columns)."""
        rows = self.rows_from_rpe()
        return np.asarray(self.valid & (rows >= -self.top) & (rows < 0))

    def vitreous(self) -> NDArray[np.bool_]:
        """The valid pixels that are clearly above the retina: (rows, columns)."""
        return np.asarray(self.valid & (self.rows_from_rpe() < -self.top - 15))


def scan_of(pixels: Gray, patient: str, label: str) -> Scan | None:
    """A scan with its fill and its retina; None without a clear retina."""
    depths = find_fill(pixels)
    fill = np.zeros_like(pixels) if depths is None else depths.mask()
    retina = find_retina(pixels, (0, 0), fill, flatten=True)
    if not retina.rpe_curve:
        return None
    columns = np.arange(pixels.shape[1], dtype=np.float64)
    rpe = retina.bottom + curve_offset(retina.rpe_curve, columns, pixels.shape[1])
    side = 2 * RINGING + 1
    valid = cv2.dilate(fill, np.ones((side, side), np.uint8)) == 0
    tilt = abs(retina.rpe_curve[-2])
    return Scan(patient, label, pixels, valid, retina.bottom - retina.top, rpe.astype(np.float32), tilt)


class Genuine(NamedTuple):
    """The genuine scans, their files, and what was left out."""

    scans: list[Scan]
    paths: list[Path]
    left_out: Counter[str]


def read_genuine(folders: Sequence[Path]) -> Genuine:
    """All scans below class folders in some folders; each content once."""
    found = Genuine([], [], Counter())
    seen: set[bytes] = set()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES):
            label = path.parent.name.upper()
            digest = hashlib.sha256(path.read_bytes()).digest()
            if label not in synthetic.CLASSES or digest in seen:
                found.left_out["repeated content" if digest in seen else "no class folder"] += 1
                continue
            seen.add(digest)
            try:
                pixels, _ = read_image(path)
            except OctError:
                found.left_out["not a gray scan"] += 1
                continue
            name = parse_scan_name(path.name)
            scan = scan_of(pixels, name.patient if name else f"{folder.name}/{label}", label)
            if scan is None or min(pixels.shape) < 2 * SIDE:
                found.left_out["no clear retina"] += 1
                continue
            found.scans.append(scan)
            found.paths.append(path)
    return found


def draw_synthetic(genuine: Genuine, difficulty: str, seed: int) -> tuple[list[Scan], int]:
    """A synthetic scan for each genuine one, and how many were left out because they have no clear retina."""
    pools: dict[str, list[tuple[str, Gray]]] = defaultdict(list)
    patients = max(synthetic.MIN_PATIENTS, 2 * len({scan.patient for scan in genuine.scans}))
    per_patient: Counter[tuple[str, str]] = Counter()
    for path, phantom in synthetic.scans(patients, seed, difficulty=difficulty):
        name = parse_scan_name(Path(path).name)
        assert name
        per_patient[name.patient, name.label] += 1
        if per_patient[name.patient, name.label] <= 4:
            pools[phantom.label].append((name.patient, phantom.pixels))
    rng = np.random.default_rng(seed)
    scans, left_out, used = [], 0, Counter[str]()
    for scan, path in zip(genuine.scans, genuine.paths, strict=True):
        while True:
            pool = pools[scan.label]
            if not pool:
                raise SystemExit(f"there are fewer synthetic scans of {scan.label} than genuine ones")
            order = rng.permutation(len(pool))
            best = min(order, key=lambda i: (pool[i][1].shape[1] != scan.pixels.shape[1], used[pool[i][0]]))
            patient, pixels = pool.pop(int(best))
            drawn = scan_of(recompressed(pixels, path), f"synthetic {patient}", scan.label)
            if drawn:
                break
            left_out += 1
        used[patient] += 1
        scans.append(drawn)
    return scans, left_out


def recompressed(pixels: Gray, like: Path) -> Gray:
    """Pixels through a JPEG with the quantization tables of a file; of quality 75 if that is not a JPEG."""
    with Image.open(like) as file:
        tables = getattr(file, "quantization", None)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", **({"qtables": tables} if tables else {"quality": 75}))
    return decode(data.getvalue())


def measure(scan: Scan) -> dict[str, float]:
    """What is compared of a scan, by name; NaN where it has no pixels for it."""
    values = scan.pixels[scan.valid].astype(np.float32)
    measured = {"gray level, mean": float(values.mean())}
    for share in (1, 25, 50, 75, 99):
        measured[f"gray level, {share} % below"] = float(np.percentile(values, share))
    measured["black pixels (0), %"] = 100 * float((values == 0).mean())
    measured["white pixels (255), %"] = 100 * float((values == 255).mean())
    for offset, level in zip(PROFILE, profile(scan), strict=True):
        measured[f"mean A-scan, row {offset:+}"] = level
    smooth = cv2.GaussianBlur(scan.pixels.astype(np.float32), (0, 0), 2)
    speckle = scan.pixels - smooth
    for low, high in LEVELS:
        inside = scan.valid & (smooth >= low) & (smooth < high)
        measured[f"speckle contrast, levels {low} to {high}"] = ratio(speckle[inside], smooth[inside])
    for name, region in (("vitreous", scan.vitreous()), ("retina", scan.retina())):
        for axis, along in ((1, "rows"), (0, "columns")):
            measured[f"speckle length along {along}, {name}, pixels"] = length(speckle, region, axis)
    measured["thickness, rows"] = scan.top
    measured["tilt, rows"] = scan.tilt
    pixels, retina = scan.pixels, scan.retina()
    for size in ("full size", "half", "a quarter"):
        sharp = cv2.Laplacian(pixels, cv2.CV_32F)[retina].var() / max(pixels[retina].var(), 1e-6)
        measured[f"sharpness, {size}"] = float(sharp)
        pixels = np.asarray(cv2.pyrDown(pixels), np.uint8)
        retina = cv2.resize(retina.astype(np.uint8), pixels.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return measured


def profile(scan: Scan) -> list[float]:
    """The mean gray level over the columns at each row of PROFILE, from three rows each; NaN outside of the scan."""
    rows = np.round(scan.rows_from_rpe())
    levels = []
    for offset in PROFILE:
        inside = scan.valid & (np.abs(rows - offset) <= 1)
        levels.append(float(scan.pixels[inside].mean()) if inside.sum() > SIDE else np.nan)
    return levels


def ratio(speckle: Float32, level: Float32) -> float:
    """Standard deviation of the speckle as a fraction of the mean level; NaN of fewer than 500 pixels."""
    return float(speckle.std() / level.mean()) if speckle.size >= 500 else np.nan


def length(speckle: Float32, region: NDArray[np.bool_], axis: int) -> float:
    """The lag at which the autocorrelation of the speckle in a region falls to 1/e, in pixels, between whole lags.

    NaN in a region of fewer than 2,000 pixels.
    """
    if region.sum() < 2000:
        return np.nan
    values = np.where(region, speckle - speckle[region].mean(), 0)
    variance, before = float((values[region] ** 2).mean()), 1.0
    for lag in range(1, MAX_LAG + 1):
        near, far = np.delete(values, np.s_[-lag:], axis), np.delete(values, np.s_[:lag], axis)
        both = np.delete(region, np.s_[-lag:], axis) & np.delete(region, np.s_[:lag], axis)
        now = float((near * far)[both].mean()) / variance
        if now < 1 / np.e:
            return lag - 1 + (before - 1 / np.e) / (before - now)
        before = now
    return float(MAX_LAG)


def table(genuine: Sequence[Scan], drawn: Sequence[Scan]) -> list[dict[str, Any]]:
    """Each quantity of `measure`: median and 5 to 95 % range of both sets, and their distance."""
    from scipy.stats import ks_2samp

    sets = [[measure(scan) for scan in scans] for scans in (genuine, drawn)]
    rows = []
    for name in sets[0][0]:
        columns = [np.array([measured[name] for measured in measures]) for measures in sets]
        columns = [values[np.isfinite(values)] for values in columns]
        if min(map(len, columns)) == 0:
            continue
        ranges = [np.percentile(values, (50, 5, 95)).tolist() for values in columns]
        distance = float(ks_2samp(*columns).statistic)
        rows.append({"name": name, "genuine": ranges[0], "synthetic": ranges[1], "distance": distance})
    return rows


def histogram_distance(genuine: Sequence[Scan], drawn: Sequence[Scan]) -> float:
    """The Wasserstein distance of the pooled gray levels, every scan counting the same, in gray levels."""
    from scipy.stats import wasserstein_distance

    shares = [
        np.mean([np.bincount(scan.pixels[scan.valid], minlength=256) / scan.valid.sum() for scan in scans], axis=0)
        for scans in (genuine, drawn)
    ]
    return float(wasserstein_distance(np.arange(256), np.arange(256), *shares))


class Crops(NamedTuple):
    """Crops of scans, and where they are from."""

    pixels: NDArray[np.uint8]  # (n, SIDE, SIDE, 1)
    scan: NDArray[np.intp]  # (n,) index of the scan
    outside: NDArray[np.bool_]  # (n,) not on the retina


def crops_of(scans: Sequence[Scan], seed: int) -> Crops:
    """CROPS crops on the retina of each scan, and as many in the vitreous or the choroid, where there is room."""
    taken: list[tuple[Gray, int, bool]] = []
    for index, scan in enumerate(scans):
        rng = np.random.default_rng([seed, index])
        for outside in (False, True):
            taken += [(crop, index, outside) for crop in itertools.islice(_crops(scan, outside, rng), CROPS)]
    return _joined(taken)


def _crops(scan: Scan, outside: bool, rng: Rng) -> Iterator[Gray]:
    """Crops at random columns without fill, at most 200 places being tried."""
    rows, columns = scan.pixels.shape
    for _ in range(200):
        left = int(rng.integers(0, columns - SIDE + 1))
        rpe, far = float(scan.rpe[left + SIDE // 2]), SIDE / 2 + 8
        middle = rpe - scan.top / 2
        if outside:
            middle = rng.uniform(0, rows)
            if rpe - scan.top - far < middle < rpe + far:
                continue
        top = round(middle - SIDE / 2)
        place = np.s_[top : top + SIDE, left : left + SIDE]
        if top >= 0 and top + SIDE <= rows and scan.valid[place].all():
            yield scan.pixels[place]


def stored_crops_of(scans: Sequence[Scan], seed: int) -> Crops:
    """CROPS crops of each scan after octprep's preparation, at random places."""
    recipe = Preprocessing()
    taken = []
    for index, scan in enumerate(scans):
        stored = preprocess(scan.pixels, recipe).pixels
        rng = np.random.default_rng([seed, index])
        for _ in range(CROPS):
            top, left = (int(rng.integers(0, side - SIDE + 1)) for side in stored.shape)
            taken.append((stored[top : top + SIDE, left : left + SIDE], index, False))
    return _joined(taken)


def _joined(taken: Sequence[tuple[Gray, int, bool]]) -> Crops:
    pixels, scan, outside = zip(*taken, strict=True)
    return Crops(np.stack(pixels)[..., None], np.array(scan), np.array(outside))


def as_many(first: Crops, second: Crops, rng: Rng) -> tuple[Crops, Crops]:
    """As many crops of both, on the retina and outside of it: some of the larger set are dropped at random."""
    keep: tuple[list[int], list[int]] = ([], [])
    for outside in (False, True):
        places = [np.flatnonzero(crops.outside == outside) for crops in (first, second)]
        count = min(map(len, places))
        for kept, each in zip(keep, places, strict=True):
            kept += rng.permutation(each)[:count].tolist()
    return tuple(
        Crops(*(values[sorted(kept)] for values in crops)) for crops, kept in zip((first, second), keep, strict=True)
    )


def folds_of(patients: Sequence[str]) -> NDArray[np.intp]:
    """A fold for each scan, by patient: the largest patients first, each into the fold with the fewest scans."""
    sizes = [0] * FOLDS
    fold: dict[str, int] = {}
    for patient, count in sorted(Counter(patients).items(), key=lambda item: (-item[1], item[0])):
        fold[patient] = sizes.index(min(sizes))
        sizes[fold[patient]] += count
    return np.array([fold[patient] for patient in patients])


def network() -> Any:
    """The untrained network: (n, SIDE, SIDE, 1) uint8 to logits (n, 1), positive for genuine."""
    import keras
    from keras import layers

    pixels = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    for width, size, stride in ((16, 5, 2), (32, 3, 2), (48, 3, 2), (64, 3, 1)):
        x = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    model = keras.Model(pixels, layers.Dense(1)(x))
    # Without XLA, which takes longer to compile than all epochs on a CPU.
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    return model


def discriminate(
    genuine: Crops, drawn: Crops, patients: tuple[Sequence[str], Sequence[str]], seed: int, epochs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The logit of every crop, genuine and synthetic, by the network that was not trained on its patient."""
    import keras

    given = genuine, drawn
    folds = [folds_of(names)[crops.scan] for names, crops in zip(patients, given, strict=True)]
    logits = tuple(np.zeros(len(crops.scan)) for crops in given)
    keras.utils.set_random_seed(seed)
    model = network()  # compiled once; every fold starts from the same weights
    model.optimizer.build(model.trainable_variables)
    start = model.get_weights()
    for fold in range(FOLDS):
        model.set_weights(start)
        for variable in model.optimizer.variables:
            if "learning_rate" not in variable.path:
                variable.assign(np.zeros(variable.shape, variable.dtype))
        pixels = np.concatenate([crops.pixels[each != fold] for crops, each in zip(given, folds, strict=True)])
        truth = np.concatenate([np.full((each != fold).sum(), 1 - k) for k, each in enumerate(folds)])
        both = np.concatenate([pixels, pixels[:, :, ::-1]])  # a left eye is a mirrored right one
        model.fit(both, np.tile(truth, 2)[:, None], batch_size=64, epochs=epochs, verbose=0)
        for crops, each, scores in zip(given, folds, logits, strict=True):
            if (each == fold).any():
                scores[each == fold] = model.predict(crops.pixels[each == fold], batch_size=256, verbose=0)[:, 0]
    return logits[0], logits[1]


def auc(
    scores: tuple[NDArray[np.float64], NDArray[np.float64]], patients: tuple[Sequence[str], Sequence[str]], seed: int
) -> tuple[float, float, float]:
    """The probability that a genuine score is the higher one, ties counting half, with a 95 % interval.

    The interval is a percentile bootstrap of the patients of each kind. patients: of each score.
    """
    above = (scores[0][:, None] > scores[1]) + 0.5 * (scores[0][:, None] == scores[1])
    members = [np.unique(names, return_inverse=True)[1] for names in patients]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        weights = []
        for member in members:
            count = member.max() + 1
            weights.append(np.bincount(rng.integers(0, count, count), minlength=count)[member])
        values.append(weights[0] @ above @ weights[1] / (weights[0].sum() * weights[1].sum()))
    low, high = np.percentile(values, (2.5, 97.5))
    return float(above.mean()), float(low), float(high)


def aucs(
    genuine: Crops,
    drawn: Crops,
    scans: tuple[Sequence[Scan], Sequence[Scan]],
    seed: int,
    epochs: int,
    parts: Mapping[str, Callable[[Crops], NDArray[np.bool_]]],
) -> dict[str, dict[str, Any]]:
    """Train and test on as many crops of each; the AUC of some parts of the crops, and of their means over scans."""
    genuine, drawn = as_many(genuine, drawn, np.random.default_rng(seed))
    names = tuple([scan.patient for scan in each] for each in scans)
    logits = discriminate(genuine, drawn, names, seed, epochs)
    results = {}
    for part, choose in parts.items():
        chosen = [choose(crops) for crops in (genuine, drawn)]
        index = [crops.scan[each] for crops, each in zip((genuine, drawn), chosen, strict=True)]
        scores = [values[each] for values, each in zip(logits, chosen, strict=True)]
        seen = [np.unique(each) for each in index]
        means = tuple(
            np.array([values[each == scan].mean() for scan in every])
            for values, each, every in zip(scores, index, seen, strict=True)
        )
        of_crops = tuple([every[i] for i in each] for every, each in zip(names, index, strict=True))
        of_scans = tuple([every[i] for i in each] for every, each in zip(names, seen, strict=True))
        results[part] = {
            "crops": len(scores[0]),
            "auc of crops": auc(tuple(scores), of_crops, seed),
            "auc of scans": auc(means, of_scans, seed),
        }
    return results


def picture(genuine: Sequence[Scan], drawn: Mapping[str, Sequence[Scan]], file: Path, seed: int) -> None:
    """A PNG of crops on the retina at twice their size: a column for each pair, a row for each kind, named at the left.

    Classes take turns.
    """
    order = sorted(range(len(genuine)), key=lambda i: (np.random.default_rng([seed, i]).random(), i))
    by_class = [[i for i in order if genuine[i].label == label] for label in synthetic.CLASSES]
    chosen = [i for group in itertools.zip_longest(*by_class) for i in group if i is not None][:16]
    lines = []
    for name, scans in (("genuine", genuine), *drawn.items()):
        title = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
        cv2.putText(title, name, (4, SIDE), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
        cells = [title]
        for i in chosen:
            crop = next(_crops(scans[i], False, np.random.default_rng([seed, i])), np.zeros((SIDE, SIDE), np.uint8))
            cells.append(np.asarray(cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), np.uint8))
        lines.append(np.hstack([np.pad(cell, 1) for cell in cells]))
    file.write_bytes(cv2.imencode(".png", np.vstack(lines))[1].tobytes())


def describe(result: Mapping[str, Any]) -> str:
    """The result of one difficulty as Markdown."""
    lines = [
        f"## {result['difficulty']}",
        "",
        f"Pooled gray levels: Wasserstein distance {result['histogram distance']:.1f} gray levels.",
        "",
        "| a network tells genuine from synthetic | crops of each | AUC of crops | AUC of scans |",
        "|---|--:|--:|--:|",
    ]
    for part, values in result["network"].items():
        of_crops, of_scans = (
            "{:.3f} ({:.3f} to {:.3f})".format(*values[key]) for key in ("auc of crops", "auc of scans")
        )
        lines.append(f"| {part} | {values['crops']} | {of_crops} | {of_scans} |")
    lines += ["", "| median (5 to 95 %) of the scans | genuine | synthetic | distance |", "|---|--:|--:|--:|"]
    for row in result["table"]:
        cells = ["{:.3g} ({:.3g} to {:.3g})".format(*row[kind]) for kind in ("genuine", "synthetic")]
        lines.append(f"| {row['name']} | {cells[0]} | {cells[1]} | {row['distance']:.2f} |")
    return "\n".join(lines)


def compare(genuine: Genuine, difficulty: str, seed: int, epochs: int) -> tuple[dict[str, Any], list[Scan]]:
    """Everything about one difficulty, and its synthetic scans."""
    drawn, left_out = draw_synthetic(genuine, difficulty, seed)
    scans = genuine.scans, drawn
    own = {"on the retina": lambda crops: ~crops.outside, "outside of it": lambda crops: crops.outside}
    stored = {"stored by octprep": lambda crops: ~crops.outside}
    networks = aucs(crops_of(scans[0], seed), crops_of(scans[1], seed + 1), scans, seed, epochs, own)
    networks |= aucs(stored_crops_of(scans[0], seed), stored_crops_of(scans[1], seed + 1), scans, seed, epochs, stored)
    result = {
        "difficulty": difficulty,
        "synthetic scans left out": left_out,
        "network": networks,
        "histogram distance": histogram_distance(*scans),
        "table": table(*scans),
    }
    return result, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--genuine", type=Path, nargs="+", required=True, metavar="DIR", help="folders of scans")
    parser.add_argument(
        "--difficulty", nargs="+", default=list(synthetic.DIFFICULTIES), choices=list(synthetic.DIFFICULTIES)
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write crops side by side as a PNG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    genuine = read_genuine(options.genuine)
    if not genuine.scans:
        parser.error("there is no scan in a class folder below --genuine")
    patients = len({scan.patient for scan in genuine.scans})
    omitted = ", ".join(f"{count} {reason}" for reason, count in sorted(genuine.left_out.items())) or "none"
    print(f"{len(genuine.scans)} genuine scans of {patients} patients or groups; left out: {omitted}\n")
    results, drawn = [], {}
    for difficulty in options.difficulty:
        result, drawn[difficulty] = compare(genuine, difficulty, options.seed, options.epochs)
        results.append(result)
        print(describe(result), flush=True)
        print()
    if options.json:
        content = {"genuine scans": len(genuine.scans), "patients": patients, "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.picture:
        picture(genuine.scans, drawn, options.picture, options.seed)


if __name__ == "__main__":
    main()
