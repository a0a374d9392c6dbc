"""The language model that a server sent: a folder as Hugging Face keeps it, or a GGUF file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.errors import SpearError, UpdateError
from spear_jax.language.architecture import Architecture, from_config
from spear_jax.language.shapes import expected_shapes
from spear_jax.language.tokens import Tokenizer, check_size, read_tokenizer
from spear_jax.language.transformer import family
from spear_jax.update.model_file import few
from spear_jax.update.readers import configurations, gguf_files
from spear_jax.update.readers.model_files import read_model

Tensors = dict[str, np.ndarray]
# What a folder's weights are called, the first that is there being read.
WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_LARGEST_CONFIG = 2**24
# Probabilities by which training masks, in a config.json.
_DROPOUT = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LanguageModel:
    """A decoder with its weights, and what turns its tokens to text.

    Attributes:
        architecture: family and sizes.
        params: tensors by the checkpoint's names, all float32, or all float64 where any was; only those that the model
            computes with, so an output layer that is the embedding stands there once.
        tokenizer: None where the folder has none, or the package ``tokenizers`` is not installed.
        eos: number of the token that ends a text, None where the configuration names none.
        dropout: the largest probability by which the configuration lets training mask; exact inversion needs a client
            that does not.
    """

    architecture: Architecture
    params: Mapping[str, np.ndarray]
    tokenizer: Tokenizer | None = None
    eos: int | None = None
    dropout: float = 0.0


def read_language_model(path: str | os.PathLike[str]) -> LanguageModel:
    """Read a decoder from its files; nothing in them is run.

    Args:
        path: folder with ``config.json`` and ``model.safetensors``, or its index and shards, or ``pytorch_model.bin``;
            or a ``.gguf`` file, which needs the package ``gguf``.

    Returns:
        The model, half precision and quantised tensors of GGUF widened to float32.

    Raises:
        UpdateError: no such files, a model that is no decoder known here or is quantised, tensors that are missing or
            have other shapes than the configuration says, in one sentence.
    """
    path = Path(path)
    try:
        if path.suffix == gguf_files.SUFFIX:
            found = gguf_files.read_gguf(path)
            return _model(found.config, found.tensors, found.tokenizer, {})
        config = _configuration(path)
        architecture = from_config(config)  # what cannot be used is refused before gigabytes are read
        tokenizer = read_tokenizer(path)
        if tokenizer is not None:
            check_size(tokenizer, architecture.vocabulary)
        stored = read_model(_weights(path))
        return _model(config, stored.tensors, tokenizer, stored.left_out)
    except UpdateError:
        raise
    except SpearError as error:
        raise UpdateError(str(error)) from error


def to_common_dtype(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Real tensors as float32, or all as float64 where any is."""
    dtype = np.float64 if any(tensor.dtype == np.float64 for tensor in tensors.values()) else np.float32
    return {name: np.asarray(tensor, dtype) for name, tensor in tensors.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a configuration beside a model's weights.

    Raises:
        UpdateError: it cannot be read, or is something else.
    """
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError("it is too large for a configuration")
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UpdateError(f"{path.name} of {path.parent.name} cannot be read ({error}); copy it again.") from error
    return entries


def _configuration(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UpdateError(f"{folder} {what}; expected the folder of a language model, or a .gguf file.")
    if not (folder / configurations.NAME).is_file():
        raise UpdateError(
            f"the model folder {folder.name} has no {configurations.NAME}; text needs the model's architecture."
        )
    return read_json(folder / configurations.NAME)


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UpdateError(f"the model folder {folder.name} has no weights; expected one of {', '.join(WEIGHTS)}.")


def _model(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    tokenizer: Tokenizer | None,
    left_out: Mapping[str, str],
) -> LanguageModel:
    architecture = from_config(config, tensors)
    shapes = expected_shapes(architecture)
    lacking = [name for name in shapes if name not in tensors]
    if lacking:
        why = f", as {lacking[0]} {left_out[lacking[0]]}" if lacking[0] in left_out else ""
        raise UpdateError(f"the model's files lack {few(lacking)}{why}; config.json asks for it: copy all files.")
    _check_vocabulary(architecture, tensors)
    used = {name: tensors[name] for name in (*shapes, *_biases(shapes, tensors))}
    for name, tensor in used.items():
        if name in shapes and tensor.shape != shapes[name]:
            raise UpdateError(f"{name} has shape {tensor.shape}, but config.json makes it {shapes[name]}.")
    return LanguageModel(
        architecture=architecture,
        params=to_common_dtype(used),
        tokenizer=tokenizer,
        eos=_eos(config),
        dropout=max(float(share) for name in _DROPOUT if isinstance(share := config.get(name, 0), int | float)),
    )


def _check_vocabulary(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> None:
    name = family(architecture).embedding_name(architecture)
    rows = tensors[name].shape[0] if tensors[name].ndim else 0
    if rows != architecture.vocabulary:
        raise UpdateError(
            f"config.json says vocab_size={architecture.vocabulary}, but {name} has {rows} rows; "
            "give the configuration that was saved with the weights."
        )


def _biases(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Biases that a linear layer may have or not."""
    stems = [name.removesuffix(".weight") for name in shapes if name.endswith("_proj.weight")]
    return [f"{stem}.bias" for stem in stems if f"{stem}.bias" in tensors]


def _eos(config: Mapping[str, Any]) -> int | None:
    eos = config.get("eos_token_id")
    first = eos[0] if isinstance(eos, list) and eos else eos
    return first if isinstance(first, int) else None
