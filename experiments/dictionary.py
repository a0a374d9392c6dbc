"""The dictionary method's table: whole batches of 40 to 600 from one gradient, k of N seeds.

Claim: all directions together in polynomial time, far beyond the 25 or so of sampling (SPEAR, Sec. 5) and with fewer
rows per sample than the 4.2 where a first version of the method ended. Every image pixel-exact and certified, the
server seeing one layer only (in rows with --whole-update the layers above and their gradients too). Six hidden layers
of default PyTorch initialisation, mean/std normalisation, 64 x 64 ImageNet photos unless the row says otherwise; seeds
from 700 on.
Hardware: two CPU cores. Time: about half an hour for all rows; compile seconds are told apart.

    python -m experiments.dictionary --data DIR            # all rows
    python -m experiments.dictionary --data DIR --rows 0 5 # some
    python -m experiments.dictionary --table               # the table of the lines there are

Each trial appends one line to results/dictionary.jsonl, failures included.
"""

from __future__ import annotations

from experiments import table
from experiments.table import Row

ROWS = (
    Row(64, 1000, "float32", 10, 0.5),
    Row(64, 1000, "float64", 10, 0.5),
    Row(128, 1000, "float32", 10, 2),
    Row(200, 2000, "float32", 5, 4),
    Row(40, 200, "float64", 20, 3),
    Row(48, 200, "float64", 20, 5),
    Row(48, 180, "float64", 10, 10),
    Row(100, 420, "float64", 10, 10),
    Row(160, 700, "float64", 5, 10),
    Row(160, 640, "float64", 3, 40),
    Row(256, 1200, "float64", 3, 20),
    Row(300, 3000, "float64", 2, 25),
    Row(64, 1000, "float32", 3, None, "--images mnist.npz"),
    Row(64, 1000, "float32", 3, None, "--images imagenet/224"),
    Row(32, 1000, "float32", 5, None, "--layers 1"),
    Row(64, 1000, "float32", 5, None, "--one-label"),
    Row(64, 1000, "float32", 5, None, "--train-steps 400"),
    Row(48, 160, "float64", 5, None, "--whole-update"),
    Row(100, 330, "float64", 3, None, "--whole-update"),
    Row(250, 1000, "float64", 2, 120),
    Row(600, 4800, "float64", 1, 120, "--images cifar10.npz"),
)


if __name__ == "__main__":
    table.main("dictionary", ROWS, __doc__)
