"""The two ways to sample, flat kernel and pivot walk, behind one face: rounds go in, submatrices of hits come out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spear_jax import pivot_walk, walk_round
from spear_jax.config import ReconstructConfig
from spear_jax.devices import INDEX_BITS, Device, compile_program, compile_round, select_devices
from spear_jax.pivot_walk import CHECK_ROWS, STEPS
from spear_jax.sampling import hit_rows

MIN_HITS = 2**8
# Bytes of the tableaus that chains at once may fill: a core's cache, and a share of an accelerator's memory that leaves
# room for the codes and for what XLA keeps beside them.
CACHE_BYTES, MEMORY_SHARE = 2**18, 1 / 16
MIN_CHAINS, MAX_CHAINS = pivot_walk.MAX_SHARE, 2**16


class Drawn(NamedTuple):
    """What a round came to.

    Attributes:
        rows: (hits, r - 1) rows of the hits' submatrices, of the rows that were drawn from.
        chains: (hits,) what each was drawn by, a chain of a walk or itself.
        count: hits of the round, those that did not fit the buffer included.
        dropped: of these, how many did not fit.
    """

    rows: Int[np.ndarray, "hits k"]
    chains: Int[np.ndarray, " hits"]
    count: int
    dropped: int


class Sampler(NamedTuple):
    """A compiled way to draw rounds.

    Attributes:
        draw: ``draw(number, size, threshold)`` starts round ``number`` with ``size`` candidates, a hit having
            ``threshold`` zeros (a walk has its own test), and returns a function that waits for what it came to.
        compile_seconds: seconds that tracing and compilation took.
        devices: the devices used.
        is_waiting: whether ``draw`` returns before the round is done.
    """

    draw: Callable[[int, int, int], Callable[[], Drawn]]
    compile_seconds: float
    devices: tuple[Device, ...]
    is_waiting: bool


def flat_sampler(
    left: Float[np.ndarray, "m r"], key: jax.Array, tolerance: float, round_size: int, config: ReconstructConfig
) -> Sampler:
    """Independent submatrices, each with its own elimination (`sampling`).

    Args:
        left: (m, r) float64 rows of unit norm to draw from.
        key: the search's key.
        tolerance: zero test of the search.
        round_size: candidates of a whole round.
        config: chunk size, capacity, mapper and devices.
    """
    rank = left.shape[1]
    runner = compile_round(left, key, tolerance, round_size, config)

    def draw(number: int, size: int, threshold: int) -> Callable[[], Drawn]:
        hits = runner.run(key, number * round_size, size, threshold)
        # Padded to a power of two, so that few shapes are compiled.
        padded = np.zeros(2 ** math.ceil(math.log2(max(len(hits.index), MIN_HITS))), np.uint32)
        padded[: len(hits.index)] = hits.index
        rows = np.asarray(hit_rows(hits.key, padded, num_rows=len(left), count=rank - 1))[: len(hits.index)]
        return lambda: Drawn(rows, np.arange(len(rows)), hits.count, hits.count - len(rows))

    return Sampler(draw, runner.compile_seconds, runner.devices, is_waiting=False)


def walk_sampler(
    left: Float[np.ndarray, "m r"], key: jax.Array, threshold: int, round_size: int, config: ReconstructConfig
) -> Sampler:
    """Pivot walks of many chains (`pivot_walk`).

    On a CPU the cores take a round's chains between them, a program on one thread each: the tableaus of a few dozen
    chains fit a core's cache, and no step is worth being split.

    Args:
        left: (m, r) float64 rows of unit norm to draw from.
        key: the search's key.
        threshold: tested rows in which the columns of a hit agree.
        round_size: candidates of a whole round, a power of two times `candidates_per_chain`.
        config: chunk size, capacity, mapper and devices.
    """
    rank = left.shape[1]
    per_chain = candidates_per_chain(rank)
    chains = round_size // per_chain
    devices = select_devices(config.num_devices)
    share = pivot_walk.chains_per_shuffle(len(left), rank + CHECK_ROWS)
    lanes = min(_lanes(devices), chains // share)
    # Every device and lane has chains of its own, and a chunk has whole shuffles.
    fair = 1 << (max(chains // (len(devices) * lanes), 1).bit_length() - 1)
    at_once = max(min(config.chunk_size or chains_at_once(rank, devices[0]), fair), share)
    num_chunks = -(-chains // (len(devices) * lanes * at_once))
    started = time.perf_counter()
    program = compile_program(
        walk_round.walk_range, left.shape, key.dtype, (jnp.int32,), devices, config.mapper,
        num_chunks=num_chunks, chunk_size=at_once, capacity=config.hits_capacity,
    )  # fmt: skip
    places_of = _places_program(key.dtype, rank)
    compile_seconds = time.perf_counter() - started
    single, stretch, pool = jnp.asarray(left, jnp.float32), chains // lanes, _thread_pool(lanes)

    def draw(number: int, size: int, _: int) -> Callable[[], Drawn]:
        # Chains are 32 bits wide: beyond that the high part moves into the key.
        high, first = divmod(number * chains, 2**INDEX_BITS)
        round_key = key if high == 0 else jax.random.fold_in(key, high)

        def run(lane: int) -> walk_round.WalkHits:
            start = jnp.uint32(first + lane * stretch)
            end = jnp.int32(min(stretch, size // per_chain - lane * stretch))
            return jax.tree.map(np.asarray, program(single, round_key, start, end, jnp.int32(threshold)))

        running = [pool.submit(run, lane) for lane in range(lanes)]

        def wait() -> Drawn:
            by_lane = [job.result() for job in running]
            offset, *histories = _merge(by_lane, stretch, config.hits_capacity)
            rows, confirmed = walk_round.hit_subsets(left, np.asarray(places_of(round_key)), offset, *histories)
            count = sum(int(hits.count.sum()) for hits in by_lane)
            return Drawn(rows, offset[confirmed] // STEPS, count, count - len(offset))

        return wait

    return Sampler(draw, compile_seconds, devices, is_waiting=True)


@lru_cache(maxsize=64)
def _places_program(key_dtype: Any, rank: int) -> Callable[[jax.Array], jax.Array]:
    places = jax.jit(partial(pivot_walk.exchange_places, rank=rank))
    return places.lower(jax.ShapeDtypeStruct((), key_dtype)).compile()


def _merge(lanes: list[walk_round.WalkHits], stretch: int, capacity: int) -> list[np.ndarray]:
    """Offsets, rows and exchanges of a round's first hits, from those of each lane and device in their order."""
    parts = []
    for lane, hits in enumerate(lanes):
        for place, count in enumerate(np.minimum(hits.count, capacity)):
            offset = np.asarray(hits.offset[place, :count]) + lane * stretch * STEPS
            parts.append((offset, hits.rows[place, :count], hits.is_exchanged[place, :count]))
    return [np.concatenate(arrays)[:capacity] for arrays in zip(*parts, strict=True)]


def candidates_per_chain(rank: int) -> int:
    """Pairs that a chain tries from its start to its end."""
    return STEPS * (rank * (rank - 1) // 2)


def chains_at_once(rank: int, device: Device) -> int:
    """Chains whose tableaus fit the cache of a core or a share of an accelerator's memory, a power of two."""
    is_cpu = device.platform == "cpu"
    limit = (device.memory_stats() or {}).get("bytes_limit", 2**32) if not is_cpu else 0
    room = CACHE_BYTES if is_cpu else limit * MEMORY_SHARE
    fitting = int(room / (4 * CHECK_ROWS * rank))
    return min(max(1 << (max(fitting, 1).bit_length() - 1), MIN_CHAINS), MAX_CHAINS)


def _lanes(devices: tuple[Device, ...]) -> int:
    """Programs that run side by side: a CPU that is one device has several cores."""
    if len(devices) > 1 or any(device.platform != "cpu" for device in devices):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 << (cores.bit_length() - 1)


@lru_cache(maxsize=8)
def _thread_pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="lane")
