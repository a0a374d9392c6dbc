"""Sampling alone at the paper's limit and beyond: seconds of search at b = 20 to 33, m = 2000, planted problems.

Part of run_all.sh; prints one JSON object per size, compile seconds apart.
"""

from __future__ import annotations

import argparse
import json
import time

import jax

import spear_jax as sj
from experiments.harness import common
from spear_jax.config import ReconstructConfig
from spear_jax.testing import planted_problem

RANKS, WIDTH = (20, 25, 28, 30, 33), 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="budget of all sizes together")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    end = time.perf_counter() + arguments.seconds
    for rank in RANKS:
        remaining = end - time.perf_counter()
        if remaining < 5:
            break
        print(json.dumps(search(rank, remaining) | common.environment()), flush=True)


def search(rank: int, seconds: float) -> dict[str, object]:
    """One planted batch, whole or as far as the seconds go."""
    problem = planted_problem(rank, WIDTH, 2 * rank)
    config = ReconstructConfig(method="sampling", sampler="walk", max_candidates=2**50, max_seconds=seconds)
    result = sj.reconstruct(problem.observation, jax.random.key(0), config)
    is_whole = result.directions_found == rank
    scores = sj.evaluate(result.inputs, problem.inputs, certified=result.certificate.exact) if is_whole else None
    stats = result.stats
    return {
        "experiment": "long searches", "width": WIDTH, "rank": rank, "status": result.status.name,
        "certified": int(result.certificate.exact.sum()),
        "recovered": 0 if scores is None else scores.num_recovered,
        "candidates": stats.candidates, "expected_candidates": stats.expected_candidates,
        "false_hits": stats.false_hits, "seconds": stats.seconds,
        "candidates_per_second": stats.candidates / max(stats.seconds["search"], 1e-9),
    }  # fmt: skip


if __name__ == "__main__":
    main()
