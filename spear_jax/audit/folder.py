"""The updates of many clients and rounds, one after the other, with a summary that is whole after each.

Each is reconstructed as `one` does it; here are the order, the folders and the sums.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spear_jax.audit import record, resume
from spear_jax.audit.one import OnRound, Options, Source, audit_one, with_activation
from spear_jax.config import ReconstructConfig
from spear_jax.devices import select_devices
from spear_jax.errors import CheckpointError, RecordError, SpearError, UpdateError, explain
from spear_jax.status import Status
from spear_jax.tensor_files import make_folder
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import load_update
from spear_jax.update.dense_layers import natural_key

SUMMARY = "summary.json"
SUFFIXES = (".safetensors", ".npz")
_COPIED = ("layer", "batch_size", "certified", "approximate", "status")
ENTRY = ("update", "folder", "update_sha256", *_COPIED, "seconds", "sentence")
ONE_PROCESS = (
    "{} is a folder, whose updates one process takes one by one: leave --distributed, --coordinator and --shard out, "
    "or give one update."
)

OnStart = Callable[[list[str]], None]
OnUpdate = Callable[[dict[str, Any]], None]


def audit_folder(
    folder: Path,
    out: Path,
    options: Options,
    *,
    on_start: OnStart | None = None,
    on_round: OnRound | None = None,
    on_update: OnUpdate | None = None,
) -> dict[str, Any]:
    """Reconstruct every update below a folder; what cannot be read or inverted is said and does not end the loop.

    Args:
        folder: with update bundles at any depth.
        out: folder to write; each update gets ``out/<its path without suffix>``, and all of them ``out/summary.json``,
            which is whole after each.
        options: for every update; the batch size is the one that each reports.
        on_start: called with the names of all updates, in their order, before the first.
        on_round: called after each round of each search.
        on_update: called with the entry of the summary (`ENTRY`) of each update as it is done.

    Returns:
        The summary, as written.

    Raises:
        UpdateError: no updates, or places that collide.
        CheckpointError: ``out`` holds an unfinished search, and neither resume nor fresh was given.
        SpearError: more devices than there are, or shards.
    """
    if options.config.shard != (0, 1):
        raise SpearError(ONE_PROCESS.format(folder))
    places = find_updates(folder, out)
    if not options.resume and not options.fresh:
        _refuse_unfinished(places)
    select_devices(options.config.num_devices)  # what is wrong with every update is said once
    audited = lambda file, into: _audited(file, into, options, on_round)
    return audit_each(folder, out, audited, on_start=on_start, on_update=on_update)


def audit_each(
    folder: Path,
    out: Path,
    audited: Callable[[Path, Path], dict[str, Any]],
    *,
    on_start: OnStart | None = None,
    on_update: OnUpdate | None = None,
) -> dict[str, Any]:
    """Audit the updates below a folder one after the other, whatever their family, with a summary.

    Args:
        folder: with update bundles at any depth.
        out: folder to write.
        audited: of an update's file and the folder to write for it, its entry of the summary (`ENTRY`) but for the
            places; `refused` makes one of an error.
        on_start: called with the names of all updates, in their order, before the first.
        on_update: called with the entry of each update as it is done.

    Returns:
        The summary, as written.

    Raises:
        UpdateError: no updates, or places that collide.
    """
    places = find_updates(folder, out)
    if (out / record.RECORD).exists():
        raise UpdateError(f"{out} holds the reconstruction of one update; give another --out for those of a folder.")
    make_folder(out)
    if (out / SUMMARY).exists():  # then the page is of that summary, no longer true
        (out / "index.html").unlink(missing_ok=True)
    names = {file: file.relative_to(folder).as_posix() for file in places}
    if on_start is not None:
        on_start(list(names.values()))
    entries: list[dict[str, Any]] = []
    summary = _summary(folder, entries, len(places))
    record.write_json(out / SUMMARY, summary)
    for file, into in places.items():
        place = {"update": names[file], "folder": into.relative_to(out).as_posix()}
        entries.append(place | audited(file, into))
        summary = _summary(folder, entries, len(places))
        record.write_json(out / SUMMARY, summary)
        if on_update is not None:
            on_update(entries[-1])
    return summary


def refused(error: Exception) -> dict[str, Any]:
    """What the summary says of an update that could not be read or inverted: a sentence instead of numbers.

    With SPEAR_JAX_DEBUG set the error is raised again.
    """
    if os.environ.get("SPEAR_JAX_DEBUG"):
        raise error
    return dict.fromkeys(("update_sha256", *_COPIED, "seconds")) | {"sentence": explain(error)}


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


def finished(into: Path, update: Update, options: Options) -> dict[str, Any] | None:
    """The record of a finished reconstruction of this very update under these options, if the folder holds one.

    Raises:
        UpdateError: no such layer.
        CheckpointError: the folder holds a state that cannot be read.
    """
    try:
        found = record.read_reconstruction(into).record
    except RecordError:
        return None
    layer = update.layer(options.layer).name
    config = with_activation(options.config, update, layer)
    wanted = {
        "update_sha256": update.sha256,
        "layout": update.layout,
        "layer": layer,
        "seed": options.seed,
        "config": json.loads(json.dumps(config.to_json())),
    }
    is_same = all(found.get(name) == value for name, value in wanted.items())
    return found if is_same and not resume.is_unfinished(into / record.STATE) else None


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a folder that `audit_folder` wrote.

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
        raise RecordError(f"{path} is damaged ({error}); run spear-jax reconstruct on the updates.") from error
    return summary


def _refuse_unfinished(places: dict[Path, Path]) -> None:
    for into in places.values():
        if resume.is_unfinished(into / record.STATE):
            raise CheckpointError(
                f"{into} holds an unfinished search; pass --resume to go on with it and keep what is finished, or "
                "--fresh to start all again."
            )


def _audited(file: Path, into: Path, options: Options, on_round: OnRound | None) -> dict[str, Any]:
    """What the summary says of one update; a sentence instead of numbers where it could not be read or inverted."""
    sha256 = None
    try:
        update = load_update(file, layout=options.layout)
        sha256 = update.sha256
        options = options._replace(config=config_for(update, options.config))
        content = finished(into, update, options) if options.resume else None
        if content is None:
            content = audit_one(Source(update, file), into, options, on_round=on_round)
    except Exception as error:
        return refused(error) | {"update_sha256": sha256}
    seconds = sum(content["stats"]["seconds"].values())
    said = {"update_sha256": sha256, "seconds": seconds, "sentence": content["message"]}
    return {name: content[name] for name in _COPIED} | said


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
