"""Rounds of candidates over devices and hosts.

A round is one compiled program. Its candidates are split evenly over a one-axis mesh; every device returns the first
hits of its stretch, all of them gather everybody's, so each host sees the same hits in the order of their index.
What comes out depends on (key, round) alone: not on the number of devices, on the chunk size or on the mapper.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec
from jaxtyping import Float, UInt32

from spear_jax.config import ReconstructConfig
from spear_jax.sampling import Hits, search_range
from spear_jax.types import Array

AXIS = "candidates"
# Candidates of the flat kernel on a device at once.
FLAT_CHUNK = 2**11
INDEX_BITS = 32
Device = Any  # jax.Device is a variable to type checkers, not a type


class RoundHits(NamedTuple):
    """Hits of one round on the host.

    Attributes:
        index: (hits,) uint32 global indices, modulo 2^32, in rising order; at most the buffer's capacity.
        key: the key to derive their rows from.
        count: hits of the round, those that did not fit included.
    """

    index: UInt32[np.ndarray, " hits"]
    key: jax.Array
    count: int


class RoundRunner(NamedTuple):
    """A compiled round and what it took to build.

    Attributes:
        run: ``run(key, first, size, threshold) -> RoundHits`` for ``size`` candidates from global index ``first`` on,
            a hit having ``threshold`` zeros.
        compile_seconds: seconds that tracing and compilation took.
        devices: the devices used.
    """

    run: Callable[[jax.Array, int, int, int], RoundHits]
    compile_seconds: float
    devices: tuple[Device, ...]


def select_devices(num_devices: int | None) -> tuple[Device, ...]:
    """The first ``num_devices`` devices over all hosts, or all of them.

    Raises:
        ValueError: more were asked for than there are.
    """
    devices = jax.devices()
    if num_devices is not None and num_devices > len(devices):
        raise ValueError(f"num_devices is {num_devices} but JAX sees {len(devices)} device(s); ask for at most those.")
    return tuple(devices[:num_devices])


def compile_round(
    left: Float[Array, "m r"], key: jax.Array, tolerance: float, round_size: int, config: ReconstructConfig
) -> RoundRunner:
    """Compile one round for these shapes; thresholds and keys are arguments of the compiled program.

    Args:
        left: (m, r) float32, rows of unit norm.
        key: the search's key (only its type matters here).
        tolerance: zero test of the search.
        round_size: candidates of a round.
        config: chunk size, capacity, mapper and number of devices.
    """
    devices = select_devices(config.num_devices)
    chunk_size = min(config.chunk_size or FLAT_CHUNK, round_size)
    num_chunks = -(-round_size // (len(devices) * chunk_size))
    zero = jnp.asarray(tolerance, jnp.float32)
    left = jnp.asarray(left, jnp.float32)
    started = time.perf_counter()
    program = compile_program(
        search_range, left.shape, key.dtype, (jnp.float32, jnp.int32), devices, config.mapper,
        num_chunks=num_chunks, chunk_size=chunk_size, capacity=config.hits_capacity,
    )  # fmt: skip
    compile_seconds = time.perf_counter() - started

    def run(key: jax.Array, first: int, size: int, threshold: int) -> RoundHits:
        # Indices are 32 bits wide: beyond that the high part moves into the key.
        high, low = divmod(first, 2**INDEX_BITS)
        key = key if high == 0 else jax.random.fold_in(key, high)
        hits = jax.tree.map(
            np.asarray, program(left, key, jnp.uint32(low), jnp.int32(size), zero, jnp.int32(threshold))
        )
        return _merge(hits, key, low, config.hits_capacity)

    return RoundRunner(run, compile_seconds, devices)


def _device_round(
    kernel: Callable[..., Any],
    left: jax.Array,
    key: jax.Array,
    first: jax.Array,
    end: jax.Array,
    *limits: jax.Array,
    num_chunks: int,
    chunk_size: int,
    capacity: int,
) -> Any:
    """One device's stretch of a round, and everybody's hits."""
    offset = lax.axis_index(AXIS).astype(jnp.int32) * (num_chunks * chunk_size)
    hits = kernel(
        left, key, first, offset, end, *limits, num_chunks=num_chunks, chunk_size=chunk_size, capacity=capacity
    )
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS), hits)


@lru_cache(maxsize=64)
def compile_program(
    kernel: Callable[..., Any],
    shape: tuple[int, int],
    key_dtype: Any,
    limits: tuple[Any, ...],
    devices: tuple[Device, ...],
    mapper: str,
    **sizes: int,
) -> Callable[..., Any]:
    """The compiled round for these shapes and devices, compiled once in a process.

    Args:
        kernel: ``kernel(left, key, first, offset, end, *limits, num_chunks=, chunk_size=, capacity=)`` gives the hits
            of one device's stretch, a tuple of arrays.
        shape: of ``left``, float32.
        key_dtype: of the key.
        limits: dtypes of the scalars that decide what a hit is.
        devices: over which the round is split.
        mapper: ``"shard_map"`` or ``"pmap"``.
        sizes: of the kernel's loop and buffer.

    Returns:
        a function of (left, key, first, end, *limits): the hits of every device, stacked.
    """
    mapped = _map(partial(_device_round, kernel, **sizes), devices, mapper, 4 + len(limits))
    scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype)
    left = jax.ShapeDtypeStruct(shape, jnp.float32)
    arguments = (left, scalar(key_dtype), scalar(jnp.uint32), scalar(jnp.int32), *map(scalar, limits))
    return mapped.lower(*arguments).compile()


def _map(per_device: Callable[..., Any], devices: tuple[Device, ...], mapper: str, num_arguments: int) -> Any:
    """The same function of replicated arguments, mapped over the devices by `jax.shard_map` or `jax.pmap`."""
    if mapper == "pmap":
        mapped = jax.pmap(
            lambda _, *arguments: per_device(*arguments),
            axis_name=AXIS,
            in_axes=(0, *[None] * num_arguments),
            out_axes=None,  # pyright: ignore[reportArgumentType]
            devices=devices,
        )
        local = sum(device.process_index == jax.process_index() for device in devices)
        return _Bound(mapped, np.zeros(local, np.int32))
    mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,))
    replicated = PartitionSpec()
    # The gathered hits are equal on every device, which the checker cannot see.
    return jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=replicated, out_specs=replicated, check_vma=False))


class _Bound:
    """A pmapped function whose mapped argument, which only counts the devices, is filled in."""

    def __init__(self, mapped: Any, devices: np.ndarray) -> None:
        self.mapped, self.devices = mapped, devices

    def lower(self, *arguments: Any) -> _Bound:
        return _Bound(self.mapped.lower(self.devices, *arguments), self.devices)

    def compile(self) -> Callable[..., Any]:
        return partial(self.mapped.compile(), self.devices)


def _merge(hits: Hits, key: jax.Array, first: int, capacity: int) -> RoundHits:
    """First hits of the round from each device's first ones: the same for any number of devices."""
    kept = [offset[: min(int(count), capacity)] for offset, count in zip(hits.offset, hits.count, strict=True)]
    offset = np.concatenate(kept)[:capacity].astype(np.uint32)
    return RoundHits(index=np.uint32(first) + offset, key=key, count=int(hits.count.sum()))


def deal_out(
    function: Callable[..., jax.Array], shared: Any, batches: Sequence[jax.Array], devices: tuple[Device, ...]
) -> list[np.ndarray]:
    """``function(shared, batch)`` for each batch, on the devices in turn; every process gets every result.

    One program on one device at a time, unlike a round: a program compiled for several devices rounds unlike one
    compiled for a single one, and here what is computed is not checked again before it counts.

    Args:
        function: jitted; compiled once for each device.
        shared: pytree of arrays that every batch needs.
        batches: arrays of one shape.
        devices: of all processes.
    """
    mine = [number for number in range(len(batches)) if _owner(number, devices) == jax.process_index()]

    def start(device: Device) -> dict[int, jax.Array]:
        numbers = [number for number in mine if devices[number % len(devices)] == device]
        there = jax.device_put(shared, device) if numbers else shared
        return {number: function(there, jax.device_put(batches[number], device)) for number in numbers}

    # Threads only because the first call on a device compiles.
    local = [device for device in devices if device.process_index == jax.process_index()]
    with ThreadPoolExecutor(len(local) or 1) as pool:
        running = {number: result for part in pool.map(start, local) for number, result in part.items()}
    done = {number: np.asarray(result) for number, result in running.items()}
    if jax.process_count() == 1:
        return [done[number] for number in range(len(batches))]
    shape = jax.eval_shape(function, shared, batches[0])
    everything = np.zeros((len(batches), *shape.shape), shape.dtype)
    for number, result in done.items():
        everything[number] = result
    # Each batch is zero on all processes but one.
    return list(np.asarray(multihost_utils.process_allgather(everything)).sum(axis=0))


def _owner(number: int, devices: tuple[Device, ...]) -> int:
    return devices[number % len(devices)].process_index


def agree(flag: bool) -> bool:
    """The first process's flag on every process: hosts read different clocks but must stop at the same round."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def initialize_distributed(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_device_ids: list[int] | None = None,
) -> None:
    """Join the hosts of a cluster; must run before JAX touches a device.

    With no argument the cluster is detected (SLURM, Open MPI, Cloud TPU); see `jax.distributed.initialize`.

    Raises:
        ValueError: only some of coordinator, num_processes and process_id were given, or no cluster was found.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError(
            "coordinator, num_processes and process_id go together (host:port, number of processes, this one's "
            "index); leave out all three to have SLURM or Open MPI detected."
        )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, local_device_ids)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The processes could not be joined: {error}") from error
