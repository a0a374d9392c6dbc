"""Recovery against the strength of each defence, and where the certificate and any recognisable picture end.

Claim: SPEAR is said to survive small noise and to end with larger (robust to DP-SGD, facts "S"); pruning and low
precision destroy the exact zeros it needs. With the next layer's gradient (ours) no zeros are needed, behind ReLU or
GELU. Eight photos of 64 x 64, m = 200, six hidden layers behind ReLU and three behind GELU, float32, the whole update.
Hardware: two CPU cores. Time: up to ten seconds a trial, half an hour for all.

    python -m experiments.claims.defences --data DIR
    python -m experiments.claims.defences --table           # only draw and print what the lines say

Each trial appends one line to results/lines/defences.jsonl.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

import spear_jax as sj
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.audit.one import what_is_above
from spear_jax.defences import DEFENCES, by_name

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME, SEEDS, FIRST_SEED, SECONDS = "defences", 2, 950, 6.0
BATCH, WIDTH = 8, 200
DEPTHS = {"relu": 6, "gelu": 3}
# What a picture that somebody would recognise has at least.
RECOGNISABLE_DB = 20
COUNTS = ("recognisable", "confirmed", "certified")
STYLES = {
    "recognisable": ("s", "recognisable, PSNR 20 dB or more"),
    "confirmed": ("o", "certified, or with an error bar"),
    "certified": ("^", "certified exact"),
}
COLOURS = {"relu": "tab:blue", "gelu": "tab:orange"}


def settings(is_quick: bool) -> list[Setting]:
    """Seed by seed; quick: one strength of every second defence, behind ReLU."""
    return [
        {"defence": defence.name, "strength": strength, "activation": activation, "seed": seed}
        for seed in range(FIRST_SEED, FIRST_SEED + (1 if is_quick else SEEDS))
        for activation in (("relu",) if is_quick else DEPTHS)
        for defence in list(DEFENCES.values())[:: 2 if is_quick else 1]
        for strength in (defence.grid[:1] if is_quick else defence.grid)
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """Defend, attack, score."""
    path = common.find_data("imagenet_64.npz", data)
    if path is None:
        return None
    seed, activation, key = setting["seed"], setting["activation"], jax.random.key(setting["seed"])
    batch = sj.load_batch(path, batch_size=BATCH, seed=seed)
    model = sj.MLP((WIDTH,) * DEPTHS[activation], batch.num_classes, activation=activation)
    params = sj.init_params(model, key, batch.inputs.shape[1])
    update = sj.simulate_update(model, params, batch, dtype="float32")[0]
    update = by_name(setting["defence"])(update, setting["strength"], key)
    told = activation if activation != "relu" else None
    config = sj.ReconstructConfig(max_seconds=SECONDS, num_examples=BATCH, activation=told)
    try:
        result = sj.reconstruct(update.observation(), key, config, **what_is_above(update, update.layer().name))
    except sj.SpearError as error:
        return dict.fromkeys(COUNTS, 0) | {"samples": BATCH, "status": str(error), "false_certificates": 0}
    return score(result, batch)


def score(result: sj.Result, batch: sj.Batch) -> dict[str, Any]:
    """Counts of one result."""
    certificate, confirmed = result.certificate, result.certificate.exact | result.certificate.approximate
    scores = sj.evaluate(
        result.inputs, batch.inputs, certified=certificate.exact, normalization=batch.normalization,
        image_shape=batch.image_shape, images=batch.images,
    )  # fmt: skip
    psnr = np.minimum(np.nan_to_num(np.asarray(scores.psnr), nan=0.0), 200.0)
    return {
        "samples": BATCH, "status": result.status.name, "method": result.stats.method, "rank": result.batch_size,
        "certified": int(certificate.exact.sum()), "confirmed": int(confirmed.sum()),
        "recognisable": int(np.sum(psnr >= RECOGNISABLE_DB)), "false_certificates": scores.false_certificates,
        "psnr": psnr.round(1).tolist(), "error": common.finite(np.median(certificate.error)),
    }  # fmt: skip


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each defence and activation: counts by strength."""
    found = []
    for defence in DEFENCES.values():
        for activation in DEPTHS:
            grids = [(strength, _of(lines, defence.name, strength, activation)) for strength in defence.grid]
            grids = [(strength, mine) for strength, mine in grids if mine]
            if not grids:
                continue
            total = lambda name, mine: sum(line[name] for line in mine)
            at = lambda strength: "" if strength is None else f" at {strength:g}"
            counts = ", ".join(
                f"{total('certified', mine)}/{total('confirmed', mine)}/{total('recognisable', mine)}{at(strength)}"
                for strength, mine in grids
            )
            every = [line for _, mine in grids for line in mine]
            words = f"{defence.name}, {activation}: certified/with a bar too/above 20 dB"
            found.append(
                Finding(
                    f"{words}, of {total('samples', grids[0][1])} at each strength",
                    "ends somewhere (S)" if activation == "relu" else "ours",
                    f"{counts}; {total('false_certificates', every)} false",
                    every,
                )
            )
    return found


def draw(lines: list[Line], folder: Path) -> None:
    """One panel for each defence with a strength."""
    tried = {line["setting"]["defence"] for line in lines}
    swept = [defence for defence in DEFENCES.values() if defence.grid != (None,) and defence.name in tried]
    figure, axes = plt.subplots(2, -(-len(swept) // 2), figsize=(14, 6.5), layout="constrained", sharey=True)
    for axis in axes.flat[len(swept) :]:
        axis.set_visible(False)
    for axis, defence in zip(axes.flat, swept, strict=False):
        for activation, colour in COLOURS.items():
            known = [(strength, _of(lines, defence.name, strength, activation)) for strength in defence.grid]
            known = [(strength, mine) for strength, mine in known if mine]
            for name, (marker, words) in STYLES.items():
                shares = [sum(line[name] for line in mine) / (BATCH * len(mine)) for _, mine in known]
                line = "-" if name == "recognisable" else "--" if name == "confirmed" else ":"
                label = f"{activation}: {words}"
                axis.plot([it for it, _ in known], shares, marker + line, color=colour, label=label, alpha=0.8)
        axis.set(title=defence.name, xlabel=defence.parameter, ylim=(-0.05, 1.05))
        if min(defence.grid) > 0 and max(defence.grid) / min(defence.grid) > 20:
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of 8 photos")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(folder / f"{NAME}.png", dpi=110)
    plt.close(figure)


def _of(lines: list[Line], defence: str, strength: float | None, activation: str) -> list[Line]:
    return claims.of(lines, defence=defence, strength=strength, activation=activation)


CLAIM = Claim(NAME, settings, trial, findings, draw)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
