"""Seconds per candidate over b and m: pivot walk, flat kernel and batched LU, with the roofline beside them.

Claim: an effective candidate of the walk costs hundreds of times less than one by batched LU, more with larger b.
Hardware: two CPU cores. Time: about five minutes, most of it compiling.

    python -m experiments.kernel_rates          # all sizes
    python -m experiments.kernel_rates --plot   # only draw results/kernel_rates.png

Each size appends one line to results/kernel_rates.jsonl.
"""

from __future__ import annotations

import argparse
import json

import jax
import matplotlib

from experiments import common
from spear_jax import bench

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
        peak = bench.measure_peak()
        for width, rank in dict.fromkeys(BY_RANK + BY_WIDTH):
            measure(width, rank, peak)
    draw()


def measure(width: int, rank: int, peak: bench.Peak) -> None:
    """One line: all ways at one size."""
    rates = bench.bench_sampling(width, rank)
    line = {"width": width, "rank": rank, "peak": peak._asdict(), "rates": [rate._asdict() for rate in rates]}
    common.append(NAME, line)
    print(width, rank, {rate.name: f"{rate.effective_per_second:.3g}" for rate in rates}, flush=True)
    jax.clear_caches()


def draw() -> None:
    """Nanoseconds of an effective candidate over b at m = 200 and over m at b = 20."""
    path = common.RESULTS / f"{NAME}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    by_size = {(line["width"], line["rank"]): line for line in lines}
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for axis, sizes, place, label in ((axes[0], BY_RANK, 1, "b, at m = 200"), (axes[1], BY_WIDTH, 0, "m, at b = 20")):
        known = [size for size in sizes if size in by_size]
        for way, color in WAYS.items():
            rates = [{rate["name"]: rate for rate in by_size[size]["rates"]}.get(way) for size in known]
            points = [(size[place], rate) for size, rate in zip(known, rates, strict=True) if rate]
            where = [point for point, _ in points]
            axis.plot(where, [1e9 / rate["effective_per_second"] for _, rate in points], "o-", color=color, label=way)
            if way in ("walk", "flat"):
                floor = [1e9 * rate["operations"] / by_size[known[0]]["peak"]["flops"] for _, rate in points]
                shown = [
                    bound * rate["candidates_per_second"] / rate["effective_per_second"]
                    for bound, (_, rate) in zip(floor, points, strict=True)
                ]
                axis.plot(where, shown, ":", color=color, label=f"{way}: operations at the rate of a matrix product")
        axis.set(xlabel=label, yscale="log")
        axis.grid(alpha=0.3)
    axes[1].set_xscale("log")
    axes[0].set_ylabel("ns per effective candidate")
    axes[0].legend(fontsize=8)
    figure.savefig(common.RESULTS / f"{NAME}.png", dpi=120)
    print(f"written: {common.RESULTS / NAME}.png")


if __name__ == "__main__":
    main()
