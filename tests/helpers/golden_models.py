"""The models that PyTorch computed with beforehand (`make_golden`), as this library reads and runs them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parents[1] / "language/golden"
MODELS = ("llama", "llama3", "qwen2", "mistral", "gpt2", "llama_classes", "gpt2_classes")
CLASS_LABELS = (2, 0)


def read(name):
    """The model in one folder, and what PyTorch makes of it."""
    from spear_jax.update.language_model import read_language_model

    return read_language_model(GOLDEN / name), load_file(GOLDEN / name / "expected.safetensors")


def targets_of(tokens, mask, is_class):
    """Targets and weights of the mean loss over places: of the next token, or of each text's class."""
    length = mask.sum(axis=1)
    place = np.arange(tokens.shape[1])
    if is_class:
        weights = (place == length[:, None] - 1) / len(tokens)
        return np.broadcast_to(np.array(CLASS_LABELS)[:, None], tokens.shape), weights
    weights = place < length[:, None] - 1
    return np.roll(tokens, -1, axis=1), weights / weights.sum()


def loss_and_gradients(architecture, params, tokens, mask):
    """Loss of the batch and its gradients by every tensor, as the client's step has them."""
    from spear_jax.language.loss import weighted_loss

    targets, weights = targets_of(tokens, mask, bool(architecture.classes))
    arrays = {name: jnp.asarray(tensor) for name, tensor in params.items()}
    weights = jnp.asarray(weights, next(iter(arrays.values())).dtype)
    loss = lambda params: weighted_loss(architecture, params, jnp.asarray(tokens), jnp.asarray(targets), weights)
    return jax.jit(jax.value_and_grad(loss))(arrays)


def difference(found, expected):
    """The largest, relative to the largest entry."""
    return float(np.max(np.abs(np.asarray(found) - expected)) / max(np.max(np.abs(expected)), 1e-30))
