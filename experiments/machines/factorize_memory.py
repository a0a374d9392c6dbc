"""Rank and factors of an ImageNet-sized gradient without a full SVD and without a float64 copy.

Claim: m = 2000, n = 150528 (224 x 224 x 3), float32, factorised within 6 GiB of memory, the gradient included.
Hardware: two CPU cores. Expected: under 6 GiB. Appends one line to results/lines/factorize_memory.jsonl.

    python -m experiments.machines.factorize_memory
"""

from __future__ import annotations

import time

import jax
import numpy as np

from experiments.harness import common
from spear_jax.factorization import factorize


def main(rows: int = 2000, columns: int = 150_528, rank: int = 24) -> None:
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    grad_z = rng.standard_normal((rows, rank), np.float32) * (rng.random((rows, rank)) < 0.5)
    gradient = grad_z @ rng.standard_normal((rank, columns), np.float32)
    started = time.perf_counter()
    found = factorize(gradient)
    trial = {
        "shape": [rows, columns], "rank": rank, "found_rank": found.rank, "gap": found.gap,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip
    common.append("factorize_memory", trial)
    print(trial)


if __name__ == "__main__":
    main()
