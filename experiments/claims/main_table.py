"""The main table of SPEAR: b = 20 at m = 200, six hidden layers, on five data sets, by sampling and by dictionary.

Claim: 99 to 100 of 100 batches come back whole on MNIST, CIFAR-10, TinyImageNet and ImageNet at 224 x 224 and 720 x 720
(main table; batch size and width as remembered, "M-hi"; the cells remembered only, "M-med"). A batch counts there where
its mean PSNR is above 90 dB, here where every pixel is right and every sample certified. 64 x 64 photos stand for
TinyImageNet, whose images these are not. 100 batches by dictionary and 20 by sampling, drawn from 1000 digits, 1000
CIFAR-10 images and 320 photos (they overlap); five at 224 x 224, and one at 720 x 720, of which there are 24 photos.
Hardware: two CPU cores. Time: about a quarter of an hour.

    python -m experiments.claims.main_table --data DIR

Each trial appends one line to results/lines/main_table.jsonl, failures included.
"""

from __future__ import annotations

import numpy as np

from experiments.harness import claims, recovery, rows
from experiments.harness.claims import Line
from experiments.harness.recovery import Options
from experiments.harness.rows import Row

# Name, file of the data pack, batches by dictionary, batches of a quick run; by sampling at most `SAMPLED`.
DATA = (
    ("MNIST", "mnist.npz", 100, 2),
    ("CIFAR-10", "cifar10.npz", 100, 2),
    ("photos of 64 x 64", "imagenet_64.npz", 100, 2),
    ("photos of 224 x 224", "imagenet/224", 5, 0),
    ("photos of 720 x 720", "imagenet/720", 1, 0),
)
SAMPLED = 20
METHODS = {"sampling": Options(method="sampling", max_candidates=10**11), "dictionary": Options(method="dictionary")}
ROWS = tuple(
    Row(
        f"b = 20, m = 200, {name}, {method}",
        options._replace(batch_size=20, images=file),
        min(seeds, SAMPLED) if method == "sampling" else seeds,
        "99 to 100 % (M-med)",
        quick,
    )
    for name, file, seeds, quick in DATA
    for method, options in METHODS.items()
)


def told(lines: list[Line]) -> str:
    """Counts, and image quality as the paper reports it."""
    psnr, ssim = (np.median([line[name] for line in lines]) for name in ("median_psnr", "median_ssim"))
    return f"{recovery.told(lines)}; PSNR {psnr:.0f} dB, SSIM {ssim:.3f} (medians)"


CLAIM = rows.claim_of("main_table", ROWS, told)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
