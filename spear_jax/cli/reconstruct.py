"""``spear-jax reconstruct``: from update bundles to the batches, resumable, on one device or many hosts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from spear_jax.attacks.dense.outcome import Progress, SearchState
from spear_jax.attacks.dense.pipeline import reconstruct as run_reconstruct
from spear_jax.audit import record
from spear_jax.audit import resume as checkpoint
from spear_jax.cli import many, options
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, SearchReporter, emit, keep_stdout_clean
from spear_jax.config import ReconstructConfig
from spear_jax.devices import initialize_distributed
from spear_jax.errors import SpearError
from spear_jax.report.values import copies
from spear_jax.tensor_files import make_folder
from spear_jax.types import NO_LABEL, Result
from spear_jax.update.bundle import Update, load_update


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("reconstruct")(reconstruct)


def reconstruct(
    update_file: Annotated[
        Path,
        typer.Argument(
            help="Update bundle, .safetensors or .npz, or a folder of them at any depth.",
            metavar="UPDATE",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("recon"),
    layer: options.Layer = None,
    layout: options.Layout = None,
    method: Annotated[str, typer.Option(help="auto, dictionary or sampling.")] = "auto",
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

    Every sample is certified, or not, without ground truth. Of a folder, every update by itself, with a summary.
    """
    if resume and fresh:
        raise SpearError("--resume and --fresh exclude each other; give --resume to go on, --fresh to start again.")
    is_joined = distributed or any(value is not None for value in (coordinator, num_processes, process_id))
    ids = None if local_device_ids is None else _parse_ids(local_device_ids)
    if ids is not None and not is_joined:
        raise SpearError("--local-device-ids goes with --distributed or --coordinator; leave it out in one process.")
    config = _config(
        method=method, rank=rank, max_candidates=max_candidates, max_seconds=max_seconds, sampler=sampler,
        round_size=round_size, chunk_size=chunk_size, mapper=mapper, num_devices=num_devices,
        shard=_parse_shard(shard),
    )  # fmt: skip
    if update_file.is_dir():
        if is_joined or config.shard != (0, 1):
            raise SpearError(
                f"{update_file} is a folder, whose updates one process takes one by one: leave --distributed, "
                "--coordinator and --shard out, or give one update."
            )
        shared = many.Options(config, layer, layout, seed, resume, fresh)
        summary = many.reconstruct_folder(update_file, out, shared, run, (lambda _: None) if as_json else typer.echo)
        emit(summary, as_json, lambda: many.tell(summary, out))
        raise typer.Exit(EXIT_COMPLETE if summary["whole"] == summary["total"] else EXIT_INCOMPLETE)
    update = load_update(update_file, layout=layout)
    config = many.config_for(update, config)
    if is_joined:
        initialize_distributed(coordinator, num_processes, process_id, ids)
        keep_stdout_clean()
    result, content = run(update, update_file, out, config, layer=layer, seed=seed, resume=resume, fresh=fresh)
    is_first_process = jax.process_index() == 0
    if is_first_process:
        emit(content, as_json, lambda: tell(content, out))
    raise typer.Exit(EXIT_COMPLETE if result.status.is_complete else EXIT_INCOMPLETE)


def run(
    update: Update,
    update_file: Path,
    out: Path,
    config: ReconstructConfig,
    *,
    layer: str | None = None,
    seed: int = 0,
    resume: bool = False,
    fresh: bool = False,
    start: SearchState | None = None,
) -> tuple[Result, dict[str, Any]]:
    """Reconstruct one layer of an update into a folder; returns the result and its record.

    Args:
        update: as loaded.
        update_file: where from.
        out: folder for state, arrays and record.
        config: of the search.
        layer: name of the layer, the first by default.
        seed: of the search's key.
        resume: go on from the state in the folder, if there is one.
        fresh: discard an unfinished state.
        start: state to start from instead of the folder's.

    Raises:
        CheckpointError: the folder holds an unfinished search and neither resume nor fresh was given, or a state of
            something else.
    """
    chosen = update.layer(layer)
    observation = update.observation(chosen.name)
    key = jax.random.key(seed)
    state_file = out / record.STATE
    belongs_to = checkpoint.identity(observation, key, config)
    if start is None and resume and state_file.exists():
        start = checkpoint.load_state(state_file, belongs_to)
    elif start is None and not fresh and checkpoint.is_unfinished(state_file):
        raise checkpoint.CheckpointError(
            f"{out} holds an unfinished search; pass --resume to go on with it, or --fresh to discard it."
        )
    make_folder(out)
    with SearchReporter() as reporter:
        last, on_round = _keeping(state_file, belongs_to, reporter)
        result = run_reconstruct(
            observation, key, config, model=update.network(chosen.name),
            next_weight_grad=update.next_weight_grad(chosen.name), state=start, on_round=on_round,
        )  # fmt: skip
    content = record.make_record(result, update, chosen, update_file, config, seed)
    if jax.process_index() == 0:
        # What was made of an earlier reconstruction in this folder is no longer true of it.
        for stale in record.DERIVED:
            (out / stale).unlink(missing_ok=True)
        record.write_reconstruction(out, result, content)
        state = last[0] if last else start
        if state is not None:
            checkpoint.save_state(state_file, state, belongs_to, finished=True)
    return result, content


def tell(content: dict[str, Any], out: Path) -> None:
    """The outcome in sentences."""
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
    if stats["candidates"]:
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
    if content["directions_found"] < content["batch_size"] and stats["candidates"]:
        typer.echo(f"Expected candidates still needed: {_number(stats['expected_remaining'])}.")
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in stats["seconds"].items())
    typer.echo(f"Seconds: {seconds}. Written to {out}; spear-jax report {out} makes a page of it.")


def _number(value: float | None) -> str:
    return "out of reach" if value is None else f"{value:.3g}"


def _keeping(
    state_file: Path, belongs_to: dict[str, str], reporter: SearchReporter
) -> tuple[list[SearchState], Callable[[Progress], None]]:
    """A callback that saves each round's state, on the first process, and the list it keeps the last one in."""
    last: list[SearchState] = []

    def on_round(progress: Progress) -> None:
        last[:] = [progress.state]
        if jax.process_index() == 0:
            checkpoint.save_state(state_file, progress.state, belongs_to, finished=False)
            reporter(progress)

    return last, on_round


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
