"""Language models, certificate: a thousand answers that are wrong in one place, and none that is called exact.

Claim (ours): a batch is certified by its own gradient, computed again and held against all that came back. One wrong
token, be it the nearest of the vocabulary, one wrong last label, two tokens in each other's place, a sequence twice,
left out or cut leaves a residual that is far over the limit; the right batch, in another order, leaves rounding. No
method of the literature certifies text, so there is no published figure. Most answers are judged behind the first four
blocks of SmolLM2-135M and 8,192 rows of its embedding, some behind the whole model; 2, 3, 4 or 6 of Rotten Tomatoes'
sentences that need no other tokens, their first 12 or 24, float32 gradients. Hardware: one CPU core. Time: half an
hour.

    python -m experiments.claims.text_certificate --data DIR
    python -m experiments.claims.text_certificate --data DIR --only blocks=4

Each trial appends one line to results/lines/text_certificate.jsonl.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.harness import claims
from experiments.harness import text_problems as problems
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.attacks.text.certificate import reproduce
from spear_jax.attacks.text.sequences import Sequence
from spear_jax.client.text_batch import TextBatch
from spear_jax.language.transformer import family
from spear_jax.update.language_model import LanguageModel

NAME = "text_certificate"
SIZES = (2, 3, 4, 6)
Answer = list[np.ndarray]


class Row(NamedTuple):
    """One model over seeds.

    Attributes:
        blocks: of the model that are kept.
        vocabulary: rows of its embedding that are kept.
        length: tokens of a sentence that are kept.
        each: answers of each kind of fault, for one batch.
        seeds: batches.
    """

    blocks: int
    vocabulary: int
    length: int
    each: int
    seeds: int


ROWS = (Row(4, 8192, 12, 10, 13), Row(30, 49152, 24, 1, 8))


def settings(is_quick: bool) -> list[Setting]:
    """Batch by batch; quick: one fault of each kind, behind four blocks."""
    rows = (ROWS[0]._replace(each=1, seeds=1),) if is_quick else ROWS
    return [
        {name: value for name, value in row._asdict().items() if name != "seeds"} | {"seed": seed}
        for row in rows
        for seed in range(row.seeds)
    ]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """One batch, right and wrong, before the judge."""
    texts, whole = problems.sentences(data), problems.real_model()
    if texts is None or whole is None:
        return None
    model = smaller(whole, setting["blocks"], setting["vocabulary"])
    fitting = TextBatch(tuple(s for s in texts.sequences if s.max() < setting["vocabulary"]))
    seed = setting["seed"]
    batch = problems.drawn(fitting, SIZES[seed % len(SIZES)], seed, setting["length"])
    rng = np.random.default_rng([seed, 1])
    observation = problems.observed(model, problems.gradients(model, batch))
    params = {name: jnp.asarray(tensor) for name, tensor in observation.params.items()}
    judged = lambda answer: reproduce(observation, params, [Sequence(s, None, 1.0, 0, 1) for s in answer])
    truth = list(batch.sequences)
    right = judged([truth[place] for place in rng.permutation(len(truth))])
    near = functools.partial(
        nearest, np.asarray(model.params[family(model.architecture).embedding_name(model.architecture)])
    )
    started, wrong = time.perf_counter(), {}
    for kind, spoil in FAULTS.items():
        found = [judged(spoiled(spoil, truth, rng, near)) for _ in range(setting["each"])]
        wrong[kind] = {
            "answers": len(found),
            "certified": sum(one.is_exact for one in found),
            "residuals": [float(one.residual) for one in found],
        }
    return {
        "batch_size": batch.size,
        "right_certified": bool(right.is_exact),
        "right_residual": right.residual,
        "limit": right.limit,
        "wrong": wrong,
        "run_seconds": round(time.perf_counter() - started, 3),
    }


def smaller(model: LanguageModel, blocks: int, vocabulary: int) -> LanguageModel:
    """The model without its later blocks and the later rows of its embedding; what is left keeps its weights."""
    whole = model.architecture
    blocks = min(blocks, whole.layers)
    if blocks == whole.layers and vocabulary >= whole.vocabulary:
        return model
    architecture = dataclasses.replace(whole, layers=blocks, vocabulary=vocabulary)
    left_out = tuple(family(whole).block(whole, layer) for layer in range(blocks, whole.layers))
    kept = {name: tensor for name, tensor in model.params.items() if not name.startswith(left_out or ("\n",))}
    name = family(whole).embedding_name(whole)
    kept[name] = kept[name][:vocabulary]
    return dataclasses.replace(model, architecture=architecture, params=kept)


def nearest(embedding: np.ndarray, token: int) -> int:
    """The other token whose embedding points most alike."""
    alike = (embedding @ embedding[token]) / np.linalg.norm(embedding, axis=1)
    alike[token] = -np.inf
    return int(np.argmax(alike))


def spoiled(spoil: Any, truth: Answer, rng: np.random.Generator, near: Any) -> Answer:
    """The truth with one fault; what comes out as the batch itself is drawn again."""
    same = lambda answer: Counter(tuple(s.tolist()) for s in answer) == Counter(tuple(s.tolist()) for s in truth)
    while True:
        answer = spoil([sequence.copy() for sequence in truth], rng, near)
        if not same(answer):
            return answer


def _random_token(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    one = answer[rng.integers(len(answer))]
    one[rng.integers(len(one) - 1)] = rng.integers(near.args[0].shape[0])
    return answer


def _nearest_token(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    one = answer[rng.integers(len(answer))]
    place = rng.integers(len(one) - 1)
    one[place] = near(one[place])
    return answer


def _random_label(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    answer[rng.integers(len(answer))][-1] = rng.integers(near.args[0].shape[0])
    return answer


def _nearest_label(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    one = answer[rng.integers(len(answer))]
    one[-1] = near(one[-1])
    return answer


def _swapped(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    one = answer[rng.integers(len(answer))]
    places = rng.choice(len(one), 2, replace=False)
    one[places] = one[places[::-1]]
    return answer


def _twice(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    return [*answer, answer[rng.integers(len(answer))]]


def _left_out(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    del answer[rng.integers(len(answer))]
    return answer


def _cut(answer: Answer, rng: np.random.Generator, near: Any) -> Answer:
    place = rng.integers(len(answer))
    answer[place] = answer[place][: rng.integers(2, len(answer[place]))]
    return answer


FAULTS = {
    "a token": _random_token,
    "a token by its nearest": _nearest_token,
    "a last label": _random_label,
    "a last label by its nearest": _nearest_label,
    "two tokens swapped": _swapped,
    "a sequence twice": _twice,
    "a sequence left out": _left_out,
    "a sequence cut": _cut,
}


def findings(lines: list[Line]) -> list[Finding]:
    """One row a model."""
    found = [(row, claims.of(lines, blocks=row.blocks, each=row.each)) for row in ROWS]
    return [
        Finding(
            f"certificate of text, wrong answers behind {row.blocks} blocks of SmolLM2",
            "none certified",
            _told(mine),
            mine,
        )
        for row, mine in found
        if mine
    ]


def _told(lines: list[Line]) -> str:
    total = lambda name: sum(part[name] for line in lines for part in line["wrong"].values())
    least = {kind: min(residual for line in lines for residual in line["wrong"][kind]["residuals"]) for kind in FAULTS}
    over = min(
        residual / line["limit"] for line in lines for part in line["wrong"].values() for residual in part["residuals"]
    )
    kinds = ", ".join(f"{kind} {value:.2g}" for kind, value in least.items())
    right = sum(line["right_certified"] for line in lines)
    return (
        f"{total('certified')} of {total('answers')} wrong answers certified, the nearest {over:.3g} times over the "
        f"limit; smallest residuals: {kinds}; {right} of {len(lines)} right ones certified, residual at most "
        f"{max(line['right_residual'] for line in lines):.2g}"
    )


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
