"""Language models, full fine-tuning: whole batches of sentences from one gradient, certified without the truth.

Claim (ours): the gradient of a decoder's whole weights gives back every sentence of a batch, in order and to its last
token, whatever the batch size, which is not told, with one set of tolerances; the batch's own gradient, computed again,
certifies it. SmolLM2-135M with its real weights, float32 gradients of the mean loss over all predicted tokens, whole
sentences of Rotten Tomatoes, one text of 512 tokens (sentences joined), and GPT-2's shape (d = 768, 12 blocks, weights
as training starts from them) with many short beginnings of the sentences. Published: DAGER (NeurIPS 2024, Tables 2 and
3, GPT-2, 100 batches, ROUGE-1 by batch size, S): Rotten Tomatoes 100, 100, 99.3, 100, 100, 98.0, 2.8, 0 for B = 1, 2,
4, ... 128; CoLA 30.3 and SST-2 13.7 for B = 128, CoLA 100 and SST-2 92.9 for B = 64; 512 tokens of ECHR 100. It takes
one to five minutes a batch of GPT-2 on an L4, is told the batch size, has tolerances for each setting, and certifies
nothing. Hardware: one CPU core. Time: two hours.

    python -m experiments.claims.text_full --data DIR
    python -m experiments.claims.text_full --data DIR --only batch_size=8

Each trial appends one line to results/lines/text_full.jsonl.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from experiments.harness import claims
from experiments.harness import text_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting

NAME = "text_full"
SMOLLM2, GPT2 = "SmolLM2-135M", "GPT-2's shape, random weights"


class Row(NamedTuple):
    """One problem over seeds.

    Attributes:
        model: whose gradient it is.
        batch_size, length: of sequences and their tokens; None for whole sentences.
        joined: whether sentences are joined up to the length.
        seeds: that are tried.
        expected: published figure.
    """

    model: str
    batch_size: int
    length: int | None = None
    joined: bool = False
    seeds: int = 10
    expected: str = ""

    @property
    def words(self) -> str:
        """In a table's cell."""
        texts = "a text" if self.joined else "Rotten Tomatoes"
        length = "" if self.length is None else f" x {self.length} tokens"
        return f"{texts}, full gradient of {self.model}, {self.batch_size}{length}"


ROWS = (
    Row(SMOLLM2, 1, expected="DAGER, GPT-2: 100 / 100 (S)"),
    Row(SMOLLM2, 2, expected="DAGER, GPT-2: 100 / 100 (S)"),
    Row(SMOLLM2, 4, expected="DAGER, GPT-2: 99.3 (S)"),
    Row(SMOLLM2, 8, expected="DAGER, GPT-2: 100 (S)"),
    Row(SMOLLM2, 16, expected="DAGER, GPT-2: 100 / 99.9 (S)"),
    Row(SMOLLM2, 1, 512, joined=True, seeds=3, expected="DAGER, GPT-2, 512 tokens of ECHR: 100 (S)"),
    Row(GPT2, 128, 5, seeds=5, expected="DAGER, GPT-2, B = 128: CoLA 30.3 / 14.6, SST-2 13.7 / 4.3, RT 0 (S)"),
    Row(GPT2, 64, 10, seeds=5, expected="DAGER, GPT-2, B = 64: CoLA 100, SST-2 92.9 / 85.0, RT 2.8 / 1.1 (S)"),
)


def settings(is_quick: bool) -> list[Setting]:
    """Every row, seed by seed; quick: one sentence."""
    every = [
        {name: value for name, value in row._asdict().items() if name not in ("seeds", "expected")} | {"seed": seed}
        for row in ROWS
        for seed in range(row.seeds)
    ]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch."""
    texts, model, seed = problems.sentences(data), problems.real_model(), setting["seed"]
    if texts is None or model is None:
        return None
    if setting["joined"]:
        batch = problems.joined(texts, setting["length"], seed)
    else:
        batch = problems.drawn(texts, setting["batch_size"], seed, setting["length"])
    if setting["model"] == GPT2:
        model = problems.gpt2_model(seed)  # its vocabulary has room for the numbers of the other's tokens
    started = time.perf_counter()
    came_back = problems.gradients(model, batch)
    client = {"client_seconds": round(time.perf_counter() - started, 3)}
    return problems.attacked(problems.observed(model, came_back), batch) | client


def findings(lines: list[Line]) -> list[Finding]:
    """One row each."""
    names = ("model", "batch_size", "length", "joined")
    found = [(row, claims.of(lines, **{name: getattr(row, name) for name in names})) for row in ROWS]
    return [Finding(row.words, row.expected, problems.told(mine), mine) for row, mine in found if mine]


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
