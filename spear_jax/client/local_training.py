"""A client that trains before it answers: several local steps over mini-batches (FedAvg), and what it sends back.

For the first layer the inputs are the same in every step, so the change of its kernel is ``-lr sum_t D_t X_t^T``,
or ``-lr D X^T`` with D the sum: its rank is still the number of samples, and a sample's column is zero in the rows
where its neuron was off in every step that it took part in. Inputs of deeper layers move, and their sum factors only
nearly.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spear_jax.client.batch import Batch
from spear_jax.client.gradient import check_batch, flatten, truth_of, update_metadata
from spear_jax.client.models import MLP, Params, cross_entropy, layer_name, require_dtype
from spear_jax.client.truth import Truth
from spear_jax.errors import SpearError
from spear_jax.update.bundle import Update

OPTIMIZERS = ("sgd", "adam", "sign")
KINDS = ("weights", "delta")


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """How a client trains in a round, before it answers.

    Attributes:
        learning_rate: of every step.
        epochs: passes over the batch.
        mini_batch: samples of a step, the last one of a pass may have fewer; None takes the whole batch.
        momentum: of SGD.
        weight_decay: lambda of the term ``lambda w`` that is added to every gradient.
        optimizer: ``"sgd"``, ``"adam"`` or ``"sign"`` (signed gradients).
    """

    learning_rate: float = 0.1
    epochs: int = 1
    mini_batch: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise SpearError(f"optimizer is {self.optimizer!r}; expected one of {', '.join(OPTIMIZERS)}.")
        if not 0 < self.learning_rate < math.inf:
            raise SpearError(f"learning_rate is {self.learning_rate}; expected a positive number.")
        for name in ("momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SpearError(f"{name} is {getattr(self, name)}; expected a number of at least 0.")
        for name in ("epochs", "mini_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpearError(f"{name} is {value}; expected at least 1.")

    def steps(self, batch_size: int) -> int:
        """Local steps over a batch of this size."""
        return self.epochs * -(-batch_size // (self.mini_batch or batch_size))

    def transformation(self) -> optax.GradientTransformation:
        """The optimiser."""
        rule = {
            "sgd": lambda: optax.sgd(self.learning_rate, momentum=self.momentum or None),
            "adam": lambda: optax.adam(self.learning_rate),
            "sign": lambda: optax.chain(optax.stateless(_signs), optax.sgd(self.learning_rate)),
        }[self.optimizer]()
        return optax.chain(optax.add_decayed_weights(self.weight_decay), rule)


def simulate_round(
    model: MLP,
    params: Params,
    batch: Batch,
    key: jax.Array,
    training: LocalTraining = LocalTraining(),
    *,
    kind: str = "weights",
    dtype: str = "float32",
) -> tuple[Update, Truth]:
    """Compute what a client sends after training on its batch.

    Args:
        model: the architecture.
        params: the parameters that the server sent; cast to ``dtype``.
        batch: the private samples.
        key: shuffles the samples of each pass.
        training: steps and optimiser.
        kind: ``"weights"`` sends the new parameters, ``"delta"`` their change.
        dtype: ``"float64"`` (needs x64) or ``"float32"``: what the client computes and sends in.

    Returns:
        The update, with learning rate and number of steps in its metadata, and the truth: inputs of the first layer.

    Raises:
        SpearError: as `client.simulate_update`, or an unknown kind.
    """
    require_dtype(dtype)
    check_batch(model, params, batch)
    if kind not in KINDS:
        raise SpearError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    model = model.clone(param_dtype=jnp.dtype(dtype))
    sent = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    inputs, labels = jnp.asarray(batch.inputs, dtype), jnp.asarray(batch.labels)
    optimizer = training.transformation()
    trained, state = sent, optimizer.init(sent)
    for epoch in range(training.epochs):
        order = jax.random.permutation(jax.random.fold_in(key, epoch), batch.size)
        for start in range(0, batch.size, training.mini_batch or batch.size):
            chosen = order[start : start + (training.mini_batch or batch.size)]
            trained, state = _step(model, training, trained, state, inputs[chosen], labels[chosen])
    came_back = trained if kind == "weights" else jax.tree.map(jnp.subtract, trained, sent)
    metadata = update_metadata(batch, model.activation) | {
        "kind": kind,
        "lr": str(training.learning_rate),
        "local_steps": str(training.steps(batch.size)),
    }
    if training.weight_decay:
        metadata["weight_decay"] = str(training.weight_decay)
    truth = truth_of(batch, {layer_name(0): np.asarray(inputs, np.float64)}, {})
    return Update(flatten(sent), flatten(came_back), metadata), truth


@functools.partial(jax.jit, static_argnames=("model", "training"))
def _step(
    model: MLP, training: LocalTraining, params: Any, state: Any, inputs: jax.Array, labels: jax.Array
) -> tuple[Any, Any]:
    def loss(params: Any) -> jax.Array:
        logits: Any = model.apply({"params": params}, inputs)
        return cross_entropy(logits, labels)

    gradients = jax.grad(loss)(params)
    changes, state = training.transformation().update(gradients, state, params)
    return optax.apply_updates(params, changes), state


def _signs(changes: Any, params: Any = None) -> Any:
    return jax.tree.map(jnp.sign, changes)
