"""Options that several commands take, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spear_jax.activations import ACTIVATIONS

if TYPE_CHECKING:
    Context = typer.Context
else:
    # What Typer passes is Click's context, which it keeps in different places from release to release.
    Context = typer.Context.__bases__[0]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random in this command.", min=0)]
UpdateFile = Annotated[
    Path, typer.Argument(help="Update bundle, .safetensors or .npz.", metavar="UPDATE", show_default=False)
]
Folder = Annotated[
    Path, typer.Argument(help="Folder that spear-jax reconstruct wrote.", metavar="FOLDER", show_default=False)
]
Layer = Annotated[str | None, typer.Option(help="Name of the layer to invert; the first by default.")]
Layout = Annotated[
    str | None,
    typer.Option(help="How kernels lie: in_out (Flax, Keras) or out_in (PyTorch); decided by the bias by default."),
]
BatchSize = Annotated[int, typer.Option(help="Samples in the private batch.", min=1)]
Activation = Annotated[
    str, typer.Option(help=f"Between the layers: {', '.join(ACTIVATIONS)}; leaky_relu(0.2) for a slope of its own.")
]
Between = Annotated[
    str | None,
    typer.Option("--activation", help="Between the layers, where it is known, as gelu; by default the gradients tell."),
]
Width = Annotated[int, typer.Option(help="Neurons per hidden layer, m.", min=1)]
Depth = Annotated[int, typer.Option(help="Hidden layers.", min=1)]
ImageSize = Annotated[int | None, typer.Option(help="Side that images are cropped and resized to.", min=1)]
Truth = Annotated[Path | None, typer.Option(help="Truth file of spear-jax simulate, to score against.")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Language model that was sent: a folder with config.json, or a .gguf file. Makes it an audit of text.",
    ),
]
Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="PEFT folder of the LoRA adapters that the server sent, with --model.")
]
ReturnedKind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help="What came back, with --model or --features: gradient, weights or delta, where the file does not say.",
    ),
]
ReturnedRate = Annotated[
    float | None,
    typer.Option("--lr", help="Learning rate of the client's SGD, with --model or --features; the file's by default."),
]
Features = Annotated[
    Path | None,
    typer.Option("--features", help="JSON file of what nodes' features may be. Makes it an audit of graphs."),
]
