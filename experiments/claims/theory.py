"""SPEAR's theory against runs: submatrices to be drawn, failure by width, and the choice of the zero threshold.

Three claims, each a curve of `sampling.cost` with points from real batches beside it (`experiments.cost`):

- cost (Lemma 5.2 and Fig. 4 [S] for m = 200 and 2000; formula and values [NF]): submatrices that are drawn until every
  direction was among them. Expected: 2^(b-1) H_b for wide layers [D], and the finite-width medians of
  `experiments.cost.cost.MEDIANS` [D]. Up to b = 16 they are drawn one by one by the flat sampler, from b = 14 on by
  pivot walks, whose candidates are counted as the independent ones that they are worth (`cost.walk_efficiency`,
  measured on planted problems): there the points test the growth with b, and 14 and 16, drawn both ways, that worth.
- failure (Fig. 3 [S]; formulas and sizes [NF]): a column whose zero rows have rank below b - 1 is shown by no
  submatrix. Expected: at most b P(Bin(m, 1/2) < b - 1) plus b times the false rejection [D].
- threshold (Sec. 4, tau from a target false rejection [M-med]): share of true columns below tau m, and of mixtures of
  two columns above it. Expected: P(Bin(m, 1/2) < tau m) and P(Bin(m, 1/4) >= tau m) [D].

Tags: S read at the source, M remembered, D derived for this project, NF not found. Batches: 64 x 64 ImageNet photos,
centred, default PyTorch initialisation, float64; two hidden layers, as more do not change the zeros of the first one.
Hardware: two CPU cores. Time: about half an hour, a quick run about a minute. Data: imagenet_64.npz of the data pack.

    python -m experiments.claims.theory --data DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from experiments.cost import cost, failure, threshold
from experiments.cost.real_layer import IMAGES
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME = "theory"
PARTS = {"cost": cost, "failure": failure, "threshold": threshold}


def settings(is_quick: bool) -> list[Setting]:
    """Those of all parts, each with its part's name."""
    return [setting for part in PARTS.values() for setting in part.settings(is_quick)]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One trial of a part; all of them take photos."""
    path = common.find_data(IMAGES, data)
    return None if path is None else PARTS[setting["part"]].trial(setting, path)


def findings(lines: list[Line]) -> list[Finding]:
    """Those of all parts."""
    return [finding for part in PARTS.values() for finding in part.findings(lines)]


def draw(lines: list[Line], folder: Path) -> None:
    """One panel for each part."""
    figure, axes = plt.subplots(1, len(PARTS), figsize=(19, 5.6), layout="constrained")
    for axis, part in zip(axes, PARTS.values(), strict=True):
        part.draw(axis, lines)
    figure.savefig(folder / f"{NAME}.png", dpi=110)
    plt.close(figure)


CLAIM = Claim(NAME, settings, trial, findings, draw)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
