"""What b = 30, 35 and 40 cost by sampling: expected candidates over a modelled rate, on 1 to 1024 GPUs.

Claim: time = candidates / (efficiency x rate). Candidates and efficiency are `sampling.cost`'s; a step of a walk
costs its operations (`bench.sampling.walk_operations`) at one rate, the median of those measured from b = 20 on
(results/lines/kernel_rates.jsonl; below, what the host does with many hits counts more). Checked against the searches
of results/lines/sampling.jsonl. For an H100 nothing was measured: its rate is what the bytes of a step would take at
its memory bandwidth, a lower and an upper estimate.
Hardware: none. Time: seconds.

    python -m experiments.cost.model [--width 2000]
"""

from __future__ import annotations

import argparse
import statistics

from experiments.harness import claims, common, recovery
from spear_jax.attacks.dense.sampling import cost
from spear_jax.attacks.dense.sampling.walk import CHECK_ROWS, TESTED_ROWS
from spear_jax.bench import sampling

THRESHOLD = 3
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "us"))
FITTED_FROM, GPUS = 20, (1, 8, 64, 1024)
H100_BYTES_PER_SECOND = 3.35e12
# Passes over a tableau that a step makes: fused as on paper, and with every intermediate written and read again.
PASSES = (2, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2000, help="rows m of the layer")
    width = parser.parse_args().width
    rate = fit()
    check(rate)
    print(f"\nexpected time at m = {width}, three of {TESTED_ROWS} tested rows; CPU: two cores")
    print("| b | independent candidates | efficiency | 2 CPU cores |", *(f"{count} H100 |" for count in GPUS))
    print("|---|---|---|---|" + "---|" * len(GPUS))
    for rank in (25, 28, 30, 35, 40):
        number = steps(rank, width)
        gpu = [number * passes * 4 * CHECK_ROWS * rank / H100_BYTES_PER_SECOND for passes in PASSES]
        cells = [f"{spoken(gpu[0] / count)} to {spoken(gpu[1] / count)}" for count in GPUS]
        expected = cost.planned_candidates(rank, width)
        efficiency = cost.walk_efficiency(THRESHOLD, rank, width)
        cpu = spoken(number * operations(rank) / rate)
        print(f"| {rank} | {expected:.2g} | {efficiency:.3f} | {cpu} |", *(f"{cell} |" for cell in cells))


def fit() -> float:
    """Operations per second of a step, the median of those measured at m = 200; prints all of them."""
    measured = {}
    for line in common.lines("kernel_rates"):
        walk = {rate["name"]: rate for rate in line["rates"]}.get("walk")
        if line["width"] == 200 and walk is not None:
            measured[line["rank"]] = pairs(line["rank"]) / walk["candidates_per_second"]
    rate = statistics.median(operations(rank) / seconds for rank, seconds in measured.items() if rank >= FITTED_FROM)
    print(f"a step runs at {rate:.3g} operations per second\n\n| b | ns per step, measured | modelled |\n|---|---|---|")
    for rank, seconds in sorted(measured.items()):
        print(f"| {rank} | {1e9 * seconds:.0f} | {1e9 * operations(rank) / rate:.0f} |")
    return rate


def check(rate: float) -> None:
    """Seconds of search that the model expects next to those measured on whole jobs."""
    print("\n| b | m | search s, measured median of N | modelled |\n|---|---|---|---|")
    by_size: dict[tuple[int, int], list[float]] = {}
    for line in claims.of(common.lines("sampling")):
        options = recovery.options_of(line["setting"])
        by_size.setdefault((options.batch_size, options.width), []).append(line["seconds"]["search"])
    for (rank, width), seconds in sorted(by_size.items()):
        modelled = steps(rank, width) * operations(rank) / rate
        print(f"| {rank} | {width} | {statistics.median(seconds):.2f} of {len(seconds)} | {modelled:.2f} |")


def steps(rank: int, width: int) -> float:
    """Expected steps of walks until every direction was found."""
    efficiency = cost.walk_efficiency(THRESHOLD, rank, width)
    return cost.planned_candidates(rank, width) / efficiency / pairs(rank)


def operations(rank: int) -> float:
    """Of one step of one chain."""
    return sampling.walk_operations(rank) * pairs(rank)


def pairs(rank: int) -> float:
    """Candidates of one step."""
    return rank * (rank - 1) / 2


def spoken(seconds: float) -> str:
    """Seconds in a unit that reads well."""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"


if __name__ == "__main__":
    main()
