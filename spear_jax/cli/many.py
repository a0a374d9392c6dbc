"""``spear-jax reconstruct FOLDER``: the updates of many clients and rounds, one after the other, with a summary.

Each is reconstructed as the command for one update does it; here are the order, the folders and the sums.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import typer

from spear_jax.audit import record
from spear_jax.audit import resume as checkpoint
from spear_jax.cli import explain
from spear_jax.config import ReconstructConfig
from spear_jax.devices import select_devices
from spear_jax.errors import SpearError, UpdateError
from spear_jax.status import Status
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle import Update, load_update
from spear_jax.update.dense_layers import natural_key

SUMMARY = "summary.json"
SUFFIXES = (".safetensors", ".npz")
HEADER = ("update", "batch rank", "certified", "approximate", "status", "seconds")
_COPIED = ("layer", "batch_size", "certified", "approximate", "status")
ENTRY = ("update", "folder", "update_sha256", *_COPIED, "seconds", "sentence")
_LONGEST_STATUS = max(len(status.name) for status in Status)


class Options(NamedTuple):
    """What holds for every update of a folder, as the options of the command say it."""

    config: ReconstructConfig
    layer: str | None
    layout: str | None
    seed: int
    resume: bool
    fresh: bool


def reconstruct_folder(
    folder: Path, out: Path, options: Options, run: Callable[..., Any], show: Callable[[str], None]
) -> dict[str, Any]:
    """Reconstruct every update below a folder; what cannot be read or inverted is said and does not end the loop.

    Args:
        folder: with update bundles at any depth.
        out: folder to write; each update gets ``out/<its path without suffix>``, and all of them ``out/summary.json``,
            which is whole after each.
        options: for every update.
        run: reconstructs one update, `spear_jax.cli.reconstruct.run`.
        show: prints one line of the table.

    Returns:
        The summary, as written.

    Raises:
        UpdateError: no updates, or places that collide.
        CheckpointError: ``out`` holds an unfinished search, and neither resume nor fresh was given.
        ValueError: more devices than there are.
    """
    places = find_updates(folder, out)
    if (out / record.RECORD).exists():
        raise UpdateError(f"{out} holds the reconstruction of one update; give another --out for those of a folder.")
    if not options.resume and not options.fresh:
        _refuse_unfinished(places)
    select_devices(options.config.num_devices)  # what is wrong with every update is said once
    make_folder(out)
    if (out / SUMMARY).exists():  # then the page is of that summary, no longer true
        (out / "index.html").unlink(missing_ok=True)
    names = {file: file.relative_to(folder).as_posix() for file in places}
    widths = (max(map(len, [*names.values(), HEADER[0]])), *map(len, HEADER[1:4]), _LONGEST_STATUS)
    show(_line(HEADER, widths))
    entries: list[dict[str, Any]] = []
    summary = _summary(folder, entries, len(places))
    record.write_json(out / SUMMARY, summary)
    for file, into in places.items():
        place = {"update": names[file], "folder": into.relative_to(out).as_posix()}
        entries.append(place | _reconstructed(file, into, options, run))
        summary = _summary(folder, entries, len(places))
        record.write_json(out / SUMMARY, summary)
        show(_line(_cells(entries[-1]), widths))
        if entries[-1]["status"] is None:
            show(f"  {entries[-1]['sentence']}")
    return summary


def find_updates(folder: Path, out: Path) -> dict[Path, Path]:
    """The update bundles below a folder in their natural order, and the folder to write for each.

    Raises:
        UpdateError: none, two that differ only in their suffix, or an ``out`` whose files would be taken for updates.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise UpdateError(f"--out {out} lies in {folder}, whose files are taken for updates; give a folder outside it.")
    found = [path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.name[0] != "." and path.is_file()]
    if not found:
        raise UpdateError(
            f"{folder} holds no update bundles, {' or '.join(SUFFIXES)}, at any depth; give the folder that a recorder "
            "wrote them to."
        )
    files_of: dict[Path, Path] = {}
    for file in sorted(found, key=lambda path: (natural_key(path.as_posix()), path)):
        into = out / file.relative_to(folder).with_suffix("")
        if into in files_of:
            raise UpdateError(f"{files_of[into]} and {file} would both be written to {into}; rename one of them.")
        files_of[into] = file
    return {file: into for into, file in files_of.items()}


def config_for(update: Update, config: ReconstructConfig) -> ReconstructConfig:
    """The configuration with the batch size that the client reports."""
    text = update.metadata.get("num_examples")
    return dataclasses.replace(config, num_examples=None if text is None else int(text))


def finished(
    into: Path, update: Update, config: ReconstructConfig, *, layer: str | None, seed: int
) -> dict[str, Any] | None:
    """The record of a finished reconstruction of this very update under these options, if the folder holds one.

    Raises:
        UpdateError: no such layer.
        CheckpointError: the folder holds a state that cannot be read.
    """
    try:
        found = record.read_reconstruction(into).record
    except record.RecordError:
        return None
    wanted = {
        "update_sha256": update.sha256,
        "layout": update.layout,
        "layer": update.layer(layer).name,
        "seed": seed,
        "config": json.loads(json.dumps(config.to_json())),
    }
    is_same = all(found.get(name) == value for name, value in wanted.items())
    return found if is_same and not checkpoint.is_unfinished(into / record.STATE) else None


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a folder that `reconstruct_folder` wrote.

    Raises:
        RecordError: it is damaged.
    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text())
        lacking = {name for entry in summary["updates"] for name in ENTRY if name not in entry}
        if lacking:
            raise SpearError(f"an update lacks {', '.join(sorted(lacking))}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise record.RecordError(f"{path} is damaged ({error}); run spear-jax reconstruct on the updates.") from error
    return summary


def tell(summary: dict[str, Any], out: Path) -> None:
    """The closing sentences."""
    typer.echo(summary["sentence"])
    typer.echo(f"Written to {out}; spear-jax report {out} makes a page of each and one of all.")


def _refuse_unfinished(places: dict[Path, Path]) -> None:
    for into in places.values():
        if checkpoint.is_unfinished(into / record.STATE):
            raise checkpoint.CheckpointError(
                f"{into} holds an unfinished search; pass --resume to go on with it and keep what is finished, or "
                "--fresh to start all again."
            )


def _reconstructed(file: Path, into: Path, options: Options, run: Callable[..., Any]) -> dict[str, Any]:
    """What the summary says of one update; a sentence instead of numbers where it could not be read or inverted."""
    entry: dict[str, Any] = dict.fromkeys(("update_sha256", *_COPIED, "seconds", "sentence"))
    try:
        update = load_update(file, layout=options.layout)
        entry["update_sha256"] = update.sha256
        config, layer, _, seed, resume, fresh = options._replace(config=config_for(update, options.config))
        content = finished(into, update, config, layer=layer, seed=seed) if resume else None
        if content is None:
            _, content = run(update, file, into, config, layer=layer, seed=seed, resume=resume, fresh=fresh)
    except Exception as error:
        if os.environ.get("SPEAR_JAX_DEBUG"):
            raise
        return entry | {"sentence": explain(error)[0]}
    entry |= {name: content[name] for name in _COPIED}
    return entry | {"seconds": sum(content["stats"]["seconds"].values()), "sentence": content["message"]}


def _summary(folder: Path, entries: list[dict[str, Any]], total: int) -> dict[str, Any]:
    inverted = [entry for entry in entries if entry["status"] is not None]
    whole = sum(Status[entry["status"]].is_complete for entry in inverted)
    certified, approximate = (sum(entry[name] for entry in inverted) for name in ("certified", "approximate"))
    sentence = f"{whole} of {total} updates whole; {certified} samples certified in all, {approximate} approximate"
    refused, pending = len(entries) - len(inverted), total - len(entries)
    sentence += f"; {refused} could not be read or inverted" * bool(refused) + f"; {pending} to go" * bool(pending)
    return {
        "folder": str(folder),
        "total": total,
        "whole": whole,
        "certified": certified,
        "approximate": approximate,
        "sentence": f"{sentence}.",
        "updates": list(entries),
    }


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    if entry["status"] is None:
        return (entry["update"], *["-"] * 5)
    counts = (str(entry[name]) for name in ("batch_size", "certified", "approximate"))
    return (entry["update"], *counts, entry["status"], f"{entry['seconds']:.1f}")


def _line(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
    return "  ".join((*padded, cells[-1]))
