"""All claims with one command, and the table of what they measured.

    python -m experiments.run --quick --data DIR           # every claim in small, into results/quick
    python -m experiments.run --data DIR                   # in full; what has its lines already is not run again
    python -m experiments.run --shard 0/8 --data DIR       # every eighth trial of each claim
    python -m experiments.run --table                      # write the table of README.md from the lines

A quick run takes a quarter of an hour on two cores. Runs that were stopped go on where they were.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

import jax

from experiments import claims, common
from experiments.claims import Claim

CLAIMS = (
    "main_table",
    "sampling",
    "depth",
    "label_homogeneous",
    "large_batches",
    "dictionary",
    "skewed",
    "frontier",
)
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- made by experiments.run --table: -->", "<!-- end of what is made -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims.add_options(parser)
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=CLAIMS, help="some claims only")
    parser.add_argument("--table", action="store_true", help="write the table of README.md, run nothing")
    arguments = parser.parse_args()
    if arguments.table:
        README.write_text(with_table(README.read_text()))
        print(f"written: {README}")
        return
    jax.config.update("jax_enable_x64", True)
    if arguments.quick and arguments.out == common.RESULTS:
        arguments.out = common.RESULTS / "quick"
    started = time.perf_counter()
    for name in arguments.claims:
        claims.run(claim(name), arguments)
    print(f"\nall claims: {(time.perf_counter() - started) / 60:.1f} minutes\n")
    print(table([claim(name) for name in arguments.claims], arguments.out))


def claim(name: str) -> Claim:
    """The claim of a module."""
    return importlib.import_module(f"experiments.{name}").CLAIM


def table(of: list[Claim], folder: Path) -> str:
    """What was measured, in Markdown, one row for each finding of each claim."""
    head = ["| claim | expected | measured | command | hardware |", "|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| {row.claim} | {row.expected} | {row.measured} | `{each.command}` | {claims.hardware(row.lines)} |"
            for each in of
            for row in each.findings(common.lines(each.name, folder))
        ]
    )


def with_table(text: str) -> str:
    """The text with the table of all committed lines between its two marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table([claim(name) for name in CLAIMS], common.RESULTS)}\n\n{END}{after}"


if __name__ == "__main__":
    main()
