"""``spear-jax evaluate``: score a reconstruction against the truth that a simulation kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spear_jax.audit import record
from spear_jax.audit.graph_record import is_graphs, read_graph_record
from spear_jax.audit.text_record import is_text, read_text_record
from spear_jax.cli import options
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, emit
from spear_jax.client.evaluate import Evaluation
from spear_jax.client.graph_scores import GraphScores
from spear_jax.client.truth import Truth
from spear_jax.report import graph_scores
from spear_jax.report.scores import EVALUATION, score
from spear_jax.report.text_scores import TextEvaluation, score_record


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("evaluate")(evaluate)


def evaluate(
    folder: options.Folder,
    truth: Annotated[Path, typer.Option(help="Truth file of spear-jax simulate.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help=f"JSON file to write; {EVALUATION} in the folder by default.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Score a reconstruction against the truth.

    Reconstructions are matched to the true samples, then measured: PSNR, SSIM, maximal error, pixel-exact images;
    of text exact sequences, ROUGE-1 and ROUGE-2; of graphs those that are right, in their class, and GSM-0, 1 and 2;
    of both certificates that are false.
    """
    if is_graphs(folder):
        scores = graph_scores.score_record(read_graph_record(folder), truth)
        _write(scores, folder, out, as_json)
        raise typer.Exit(EXIT_COMPLETE if scores.is_whole else EXIT_INCOMPLETE)
    if is_text(folder):
        texts = score_record(read_text_record(folder), truth)
        _write(texts, folder, out, as_json)
        raise typer.Exit(EXIT_COMPLETE if texts.is_whole else EXIT_INCOMPLETE)
    found = record.read_reconstruction(folder)
    evaluation = score(found, Truth.load(truth))
    _write(evaluation, folder, out, as_json)
    raise typer.Exit(EXIT_COMPLETE if evaluation.num_recovered == evaluation.num_samples else EXIT_INCOMPLETE)


def _write(
    evaluation: Evaluation | TextEvaluation | GraphScores, folder: Path, out: Path | None, as_json: bool
) -> None:
    """Write the scores, and print them.

    Args:
        evaluation: of a reconstruction.
        folder: of the reconstruction.
        out: file to write, None for the usual one in the folder.
        as_json: whether to print JSON.
    """
    content: dict[str, Any] = evaluation.to_json() | {"summary": evaluation.summary}
    record.write_json(folder / EVALUATION if out is None else out, content)
    emit(content, as_json, lambda: typer.echo(evaluation.summary))
