"""Updates of real clients: weights in place of gradients, several local steps, DP-SGD, and what comes back of photos.

Claim: SPEAR's paper has tables for FedAvg (epochs and mini-batches at b = 20; local learning rates) and for DP-SGD
(noise and clipping), whose figures could not be read (facts "NF"); it says that performance is stable. Weights in
float32 are rounded, which the learning rate magnifies. Three studies: one step, new weights instead of a gradient
(b = 16); FedAvg (b = 20: epochs, mini-batches, learning rates); DP-SGD (b = 20: clipping to C, noise sigma C).
Hardware: two CPU cores. Time: 1 s to 20 s a trial, an hour and a half for all.

    python -m experiments.claims.client_updates --data DIR
    python -m experiments.claims.client_updates --data DIR --only study=fedavg lr=0.1

Each trial appends one line to results/lines/client_updates.jsonl, failures included; DP-SGD is drawn in
results/figures/dp_sgd.png.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

import spear_jax as sj
from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.audit.one import what_is_above

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME = "client_updates"
WIDTH, DEPTH, FIRST_SEED, SECONDS = 200, 6, 900, 15.0
EXPECTED = {"one-step": "all", "fedavg": "stable (S)", "dp-sgd": "a table, not found (NF)"}
SEEDS = {"one-step": 10, "fedavg": 20, "dp-sgd": 20}
RATES = (0.1, 0.01, 0.001)
STUDIES: dict[str, list[dict[str, Any]]] = {
    "one-step": [{"batch_size": 16, "lr": lr} for lr in RATES],
    "fedavg": [
        {"batch_size": 20, "lr": lr, "epochs": epochs, "mini_batch": mini_batch}
        for lr in RATES
        for epochs in (1, 5)
        for mini_batch in (5, 10, 20)
    ],
    "dp-sgd": [
        {"batch_size": 20, "clip_norm": clip_norm, "noise_multiplier": sigma}
        for clip_norm in (0.5, 2.0)
        for sigma in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    ],
}

# What is drawn of DP-SGD: counts of a line added up, and how.
SHARES = {
    ("over_20_db",): ("s-", {"color": "tab:orange", "label": "recognisable, PSNR 20 dB or more"}),
    ("certified", "approximate"): ("o-", {"color": "tab:blue", "label": "certified, or with an error bar"}),
    ("exact",): ("^-", {"color": "tab:green", "label": "exact in every pixel"}),
}


def settings(is_quick: bool) -> list[Setting]:
    """Seed by seed, so that a run that is stopped has a little of everything."""
    return [
        {"study": study} | options | {"seed": seed}
        for study, all_options in STUDIES.items()
        for seed in range(FIRST_SEED, FIRST_SEED + (1 if is_quick else SEEDS[study]))
        for options in all_options[:: 6 if is_quick else 1]
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One client's round, from photos to score."""
    path = common.find_data("imagenet_64.npz", data)
    if path is None:
        return None
    seed = setting["seed"]
    batch = sj.load_batch(path, batch_size=setting["batch_size"], seed=seed)
    model = sj.MLP((WIDTH,) * DEPTH, batch.num_classes)
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    update = client(setting, model, params, batch, jax.random.key(seed))
    config = sj.ReconstructConfig(max_seconds=SECONDS)
    above = what_is_above(update, update.layer().name)
    result = sj.reconstruct(update.observation(), jax.random.key(seed), config, **above)
    certificate = result.certificate
    scores = sj.evaluate(
        result.inputs, batch.inputs, certified=certificate.exact, normalization=batch.normalization,
        image_shape=batch.image_shape, images=batch.images,
    )  # fmt: skip
    psnr = np.nan_to_num(np.asarray(scores.psnr), nan=0.0)
    return {
        "width": WIDTH, "status": result.status.name, "method": result.stats.method, "rank": result.batch_size,
        "certified": int(certificate.exact.sum()), "approximate": int(certificate.approximate.sum()),
        "error": common.finite(np.median(certificate.error)), "false_certificates": scores.false_certificates,
        "exact": scores.num_pixel_exact, "over_20_db": int(np.sum(psnr >= 20)),
        "median_psnr": min(float(np.median(psnr)), 999.0), "seconds": result.stats.seconds,
    }  # fmt: skip


def client(setting: dict[str, Any], model: sj.MLP, params: Any, batch: sj.Batch, key: jax.Array) -> sj.Update:
    """What the client sends, computed in float32."""
    if "clip_norm" in setting:
        return sj.dp_sgd_update(
            model, params, batch, key, clip_norm=setting["clip_norm"],
            noise_multiplier=setting["noise_multiplier"], dtype="float32",
        )  # fmt: skip
    training = sj.LocalTraining(setting["lr"], setting.get("epochs", 1), setting.get("mini_batch"))
    return sj.simulate_round(model, params, batch, key, training)[0]


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each setting: batches whole, then images of all batches."""
    found = []
    for study, all_options in STUDIES.items():
        for options in all_options:
            mine = claims.of(lines, study=study, **options)
            if mine:
                words = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in options.items())
                found.append(Finding(f"{study}: {words}", EXPECTED[study], told(mine), mine))
    return found


def told(lines: list[Line]) -> str:
    """Counts over the batches of one setting."""
    total = lambda name: sum(line[name] for line in lines)
    images = sum(line["setting"]["batch_size"] for line in lines)
    whole = sum(line["certified"] == line["setting"]["batch_size"] for line in lines)
    seconds = statistics.median(sum(line["seconds"].values()) - line["seconds"]["compile"] for line in lines)
    psnr = statistics.median(line["median_psnr"] for line in lines)
    return (
        f"{whole} of {len(lines)} whole and certified; of {images} images {total('exact')} exact, "
        f"{total('over_20_db')} above 20 dB, {total('approximate')} with an error bar, "
        f"{total('false_certificates')} false; PSNR {psnr:.0f} dB (median); {seconds:.1f} s"
    )


def draw(lines: list[Line], folder: Path) -> None:
    """DP-SGD: share of images against the noise, one panel for each clipping norm."""
    settings = STUDIES["dp-sgd"]
    norms = sorted({setting["clip_norm"] for setting in settings})
    figure, axes = plt.subplots(1, len(norms), figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, norm in zip(axes, norms, strict=True):
        noisy = [setting for setting in settings if setting["clip_norm"] == norm and setting["noise_multiplier"]]
        run = [(options["noise_multiplier"], claims.of(lines, study="dp-sgd", **options)) for options in noisy]
        run = [(noise, mine) for noise, mine in run if mine]
        for names, style in SHARES.items():
            shares = [np.mean([sum(line[name] for name in names) for line in mine]) / 20 for _, mine in run]
            axis.semilogx([noise for noise, _ in run], shares, *style[:1], **style[1])
        axis.set(title=f"clipping norm C = {norm:g}", xlabel="noise multiplier sigma", ylim=(-0.05, 1.05))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of 20 samples")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(folder / "dp_sgd.png", dpi=110)
    plt.close(figure)


CLAIM = Claim(NAME, settings, trial, findings, draw)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
