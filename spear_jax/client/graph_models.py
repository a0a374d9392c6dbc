"""Graph networks of random weights, and the names that PyTorch Geometric gives their tensors."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.graphs.architecture import Architecture, shapes


def random_graph_model(
    architecture: Architecture, key: jax.Array, *, dtype: str = "float32", has_conv_bias: bool = True
) -> dict[str, np.ndarray]:
    """Weights as training starts from them.

    Matrices are uniform as Glorot and Bengio (2010) have it, biases of linear layers uniform within ``1 / sqrt(in)`` as
    PyTorch draws them, those of GCN and GAT zero as PyTorch Geometric has them; ``eps`` is 0.

    Args:
        architecture: of the network.
        key: the key is consumed.
        dtype: of the tensors, ``"float32"`` or ``"float64"``.
        has_conv_bias: whether GCN and GAT have a bias; GRAIN's networks do not.

    Returns:
        by canonical name.
    """
    found: dict[str, np.ndarray] = {}
    expected = shapes(architecture)
    for number, (name, shape) in enumerate(expected.items()):
        own = jax.random.fold_in(key, number)
        if name.endswith(".bias") and len(name.split(".")) == 3 and name.startswith("convs."):
            if has_conv_bias:
                found[name] = np.zeros(shape, dtype)
        elif len(shape) == 2:
            found[name] = _uniform(own, shape, math.sqrt(6 / sum(shape)), dtype)
        elif not shape:
            found[name] = np.zeros(shape, dtype)
        else:
            inputs = expected[name.removesuffix("bias") + "weight"][1]
            found[name] = _uniform(own, shape, 1 / math.sqrt(inputs), dtype)
    return found


def geometric_names(architecture: Architecture, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by the names and in the layout of PyTorch Geometric, FedGraphNN's for a readout by node."""
    return {_name(architecture, name): _shaped(name, tensor) for name, tensor in params.items()}


def _name(architecture: Architecture, name: str) -> str:
    start, place, *rest = name.split(".")
    leaf = ".".join(rest)
    if start == "readout":
        is_last = int(place) == architecture.readout_layers - 1
        if architecture.readout == "node":
            return f"readout.output.{leaf}" if is_last else f"readout.layer{int(place) + 1}.{leaf}"
        return f"lin.{leaf}" if architecture.readout_layers == 1 else f"lins.{place}.{leaf}"
    if rest[0] == "mlp":
        return f"convs.{place}.nn.{2 * int(rest[1])}.{rest[2]}"
    if rest[0] in ("neighbours", "own"):
        neighbours, own = ("lin_l", "lin_r") if architecture.kind == "sage" else ("lin_rel", "lin_root")
        return f"convs.{place}.{neighbours if rest[0] == 'neighbours' else own}.{rest[1]}"
    return f"convs.{place}.lin.weight" if leaf == "weight" else f"convs.{place}.{leaf}"


def _shaped(name: str, tensor: np.ndarray) -> np.ndarray:
    if name.endswith((".att_src", ".att_dst")):
        return tensor[None]
    return tensor.reshape(1) if name.endswith(".eps") else tensor


def _uniform(key: jax.Array, shape: tuple[int, ...], limit: float, dtype: str) -> np.ndarray:
    drawn = jax.random.uniform(key, shape, jnp.dtype(dtype), -limit, limit)
    return np.asarray(drawn)
