"""``spear-jax demo --text``: private sentences, one gradient, and the sentences back, without a download."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spear_jax import tensor_files
from spear_jax.audit import record
from spear_jax.audit.text_one import audit_text, read_sent
from spear_jax.client.random_model import random_model, tiny_llama
from spear_jax.client.sentences import UNKNOWN, demo_texts, demo_tokenizer
from spear_jax.client.text_batch import TextBatch
from spear_jax.client.text_simulate import simulate_text_update
from spear_jax.client.text_truth import TextTruth
from spear_jax.language.architecture import Architecture
from spear_jax.report.scores import EVALUATION
from spear_jax.report.text_folder import make_text_report
from spear_jax.report.text_scores import score_record

BATCH_SIZE = 5
HEAD_WIDTH, LEAST_HEADS = 48, 4
# Directions of a state per beginning of a sequence: each must leave some over, or nothing can be told apart.
SPARE = 1.25
# Weights are larger than training starts from, so that attention does something.
SCALE = 3.0


def run(out: Path, batch_size: int, seed: int, say: Callable[[str], Any]) -> dict[str, Any]:
    """Simulate a client, reconstruct what it sent, score and report it, all in one folder.

    Args:
        out: folder to write: the model's folder, update, truth, record and page.
        batch_size: number of sentences.
        seed: of their draw and of the model.
        say: called with a sentence after each step, and before each stage of the reconstruction.

    Returns:
        The record with the scores, the page's path and the seconds it took.
    """
    started = time.monotonic()
    tokenizer, batch = demo_tokenizer(), demo_texts(batch_size, seed=seed)
    architecture = _architecture(batch, tokenizer.size)
    params = random_model(architecture, jax.random.key(seed), scale=SCALE)
    update_file, truth_file, model = out / "update.safetensors", out / "truth.safetensors", out / "model"
    _write_model(model, architecture, params)
    words = tuple(tokenizer.decode(sequence.tolist()) for sequence in batch.sequences)
    say(
        f"client: {batch.size} private sentences, {sum(map(len, batch.sequences))} tokens; a random language model of "
        f"{architecture.layers} blocks of width {architecture.width}"
    )
    tensors, metadata = simulate_text_update(architecture, params, batch)
    tensor_files.write_tensors(update_file, tensors, metadata)
    TextTruth(batch, words).save(truth_file)
    say(f"server: sees {update_file} and the model that it sent, {model}")
    sent = read_sent(model)._replace(decode=lambda tokens: tokenizer.decode(tokens))
    content = audit_text(update_file, out, sent, on_stage=lambda stage: say(f"server: {stage} ..."))
    evaluation = score_record(content, truth_file)
    record.write_json(out / EVALUATION, evaluation.to_json())
    page = make_text_report(out, truth_file)
    say(f"truth:  {evaluation.summary}")
    seconds = time.monotonic() - started
    return content | {"evaluation": evaluation.to_json(), "page": str(page), "total_seconds": seconds}


def _architecture(batch: TextBatch, vocabulary: int) -> Architecture:
    """A small model whose states are longer than the batch has beginnings of sequences."""
    beginnings = sum(len(sequence) for sequence in batch.sequences)
    heads = max(LEAST_HEADS, 2 * math.ceil(SPARE * beginnings / HEAD_WIDTH / 2))
    width = heads * HEAD_WIDTH
    return dataclasses.replace(
        tiny_llama(vocabulary), layers=2, width=width, heads=heads, kv_heads=heads // 2, head_width=HEAD_WIDTH,
        hidden=2 * width,
    )  # fmt: skip


def _write_model(folder: Path, architecture: Architecture, params: dict[str, np.ndarray]) -> None:
    """The model as Hugging Face keeps it, with its tokenizer, so that every command can be tried on it."""
    tensor_files.make_folder(folder)
    config = {
        "model_type": "llama",
        "num_hidden_layers": architecture.layers,
        "hidden_size": architecture.width,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_width,
        "intermediate_size": architecture.hidden,
        "vocab_size": architecture.vocabulary,
        "max_position_embeddings": architecture.positions,
        "rms_norm_eps": architecture.epsilon,
        "rope_theta": architecture.rope_base,
        "tie_word_embeddings": architecture.is_tied,
    }
    vocabulary = {word: number for number, word in enumerate(demo_tokenizer().words)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    }
    for name, entries in (("config.json", config), ("tokenizer.json", tokenizer)):
        (folder / name).write_text(json.dumps(entries, indent=1), encoding="utf-8")
    tensor_files.write_tensors(folder / "model.safetensors", params, {"format": "pt"})
