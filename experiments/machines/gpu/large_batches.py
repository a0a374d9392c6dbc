"""Whole batches of hundreds to thousands on one accelerator by the dictionary method, synthetic inputs.

Claim: b = 300 at m = 3000 in under 2 s, b = 600 at m = 4800 in under 10 s, b = 2000 at m = 16000 in under 60 s on an
H100; none was at hand yet. Each size runs twice, the second time without compiling. Sizes whose turn comes after
``--seconds`` are skipped, and say so. One JSON line per run on stdout.

    python -m experiments.machines.gpu.large_batches [--seconds 240] [--sizes 300,3000 600,4800 2000,16000]
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import numpy as np

import spear_jax as sj
from experiments.harness import common
from spear_jax.testing import planted_problem

IN_FEATURES = 3072


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240, help="no size is begun after these")
    parser.add_argument("--sizes", nargs="+", default=["300,3000", "600,4800", "2000,16000"], help="b,m")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    started = time.perf_counter()
    for size in arguments.sizes:
        b, m = map(int, size.split(","))
        problem = planted_problem(b, m, IN_FEATURES, seed=b)
        for repeat in range(2):
            if time.perf_counter() - started > arguments.seconds:
                tell({"b": b, "m": m, "repeat": repeat, "skipped": "out of time"})
            else:
                tell(one(problem, b, m) | {"repeat": repeat})


def one(problem, b: int, m: int) -> dict:
    """One run, scored."""
    rounds: list[int] = []
    config = sj.ReconstructConfig(method="dictionary", max_seconds=120)
    on_round = lambda progress: rounds.append(progress.found)
    started = time.perf_counter()
    result = sj.reconstruct(problem.observation, jax.random.key(0), config, on_round=on_round)
    seconds = time.perf_counter() - started
    truth = problem.inputs / np.linalg.norm(problem.inputs, axis=1, keepdims=True)
    found = np.nan_to_num(result.inputs)
    nearest = np.abs(found @ truth.T).argmax(axis=1)
    error = np.abs(found - problem.inputs[nearest]).max(axis=1)
    return {
        "b": b, "m": m, "status": result.status.name, "found_by_round": rounds,
        "certified": int(result.certificate.exact.sum()),
        "false": int(np.sum(result.certificate.exact & (error > 1e-3))), "max_error": float(error.max()),
        "total_seconds": seconds, "seconds": result.stats.seconds,
    }  # fmt: skip


def tell(line: dict) -> None:
    """Print a line with where it ran."""
    print(json.dumps({"experiment": "large batches"} | line | common.environment()), flush=True)


if __name__ == "__main__":
    main()
