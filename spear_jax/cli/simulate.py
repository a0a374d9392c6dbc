"""``spear-jax simulate``: the client's side, an update bundle and the truth kept apart."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from spear_jax.activations import named
from spear_jax.cli import graph_simulate, options, text_simulate
from spear_jax.cli.family import GRAPHS, is_given, refuse_others, require_family
from spear_jax.cli.graph_simulate import GraphClient
from spear_jax.cli.output import emit
from spear_jax.cli.text_simulate import LEARNING_RATE, TextClient
from spear_jax.client.columns import parse_kinds
from spear_jax.client.load import demo_batch, load_batch
from spear_jax.client.local_training import KINDS, LocalTraining
from spear_jax.client.simulate import Client, simulate_client
from spear_jax.errors import DataError
from spear_jax.graphs.architecture import KINDS as KINDS_OF_CONVOLUTIONS
from spear_jax.graphs.architecture import LOSSES, POOLS, READOUTS
from spear_jax.normalization import Normalization
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle_file import save_update

# What goes with --model, and with --graphs.
TEXT = (
    "model", "texts", "adapter", "lora_rank", "lora_modules", "kind", "lr", "dtype", "batch_size", "seed", "out",
    "truth", "as_json",
)  # fmt: skip
OF_GRAPHS = (
    "graphs", "features", "network", "pool", "readout", "loss", "width", "depth", "classes", "activation", "kind", "lr",
    "dtype", "batch_size", "seed", "out", "truth", "as_json",
)  # fmt: skip
DATA_VARIABLE = "SPEAR_JAX_DATA"
LOCAL_OPTIONS = {
    "learning_rate": "--lr",
    "epochs": "--local-epochs",
    "mini_batch": "--mini-batch",
    "momentum": "--momentum",
    "weight_decay": "--weight-decay",
    "optimizer": "--optimizer",
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("simulate")(simulate)


def simulate(
    context: options.Context,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            "--data",
            help="Image folder, MNIST idx data, CIFAR-10 .bin, .npz of images or .csv table; a relative path is also "
            f"looked for under ${DATA_VARIABLE}. Photos bundled with scikit-image by default.",
        ),
    ] = None,
    batch_size: options.BatchSize = 8,
    width: options.Width = 200,
    depth: options.Depth = 6,
    classes: Annotated[
        int | None, typer.Option(help="Classes of the model; those of the data by default.", min=2)
    ] = None,
    image_size: options.ImageSize = None,
    normalize: Annotated[
        str | None, typer.Option(help="imagenet, mnist, cifar10, none, or mean,std; the data's usual one by default.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Label column of a table; the last by default.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="How columns of a table are read where their cells do not tell, as "
            "age=number,zip=category,id=skip,income=label; the others as their cells tell."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Precision of the client: float32 or float64; with --model of what it sends, any.")
    ] = "float32",
    activation: options.Activation = "relu",
    initialization: Annotated[str, typer.Option(help="pytorch, flax or normal.")] = "pytorch",
    train_steps: Annotated[int, typer.Option(help="SGD steps on the batch's data set before the update.", min=0)] = 0,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of these steps.", min=0)] = 0.1,
    kind: Annotated[
        str, typer.Option(help="What the client sends: gradient, or after local training weights or delta.")
    ] = "gradient",
    local_epochs: Annotated[
        int | None, typer.Option(help="Local training: passes over the batch, 1 by default.", min=1)
    ] = None,
    mini_batch: Annotated[
        int | None, typer.Option(help="Local training: samples of a step; the whole batch by default.", min=1)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Local training: learning rate, 0.1 by default.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Local training: momentum of sgd, 0 by default.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Local training: lambda, 0 by default.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Local training: sgd, adam or sign; sgd by default.")] = None,
    model: options.Model = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Private texts, with --model: .txt, one a line, or .csv or .tsv with a column text."),
    ] = None,
    adapter: options.Adapter = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of random adapters, with --model.", min=1)] = None,
    lora_modules: Annotated[str | None, typer.Option(help="Where these stand, as q,v; the usual by default.")] = None,
    graphs: Annotated[
        Path | None,
        typer.Option(
            help="Private graphs: .json, or SMILES in .smi or .txt; molecules for the bundled ones. Makes the model a "
            f"graph network, by default of width {GraphClient().width} and {GraphClient().depth} convolutions."
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="What the server knows of features, to write, with --graphs; features.json beside --out."),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help=f"Convolutions, with --graphs: {', '.join(KINDS_OF_CONVOLUTIONS)}.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help=f"Over the nodes, with --graphs: {' or '.join(POOLS)}.")] = None,
    readout: Annotated[str | None, typer.Option(help=f"With --graphs: {' or '.join(READOUTS)}.")] = None,
    loss: Annotated[str | None, typer.Option(help=f"With --graphs: {', '.join(LOSSES)}.")] = None,
    seed: options.Seed = 0,
    out: Annotated[Path, typer.Option(help="Update bundle to write.")] = Path("update.safetensors"),
    truth: Annotated[Path, typer.Option(help="Truth to write, for scoring only.")] = Path("truth.safetensors"),
    as_json: options.Json = False,
) -> None:
    """Compute a client's gradient or weight change on private data.

    Writes what the server sees and, apart from it, the truth, which only spear-jax evaluate and report read. With
    --model the client trains a language model on text, with --graphs a graph network of random weights.
    """
    if model is not None:
        refuse_others(context, TEXT, "--model")
        _check_targets(out, truth)
        modules = None if lora_modules is None else tuple(lora_modules.split(","))
        if kind == "gradient" and lr is not None:
            raise DataError("--lr: a gradient has no step of SGD; pass --kind weights or --kind delta.")
        client = TextClient(kind, LEARNING_RATE if lr is None else lr, dtype, lora_rank, modules, seed)
        content, sentence = text_simulate.run((model, adapter), texts, batch_size, client, (out, truth))
        emit(content, as_json, lambda: typer.echo(sentence))
        return
    if graphs is not None:
        refuse_others(context, OF_GRAPHS, "--graphs", GRAPHS)
        _check_targets(out, truth)
        if kind == "gradient" and lr is not None:
            raise DataError("--lr: a gradient has no step of SGD; pass --kind weights or --kind delta.")
        chosen = {"network": network, "pool": pool, "readout": readout, "loss": loss, "tasks": classes, "lr": lr}
        chosen |= {
            name: value
            for name, value in (("width", width), ("depth", depth), ("activation", activation))
            if is_given(context, name)
        }
        known = {name: value for name, value in chosen.items() if value is not None}
        client = GraphClient(kind=kind, dtype=dtype, seed=seed, **known)
        written = graph_simulate.Files(out, truth, out.parent / "features.json" if features is None else features)
        content, sentence = graph_simulate.run(graphs, batch_size, client, written)
        emit(content, as_json, lambda: typer.echo(sentence))
        return
    only = ("texts", "adapter", "lora_rank", "lora_modules", "features", "network", "pool", "readout", "loss")
    require_family(context, only)
    training = local_training(
        kind, learning_rate=lr, epochs=local_epochs, mini_batch=mini_batch, momentum=momentum,
        weight_decay=weight_decay, optimizer=optimizer,
    )  # fmt: skip
    _check_targets(out, truth)
    named(activation)
    normalization = None if normalize is None else Normalization.parse(normalize)
    kinds = None if columns is None else parse_kinds(columns)
    if images is None:
        if kinds is not None:
            raise DataError("--columns goes with a table; give it with --data.")
        batch = demo_batch(batch_size, image_size or 64, seed=seed, normalization=normalization)
    else:
        batch = load_batch(
            find_data(images),
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            normalization=normalization,
            label_column=label_column,
            kinds=kinds,
        )
    client = Client(
        width,
        depth,
        classes,
        dtype,
        initialization,
        train_steps,
        learning_rate,
        seed,
        kind=kind,
        training=training,
        activation=activation,
    )
    update, private = simulate_client(batch, client)
    save_update(update, out)
    private.save(truth)
    record: dict[str, Any] = {
        "update": str(out),
        "truth": str(truth),
        "batch_size": batch.size,
        "columns": batch.contents or None,
        "in_features": batch.inputs.shape[1],
        "width": width,
        "depth": depth,
        "classes": classes or batch.num_classes,
        "activation": str(named(activation)),
        "dtype": dtype,
        "normalization": None if batch.normalization is None else batch.normalization.to_json(),
        "layers": [layer.name for layer in update.layers],
        "kind": kind,
        "local_steps": update.local_steps,
        "local_training": None if training is None else dataclasses.asdict(training),
        "seed": seed,
    }
    sent = "gradient" if training is None else f"{kind} after {update.local_steps} local step(s)"
    sentence = f"{out}: {sent} of {batch.size} samples; {truth}: the samples themselves."
    table = [f"{images.name}: {batch.contents}."] if images is not None and batch.contents else []
    emit(record, as_json, lambda: typer.echo("\n".join([*table, sentence])))


def local_training(kind: str, **given: Any) -> LocalTraining | None:
    """The local training of what was given on the command line; None for a gradient.

    Args:
        kind: ``"gradient"``, ``"weights"`` or ``"delta"``.
        given: fields of `LocalTraining`; None for its default.

    Raises:
        DataError: an unknown kind, a value out of range, or options that do not go together.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if kind not in ("gradient", *KINDS):
        raise DataError(f"--kind is {kind!r}; expected gradient, {' or '.join(KINDS)}.")
    if kind == "gradient":
        if chosen:
            options_given = ", ".join(LOCAL_OPTIONS[name] for name in chosen)
            raise DataError(f"{options_given}: a gradient has no local training; pass --kind weights or --kind delta.")
        return None
    for name, value in chosen.items():
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise DataError(f"{LOCAL_OPTIONS[name]} is {value}; expected a number of at least 0.")
    if chosen.get("learning_rate") == 0:
        raise DataError("--lr is 0; expected a positive number.")
    if chosen.get("momentum") and chosen.get("optimizer", "sgd") != "sgd":
        raise DataError(f"--momentum is SGD's, but --optimizer is {chosen['optimizer']}; leave one of them out.")
    try:
        return LocalTraining(**chosen)
    except ValueError as error:
        raise DataError(f"--{error}") from error


def _check_targets(out: Path, truth: Path) -> None:
    """Refuse targets that cannot be written, before anything is computed."""
    if out.resolve() == truth.resolve():
        raise DataError(f"--out and --truth are both {out}; the truth must lie apart from what the server sees.")
    for option, path in (("--out", out), ("--truth", truth)):
        if path.suffix not in (".safetensors", ".npz"):
            raise DataError(f"{option} is {path}; expected the extension .safetensors or .npz.")
        make_folder(path.parent)


def find_data(path: Path) -> Path:
    """The path itself, or the same below the folder that the environment names."""
    base = os.environ.get(DATA_VARIABLE)
    if not path.exists() and not path.is_absolute() and base and (Path(base) / path).exists():
        return Path(base) / path
    return path
