"""Inputs of deeper layers: the gradient of layer l gives back what went into that layer.

Claim: SPEAR recovers the inputs of layers 1 to 5 of six (table over 100 TinyImageNet batches of b = 20, facts "S"; its
figures were not found). Deeper inputs are ReLU outputs, not centred, and neurons fire for most samples or for few.
Here "exact" counts inputs recovered at 90 dB or more, since features have no pixels; whole update, float32.
Hardware: two CPU cores. Time: about five minutes.

    python -m experiments.claims.depth --data DIR

Each trial appends one line to results/lines/depth.jsonl, failures included.
"""

from __future__ import annotations

from experiments.harness import claims, rows
from experiments.harness.recovery import Options
from experiments.harness.rows import Row

WHOLE = Options(batch_size=20, whole_update=True, max_seconds=60.0)
ROWS = tuple(
    Row(
        f"inputs of layer {layer + 1}, b = 20, m = {width}",
        WHOLE._replace(layer=layer, width=width),
        5,
        "works (S)",
        quick if layer < 4 else 0,
    )
    for width, quick in ((200, 1), (400, 0))
    for layer in range(5)
)
CLAIM = rows.claim_of("depth", ROWS)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
