"""What every claim shares: settings in, one JSON line per trial out, and runs that resume, shrink and split.

A claim is a module with a docstring (claim, source, expected figure and how well it is known, hardware, time, command)
and a `Claim` named ``CLAIM``. All that is told about it, plots included, is made from its lines alone.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.harness import common

Setting = dict[str, Any]
Line = dict[str, Any]


class Finding(NamedTuple):
    """One row of the table of results.

    Attributes:
        claim: what is claimed, in a few words.
        expected: the figure to compare with, and how well it is known.
        measured: what the lines say, counts as k of N.
        lines: those it was made from; they name the hardware.
    """

    claim: str
    expected: str
    measured: str
    lines: list[Line]


class Claim(NamedTuple):
    """One claim of the literature, or of ours, and how it is tested.

    Attributes:
        name: of the module and of ``results/lines/<name>.jsonl``.
        settings: all trials in order, as JSON objects that name their seed; for a quick run few and small ones of them.
        trial: runs one setting with the data in a folder and gives what goes into its line, None where its data are
            missing.
        findings: rows of the table of results, from lines alone.
        draw: makes the plots of lines in a folder; None without plots.
    """

    name: str
    settings: Callable[[bool], list[Setting]]
    trial: Callable[[Setting, str | None], dict[str, Any] | None]
    findings: Callable[[list[Line]], list[Finding]]
    draw: Callable[[list[Line], Path], None] | None = None

    @property
    def command(self) -> str:
        """How to run it."""
        return f"python -m experiments.claims.{self.name}"


def main(claim: Claim, description: str | None) -> None:
    """Command line of one claim."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--table", action="store_true", help="only print and draw what the lines say")
    parser.add_argument("--only", metavar="WORD=VALUE", nargs="+", default=[], help="settings with these values alone")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if not arguments.table:
        run(claim, arguments, dict(word.split("=", 1) for word in arguments.only))
    tell(claim, arguments.out)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a run of one claim and of all claims has in common."""
    parser.add_argument("--data", help=f"folder of the data pack; the variable {common.DATA_VARIABLE} by default")
    parser.add_argument("--quick", action="store_true", help="few seeds and small sizes")
    parser.add_argument("--shard", type=_shard, default=(0, 1), metavar="i/N", help="every N-th trial, i from 0 on")
    parser.add_argument(
        "--out", type=Path, default=common.RESULTS, help="folder of lines/, figures/; what has a line is done"
    )


def run(claim: Claim, arguments: argparse.Namespace, only: dict[str, str] | None = None) -> None:
    """All trials of this shard that have no line yet; a trial that fails gets a line too, and is tried again."""
    index, count = arguments.shard
    done = {_identity(line["setting"]) for line in common.lines(claim.name, arguments.out) if "failure" not in line}
    mine = [setting for number, setting in enumerate(claim.settings(arguments.quick)) if number % count == index]
    mine = [setting for setting in mine if all(str(setting.get(name)) == value for name, value in (only or {}).items())]
    left = [setting for setting in mine if _identity(setting) not in done]
    print(f"{claim.name}: {len(left)} trials to run, {len(mine) - len(left)} of them done before", flush=True)
    for setting in left:
        common.forget_programs()
        started = time.perf_counter()
        try:
            outcome = claim.trial(setting, arguments.data)
        except Exception as error:  # a night's run goes on after a trial that fails
            traceback.print_exc()
            outcome = {"failure": f"{type(error).__name__}: {error}"}
        if outcome is None:
            continue
        line = {"setting": setting, "wall_seconds": round(time.perf_counter() - started, 3)} | outcome
        common.append(claim.name, line, arguments.out, arguments.shard)
        print(f"{claim.name} {_words(setting)}: {_words(outcome)}", flush=True)


def tell(claim: Claim, out: Path) -> None:
    """Print what the lines say and draw the plots."""
    lines = common.lines(claim.name, out)
    for finding in claim.findings(lines):
        print(f"{finding.claim}: {finding.measured} (expected: {finding.expected})")
    if claim.draw is not None and lines:
        claim.draw(lines, common.figures(out))


def of(lines: list[Line], **values: Any) -> list[Line]:
    """Lines whose setting has these values, the last one of each setting, without those of trials that failed."""
    latest = {_identity(line["setting"]): line for line in lines if "failure" not in line}
    return [line for line in latest.values() if all(line["setting"].get(key) == value for key, value in values.items())]


def hardware(lines: list[Line]) -> str:
    """The machines that lines were made on."""
    kinds = {"cpu": lambda line: f"{line['cpu_count']} CPU cores"}
    return ", ".join(sorted({kinds.get(line["device_kind"], lambda line: line["device_kind"])(line) for line in lines}))


def _identity(setting: Setting) -> str:
    return json.dumps(setting, sort_keys=True)


def _words(values: dict[str, Any]) -> str:
    """A setting or an outcome on one line, without its lists."""
    short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in short.items() if not isinstance(value, (list, dict)))


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard; expected i/N with 0 <= i < N, such as 0/4")
    return int(index), int(count)
