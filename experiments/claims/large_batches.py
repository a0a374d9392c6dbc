"""Large batches from one layer's gradient: the marks that others set, and beyond.

Claim: SPEAR ends near b = 25 (abstract, facts "S"); SPEAR++ at 65 or so for m = 1000, failing at 150, as a competitor
states ("S2"). Widths and batch sizes are those of SPEAR's table with gradient matching ("S": b = 50 at m = 400, 100 at
2000) and larger ones. Every image exact in every pixel and certified, from the first layer's gradient alone; float32,
six hidden layers, 64 x 64 photos normalised by mean and standard deviation.
Hardware: two CPU cores. Time: about five minutes.

    python -m experiments.claims.large_batches --data DIR

Each trial appends one line to results/lines/large_batches.jsonl, failures included.
"""

from __future__ import annotations

from experiments.harness import claims, rows
from experiments.harness.recovery import Options
from experiments.harness.rows import Row

# m, b, batches, batches of a quick run, the mark to pass.
SIZES = (
    (400, 50, 10, 1, "SPEAR about 25 (S)"),
    (1000, 64, 10, 1, "SPEAR++ about 65 (S2)"),
    (1000, 128, 10, 1, "SPEAR++ about 65 (S2)"),
    (1000, 200, 3, 0, "SPEAR++ about 65, none at 150 (S2)"),
    (2000, 100, 5, 0, "not found"),
    (2000, 200, 5, 0, "not found"),
    (4000, 300, 2, 0, "not found"),
)
ROWS = tuple(
    Row(f"b = {b}, m = {m}, float32", Options(batch_size=b, width=m), seeds, expected, quick)
    for m, b, seeds, quick, expected in SIZES
)
CLAIM = rows.claim_of("large_batches", ROWS)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
