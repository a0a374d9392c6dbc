"""Tables of k of N seeds: rows of settings in, JSON lines and Markdown out. Not an experiment itself."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import common, recovery

FIRST_SEED = 700


class Row(NamedTuple):
    """One setting.

    Attributes:
        b, m: batch size and width.
        dtype: of the gradient.
        seeds: how many, from `FIRST_SEED` on.
        aim: seconds aimed at, or None.
        more: further options of `experiments.recovery`.
    """

    b: int
    m: int
    dtype: str
    seeds: int
    aim: float | None
    more: str = ""


def main(name: str, rows: tuple[Row, ...], description: str | None, options: str = "", aim: str = "run") -> None:
    """Command line of a table.

    Args:
        name: of the file under results/.
        rows: of the table.
        description: the experiment's docstring.
        options: of `experiments.recovery` in every row.
        aim: which seconds the rows' aims mean, ``"run"`` or ``"search"``.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data pack; the variable SPEAR_JAX_DATA by default")
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(rows)), help="rows of the table to run")
    parser.add_argument("--table", action="store_true", help="only print what the lines say")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if not arguments.table:
        for number in arguments.rows:
            run_row(name, number, rows[number], options, arguments.data)
    print_table(name, rows, aim)


def run_row(name: str, number: int, row: Row, more: str, data: str | None) -> None:
    """All seeds of one row; one line each, failures included."""
    words = f"--batch-size {row.b} --width {row.m} --dtype {row.dtype} --results {name} --max-seconds 400"
    options = recovery.parse(f"{words} {more} {row.more}".split())
    path = common.find_data(options.images, data)
    if path is None:
        return
    for seed in range(FIRST_SEED, FIRST_SEED + row.seeds):
        outcome = recovery.trial(options, path, options.layers[0], seed, row=number)
        print(
            f"b={row.b} m={row.m} {row.dtype} {row.more} seed {seed}: exact {outcome['exact']}, certified "
            f"{outcome['certified']} of {outcome['rank']}, false {outcome['false_certificates']}, "
            f"{outcome['run_seconds']:.2f} s of which search {outcome['seconds']['search']:.2f} s "
            f"(+ {outcome['seconds']['compile']:.1f} s compiling), {outcome['rounds']} rounds",
            flush=True,
        )


def print_table(name: str, rows: tuple[Row, ...], aim: str) -> None:
    """One row of Markdown for each row that has lines, from the last line of each seed."""
    lines = common.lines(name)
    print(
        "| b | m | gradient | setting | whole | exact / certified / false | search s (max) | run s (max) | compile s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for number, row in enumerate(rows):
        trials = {line["seed"]: line for line in lines if line["row"] == number}
        if trials:
            print(_markdown(list(trials.values()), row, aim))


def _markdown(trials: list[dict[str, Any]], row: Row, aim: str) -> str:
    total = lambda name: sum(trial[name] for trial in trials)
    whole = sum(trial["all_exact"] for trial in trials)
    seconds = {
        "search": [trial["seconds"]["search"] for trial in trials],
        "run": [trial["run_seconds"] for trial in trials],
    }
    aimed = lambda name: "" if row.aim is None or name != aim else f", aim {row.aim:g}"
    cell = lambda name: f"{np.median(seconds[name]):.2f} ({max(seconds[name]):.2f}{aimed(name)})"
    compiling = max(trial["seconds"]["compile"] for trial in trials)
    return (
        f"| {row.b} | {row.m} | {row.dtype} | {row.more.replace('--', '') or 'photos'} | {whole} of {len(trials)} | "
        f"{total('exact')} / {total('certified')} / {total('false_certificates')} of {total('rank')} | "
        f"{cell('search')} | {cell('run')} | {compiling:.1f} |"
    )
