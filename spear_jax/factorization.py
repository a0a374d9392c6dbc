"""The weight gradient as a thin product, and the batch size read off it (SPEAR, Thm. 3.1 and 3.2).

``G = D X^T`` has rank at most b. A randomised range finder (Halko, Martinsson and Tropp 2011, Alg. 4.4, one subspace
iteration with orthonormalisation in between) finds the rank without a full SVD: three passes over G in column blocks,
so a float32 gradient of 2000 x 150528 is never copied whole. The sketch grows until it sees the noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from spear_jax.errors import SpearError
from spear_jax.numerics import (
    EPS64,
    MIN_GAP,
    NOISE_MARGIN,
    ZERO_SIGMAS,
    float64_linalg,
    float64_namespace,
    to_float64,
)
from spear_jax.stages import stage
from spear_jax.types import Array, Factorization

# Columns of the sketch beyond the rank: these are what the noise floor is read from.
OVERSAMPLING = 16
FIRST_SKETCH = 64
# A client's products add rounding of up to this many units in the last place (long sums, in any order).
ROUNDING_MARGIN = 64.0
# Entries of G converted to float64 once and kept (256 MiB), and of what a pass over G works on at a time (8 MiB: larger
# temporaries come fresh from the operating system each time, which costs twice the arithmetic), in columns at least.
KEPT_ENTRIES, BLOCK_ENTRIES, BLOCK_COLUMNS = 2**25, 2**20, 128
# White noise: how far above its edge a singular value must be to be none of it, and the shares of its singular values
# that are compared with what they should be, within a part of the largest.
WHITE_EDGE, WHITE_SHARES, WHITE_TOLERANCE = 1.05, np.array([0.1, 0.3, 0.5, 0.7, 0.9]), 0.03
# Times its edge that the largest singular value of noise may be, which is not always white (rounding shows up to 3.4),
# and the same of this side's own arithmetic, in units of the largest of all.
STICKS_OUT, OWN_EDGE = 4.0, 100.0
# The sketch's random matrix is part of the algorithm, not of the experiment: the same for every run.
SKETCH_SEED = 0


@stage("factorize")
def factorize(weight_grad: Array, *, rank: int | None = None, rounding: float = 0.0) -> Factorization:
    """Factorise the weight gradient and estimate its rank and noise floor.

    Args:
        weight_grad: (m, n) floating.
        rank: take this many directions instead of the estimated number.
        rounding: root mean square of the rounding error of an entry beyond that of its dtype, see `LayerObservation`.

    Returns:
        the factorisation; `Factorization.is_full` where no trailing singular value shows the noise.

    Raises:
        SpearError: the rank asked for exceeds min(m, n), or nothing lies above the noise.
    """
    m, n = weight_grad.shape
    limit = min(m, n)
    if rank is not None and not 1 <= rank <= limit:
        raise SpearError(f"rank is {rank}; expected 1 to {limit}, the smaller dimension of the gradient {(m, n)}.")
    eps = float(jnp.finfo(weight_grad.dtype).eps)
    if weight_grad.size <= KEPT_ENTRIES:
        weight_grad = to_float64(weight_grad)  # once, not in every pass
    reach = _reach(weight_grad)
    if reach == 0:
        raise SpearError("The weight gradient is zero everywhere: no sample reached this layer.")
    width = min(limit, max(FIRST_SKETCH, 2 * (rank or 0)))
    floor_of = partial(rounding_floor, weight_grad.shape, eps, rounding)
    while True:
        width, sketch = _sketch(weight_grad, width, reach, floor_of)
        left, spectrum, right = _thin_svd(weight_grad, width, sketch)
        # Rows and columns that are zero add singular values that are zero: these say nothing of the noise.
        found = estimate_rank(spectrum[:reach], floor_of(spectrum))
        if width >= reach or found <= width - OVERSAMPLING:
            break
        width = min(limit, 2 * width)
    white = white_rank(spectrum, (m, n)) if rank is None and found >= reach == limit else None
    if white is not None:
        noisy = _with_white(weight_grad, _assemble(weight_grad, left, spectrum, right, white, reach))
        if noisy is not None:
            return noisy
    return _assemble(weight_grad, left, spectrum, right, found if rank is None else rank, reach)


def white_edge(std: float, shape: tuple[int, int]) -> float:
    """Largest singular value of a matrix of white noise, of this standard deviation an entry."""
    return std * float(np.sqrt(shape[0]) + np.sqrt(shape[1]))


def is_flat(factorization: Factorization) -> bool:
    """Whether the largest singular value beyond the rank is the noise's too, and not that of one more sample."""
    (m, rank), n = factorization.left.shape, factorization.right.shape[1]
    first = factorization.noise_floor if len(factorization.singular_values) > rank else 0.0
    rest = max(m * (n - rank) * factorization.noise_std**2 - first**2, 0.0)
    edge = white_edge((rest / (m * max(n - rank, 1))) ** 0.5, (m, n))
    return first <= max(STICKS_OUT * edge, OWN_EDGE * EPS64 * float(factorization.singular_values[0]))


def estimate_rank(spectrum: np.ndarray, rounding_floor: float) -> int:
    """Number of singular values above the noise, which the trailing ones show where there are more than the rank.

    Rounding of the gradient's own dtype is known beforehand: where the spectrum falls into its range, the rank is at
    the widest gap there. Noise that was added shows as a tail that a gap separates. A tail that is neither is
    signal, and everything above the rounding of float64 counts.

    Args:
        spectrum: (k,) singular values in falling order.
        rounding_floor: largest singular value that rounding of the gradient's entries would explain.
    """
    arithmetic = EPS64 * float(spectrum[0]) * float(np.sqrt(len(spectrum)))
    highest = max(ROUNDING_MARGIN * rounding_floor, arithmetic)
    if spectrum[-1] <= highest:
        # Noise that was added may lie across the end of that range: its singular values vary by NOISE_MARGIN.
        is_rounding = spectrum[1:] <= NOISE_MARGIN * highest
        gaps = np.maximum(spectrum[:-1], arithmetic) / np.maximum(spectrum[1:], arithmetic)
        return 1 + int(np.argmax(np.where(is_rounding, gaps, 0)))
    # The smallest singular values of noise scatter down to zero: a gap in the last quarter means nothing, and after a
    # gap that means something the tail is flat.
    last = max(3 * len(spectrum) // 4, 1)
    gaps = spectrum[:-1] / np.maximum(spectrum[1:], arithmetic)
    is_flat = spectrum[1:] <= NOISE_MARGIN * spectrum[last - 1]
    wide = np.flatnonzero((gaps > MIN_GAP)[:last] & is_flat[:last])
    return 1 + int(wide[-1]) if len(wide) else int(np.sum(spectrum > NOISE_MARGIN * arithmetic))


def white_rank(spectrum: np.ndarray, shape: tuple[int, int]) -> int | None:
    """Number of singular values above white noise, None where what lies below them is anything else.

    Noise that hides every gap still has a law: the singular values of a white matrix end at ``std (sqrt m + sqrt n)``
    and are spread below that as Marchenko and Pastur (1967) have it. A batch without noise leaves no such tail.

    Args:
        spectrum: (min(m, n),) all singular values in falling order.
        shape: (m, n) of the matrix.
    """
    (m, n), rank = shape, 0
    while rank <= len(spectrum) // 2:
        tail = spectrum[rank:]
        std = float(np.sqrt(np.sum(tail**2) / ((m - rank) * (n - rank))))
        above = int(np.sum(spectrum > WHITE_EDGE * white_edge(std, shape)))
        if above <= rank:
            break
        rank = above
    else:
        return None
    expected = std * _white_quantiles(m - rank, n - rank)
    found = np.quantile(tail, WHITE_SHARES)
    is_white = np.all(np.abs(found - expected) <= WHITE_TOLERANCE * expected[-1])
    return rank if rank > 0 and is_white else None


def _white_quantiles(m: int, n: int) -> np.ndarray:
    """Quantiles of the singular values of a white matrix of variance one, for `WHITE_SHARES`."""
    short, long = sorted((m, n))
    low, high = np.sqrt(long) - np.sqrt(short), np.sqrt(long) + np.sqrt(short)
    values = np.linspace(low, high, 4001)[1:-1]
    density = np.sqrt((high**2 - values**2) * (values**2 - low**2)) / values
    shares = np.cumsum(density) / np.sum(density)
    return np.interp(WHITE_SHARES, shares, values)


def rounding_floor(shape: tuple[int, ...], eps: float, rounding: float, spectrum: np.ndarray) -> float:
    """Largest singular value of independent rounding errors: one unit in the last place of a typical entry, or more."""
    m, n = shape
    own = eps * float(np.linalg.norm(spectrum)) / np.sqrt(m * n)
    return white_edge(max(own, rounding), (m, n))


def _assemble(weight_grad: Array, left: Any, spectrum: np.ndarray, right: Any, rank: int, reach: int) -> Factorization:
    noise_floor = float(spectrum[rank]) if rank < len(spectrum) else 0.0
    noise_floor = max(noise_floor, EPS64 * float(spectrum[0]))
    gap = float(spectrum[rank - 1]) / noise_floor
    left, right = left[:, :rank], right[:rank]
    n = weight_grad.shape[1]
    residual, size = _row_norms(weight_grad, left, right)
    return Factorization(
        left=left,
        right=right,
        singular_values=spectrum,
        rank=rank,
        noise_floor=noise_floor,
        gap=gap,
        noise_std=float(np.sqrt(np.mean(residual**2) / max(n - rank, 1))),
        # A dead row is zero to the last bit, or holds nothing but its noise.
        live_mask=size > np.maximum(2 * residual, EPS64 * size.max()),
        is_full=reach <= len(spectrum) and (rank >= reach or gap < MIN_GAP),
    )


def _with_white(weight_grad: Array, whole: Factorization) -> Factorization | None:
    """The factorisation whose noise is known to be white: rows are live that stand out of it; None where too few do."""
    residual, size = _row_norms(weight_grad, whole.left, whole.right)
    beyond = 1 + ZERO_SIGMAS * np.sqrt(2 / weight_grad.shape[1])
    live = size**2 > beyond * np.median(residual**2)
    return dataclasses.replace(whole, live_mask=live, is_full=False) if int(live.sum()) > whole.rank else None


def _reach(weight_grad: Array) -> int:
    """The largest rank that the rows and columns which are not zero allow."""
    pairs = list(
        column_blocks(weight_grad, lambda _, block: ((block != 0).any(axis=1), (block != 0).any(axis=0).sum()))
    )
    rows = np.any([np.asarray(live) for live, _ in pairs], axis=0).sum()
    return min(int(rows), sum(int(count) for _, count in pairs))


def _sketch(weight_grad: Array, width: int, reach: int, floor_of: Callable[[np.ndarray], float]) -> tuple[int, Any]:
    """Width at which a random sketch of the columns seems to see the noise, at least the one given, and that sketch.

    A sketch that is wider than it must be is cut: its columns are random in any number.
    """
    (m, n), least = weight_grad.shape, width
    random, columns = np.random.default_rng(SKETCH_SEED), np.zeros((m, 0))
    while True:
        more = _times(weight_grad, random.standard_normal((n, width - columns.shape[1])))
        columns = float64_namespace().concatenate([columns, more], axis=1)
        sketch = columns / np.sqrt(width)
        if width >= reach:
            return width, sketch
        spectrum = np.asarray(float64_linalg().svd(sketch, compute_uv=False))
        found = estimate_rank(spectrum, floor_of(spectrum))
        if found <= width - OVERSAMPLING:
            enough = max(least, found + OVERSAMPLING)
            return enough, sketch[:, :enough]
        width = min(m, n, 2 * width)


def _thin_svd(weight_grad: Array, width: int, sketch: Any) -> tuple[Any, np.ndarray, Any]:
    """Leading ``width`` singular triplets; exact where width is min(m, n), else from the sketch of the columns."""
    xp, linalg = float64_namespace(), float64_linalg()
    m, n = weight_grad.shape
    if width == m <= n:
        row_basis = linalg.qr(to_float64(weight_grad).T)[0]
    elif width == n:
        row_basis = xp.eye(n)
    else:
        row_basis = linalg.qr(_transpose_times(weight_grad, linalg.qr(sketch)[0]))[0]
    left, spectrum, mix = linalg.svd(_times(weight_grad, row_basis), full_matrices=False)
    return left, np.asarray(spectrum), spectrum[:, None] * (mix @ row_basis.T)


def column_blocks(matrix: Array, function: Callable[[slice, Any], Any]) -> Iterator[Any]:
    """``function(columns, block)`` for each block of columns in float64, a bounded number of entries at a time."""
    m, n = matrix.shape
    step = max(BLOCK_COLUMNS, BLOCK_ENTRIES // m)
    for start in range(0, n, step):
        columns = slice(start, min(start + step, n))
        yield function(columns, to_float64(matrix[:, columns]))


def _times(weight_grad: Array, matrix: Any) -> Any:
    """``G @ matrix`` for (n, k) -> (m, k)."""
    return sum(column_blocks(weight_grad, lambda columns, block: block @ to_float64(matrix[columns])))


def _transpose_times(weight_grad: Array, matrix: Any) -> Any:
    """``G^T @ matrix`` for (m, k) -> (n, k)."""
    return float64_namespace().concatenate(list(column_blocks(weight_grad, lambda _, block: block.T @ matrix)))


def _row_norms(weight_grad: Array, left: Any, right: Any) -> tuple[np.ndarray, np.ndarray]:
    """Norms of the rows of ``G - left @ right`` and of G."""
    xp = float64_namespace()
    squares = lambda block: xp.einsum("ij,ij->i", block, block)
    pairs = column_blocks(
        weight_grad, lambda columns, block: xp.stack([squares(block - left @ right[:, columns]), squares(block)])
    )
    residual, size = np.sqrt(np.asarray(sum(pairs)))
    return residual, size
