"""The dictionary method's table: whole batches of 40 to 600 from one gradient, k of N seeds.

Claim: all directions together in polynomial time, far beyond the 25 or so of sampling (SPEAR, Sec. 5) and with fewer
rows per sample than the 4.2 where a first version of the method ended. Every image pixel-exact and certified, the
server seeing one layer only (in rows with --whole-update the layers above and their gradients too). Six hidden layers
of default PyTorch initialisation, mean/std normalisation, 64 x 64 ImageNet photos unless the row says otherwise; seeds
from 700 on.
Hardware: two CPU cores. Time: about half an hour for all rows; compile seconds are told apart.

    python -m experiments.dictionary --data DIR            # all rows
    python -m experiments.dictionary --data DIR --rows 0 5 # some
    python -m experiments.dictionary --table               # the table of the lines there are

Each trial appends one line to results/dictionary.jsonl, failures included.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import jax
import numpy as np

from experiments import common, recovery

NAME, FIRST_SEED = "dictionary", 700
# b, m, dtype, seeds, seconds aimed at, further options of experiments.recovery
ROWS: tuple[tuple[int, int, str, int, float | None, str], ...] = (
    (64, 1000, "float32", 10, 0.5, ""),
    (64, 1000, "float64", 10, 0.5, ""),
    (128, 1000, "float32", 10, 2, ""),
    (200, 2000, "float32", 5, 4, ""),
    (40, 200, "float64", 20, 3, ""),
    (48, 200, "float64", 20, 5, ""),
    (48, 180, "float64", 10, 10, ""),
    (100, 420, "float64", 10, 10, ""),
    (160, 700, "float64", 5, 10, ""),
    (160, 640, "float64", 3, 40, ""),
    (256, 1200, "float64", 3, 20, ""),
    (300, 3000, "float64", 2, 25, ""),
    (64, 1000, "float32", 3, None, "--images mnist.npz"),
    (64, 1000, "float32", 3, None, "--images imagenet/224"),
    (32, 1000, "float32", 5, None, "--layers 1"),
    (64, 1000, "float32", 5, None, "--one-label"),
    (64, 1000, "float32", 5, None, "--train-steps 400"),
    (48, 160, "float64", 5, None, "--whole-update"),
    (100, 330, "float64", 3, None, "--whole-update"),
    (250, 1000, "float64", 2, 120, ""),
    (600, 4800, "float64", 1, 120, "--images cifar10.npz"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data pack; the variable SPEAR_JAX_DATA by default")
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(ROWS)), help="rows of the table to run")
    parser.add_argument("--table", action="store_true", help="only print what the lines say")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if not arguments.table:
        for number in arguments.rows:
            run_row(number, arguments.data)
    print_table()


def run_row(number: int, data: str | None) -> None:
    """All seeds of one row."""
    b, m, dtype, seeds, _, more = ROWS[number]
    words = f"--batch-size {b} --width {m} --dtype {dtype} --results {NAME} --max-seconds 400 {more}".split()
    options = recovery.parse(words)
    path = common.find_data(options.images, data)
    if path is None:
        return
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        outcome = recovery.trial(options, path, options.layers[0], seed, row=number)
        print(
            f"b={b} m={m} {dtype} {more} seed {seed}: exact {outcome['exact']}, certified {outcome['certified']} of "
            f"{outcome['rank']}, false {outcome['false_certificates']}, {outcome['run_seconds']:.2f} s "
            f"(+ {outcome['seconds']['compile']:.1f} s compiling), {outcome['rounds']} rounds",
            flush=True,
        )


def print_table() -> None:
    """One row of Markdown for each row that has lines, from the last line of each seed."""
    path = common.RESULTS / f"{NAME}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    print("| b | m | gradient | setting | whole | exact / certified / false | search s | run s (max) | compile s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for number, (b, m, dtype, _, aim, more) in enumerate(ROWS):
        trials = {line["seed"]: line for line in lines if line["row"] == number}
        if trials:
            print(_table_row(list(trials.values()), b, m, dtype, aim, more))


def _table_row(trials: list[dict[str, Any]], b: int, m: int, dtype: str, aim: float | None, more: str) -> str:
    total = lambda name: sum(trial[name] for trial in trials)
    run = [trial["run_seconds"] for trial in trials]
    whole = sum(trial["all_exact"] for trial in trials)
    aimed = "" if aim is None else f", aim {aim:g}"
    search = np.median([trial["seconds"]["search"] for trial in trials])
    compiling = max(trial["seconds"]["compile"] for trial in trials)
    return (
        f"| {b} | {m} | {dtype} | {more.replace('--', '') or 'photos'} | {whole} of {len(trials)} | "
        f"{total('exact')} / {total('certified')} / {total('false_certificates')} of {total('rank')} | {search:.2f} | "
        f"{np.median(run):.2f} ({max(run):.2f}{aimed}) | {compiling:.1f} |"
    )


if __name__ == "__main__":
    main()
