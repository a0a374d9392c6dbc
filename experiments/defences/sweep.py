"""Recovery against the strength of each defence, and where the certificate and any recognisable picture end.

Claim: SPEAR is said to survive small noise and to end with larger (robust to DP-SGD, facts "S"); pruning
and low precision destroy the exact zeros it needs.
Hardware: two CPU cores. Time: up to ten seconds a trial.

    python -m experiments.defences.sweep --seeds 3     # every defence on its grid
    python -m experiments.defences.sweep --plot        # only draw results/defences.png and print the table

Each trial appends one line to results/defences.jsonl; trials that are there already are not run again.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import matplotlib
import numpy as np

import spear_jax as sj
from experiments import common
from spear_jax.defences import DEFENCES

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME = "defences"
BATCH, WIDTH, DEPTH, FIRST_SEED = 8, 200, 6, 950
# What a picture that somebody would recognise has at least.
RECOGNISABLE_DB = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data pack; the variable SPEAR_JAX_DATA by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=6.0, help="time budget of each search")
    parser.add_argument("--plot", action="store_true", help="only draw and print what was run")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    path = common.find_data("imagenet_64.npz", arguments.data)
    if path is not None and not arguments.plot:
        done = {(line["defence"], line["strength"], line["seed"]) for line in common.lines(NAME)}
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
            batch = sj.load_batch(path, batch_size=BATCH, seed=seed)
            model = sj.MLP((WIDTH,) * DEPTH, batch.num_classes)
            params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
            update, _ = sj.simulate_update(model, params, batch, dtype="float32")
            for defence in DEFENCES.values():
                for strength in defence.grid:
                    if (defence.name, strength, seed) not in done:
                        trial(arguments, update, batch, defence, strength, seed)
    draw()


def trial(
    arguments: argparse.Namespace, update: sj.Update, batch: sj.Batch, defence: Any, strength: float | None, seed: int
) -> None:
    """Defend, attack, score."""
    line = {"defence": defence.name, "strength": strength, "seed": seed, "batch_size": BATCH, "width": WIDTH}
    try:
        observation = defence(update, strength, jax.random.key(seed)).observation()
    except sj.UpdateError as error:
        line |= {"status": str(error), "certified": 0, "approximate": 0, "false_certificates": 0, "recognisable": 0}
        common.append(NAME, line | {"psnr": [0.0] * BATCH})
        return
    config = sj.ReconstructConfig(max_seconds=arguments.max_seconds)
    result = sj.reconstruct(observation, jax.random.key(seed), config, model=update.network())
    scores = sj.evaluate(
        result.inputs, batch.inputs, certified=result.certificate.exact, normalization=batch.normalization,
        image_shape=batch.image_shape, images=batch.images,
    )  # fmt: skip
    psnr = np.minimum(np.nan_to_num(np.asarray(scores.psnr), nan=0.0), 200.0)
    line |= {
        "status": result.status.name, "rank": result.batch_size,
        "certified": int(result.certificate.exact.sum()), "approximate": int(result.certificate.approximate.sum()),
        "false_certificates": scores.false_certificates, "recognisable": int(np.sum(psnr >= RECOGNISABLE_DB)),
        "psnr": psnr.round(1).tolist(), "error": common.finite(np.median(result.certificate.error)),
    }  # fmt: skip
    common.append(NAME, line)
    print(defence.name, strength, seed, line["status"], line["certified"], line["recognisable"], flush=True)


def draw() -> None:
    """One panel for each defence with a strength, and a row of the table for each."""
    lines = common.lines(NAME)
    swept = [defence for defence in DEFENCES.values() if defence.grid != (None,)]
    figure, axes = plt.subplots(2, -(-len(swept) // 2), figsize=(14, 6), layout="constrained", sharey=True)
    for axis in axes.flat[len(swept) :]:
        axis.set_visible(False)
    print("| defence | strength | batches | certified | approximate | 20 dB and more | false |")
    print("|---|---|---|---|---|---|---|")
    for defence in DEFENCES.values():
        shares = {"certified": [], "approximate": [], "recognisable": []}
        known = []
        for strength in defence.grid:
            trials = [line for line in lines if (line["defence"], line["strength"]) == (defence.name, strength)]
            if not trials:
                continue
            known.append(strength)
            total = BATCH * len(trials)
            counts = {name: sum(line[name] for line in trials) for name in shares}
            for name, values in shares.items():
                values.append(counts[name] / total)
            false = sum(line["false_certificates"] or 0 for line in trials)
            print(
                f"| {defence.name} | {'-' if strength is None else f'{strength:g}'} | {len(trials)} | "
                f"{counts['certified']} of {total} | {counts['approximate']} | {counts['recognisable']} | {false} |"
            )
        if defence in swept and known:
            axis = axes.flat[swept.index(defence)]
            axis.plot(known, shares["recognisable"], "s-", color="tab:orange", label="recognisable, PSNR 20 dB or more")
            confirmed = np.add(shares["certified"], shares["approximate"])
            axis.plot(known, confirmed, "o-", color="tab:blue", label="certified, or with an error bar")
            axis.plot(known, shares["certified"], "o-", color="tab:green", label="certified exact")
            axis.set(title=defence.name, xlabel=defence.parameter, ylim=(-0.05, 1.05))
            if min(known) > 0 and max(known) / min(known) > 20:
                axis.set_xscale("log")
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("share of samples")
    axes[1, 0].set_ylabel("share of samples")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(common.RESULTS / f"{NAME}.png", dpi=110)
    print(f"written: {common.RESULTS / NAME}.png")


if __name__ == "__main__":
    main()
