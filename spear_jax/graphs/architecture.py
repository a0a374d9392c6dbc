"""Kind and sizes of a graph network, and the names of its tensors by what they do.

Names here are canonical; whatever a framework calls a tensor is mapped onto them where files are read. All matrices lie
as (out, in), as PyTorch has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from spear_jax.activations import Activation, named
from spear_jax.errors import SpearError

KINDS = ("gcn", "gin", "sage", "graphconv", "gat")
POOLS = ("mean", "sum")
READOUTS = ("pooled", "node")
LOSSES = ("bce", "cross entropy", "mse")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A graph network: convolutions, a pool over nodes and linear layers, see `spear_jax.graphs.layers`.

    Attributes:
        kind: of the convolutions: ``"gcn"`` (Kipf and Welling 2017), ``"gin"`` (Xu et al. 2019), ``"sage"`` (Hamilton
            et al. 2017, mean), ``"graphconv"`` (Morris et al. 2019, sum) or ``"gat"`` (Velickovic et al. 2018).
        columns: length of a node's row of features.
        widths: length of a node's state behind each convolution, all heads of attention together.
        activation: name, as `spear_jax.activations` has it; the same everywhere.
        is_activated: for each convolution, whether the activation stands behind it.
        pool: over the nodes of a graph, ``"mean"`` or ``"sum"``.
        readout: ``"pooled"``: nodes' states are pooled, then pass linear layers with activations between them.
            ``"node"``: each node's row beside its state, [x, state], passes all linear layers but the last, each with
            an activation, is pooled then and passes the last one, which is the mean of logits by node as GRAIN has it.
        readout_layers: number of linear layers of the readout.
        tasks: number of logits of a graph.
        loss: ``"bce"`` of each logit, ``"cross entropy"`` of all of them or ``"mse"``.
        mlp_layers: linear layers within a convolution of kind ``"gin"``, with activations between them.
        heads: of attention, their outputs side by side.

    Raises:
        SpearError: a name that is none of those above, or sizes that disagree.
    """

    kind: str
    columns: int
    widths: tuple[int, ...]
    activation: str = "relu"
    is_activated: tuple[bool, ...] = ()
    pool: str = "mean"
    readout: str = "pooled"
    readout_layers: int = 1
    tasks: int = 1
    loss: str = "bce"
    mlp_layers: int = 2
    heads: int = 1

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("pool", POOLS), ("readout", READOUTS), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise SpearError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}.")
        named(self.activation)
        if not self.widths or min(self.widths) < 1:
            raise SpearError(f"widths of the convolutions are {self.widths}; expected one positive number for each.")
        for name in ("columns", "readout_layers", "tasks", "mlp_layers", "heads"):
            if getattr(self, name) < 1:
                raise SpearError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        if not self.is_activated:
            object.__setattr__(self, "is_activated", (True,) * len(self.widths))
        if len(self.is_activated) != len(self.widths):
            raise SpearError(f"is_activated has {len(self.is_activated)} entries for {len(self.widths)} convolutions.")
        if self.readout == "node" and self.readout_layers < 2:
            raise SpearError("a readout by node has one linear layer; expected two or more, or the readout 'pooled'.")
        if self.kind == "gat" and any(width % self.heads for width in self.widths):
            raise SpearError(f"widths {self.widths} are no multiples of {self.heads} heads.")

    @property
    def layers(self) -> int:
        """L, number of convolutions."""
        return len(self.widths)

    @property
    def function(self) -> Activation:
        """The activation."""
        return named(self.activation)

    @property
    def is_two_weights(self) -> bool:
        """Whether neighbours and a node itself have weights of their own."""
        return self.kind in ("sage", "graphconv")


def conv_weights(architecture: Architecture, layer: int) -> tuple[str, ...]:
    """Names, without ``.weight``, of the linear layers that read what a convolution aggregates.

    One; with two weights that of the neighbours, then that of the node itself.
    """
    start = f"convs.{layer}"
    if architecture.is_two_weights:
        return (f"{start}.neighbours", f"{start}.own")
    return (f"{start}.mlp.0",) if architecture.kind == "gin" else (start,)


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that a network may have, by canonical name; see `is_optional` for those it may lack.

    ``convs.K.weight`` (out, in), ``convs.K.bias`` of kinds gcn and gat, of gat also ``convs.K.att_src`` and
    ``convs.K.att_dst`` (heads, out / heads); ``convs.K.mlp.J.weight``, ``.bias`` and ``convs.K.eps`` () of gin, the
    inner layers as wide as the last; ``convs.K.neighbours.weight``, ``.bias`` and ``convs.K.own.weight`` of the kinds
    with two weights; ``readout.J.weight`` and ``.bias``, the inner layers as wide as the last convolution.
    """
    found: dict[str, tuple[int, ...]] = {}
    inputs = architecture.columns
    for layer, width in enumerate(architecture.widths):
        found |= _conv_shapes(architecture, f"convs.{layer}", inputs, width)
        inputs = width
    hidden = architecture.widths[-1]
    inputs = hidden + architecture.columns if architecture.readout == "node" else hidden
    for place in range(architecture.readout_layers):
        outputs = architecture.tasks if place == architecture.readout_layers - 1 else hidden
        found |= _linear_shapes(f"readout.{place}", inputs, outputs)
        inputs = outputs
    return found


def _conv_shapes(architecture: Architecture, name: str, inputs: int, width: int) -> dict[str, tuple[int, ...]]:
    if architecture.kind == "gin":
        found: dict[str, tuple[int, ...]] = {f"{name}.eps": ()}
        for place in range(architecture.mlp_layers):
            found |= _linear_shapes(f"{name}.mlp.{place}", inputs if place == 0 else width, width)
        return found
    if architecture.is_two_weights:
        return _linear_shapes(f"{name}.neighbours", inputs, width) | {f"{name}.own.weight": (width, inputs)}
    found = _linear_shapes(name, inputs, width)
    if architecture.kind == "gat":
        heads = (architecture.heads, width // architecture.heads)
        found |= {f"{name}.att_src": heads, f"{name}.att_dst": heads}
    return found


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def is_optional(name: str) -> bool:
    """Whether a network may lack this tensor: biases, and eps, which then is 0."""
    return name.endswith((".bias", ".eps"))


def check_params(architecture: Architecture, params: Mapping[str, np.ndarray]) -> None:
    """Refuse a model that lacks tensors, has others, or whose layers do not fit one another.

    Inner layers of perceptrons may have any width, as long as the next one takes it.

    Raises:
        SpearError: by tensor, what was expected and what came.
    """
    expected = shapes(architecture)
    for name in expected:
        if name not in params and not is_optional(name):
            raise SpearError(f"the model has no tensor {name}; expected one of shape {expected[name]}.")
    for name, tensor in params.items():
        if name not in expected:
            raise SpearError(
                f"the model has a tensor {name}, which a {architecture.kind} network of this depth has not."
            )
        if not np.isfinite(tensor).all():
            raise SpearError(f"{name} of the model holds NaN or infinite values; give the model that was sent.")
    for name, shape in _chained(architecture, params, expected).items():
        if name in params and params[name].shape != shape:
            raise SpearError(f"{name} of the model has shape {params[name].shape}; expected {shape}.")


def _chained(
    architecture: Architecture, params: Mapping[str, np.ndarray], expected: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The expected shapes, with inner layers as wide as the model has them."""
    chains = [(f"convs.{k}.mlp", architecture.mlp_layers) for k in range(architecture.layers)]
    chains = chains if architecture.kind == "gin" else []
    found = dict(expected)
    for name, count in [*chains, ("readout", architecture.readout_layers)]:
        for place in range(count - 1):
            inner = params[f"{name}.{place}.weight"].shape[0]
            found[f"{name}.{place}.weight"] = (inner, found[f"{name}.{place}.weight"][1])
            found[f"{name}.{place}.bias"] = (inner,)
            found[f"{name}.{place + 1}.weight"] = (found[f"{name}.{place + 1}.weight"][0], inner)
    return found
