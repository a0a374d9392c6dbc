"""A linear layer by its name in the checkpoint, with the low-rank adapter that stands beside it, if one does."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from spear_jax.types import Array

Params = Mapping[str, Array]

# Beside a layer's own tensors, by the ending of their names: factors of its adapter (Hu et al. 2021) and their scale.
LORA_A, LORA_B, LORA_SCALE = ".lora_A.weight", ".lora_B.weight", ".lora_scale"


def linear(params: Params, name: str, inputs: jax.Array, *, is_in_out: bool = False) -> jax.Array:
    """``W x + bias + scale B A x`` of every input, the last two terms where the model has them.

    Args:
        params: tensors by name: ``name.weight`` (out, in), where there are any ``name.bias`` (out,),
            ``name.lora_A.weight`` (r, in), ``name.lora_B.weight`` (out, r) and ``name.lora_scale``, a number.
        name: of the layer.
        inputs: (..., in).
        is_in_out: whether the kernel lies as (in, out), as GPT-2's do.

    Returns:
        (..., out).
    """
    weight = jnp.asarray(params[f"{name}.weight"])
    outputs = product(inputs, weight if is_in_out else weight.T)
    if f"{name}.bias" in params:
        bias = jnp.asarray(params[f"{name}.bias"])
        outputs = outputs + jnp.broadcast_to(bias, outputs.shape)
    if name + LORA_A in params:
        down = product(inputs, jnp.asarray(params[name + LORA_A]).T)
        outputs = outputs + params[name + LORA_SCALE] * product(down, jnp.asarray(params[name + LORA_B]).T)
    return outputs


def product(inputs: jax.Array, matrix: jax.Array) -> jax.Array:
    """``inputs @ matrix`` at full precision of its dtype: what a layer saw is compared with its gradient to 1e-6."""
    return jnp.matmul(inputs, matrix, precision=jax.lax.Precision.HIGHEST)
