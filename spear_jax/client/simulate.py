"""A fully connected client from one end to the other: initial weights, training before, one round's update."""

from __future__ import annotations

from typing import NamedTuple

import jax

from spear_jax.client.batch import Batch
from spear_jax.client.gradient import simulate_update
from spear_jax.client.local_training import LocalTraining, simulate_round
from spear_jax.client.models import MLP, init_params, train
from spear_jax.client.truth import Truth
from spear_jax.update.bundle import Update


class Client(NamedTuple):
    """What kind of client to simulate.

    Attributes:
        width, depth: neurons of a hidden layer, and hidden layers.
        classes: of the model; None for those of the data.
        dtype: precision of its arithmetic, ``"float32"`` or ``"float64"``.
        initialization: see `MLP`.
        train_steps, learning_rate: SGD on the batch's data set before the update.
        seed: of everything random.
        kind: what it sends, ``"gradient"``, or after local training ``"weights"`` or ``"delta"``.
        training: its local training; None for a gradient.
        activation: between its layers, see `MLP`.
    """

    width: int
    depth: int
    classes: int | None = None
    dtype: str = "float32"
    initialization: str = "pytorch"
    train_steps: int = 0
    learning_rate: float = 0.1
    seed: int = 0
    kind: str = "gradient"
    training: LocalTraining | None = None
    activation: str = "relu"


def simulate_client(batch: Batch, client: Client) -> tuple[Update, Truth]:
    """The client's update on a batch, and the truth of it, which no server sees.

    Args:
        batch: private data.
        client: what it does with them.
    """
    model = MLP(
        (client.width,) * client.depth,
        client.classes or batch.num_classes,
        initialization=client.initialization,
        activation=client.activation,
        param_dtype=client.dtype,
    )
    init_key, train_key = jax.random.split(jax.random.key(client.seed))
    params = init_params(model, init_key, batch.inputs.shape[1])
    if client.train_steps:
        params, _ = train(
            model, params, batch.inputs, batch.labels, steps=client.train_steps,
            learning_rate=client.learning_rate, batch_size=batch.size, key=train_key,
        )  # fmt: skip
    if client.training is None:
        return simulate_update(model, params, batch, dtype=client.dtype)
    # Threefry's split gives the keys that fold_in gives for 0 and 1, which are in use.
    key = jax.random.fold_in(jax.random.key(client.seed), 2)
    return simulate_round(model, params, batch, key, client.training, kind=client.kind, dtype=client.dtype)
