"""Where the time of a reconstruction goes, stage by stage, on named problems.

The first call compiles; the median of those that follow is the time, one more is traced.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import jax

from spear_jax.bench.problems import prepared, problem_of
from spear_jax.bench.sampling import Peak, measure_peak
from spear_jax.bench.trace import Share, traced
from spear_jax.devices import compile_seconds


class Timing(NamedTuple):
    """What a problem took.

    Attributes:
        problem: its name.
        certified: samples or sentences that came back certified, of `batch_size`.
        batch_size: of the problem.
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
    call = prepared(problem, seed)
    compiled = compile_seconds()
    certified = call()
    compiled, seconds = compile_seconds() - compiled, []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return Timing(name, certified, problem.batch_size, compiled, tuple(seconds), tuple(traced(call)), peak)
