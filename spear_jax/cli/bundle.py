"""``spear-jax bundle``: an update from what a federation's server stored, in any framework's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spear_jax.activations import named
from spear_jax.cli import options
from spear_jax.cli.output import emit
from spear_jax.errors import UpdateError
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle_file import save_update
from spear_jax.update.make import LEFT_OUT, make_update, pair_files
from spear_jax.update.readers.model_files import SUFFIXES, read_model


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("bundle")(bundle)


def bundle(
    before: Annotated[
        Path,
        typer.Option(
            help=f"Model that the server sent: {SUFFIXES}.",
            show_default=False,
        ),
    ],
    after: Annotated[Path | None, typer.Option(help="What came back: the model after the client's round.")] = None,
    gradient: Annotated[Path | None, typer.Option(help="A file of gradients, instead of --after.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="What --after holds: weights (by default), delta (after less before) or gradient."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the client's SGD.")] = None,
    local_steps: Annotated[int | None, typer.Option(help="Its number of local steps; 1 is assumed without.")] = None,
    num_examples: Annotated[int | None, typer.Option(help="Samples in the client's batch, where known.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of the client's SGD.")] = None,
    activation: options.Between = None,
    out: Annotated[Path, typer.Option(help="Update bundle to write.")] = Path("update.safetensors"),
    as_json: options.Json = False,
) -> None:
    """Make an update of two model files.

    Reads what PyTorch, Flax, Orbax, Flower and safetensors store, without running anything that is in the files.
    """
    came_back, kind = what_came_back(after, gradient, kind)
    if out.resolve() in (before.resolve(), came_back.resolve()):
        raise UpdateError(f"--out {out} is one of the files to read; give another name.")
    sent, back = read_model(before), read_model(came_back)
    update = make_update(
        sent, back, kind=kind, lr=lr, local_steps=local_steps, num_examples=num_examples, weight_decay=weight_decay,
        metadata={} if activation is None else {"activation": str(named(activation))},
    )  # fmt: skip
    make_folder(out.parent)
    save_update(update, out)
    names = pair_files(sent, back, kind=update.kind)
    untrained = [layer.name for layer in update.layers if layer not in update.trained]
    content: dict[str, Any] = {
        "update": str(out),
        "kind": update.kind,
        "metadata": dict(update.metadata),
        "activation": update.activation,
        "tensors": len(update.client_tensors),
        "layers": [{"name": layer.name, "shape": [layer.out_features, layer.in_features]} for layer in update.layers],
        "skipped": [{"name": name, "reason": reason} for name, reason in update.skipped],
        "untrained": untrained,
        "renamed": {name: known for name, known in names.items() if name != known},
    }
    emit(content, as_json, lambda: _tell(content))


def what_came_back(after: Path | None, gradient: Path | None, kind: str | None) -> tuple[Path, str]:
    """The second file and the kind of what it holds."""
    if after is not None and gradient is not None:
        raise UpdateError("--after and --gradient exclude each other; give the file that came back.")
    if gradient is not None:
        if kind not in (None, "gradient"):
            raise UpdateError(f"--kind {kind} contradicts --gradient; give the file as --after, or leave --kind out.")
        return gradient, "gradient"
    if after is None:
        raise UpdateError("nothing came back: give --after with the model after the client's round, or --gradient.")
    return after, kind or "weights"


def _tell(content: dict[str, Any]) -> None:
    """What was written, in sentences."""
    layers = ", ".join("{name} ({shape[0]} x {shape[1]})".format(**layer) for layer in content["layers"])
    typer.echo(f"{content['update']}: {content['kind']} of {content['tensors']} tensors; dense layers: {layers}.")
    for name, known in list(content["renamed"].items())[:1]:
        typer.echo(f"Names aligned: {name} is {known} of the model that was sent, and so on.")
    if content["activation"] is not None:
        typer.echo(f"Behind the first dense layer that was trained: {content['activation']}.")
    if content["untrained"]:
        typer.echo(f"Not trained: {', '.join(content['untrained'])} did not change or did not come back.")
    if LEFT_OUT in content["metadata"]:
        typer.echo(f"Left out: {content['metadata'][LEFT_OUT]}.")
    for skipped in content["skipped"]:
        typer.echo(f"{skipped['name']} cannot be inverted: {skipped['reason']}")
