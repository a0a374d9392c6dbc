"""Batches of one label: the gradients of the output are alike, the masks are not, and the batch comes back as ever.

Claim: label-homogeneous batches do not hurt SPEAR (table over 100 TinyImageNet batches, facts "S"; figures not found),
where attacks that tell samples by their labels fail. b = 20, m = 200, six hidden layers, float32.
Hardware: two CPU cores. Time: about a minute.

    python -m experiments.claims.label_homogeneous --data DIR

Each trial appends one line to results/lines/label_homogeneous.jsonl, failures included.
"""

from __future__ import annotations

from experiments.harness import claims, rows
from experiments.harness.recovery import Options
from experiments.harness.rows import Row

ONE_LABEL = Options(one_label=True)
ROWS = (
    Row("one label, b = 20, m = 200, photos", ONE_LABEL._replace(batch_size=20), 20, "no loss (S)", quick=1),
    Row(
        "one label, b = 20, m = 200, CIFAR-10",
        ONE_LABEL._replace(batch_size=20, images="cifar10.npz"),
        20,
        "no loss (S)",
    ),
    Row("one label, b = 20, m = 200, MNIST", ONE_LABEL._replace(batch_size=20, images="mnist.npz"), 20, "no loss (S)"),
    Row(
        "one label, b = 64, m = 1000, photos", ONE_LABEL._replace(batch_size=64, width=1000), 5, "no loss (S)", quick=1
    ),
)
CLAIM = rows.claim_of("label_homogeneous", ROWS)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
