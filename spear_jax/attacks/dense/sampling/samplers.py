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

from spear_jax.attacks.dense.sampling import walk, walk_hits
from spear_jax.attacks.dense.sampling.flat import hit_rows, search_range
from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS, STEPS
from spear_jax.config import ReconstructConfig
from spear_jax.devices import INDEX_BITS, Device, Sizes, compile_program, select_devices

MIN_HITS = 2**8
# Bytes of the tableaus that chains at once may fill: a core's cache, and a share of an accelerator's memory that leaves
# room for the codes and for what XLA keeps beside them.
CACHE_BYTES, MEMORY_SHARE = 2**18, 1 / 16
MIN_CHAINS, MAX_CHAINS = walk.MAX_SHARE, 2**16
FLAT_CHUNK = 2**6


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
    """

    draw: Callable[[int, int, int], Callable[[], Drawn]]
    compile_seconds: float
    devices: tuple[Device, ...]


class _Lanes(NamedTuple):
    """A compiled round that the threads of `_thread_pool` take between them.

    Attributes:
        start: ``start(key, first, size, *limits)`` starts a round of ``size`` units from unit ``first`` on and returns
            a function that waits for the kernel's arrays, cut to the first hits, and for the number of all hits.
        compile_seconds: seconds that tracing and compilation took.
        devices: the devices used.
    """

    start: Callable[..., Callable[[], tuple[list[np.ndarray], int]]]
    compile_seconds: float
    devices: tuple[Device, ...]


def flat_sampler(
    left: Float[np.ndarray, "m r"], key: jax.Array, tolerance: float, round_size: int, config: ReconstructConfig
) -> Sampler:
    """Independent submatrices, each with its own elimination (`flat`).

    Args:
        left: (m, r) float64 rows of unit norm to draw from.
        key: the search's key.
        tolerance: zero test of the search.
        round_size: candidates of a whole round.
        config: chunk size, capacity, mapper and devices.
    """
    rank = left.shape[1]
    at_once = config.chunk_size or flat_chunk(select_devices(config.num_devices)[0])
    lanes = _compile_lanes(
        _Kernel(search_range, (jnp.float32, jnp.int32)), left, key, _Load(round_size, at_once), config
    )
    zero = jnp.float32(tolerance)

    def draw(number: int, size: int, threshold: int) -> Callable[[], Drawn]:
        round_key, first = _fold_high(key, number * round_size)
        wait_for_hits = lanes.start(round_key, first, size, zero, jnp.int32(threshold))

        def wait() -> Drawn:
            (offset, _), count = wait_for_hits()
            # Padded to a power of two, so that few shapes are compiled.
            index = np.zeros(2 ** math.ceil(math.log2(max(len(offset), MIN_HITS))), np.uint32)
            index[: len(offset)] = np.uint32(first) + offset.astype(np.uint32)
            rows = np.asarray(hit_rows(round_key, index, num_rows=len(left), count=rank - 1))[: len(offset)]
            return Drawn(rows, np.arange(len(rows)), count, count - len(rows))

        return wait

    return Sampler(draw, lanes.compile_seconds, lanes.devices)


def walk_sampler(
    left: Float[np.ndarray, "m r"], key: jax.Array, threshold: int, round_size: int, config: ReconstructConfig
) -> Sampler:
    """Pivot walks of many chains (`walk`).

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
    at_once = config.chunk_size or chains_at_once(rank, select_devices(config.num_devices)[0])
    share = walk.chains_per_shuffle(len(left), rank + CHECK_ROWS)
    kernel = _Kernel(walk_hits.walk_range, (jnp.int32,), share, STEPS)
    lanes = _compile_lanes(kernel, left, key, _Load(chains, at_once), config)
    started = time.perf_counter()
    places_of = _places_program(key.dtype, rank)
    compile_seconds = lanes.compile_seconds + time.perf_counter() - started

    def draw(number: int, size: int, _: int) -> Callable[[], Drawn]:
        round_key, first = _fold_high(key, number * chains)
        wait_for_hits = lanes.start(round_key, first, size // per_chain, jnp.int32(threshold))

        def wait() -> Drawn:
            (offset, *histories), count = wait_for_hits()
            rows, confirmed = walk_hits.hit_subsets(left, np.asarray(places_of(round_key)), offset, *histories)
            return Drawn(rows, offset[confirmed] // STEPS, count, count - len(offset))

        return wait

    return Sampler(draw, compile_seconds, lanes.devices)


class _Kernel(NamedTuple):
    """What is compiled.

    Attributes:
        function, limits: see `devices.compile_program`.
        share: units that only come together, a power of two.
        places: hits that a unit may hold; their offsets count by it.
    """

    function: Callable[..., Any]
    limits: tuple[Any, ...]
    share: int = 1
    places: int = 1


class _Load(NamedTuple):
    """Candidates or chains of a whole round, and how many a device holds at once, unless others would have none."""

    units: int
    at_once: int


def _compile_lanes(
    kernel: _Kernel, left: Float[np.ndarray, "m r"], key: jax.Array, load: _Load, config: ReconstructConfig
) -> _Lanes:
    """Compile a round of a kernel; shapes and dtypes decide, so a second search of the same compiles nothing.

    On a CPU the cores take a round between them, a program on one thread each: what it holds at once fits a core's
    cache, and none of its steps is worth being split.

    Args:
        kernel: to compile.
        left: (m, r) rows of unit norm to draw from.
        key: the search's key.
        load: of a round.
        config: capacity, mapper and devices.
    """
    share = kernel.share
    devices = select_devices(config.num_devices)
    count = min(_lanes(devices), max(load.units // share, 1))
    stretch = -(-load.units // count)
    # Every device and lane has units of its own, and a chunk has whole shares.
    fair = 1 << (max(stretch // len(devices), 1).bit_length() - 1)
    at_once = max(min(load.at_once, fair), share)
    started = time.perf_counter()
    sizes = Sizes(-(-stretch // (len(devices) * at_once)), at_once, config.hits_capacity)
    program = compile_program(kernel.function, left.shape, key.dtype, kernel.limits, devices, config.mapper, sizes)
    compile_seconds = time.perf_counter() - started
    single, pool = jnp.asarray(left, jnp.float32), _thread_pool(count)

    def start(key: jax.Array, first: int, size: int, *limits: jax.Array) -> Callable[[], tuple[list[np.ndarray], int]]:
        def run(lane: int) -> Any:
            end = max(min(stretch, size - lane * stretch), 0)
            begin = jnp.uint32((first + lane * stretch) % 2**INDEX_BITS)
            return jax.tree.map(np.asarray, program(single, key, begin, jnp.int32(end), *limits))

        running = [pool.submit(run, lane) for lane in range(count)]
        return lambda: _first_hits([job.result() for job in running], stretch * kernel.places, config.hits_capacity)

    return _Lanes(start, compile_seconds, devices)


def _first_hits(lanes: list[Any], stretch: int, capacity: int) -> tuple[list[np.ndarray], int]:
    """The arrays of a round's first hits, offsets in front, from those of each lane and device in their order."""
    parts = []
    for lane, hits in enumerate(lanes):
        for device, count in enumerate(np.minimum(hits.count, capacity)):
            offset, *others = (getattr(hits, name)[device, :count] for name in hits._fields if name != "count")
            parts.append((offset + lane * stretch, *others))
    count = sum(int(hits.count.sum()) for hits in lanes)
    return [np.concatenate(arrays)[:capacity] for arrays in zip(*parts, strict=True)], count


def _fold_high(key: jax.Array, first: int) -> tuple[jax.Array, int]:
    """Numbers of units are 32 bits wide: beyond that the high part moves into the key."""
    high, low = divmod(first, 2**INDEX_BITS)
    return (key if high == 0 else jax.random.fold_in(key, high)), low


@lru_cache(maxsize=64)
def _places_program(key_dtype: Any, rank: int) -> Callable[[jax.Array], jax.Array]:
    places = jax.jit(partial(walk.exchange_places, rank=rank))
    return places.lower(jax.ShapeDtypeStruct((), key_dtype)).compile()


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


def flat_chunk(device: Device) -> int:
    """Candidates of the flat kernel at once: few enough on a CPU for a core's cache and for one thread."""
    return FLAT_CHUNK if device.platform == "cpu" else MAX_CHAINS


def _lanes(devices: tuple[Device, ...]) -> int:
    """Programs that run side by side: a CPU that is one device has several cores."""
    if len(devices) > 1 or any(device.platform != "cpu" for device in devices):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 << (cores.bit_length() - 1)


@lru_cache(maxsize=8)
def _thread_pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="lane")
