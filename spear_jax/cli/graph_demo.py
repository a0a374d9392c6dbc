"""``spear-jax demo --graphs``: well-known molecules, one gradient, and the molecules back, without a download."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spear_jax import tensor_files
from spear_jax.audit import record
from spear_jax.audit.graph_one import audit_graph_update
from spear_jax.cli.graph_simulate import GraphClient, simulate
from spear_jax.client.graph_batch import among, demo_molecules, draw_graphs
from spear_jax.client.graph_simulate import known_to_the_server
from spear_jax.client.graph_truth import GraphTruth
from spear_jax.report.graph_folder import make_graph_report
from spear_jax.report.graph_scores import score_record
from spear_jax.report.scores import EVALUATION

BATCH_SIZE = 3
# As many as common sets of toxicity labels have; each graph of a batch needs one.
TASKS = 12


def run(out: Path, batch_size: int, seed: int, say: Callable[[str], Any]) -> dict[str, Any]:
    """Simulate a client, reconstruct what it sent, score and report it, all in one folder.

    Args:
        out: folder to write: update, truth, features, record and page.
        batch_size: number of molecules.
        seed: of their draw and of the model.
        say: called with a sentence after each step, and before each stage of the reconstruction.

    Returns:
        The record with the scores, the page's path and the seconds it took.
    """
    started = time.monotonic()
    every = demo_molecules()
    private = among(draw_graphs(every, batch_size, seed), every)
    client = GraphClient(network="gin", pool="sum", tasks=max(TASKS, batch_size), seed=seed)
    architecture, tensors, metadata, private = simulate(private, client)
    update_file, truth_file, features_file = (
        out / name for name in ("update.safetensors", "truth.safetensors", "features.json")
    )
    say(
        f"client: {private.size} private molecules ({', '.join(private.names)}), "
        f"{sum(graph.num_nodes for graph in private.graphs)} atoms; a random {client.network} network of "
        f"{client.depth} convolutions of width {client.width}"
    )
    tensor_files.write_tensors(update_file, tensors, metadata)
    GraphTruth(private).save(truth_file)
    record.write_json(features_file, known_to_the_server(architecture, private.features))
    kinds = 0 if private.features.possible is None else len(private.features.possible)
    say(
        f"server: sees {update_file}, and knows {features_file}: the {kinds} kinds of atoms that "
        f"{every.size} well-known molecules have"
    )
    content = audit_graph_update(update_file, features_file, out, on_stage=lambda stage: say(f"server: {stage} ..."))
    evaluation = score_record(content, truth_file)
    record.write_json(out / EVALUATION, evaluation.to_json())
    page = make_graph_report(out, truth_file)
    say(f"truth:  {evaluation.summary}")
    seconds = time.monotonic() - started
    return content | {"evaluation": evaluation.to_json(), "page": str(page), "total_seconds": seconds}
