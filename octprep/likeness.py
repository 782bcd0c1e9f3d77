"""Scans of different patients that show the same picture: near-identical pixels under another id.

An archive may hold one B-scan twice, encoded again, moved by some pixels, brightened or with other fill at its border,
under two patient ids. The bytes do not tell, so each stored image is described by `describe` in 256 bytes, and
`near_identical` looks for pairs in four steps, each of which leaves far fewer than the one before:

1. hash bits of the descriptors, cut into bands, must agree in one band (`_in_one_band`);
2. most hash bits must agree (`_alike`);
3. the descriptors must be nearly equal once a shift and a stretch between them are fitted (`_distance`);
4. the fine detail of the pixels, speckle too, must correlate where they lie on each other (`correlation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from octprep.engine import default_workers

Gray = NDArray[np.uint8]
Ints = NDArray[np.int64]
Float = NDArray[np.float32]

_SIDE = 16  # the descriptor holds the coefficients of so many frequencies along each axis
DESCRIPTOR = _SIDE * _SIDE  # bytes
_THUMBNAIL = 32  # pixels a side to which an image is reduced before its frequencies are taken
_STEPS = 22.0  # a coefficient c is stored as sign(c) * 22 * sqrt(|c|); |c| is below 32, so it fits in an int8

# Numbers below are of 224x224 images as the default recipe gives: of 1,600 phantoms of 500 patients and 38 real scans
# of OCT2017, and of 600 and 38 near-identical copies (moved by up to 4 pixels, +-5 % brightness, another wedge, JPEG
# quality 70). benchmarks/likeness.py measures the whole on 10,000 phantoms.

# `correlation` from which two scans are one. Copies of phantoms: at least 0.86, of real scans 0.94. The most alike of
# different patients: 0.29 and 0.31; neighbouring scans of one volume, which share everything but their speckle: 0.73 at
# most among phantoms, 0.33 among real scans. Other recipes: of phantoms not cropped all copies but 0.25 % have 0.80, of
# straightened ones all but 5 %. At 96x96 pixels, and padded, copies have 0.90, but neighbours up to 0.96 and different
# patients 0.77 and 0.80; there it is NEAR that keeps patients apart, as the nearest of the real scans are 0.56 apart.
THRESHOLD = 0.80

# `_distance` beyond which scans are not compared on pixels. Copies: 0.19 for all but 0.5 %; straightened ones 0.29.
# Different patients: none of 700,000 pairs of one archive of 100 patients is nearer than 0.32.
NEAR = 0.30
# The same before a shift and a stretch are fitted, beyond which they are not. Copies: 0.56 for all but 0.5 %.
_FAR = 0.65

# A crowd of scans that are alike must not cost its square. Each is compared on pixels with so many, the nearest; and,
# once it is paired with somebody's scan, with that patient's others only if each is among so few nearest of the other.
_COMPARED, _CLOSE = 16, 3

# The hash: the signs of the lowest frequencies, less the population's median, as all retinas look alike. In a copy 5 %
# of them differ, 18 % at most in all but 0.5 % of the copies; in scans of different patients half.
_BITS = 96
_DIFFERENT = 26  # bits, at most, between scans that are looked at further; 99.5 % of copies have 17, padded ones 21
# With 48 bands of 24 bits, and the 4 bits of each that are nearest to the median tried both ways, copies of scans
# of 700 phantoms agree in a band and in most bits in 99.7 % (not cropped 99.6, padded 99.4, straightened 99.3), and
# 0.12 % of the pairs of two patients in what benchmarks/likeness.py takes for the archive. 16 bands of 16 bits without
# the tries find 98 % (straightened 94) and let 0.2 % of the pairs through.
_BANDS, _BAND, _TRIED = 48, 24, 4
_ALL_PAIRS = 512  # descriptors up to which every pair is looked at: the median of a few is in the middle of nothing
_CROWD = 1024  # of one band that are looked at with each, those whose descriptors follow each other

_CHUNK = 1 << 16  # rows or pairs worked on at a time
_FITTED = 1 << 10  # pairs that a shift and a stretch are fitted to at a time
_MANY = 1 << 22  # pairs held before those found twice are dropped
_PART = 1 << 19  # pairs of one band looked at at a time
_AT_ONCE = 64  # pairs whose pixels are compared before it is asked which of the next need it

# Fine detail: what is left between Gaussian blurs of these deviations, in pixels of an image of up to 256 a side.
_FINE = (0.5, 1.5)
_LARGEST = 256  # pixels of the shorter side to which larger images are reduced before they are compared
_SMALLEST = 8192  # pixels, without bars, below which detail does not tell patients apart: no pair is found
# The pixels are laid on each other coarsely, then finely: on how many of the shorter side, which of the squares are
# looked for along both axes, and by how many pixels they may be off.
_REGISTERED = ((112, 2, 4), (224, 1, 2))
_HOPELESS = 0.45  # correlation after the first of these below which the second is left out
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 5, 1e-4)  # 30 steps are no better for copies
_LAID = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_FLAT = 0.25  # gray levels of detail, its deviation, below which a block has none


@dataclass(frozen=True, order=True)
class Pair:
    """Two scans of different patients with near-identical pixels."""

    first: int  # index of a scan
    second: int  # index of the other, larger
    correlation: float  # of their fine detail, THRESHOLD..1, to four places


@dataclass(frozen=True)
class Distances:
    """How far apart the descriptors of scans are: counts of pairs drawn at random."""

    edges: tuple[float, ...]  # of the bins; the last holds everything above its lower edge
    same: tuple[int, ...]  # pairs of one patient, for each bin
    different: tuple[int, ...]  # pairs of two patients


def describe(pixels: Gray) -> bytes:
    """The lowest spatial frequencies of a stored image, DESCRIPTOR bytes: int8, row by row.

    pixels: (rows, columns) uint8, at least 16 a side; black bars of equal width at opposite sides, as `fit pad` leaves,
    are cut off first. Mean and contrast are taken out, so brightness does not count; a constant image gives zeros.
    """
    small = cv2.resize(_without_bars(pixels), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32)
    small -= small.mean()
    deviation = float(small.std())
    if deviation < 1e-3:
        return bytes(DESCRIPTOR)
    low = cv2.dct(small / np.float32(deviation))[:_SIDE, :_SIDE]
    stored = np.sign(low) * np.sqrt(np.abs(low)) * np.float32(_STEPS)
    return np.clip(np.rint(stored), -127, 127).astype(np.int8).tobytes()


def near_identical(
    descriptors: Gray,
    patients: Sequence[str] | NDArray[np.integer],
    pixels: Callable[[int], Gray],
    *,
    listed: float = THRESHOLD,
    workers: int | None = None,
) -> list[Pair]:
    """Pairs of scans of different patients whose stored pixels are near-identical, sorted.

    descriptors: (scans, DESCRIPTOR) uint8, a row as `describe` gives. patients: who owns each scan, ids of one kind.
    pixels: the stored image of a scan by its index, all from one recipe; it is asked only for the few that may be in a
    pair, by several threads at once. listed: pairs from this correlation on are returned, be they near-identical or
    not. workers: threads; None means one for each core. Which scans are paired depends neither on them nor on the order
    of the scans, where no two have equal descriptors.

    Not every pair of a crowd is listed: scans with equal descriptors are paired each with one of another patient; no
    scan is compared with more than its _COMPARED nearest, unless it is among theirs; and where two patients share a
    scan, others of theirs are compared only if they are about as near. The pairs are for joining patients, not for
    counting copies.

    Images of less than _SMALLEST pixels hold too little to tell, and give no pair.
    """
    if descriptors.ndim != 2 or descriptors.shape != (len(patients), DESCRIPTOR):
        raise ValueError(
            f"descriptors must be ({len(patients)}, {DESCRIPTOR}), a row for each patient given; "
            f"got {descriptors.shape}"
        )
    if len(patients) < 2:
        return []
    owners = np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.int64)
    rows = _distinct(np.ascontiguousarray(descriptors), owners)
    look = lru_cache(maxsize=256)(pixels)

    def compare(first: int, second: int) -> float:
        # The scan with the smaller descriptor is laid on the other, so that their order does not count.
        lower, upper = sorted((first, second), key=lambda scan: (descriptors[scan].tobytes(), scan))
        return correlation(look(lower), look(upper))

    def ends(first: int, second: int) -> set[tuple[int, int]]:
        return {(first, int(owners[second])), (second, int(owners[first]))}

    found: list[Pair] = []
    paired: set[tuple[int, int]] = set()
    # Threads, as NumPy and OpenCV let others go on while they work.
    with ThreadPoolExecutor(workers or default_workers()) as threads:
        candidates = _scans(rows, *_nearest(*_near(rows, threads)))
        while block := list(islice(candidates, _AT_ONCE)):
            block = [(one, other, close) for one, other, close in block if close or not ends(one, other) & paired]
            correlations = threads.map(compare, *([pair[end] for pair in block] for end in (0, 1)))
            for (one, other, close), agreed in zip(block, correlations, strict=True):
                if not close and ends(one, other) & paired:  # since this block was begun
                    continue
                if agreed >= listed:
                    found.append(Pair(one, other, round(agreed, 4)))
                if agreed >= THRESHOLD:
                    paired |= ends(one, other)
    return sorted(found)


def correlation(one: Gray, other: Gray) -> float:
    """How well the fine detail of two stored images agrees where they lie on each other, -1..1.

    one, other: (rows, columns) uint8, of one recipe. The second is shifted, stretched and turned a little to lie on the
    first. Then squares of the first are looked for nearby in the second; the median of their normalised
    correlations counts, so that what was painted over fill may differ. 0 where there is no detail.
    """
    one, other = _without_bars(one), _without_bars(other)
    if one.shape == other.shape and np.array_equal(one, other):
        return 1.0 if _detail(one).std() >= _FLAT else 0.0
    one = _reduced(one, _LARGEST)
    rows, columns = one.shape
    if one.size < _SMALLEST:
        return 0.0
    other = np.asarray(cv2.resize(other, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    there, agreed, sharp = np.eye(2, 3, dtype=np.float32), 0.0, _detail(one)
    for side, step, reach in _REGISTERED:
        there = _registered(one, other, there, side)
        laid = cv2.warpAffine(other, there, (columns, rows), flags=_LAID, borderMode=cv2.BORDER_REFLECT)
        squares = list(_squares(sharp, _detail(np.asarray(laid, np.uint8)), step, reach))
        agreed = float(np.median(squares)) if squares else 0.0
        if agreed < _HOPELESS:
            break
    return agreed


def distances(
    descriptors: Gray, patients: Sequence[str] | NDArray[np.integer], seed: int = 0, draws: int = 20_000
) -> Distances:
    """How far apart scans of one patient and of two are, by up to so many pairs of each drawn at random.

    descriptors, patients: as for `near_identical`. The distance is the part of two descriptors that differs once a
    shift and a stretch are fitted: 0 for equal ones, towards 2 for scans that have nothing in common.
    """
    edges = np.linspace(0, 2, 41)
    counts = []
    for pairs in _drawn(np.unique(np.asarray(patients), return_inverse=True)[1], np.random.default_rng(seed), draws):
        apart = _distance(descriptors, *pairs)
        counts.append(np.histogram(np.minimum(apart, edges[-1]), edges)[0])
    same, different = (tuple(int(count) for count in histogram) for histogram in counts)
    return Distances(tuple(round(float(edge), 2) for edge in edges), same, different)


def _drawn(owners: Ints, rng: np.random.Generator, draws: int) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """Pairs of scans of one patient, and of two; (pairs,) first and second scans each."""
    nothing = np.zeros(0, np.int64)
    if owners.size < 2:
        return (nothing, nothing), (nothing, nothing)
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], owners)
    counts = np.bincount(owners)[owners]
    several = np.flatnonzero(counts > 1)
    first = rng.choice(several, draws) if several.size else nothing
    mates = order[starts[first] + rng.integers(0, counts[first])]
    one, other = rng.integers(0, owners.size, (2, draws))
    near, far = first != mates, owners[one] != owners[other]
    return (first[near], mates[near]), (one[far], other[far])


# The pixels.


def _without_bars(pixels: Gray) -> Gray:
    """A stored image less bars of black that are as wide at opposite sides."""
    for _ in range(2):
        lit = np.flatnonzero(pixels.any(axis=1))
        if lit.size == 0:
            return pixels
        bar = min(int(lit[0]), len(pixels) - 1 - int(lit[-1]))
        pixels = pixels[bar : len(pixels) - bar].T
    return np.ascontiguousarray(pixels)


def _reduced(pixels: Gray, side: int) -> Gray:
    """With a shorter side of at most so many pixels."""
    factor = max(min(pixels.shape) / side, 1.0)
    rows, columns = (round(length / factor) for length in pixels.shape)
    return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _registered(one: Gray, other: Gray, there: Float, side: int) -> Float:
    """Where the second image has each pixel (column, row, 1) of the first: (2, 3), affine, better than before.

    The images are compared at a shorter side of at most so many pixels.
    """
    template, image = _reduced(one, side), _reduced(other, side)
    units = np.array([[1, 1, min(template.shape) / min(one.shape)]], np.float32)
    try:
        found = cv2.findTransformECC(template, image, there * units, cv2.MOTION_AFFINE, _CRITERIA)[1]
    except cv2.error:  # nothing in common that it could follow
        return there
    return np.asarray(found / units, np.float32)


def _detail(pixels: Gray) -> Float:
    """What is fine in an image: gray levels about 0."""
    wide = pixels.astype(np.float32)
    sharp, smooth = (cv2.GaussianBlur(wide, (0, 0), deviation) for deviation in _FINE)
    return np.asarray(sharp - smooth, np.float32)


def _squares(one: Float, other: Float, step: int, reach: int) -> Iterator[float]:
    """The best correlation of each square of the first within reach in the second, where either has any detail.

    With a step of 2, every second square along both axes is left out.
    """
    rows, columns = one.shape
    side = 28 if min(rows, columns) >= 100 else 16
    for top in range(reach, rows - side - reach + 1, step * side):
        for left in range(reach, columns - side - reach + 1, step * side):
            square = one[top : top + side, left : left + side]
            around = other[top - reach : top + side + reach, left - reach : left + side + reach]
            textured = [cv2.meanStdDev(part)[1][0, 0] >= _FLAT for part in (square, around)]
            if all(textured):
                yield _peak(np.asarray(cv2.matchTemplate(around, square, cv2.TM_CCOEFF_NORMED), np.float32))
            elif any(textured):
                yield 0.0


def _peak(scores: Float) -> float:
    """The height of the highest peak, between the pixels too: by a parabola along each axis."""
    _, best, _, (x, y) = cv2.minMaxLoc(scores)
    height = float(best)
    for line, at in ((scores[y], x), (scores[:, x], y)):
        if 0 < at < line.size - 1:
            before, after = float(line[at - 1]), float(line[at + 1])
            bend = 2 * best - before - after
            if bend > 1e-6:
                height += (after - before) ** 2 / (8 * bend)
    return min(height, 1.0)


# The descriptors.


@dataclass(frozen=True)
class _Rows:
    """Descriptors that differ, in the order of their bytes, and whose they are."""

    descriptors: Gray  # (scans, DESCRIPTOR), as given
    owners: Ints  # (scans,)
    scan: Ints  # (rows,) a scan that has the descriptor
    owner: Ints  # (rows,) whose all scans with it are, or -1 if several patients'
    members: Ints  # (scans,) the scans of one descriptor after those of the other; by owner, then by index
    starts: Ints  # (rows + 1,) where those of each begin

    def strangers(self, one: Ints, other: Ints) -> NDArray[np.bool_]:
        """Whether rows may hold scans of two patients."""
        return np.asarray((self.owner[one] != self.owner[other]) | (self.owner[one] < 0), bool)


def _distinct(descriptors: Gray, owners: Ints) -> _Rows:
    """Equal descriptors put together."""
    whole = descriptors.view(f"V{DESCRIPTOR}").ravel()
    order = np.argsort(whole, kind="stable")
    new = np.ones(order.size, bool)
    for start in range(1, order.size, _CHUNK):
        part = order[start - 1 : start + _CHUNK]
        new[start : start + _CHUNK] = (descriptors[part[1:]] != descriptors[part[:-1]]).any(axis=1)
    starts = np.append(np.flatnonzero(new), order.size)
    members = order[np.lexsort((order, owners[order], np.cumsum(new)))]
    lowest, highest = owners[members[starts[:-1]]], owners[members[starts[1:] - 1]]
    return _Rows(
        descriptors=descriptors,
        owners=owners,
        scan=members[starts[:-1]],
        owner=np.where(lowest == highest, lowest, -1),
        members=members,
        starts=starts,
    )


def _near(rows: _Rows, threads: Executor) -> tuple[Ints, Ints, Float]:
    """Pairs of rows that may be near-identical and of two patients, one <= other, and their distances; (pairs,)."""
    count = rows.scan.size
    shared = np.flatnonzero(rows.owner < 0)
    ones, others = np.triu_indices(count, 1) if count <= _ALL_PAIRS else _in_one_band(rows)

    def near(start: int) -> tuple[Ints, Ints, Float]:
        one, other = (np.asarray(end[start : start + _FITTED], np.int64) for end in (ones, others))
        apart = rows.strangers(one, other)
        one, other = one[apart], other[apart]
        left, right = (_frequencies(rows.descriptors[rows.scan[end]]) for end in (one, other))
        hopeful = _unlike(left, right) <= _FAR
        distance = _left_over(left[hopeful], right[hopeful])
        kept = distance <= NEAR
        return one[hopeful][kept], other[hopeful][kept], distance[kept]

    found = [(shared, shared, np.zeros(shared.size, np.float32)), *threads.map(near, range(0, ones.size, _FITTED))]
    one, other, distance = (np.concatenate(ends) for ends in zip(*found, strict=True))
    return one, other, distance


def _nearest(one: Ints, other: Ints, distance: Float) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Those of the pairs in which either is among the _COMPARED nearest of the other, the nearest pairs first.

    And whether each is among the _CLOSE nearest of the other.
    """
    ends, mates, apart = np.append(one, other), np.append(other, one), np.append(distance, distance)
    order = np.lexsort((mates, apart, ends))
    rank = np.empty(ends.size, np.int64)
    rank[order] = np.arange(ends.size) - np.searchsorted(ends[order], ends[order])
    ranks = rank.reshape(2, -1)
    kept = np.lexsort((other, one, distance))
    kept = kept[ranks.min(axis=0)[kept] < _COMPARED]
    return one[kept], other[kept], ranks.max(axis=0)[kept] < _CLOSE


def _scans(rows: _Rows, ones: Ints, others: Ints, close: NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """Pairs of scans, the smaller index first, that pairs of rows stand for: each scan with one of another patient."""
    for one, other, both in zip(ones.tolist(), others.tolist(), close.tolist(), strict=True):
        found: set[tuple[int, int]] = set()
        for row, opposite in ((one, other), (other, one)):
            members = rows.members[rows.starts[row] : rows.starts[row + 1]]
            mates = rows.members[rows.starts[opposite] : rows.starts[opposite + 1]]
            # By owner: the last is a stranger to whoever owns the first, if anybody is.
            choice = np.where(rows.owners[members] != rows.owners[mates[0]], mates[0], mates[-1])
            apart = rows.owners[members] != rows.owners[choice]
            lower, upper = np.minimum(members, choice)[apart], np.maximum(members, choice)[apart]
            found.update(zip(lower.tolist(), upper.tolist(), strict=True))
        for first, second in sorted(found):
            yield first, second, both


def _in_one_band(rows: _Rows) -> tuple[Ints, Ints]:
    """Pairs of rows of two patients that agree in a band of hash bits and in most bits; (pairs,), one < other."""
    count = rows.scan.size
    low = _low(rows)
    middle = np.partition(low, count // 2, axis=0)[count // 2].astype(np.int16)
    spread = np.array(
        [np.abs(column.astype(np.int16) - bit).mean() + 1e-3 for column, bit in zip(low.T, middle, strict=True)],
        np.float32,
    )
    bits = np.packbits(low > middle, axis=1).view(np.uint16)
    kept, held = np.zeros(0, np.int64), 0
    fresh = [kept]
    for band in _bands():
        for one, other in _collisions(low[:, band], middle[band], spread[band]):
            lower, upper = np.minimum(one, other), np.maximum(one, other)
            apart = (lower != upper) & rows.strangers(lower, upper)
            lower, upper = lower[apart], upper[apart]
            alike = _different_bits(bits[lower], bits[upper]) <= _DIFFERENT
            fresh.append(lower[alike] * count + upper[alike])
            held += fresh[-1].size
            if held > _MANY:
                kept, held = _once(np.concatenate([kept, *fresh])), 0
                fresh = []
    kept = _once(np.concatenate([kept, *fresh]))
    return kept // count, kept % count


def _once(numbers: Ints) -> Ints:
    """Sorted, each once; np.unique hashes them instead, at five times the cost of sorting so many."""
    numbers = np.sort(numbers)
    return numbers[np.append(True, numbers[1:] != numbers[:-1])] if numbers.size else numbers


def _low(rows: _Rows) -> NDArray[np.int8]:
    """The lowest _BITS frequencies of each row, without the mean: (rows, _BITS)."""
    down, across = np.mgrid[:_SIDE, :_SIDE]
    order = np.lexsort((down.ravel(), np.maximum(down, across).ravel(), (down + across).ravel()))[1 : _BITS + 1]
    low = np.empty((rows.scan.size, _BITS), np.int8)
    for start in range(0, rows.scan.size, _CHUNK):
        part = rows.descriptors[rows.scan[start : start + _CHUNK]]
        low[start : start + _CHUNK] = part.view(np.int8)[:, order]
    return low


def _bands() -> list[Ints]:
    """Which bits each band holds: _BITS shuffled and cut, over and over; always the same."""
    rng = np.random.default_rng(3)
    shuffled = [rng.permutation(_BITS) for _ in range(-(-_BANDS * _BAND // _BITS))]
    return list(np.concatenate(shuffled)[: _BANDS * _BAND].reshape(_BANDS, _BAND))


def _collisions(low: NDArray[np.int8], middle: NDArray[np.int16], spread: Float) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows whose bits of one band agree, where the uncertain bits of the first may be either.

    low: (rows, _BAND). A row collides with itself, and pairs may come twice.
    """
    weights = 1 << np.arange(_BAND, dtype=np.int64)
    count = len(low)
    keys = np.concatenate([(low[at : at + _CHUNK] > middle) @ weights for at in range(0, count, _CHUNK)])
    order = np.argsort(keys, kind="stable")
    known, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
    taken = np.zeros(1 << _BAND, bool)
    taken[known] = True
    for begin in range(0, count, _CHUNK):
        tried = _tried(low[begin : begin + _CHUNK], keys[begin : begin + _CHUNK], middle, spread, weights)
        row, turn = np.nonzero(taken[tried])
        bucket = np.searchsorted(known, tried[row, turn])
        row += begin
        start, size = starts[bucket], sizes[bucket]
        crowded = np.flatnonzero(size > _CROWD)
        if crowded.size:  # those that follow each other by their bytes
            place = np.array(
                [
                    np.searchsorted(order[first : first + many], who)
                    for first, many, who in zip(start[crowded], size[crowded], row[crowded], strict=True)
                ]
            )
            start[crowded] += np.clip(place - _CROWD // 2, 0, size[crowded] - _CROWD)
            size[crowded] = _CROWD
        total = np.cumsum(size)
        cuts = np.searchsorted(total, np.arange(_PART, int(total[-1]), _PART))
        for part in np.split(np.arange(row.size), cuts):
            lengths = size[part]
            offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield np.repeat(row[part], lengths), order[np.repeat(start[part], lengths) + offsets]


def _tried(low: NDArray[np.int8], keys: Ints, middle: NDArray[np.int16], spread: Float, weights: Ints) -> Ints:
    """The keys of each row with its _TRIED least certain bits both ways: (rows, 2 ** _TRIED)."""
    certain = np.abs(low - middle) / spread
    weak = weights[np.argpartition(certain, _TRIED, axis=1)[:, :_TRIED]]
    tried = keys[:, None]
    for bit in weak.T:
        tried = np.concatenate([tried, tried ^ bit[:, None]], axis=1)
    return tried


@lru_cache(maxsize=1)
def _ones() -> NDArray[np.uint8]:
    """How many bits of each number of 16 bits are set."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    return np.asarray(np.unpackbits(numbers, axis=1).sum(axis=1), np.uint8)


def _different_bits(one: NDArray[np.uint16], other: NDArray[np.uint16]) -> Ints:
    """How many bits differ; (pairs, words) -> (pairs,)."""
    return np.asarray(_ones()[one ^ other].sum(axis=1, dtype=np.int64))


def _distance(descriptors: Gray, one: Ints, other: Ints) -> Float:
    """What differs between descriptors beyond contrast, a shift and a stretch along both axes.

    one, other: (pairs,) scans. Returns (pairs,): the root of the energy of what is left, as a part of their mean's.
    The fit is linear, by least squares on the 16x16 pixels that the descriptors stand for, about the mean of the two,
    so that it is the same both ways.
    """
    parts = [np.zeros(0, np.float32)]
    for start in range(0, one.size, _FITTED):
        pair = slice(start, start + _FITTED)
        parts.append(_left_over(_frequencies(descriptors[one[pair]]), _frequencies(descriptors[other[pair]])))
    return np.concatenate(parts)


def _frequencies(descriptors: Gray) -> Float:
    """(n, DESCRIPTOR) uint8 -> (n, 16, 16) coefficients."""
    return _coefficients().take(descriptors).reshape(-1, _SIDE, _SIDE)


@lru_cache(maxsize=1)
def _coefficients() -> Float:
    """The coefficient that each byte of a descriptor stands for, (256,)."""
    stored = np.arange(256, dtype=np.uint8).view(np.int8) / _STEPS
    return np.asarray(np.sign(stored) * stored**2, np.float32)


def _unlike(one: Float, other: Float) -> Float:
    """`_left_over` where nothing is fitted."""
    one, other = one.reshape(-1, DESCRIPTOR), other.reshape(-1, DESCRIPTOR)
    squares = np.einsum("np,np->n", one, one) + np.einsum("np,np->n", other, other)
    both = 2 * np.einsum("np,np->n", one, other)
    return np.asarray(2 * np.sqrt(np.maximum(squares - both, 0) / np.maximum(squares + both, 1e-6)), np.float32)


def _left_over(one: Float, other: Float) -> Float:
    """`_distance` of coefficients (n, 16, 16).

    The waves are orthonormal, so slopes and places are taken as they act on coefficients, and nothing is transformed.
    """
    slope, stretch = _motions()
    middle = (one + other) / 2
    # Matrix by matrix: as one long product BLAS would start its threads for it, at many times the cost.
    causes = np.stack([middle, slope.T @ middle, stretch.T @ middle, middle @ slope, middle @ stretch], axis=1)
    causes = causes.reshape(len(one), 5, DESCRIPTOR)
    products = np.einsum("nip,njp->nij", causes, causes)
    change = (other - one).reshape(len(one), DESCRIPTOR, 1)
    moments = causes @ change
    energy = np.einsum("nii->ni", products)
    products = products + (1e-5 * energy.mean(axis=1) + 1e-9)[:, None, None] * np.eye(5, dtype=np.float32)
    explained = (np.linalg.solve(products, moments) * moments).sum(axis=(1, 2))
    left = np.maximum(np.einsum("npi,npi->n", change, change) - explained, 0)
    return np.asarray(np.sqrt(left / np.maximum(energy[:, 0], 1e-6)), np.float32)


@lru_cache(maxsize=1)
def _motions() -> tuple[Float, Float]:
    """What a small shift and a small stretch about the middle do to coefficients, (16, 16) each: rows @ matrix."""
    frequency = np.arange(_SIDE)[:, None]
    place = (np.arange(_SIDE) + 0.5) / _SIDE
    scale = np.asarray(np.where(frequency == 0, np.sqrt(1 / _SIDE), np.sqrt(2 / _SIDE)))
    waves = scale * np.cos(np.pi * frequency * place)
    slopes = -scale * np.pi * frequency * np.sin(np.pi * frequency * place)
    return (slopes @ waves.T).astype(np.float32), ((slopes * (place - 0.5)) @ waves.T).astype(np.float32)
