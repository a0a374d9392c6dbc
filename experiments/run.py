"""All claims with one command, and the table of what they measured.

    python -m experiments.run --quick --data DIR           # every claim in small, into results/quick
    python -m experiments.run --data DIR                   # in full; what has its lines already is not run again
    python -m experiments.run --shard 0/8 --data DIR       # every eighth trial of each claim
    python -m experiments.harness.launch --shards 8 --data DIR   # the same as a SLURM array, with submitit
    python -m experiments.run --table                      # write RESULTS.md's and README.md's tables

A quick run takes a quarter of an hour on two busy cores, without the claims of text. Runs that were stopped go on
where they were.
"""

from __future__ import annotations

import argparse
import time

import jax

from experiments.harness import claims, common, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims.add_options(parser)
    parser.add_argument("--claims", nargs="+", choices=tables.CLAIMS, default=tables.CLAIMS, help="some claims only")
    parser.add_argument(
        "--table", action="store_true", help="write the tables of RESULTS.md and of README.md, run nothing"
    )
    arguments = parser.parse_args()
    if arguments.table:
        for path, text in tables.pages().items():
            path.write_text(text)
            print(f"written: {path}")
        return
    jax.config.update("jax_enable_x64", True)
    if arguments.quick and arguments.out == common.RESULTS:
        arguments.out = common.RESULTS / "quick"
    started = time.perf_counter()
    for name in arguments.claims:
        claims.run(tables.claim(name), arguments)
        claims.tell(tables.claim(name), arguments.out)
    print(f"\nall claims: {(time.perf_counter() - started) / 60:.1f} minutes\n")
    print(tables.whole(arguments.out, tuple(arguments.claims)))


if __name__ == "__main__":
    main()
