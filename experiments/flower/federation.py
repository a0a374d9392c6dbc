"""A Flower federation on photos in one process, recorded by its server.

Claim: what a Flower server receives of a client that took one SGD step in float32 gives the client's photos back.
Hardware: two CPU cores. Time: seconds a round.

    python -m experiments.flower.federation --out recorded --truth truth
    spear-jax reconstruct recorded/round-0001/client-0.safetensors --out recon
    spear-jax evaluate recon --truth truth/client-0.safetensors

Strategy, messages, records and client apps are Flower's. The grid between them hands the messages over directly, in
place of the simulation engine, which needs ray.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import optax
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

import spear_jax as sj
from spear_jax.integrations.flower import RecordingStrategy, show_update_mod

NUM_CLASSES = 64


def main() -> None:
    arguments = parse()
    model = sj.MLP((arguments.width,) * arguments.depth, NUM_CLASSES)
    batches = [sj.demo_batch(arguments.batch_size, seed=client) for client in range(arguments.clients)]
    if arguments.truth is not None:
        keep_truth(batches, arguments.truth)
    params = sj.init_params(model, jax.random.key(0), batches[0].inputs.shape[1])
    strategy = RecordingStrategy(
        FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1),
        arguments.out,
        metadata={
            "local_steps": 1,
            "framework": "flax",
            "image_shape": json.dumps(batches[0].image_shape),
            "normalization": batches[0].normalization.to_json(),
        },
    )
    grid = InProcessGrid([client_app(model, batch) for batch in batches])
    train_config = ConfigRecord({"lr": arguments.lr})
    strategy.start(grid, to_record(params), num_rounds=arguments.rounds, train_config=train_config)


def keep_truth(batches: list[sj.Batch], folder: Path) -> None:
    """What no server receives, to score reconstructions with."""
    folder.mkdir(parents=True, exist_ok=True)
    for client, batch in enumerate(batches):
        truth = sj.Truth(
            {"dense_0": batch.inputs}, batch.labels, batch.names, batch.images, batch.normalization, batch.image_shape
        )
        truth.save(folder / f"client-{client}.safetensors")


def client_app(model: sj.MLP, batch: sj.Batch) -> ClientApp:
    """A client that takes one step over its whole batch and shows what it is about to send."""
    app = ClientApp()

    @app.train(mods=[show_update_mod])
    def train(message: Message, context: Context) -> Message:
        params, lr = to_params(message.content["arrays"]), message.content["config"]["lr"]
        params = one_step(model, params, lr, batch.inputs.astype(np.float32), batch.labels)
        metrics = MetricRecord({"num-examples": batch.size})
        return Message(RecordDict({"arrays": to_record(params), "metrics": metrics}), reply_to=message)

    return app


@functools.partial(jax.jit, static_argnames="model")
def one_step(model, params, lr, inputs, labels):
    def loss(params):
        logits = model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.tree.map(lambda leaf, gradient: leaf - lr * gradient, params, jax.grad(loss)(params))


def to_record(params) -> ArrayRecord:
    """Parameters as named arrays, ``dense_0/kernel`` and so on."""
    named = {f"{layer}/{leaf}": value for layer, leaves in params.items() for leaf, value in leaves.items()}
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in named.items()})


def to_params(record: ArrayRecord):
    """The inverse of `to_record`."""
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, array in record.items():
        layer, leaf = name.split("/")
        params.setdefault(layer, {})[leaf] = array.numpy()
    return params


class InProcessGrid(Grid):
    """Nodes 0, 1, ... are client apps, called one after the other."""

    def __init__(self, apps: list[ClientApp]) -> None:
        self._apps = apps
        # Set by the process that runs a ServerApp; every message carries them.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def get_node_ids(self) -> Iterable[int]:
        return range(len(self._apps))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [self._call(message) for message in messages]

    def _call(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        return self._apps[node](message, context)

    def _unused(self, *_, **__):
        raise NotImplementedError("this grid only sends and receives.")

    set_run = create_message = push_messages = pull_messages = _unused
    run = property(_unused)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of what the server receives")
    parser.add_argument("--truth", type=Path, help="folder for what the clients keep to themselves")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
