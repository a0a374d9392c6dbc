"""Language models, adapters: all tokens of a batch beyond the adapters' rank, whole sequences up to it.

Claim (ours): gradients of LoRA adapters of rank r on queries and values of SmolLM2-135M show 2 r directions of the
first block's input, and of these come the distinct tokens of batches that have many more: tokens are one of 49,152
vectors each, so few directions tell many of them. Sequences come back whole and certified where the batch has at most
nine tenths as many distinct beginnings as the adapters have rows, and beyond that as far as many blocks tell together
(`spear_jax.attacks.text.beyond`). Published: DAGER (NeurIPS 2024) needs more rows than
tokens: Rotten Tomatoes, 16 sentences at r = 256, ROUGE-1 94.8, ROUGE-2 94.2 (its Table 11, S). Adapters trained for
some rounds (a second factor of zero sends no gradient to the first), float32 gradients, the first tokens of Rotten
Tomatoes' sentences, no labels, nothing told to the attack. Hardware: one CPU core. Time: an hour.

    python -m experiments.claims.text_lora --data DIR
    python -m experiments.claims.text_lora --data DIR --only kind=sequences

Each trial appends one line to results/lines/text_lora.jsonl.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax.numpy as jnp

from experiments.harness import claims
from experiments.harness import text_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.attacks.text import tokens, views

NAME = "text_lora"
SETS, SEQUENCES = "tokens", "sequences"
PUBLISHED = "tokens < r needed: 94.8 / 94.2 at r = 256 (DAGER, S)"


class Row(NamedTuple):
    """One problem over seeds.

    Attributes:
        kind: what is asked for, token sets or whole sequences.
        rank: r of each adapter.
        modules: what they stand beside.
        batch_size, length: of sequences and their tokens.
        seeds: that are tried.
    """

    kind: str
    rank: int
    modules: str
    batch_size: int
    length: int
    seeds: int = 5

    @property
    def setting(self) -> Setting:
        """What a line says of it."""
        return {name: value for name, value in self._asdict().items() if name != "seeds"}

    @property
    def words(self) -> str:
        """In a table's cell."""
        return f"LoRA r = {self.rank} on {self.modules}, {self.batch_size} x {self.length} tokens, {self.kind}"


ROWS = (
    Row(SEQUENCES, 32, "q,k,v", 4, 20),
    Row(SEQUENCES, 64, "q,v", 5, 24),
    Row(SEQUENCES, 8, "q,v", 2, 24, seeds=10),
    Row(SEQUENCES, 8, "q,v", 4, 24),
    *(Row(SETS, rank, "q,v", size, 24) for rank in (4, 8, 16) for size in (4, 8, 12)),
)


def settings(is_quick: bool) -> list[Setting]:
    """Every row, seed by seed; quick: one token set."""
    if is_quick:
        return [Row(SETS, 4, "q,v", 4, 24).setting | {"seed": 0}]
    return [row.setting | {"seed": seed} for row in ROWS for seed in range(row.seeds)]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch behind adapters drawn by the same seed."""
    texts, model = problems.sentences(data), problems.real_model()
    if texts is None or model is None:
        return None
    batch = problems.drawn(texts, setting["batch_size"], setting["seed"], setting["length"])
    model = problems.adapted(model, setting["rank"], tuple(setting["modules"].split(",")), setting["seed"])
    started = time.perf_counter()
    came_back = problems.gradients(model, batch)
    client = {"client_seconds": round(time.perf_counter() - started, 3)}
    observation = problems.observed(model, came_back)
    if setting["kind"] == SEQUENCES:
        return problems.attacked(observation, batch) | client
    started = time.perf_counter()
    params = {name: jnp.asarray(tensor) for name, tensor in observation.params.items()}
    view = views.make_view(observation, 0, "qkv")
    assert view is not None
    found = tokens.find_tokens(observation.architecture, params, view, observation.architecture.positions)
    seconds = time.perf_counter() - started
    known, shown = problems.seen_tokens(batch), set(found.ids.tolist())
    return client | {
        "directions": view.rank,
        "tokens": len(known),
        "tokens_found": len(known & shown),
        "tokens_extra": len(shown - known),
        "tokens_certified": found.is_exact,
        "run_seconds": round(seconds, 3),
    }


def findings(lines: list[Line]) -> list[Finding]:
    """One row each."""
    found = [(row, claims.of(lines, **row.setting)) for row in ROWS]
    told = {SETS: _sets_told, SEQUENCES: _sequences_told}
    return [Finding(row.words, PUBLISHED, told[row.kind](mine), mine) for row, mine in found if mine]


def _sequences_told(lines: list[Line]) -> str:
    return f"{problems.told(lines)}; at most {max(line['prefixes'] for line in lines)} distinct beginnings"


def _sets_told(lines: list[Line]) -> str:
    """Sets that are the batch's, and those certified that are not."""
    total = lambda name: sum(line[name] for line in lines)
    is_right = lambda line: line["tokens_found"] == line["tokens"] and not line["tokens_extra"]
    right, certified = ([line for line in lines if is_right(line)], [x for x in lines if x["tokens_certified"]])
    false = sum(not is_right(line) for line in certified)
    return (
        f"{len(right)} of {len(lines)} sets exact, {len(certified)} certified, {false} false; of {total('tokens')} "
        f"distinct tokens {total('tokens_found')} found, {total('tokens_extra')} too many; "
        f"{max(line['directions'] for line in lines)} directions; {problems.seconds_told(lines)}"
    )


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
