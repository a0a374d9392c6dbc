"""Seconds per candidate over b and m: pivot walk, flat kernel and batched LU, with the roofline beside them.

Claim: an effective candidate of the walk costs hundreds of times less than one by batched LU, more with larger b.
Hardware: two CPU cores. Time: about five minutes, most of it compiling.

    python -m experiments.machines.kernel_rates          # all sizes
    python -m experiments.machines.kernel_rates --plot   # only draw results/figures/kernel_rates.png

Each size appends one line to results/lines/kernel_rates.jsonl.
"""

from __future__ import annotations

import argparse

import jax
import matplotlib

from experiments.harness import common
from spear_jax.attacks.dense.sampling import cost
from spear_jax.bench import sampling

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME = "kernel_rates"
BY_RANK = tuple((200, rank) for rank in (8, 12, 16, 20, 24, 28, 32))
BY_WIDTH = tuple((width, 20) for width in (100, 200, 500, 1000, 2000))
WAYS = {"walk": "tab:green", "flat": "tab:blue", "lu": "tab:orange", "svd": "tab:red"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", action="store_true", help="only draw what the lines say")
    if not parser.parse_args().plot:
        peak = sampling.measure_peak()
        for width, rank in dict.fromkeys(BY_RANK + BY_WIDTH):
            measure(width, rank, peak)
    draw()


def measure(width: int, rank: int, peak: sampling.Peak) -> None:
    """One line: all ways at one size."""
    rates = sampling.bench_sampling(width, rank)
    line = {"width": width, "rank": rank, "peak": peak._asdict(), "rates": [rate._asdict() for rate in rates]}
    common.append(NAME, line)
    print(width, rank, {rate.name: f"{rate.effective_per_second:.3g}" for rate in rates}, flush=True)
    jax.clear_caches()


def draw() -> None:
    """Nanoseconds of an effective candidate over b at m = 200 and over m at b = 20."""
    lines = common.lines(NAME)
    by_size = {(line["width"], line["rank"]): line for line in lines}
    peak = lines[-1]["peak"]["flops"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for axis, sizes, place, label in ((axes[0], BY_RANK, 1, "b, at m = 200"), (axes[1], BY_WIDTH, 0, "m, at b = 20")):
        known = [by_size[size] | {"at": size[place]} for size in sizes if size in by_size]
        for way, color in WAYS.items():
            points = [(line, rate) for line in known for rate in line["rates"] if rate["name"] == way]
            axis.plot(*seconds_of(points), "o-", color=color, label=way)
            if way in ("walk", "flat"):
                limit = [1e9 / efficiency(line, rate) * rate["operations"] / peak for line, rate in points]
                where = [line["at"] for line, _ in points]
                axis.plot(where, limit, ":", color=color, label=f"{way}: operations at the rate of a matrix product")
        axis.set(xlabel=label, yscale="log")
        axis.grid(alpha=0.3)
    axes[1].set_xscale("log")
    axes[0].set_ylabel("ns per effective candidate")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(common.figures() / f"{NAME}.png", dpi=120)
    print(f"written: {common.figures() / NAME}.png")


def seconds_of(points: list[tuple[dict, dict]]) -> tuple[list[int], list[float]]:
    """Where, and nanoseconds of an effective candidate."""
    return (
        [line["at"] for line, _ in points],
        [1e9 / (efficiency(line, rate) * rate["candidates_per_second"]) for line, rate in points],
    )


def efficiency(line: dict, rate: dict) -> float:
    """Independent candidates that one is worth: for a walk the planner's, as few finds would say little."""
    if rate["name"] != "walk":
        return 1.0
    return cost.walk_efficiency(sampling.WALK_THRESHOLD, line["rank"], line["width"])


if __name__ == "__main__":
    main()
