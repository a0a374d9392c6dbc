"""Language models of random weights, for simulations that need no download, and adapters to put beside any model."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.errors import SpearError
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import LORA_A, LORA_B, LORA_SCALE, Params
from spear_jax.language.shapes import expected_shapes
from spear_jax.language.transformer import ROLES, family

INITIAL_STD = 0.02
# Of the second factor of an adapter that has been trained for some rounds; it starts at zero.
TRAINED_STD = 0.01
# What adapters stand beside unless told: PEFT's choice for each family.
ADAPTED = {"llama": ("q", "v"), "gpt2": ("c_attn",)}


def tiny_llama(vocabulary: int = 1024, *, classes: int = 0) -> Architecture:
    """A model of the Llama type that a laptop differentiates in a second."""
    return Architecture(
        family="llama", layers=3, width=96, heads=4, kv_heads=2, head_width=24, hidden=256, vocabulary=vocabulary,
        positions=128, epsilon=1e-5, classes=classes, prefix="model.",
    )  # fmt: skip


def tiny_gpt2(vocabulary: int = 1024, *, classes: int = 0) -> Architecture:
    """A model of GPT-2's type that a laptop differentiates in a second."""
    return Architecture(
        family="gpt2", layers=2, width=96, heads=4, kv_heads=4, head_width=24, hidden=384, vocabulary=vocabulary,
        positions=128, epsilon=1e-5, classes=classes, prefix="transformer.",
    )  # fmt: skip


def random_model(architecture: Architecture, key: jax.Array, *, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Weights as training starts from them, or larger.

    Kernels and embeddings are normal with deviation 0.02, norms 1, biases 0; what GPT-2 adds to its states comes from
    kernels that are smaller by ``sqrt(2 layers)`` (Radford et al. 2019).

    Args:
        architecture: of the model.
        key: the key is consumed.
        scale: of kernels and embeddings, over those that training starts from: at 3 the attention is not flat.

    Returns:
        float32 tensors by the names that a checkpoint has.
    """
    weights = {}
    for number, (name, shape) in enumerate(expected_shapes(architecture).items()):
        if len(shape) == 1:
            weights[name] = np.full(shape, 1 if name.endswith(".weight") else 0, np.float32)
            continue
        is_residual = architecture.family == "gpt2" and name.endswith(".c_proj.weight")
        std = INITIAL_STD / math.sqrt(2 * architecture.layers) if is_residual else INITIAL_STD
        weights[name] = _normal(jax.random.fold_in(key, number), shape, std) * np.float32(scale)
    return weights


def init_adapter(
    architecture: Architecture,
    params: Params,
    key: jax.Array,
    rank: int,
    *,
    modules: tuple[str, ...] | None = None,
    alpha: float | None = None,
    lora_B: str = "trained",
) -> dict[str, np.ndarray]:
    """Adapters beside linear layers of every block (Hu et al. 2021), to be merged into the model's tensors with ``|``.

    Args:
        architecture: of the model.
        params: its tensors by name.
        key: the key is consumed.
        rank: r, of each adapter.
        modules: the layers by their names or short names: q, k, v, o, gate, up, down of the Llama type; c_attn,
            attn.c_proj, c_fc, mlp.c_proj of GPT-2. None for q and v, or c_attn.
        alpha: r times the factor of an adapter's output; r by default.
        lora_B: ``"zero"``, as training starts, or ``"trained"``: normal with deviation 0.01, as after some rounds.

    Returns:
        float32: ``name.lora_A.weight`` (r, in) uniform within ``1 / sqrt(in)``, as PEFT draws it,
        ``name.lora_B.weight`` (out, r), and ``name.lora_scale`` ().

    Raises:
        SpearError: a module that the model does not have, a rank below 1, or another ``lora_B``.
    """
    if rank < 1 or lora_B not in ("zero", "trained"):
        raise SpearError(f"rank is {rank} and lora_B {lora_B!r}; expected at least 1, and 'zero' or 'trained'.")
    parts, adapter = family(architecture), {}
    names = adapted_modules(architecture, modules or ADAPTED[architecture.family])
    std = TRAINED_STD if lora_B == "trained" else 0.0
    for i, (layer, module) in enumerate((layer, name) for layer in range(architecture.layers) for name in names):
        name = parts.block(architecture, layer) + module
        shape = params[f"{name}.weight"].shape
        out_in = shape[::-1] if parts.IS_IN_OUT else shape
        A_key, B_key = jax.random.split(jax.random.fold_in(key, i))
        limit = 1 / math.sqrt(out_in[1])
        drawn = jax.random.uniform(A_key, (rank, out_in[1]), jnp.float32, -limit, limit)
        adapter[name + LORA_A] = np.asarray(drawn)
        adapter[name + LORA_B] = _normal(B_key, (out_in[0], rank), std)
        adapter[name + LORA_SCALE] = np.asarray((rank if alpha is None else alpha) / rank, np.float32)
    return adapter


def adapted_modules(architecture: Architecture, asked: tuple[str, ...]) -> list[str]:
    """Names within a block of the linear layers that are asked for by their names or short ones.

    Raises:
        SpearError: a module that the model does not have.
    """
    parts = family(architecture)
    names = [name for role in ROLES for name in parts.MODULES[role]]
    for short in asked:
        if not any(_is_called(name, short) for name in names):
            raise SpearError(
                f"there is no module {short!r} in a {architecture.family} block; it has {', '.join(names)}."
            )
    return [name for name in names if any(_is_called(name, short) for short in asked)]


def _is_called(name: str, short: str) -> bool:
    return name == short or name.endswith(f".{short}") or name.endswith(f".{short}_proj")


def _normal(key: jax.Array, shape: tuple[int, ...], std: float) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape, jnp.float32)) * np.float32(std)
