"""Where the time of a reconstruction goes, stage by stage, on named problems that are the same everywhere.

The photos are those of the demo, the client is a network of three hidden layers with PyTorch's initial weights, and
the update is whole. The first call compiles; the median of those that follow is the time, one more is traced.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import jax

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.audit.one import what_is_above
from spear_jax.bench.sampling import Peak, measure_peak
from spear_jax.bench.trace import Share, traced
from spear_jax.client.load import demo_batch
from spear_jax.client.simulate import Client, simulate_client
from spear_jax.config import ReconstructConfig
from spear_jax.devices import compile_seconds
from spear_jax.errors import SpearError
from spear_jax.normalization import Normalization

DEPTH = 3
CLASSES = 10


class Problem(NamedTuple):
    """A problem with a name.

    Attributes:
        batch_size: photos b.
        width: neurons m of each hidden layer.
        image_size: side of the photos in pixels.
        activation: of the network.
        is_centred: whether pixels are normalised; in [0, 1] otherwise.
    """

    batch_size: int
    width: int
    image_size: int = 64
    activation: str = "relu"
    is_centred: bool = True


PROBLEMS = {
    "64@1000": Problem(64, 1000),
    "128@1000": Problem(128, 1000),
    "250@1000": Problem(250, 1000, 32),
    "64@1000-raw": Problem(64, 1000, is_centred=False),
    "128@1000-raw": Problem(128, 1000, is_centred=False),
    "200@2000": Problem(200, 2000, 32),
    "600@4800": Problem(600, 4800, 32),
    "gelu-64@200": Problem(64, 200, 32, "gelu"),
    "gelu-256@768": Problem(256, 768, 32, "gelu"),
}


class Timing(NamedTuple):
    """What a problem took.

    Attributes:
        problem: its name.
        certified: samples that came back certified, of `batch_size`.
        batch_size: b.
        compile_seconds: of the first call.
        seconds: of each later call.
        shares: of one more, by stage.
        peak: what the device does at best.
    """

    problem: str
    certified: int
    batch_size: int
    compile_seconds: float
    seconds: tuple[float, ...]
    shares: tuple[Share, ...]
    peak: Peak

    def to_json(self) -> dict[str, Any]:
        """As a record holds it."""
        return {
            "problem": self.problem,
            "certified": self.certified,
            "batch_size": self.batch_size,
            "compile_seconds": self.compile_seconds,
            "seconds": statistics.median(self.seconds),
            "repeats": len(self.seconds),
            "stages": [self._stage(share) for share in self.shares],
            "peak": self.peak._asdict(),
            "device_kind": jax.devices()[0].device_kind,
        }

    def _stage(self, share: Share) -> dict[str, Any]:
        over = max(share.device, 1e-12)
        return share._asdict() | {
            "host": share.host,
            "share_of_gemm": share.flops / over / self.peak.flops,
            "share_of_copy": share.moved / over / self.peak.bytes_per_second,
        }


def problem_of(name: str) -> Problem:
    """The problem of a name.

    Raises:
        SpearError: no problem has this name.
    """
    if name not in PROBLEMS:
        raise SpearError(f"There is no problem {name!r}; there are {', '.join(PROBLEMS)}.")
    return PROBLEMS[name]


def bench_search(name: str, *, repeats: int = 3, seed: int = 0) -> Timing:
    """Time one named problem.

    Args:
        name: one of `PROBLEMS`.
        repeats: timed calls after the first.
        seed: of the photos, the weights and the search.

    Raises:
        SpearError: no problem has this name.
    """
    problem, peak = problem_of(name), measure_peak()
    pixels = None if problem.is_centred else Normalization.parse("none")
    batch = demo_batch(problem.batch_size, problem.image_size, seed=seed, normalization=pixels)
    client = Client(problem.width, DEPTH, CLASSES, activation=problem.activation, seed=seed)
    update, _ = simulate_client(batch, client)
    layer = update.layer(None).name
    observation, above = update.observation(layer), what_is_above(update, layer)
    config = ReconstructConfig(activation=problem.activation)
    call = lambda: reconstruct(observation, jax.random.key(seed), config, **above)
    compiled = compile_seconds()
    result = call()
    compiled, seconds = compile_seconds() - compiled, []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    certified = int((result.certificate.exact | result.certificate.approximate).sum())
    return Timing(name, certified, problem.batch_size, compiled, tuple(seconds), tuple(traced(call)), peak)
