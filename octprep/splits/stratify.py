"""Whole groups -> parts whose shares of every class come as near to the wanted ones as whole groups permit.

Pure, and on counts alone: what a group is and what a part is called is not known here. Sums over classes are taken one
class after another, so that the result does not depend on how a processor adds up.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]  # (groups, classes): scans
Places = NDArray[np.int64]  # (groups,): index of a part
Floats = NDArray[np.float64]

NEGLIGIBLE = 1e-12  # a change of the distance below this counts as none: it is of shares by 0.0001 points
_MOST_KINDS = 1024  # kinds of groups, the lightest, among which swaps are sought
_MOST_FOLDS = 20  # that the greedy rule deals into and then merges


class NoFeasibleSplit(Exception):
    """No way was found to give every part a group of every class.

    `label` is a class that a part would lack, `more` how many more groups that have it alone would do for that class.
    """

    def __init__(self, label: int, more: int) -> None:
        super().__init__(label, more)
        self.label, self.more = label, more


def assign(counts: Counts, digests: Sequence[bytes], wanted: Sequence[float]) -> Places:
    """The part of every group.

    counts: (groups, classes) scans, at least one in each row and column. digests: for each group 6 bytes or more that
    are its own. wanted: the fraction for each part, above 0, all adding up to 1.

    A group's home is drawn from its digest, with the wanted fractions as chances, so nobody moves because others come.
    Then groups move, as few as it takes: again and again the one move that brings the distance (see `distance`) down
    most, and when no move does so any more a swap of two groups that does, until there is none of either. Of groups
    with equal counts the one with the lowest digest moves.

    If that ends further from the wanted shares than the rule of scikit-learn's StratifiedGroupKFold (see `_greedy`),
    which has no homes to keep, the same search starts from there instead.

    Every part gets a group of every class. Raises NoFeasibleSplit if no such assignment was found.
    """
    table = _Table(counts, digests, wanted)
    homes = np.array([int.from_bytes(digest[:6], "big") for digest in digests]) / 2.0**48
    found = table.search(np.searchsorted(np.cumsum(wanted)[:-1], homes, side="right"))
    reached = distance(counts, found, wanted)
    if reached <= _least(counts.sum(axis=0), wanted) + NEGLIGIBLE:
        return found
    try:
        rival = table.cover(_greedy(counts, wanted))
    except NoFeasibleSplit:
        return found
    return found if reached <= distance(counts, rival, wanted) else table.search(rival)


def distance(counts: Counts, places: Places, wanted: Sequence[float]) -> float:
    """The sum over parts and classes of the squared deviation of the class's share in the part from the wanted one."""
    held = np.stack([np.bincount(places, column, len(wanted)) for column in counts.T], axis=1)
    return _squares(held / counts.sum(axis=0) - np.asarray(wanted)[:, None])


def _least(total: NDArray[np.int64], wanted: Sequence[float]) -> float:
    """The distance that could be reached if every scan were a group of its own."""
    exact = np.outer(wanted, total)
    whole = np.floor(exact)
    for column, missing in enumerate((total - whole.sum(axis=0)).round().astype(int).tolist()):
        whole[np.argsort(-(exact - whole)[:, column], kind="stable")[:missing], column] += 1
    return _squares((whole - exact) / total)


def _squares(deviations: Floats) -> float:
    return float(sum(deviation * deviation for deviation in deviations.ravel().tolist()))


class _Table:
    """Groups by kind (equal counts), and how many of each kind are in which part while they are being placed."""

    def __init__(self, counts: Counts, digests: Sequence[bytes], wanted: Sequence[float] | Floats) -> None:
        kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
        self.kind_of = kind_of.ravel()
        self.order = sorted(range(len(digests)), key=digests.__getitem__)
        self.place_in_order = np.argsort(self.order)
        self.wanted = np.asarray(wanted, dtype=np.float64)
        self.counts = counts
        self.has = kinds > 0
        self.weights = kinds / counts.sum(axis=0)  # (kinds, classes): the share of each class that one group holds
        self.squares = np.zeros(len(kinds))
        for column in self.weights.T:
            self.squares += column * column
        self.light = np.sort(np.argsort(self.squares, kind="stable")[:_MOST_KINDS])
        self.products = np.zeros((len(self.light), len(self.light)))
        for column in self.weights[self.light].T:
            self.products += np.outer(column, column)

    def place(self, places: Places) -> None:
        """Put every group where it is said to be."""
        parts = len(self.wanted)
        shape = (len(self.weights), parts)
        self.places = places.copy()
        self.members: dict[tuple[int, int], list[int]] = defaultdict(list)  # kind, part -> places in the order, sorted
        for turn, group in enumerate(self.order):
            self.members[int(self.kind_of[group]), int(places[group])].append(turn)
        self.held = np.bincount(self.kind_of * parts + places, minlength=shape[0] * parts).reshape(shape)
        self.holders = np.stack([np.bincount(places, column > 0, parts) for column in self.counts.T], axis=1)
        shares = np.stack([np.bincount(places, column, parts) for column in self.counts.T], axis=1)
        self.off = shares / self.counts.sum(axis=0) - self.wanted[:, None]  # (parts, classes)
        self.pull = np.zeros(shape)  # weights @ off.T
        for part in range(parts):
            self._weigh(part)

    def move(self, kind: int, old: int, new: int) -> None:
        """Move one group of a kind: the one with the lowest digest."""
        turn = self.members[kind, old].pop(0)
        insort(self.members[kind, new], turn)
        self.places[self.order[turn]] = new
        for part, sign in ((old, -1), (new, 1)):
            self.held[kind, part] += sign
            self.holders[part] += sign * self.has[kind]
            self.off[part] += sign * self.weights[kind]
            self._weigh(part)

    def _weigh(self, part: int) -> None:
        self.pull[:, part] = 0
        for column, deviation in zip(self.weights.T, self.off[part].tolist(), strict=True):
            self.pull[:, part] += column * deviation

    def cover(self, places: Places) -> Places:
        """The same places, but for the groups that must move to give every part every class."""
        lacking = self._lacking(places)
        if lacking is not None:
            raise NoFeasibleSplit(lacking, self._needed(lacking))
        return self.places

    def _lacking(self, places: Places) -> int | None:
        """Take these places and move groups until every part has every class: None, or a class that one still lacks.

        The part that lacks the class with the fewest groups takes the group that leaves fewest gaps elsewhere, then the
        one that costs least; a move that was made before counts as one gap more each time, so that chains of moves are
        tried.
        """
        self.place(places)
        parts, classes = self.off.shape
        groups_of = (self.counts > 0).sum(axis=0)
        if (groups_of < parts).any():
            return int(groups_of.argmin())
        tried = np.zeros((*self.held.shape, parts), dtype=np.int64)  # kind, from, to
        label: int = 0
        for _ in range(100 + 20 * parts * classes):
            gaps = np.argwhere(self.holders == 0)
            if not len(gaps):
                return None
            part, label = min(gaps.tolist(), key=lambda gap: (groups_of[gap[1]], gap))
            kinds, olds = np.nonzero((self.held > 0) & self.has[:, label, None])
            opened = (self.has[kinds] & (self.holders[olds] == 1)).sum(axis=1)
            filled = (self.has[kinds] & (self.holders[part] == 0)).sum(axis=1)
            cost = self.pull[kinds, part] - self.pull[kinds, olds] + self.squares[kinds]
            best = np.lexsort((cost, opened - filled + tried[kinds, olds, part]))[0]
            tried[kinds[best], olds[best], part] += 1
            self.move(int(kinds[best]), int(olds[best]), part)
        return int(label)

    def _needed(self, label: int) -> int:
        """How many more groups that have only this class would let every part have it."""
        parts, classes = len(self.wanted), self.counts.shape[1]
        fewest = max(1, parts - int((self.counts[:, label] > 0).sum()))
        for more in range(fewest, parts):
            alone = np.zeros((more, classes), dtype=np.int64)
            alone[:, label] = 1
            counts = np.vstack([self.counts, alone])
            places = np.append(self.places, np.arange(more) % parts)
            if _Table(counts, [turn.to_bytes(6) for turn in range(len(counts))], self.wanted)._lacking(places) != label:
                return more
        return parts

    def search(self, places: Places) -> Places:
        """From these places, made to cover, to where neither a move nor a swap brings the distance down."""
        self.cover(places)
        while self._move_best() or self._swap_best():
            pass
        return self.places

    def _move_best(self) -> bool:
        needed = (self.has[:, None, :] & (self.holders == 1)).any(axis=2)  # (kinds, parts): none of the kind may leave
        target = self.pull.argmin(axis=1)
        nearest = self.pull[np.arange(len(target)), target]
        change = 2 * (nearest[:, None] - self.pull + self.squares[:, None])
        change[needed | (self.held == 0)] = 0
        kind, old = np.unravel_index(change.argmin(), change.shape)
        if not change[kind, old] < -NEGLIGIBLE:
            return False
        self.move(int(kind), int(old), int(target[kind]))
        return True

    def _swap_best(self) -> bool:
        for old, new in self._pairs():
            here, there = (np.flatnonzero(self.held[self.light, part]) for part in (old, new))
            ours, theirs = self.light[here], self.light[there]
            change = self.products[np.ix_(here, there)] * -2
            change += (self.pull[ours, new] - self.pull[ours, old] + self.squares[ours])[:, None]
            change += self.pull[theirs, old] - self.pull[theirs, new] + self.squares[theirs]
            for part, leaving, coming in ((old, ours, theirs), (new, theirs, ours)):
                for label in np.flatnonzero(self.holders[part] == 1):
                    lost = np.logical_and.outer(self.has[leaving, label], ~self.has[coming, label])
                    change[lost if part == old else lost.T] = 0
            kind, other = np.unravel_index(change.argmin(), change.shape)
            if 2 * change[kind, other] < -NEGLIGIBLE:
                self.move(int(ours[kind]), old, new)
                self.move(int(theirs[other]), new, old)
                return True
        return False

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """Two parts at a time, those that differ most in their deviations first; none that no swap can bring nearer."""
        differ = [
            (_squares(self.off[old] - self.off[new]), old, new)
            for old in range(len(self.off))
            for new in range(old + 1, len(self.off))
        ]
        for squares, old, new in sorted(differ, key=lambda pair: -pair[0]):
            if squares / 2 > NEGLIGIBLE:  # what moving just half of the difference would bring
                yield old, new


def _greedy(counts: Counts, wanted: Sequence[float]) -> Places:
    """Where scikit-learn's StratifiedGroupKFold puts the groups, dealing into equal folds that are then merged.

    Its rule, first published by Jakub Wasikowski as a Kaggle kernel: groups in descending order of the spread of their
    class counts, each into the fold with which the classes' spreads over the folds are least on average, or nearly so
    and the fold has fewer scans.
    """
    sizes = _folds(wanted)
    folds, total = int(sizes.sum()), counts.sum(axis=0)
    held = np.zeros((folds, counts.shape[1]))
    places = np.empty(len(counts), dtype=np.int64)
    each = np.eye(folds)[:, :, None]
    for group in np.argsort(-np.std(counts, axis=1), kind="stable").tolist():
        spreads = np.std((held + each * counts[group]) / total, axis=1).mean(axis=1).tolist()
        scans = held.sum(axis=1).tolist()
        best, least, fewest = 0, np.inf, np.inf
        for fold, (spread, number) in enumerate(zip(spreads, scans, strict=True)):
            if spread < least or (abs(spread - least) <= 1e-8 + 1e-5 * least < np.inf and number < fewest):
                best, least, fewest = fold, spread, number
        held[best] += counts[group]
        places[group] = best
    return np.repeat(np.arange(len(wanted)), sizes)[places]


def _folds(wanted: Sequence[float]) -> NDArray[np.int64]:
    """How many equal folds make each part: the fewest that fit the wanted fractions, or else nearly so."""
    exact = np.asarray(wanted)
    most = max(_MOST_FOLDS, len(exact))
    for folds in range(len(exact), most + 1):
        sizes = (exact * folds).round()
        if (np.abs(exact * folds - sizes) < 1e-9).all() and (sizes > 0).all():
            break
    else:
        sizes = np.maximum(1, (exact * most).round())
    return sizes.astype(np.int64)
