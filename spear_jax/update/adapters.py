"""Low-rank adapters as PEFT keeps them (Hu et al. 2021): beside which layers they stand, their factors and their scale.

A folder holds ``adapter_model.safetensors`` (or ``.bin``), with the factors ``lora_A`` (r, in) and ``lora_B`` (out, r)
of each layer, and ``adapter_config.json``, without which their scale is not known. PEFT's other methods compute
otherwise and are refused by name.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.language.linear import LORA_A, LORA_B, LORA_SCALE
from spear_jax.language.transformer import family
from spear_jax.types import T
from spear_jax.update.language_model import LanguageModel, read_json
from spear_jax.update.readers.model_files import read_model
from spear_jax.update.text_names import block_of, checkpoint_name, is_buffer, linear_layers, spoken

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_HEAD = "score.weight"
# Options by which PEFT's LoRA computes something else, and what they are called.
_OTHER = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "arrow_config": "Arrow",
    "alora_invocation_tokens": "activated LoRA",
    "lora_bias": "a bias within the adapter",
    "target_parameters": "adapters of parameters that are no layers",
    "trainable_token_indices": "trained rows of the embedding",
    "layer_replication": "replicated layers",
}
_PLAIN = re.compile(r"[\w.]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What ``adapter_config.json`` says.

    Attributes:
        rank: r of the layers that ``rank_pattern`` does not name.
        alpha: numerator of the scale, of the layers that ``alpha_pattern`` does not name.
        is_rank_stabilized: whether the scale is ``alpha / sqrt(r)`` (rsLoRA) rather than ``alpha / r``.
        rank_pattern: ranks by endings of layers' names, or by regular expressions for these.
        alpha_pattern: likewise.
        dropout: probability by which training masked the adapters' inputs.
        targets: endings of the names of the layers that have an adapter.
    """

    rank: int
    alpha: float
    is_rank_stabilized: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def rank_of(self, layer: str) -> int:
        """Rank of one layer's adapter."""
        return _by_pattern(self.rank_pattern, layer, self.rank)

    def scale_of(self, layer: str) -> float:
        """By what one layer's adapter is multiplied."""
        rank, alpha = self.rank_of(layer), _by_pattern(self.alpha_pattern, layer, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """Adapters beside the layers of one model.

    Attributes:
        config: what their configuration says.
        params: ``name.lora_A.weight`` (r, in), ``name.lora_B.weight`` (out, r) and ``name.lora_scale`` () by the names
            of the layers; and whole tensors that were trained and saved beside them, such as a head of classes.
    """

    config: AdapterConfig
    params: Mapping[str, np.ndarray]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that have an adapter."""
        return tuple(name.removesuffix(LORA_A) for name in self.params if name.endswith(LORA_A))


def read_adapter(path: str | os.PathLike[str], model: LanguageModel) -> Adapter:
    """Read the adapter of a model from PEFT's files.

    Args:
        path: their folder, or the file of their tensors in it, with ``adapter_config.json`` beside.
        model: that they were trained on.

    Returns:
        The adapters in the dtype of the model's tensors.

    Raises:
        UpdateError: files that are missing, a method that is not LoRA, a layer that the model does not have, shapes
            that fit neither the model nor the configuration, in one sentence.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG).is_file():
        raise UpdateError(f"{folder.name} has no {CONFIG}, which gives the adapters' scale; give PEFT's whole folder.")
    config = parse_config(read_json(folder / CONFIG))
    stored = read_model(path if path.is_file() else _weights(folder))
    return Adapter(config=config, params=_params(stored.tensors, config, model))


def adapted(model: LanguageModel, adapter: Adapter) -> LanguageModel:
    """The model with adapters beside its layers, and with the head of classes that was saved with them."""
    classes = len(adapter.params[_HEAD]) if _HEAD in adapter.params else model.architecture.classes
    architecture = dataclasses.replace(model.architecture, classes=classes)
    return dataclasses.replace(model, architecture=architecture, params=dict(model.params) | dict(adapter.params))


def parse_config(entries: Mapping[str, Any]) -> AdapterConfig:
    """The configuration in an ``adapter_config.json``.

    Raises:
        UpdateError: a method other than LoRA, or numbers that are none.
    """
    method = entries.get("peft_type")
    if method != "LORA":
        raise UpdateError(f"{CONFIG} says peft_type={method!r}; expected LORA: what others compute is not known here.")
    for option, words in _OTHER.items():
        if entries.get(option):
            raise UpdateError(f"{CONFIG} sets {option} ({words}); expected plain LoRA.")
    targets = entries.get("target_modules") or ()
    try:
        config = AdapterConfig(
            rank=int(entries["r"]),
            alpha=float(entries["lora_alpha"]),
            is_rank_stabilized=bool(entries.get("use_rslora", False)),
            rank_pattern={key: int(rank) for key, rank in (entries.get("rank_pattern") or {}).items()},
            alpha_pattern={key: float(alpha) for key, alpha in (entries.get("alpha_pattern") or {}).items()},
            dropout=float(entries.get("lora_dropout") or 0),
            targets=(targets,) if isinstance(targets, str) else tuple(sorted(targets)),
        )
    except KeyError as error:
        raise UpdateError(f"{CONFIG} has no entry {error.args[0]!r}; take the file that PEFT saved.") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UpdateError(f"{CONFIG} cannot be used ({error}); take the file that PEFT saved.") from error
    ranks, alphas = (config.rank, *config.rank_pattern.values()), (config.alpha, *config.alpha_pattern.values())
    if min(ranks) < 1 or not all(0 < alpha < math.inf for alpha in alphas) or not 0 <= config.dropout <= 1:
        raise UpdateError(
            f"{CONFIG} says r={config.rank}, lora_alpha={config.alpha:g}, lora_dropout={config.dropout:g}; "
            "expected positive ranks and alphas, and a probability."
        )
    return config


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UpdateError(f"{folder.name} holds {CONFIG} but no adapters; expected {' or '.join(WEIGHTS)} beside it.")


def _by_pattern(pattern: Mapping[str, T], layer: str, otherwise: T) -> T:
    """The first entry whose key the layer's name ends in, or matches as a regular expression."""
    for key, value in pattern.items():
        if layer == key or layer.endswith(f".{key}"):
            return value
        try:
            if not _PLAIN.fullmatch(key) and re.fullmatch(rf"(.*\.)?({key})", layer):
                return value
        except re.error as error:
            raise UpdateError(f"{CONFIG} has a pattern {key[:80]!r} that cannot be read ({error}).") from error
    return otherwise


def _params(tensors: Mapping[str, np.ndarray], config: AdapterConfig, model: LanguageModel) -> dict[str, np.ndarray]:
    layers = linear_layers(model.architecture)
    known = {*model.params, _HEAD, *(layer + part for layer in layers for part in (LORA_A, LORA_B))}
    dtype = next(iter(model.params.values())).dtype
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        own = checkpoint_name(name, model.architecture, known)
        if own is None and not is_buffer(name):
            raise UpdateError(_why_unknown(name, model))
        if own is not None:
            found[own] = np.asarray(tensor, dtype)
    for layer in layers:
        _check(layer, found, config, model)
    _check_whole(found, model)
    adapters = [layer for layer in layers if layer + LORA_A in found]
    if not adapters:
        raise UpdateError("the adapter's file holds no lora_A; give what PEFT's save_pretrained wrote.")
    return found | {layer + LORA_SCALE: np.array(config.scale_of(layer), dtype) for layer in adapters}


def _why_unknown(name: str, model: LanguageModel) -> str:
    block, layers, shown = block_of(name), model.architecture.layers, ascii(name[:120])
    if "lora_magnitude" in name:
        return f"the adapter has {shown}, as DoRA does; expected plain LoRA."
    if block is not None and block >= layers:
        return (
            f"the adapter has a tensor of layer {block}, {shown}, but the model has {layers} layers; "
            "give the model that it was trained on."
        )
    return f"the adapter has {shown}, for which the model has no layer; expected LoRA of its attention and MLP layers."


def _check(layer: str, found: Mapping[str, np.ndarray], config: AdapterConfig, model: LanguageModel) -> None:
    """Refuse factors that do not fit each other, the configuration or the layer."""
    down, up = found.get(layer + LORA_A), found.get(layer + LORA_B)
    if down is None and up is None:
        return
    if down is None or up is None:
        lacking, other = ("lora_A", "lora_B") if down is None else ("lora_B", "lora_A")
        raise UpdateError(f"the adapter lacks {spoken(layer, lacking)}, while its {other} is there; copy it again.")
    kernel = model.params[f"{layer}.weight"].shape
    outputs, inputs = kernel[::-1] if family(model.architecture).IS_IN_OUT else kernel
    rank = config.rank_of(layer)
    rows = down.shape[0] if down.ndim else 0
    if rows != rank:
        raise UpdateError(f"{CONFIG} names r={rank} but {spoken(layer, 'lora_A')} has {rows} rows.")
    for part, tensor, shape in (("lora_A", down, (rank, inputs)), ("lora_B", up, (outputs, rank))):
        if tensor.shape != shape:
            raise UpdateError(
                f"{spoken(layer, part)} has shape {tensor.shape}, but the model's layer makes it {shape}; "
                "give the model that the adapter was trained on."
            )


def _check_whole(found: Mapping[str, np.ndarray], model: LanguageModel) -> None:
    """Refuse whole tensors saved beside the adapters that are not of the model."""
    for name, tensor in found.items():
        if name in model.params and tensor.shape != model.params[name].shape:
            raise UpdateError(
                f"the adapter has {name} with shape {tensor.shape}, but the model's has {model.params[name].shape}; "
                "give the model that the adapter was trained on."
            )
        if name == _HEAD and (tensor.ndim != 2 or tensor.shape[1] != model.architecture.width):
            raise UpdateError(
                f"the adapter's {name} has shape {tensor.shape}; expected (classes, {model.architecture.width})."
            )
