"""The audit of a path, an update file or a folder of them: what the command line and Python users call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spear_jax.audit.folder import OnStart, OnUpdate, audit_folder, config_for
from spear_jax.audit.one import OnRound, Options, Source, audit_one
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.status import Status
from spear_jax.update.bundle_file import load_update


def audit_update(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] = "recon",
    *,
    config: ReconstructConfig = ReconstructConfig(),
    layer: str | None = None,
    layout: str | None = None,
    seed: int = 0,
    resume: bool = False,
    fresh: bool = False,
    on_start: OnStart | None = None,
    on_round: OnRound | None = None,
    on_update: OnUpdate | None = None,
) -> dict[str, Any]:
    """Reconstruct the batch behind an update, or behind each update of a folder, into a folder: resumable.

    What ``spear-jax reconstruct PATH --out OUT`` does. The whole update is used: the layers above and their gradients
    confirm samples one by one. Of one update the folder holds ``inputs.safetensors`` (arrays), ``result.json`` (the
    record) and ``state.safetensors``; of a folder one such folder an update, and ``summary.json``.

    Args:
        path: update bundle, ``.safetensors`` or ``.npz``, or a folder of them at any depth.
        out: folder to write, which is made where it does not exist.
        config: of the reconstruction; ``num_examples`` is set to what each update reports.
        layer: name of the layer to invert; the first by default.
        layout: ``"in_out"`` (Flax, Keras) or ``"out_in"`` (PyTorch); decided by the bias by default.
        seed: of the search's key; the same seed and config give the same result on any number of devices.
        resume: go on from the state in ``out``, if there is one; of a folder, keep what is finished.
        fresh: discard an unfinished search in ``out``.
        on_start: of a folder: called with the names of all updates, in their order, before the first.
        on_round: called with a `Progress` after each round of a search, on the first process.
        on_update: of a folder: called with each update's entry of the summary as it is done.

    Returns:
        the record of one update, as ``result.json`` has it, or the summary of a folder, as ``summary.json`` has it.
        `is_whole` says of either whether every sample was certified or confirmed approximately.

    Raises:
        SpearError: input or options that cannot be used, in one sentence: no readable update, no layer that can be
            inverted, an unfinished search in ``out`` with neither ``resume`` nor ``fresh``, or a state of another one.

    Examples:
        >>> import spear_jax as sj
        >>> record = sj.audit_update("update.safetensors", out="recon", resume=True)
        >>> f"{record['certified']} of {record['batch_size']} certified: {record['status']}"
        '4 of 4 certified: EXACT'
    """
    if resume and fresh:
        raise SpearError("resume and fresh exclude each other: one goes on with a search, the other discards it.")
    path, out = Path(path), Path(out)
    options = Options(config, layer, layout, seed, resume, fresh)
    if path.is_dir():
        return audit_folder(path, out, options, on_start=on_start, on_round=on_round, on_update=on_update)
    update = load_update(path, layout=layout)
    options = options._replace(config=config_for(update, config))
    return audit_one(Source(update, path), out, options, on_round=on_round)


def is_whole(content: dict[str, Any]) -> bool:
    """Tell whether an audit got every sample of its update, or of each update of its folder.

    Args:
        content: what `audit_update` returned.
    """
    if "updates" in content:
        return content["whole"] == content["total"]
    return Status[content["status"]].is_complete
