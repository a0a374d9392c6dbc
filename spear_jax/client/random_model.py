"""Language models of random weights, for simulations that need no download, and adapters to put beside any model."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from spear_jax.errors import SpearError
from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import LORA_A, LORA_B, LORA_SCALE, Params
from spear_jax.language.transformer import ROLES, family, output_name

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


def random_model(architecture: Architecture, key: jax.Array) -> dict[str, np.ndarray]:
    """Weights as training starts from them.

    Kernels and embeddings are normal with deviation 0.02, norms 1, biases 0; what GPT-2 adds to its states comes from
    kernels that are smaller by ``sqrt(2 layers)`` (Radford et al. 2019).

    Args:
        architecture: of the model.
        key: the key is consumed.

    Returns:
        float32 tensors by the names that a checkpoint has.
    """
    weights = {}
    for number, (name, shape) in enumerate(tensor_shapes(architecture).items()):
        if len(shape) == 1:
            weights[name] = np.full(shape, 1 if name.endswith(".weight") else 0, np.float32)
            continue
        is_residual = architecture.family == "gpt2" and name.endswith(".c_proj.weight")
        std = INITIAL_STD / math.sqrt(2 * architecture.layers) if is_residual else INITIAL_STD
        weights[name] = _normal(jax.random.fold_in(key, number), shape, std)
    return weights


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's tensors by the names that a checkpoint has, in its order."""
    parts, width = family(architecture), architecture.width
    shapes: dict[str, tuple[int, ...]] = {parts.embedding_name(architecture): (architecture.vocabulary, width)}
    block_shapes, last_norm = _llama_block, "norm"
    if architecture.family == "gpt2":
        block_shapes, last_norm = _gpt2_block, "ln_f"
        shapes[f"{architecture.prefix}wpe.weight"] = (architecture.positions, width)
    for layer in range(architecture.layers):
        begin = parts.block(architecture, layer)
        shapes |= {begin + name: shape for name, shape in block_shapes(architecture).items()}
    shapes[f"{architecture.prefix}{last_norm}.weight"] = (width,)
    if architecture.family == "gpt2":
        shapes[f"{architecture.prefix}{last_norm}.bias"] = (width,)
    return shapes | {output_name(architecture): (architecture.classes or architecture.vocabulary, width)}


def _llama_block(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    width, hidden = architecture.width, architecture.hidden
    queries, keys = (number * architecture.head_width for number in (architecture.heads, architecture.kv_heads))
    return {
        "input_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (queries, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, queries),
        "post_attention_layernorm.weight": (width,),
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
    }


def _gpt2_block(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    width, hidden = architecture.width, architecture.hidden
    kernels = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, hidden),
        "mlp.c_proj": (hidden, width),
    }
    norms = {f"{name}.{part}": (width,) for name in ("ln_1", "ln_2") for part in ("weight", "bias")}
    biases = {f"{name}.bias": shape[1:] for name, shape in kernels.items()}
    return norms | {f"{name}.weight": shape for name, shape in kernels.items()} | biases


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
