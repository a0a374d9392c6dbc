"""Rounds of candidates over devices and hosts.

A round is one compiled program. Its candidates are split evenly over a one-axis mesh; every device returns the first
hits of its stretch, all of them gather everybody's, so each host sees the same hits in the order of their index.
What comes out depends on (key, round) alone: not on the number of devices, on the chunk size or on the mapper. The
seconds that JAX compiles are counted here too.
"""

from __future__ import annotations

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

from spear_jax.errors import SpearError

AXIS = "candidates"
INDEX_BITS = 32
# Compiling, told apart from the seconds that the compiled programs run.
COMPILE_EVENTS = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")
_compile_total = 0.0
_is_listening = False
Device = Any  # jax.Device is a variable to type checkers, not a type


def select_devices(num_devices: int | None) -> tuple[Device, ...]:
    """The first ``num_devices`` devices over all hosts, or all of them.

    Raises:
        SpearError: more were asked for than there are.
    """
    devices = jax.devices()
    if num_devices is not None and num_devices > len(devices):
        raise SpearError(f"num_devices is {num_devices} but JAX sees {len(devices)} device(s); ask for at most those.")
    return tuple(devices[:num_devices])


def backend_problem() -> str | None:
    """Why JAX sees no device, in a sentence; None where it sees one."""
    try:
        jax.devices()
    except Exception as error:  # of several kinds: a plugin that is not there fails an assertion of JAX's
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        said = " ".join(str(error).split()) or "its plugin is not installed"
        return (
            f"JAX cannot use the backend that JAX_PLATFORMS={asked} asks for ({said}); unset JAX_PLATFORMS, or install "
            "JAX for that device."
        )
    return None


class Stretch(NamedTuple):
    """The units of a round that one device takes, candidates or chains.

    Attributes:
        first: () uint32 number of the lane's first unit.
        offset: () int32 place within the lane where the device's units start.
        end: () int32 place within the lane where the round ends; units from there on are ignored.
    """

    first: jax.Array
    offset: jax.Array
    end: jax.Array


class Sizes(NamedTuple):
    """Shape of a kernel's loop and buffer.

    Attributes:
        num_chunks: steps of the loop.
        chunk_size: units of a step.
        capacity: hits that fit the buffer.
    """

    num_chunks: int
    chunk_size: int
    capacity: int


def _device_round(
    kernel: Callable[..., Any],
    sizes: Sizes,
    left: jax.Array,
    key: jax.Array,
    first: jax.Array,
    end: jax.Array,
    *limits: jax.Array,
) -> Any:
    """One device's stretch of a round, and everybody's hits."""
    offset = lax.axis_index(AXIS).astype(jnp.int32) * (sizes.num_chunks * sizes.chunk_size)
    hits = kernel(left, key, Stretch(first, offset, end), limits, sizes)
    return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS), hits)


@lru_cache(maxsize=64)
def compile_program(
    kernel: Callable[..., Any],
    shape: tuple[int, int],
    key_dtype: Any,
    limits: tuple[Any, ...],
    devices: tuple[Device, ...],
    mapper: str,
    sizes: Sizes,
) -> Callable[..., Any]:
    """The compiled round for these shapes and devices, compiled once in a process.

    Args:
        kernel: ``kernel(left, key, stretch, limits, sizes)`` gives the hits of one device's stretch, a tuple of
            arrays; ``sizes`` shape the program.
        shape: of ``left``, float32.
        key_dtype: of the key.
        limits: dtypes of the scalars that decide what a hit is.
        devices: over which the round is split.
        mapper: ``"shard_map"`` or ``"pmap"``.
        sizes: of the kernel's loop and buffer.

    Returns:
        a function of (left, key, first, end, *limits): the hits of every device, stacked.
    """
    mapped = _map(partial(_device_round, kernel, sizes), devices, mapper, 4 + len(limits))
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
        SpearError: only some of coordinator, num_processes and process_id were given, or no cluster was found.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise SpearError(
            "coordinator, num_processes and process_id go together (host:port, number of processes, this one's "
            "index); leave out all three to have SLURM or Open MPI detected."
        )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, local_device_ids)
    except (RuntimeError, ValueError) as error:
        raise SpearError(f"The processes could not be joined: {error}") from error


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _compile_total
    if event in COMPILE_EVENTS:
        _compile_total += duration_secs


def compile_seconds() -> float:
    """Seconds of lowering and compilation in this process since the first call; differences are what counts."""
    global _is_listening
    if not _is_listening:
        jax.monitoring.register_event_duration_secs_listener(_listen)
        _is_listening = True
    return _compile_total
