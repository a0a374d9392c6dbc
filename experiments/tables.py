"""The tables of README.md here and above, made from the lines of all claims."""

from __future__ import annotations

import importlib
from pathlib import Path

from experiments import claims, common
from experiments.claims import Claim, Finding

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
    "main_table": (
        "b = 20, m = 200, MNIST, dictionary",
        "b = 20, m = 200, CIFAR-10, dictionary",
        "b = 20, m = 200, photos of 64 x 64, dictionary",
        "b = 20, m = 200, photos of 224 x 224, dictionary",
    ),
    "sampling": ("b = 20, m = 200, float32", "b = 25, m = 2000, float64", "b = 28, m = 2000, float64"),
    "large_batches": ("b = 50, m = 400, float32", "b = 128, m = 1000, float32", "b = 200, m = 2000, float32"),
    "dictionary": (
        "b = 64, m = 1000, float32, photos of 224 x 224",
        "b = 64, m = 1000, float32, after 400 SGD steps",
        "b = 48, m = 180",
        "b = 160, m = 640",
        "b = 250, m = 1000",
        "b = 300, m = 3000",
        "b = 600, m = 4800, CIFAR-10",
    ),
    "skewed": (
        "b = 128, m = 1000, photos in [0, 1], 10 classes",
        "b = 256, m = 1000, photos in [0, 1], 1000 classes",
        "b = 128, the setting of peeling",
        "b = 256, the setting of peeling",
        "b = 128, m = 1000, MNIST in [0, 1]",
    ),
    "adult": ("ADULT, b = 16, m = 200, whole update",),
    "client_updates": (
        "one-step: batch size 16, lr 0.1",
        "fedavg: batch size 20, lr 0.1, epochs 5, mini batch 5",
        "fedavg: batch size 20, lr 0.01, epochs 5, mini batch 5",
    ),
    "activations": (
        "gelu, b = 64, m = 200, in [0, 1], float64",
        "tanh, b = 64, m = 200, centred, float32",
        "relu, b = 64, m = 200, in [0, 1], float64",
        "gelu, b = 90, m = 200, in [0, 1], float64, 1 row space",
        "gelu, b = 130, m = 200, centred, float64, 3 row spaces",
        "gelu, b = 256, m = 768, centred, float64",
    ),
    "span_noise": ("relu, b = 8, white noise 0.5", "relu, b = 20, dp-sgd 0.001", "gelu, b = 20, dp-sgd 0.001"),
    "text_full": ("Rotten Tomatoes, full gradient of SmolLM2-135M, 8",),
    "text_lora": (
        "LoRA r = 32 on q,k,v, 4 x 20 tokens, sequences",
        "LoRA r = 64 on q,v, 5 x 24 tokens, sequences",
        "LoRA r = 8 on q,v, 2 x 24 tokens, sequences",
    ),
    "text_certificate": ("certificate of text, wrong answers behind 4 blocks of SmolLM2",),
    "graph_single": (
        "one molecule, GCN 300, relu, float64, blocks",
        "one molecule, GIN 300, relu, float64, a list of rows",
    ),
    "graph_batches": ("4 molecules, 12 outputs, GIN 300, a list of rows",),
    "graph_trained": ("one molecule, trained GIN 300, relu",),
}
HERE = Path(__file__).parent
BEGIN, END = "<!-- made by python -m experiments.run --table -->", "<!-- end of what is made -->"


def claim(name: str) -> Claim:
    """The claim of a module."""
    return importlib.import_module(f"experiments.{name}").CLAIM


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
    """What README.md here and above should say."""
    made = {HERE / "README.md": whole(), HERE.parent / "README.md": headlines()}
    return {path: _with(path.read_text(), table) for path, table in made.items()}


def _findings(name: str, folder: Path) -> list[Finding]:
    return claim(name).findings(common.lines(name, folder))


def _with(text: str, table: str) -> str:
    """The text with another table between its two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}"
