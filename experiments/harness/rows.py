"""Claims about whole batches that come back: rows of settings, each over several seeds. Not an experiment itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from experiments.harness import claims, recovery
from experiments.harness.claims import Claim, Finding, Line, Setting
from experiments.harness.recovery import Options

FIRST_SEED = 700


class Row(NamedTuple):
    """One setting over seeds.

    Attributes:
        claim: in a few words.
        options: of each trial.
        seeds: how many, from `FIRST_SEED` on.
        expected: the figure to compare with.
        quick: seeds of a quick run.
    """

    claim: str
    options: Options
    seeds: int
    expected: str = "all"
    quick: int = 0


def claim_of(name: str, rows: tuple[Row, ...], told: Callable[[list[Line]], str] = recovery.told) -> Claim:
    """The claim that these rows make up; ``told`` says what the lines of one row measured."""

    def settings(is_quick: bool) -> list[Setting]:
        return [
            row.options.setting(seed)
            for row in rows
            for seed in range(FIRST_SEED, FIRST_SEED + (row.quick if is_quick else row.seeds))
        ]

    def findings(lines: list[Line]) -> list[Finding]:
        found = [(row, lines_of(row, lines)) for row in rows]
        return [Finding(row.claim, row.expected, told(mine), mine) for row, mine in found if mine]

    return Claim(name, settings, recovery.trial, findings)


def lines_of(row: Row, lines: list[Line]) -> list[Line]:
    """Lines of one row, the last one of each seed."""
    same = lambda line: line["setting"] == row.options.setting(line["setting"]["seed"])
    return [line for line in claims.of(lines) if same(line)]
