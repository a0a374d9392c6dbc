"""The tables of RESULTS.md and of the project's README.md, made from the lines of all claims."""

from __future__ import annotations

import importlib
from pathlib import Path

from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding

CLAIMS = (
    "main_table",
    "adult",
    "depth",
    "label_homogeneous",
    "selection",
    "theory",
    "trained",
    "convolutional",
    "sampling",
    "large_batches",
    "dictionary",
    "skewed",
    "frontier",
    "against",
    "client_updates",
    "activations",
    "span_noise",
    "span_steps",
    "span_maps",
    "defences",
    "unsolvable",
    "certificates",
    "scaling_study",
    "stages",
    "pairs",
    "text_full",
    "text_baseline",
    "text_lora",
    "text_precision",
    "text_certificate",
    "graph_single",
    "graph_batches",
    "graph_trained",
    "graph_certificate",
    "graph_other",
    "graph_baseline",
)
# What the project's README shows of them, claim by claim, in the words of the findings.
HEADLINES = {
    "main_table": ("b = 20, m = 200, photos of 64 x 64, dictionary",),
    "large_batches": ("b = 200, m = 2000, float32",),
    "activations": ("gelu, b = 64, m = 200, in [0, 1], float64",),
    "text_full": ("Rotten Tomatoes, full gradient of SmolLM2-135M, 8",),
    "graph_single": ("one molecule, GCN 300, relu, float64, blocks",),
}
HERE = Path(__file__).parents[1]
BEGIN, END = "<!-- made by python -m experiments.run --table -->", "<!-- end of what is made -->"


def claim(name: str) -> Claim:
    """The claim of a module."""
    return importlib.import_module(f"experiments.claims.{name}").CLAIM


def whole(folder: Path = common.RESULTS, names: tuple[str, ...] = CLAIMS) -> str:
    """One row for each finding of each claim, in Markdown."""
    head = ["| claim | expected | measured | command | hardware |", "|---|---|---|---|---|"]
    rows = [
        f"| {row.claim} | {row.expected} | {row.measured} | `{claim(name).command}` | {claims.hardware(row.lines)} |"
        for name in names
        for row in _findings(name, folder)
    ]
    return "\n".join(head + rows)


def headlines() -> str:
    """The rows that the project's README shows."""
    head = ["| what | measured | hardware |", "|---|---|---|"]
    found = {name: {row.claim: row for row in _findings(name, common.RESULTS)} for name in HEADLINES}
    chosen = [(name, found[name][words]) for name, wanted in HEADLINES.items() for words in wanted]
    rows = [f"| {name}: {row.claim} | {row.measured} | {claims.hardware(row.lines)} |" for name, row in chosen]
    return "\n".join(head + rows)


def pages() -> dict[Path, str]:
    """What RESULTS.md and the project's README.md should say."""
    made = {HERE / "RESULTS.md": whole(), HERE.parent / "README.md": headlines()}
    return {path: _with(path.read_text(), table) for path, table in made.items()}


def _findings(name: str, folder: Path) -> list[Finding]:
    return claim(name).findings(common.lines(name, folder))


def _with(text: str, table: str) -> str:
    """The text with another table between its two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"
