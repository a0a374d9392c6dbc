"""Inputs that are not centred: pixels in [0, 1], the peer's own setting, raw digits and tables.

Claim: LT-code peeling, the field's passive attack on such inputs, is published to recover 99.7 %, 94.7 % and 17.5 % of
64, 128 and 256 ImageNet photos in a network of one hidden layer of 1000, W ~ N(0, 0.5^2), zero biases (facts "S"); run
on photos like these it reached 54 to 62, 46 to 87 and 28 to 33 (ours). Rows of default PyTorch initialisation have six
hidden layers. The server holds the whole update. Float64 gradients unless the row says otherwise; seeds from 700 on.
Hardware: two CPU cores. Time: about an hour for all rows.

    python -m experiments.claims.skewed --data DIR
    python -m experiments.claims.skewed --data DIR --only batch_size=64 classes=10

Each trial appends one line to results/lines/skewed.jsonl, failures included.
"""

from __future__ import annotations

from experiments.harness import claims, rows
from experiments.harness.recovery import Options
from experiments.harness.rows import Row

RAW = Options(width=1000, dtype="float64", raw=True, whole_update=True)
PEER = RAW._replace(initialization="normal", depth=1, classes=1000)
DIGITS = RAW._replace(images="mnist.npz")
ROWS = (
    *(
        Row(f"b = {b}, m = 1000, photos in [0, 1], {classes} classes", options, seeds, quick=quick)
        for b, seeds, quick in ((16, 10, 0), (32, 10, 1), (64, 10, 0), (128, 10, 0))
        for classes in (10, 1000)
        for options in (RAW._replace(batch_size=b, classes=classes),)
    ),
    Row("b = 200, m = 1000, photos in [0, 1], 10 classes", RAW._replace(batch_size=200, classes=10), 2),
    Row("b = 256, m = 1000, photos in [0, 1], 1000 classes", RAW._replace(batch_size=256, classes=1000), 2),
    Row(
        "b = 64, the setting of peeling", PEER._replace(batch_size=64), 5, "99.7 % (S); 54 to 62 of 64 (ours)", quick=1
    ),
    Row("b = 128, the setting of peeling", PEER._replace(batch_size=128), 5, "94.7 % (S); 46 to 87 of 128 (ours)"),
    Row("b = 256, the setting of peeling", PEER._replace(batch_size=256), 5, "17.5 % (S); 28 to 33 of 256 (ours)"),
    Row("b = 300, the setting of peeling", PEER._replace(batch_size=300), 2, "11.9 % (S)"),
    Row("b = 64, m = 1000, float32, 1000 classes", RAW._replace(batch_size=64, classes=1000, dtype="float32"), 5),
    Row("b = 64, m = 1000, MNIST in [0, 1]", DIGITS._replace(batch_size=64), 5, "48.4 % by peeling (S)"),
    Row("b = 128, m = 1000, MNIST in [0, 1]", DIGITS._replace(batch_size=128), 3, "1.7 % by peeling (S)"),
)
CLAIM = rows.claim_of("skewed", ROWS)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
