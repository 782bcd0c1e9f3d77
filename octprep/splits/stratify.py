"""Stratified assignment of whole groups to parts: local search on a quadratic objective.

n[g, c] is the number of scans of class c in group g, t[p] the target fraction of part p (they add up to 1), and

    w[g, c] = n[g, c] / sum over groups of n[., c]                the share of class c that group g holds
    d[p, c] = sum of w[g, c] over the groups g in p  -  t[p]      the deviation of part p
    f       = sum over p, c of d[p, c]^2                          the objective, see `distance`

f is quadratic in the assignment, so a step is judged without applying it:

    move g from p to q            2 * (w[g].d[q] - w[g].d[p] + |w[g]|^2)
    swap g in p with h in q       the move of g, plus that of h from q to p, minus 4 * w[g].w[h]

Every part must hold a group of every class. `_repair` reaches that by greedy moves with a tabu list; the local search
(`_apply_best_move`, `_apply_best_swap`) only takes steps that keep it.

Groups with equal counts are interchangeable and form one *kind*; all arrays of the search are over kinds. Sums over
classes are taken one class after another, so that the result does not depend on how a processor adds up. Nothing here
knows what a group or a part is called.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from octprep.arrays import Float64, Int64

NEGLIGIBLE = 1e-12  # a smaller change of the objective is ignored: it moves shares by 0.0001 percentage points
_MAX_SWAP_KINDS = 1024  # swaps are tried among so many kinds, those with the smallest |w|
_MAX_FOLDS = 20  # equal folds that the greedy baseline fills before it merges them


class NoFeasibleSplit(Exception):
    """No assignment was found that gives every part a group of every class.

    `label` is the index of a class that a part would lack; `extra_groups_needed` is how many more groups with that
    class alone would suffice for it.
    """

    def __init__(self, label: int, extra_groups_needed: int) -> None:
        super().__init__(label, extra_groups_needed)
        self.label, self.extra_groups_needed = label, extra_groups_needed


def stratified_group_split(counts: Int64, digests: Sequence[bytes], targets: Sequence[float]) -> Int64:
    """Assign every group to a part: (groups,) indices of parts.

    counts: (groups, classes) scans, at least one in each row and column. digests: for each group 6 bytes or more that
    are its own. targets: the fraction for each part, above 0, all adding up to 1.

    The initial part of a group is drawn from its digest with the targets as probabilities, so it does not depend on
    the other groups. The local search then takes the best move that lowers the objective, or where there is none the
    best swap, until neither exists; few groups leave their initial part. Of groups with equal counts the one with the
    lowest digest moves. If scikit-learn's greedy rule (`_sklearn_greedy`) gets nearer to the targets than that, the
    search is run from its result instead.

    Every part gets a group of every class. Raises NoFeasibleSplit if no such assignment was found.
    """
    problem = _Problem(counts, tuple(digests), np.asarray(targets, dtype=np.float64))
    draws = np.array([int.from_bytes(digest[:6], "big") for digest in digests]) / 2.0**48
    initial = np.searchsorted(np.cumsum(targets)[:-1], draws, side="right")
    assignment = _local_search(_feasible(problem, initial))
    reached = distance(counts, assignment, targets)
    if reached <= _lower_bound(counts.sum(axis=0), targets) + NEGLIGIBLE:
        return assignment
    try:
        baseline = _feasible(problem, _sklearn_greedy(counts, targets))
    except NoFeasibleSplit:
        return assignment
    return assignment if reached <= distance(counts, baseline.part_of, targets) else _local_search(baseline)


def distance(counts: Int64, part_of: Int64, targets: Sequence[float]) -> float:
    """The objective: the sum over parts and classes of the squared deviation of the class's share from its target."""
    held = np.stack([np.bincount(part_of, column, len(targets)) for column in counts.T], axis=1)
    return _sum_of_squares(held / counts.sum(axis=0) - np.asarray(targets)[:, None])


def _lower_bound(total: Int64, targets: Sequence[float]) -> float:
    """The objective that could be reached if every scan were a group of its own."""
    exact = np.outer(targets, total)
    whole = np.floor(exact)
    for column, missing in enumerate((total - whole.sum(axis=0)).round().astype(int).tolist()):
        whole[np.argsort(-(exact - whole)[:, column], kind="stable")[:missing], column] += 1
    return _sum_of_squares((whole - exact) / total)


def _sum_of_squares(deviations: Float64) -> float:
    return float(sum(deviation * deviation for deviation in deviations.ravel().tolist()))


@dataclass(frozen=True)
class _Problem:
    """The input, and what is derived from it alone."""

    counts: Int64  # (groups, classes)
    digests: tuple[bytes, ...]  # (groups,)
    targets: Float64  # (parts,)

    @property
    def parts(self) -> int:
        return len(self.targets)

    @cached_property
    def _kinds(self) -> tuple[Int64, Int64]:
        kinds, kind_of = np.unique(self.counts, axis=0, return_inverse=True)
        return kinds, kind_of.ravel()

    @property
    def kind_of(self) -> Int64:
        """(groups,) index of a kind."""
        return self._kinds[1]

    @cached_property
    def by_digest(self) -> list[int]:
        """The groups in the order of their digests."""
        return sorted(range(len(self.digests)), key=self.digests.__getitem__)

    @cached_property
    def has(self) -> NDArray[np.bool_]:
        """(kinds, classes) whether a group of the kind has the class."""
        return self._kinds[0] > 0

    @cached_property
    def weights(self) -> Float64:
        """(kinds, classes) w: the share of each class that one group of the kind holds."""
        weights: Float64 = self._kinds[0] / self.counts.sum(axis=0)
        return weights

    @cached_property
    def squared_norms(self) -> Float64:
        """(kinds,) |w|^2."""
        squares = np.zeros(len(self.weights))
        for column in self.weights.T:
            squares += column * column
        return squares

    @cached_property
    def swap_candidates(self) -> NDArray[np.intp]:
        """Indices of the kinds among which swaps are sought, ascending."""
        return np.sort(np.argsort(self.squared_norms, kind="stable")[:_MAX_SWAP_KINDS])

    @cached_property
    def swap_products(self) -> Float64:
        """(candidates, candidates) w[g].w[h]."""
        products = np.zeros((len(self.swap_candidates), len(self.swap_candidates)))
        for column in self.weights[self.swap_candidates].T:
            products += np.outer(column, column)
        return products

    @cached_property
    def groups_with_class(self) -> Int64:
        """(classes,) how many groups have the class."""
        groups: Int64 = (self.counts > 0).sum(axis=0)
        return groups


class _State:
    """An assignment and the sums that a step changes."""

    def __init__(self, problem: _Problem, part_of: Int64) -> None:
        counts, parts, kinds = problem.counts, problem.parts, len(problem.weights)
        self.problem = problem
        self.part_of = part_of.copy()
        # kind, part -> indices in by_digest, ascending
        self._members: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, group in enumerate(problem.by_digest):
            self._members[int(problem.kind_of[group]), int(part_of[group])].append(index)
        cells = np.bincount(problem.kind_of * parts + part_of, minlength=kinds * parts)
        self.count_by_kind = cells.reshape(kinds, parts)  # groups of a kind in a part
        self.group_count = np.stack([np.bincount(part_of, column > 0, parts) for column in counts.T], axis=1)
        shares = np.stack([np.bincount(part_of, column, parts) for column in counts.T], axis=1)
        self.deviation = shares / counts.sum(axis=0) - problem.targets[:, None]  # (parts, classes): d
        self.gradient = np.zeros((kinds, parts))  # w.d: half of the objective's slope as a kind's share of a part grows
        for part in range(parts):
            self._update_gradient(part)

    def move(self, kind: int, old: int, new: int) -> None:
        """Move one group of a kind: the one with the lowest digest."""
        problem = self.problem
        index = self._members[kind, old].pop(0)
        insort(self._members[kind, new], index)
        self.part_of[problem.by_digest[index]] = new
        for part, sign in ((old, -1), (new, 1)):
            self.count_by_kind[kind, part] += sign
            self.group_count[part] += sign * problem.has[kind]
            self.deviation[part] += sign * problem.weights[kind]
            self._update_gradient(part)

    def _update_gradient(self, part: int) -> None:
        self.gradient[:, part] = 0
        for column, deviation in zip(self.problem.weights.T, self.deviation[part].tolist(), strict=True):
            self.gradient[:, part] += column * deviation


def _feasible(problem: _Problem, part_of: Int64) -> _State:
    """This assignment, but for the groups that must move to give every part every class. Raises NoFeasibleSplit."""
    state = _State(problem, part_of)
    missing = _repair(state)
    if missing is not None:
        raise NoFeasibleSplit(missing, _extra_groups_needed(state, missing))
    return state


def _repair(state: _State) -> int | None:
    """Move groups until every part has every class: None then, else the class that a part still lacks.

    Each step fills the part that lacks the class with the fewest groups. It takes the group that leaves the fewest gaps
    elsewhere, then the one that costs least. The tabu list counts each move made: a repeated one is charged as one gap
    more each time, so that chains of moves are tried. The number of steps is bounded by 100 + 20 * parts * classes.
    """
    problem = state.problem
    parts, classes = state.deviation.shape
    if (problem.groups_with_class < parts).any():
        return int(problem.groups_with_class.argmin())
    tabu = np.zeros((*state.count_by_kind.shape, parts), dtype=np.int64)  # kind, from, to: times moved
    label: int = 0
    for _ in range(100 + 20 * parts * classes):
        gaps = np.argwhere(state.group_count == 0)
        if not len(gaps):
            return None
        part, label = min(gaps.tolist(), key=lambda gap: (problem.groups_with_class[gap[1]], gap))
        kinds, sources = np.nonzero((state.count_by_kind > 0) & problem.has[:, label, None])
        opened = (problem.has[kinds] & (state.group_count[sources] == 1)).sum(axis=1)
        filled = (problem.has[kinds] & (state.group_count[part] == 0)).sum(axis=1)
        cost = state.gradient[kinds, part] - state.gradient[kinds, sources] + problem.squared_norms[kinds]
        best = np.lexsort((cost, opened - filled + tabu[kinds, sources, part]))[0]
        tabu[kinds[best], sources[best], part] += 1
        state.move(int(kinds[best]), int(sources[best]), part)
    return int(label)


def _extra_groups_needed(state: _State, label: int) -> int:
    """How many more groups that have only this class would let every part have it."""
    counts, parts = state.problem.counts, state.problem.parts
    fewest = max(1, parts - int(state.problem.groups_with_class[label]))
    for extra in range(fewest, parts):
        added = np.zeros((extra, counts.shape[1]), dtype=np.int64)
        added[:, label] = 1
        larger = np.vstack([counts, added])
        digests = tuple(index.to_bytes(6) for index in range(len(larger)))
        part_of = np.append(state.part_of, np.arange(extra) % parts)
        if _repair(_State(_Problem(larger, digests, state.problem.targets), part_of)) != label:
            return extra
    return parts


def _local_search(state: _State) -> Int64:
    """From a feasible state to one where neither a move nor a swap lowers the objective: (groups,) its parts."""
    while _apply_best_move(state) or _apply_best_swap(state):
        pass
    return state.part_of


def _apply_best_move(state: _State) -> bool:
    """Make the move that lowers the objective most; False if none does."""
    problem, gradient = state.problem, state.gradient
    needed = (problem.has[:, None, :] & (state.group_count == 1)).any(axis=2)  # (kinds, parts): none of it may leave
    target = gradient.argmin(axis=1)  # the best part for a kind, wherever it comes from
    lowest = gradient[np.arange(len(target)), target]
    change = 2 * (lowest[:, None] - gradient + problem.squared_norms[:, None])
    change[needed | (state.count_by_kind == 0)] = 0
    kind, old = np.unravel_index(change.argmin(), change.shape)
    if not change[kind, old] < -NEGLIGIBLE:
        return False
    state.move(int(kind), int(old), int(target[kind]))
    return True


def _apply_best_swap(state: _State) -> bool:
    """Make the best swap of the first pair of parts that has one which lowers the objective; False if none has."""
    problem, gradient = state.problem, state.gradient
    for first, second in _pairs_of_parts(state.deviation):
        rows, columns = (np.flatnonzero(state.count_by_kind[problem.swap_candidates, part]) for part in (first, second))
        leaving, coming = problem.swap_candidates[rows], problem.swap_candidates[columns]
        change = problem.swap_products[np.ix_(rows, columns)] * -2  # half of the change of the objective
        change += (gradient[leaving, second] - gradient[leaving, first] + problem.squared_norms[leaving])[:, None]
        change += gradient[coming, first] - gradient[coming, second] + problem.squared_norms[coming]
        for label in np.flatnonzero(state.group_count[first] == 1):  # the first part's last group of a class
            change[np.logical_and.outer(problem.has[leaving, label], ~problem.has[coming, label])] = 0
        for label in np.flatnonzero(state.group_count[second] == 1):
            change[np.logical_and.outer(~problem.has[leaving, label], problem.has[coming, label])] = 0
        row, column = np.unravel_index(change.argmin(), change.shape)
        if 2 * change[row, column] < -NEGLIGIBLE:
            state.move(int(leaving[row]), first, second)
            state.move(int(coming[column]), second, first)
            return True
    return False


def _pairs_of_parts(deviation: Float64) -> Iterator[tuple[int, int]]:
    """Pairs of parts, those that differ most in their deviations first; none that no swap can bring nearer."""
    differences = [
        (_sum_of_squares(deviation[first] - deviation[second]), first, second)
        for first in range(len(deviation))
        for second in range(first + 1, len(deviation))
    ]
    for squares, first, second in sorted(differences, key=lambda pair: -pair[0]):
        if squares / 2 > NEGLIGIBLE:  # what moving just half of the difference would bring
            yield first, second


def _sklearn_greedy(counts: Int64, targets: Sequence[float]) -> Int64:
    """The assignment of scikit-learn's StratifiedGroupKFold, over equal folds that are then merged: (groups,) parts.

    Its rule, first published by Jakub Wasikowski as a Kaggle kernel: groups in descending order of the standard
    deviation of their class counts, each into the fold that makes the standard deviation over the folds, averaged over
    the classes, smallest; where that is nearly equal, into the fold with fewer scans.
    """
    sizes = _folds_per_part(targets)
    folds, total = int(sizes.sum()), counts.sum(axis=0)
    held = np.zeros((folds, counts.shape[1]))
    fold_of = np.empty(len(counts), dtype=np.int64)
    one_hot = np.eye(folds)[:, :, None]
    for group in np.argsort(-np.std(counts, axis=1), kind="stable").tolist():
        stds = np.std((held + one_hot * counts[group]) / total, axis=1).mean(axis=1).tolist()
        scans = held.sum(axis=1).tolist()
        best, lowest_std, fewest_scans = 0, np.inf, np.inf
        for fold, (std, number) in enumerate(zip(stds, scans, strict=True)):
            nearly_equal = abs(std - lowest_std) <= 1e-8 + 1e-5 * lowest_std < np.inf
            if std < lowest_std or (nearly_equal and number < fewest_scans):
                best, lowest_std, fewest_scans = fold, std, number
        held[best] += counts[group]
        fold_of[group] = best
    return np.repeat(np.arange(len(targets)), sizes)[fold_of]


def _folds_per_part(targets: Sequence[float]) -> Int64:
    """How many equal folds make each part: the fewest that fit the target fractions, or else nearly so."""
    exact = np.asarray(targets)
    limit = max(_MAX_FOLDS, len(exact))
    for folds in range(len(exact), limit + 1):
        sizes = (exact * folds).round()
        if (np.abs(exact * folds - sizes) < 1e-9).all() and (sizes > 0).all():
            break
    else:
        sizes = np.maximum(1, (exact * limit).round())
    return sizes.astype(np.int64)
