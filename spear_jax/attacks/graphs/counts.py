"""How often each colour is there: whole numbers whose weighted mean, or sum, of states is the pooled vector.

Non-negative least squares with edge balance: as many ends of edges go from colours of s to t as from t to s. A mean
gives shares of the nodes, of which the smallest common denominator is the number of nodes, or a part of it. What else
fits is looked for, not assumed away: colours with equal states are told apart by balance alone, and where the states of
all colours are dependent, a linear programme tells whether any other could be there.
"""

from __future__ import annotations

import itertools
from math import comb, prod
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog, nnls

from spear_jax.attacks.graphs.levels import Level
from spear_jax.attacks.graphs.pooled import Pooled
from spear_jax.row_space import FITS
from spear_jax.stages import stage

# Colours that are weighed at most, nodes of a graph, and ways to share counts among colours with equal states.
MOST_WEIGHED, MOST_NODES, MOST_SHARED = 3_000, 400, 50_000
# States are equal, and shares zero, up to this part of their size beyond noise.
EQUAL, ZERO = 1e-9, 1e-6


class Counts(NamedTuple):
    """Whole numbers of nodes by colour that fit.

    Attributes:
        vectors: (m,) int each, all that fit with the smallest number of nodes, or its multiple that was asked for.
        is_complete: whether no others fit.
    """

    vectors: list[np.ndarray]
    is_complete: bool


class Weighed(NamedTuple):
    """Shares of the nodes by colour.

    Attributes:
        sums: (g,) int, nodes of each group of colours with equal states, for the smallest number of nodes.
        groups: places of the colours of each group.
        balance: (pairs, m) int, see `balance_rows`.
        is_unique: whether no other shares fit.
    """

    sums: np.ndarray
    groups: list[np.ndarray]
    balance: np.ndarray
    is_unique: bool


@stage("graphs: counts")
def weigh(level: Level, states: np.ndarray, pooled: Pooled, is_mean: bool) -> Weighed | None:
    """How many nodes of each group of colours with equal states make up a pooled vector; None where none do.

    Args:
        level: colours of the highest level.
        states: (m, width) what each gives the pool.
        pooled: vector, of one graph.
        is_mean: whether the pool is a mean, so that the number of nodes is not known.
    """
    if not 0 < len(level) <= MOST_WEIGHED:
        return None
    length, balance = float(np.linalg.norm(pooled.vector)), balance_rows(level)
    columns = states.T.astype(np.float64) / length
    scale = float(np.linalg.norm(columns, axis=0).mean())
    system = np.concatenate([columns, scale * balance] + ([np.full((1, len(level)), scale)] if is_mean else []))
    target = np.concatenate([pooled.vector / length, np.zeros(len(balance))] + ([[scale]] if is_mean else []))
    shares, _ = nnls(*_squared(system, target), maxiter=20 * len(level))
    limit = FITS * pooled.relative
    if np.linalg.norm(system @ shares - target) > limit:
        return None
    groups = _groups(columns)
    sums = np.array([shares[group].sum() for group in groups])
    distinct = np.stack([columns[:, group[0]] for group in groups], axis=1)
    whole = _whole(distinct, sums, pooled.vector / length, limit, is_mean)
    if whole is None:
        return None
    used = np.concatenate([group for group, count in zip(groups, whole, strict=True) if count])
    is_told = np.linalg.matrix_rank(distinct[:, whole > 0], tol=limit) == int((whole > 0).sum())
    return Weighed(whole, groups, balance, bool(is_told) and _is_unique(system, shares, used, limit))


def balance_rows(level: Level) -> np.ndarray:
    """(pairs, m) int: for two colours below, ends of edges from one to the other less those back, by colour above."""
    found = {}
    for place, (own, slots) in enumerate(zip(level.own.tolist(), level.slots.tolist(), strict=True)):
        for slot in slots:
            if slot >= 0 and slot != own:
                row = found.setdefault((min(own, slot), max(own, slot)), np.zeros(len(level), int))
                row[place] += 1 if own < slot else -1
    return np.array(list(found.values()), int).reshape(-1, len(level))


def counts_of(weighed: Weighed, level: Level, multiple: int = 1) -> Counts:
    """All counts by colour: each group's nodes shared among its colours so that edges balance.

    Args:
        weighed: counts by group.
        level: colours of the highest level.
        multiple: of the smallest number of nodes.
    """
    sums, groups = weighed.sums * multiple, weighed.groups
    used = [place for place in range(len(groups)) if sums[place]]
    ways = prod(comb(int(sums[place]) + len(groups[place]) - 1, len(groups[place]) - 1) for place in used)
    if ways > MOST_SHARED:
        return Counts([], False)
    vectors = []
    for shared in itertools.product(*(_shared(int(sums[place]), len(groups[place])) for place in used)):
        counts = np.zeros(len(level), int)
        for place, parts in zip(used, shared, strict=True):
            counts[groups[place]] = parts
        if not np.any(weighed.balance @ counts) and _pairs_up(level, counts):
            vectors.append(counts)
    return Counts(vectors, weighed.is_unique)


def _pairs_up(level: Level, counts: np.ndarray) -> bool:
    """Whether edges between nodes of one colour below have two ends each."""
    ends = np.zeros(int(level.own.max()) + 1, int)
    np.add.at(ends, level.own, counts * (level.slots == level.own[:, None]).sum(axis=1))
    return not np.any(ends % 2)


def _shared(count: int, parts: int):
    """All ways to share a number among some, none of them negative."""
    for bars in itertools.combinations(range(count + parts - 1), parts - 1):
        edges = (-1, *bars, count + parts - 1)
        yield tuple(after - before - 1 for before, after in itertools.pairwise(edges))


def _squared(system: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same least squares with no more rows than columns and one."""
    if len(system) <= system.shape[1] + 1:
        return system, target
    upper = np.asarray(np.linalg.qr(np.concatenate([system, target[:, None]], axis=1), mode="r"))
    return upper[:, :-1], upper[:, -1]


def _groups(columns: np.ndarray) -> list[np.ndarray]:
    """Places of columns that are equal, found by their order along one direction."""
    direction = np.random.default_rng(0).normal(size=len(columns))
    order = np.argsort(direction @ columns, kind="stable")
    limit = EQUAL * float(np.linalg.norm(columns, axis=0).max())
    gaps = np.linalg.norm(np.diff(columns[:, order], axis=1), axis=0) > limit
    return [np.sort(part) for part in np.split(order, np.flatnonzero(gaps) + 1)]


def _whole(
    distinct: np.ndarray, sums: np.ndarray, target: np.ndarray, limit: float, is_mean: bool
) -> np.ndarray | None:
    """The smallest whole numbers in the ratio of some shares that fit as well; None where none do."""
    for nodes in range(1, MOST_NODES) if is_mean else (1,):
        whole = np.rint(sums * nodes).astype(int)
        if is_mean and whole.sum() != nodes:
            continue
        if whole.any() and np.linalg.norm(distinct @ whole / nodes - target) <= limit:
            return whole
    return None


def _is_unique(system: np.ndarray, shares: np.ndarray, used: np.ndarray, limit: float) -> bool:
    """Whether no other shares fit: none that use other groups of colours, and none that use these otherwise."""
    lengths = np.linalg.norm(system, axis=0)
    _, sizes, directions = np.linalg.svd(system / lengths, full_matrices=False)
    floor = max(limit, 1e3 * np.finfo(float).eps) * sizes[0]
    strong = directions[sizes > floor]
    if len(strong) == len(lengths):
        return True
    is_used = np.zeros(len(lengths), bool)
    is_used[used] = True
    weighed = shares * lengths
    others = linprog(-(~is_used).astype(float), A_eq=strong, b_eq=strong @ weighed, bounds=(0, None), method="highs")
    return bool(others.status == 0 and -others.fun <= ZERO)
