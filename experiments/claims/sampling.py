"""Sampling alone: whole batches from one layer's gradient, up to the paper's limit and on.

Claim: SPEAR's sampling ends near b = 25 (10^8 submatrices at m = 2000); pivot walks draw these in seconds on two CPU
cores. Every image pixel-exact and certified, one layer's gradient and no other help. Six hidden layers of default
PyTorch initialisation, mean/std normalisation, 64 x 64 ImageNet photos; seeds from 700 on.
Hardware: two CPU cores. Time: about five minutes.

    python -m experiments.claims.sampling --data DIR
    python -m experiments.claims.sampling --data DIR --only batch_size=20 width=200

Each trial appends one line to results/lines/sampling.jsonl, failures included.
"""

from __future__ import annotations

from experiments.harness import claims, rows
from experiments.harness.recovery import Options
from experiments.harness.rows import Row

SAMPLING = Options(method="sampling", max_candidates=10**13, dtype="float64")
ROWS = tuple(
    Row(f"b = {b}, m = {m}, {dtype}", SAMPLING._replace(batch_size=b, width=m, dtype=dtype), seeds, quick=quick)
    for b, m, dtype, seeds, quick in (
        (16, 200, "float64", 10, 1),
        (16, 200, "float32", 10, 0),
        (20, 200, "float64", 10, 0),
        (20, 200, "float32", 10, 1),
        (20, 400, "float64", 10, 0),
        (24, 400, "float64", 5, 1),
        (25, 2000, "float64", 5, 0),
        (28, 2000, "float64", 2, 0),
    )
)
CLAIM = rows.claim_of("sampling", ROWS)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
