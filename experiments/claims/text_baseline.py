"""Language models, next to DAGER's test: the same full gradients before tolerances that are fixed.

Claim (ours): none but the comparison: what tolerances from measured noise add to published constants on a model that
these were not chosen for. `baselines.fixed_tolerances` restates DAGER (NeurIPS 2024) from its description; it is told
the batch size and sees no last token, so its sequences are held against the true ones without theirs, and it certifies
nothing. SmolLM2-135M with its real weights, float32 gradients, whole sentences of Rotten Tomatoes, seeds as in
`text_full`, whose lines are ours. DAGER's own figures for GPT-2 and Rotten Tomatoes are 100, 99.3, 100 for B = 1, 4, 8
(S). A search is stopped after 240 s. Hardware: one CPU core. Time: half an hour.

    python -m experiments.claims.text_baseline --data DIR

Each trial appends one line to results/lines/text_baseline.jsonl.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from experiments.baselines.fixed_tolerances import fixed_tolerances
from experiments.harness import claims
from experiments.harness import text_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.client.text_scores import score_texts

NAME, SEEDS, SIZES = "text_baseline", 5, (1, 4, 8)


def settings(is_quick: bool) -> list[Setting]:
    """Every batch size for one seed after another; quick: one sentence."""
    every = [{"batch_size": size, "seed": seed} for seed in range(SEEDS) for size in SIZES]
    return every[:1] if is_quick else every


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch."""
    texts, model = problems.sentences(data), problems.real_model()
    if texts is None or model is None:
        return None
    batch = problems.drawn(texts, setting["batch_size"], setting["seed"])
    observation = problems.observed(model, problems.gradients(model, batch))
    started = time.perf_counter()
    found = fixed_tolerances(observation, batch.size)
    seconds = time.perf_counter() - started
    scores = score_texts(found.sequences, [np.asarray(sequence[:-1]) for sequence in batch.sequences])
    known, shown = problems.seen_tokens(batch), set(found.tokens.tolist())
    return {
        "sequences": batch.size,
        "exact": scores.num_exact,
        "extra": max(len(found.sequences) - batch.size, 0),
        "rouge_1": float(scores.rouge_1.mean()),
        "rouge_2": float(scores.rouge_2.mean()),
        "tokens": len(known),
        "tokens_found": len(known & shown),
        "tokens_extra": len(shown - known),
        "prefixes": problems.num_prefixes(batch),
        "rank": found.rank,
        "is_stopped": found.is_stopped,
        "run_seconds": round(seconds, 3),
    }


def findings(lines: list[Line]) -> list[Finding]:
    """One row a batch size."""
    expected = {1: "DAGER, GPT-2: 100 (S)", 4: "DAGER, GPT-2: 99.3 (S)", 8: "DAGER, GPT-2: 100 (S)"}
    found = [(size, claims.of(lines, batch_size=size)) for size in SIZES]
    return [
        Finding(
            f"Rotten Tomatoes, full gradient of SmolLM2-135M, {size}, by fixed tolerances (baseline)",
            expected[size],
            _told(mine),
            mine,
        )
        for size, mine in found
        if mine
    ]


def _told(lines: list[Line]) -> str:
    total = lambda name: sum(line[name] for line in lines)
    return (
        f"of {total('sequences')} sequences {total('exact')} exact but for their last token, {total('extra')} too "
        f"many; ROUGE-1 {problems.mean(lines, 'rouge_1'):.1f}, ROUGE-2 {problems.mean(lines, 'rouge_2'):.1f} without "
        f"it; of {total('tokens')} distinct tokens {total('tokens_found')} found, {total('tokens_extra')} too many; "
        f"{sum(line['is_stopped'] for line in lines)} of {len(lines)} stopped; {problems.seconds_told(lines)}"
    )


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
