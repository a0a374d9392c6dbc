"""The graph network that a server sent: its tensors by canonical names, and its architecture.

Kind, depth and widths follow from names and shapes. What these do not tell - activation, pool, loss - stands under
``"model"`` in the features file; what stands nowhere is assumed as the library has it, and listed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from spear_jax.activations import named
from spear_jax.errors import SpearError, UpdateError
from spear_jax.graphs.architecture import LOSSES, POOLS, READOUTS, Architecture
from spear_jax.graphs.features import Features
from spear_jax.update.graph_encoder import BIAS, WEIGHT, Encoder, find_encoder
from spear_jax.update.graph_names import Naming, read_names
from spear_jax.update.language_model import to_common_dtype

Tensors = Mapping[str, np.ndarray]
ENTRIES = ("activation", "is_activated", "pool", "readout", "loss", "dropout", "batch_norm")
# What a library's own models have, where nobody says otherwise.
_BY_LIBRARY: dict[str, dict[str, Any]] = {
    "FedGraphNN": {"activates_last": False, "activates": False, "pool": "mean"},
    "GRAIN": {"activates_last": False, "activates": True, "pool": "mean"},
    "FederatedScope": {"activates_last": False, "activates": True, "pool": "sum"},
    "PyTorch Geometric": {"activates_last": True, "activates": True, "pool": "mean"},
}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GraphModel:
    """A graph network with its weights.

    Attributes:
        architecture: kind and sizes.
        params: tensors by canonical names, all float32, or all float64 where any was.
        naming: what the file calls them.
        assumed: what was taken for granted, a part of a sentence each, as ``"pool mean"``.
        dropout: probability by which the model masks while it trains; 0 where nobody says.
        encoder: that is folded into the first convolution's weights; None for a model without.
    """

    architecture: Architecture
    params: Tensors
    naming: Naming
    assumed: tuple[str, ...] = ()
    dropout: float = 0.0
    encoder: Encoder | None = None

    @property
    def sent(self) -> Tensors:
        """All tensors that were sent by canonical names, an encoder apart from the convolution behind it."""
        if self.encoder is None:
            return self.params
        own = {WEIGHT: self.encoder.weight} | ({} if self.encoder.bias is None else {BIAS: self.encoder.bias})
        return dict(self.params) | own | {self.encoder.first: self.encoder.behind}

    def canonical(self, name: str, tensor: np.ndarray) -> tuple[str, np.ndarray] | None:
        """A tensor that came back by its canonical name and as it lies there; None where no gradient of it is used."""
        if name in self.naming.ignored or name not in self.naming.canonical:
            return None
        own = self.naming.canonical[name]
        return own, laid_out(own, tensor, self.naming)


def build_model(tensors: Tensors, features: Features, said: Mapping[str, Any]) -> GraphModel:
    """The model of the tensors that were sent.

    Args:
        tensors: by the file's names.
        features: the rows that nodes may have.
        said: what the features file says under ``"model"``.

    Raises:
        UpdateError: no graph network, one that cannot be inverted, or features of another length, in one sentence.
    """
    known = {
        name: tensor for name, tensor in tensors.items() if tensor.dtype.kind in "fiu" or tensor.dtype.itemsize == 2
    }
    naming = read_names({name: tensor.shape for name, tensor in known.items()})
    dropout = _check_said(said)
    params = to_common_dtype(
        {own: laid_out(own, known[name], naming) for name, own in naming.canonical.items() if name in known}
    )
    encoder = find_encoder(params, naming.kind, _first_weight(naming.kind), naming.encoder or "")
    if encoder is not None:
        params, features = encoder.params(params), encoder.features(features)
    _check_columns(naming, params, features, encoder)
    architecture, assumed = _architecture(naming, params, said)
    try:
        return GraphModel(
            architecture=Architecture(**architecture),
            params=params,
            naming=naming,
            assumed=assumed,
            dropout=dropout,
            encoder=encoder,
        )
    except UpdateError:
        raise
    except SpearError as error:
        raise UpdateError(str(error)) from error


def laid_out(name: str, tensor: np.ndarray, naming: Naming) -> np.ndarray:
    """A tensor as its canonical name has it: matrices (out, in), attention (heads, out), eps without axes."""
    if name in naming.in_out and tensor.ndim == 2:
        return tensor.T
    if name.endswith((".att_src", ".att_dst")) and tensor.ndim == 3 and tensor.shape[0] == 1:
        return tensor[0]
    if name.endswith(".eps") and tensor.size == 1:
        return tensor.reshape(())
    return tensor


def spelled(naming: Naming, canonical: str) -> str:
    """What the file calls a tensor; the canonical name where it has none."""
    return next((name for name, own in naming.canonical.items() if own == canonical), canonical)


def _check_said(said: Mapping[str, Any]) -> float:
    """Dropout as the file says it.

    Raises:
        UpdateError: an unknown entry or value, or BatchNorm.
    """
    unknown = [name for name in said if name not in ENTRIES]
    if unknown:
        raise UpdateError(f'"model" has an entry {ascii(unknown[0])[:40]}; expected only {", ".join(ENTRIES)}.')
    if said.get("pool") == "max":
        raise UpdateError(
            '"pool" is "max": only the largest entry of each column has a gradient; expected mean or sum.'
        )
    for name, known in (("pool", POOLS), ("readout", READOUTS), ("loss", LOSSES)):
        if name in said and said[name] not in known:
            raise UpdateError(f'"{name}" under "model" is {ascii(said[name])[:40]}; expected {" or ".join(known)}.')
    if said.get("batch_norm"):
        raise UpdateError("BatchNorm in training mode mixes the nodes of a batch; exact inversion is off.")
    activation = said.get("activation", "relu")
    try:
        named(activation if isinstance(activation, str) else repr(activation))
    except SpearError as error:
        raise UpdateError(f'"activation" under "model" is {ascii(activation)[:40]}; {error}') from error
    dropout = said.get("dropout", 0)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UpdateError(f'"dropout" under "model" is {ascii(dropout)[:40]}; expected a probability below 1.')
    return float(dropout)


def _check_columns(naming: Naming, params: Tensors, features: Features, encoder: Encoder | None) -> None:
    first = _first_weight(naming.kind)
    constant = int(encoder is not None and encoder.bias is not None)
    taken = params[first].shape[1] if params[first].ndim == 2 else 0
    if taken != features.columns:
        called = spelled(naming, first if encoder is None else WEIGHT)
        raise UpdateError(
            f"the features describe {features.columns - constant} columns but {called} takes {taken - constant}; give "
            f"the "
            "features that the model was made for."
        )


def _first_weight(kind: str) -> str:
    leaf = {"gin": "mlp.0.weight", "sage": "neighbours.weight", "graphconv": "neighbours.weight"}.get(kind, "weight")
    return f"convs.0.{leaf}"


def _architecture(naming: Naming, params: Tensors, said: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of the architecture, and which of them nobody said."""
    usual = _BY_LIBRARY[naming.library]
    layers = _count(params, "convs")
    mlp_layers = _count(params, "convs.0.mlp") or Architecture.mlp_layers
    readout_layers = _count(params, "readout")
    if not readout_layers:
        raise UpdateError(
            "no linear layer stands behind the convolutions; expected one, as lin.weight, that gives the logits."
        )
    widths = tuple(_width(naming, params, layer, mlp_layers) for layer in range(layers))
    columns = params[_first_weight(naming.kind)].shape[1]
    taken = _matrix(naming, params, "readout.0.weight").shape[1]
    by_shape = "node" if taken == widths[-1] + columns else "pooled"
    activated = (usual["activates"],) * (layers - 1) + (usual["activates_last"],)
    fields: dict[str, Any] = {
        "kind": naming.kind,
        "columns": columns,
        "widths": widths,
        "activation": said.get("activation", "relu"),
        "is_activated": _activated(said, activated),
        "pool": said.get("pool", usual["pool"]),
        "readout": said.get("readout", by_shape),
        "readout_layers": readout_layers,
        "tasks": _matrix(naming, params, f"readout.{readout_layers - 1}.weight").shape[0],
        "loss": said.get("loss", "bce"),
        "mlp_layers": mlp_layers,
        "heads": params["convs.0.att_src"].shape[0] if naming.kind == "gat" and "convs.0.att_src" in params else 1,
    }
    assumed = [f"{name} {fields[name]}" for name in ("activation", "pool", "loss") if name not in said]
    if "is_activated" not in said:
        assumed.append(_spoken(fields["is_activated"]))
    return fields, tuple(assumed)


def _activated(said: Mapping[str, Any], usual: tuple[bool, ...]) -> tuple[bool, ...]:
    given = said.get("is_activated", list(usual))
    if isinstance(given, bool):
        given = [given] * len(usual)
    if not isinstance(given, list) or len(given) != len(usual) or not all(isinstance(one, bool) for one in given):
        raise UpdateError(
            f'"is_activated" under "model" is {ascii(given)[:40]}; expected true or false for each of {len(usual)} '
            "convolutions."
        )
    return tuple(given)


def _spoken(is_activated: tuple[bool, ...]) -> str:
    if all(is_activated):
        return "an activation behind every convolution"
    if not any(is_activated):
        return "no activation behind the convolutions"
    return "an activation behind every convolution but the last"


def _count(params: Tensors, start: str) -> int:
    """How many numbered parts stand behind a name."""
    places = {name.removeprefix(f"{start}.").partition(".")[0] for name in params if name.startswith(f"{start}.")}
    return sum(place.isdecimal() for place in places)


def _width(naming: Naming, params: Tensors, layer: int, mlp_layers: int) -> int:
    if naming.kind == "gin":
        return _matrix(naming, params, f"convs.{layer}.mlp.{mlp_layers - 1}.weight").shape[0]
    leaf = "own.weight" if naming.kind in ("sage", "graphconv") else "weight"
    return _matrix(naming, params, f"convs.{layer}.{leaf}").shape[0]


def _matrix(naming: Naming, params: Tensors, name: str) -> np.ndarray:
    if name not in params:
        raise UpdateError(f"the model has no tensor {name}; every convolution needs as many as the first.")
    if params[name].ndim != 2:
        raise UpdateError(f"{spelled(naming, name)} has shape {params[name].shape}; expected a matrix.")
    return params[name]
