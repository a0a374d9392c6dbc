"""How often a batch has a column that no submatrix shows, over m for several b (SPEAR, Fig. 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from scipy import stats

import spear_jax as sj
from experiments.harness import claims
from experiments.harness.claims import Finding, Line, Setting
from spear_jax.attacks.dense.directions.pool import SPARE_ZEROS
from spear_jax.attacks.dense.sampling import cost

SEED, TRIALS = 700, 1000
SIZES, SHARES, TOLD = (5, 10, 20, 40), (2.0, 2.5, 3.0, 3.5, 4.0), (3.0, 4.0)
MASKS = ("independent", "photos")
# Neurons and photos that the masks of one setting are drawn from.
NEURONS, IMAGES = 2000, 320
# False rejection of the paper's figure.
RATE = 1e-9
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def settings(is_quick: bool) -> list[Setting]:
    """Many masks of each size."""
    return [
        {"part": "failure", "batch_size": b, "width": round(share * b), "masks": masks, "trials": TRIALS, "seed": SEED}
        for masks in MASKS
        for b in (SIZES[:1] if is_quick else SIZES)
        for share in SHARES
    ]


def trial(setting: Setting, path: Path) -> dict[str, Any]:
    """Count batches: with a column of fewer than b - 1 zeros, out of reach, and below the library's own filter."""
    b, width = setting["batch_size"], setting["width"]
    rng = np.random.default_rng(setting["seed"])
    photos = photo_masks(path, setting["seed"]) if setting["masks"] == "photos" else None
    counts = {"too_few": 0, "unreachable": 0, "filtered": 0}
    for _ in range(setting["trials"]):
        is_zero = rng.random((width, b)) < 0.5 if photos is None else drawn_mask(photos, rng, width, b)
        fewest = is_zero[~is_zero.all(axis=1)].sum(axis=0).min()  # a row that is zero for all is not drawn from
        counts["too_few"] += int(fewest < b - 1)
        counts["unreachable"] += int(has_unreachable_column(rng.standard_normal((width, b)) * ~is_zero))
        counts["filtered"] += int(fewest < b - 1 + SPARE_ZEROS)
    return counts | {"trials": setting["trials"]}


def photo_masks(path: Path, seed: int) -> Bool[np.ndarray, "neurons images"]:
    """Where neurons of a fresh first layer, of PyTorch's default initialisation, are off for centred photos."""
    inputs = sj.load_batch(path, batch_size=IMAGES, seed=seed).inputs
    rng, bound = np.random.default_rng(seed), inputs.shape[1] ** -0.5
    weight = rng.uniform(-bound, bound, (NEURONS, inputs.shape[1]))
    return weight @ inputs.T + rng.uniform(-bound, bound, (NEURONS, 1)) <= 0


def drawn_mask(
    masks: Bool[np.ndarray, "neurons images"], rng: np.random.Generator, width: int, batch_size: int
) -> Bool[np.ndarray, "m b"]:
    """A layer of this width with a batch of this size, drawn from neurons and images."""
    neurons = rng.choice(masks.shape[0], width, replace=False)
    return masks[np.ix_(neurons, rng.choice(masks.shape[1], batch_size, replace=False))]


def has_unreachable_column(grad_z: Float[np.ndarray, "m b"]) -> bool:
    """Whether the rows that are zero in some column have rank less than b - 1, so that they have no one null vector."""
    b = grad_z.shape[1]
    zero_rows = (grad_z[column == 0] for column in grad_z.T)
    return any(len(rows) < b - 1 or np.linalg.matrix_rank(rows) < b - 1 for rows in zero_rows)


def approximation(rank: int, num_rows: int) -> float:
    """``1 - (1 - P(Bin(m, 1/2) < r - 1))^r``: some column has too few zeros, columns being independent."""
    return float(-np.expm1(rank * np.log1p(-cost.false_rejection_rate(rank - 1, num_rows))))


def findings(lines: list[Line]) -> list[Finding]:
    """Counts by masks, where m is three and four times b."""
    found = []
    for masks in MASKS:
        mine = claims.of(lines, part="failure", masks=masks)
        shown = [line for line in mine if line["setting"]["width"] / line["setting"]["batch_size"] in TOLD]
        sizes = [(line["setting"]["batch_size"], line["setting"]["width"]) for line in shown]
        if shown:
            bounds = [cost.failure_probability_bound(b, m, false_rejection=RATE) for b, m in sizes]
            too_few = ", ".join(str(line["too_few"]) for line in shown)
            unreachable = ", ".join(str(line["unreachable"]) for line in shown)
            found.append(
                Finding(
                    f"batches with a column out of reach, {masks} masks, (b, m) = {', '.join(map(str, sizes))}",
                    f"{', '.join(f'{TRIALS * bound:.2g}' for bound in bounds)} of {TRIALS} at most, by the union bound "
                    "on columns with fewer than b - 1 zeros (derived)",
                    f"{too_few} of {TRIALS} by few zeros; with linear dependence, which the bound leaves out, "
                    f"{unreachable} of {TRIALS}",
                    mine,
                )
            )
    return found


def draw(axis: Axes, lines: list[Line]) -> None:
    """Shares of batches over the two curves."""
    for b, color in zip(SIZES, COLORS, strict=True):
        widths = list(range(round(SHARES[0] * b), round(SHARES[-1] * b) + 1))
        at = [width / b for width in widths]
        bound = [cost.failure_probability_bound(b, width, false_rejection=RATE) for width in widths]
        axis.plot(at, bound, "--", color=color, lw=1)
        axis.plot(at, [approximation(b, width) for width in widths], color=color, label=f"b = {b}")
        for masks, cause, marker, fill in (
            ("independent", "too_few", ".", color),
            ("independent", "unreachable", "o", "white"),
            ("photos", "unreachable", "s", color),
        ):
            for line in claims.of(lines, part="failure", masks=masks, batch_size=b):
                if line[cause]:
                    share, bars = _share(line[cause], line["trials"])
                    axis.errorbar(line["setting"]["width"] / b, share, bars, fmt=marker, color=color, ms=5, mfc=fill)
    axis.set(yscale="log", xlabel="m / b", ylabel="share of batches with a column out of reach", ylim=(1e-4, 1.5))
    title = "dots: too few zeros, circles: with linear dependence; squares: photos"
    axis.set_title(f"{title}\nlines: 1 - (1 - p)^b, dashed: union bound", fontsize=10)
    axis.legend()
    axis.grid(alpha=0.3)


def _share(count: int, trials: int) -> tuple[float, list[list[float]]]:
    """A share and the distances of the ends of its exact 95 % interval."""
    ends = stats.binomtest(count, trials).proportion_ci()
    return count / trials, [[count / trials - ends.low], [ends.high - count / trials]]
