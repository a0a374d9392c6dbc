"""The dictionary method's table: whole batches of 40 to 600 from one gradient, k of N seeds.

Claim: all directions together in polynomial time, far beyond the 25 or so of sampling (SPEAR, Sec. 5) and with fewer
rows per sample than the 4.2 where a first version of the method ended. Every image pixel-exact and certified, the
server seeing one layer only (in rows with --whole-update the layers above and their gradients too). Six hidden layers
of default PyTorch initialisation, mean/std normalisation, 64 x 64 ImageNet photos unless the row says otherwise; seeds
from 700 on.
Hardware: two CPU cores. Time: about half an hour for all rows; compile seconds are told apart.

    python -m experiments.claims.dictionary --data DIR
    python -m experiments.claims.dictionary --data DIR --only batch_size=64 dtype=float32

Each trial appends one line to results/lines/dictionary.jsonl, failures included.
"""

from __future__ import annotations

from experiments.harness import claims, rows
from experiments.harness.recovery import Options
from experiments.harness.rows import Row

PHOTOS, SINGLE = Options(dtype="float64"), Options(batch_size=64, width=1000)
ROWS = (
    Row("b = 64, m = 1000, float32", SINGLE, 10, quick=1),
    Row("b = 64, m = 1000", PHOTOS._replace(batch_size=64, width=1000), 10),
    Row("b = 128, m = 1000, float32", Options(batch_size=128, width=1000), 10, quick=1),
    Row("b = 200, m = 2000, float32", Options(batch_size=200, width=2000), 5),
    Row("b = 40, m = 200", PHOTOS._replace(batch_size=40), 20, quick=2),
    Row("b = 48, m = 200", PHOTOS._replace(batch_size=48), 20, quick=2),
    Row("b = 48, m = 180", PHOTOS._replace(batch_size=48, width=180), 10),
    Row("b = 100, m = 420", PHOTOS._replace(batch_size=100, width=420), 10, quick=1),
    Row("b = 160, m = 700", PHOTOS._replace(batch_size=160, width=700), 5),
    Row("b = 160, m = 640", PHOTOS._replace(batch_size=160, width=640), 3),
    Row("b = 256, m = 1200", PHOTOS._replace(batch_size=256, width=1200), 3),
    Row("b = 300, m = 3000", PHOTOS._replace(batch_size=300, width=3000), 2),
    Row("b = 64, m = 1000, float32, MNIST", SINGLE._replace(images="mnist.npz"), 3),
    Row("b = 64, m = 1000, float32, photos of 224 x 224", SINGLE._replace(images="imagenet/224"), 3),
    Row("b = 32, m = 1000, float32, inputs of layer 2", SINGLE._replace(batch_size=32, layer=1), 5),
    Row("b = 64, m = 1000, float32, one label", SINGLE._replace(one_label=True), 5),
    Row("b = 64, m = 1000, float32, after 400 SGD steps", SINGLE._replace(train_steps=400), 5),
    Row("b = 48, m = 160, whole update", PHOTOS._replace(batch_size=48, width=160, whole_update=True), 5),
    Row("b = 100, m = 330, whole update", PHOTOS._replace(batch_size=100, width=330, whole_update=True), 3),
    Row("b = 250, m = 1000", PHOTOS._replace(batch_size=250, width=1000), 2),
    Row("b = 600, m = 4800, CIFAR-10", PHOTOS._replace(batch_size=600, width=4800, images="cifar10.npz"), 1),
)
CLAIM = rows.claim_of("dictionary", ROWS)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
