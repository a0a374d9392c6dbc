"""``spear-jax simulate --model``: a language model's client, an update and the truth kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from spear_jax import tensor_files
from spear_jax.audit.text_one import SentModel, read_sent
from spear_jax.client.random_model import init_adapter
from spear_jax.client.sentences import demo_sentences
from spear_jax.client.text_batch import TextBatch, draw_texts, read_texts
from spear_jax.client.text_simulate import simulate_text_update
from spear_jax.client.text_truth import TextTruth
from spear_jax.errors import DataError
from spear_jax.language.architecture import Architecture
from spear_jax.update.adapters import adapted

LEARNING_RATE = 1e-2


class TextClient(NamedTuple):
    """How a client of a language model is simulated.

    Attributes:
        kind: what it sends: ``"gradient"``, ``"weights"`` or ``"delta"``.
        lr: learning rate of its step of SGD.
        dtype: to which what it sends is rounded.
        lora_rank: of random adapters that it trains, None without.
        lora_modules: names of the layers beside which these stand; None for the family's usual ones.
        seed: of the batch's draw and of the adapters.
    """

    kind: str = "gradient"
    lr: float = LEARNING_RATE
    dtype: str = "float32"
    lora_rank: int | None = None
    lora_modules: tuple[str, ...] | None = None
    seed: int = 0


def simulate_text(
    sent: SentModel, texts: Path | None, batch_size: int, client: TextClient
) -> tuple[dict[str, np.ndarray], dict[str, str], TextTruth]:
    """Tensors and metadata of a client's update, and what it keeps to itself.

    Adapters that were sent, given or random, are in the update as ``global/<name>``, so that it can be read without
    their folder.
    """
    batch = draw_texts(_texts(sent, texts), batch_size, client.seed)
    architecture, params, beside = _model(sent, client)
    tensors, metadata = simulate_text_update(
        architecture, params, batch, kind=client.kind, lr=client.lr, dtype=client.dtype
    )
    tensors |= {f"global/{name}": tensor for name, tensor in beside.items()}
    tokenizer = sent.model.tokenizer
    words = () if tokenizer is None else tuple(tokenizer.decode(sequence.tolist()) for sequence in batch.sequences)
    return tensors, metadata, TextTruth(batch, words)


def run(
    sent_files: tuple[Path, Path | None],
    texts: Path | None,
    batch_size: int,
    client: TextClient,
    files: tuple[Path, Path],
) -> tuple[dict[str, Any], str]:
    """Simulate a client into files.

    Args:
        sent_files: model and, where there is one, its adapter.
        texts: file of the private texts.
        batch_size: sequences to draw from it.
        client: how it is simulated.
        files: of the update and of the truth.

    Returns:
        The record of the command, and its sentence.
    """
    out, truth = files
    if client.dtype == "bfloat16" and out.suffix == ".npz":
        raise DataError(f"--out is {out}, and .npz has no bfloat16; give the extension .safetensors.")
    if sent_files[1] is not None and client.lora_rank is not None:
        raise DataError("--adapter and --lora-rank exclude each other: adapters are read, or made at random.")
    if client.lora_modules is not None and client.lora_rank is None:
        raise DataError("--lora-modules names where random adapters stand; give their --lora-rank too.")
    sent = read_sent(*sent_files)
    tensors, metadata, private = simulate_text(sent, texts, batch_size, client)
    tensor_files.write_tensors(out, tensors, metadata)
    private.save(truth)
    sequences = private.batch.sequences
    record = {
        "update": str(out),
        "truth": str(truth),
        "model": sent.name,
        "adapter": sent.adapter_name,
        "batch_size": len(sequences),
        "tokens": sum(map(len, sequences)),
        "distinct_tokens": len(np.unique(np.concatenate(sequences))),
        "tensors": sum(not name.startswith("global/") for name in tensors),
        **{name: value for name, value in client._asdict().items() if name != "lr"},
        "lr": float(metadata["lr"]) if "lr" in metadata else None,
    }
    what = "gradient" if client.kind == "gradient" else f"{client.kind} after one step of SGD"
    sentence = (
        f"{out}: {what} of {len(sequences)} sequences, {record['tokens']} tokens, in {record['tensors']} tensors; "
        f"{truth}: the sequences themselves."
    )
    return record, sentence


def _texts(sent: SentModel, texts: Path | None) -> TextBatch:
    """All sequences of the file, or of the demo's invented sentences."""
    tokenizer = sent.model.tokenizer
    if texts is not None:
        return read_texts(texts, tokenizer)
    if tokenizer is None:
        raise DataError(
            "the model has no tokenizer (its folder has none, or the package tokenizers is not installed); give "
            "--texts with the numbers of tokens, a sequence a line."
        )
    return TextBatch(tuple(np.array(tokenizer.encode(sentence)) for sentence in demo_sentences()))


def _model(sent: SentModel, client: TextClient) -> tuple[Architecture, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Architecture, all tensors, and those that were sent beside the model's own."""
    if sent.adapter is not None:
        whole = adapted(sent.model, sent.adapter)
        return whole.architecture, dict(whole.params), dict(sent.adapter.params)
    architecture, params = sent.model.architecture, dict(sent.model.params)
    if client.lora_rank is None:
        return architecture, params, {}
    beside = init_adapter(
        architecture, params, jax.random.key(client.seed), client.lora_rank, modules=client.lora_modules
    )
    return architecture, params | beside, beside
