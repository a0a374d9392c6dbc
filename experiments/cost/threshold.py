"""The zeros asked of a direction: true columns that are rejected, mixtures of two that pass (SPEAR, Sec. 4, tau)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from experiments.cost.real_layer import real_layer
from experiments.harness import claims
from experiments.harness.claims import Finding, Line, Setting
from spear_jax.attacks.dense.sampling import cost
from spear_jax.config import ReconstructConfig

FIRST_SEED, SEEDS, QUICK_SEEDS, BATCH_SIZE = 700, 10, 3, 20
# Widths and layers; the inputs of deeper layers are not centred.
LAYERS = ((200, 0), (1000, 0), (200, 2))
# False rejection of the paper's Fig. 3, and this library's default.
RATES = (1e-9, ReconstructConfig().false_rejection)
COLORS = ("tab:blue", "tab:green", "tab:gray")


def settings(is_quick: bool) -> list[Setting]:
    """Zeros of whole batches."""
    return [
        {"part": "threshold", "batch_size": BATCH_SIZE, "width": width, "layer": layer, "seed": seed}
        for width, layer in (LAYERS[:1] if is_quick else LAYERS)
        for seed in range(FIRST_SEED, FIRST_SEED + (QUICK_SEEDS if is_quick else SEEDS))
    ]


def trial(setting: Setting, path: Path) -> dict[str, Any]:
    """Zeros of all columns, and of mixtures of each two of them in no special proportion."""
    b, index = setting["batch_size"], setting["layer"]
    layer = real_layer(path, b, setting["width"], setting["seed"], depth=index + 2, layer=index)
    zeros = layer.is_zero.astype(np.int64)
    common = zeros.T @ zeros
    return {
        "columns": np.diag(common).tolist(),
        "pairs": common[np.triu_indices(b, 1)].tolist(),
        "live_rows": len(layer.live_rows),
    }


def passing(lines: list[Line], least_zeros: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Columns with fewer zeros than these, of how many, and mixtures with as many or more, of how many."""
    columns = [count < least_zeros for line in lines for count in line["columns"]]
    pairs = [count >= least_zeros for line in lines for count in line["pairs"]]
    return (sum(columns), len(columns)), (sum(pairs), len(pairs))


def findings(lines: list[Line]) -> list[Finding]:
    """Both errors at both thresholds, by layer."""
    found = []
    for width, layer in LAYERS:
        mine = claims.of(lines, part="threshold", width=width, layer=layer)
        if not mine:
            continue
        told, expected = [], []
        for rate in RATES:
            zeros = cost.zero_threshold(rate, width)
            (rejected, columns), (passed, pairs) = passing(mine, zeros)
            told.append(f"tau {zeros / width:.3f}: {rejected} of {columns} and {passed} of {pairs}")
            expected.append(f"{rate:.0e} and {stats.binom.sf(zeros - 1, width, 0.25):.1g}")
        found.append(
            Finding(
                f"true columns rejected and mixtures of two passed, b = {BATCH_SIZE}, m = {width}, hidden layer "
                f"{layer + 1}",
                f"{'; '.join(expected)} (derived, zeros independent with probability 1/2)",
                "; ".join(told),
                mine,
            )
        )
    return found


def draw(axis: Axes, lines: list[Line]) -> None:
    """Shares of real columns and pairs over the binomial curves."""
    for (width, layer), color in zip(LAYERS, COLORS, strict=True):
        zeros = np.arange(round(0.15 * width), round(0.55 * width) + 1)
        if layer == 0:
            axis.plot(zeros / width, stats.binom.cdf(zeros - 1, width, 0.5), color=color)
            axis.plot(zeros / width, stats.binom.sf(zeros - 1, width, 0.25), "--", color=color)
            axis.axvline(cost.zero_threshold(RATES[1], width) / width, color=color, lw=0.8, ls=":")
        mine = claims.of(lines, part="threshold", width=width, layer=layer)
        if mine:
            points = zeros[:: max(width // 40, 1)]
            shares = [[_share(*pair) for pair in passing(mine, int(least))] for least in points]
            name = f"m = {width}, hidden layer {layer + 1}"
            axis.plot(points / width, [rejected for rejected, _ in shares], "o", color=color, ms=5, label=name)
            axis.plot(points / width, [passed for _, passed in shares], "s", color=color, ms=5, mfc="white")
    axis.set(yscale="log", xlabel="tau = zeros asked for / m", ylabel="share", ylim=(1e-5, 1.5))
    title = "circles: true columns rejected, squares: mixtures of two passed, b = 20"
    axis.set_title(f"{title}\nlines: binomial model, dotted: tau for a false rejection of 1e-5", fontsize=10)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=9)
    axis.grid(alpha=0.3)


def _share(count: int, total: int) -> float:
    """No point where there is nothing to count: the axis is logarithmic."""
    return count / total if count else np.nan
