"""What b = 30, 35 and 40 cost by sampling: expected candidates over a modelled rate, on 1 to 1024 GPUs.

Claim: time = candidates / (efficiency x rate). Candidates and efficiency are `spear_jax.planning`'s; the rate of a step
of a walk is a cost for each tableau entry and for each comparison, fitted to the rates measured at b = 16, 20 and 24,
checked at the others (results/kernel_rates.jsonl). For an H100 nothing was measured: its rate is what the bytes of a
step would take at its memory bandwidth, a lower and an upper estimate.
Hardware: none. Time: seconds.

    python -m experiments.scaling.model [--width 2000]
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from experiments import common
from spear_jax import planning
from spear_jax.pivot_walk import CHECK_ROWS, TESTED_ROWS

THRESHOLD = 3
FITTED, GPUS = (16, 20, 24), (1, 8, 64, 1024)
H100_BYTES_PER_SECOND = 3.35e12
# Passes over a tableau that a step makes: fused as on paper, and with every intermediate written and read again.
PASSES = (2, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2000, help="rows m of the layer")
    width = parser.parse_args().width
    cost = fit()
    print(f"\nexpected hours at m = {width}, three of {TESTED_ROWS} tested rows; CPU: two cores")
    print("| b | independent candidates | efficiency | 2 CPU cores |", *(f"{count} H100 |" for count in GPUS))
    print("|---|---|---|---|" + "---|" * len(GPUS))
    for rank in (25, 28, 30, 35, 40):
        expected = planning.planned_candidates(rank, width)
        efficiency = planning.walk_efficiency(THRESHOLD, rank, width)
        steps = expected / efficiency / (rank * (rank - 1) / 2)
        cpu = steps * np.dot(cost, terms(rank)) / 3600
        gpu = [steps * passes * bytes_per_step(rank) / H100_BYTES_PER_SECOND / 3600 for passes in PASSES]
        cells = [f"{gpu[0] / count:.2g} to {gpu[1] / count:.2g}" for count in GPUS]
        print(f"| {rank} | {expected:.2g} | {efficiency:.3f} | {cpu:.2g} |", *(f"{cell} |" for cell in cells))


def fit() -> np.ndarray:
    """Seconds per tableau entry and per comparison, from the steps measured at `FITTED`; prints all of them."""
    lines = [json.loads(line) for line in (common.RESULTS / "kernel_rates.jsonl").read_text().splitlines()]
    measured = {}
    for line in lines:
        walk = {rate["name"]: rate for rate in line["rates"]}.get("walk")
        if line["width"] == 200 and walk is not None:
            measured[line["rank"]] = line["rank"] * (line["rank"] - 1) / 2 / walk["candidates_per_second"]
    cost = np.linalg.lstsq(
        np.array([terms(rank) for rank in FITTED]), np.array([measured[rank] for rank in FITTED]), rcond=None
    )[0]
    print("| b | ns per step, measured | modelled |\n|---|---|---|")
    for rank, seconds in sorted(measured.items()):
        print(f"| {rank} | {1e9 * seconds:.0f} | {1e9 * np.dot(cost, terms(rank)):.0f} |")
    return cost


def terms(rank: int) -> tuple[int, int]:
    """Entries that a step updates and comparisons that it makes."""
    return CHECK_ROWS * rank, TESTED_ROWS * rank * (rank // 2)


def bytes_per_step(rank: int) -> int:
    """One pass over a tableau in float32."""
    return 4 * CHECK_ROWS * rank


if __name__ == "__main__":
    main()
