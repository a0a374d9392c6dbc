"""``spear-jax demo``: private photos, one gradient, and the photos back, on a laptop and without a download."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from spear_jax.activations import named
from spear_jax.audit import record
from spear_jax.audit.path import audit_update, is_whole
from spear_jax.cli import graph_demo, graphs, options, text, text_demo
from spear_jax.cli.family import GRAPHS, is_given, refuse_others
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, SearchReporter, emit
from spear_jax.client.load import demo_batch
from spear_jax.client.simulate import Client, simulate_client
from spear_jax.client.truth import Truth
from spear_jax.config import ReconstructConfig
from spear_jax.report.folder import make_report
from spear_jax.report.scores import EVALUATION, score
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle_file import save_update

# What goes with --text, and with --graphs.
TEXT = ("is_text", "batch_size", "out", "seed", "as_json")
OF_GRAPHS = ("is_graphs", "batch_size", "out", "seed", "as_json")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo")(demo)


def demo(
    context: options.Context,
    is_text: Annotated[bool, typer.Option("--text", help="Sentences of a language model instead of photos.")] = False,
    is_graphs: Annotated[
        bool, typer.Option("--graphs", help="Molecules of a graph network instead of photos.")
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            help=f"Samples in the private batch; {text_demo.BATCH_SIZE} sentences or {graph_demo.BATCH_SIZE} molecules "
            "by default.",
            min=1,
        ),
    ] = 64,
    image_size: options.ImageSize = 64,
    width: options.Width = 1000,
    depth: options.Depth = 6,
    activation: options.Activation = "relu",
    dtype: Annotated[str, typer.Option(help="Precision of the client: float32 or float64.")] = "float32",
    seed: options.Seed = 0,
    max_seconds: Annotated[float | None, typer.Option(help="Time budget of the search.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("spear-demo"),
    as_json: options.Json = False,
) -> None:
    """Reconstruct photos from a single gradient.

    The photos come with scikit-image; the page shows them side by side with what the server made of the gradient. With
    --text a random language model was trained on invented sentences, with --graphs a random graph network on
    well-known molecules.
    """
    say = (lambda _: None) if as_json else typer.echo
    if is_text:
        refuse_others(context, TEXT, "--text")
        make_folder(out)
        size = batch_size if is_given(context, "batch_size") else text_demo.BATCH_SIZE
        found = text_demo.run(out, size, seed, say)
        emit(found, as_json, lambda: _tell_text(found, out))
        raise typer.Exit(EXIT_COMPLETE if is_whole(found) else EXIT_INCOMPLETE)
    if is_graphs:
        refuse_others(context, OF_GRAPHS, "--graphs", GRAPHS)
        make_folder(out)
        size = batch_size if is_given(context, "batch_size") else graph_demo.BATCH_SIZE
        found = graph_demo.run(out, size, seed, say)
        emit(found, as_json, lambda: _tell_graphs(found, out))
        raise typer.Exit(EXIT_COMPLETE if found["certified"] == size else EXIT_INCOMPLETE)
    started = time.monotonic()
    named(activation)
    make_folder(out)
    batch = demo_batch(batch_size, image_size or 64, seed=seed)
    say(
        f"client: {batch.size} private photos of {batch.inputs.shape[1]} values, {depth} hidden layers of width {width}"
    )
    update, truth = simulate_client(batch, Client(width, depth, dtype=dtype, seed=seed, activation=activation))
    update_file, truth_file = out / "update.safetensors", out / "truth.safetensors"
    save_update(update, update_file)
    truth.save(truth_file)
    say(f"server: sees {update_file} only, and starts to search")
    config = ReconstructConfig(max_seconds=max_seconds)
    with SearchReporter() as reporter:
        content = audit_update(update_file, out, config=config, seed=seed, fresh=True, on_round=reporter)
    evaluation = score(record.read_reconstruction(out), Truth.load(truth_file))
    record.write_json(out / EVALUATION, evaluation.to_json() | {"summary": evaluation.summary})
    index, contact = make_report(out, truth_file)
    seconds = time.monotonic() - started
    content |= {
        "evaluation": evaluation.to_json(),
        "page": str(index),
        "contact_sheet": None if contact is None else str(contact),
        "total_seconds": seconds,
    }
    say(f"server: {content['certified']} of {content['batch_size']} samples certified. {content['message']}")
    say(f"truth:  {evaluation.summary}")
    pages = " or ".join(str(path) for path in (index, contact) if path)
    emit(content, as_json, lambda: typer.echo(f"{seconds:.1f} seconds; open {pages}"))
    raise typer.Exit(EXIT_COMPLETE if is_whole(content) else EXIT_INCOMPLETE)


def _tell_text(content: dict[str, Any], out: Path) -> None:
    text.tell(content, out)
    typer.echo(f"{content['total_seconds']:.1f} seconds; open {content['page']}")


def _tell_graphs(content: dict[str, Any], out: Path) -> None:
    graphs.tell(content, out)
    typer.echo(f"{content['total_seconds']:.1f} seconds; open {content['page']}")
