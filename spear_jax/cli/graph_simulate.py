"""``spear-jax simulate --graphs``: a graph network's client, an update, what the server knows, and the truth apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from spear_jax import tensor_files
from spear_jax.audit import record
from spear_jax.client.graph_batch import PrivateGraphs, demo_molecules, draw_graphs, labelled, read_graphs
from spear_jax.client.graph_models import random_graph_model
from spear_jax.client.graph_simulate import known_to_the_server, simulate_graph_update
from spear_jax.client.graph_truth import GraphTruth
from spear_jax.errors import DataError
from spear_jax.graphs.architecture import Architecture
from spear_jax.tensor_files import make_folder

MOLECULES = "molecules"


class GraphClient(NamedTuple):
    """How a client of a graph network is simulated.

    Attributes:
        network: kind of the convolutions.
        width: of each.
        depth: number of convolutions.
        activation: behind each of them.
        pool: over the nodes of a graph.
        readout: ``"pooled"``, or ``"node"`` as GRAIN and FedGraphNN have it.
        loss: of each graph.
        tasks: outputs of the model; as many as the graphs have labels, or else 1, where None.
        kind: what the client sends: ``"gradient"``, ``"weights"`` or ``"delta"``.
        lr: learning rate of its step of SGD.
        dtype: that it computes in and sends, or to which what it sends is rounded.
        seed: of the batch's draw, of the weights and of labels that are missing.
    """

    network: str = "gcn"
    width: int = 300
    depth: int = 2
    activation: str = "relu"
    pool: str = "mean"
    readout: str = "pooled"
    loss: str = "bce"
    tasks: int | None = None
    kind: str = "gradient"
    lr: float = 1e-2
    dtype: str = "float32"
    seed: int = 0


class Files(NamedTuple):
    """What a simulation writes.

    Attributes:
        update: bundle of what the server sent and sees.
        truth: the graphs themselves.
        features: what the server knows of features and model.
    """

    update: Path
    truth: Path
    features: Path


def run(graphs: Path, batch_size: int, client: GraphClient, files: Files) -> tuple[dict[str, Any], str]:
    """Simulate a client into files.

    Args:
        graphs: file of the private graphs; ``molecules`` for the bundled ones, where there is no such file.
        batch_size: graphs to draw from it.
        client: how it is simulated.
        files: to write.

    Returns:
        The record of the command, and its sentence.
    """
    if client.dtype == "bfloat16" and files.update.suffix == ".npz":
        raise DataError(f"--out is {files.update}, and .npz has no bfloat16; give the extension .safetensors.")
    every = demo_molecules() if graphs.name == MOLECULES and not graphs.exists() else read_graphs(graphs)
    private = draw_graphs(every, batch_size, client.seed)
    architecture, tensors, metadata, private = simulate(private, client)
    tensor_files.write_tensors(files.update, tensors, metadata)
    GraphTruth(private).save(files.truth)
    make_folder(files.features.parent)
    record.write_json(files.features, known_to_the_server(architecture, private.features))
    content = {
        "update": str(files.update),
        "truth": str(files.truth),
        "features": str(files.features),
        "batch_size": private.size,
        "nodes": [graph.num_nodes for graph in private.graphs],
        "tensors": sum(not name.startswith("global/") for name in tensors),
        **{name: value for name, value in client._asdict().items() if name not in ("lr", "tasks")},
        "tasks": architecture.tasks,
        "lr": float(metadata["lr"]) if "lr" in metadata else None,
    }
    what = "gradient" if client.kind == "gradient" else f"{client.kind} after one step of SGD"
    sentence = (
        f"{files.update}: {what} of {private.size} graphs, {sum(content['nodes'])} nodes, in {content['tensors']} "
        f"tensors; "
        f"{files.features}: what the server knows of features; {files.truth}: the graphs themselves."
    )
    return content, sentence


def simulate(
    private: PrivateGraphs, client: GraphClient
) -> tuple[Architecture, dict[str, Any], dict[str, str], PrivateGraphs]:
    """Architecture, tensors and metadata of a client's update, and the graphs with their labels."""
    given = 1 if private.labels is None or client.loss == "cross entropy" else private.labels.shape[1]
    tasks = client.tasks or (2 if client.loss == "cross entropy" else given)
    architecture = Architecture(
        kind=client.network,
        columns=private.features.columns,
        widths=(client.width,) * client.depth,
        activation=client.activation,
        pool=client.pool,
        readout=client.readout,
        readout_layers=3 if client.readout == "node" else 1,
        tasks=tasks,
        loss=client.loss,
    )
    is_wide = client.dtype == "float64"
    params = random_graph_model(architecture, jax.random.key(client.seed), dtype="float64" if is_wide else "float32")
    private = labelled(private, architecture, client.seed)
    tensors, metadata = simulate_graph_update(
        architecture, params, private, kind=client.kind, lr=client.lr, dtype=client.dtype, seed=client.seed
    )
    return architecture, tensors, metadata, private
