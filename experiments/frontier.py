"""The frontier: what share of a batch comes back, over samples per row, for three widths.

Claim: the wall of the dictionary method lies near m = 4 b with one layer's gradient and hardly moves with b; with the
layers above and their gradients at hand it moves to about 3 b. Float64 gradients, 64 x 64 photos, six hidden layers.
Hardware: two CPU cores. Time: about a quarter of an hour; interrupted runs go on where they stopped.

    python -m experiments.frontier --data DIR
    python -m experiments.frontier --plot            # only draw results/frontier.png

Each trial appends one line to results/frontier.jsonl, failures included.
"""

from __future__ import annotations

import argparse

import jax
import matplotlib
import numpy as np

from experiments import common, recovery

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME, FIRST_SEED, SECONDS = "frontier", 900, 60
SHARES = (0.1, 0.15, 0.2, 0.225, 0.25, 0.275, 0.3, 0.35, 0.4)
# Width, seeds, largest b / m that is tried.
GRID = ((200, 2, 0.4), (400, 2, 0.35), (1000, 1, 0.275))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data pack; the variable SPEAR_JAX_DATA by default")
    parser.add_argument("--plot", action="store_true", help="only draw what the lines say")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if not arguments.plot:
        run(arguments.data)
    draw()


def run(data: str | None) -> None:
    """All trials that have no line yet."""
    path = common.find_data("imagenet_64.npz", data)
    if path is None:
        return
    done = {key(line) for line in common.lines(NAME)}
    for width, seeds, largest in GRID:
        for share in (share for share in SHARES if share <= largest):
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                for whole_update in (False, True):
                    b = round(share * width)
                    if (width, b, seed, whole_update) not in done:
                        one(path, width, b, seed, whole_update)


def one(path, width: int, b: int, seed: int, whole_update: bool) -> None:
    """One trial."""
    words = f"--batch-size {b} --width {width} --dtype float64 --results {NAME} --max-seconds {SECONDS}"
    options = recovery.parse((words + " --whole-update" * whole_update).split())
    outcome = recovery.trial(options, path, 0, seed)
    print(
        f"m={width} b={b} whole_update={whole_update} seed {seed}: directions {outcome['directions']}, certified "
        f"{outcome['certified']}, false {outcome['false_certificates']}, {outcome['seconds_total']:.1f} s",
        flush=True,
    )


def key(line: dict) -> tuple[int, int, int, bool]:
    """What tells one trial from another."""
    return line["width"], line["batch_size"], line["seed"], line["whole_update"]


def draw() -> None:
    """Heat maps: directions found from one layer, samples certified from the whole update."""
    lines = common.lines(NAME)
    panels = (
        ("one layer: share of directions found", False, "directions"),
        ("whole update: share of samples certified", True, "certified"),
    )
    widths = [width for width, *_ in GRID]
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.2), layout="constrained")
    for axis, (title, whole_update, name) in zip(axes, panels, strict=True):
        values = np.full((len(widths), len(SHARES)), np.nan)
        for row, width in enumerate(widths):
            for column, share in enumerate(SHARES):
                found = [
                    line[name] / line["batch_size"]
                    for line in lines
                    if key(line)[:2] == (width, round(share * width)) and line["whole_update"] == whole_update
                ]
                if found:
                    values[row, column] = np.mean(found)
                    text, ink = f"{values[row, column]:.2f}".replace("1.00", "1"), "wk"[int(values[row, column] < 0.6)]
                    axis.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
        image = axis.imshow(values, vmin=0, vmax=1, cmap="YlGn", aspect="auto")
        axis.set_xticks(range(len(SHARES)), [f"{share:g}\n{1 / share:.1f}" for share in SHARES])
        axis.set_yticks(range(len(widths)), [str(width) for width in widths])
        axis.set(title=title, xlabel="b / m, and m / b below it", ylabel="m")
    figure.colorbar(image, ax=axes, label="mean over seeds")
    figure.savefig(common.RESULTS / f"{NAME}.png", dpi=120)
    print(f"written: {common.RESULTS / NAME}.png")


if __name__ == "__main__":
    main()
