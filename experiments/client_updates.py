"""Updates of real clients: weights in place of gradients, several local steps, DP-SGD, and what comes back of photos.

Claim: SPEAR's paper has tables for FedAvg (epochs and mini-batches at b = 20; local learning rates) and for DP-SGD
(noise and clipping), whose figures could not be read (facts "NF"); it says that performance is stable. Weights in
float32 are rounded, which the learning rate magnifies.
Hardware: two CPU cores. Time: 1 s to 20 s a trial.

    python -m experiments.client_updates one-step   # weights in float32, lr 0.1, 0.01, 0.001, b = 16
    python -m experiments.client_updates fedavg     # epochs x mini-batch x learning rate, b = 20
    python -m experiments.client_updates dp-sgd     # sigma x C, b = 20
    python -m experiments.client_updates fedavg --table

Each trial appends one line to results/client_updates.jsonl; trials that are there already are not run again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import jax
import matplotlib
import numpy as np

import spear_jax as sj
from experiments import common

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME = "client_updates"
WIDTH, DEPTH, FIRST_SEED = 200, 6, 900
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", help="folder of the data pack; the variable SPEAR_JAX_DATA by default")
    parser.add_argument("--images", default="imagenet_64.npz", help="file in it")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--max-seconds", type=float, default=15.0, help="time budget of each search")
    parser.add_argument("--table", action="store_true", help="only print the table of what was run")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    path = common.find_data(arguments.images, arguments.data)
    if path is not None and not arguments.table:
        # Seed by seed, so that a run that is stopped has a little of everything.
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
            for setting in STUDIES[arguments.study]:
                if not any(line["seed"] == seed for line in known(arguments.study, setting)):
                    trial(arguments, path, setting, seed)
    tell(arguments.study)
    if arguments.study == "dp-sgd":
        draw_dp_sgd()


def trial(arguments: argparse.Namespace, path: Any, setting: dict[str, Any], seed: int) -> None:
    """One client's round, from photos to score."""
    batch = sj.load_batch(path, batch_size=setting["batch_size"], seed=seed)
    model = sj.MLP((WIDTH,) * DEPTH, batch.num_classes)
    params = sj.init_params(model, jax.random.key(seed), batch.inputs.shape[1])
    update = client(setting, model, params, batch, jax.random.key(seed))
    config = sj.ReconstructConfig(max_seconds=arguments.max_seconds)
    result = sj.reconstruct(update.observation(), jax.random.key(seed), config, model=update.network())
    certificate = result.certificate
    scores = sj.evaluate(
        result.inputs, batch.inputs, certified=certificate.exact, normalization=batch.normalization,
        image_shape=batch.image_shape, images=batch.images,
    )  # fmt: skip
    psnr = np.nan_to_num(np.asarray(scores.psnr), nan=0.0)
    line = {
        "study": arguments.study, "setting": setting, "seed": seed, "width": WIDTH, "images": arguments.images,
        "status": result.status.name, "method": result.stats.method, "rank": result.batch_size,
        "certified": int(certificate.exact.sum()), "approximate": int(certificate.approximate.sum()),
        "error": common.finite(np.median(certificate.error)), "false_certificates": scores.false_certificates,
        "exact": scores.num_pixel_exact, "over_20_db": int(np.sum(psnr >= 20)),
        "median_psnr": min(float(np.median(psnr)), 999.0), "seconds": result.stats.seconds,
    }  # fmt: skip
    common.append(NAME, line)
    print(setting, seed, line["status"], line["certified"], line["exact"], line["over_20_db"], flush=True)


def client(setting: dict[str, Any], model: sj.MLP, params: Any, batch: sj.Batch, key: jax.Array) -> sj.Update:
    """What the client sends, computed in float32."""
    if "clip_norm" in setting:
        return sj.dp_sgd_update(
            model, params, batch, key, clip_norm=setting["clip_norm"],
            noise_multiplier=setting["noise_multiplier"], dtype="float32",
        )  # fmt: skip
    training = sj.LocalTraining(setting["lr"], setting.get("epochs", 1), setting.get("mini_batch"))
    return sj.simulate_round(model, params, batch, key, training)[0]


def known(study: str, setting: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lines of this setting."""
    for line in common.lines(NAME):
        if line["study"] == study and line["setting"] == setting:
            yield line


def tell(study: str) -> None:
    """One row for each setting: batches whole, then images of all batches."""
    names = list(STUDIES[study][0])
    print(
        "|",
        " | ".join(names),
        "| whole and certified | pixel-exact | 20 dB and more | approximate | false | median PSNR | s |",
    )
    print("|" + "---|" * (len(names) + 7))
    for setting in STUDIES[study]:
        lines = list(known(study, setting))
        if not lines:
            continue
        size = setting["batch_size"]
        total = {name: sum(line[name] for line in lines) for name in ("exact", "over_20_db", "approximate")}
        whole = sum(line["certified"] == size for line in lines)
        false = sum(line["false_certificates"] for line in lines)
        psnr = statistics.median(line["median_psnr"] for line in lines)
        seconds = statistics.median(sum(line["seconds"].values()) - line["seconds"]["compile"] for line in lines)
        cells = [str(setting[name]) for name in names] + [
            f"{whole} of {len(lines)}", f"{total['exact']} of {size * len(lines)}", str(total["over_20_db"]),
            str(total["approximate"]), str(false), f"{psnr:.0f}", f"{seconds:.1f}",
        ]  # fmt: skip
        print("|", " | ".join(cells), "|")


def draw_dp_sgd() -> None:
    """Share of images against the noise, one panel for each clipping norm."""
    settings = STUDIES["dp-sgd"]
    norms = sorted({setting["clip_norm"] for setting in settings})
    figure, axes = plt.subplots(1, len(norms), figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, norm in zip(axes, norms, strict=True):
        noisy = [setting for setting in settings if setting["clip_norm"] == norm and setting["noise_multiplier"]]
        for names, style in SHARES.items():
            lines = [list(known("dp-sgd", setting)) for setting in noisy]
            shares = [np.mean([sum(line[name] for name in names) for line in of]) / 20 for of in lines]
            axis.semilogx([setting["noise_multiplier"] for setting in noisy], shares, *style[:1], **style[1])
        axis.set(title=f"clipping norm C = {norm:g}", xlabel="noise multiplier sigma", ylim=(-0.05, 1.05))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of 20 samples")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(common.RESULTS / "dp_sgd.png", dpi=110)


if __name__ == "__main__":
    main()
