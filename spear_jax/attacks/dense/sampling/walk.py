"""The pivot walk: a simplex tableau whose every step tries all pairs of its columns as candidates.

A chain holds a basis B of r rows of ``left`` and `CHECK_ROWS` further rows, all distinct, as the tableau
``T = left[check] B^-1``: column i is what the direction that vanishes on the basis but its row i gives on the check
rows. Exchanging basis row j for check row k is a rank-one update of T. Before each exchange all pairs are tried:
the candidate (i, j, k) is the r - 1 rows of B without its rows i and j and with check row k, and its null vector gives
``T_i - T_j T_ki / T_kj`` on the check rows. That is zero where the two columns, each divided by its entry in row k,
agree. So with each quotient cut down to 16 bits, a candidate costs one integer comparison for each row it is tested on;
elimination would cost thousands of operations. The host recomputes what agrees often enough in float64 from its rows.

Each candidate is a uniformly random subset (among well-conditioned bases), but those of a chain are not independent:
`cost.walk_efficiency` says what one is worth in independent draws. Chain c takes its rows from a shuffle numbered
by c, and all chains exchange at the same random places, so the candidates depend on (key, chain) alone.

The layout is for the compiler: chains in the minor dimension, and everything small that a pass over the tableau needs
travels in the loop's carry, or XLA would recompute it, divisions included, for each entry.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Integer, UInt8

# More check rows let a walk move farther before it starts afresh; testing on a third of them costs less than it misses.
CHECK_ROWS, TESTED_ROWS = 24, 8
# Exchanges before a chain starts from fresh rows: a start costs about forty.
STEPS = 128
# An exchange on a smaller pivot is skipped: it would lose the digits that the comparison needs.
MIN_PIVOT = 0.05
# Of a quotient's float32, four bits of the exponent and twelve of the mantissa are compared.
DROPPED_BITS = 11
# Numerator of the reciprocals: the entering row divided by itself may give the float below one, which has other bits.
ABOVE_ONE = 1 + 2.0**-20
# Shifts in one body of the loop over the distances of a pair: fewer launches, no longer compilation.
UNROLL = 5
# Chains that share a shuffle at most: so many must fit on a device at once.
MAX_SHARE = 32
# Rows up to which a shuffle has sixteen random bits beside the index.
PACKED_ROWS = 2**16
# `fold_in` of the key for the places of the exchanges; shuffles count up from zero.
PLACES_KEY = 2**32 - 1


class Walk(NamedTuple):
    """What a chunk of chains went through.

    Attributes:
        rows: (n, chains) int32 first r + `CHECK_ROWS` rows, the basis in front.
        mismatches: (steps, chains) tested rows that tell the columns of a pair apart, for the best pair.
        is_exchanged: (steps, chains) whether the exchange of the step was made, its pivot being large enough.
    """

    rows: Int[Array, "n chains"]
    mismatches: UInt8[Array, "steps chains"]
    is_exchanged: Bool[Array, "steps chains"]


def walk(left: Float[Array, "m r"], key: Array, chains: Integer[Array, " chains"]) -> Walk:
    """Walk these chains from fresh rows.

    Args:
        left: (m, r) float32 rows of unit norm, m >= r + `CHECK_ROWS`.
        key: the search's key.
        chains: (c,) numbers of consecutive chains, first and count multiples of `chains_per_shuffle`.
    """
    m, rank = left.shape
    rows = chain_rows(key, chains, m, rank + CHECK_ROWS)
    tableau = start_tableau(jnp.moveaxis(left[rows], -1, 1))
    places = exchange_places(key, rank)

    def prepare(tableau: Array, place: Array) -> tuple[tuple[Array, ...], list[Array]]:
        entering = lax.dynamic_index_in_dim(tableau, place[0], keepdims=False)
        return exchange_terms(tableau, place[0], place[1], MIN_PIVOT), quotients(tableau[:TESTED_ROWS], entering)

    def step(carry: tuple, place: Array) -> tuple[tuple, tuple[Array, Array]]:
        tableau, (left_term, right_term, is_exchanged), codes = carry
        mismatches = fewest_mismatches(codes, rank)
        tableau = exchange(tableau, left_term, right_term)
        return (tableau, *prepare(tableau, place)), (mismatches, is_exchanged)

    return Walk(rows, *lax.scan(step, (tableau, *prepare(tableau, places[0])), jnp.roll(places, -1, axis=0))[1])


def chain_rows(key: Array, chains: Integer[Array, " chains"], num_rows: int, count: int) -> Int[Array, "count chains"]:
    """Distinct rows in random order for each chain: its stretch of a shuffle that a few consecutive chains share.

    Args:
        key: the search's key; shuffle s consumes ``fold_in(key, s)``.
        chains: (c,) as for `walk`.
        num_rows: rows to draw from.
        count: rows of a chain.

    Returns:
        (count, c) int32.
    """
    share = chains_per_shuffle(num_rows, count)
    chex.assert_is_divisible(len(chains), share)
    index_bits = (num_rows - 1).bit_length()
    index = jnp.arange(num_rows, dtype=jnp.uint32)

    def shuffle(number: Array) -> Array:
        bits = jax.random.bits(jax.random.fold_in(key, number), (num_rows,), jnp.uint32)
        if num_rows > PACKED_ROWS:
            return lax.sort_key_val(bits, index)[1][: share * count]
        # Random bits above the index: one operand sorts several times faster than a key and a value.
        return jnp.sort((bits << index_bits) | index)[: share * count] & jnp.uint32((1 << index_bits) - 1)

    return jax.vmap(shuffle)(chains[::share] // share).reshape(-1, count).T.astype(jnp.int32)


def chains_per_shuffle(num_rows: int, count: int) -> int:
    """Chains of ``count`` rows that one shuffle of all rows serves, a power of two up to `MAX_SHARE`."""
    return min(1 << ((num_rows // count).bit_length() - 1), MAX_SHARE)


def exchange_places(key: Array, rank: int) -> Int[Array, "steps 2"]:
    """Check row and basis row that step s of every chain exchanges."""
    keys = jax.random.split(jax.random.fold_in(key, PLACES_KEY))
    draw = lambda place, size: jax.random.randint(keys[place], (STEPS,), 0, size, jnp.int32)
    return jnp.stack([draw(0, CHECK_ROWS), draw(1, rank)], axis=1)


def start_tableau(matrices: Float[Array, "n r chains"]) -> Float[Array, "w r chains"]:
    """``T = R B^-1`` for the first r rows B of each chain and the others R: unit vector s leaves for row s.

    Elimination without a choice of pivots, which would cost more than it saves: one chain in ten (at r = 20) then has
    relative errors above 1e-4 and finds less.
    """

    def enter(carry: tuple, step: Array) -> tuple[tuple, None]:
        tableau = exchange(*carry)
        return (tableau, *exchange_terms(tableau, step, step, 0.0)[:2]), None

    rank = matrices.shape[1]
    nothing = jnp.zeros_like(matrices[:, 0]), jnp.zeros_like(matrices[0])
    carry, _ = lax.scan(enter, (matrices, *nothing), jnp.arange(rank, dtype=jnp.int32))
    return exchange(*carry)[rank:]


def exchange_terms(
    tableau: Float[Array, "w r chains"], row: Array, column: Array, min_pivot: float
) -> tuple[Float[Array, "w chains"], Float[Array, "r chains"], Bool[Array, " chains"]]:
    """What `exchange` needs to exchange basis row ``column`` for check row ``row``, and which chains do.

    With the pivot ``p = T[k, j]`` the new tableau is ``T - (T[:, j] + e_k) (T[k] - e_j)^T / p``: check row k then holds
    what the leaving row is in the new basis. A chain whose pivot is too small keeps its tableau.
    """
    leaving = lax.dynamic_index_in_dim(tableau, column, axis=1, keepdims=False)
    entering = lax.dynamic_index_in_dim(tableau, row, keepdims=False)
    pivot = lax.dynamic_index_in_dim(entering, column, keepdims=False)
    is_exchanged = jnp.abs(pivot) > min_pivot
    inverse = jnp.where(is_exchanged, 1 / pivot, 0)
    unit = lambda size, place: (jnp.arange(size, dtype=jnp.int32) == place).astype(tableau.dtype)[:, None]
    return leaving + unit(len(leaving), row), (entering - unit(len(entering), column)) * inverse[None], is_exchanged


def exchange(
    tableau: Float[Array, "w r chains"], left_term: Float[Array, "w chains"], right_term: Float[Array, "r chains"]
) -> Float[Array, "w r chains"]:
    """The tableau after an exchange: a rank-one update for each chain."""
    return tableau - left_term[:, None] * right_term[None]


def quotients(tested: Float[Array, "t r chains"], entering: Float[Array, "r chains"]) -> list[Array]:
    """16 bits of each entry divided by its column's entry in the entering row, one flat array for each tested row.

    The columns stand in it once and a half, so that every cyclic shift of them is a contiguous slice.
    """
    rows, rank, chains = tested.shape
    reciprocal = ABOVE_ONE / entering
    bits = lax.bitcast_convert_type(tested * reciprocal[None], jnp.int32)
    codes = (bits >> DROPPED_BITS).astype(jnp.uint16).reshape(rows, rank * chains)
    return [jnp.concatenate([codes[row], codes[row, : rank // 2 * chains]]) for row in range(rows)]


def fewest_mismatches(codes: list[Array], rank: int) -> UInt8[Array, " chains"]:
    """Tested rows in which the columns of a pair differ, for the best pair of each chain.

    Args:
        codes: of `quotients`.
        rank: r, the columns.
    """
    size = codes[0].shape[0] // (rank + rank // 2) * rank
    chains = size // rank

    def shift(distance: Array, fewest: Array) -> Array:
        count = jnp.zeros_like(fewest)
        for row in codes:
            other = lax.dynamic_slice(row, (distance * chains,), (size,))
            count += jnp.minimum(row[:size] ^ other, jnp.uint16(1))
        return jnp.minimum(fewest, count)

    start = jnp.full((size,), len(codes), jnp.uint16)
    fewest = lax.fori_loop(1, rank // 2 + 1, shift, start, unroll=UNROLL).reshape(rank, chains)
    best = fewest[0]
    for column in range(1, rank):  # XLA's own reduction would tear the fused loop apart
        best = jnp.minimum(best, fewest[column])
    return best.astype(jnp.uint8)
