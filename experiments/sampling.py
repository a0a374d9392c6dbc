"""Sampling alone: whole batches from one layer's gradient, up to the paper's limit and on.

Claim: SPEAR's sampling ends near b = 25 (10^8 submatrices at m = 2000); pivot walks draw these in seconds on two CPU
cores. Every image pixel-exact and certified, one layer's gradient and no other help. Six hidden layers of default
PyTorch initialisation, mean/std normalisation, 64 x 64 ImageNet photos; seeds from 700 on.
Hardware: two CPU cores. Time: about five minutes.

    python -m experiments.sampling --data DIR            # all rows
    python -m experiments.sampling --data DIR --rows 0 1 # some
    python -m experiments.sampling --table               # the table of the lines there are

Each trial appends one line to results/sampling.jsonl, failures included. Aims are seconds of search.
"""

from __future__ import annotations

from experiments import table
from experiments.table import Row

ROWS = (
    Row(16, 200, "float64", 10, 0.5),
    Row(16, 200, "float32", 10, 0.5),
    Row(20, 200, "float64", 10, 4),
    Row(20, 200, "float32", 10, 4),
    Row(20, 400, "float64", 10, 2),
    Row(24, 400, "float64", 5, None),
    Row(25, 2000, "float64", 5, 20),
    Row(28, 2000, "float64", 2, None),
)


if __name__ == "__main__":
    table.main("sampling", ROWS, __doc__, options="--method sampling --max-candidates 10000000000000", aim="search")
