"""``spear-jax reconstruct``: from update bundles to the batches, resumable, on one device or many hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from spear_jax.audit.folder import ONE_PROCESS
from spear_jax.audit.graph_one import audit_graph_update
from spear_jax.audit.path import audit_update, is_whole
from spear_jax.audit.text_one import Returned, audit_text_update
from spear_jax.cli import graphs, options, text
from spear_jax.cli.family import GRAPHS, refuse_others, require_family
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, SearchReporter, emit, keep_stdout_clean, say_first
from spear_jax.cli.text import StageReporter
from spear_jax.config import METHODS, ReconstructConfig
from spear_jax.devices import initialize_distributed
from spear_jax.errors import SpearError
from spear_jax.report.values import copies, said
from spear_jax.status import Status
from spear_jax.types import NO_LABEL
from spear_jax.update.bundle_file import load_update

# What goes with --model, and with --features.
TEXT = ("update_file", "out", "model", "adapter", "kind", "lr", "also", "resume", "fresh", "as_json")
OF_GRAPHS = ("update_file", "out", "features", "kind", "lr", "resume", "fresh", "as_json")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("reconstruct")(reconstruct)


def reconstruct(
    context: options.Context,
    update_file: Annotated[
        Path,
        typer.Argument(
            help="Update bundle, .safetensors or .npz, or a folder of them at any depth.",
            metavar="UPDATE",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("recon"),
    model: options.Model = None,
    adapter: options.Adapter = None,
    features: options.Features = None,
    kind: options.ReturnedKind = None,
    lr: options.ReturnedRate = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            help="Update of another round of the same client under adapters, with --model; may be given several times. "
            "Tokens are then found of all rounds together.",
            show_default=False,
        ),
    ] = None,
    layer: options.Layer = None,
    layout: options.Layout = None,
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}.")] = "auto",
    activation: options.Between = None,
    seed: options.Seed = 0,
    rank: Annotated[int | None, typer.Option(help="Directions to look for; read off the gradient by default.")] = None,
    max_candidates: Annotated[int, typer.Option(help="Candidate budget.")] = ReconstructConfig.max_candidates,
    max_seconds: Annotated[float | None, typer.Option(help="Time budget of the search.")] = None,
    round_size: Annotated[int | None, typer.Option(help="Candidates per round, a power of two.")] = None,
    sampler: Annotated[str, typer.Option(help="auto, walk or flat.")] = "auto",
    chunk_size: Annotated[int | None, typer.Option(help="Candidates or chains a device holds at once.")] = None,
    mapper: Annotated[str, typer.Option(help="shard_map or pmap.")] = "shard_map",
    num_devices: Annotated[int | None, typer.Option(help="Devices to use; all by default.")] = None,
    shard: Annotated[str, typer.Option(help="i/N: draw only every N-th round from round i on; see merge.")] = "0/1",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in --out, if there is one.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard an unfinished search in --out.")] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Join the other processes of a SLURM or Open MPI job.")
    ] = False,
    coordinator: Annotated[str | None, typer.Option(help="host:port of process 0, for other clusters.")] = None,
    num_processes: Annotated[int | None, typer.Option(help="Processes of the run, with --coordinator.")] = None,
    process_id: Annotated[int | None, typer.Option(help="Index of this process, with --coordinator.")] = None,
    local_device_ids: Annotated[str | None, typer.Option(help="Devices of this process, as 0,1.")] = None,
    as_json: options.Json = False,
) -> None:
    """Reconstruct the batch behind an update.

    Every sample is certified, or not, without ground truth. Of a folder, every update by itself, with a summary. With
    --model the update is a language model's, and the samples are text; with --features it is a graph network's.
    """
    if resume and fresh:
        raise SpearError("--resume and --fresh exclude each other; give --resume to go on, --fresh to start again.")
    if model is not None:
        refuse_others(context, TEXT, "--model")
        reporter = StageReporter(is_silent=as_json)
        lines = FolderTable(reporter, is_silent=as_json)
        content = audit_text_update(
            update_file, model, out, adapter=adapter, returned=Returned(kind, lr, resume, tuple(also or ())),
            on_stage=reporter, on_start=lines.start, on_update=lines.add,
        )  # fmt: skip
        emit(content, as_json, lambda: tell(content, out) if "updates" in content else text.tell(content, out))
        raise typer.Exit(EXIT_COMPLETE if is_whole(content) else EXIT_INCOMPLETE)
    if features is not None:
        refuse_others(context, OF_GRAPHS, "--features", GRAPHS)
        reporter = StageReporter(is_silent=as_json)
        lines = FolderTable(reporter, is_silent=as_json)
        content = audit_graph_update(
            update_file, features, out, returned=Returned(kind, lr, resume),
            on_stage=reporter, on_start=lines.start, on_update=lines.add,
        )  # fmt: skip
        emit(content, as_json, lambda: tell(content, out) if "updates" in content else graphs.tell(content, out))
        raise typer.Exit(EXIT_COMPLETE if is_whole(content) else EXIT_INCOMPLETE)
    require_family(context, ("adapter", "kind", "lr", "also"))
    is_joined = distributed or any(value is not None for value in (coordinator, num_processes, process_id))
    ids = None if local_device_ids is None else _parse_ids(local_device_ids)
    if ids is not None and not is_joined:
        raise SpearError("--local-device-ids goes with --distributed or --coordinator; leave it out in one process.")
    config = _config(
        method=method, activation=activation, rank=rank, max_candidates=max_candidates, max_seconds=max_seconds,
        sampler=sampler, round_size=round_size, chunk_size=chunk_size, mapper=mapper, num_devices=num_devices,
        shard=_parse_shard(shard),
    )  # fmt: skip
    if is_joined:
        if update_file.is_dir():
            raise SpearError(ONE_PROCESS.format(update_file))
        load_update(update_file, layout=layout)  # what is wrong with it is said before processes wait for each other
        initialize_distributed(coordinator, num_processes, process_id, ids)
        keep_stdout_clean()
    with SearchReporter() as reporter:
        lines = FolderTable(reporter, is_silent=as_json)
        content = audit_update(
            update_file, out, config=config, layer=layer, layout=layout, seed=seed, resume=resume, fresh=fresh,
            on_start=lines.start, on_round=reporter, on_update=lines.add,
        )  # fmt: skip
    if jax.process_index() == 0:
        emit(content, as_json, lambda: tell(content, out))
    raise typer.Exit(EXIT_COMPLETE if is_whole(content) else EXIT_INCOMPLETE)


class FolderTable:
    """The lines of a folder's updates, printed as they are done, between two searches' progress."""

    HEADER = ("update", "batch rank", "certified", "approximate", "status", "seconds")

    def __init__(self, reporter: SearchReporter | StageReporter, *, is_silent: bool) -> None:
        self._reporter, self._is_silent = reporter, is_silent
        self._widths: tuple[int, ...] = ()
        self._left = 0

    def start(self, names: list[str]) -> None:
        """Print the header over the lines of so many updates."""
        status = max(len(status.name) for status in Status)
        self._widths = (max(map(len, [*names, self.HEADER[0]])), *map(len, self.HEADER[1:4]), status)
        self._left = len(names)
        with self._reporter.paused():
            self._say(self._line(self.HEADER))

    def add(self, entry: dict[str, Any]) -> None:
        """Print the line of one update, with its sentence where it could not be read or inverted."""
        self._left -= 1
        with self._reporter.paused(goes_on=self._left > 0):
            if entry["status"] is None:
                self._say(self._line((entry["update"], *["-"] * 5)))
                self._say(f"  {entry['sentence']}")
                return
            counts = (str(entry[name]) for name in ("batch_size", "certified", "approximate"))
            self._say(self._line((entry["update"], *counts, entry["status"], f"{entry['seconds']:.1f}")))

    def _line(self, cells: tuple[str, ...]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, self._widths, strict=False))
        return "  ".join((*padded, cells[-1]))

    def _say(self, line: str) -> None:
        if not self._is_silent:
            typer.echo(line)


def tell(content: dict[str, Any], out: Path) -> None:
    """The outcome of an update, or of a folder of them, in sentences."""
    if "updates" in content:
        typer.echo(content["sentence"])
        typer.echo(f"Written to {out}; spear-jax report {out} makes a page of each and one of all.")
        return
    stats, certificate = content["stats"], content["certificate"]
    typer.echo(f"{content['certified']} of {content['batch_size']} samples reconstructed and certified.")
    if content["approximate"]:
        typer.echo(
            f"{content['approximate']} samples are approximate: their patterns are confirmed, their values noisy."
        )
    if content["copies"] is not None:
        typer.echo(f"Equal samples merge: {copies(content['copies'], content['num_examples'])}.")
    if certificate["error_max"] is not None:
        typer.echo(f"Largest expected error of these samples: {certificate['error_max']:.2g} of an input's norm.")
    typer.echo(content["message"])
    for sentence in said(content):
        typer.echo(sentence)
    if content["layer"] in content.get("first_candidates", ()):
        say_first(content["first_candidates"])
    if stats["method"] == "span":
        effort = f"{stats['candidates']} starts of the span method, behind {' or '.join(stats['activations'])}"
    elif stats["candidates"]:
        effort = f"{stats['candidates']:.3g} candidates drawn (expected {_number(stats['expected_candidates'])})"
    else:
        effort = f"{stats['rounds']} rounds of the {stats['method']} method"
    typer.echo(
        f"{effort}, {content['directions_found']} of {content['batch_size']} directions, matching score "
        f"{_number(certificate['matching_score'])}."
    )
    named = sum(label != NO_LABEL for label in certificate["labels"] or ())
    if named:
        typer.echo(f"The layers above confirm {named} samples, each on its own, and name their labels.")
    if content["directions_found"] < content["batch_size"] and stats["candidates"] and stats["method"] != "span":
        typer.echo(f"Expected candidates still needed: {_number(stats['expected_remaining'])}.")
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in stats["seconds"].items())
    typer.echo(f"Seconds: {seconds}. Written to {out}; spear-jax report {out} makes a page of it.")


def _number(value: float | None) -> str:
    return "out of reach" if value is None else f"{value:.3g}"


def _config(**options: Any) -> ReconstructConfig:
    """The configuration; what is wrong with it is said in terms of the command line."""
    try:
        return ReconstructConfig(**options)
    except ValueError as error:
        as_option = lambda match: "--" + match[1].replace("_", "-")
        raise SpearError(re.sub(r"ReconstructConfig\.(\w+)", as_option, str(error))) from error


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise SpearError(f"--shard is {text!r}; expected i/N with 0 <= i < N, as 0/4, 1/4, 2/4 and 3/4.")
    return int(match[1]), int(match[2])


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SpearError(f"--local-device-ids is {text!r}; expected numbers, as 0,1.") from error
