"""How often each colour is there: whole numbers whose weighted mean, or sum, of states is the pooled vector.

Non-negative least squares with edge balance: as many ends of edges go from colours of s to t as from t to s. A mean
gives shares of the nodes, and every number of nodes is tried, the smallest first. What else fits is looked for, not
assumed away: linear programmes find every colour that could be there, and whole numbers are listed over all of these,
since colours with equal states, or states that add up alike, share a gradient (two neighbours of one kind each at two
nodes against one of either at both).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.optimize import linprog, nnls

from spear_jax import linalg
from spear_jax.attacks.graphs.evidence import Evidence
from spear_jax.attacks.graphs.levels import Level
from spear_jax.attacks.graphs.pooled import Pooled
from spear_jax.row_space import FITS
from spear_jax.stages import stage

# Colours that are weighed at most, and nodes of a graph.
MOST_WEIGHED, MOST_NODES = 3_000, 400
# Shares below this are none; whole numbers are rounded from no farther than this.
ZERO, ROUNDED = 1e-7, 0.2
# Linear programmes that look for further colours, and whole numbers that are looked through for one number of nodes.
MOST_PROGRAMMES, MOST_POINTS = 40, 3_000
# A direction of the equations is known where it stands out of the noise by this factor.
STANDS_OUT = 30.0


class Weighed(NamedTuple):
    """Shares of the nodes by colour, and all that could be there instead.

    Attributes:
        places: of the colours that could be there.
        shares: (t,) of these, one solution; numbers of nodes where the pool is a sum.
        free: (t, q) orthonormal columns, by which shares may differ from it.
        system: (k, t) equations, of which solutions leave no more than ``limit``.
        target: (k,) right-hand side.
        limit: see above.
        is_complete: whether no colours but these could be there.
    """

    places: np.ndarray
    shares: np.ndarray
    free: np.ndarray
    system: np.ndarray
    target: np.ndarray
    limit: float
    is_complete: bool


class Counts(NamedTuple):
    """Whole numbers of nodes by colour that fit, of one number of nodes.

    Attributes:
        vectors: (m,) int each.
        is_complete: whether no others fit.
    """

    vectors: list[np.ndarray]
    is_complete: bool


@stage("graphs: counts")
def weigh(
    level: Level, states: np.ndarray, pooled: Pooled, is_mean: bool, evidence: Evidence | None = None
) -> Weighed | None:
    """Shares of colours that make up a pooled vector; None where none do.

    Args:
        level: colours of the highest level.
        states: (m, width) what each gives the pool.
        pooled: vector, of one graph.
        is_mean: whether the pool is a mean, so that the number of nodes is not known.
        evidence: further equations for the shares, where there are any.
    """
    if not 0 < len(level) <= MOST_WEIGHED:
        return None
    length, balance = float(np.linalg.norm(pooled.vector)), balance_rows(level)
    columns, goal = states.T.astype(np.float64) / length, pooled.vector / length
    if evidence is not None:
        columns, goal = np.concatenate([columns, evidence.rows]), np.concatenate([goal, evidence.target])
    scale = float(np.linalg.norm(columns, axis=0).mean())
    system = np.concatenate([columns, scale * balance] + ([np.full((1, len(level)), scale)] if is_mean else []))
    target = np.concatenate([goal, np.zeros(len(balance))] + ([[scale]] if is_mean else []))
    shares, _ = nnls(*_squared(system, target), maxiter=20 * len(level))
    limit = FITS * pooled.relative
    if np.linalg.norm(system @ shares - target) > limit:
        return None
    could_be, is_complete = _could_be(system, shares, STANDS_OUT * limit)
    places = np.flatnonzero(could_be)
    part = system[:, places]
    return Weighed(places, shares[places], _free(part, STANDS_OUT * limit), part, target, limit, is_complete)


def balance_rows(level: Level) -> np.ndarray:
    """(pairs, m) int: for two colours below, ends of edges from one to the other less those back, by colour above."""
    found = {}
    for place, (own, slots) in enumerate(zip(level.own.tolist(), level.slots.tolist(), strict=True)):
        for slot in slots:
            if slot >= 0 and slot != own:
                row = found.setdefault((min(own, slot), max(own, slot)), np.zeros(len(level), int))
                row[place] += 1 if own < slot else -1
    return np.array(list(found.values()), int).reshape(-1, len(level))


def counts_of(weighed: Weighed, level: Level, nodes: int = 1) -> Counts:
    """All whole numbers of nodes by colour that fit.

    Args:
        weighed: shares.
        level: colours of the highest level.
        nodes: number of nodes, by which shares are multiplied; 1 where these are numbers already.
    """
    pivots = _pivots(weighed.free)
    vectors, looked = [], 0
    for start in _points(weighed, nodes, pivots):
        looked += 1
        if looked > MOST_POINTS:
            return Counts(vectors, False)
        whole = np.rint(start).astype(int)
        if np.abs(start - whole).max() > ROUNDED or whole.min() < 0 or not whole.any():
            continue
        if np.linalg.norm(weighed.system @ whole / nodes - weighed.target) > weighed.limit:
            continue
        counts = np.zeros(len(level), int)
        counts[weighed.places] = whole
        if _pairs_up(level, counts):
            vectors.append(counts)
    return Counts(vectors, weighed.is_complete)


def certain_rows(weighed: Weighed, level: Level) -> frozenset[int]:
    """Numbers of the rows of features that every solution has, of any number of nodes; none where others may fit."""
    rows = level.rows[weighed.places]
    return frozenset(int(row) for row in np.unique(rows) if weighed.is_complete and _least(weighed, rows == row) > ZERO)


def _least(weighed: Weighed, is_counted: np.ndarray) -> float:
    """Smallest share that some colours have together."""
    least = float(weighed.shares[is_counted].sum())
    if not weighed.free.shape[1]:
        return least
    ended = linprog(
        weighed.free[is_counted].sum(axis=0),
        A_ub=-weighed.free,
        b_ub=np.maximum(weighed.shares, 0),
        bounds=(None, None),
        method="highs",
    )
    return least + ended.fun if ended.status == 0 else 0.0


def _points(weighed: Weighed, nodes: int, pivots: np.ndarray):
    """Points of which the free entries are whole, each entry within what linear programmes allow it."""
    base = nodes * weighed.shares
    if not len(pivots):
        yield base
        return
    inverse = linalg.inv(weighed.free[pivots])

    def extend(fixed: list[int]):
        if len(fixed) == len(pivots):
            yield base + weighed.free @ (inverse @ (np.array(fixed) - base[pivots]))
            return
        low, high = _range(weighed, base, pivots, fixed)
        for value in range(int(np.ceil(low - ROUNDED)), int(np.floor(high + ROUNDED)) + 1):
            yield from extend([*fixed, value])

    yield from extend([])


def _range(weighed: Weighed, base: np.ndarray, pivots: np.ndarray, fixed: list[int]) -> tuple[float, float]:
    """Smallest and largest value of the next free entry where the first ones are fixed; empty where nothing fits."""
    count, pivot = len(fixed), pivots[len(fixed)]
    known = weighed.free[pivots[:count]]
    goal = weighed.free[pivot]
    ends = []
    for sign in (1, -1):
        ended = linprog(
            sign * goal,
            A_ub=-weighed.free,
            b_ub=base + ROUNDED,
            A_eq=known if count else None,
            b_eq=np.array(fixed) - base[pivots[:count]] if count else None,
            bounds=(None, None),
            method="highs",
        )
        if ended.status != 0:
            return 1.0, -1.0
        ends.append(base[pivot] + sign * ended.fun)
    return ends[0], ends[1]


def _pivots(free: np.ndarray) -> np.ndarray:
    """(q,) entries that determine a combination of the free directions."""
    if not free.shape[1]:
        return np.zeros(0, int)
    return np.asarray(scipy.linalg.qr(free.T, mode="r", pivoting=True)[-1])[: free.shape[1]]


def _pairs_up(level: Level, counts: np.ndarray) -> bool:
    """Whether edges between nodes of one colour below have two ends each."""
    ends = np.zeros(int(level.own.max()) + 1, int)
    np.add.at(ends, level.own, counts * (level.slots == level.own[:, None]).sum(axis=1))
    return not np.any(ends % 2)


def _squared(system: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same least squares with no more rows than columns and one."""
    if len(system) <= system.shape[1] + 1:
        return system, target
    upper = np.asarray(linalg.qr(np.concatenate([system, target[:, None]], axis=1), mode="r"))
    return upper[:, :-1], upper[:, -1]


def _known(system: np.ndarray, floor: float) -> np.ndarray:
    """(k, m) orthonormal rows of what equations say above a floor relative to the strongest."""
    _, sizes, directions = linalg.svd(_squared(system, np.zeros(len(system)))[0], full_matrices=False)
    return directions[sizes > max(floor, 1e3 * np.finfo(float).eps) * sizes[0]]


def _free(system: np.ndarray, floor: float) -> np.ndarray:
    """(m, q) orthonormal columns of what equations do not say."""
    known = _known(system, floor)
    return linalg.svd(known)[2][len(known) :].T


def _could_be(system: np.ndarray, shares: np.ndarray, floor: float) -> tuple[np.ndarray, bool]:
    """(m,) bool, colours that some solution has, and whether all of these were found."""
    known, could_be = _known(system, floor), shares > ZERO
    if len(known) == system.shape[1]:
        return could_be, True
    weights = np.random.default_rng(0).uniform(0.5, 1, len(shares))
    for _ in range(MOST_PROGRAMMES):
        ended = linprog(-weights * ~could_be, A_eq=known, b_eq=known @ shares, bounds=(0, None), method="highs")
        if ended.status != 0:
            return could_be, False
        if -ended.fun <= 10 * ZERO:
            return could_be, True
        could_be = could_be | (ended.x > ZERO)
    return could_be, False
