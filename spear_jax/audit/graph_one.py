"""Updates of a graph network into folders: the graphs behind one, or behind each below a folder of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spear_jax.attacks.graphs.pipeline import reconstruct
from spear_jax.audit import record
from spear_jax.audit.folder import OnStart, OnUpdate, audit_each, refused
from spear_jax.audit.graph_record import (
    GraphAudited,
    described,
    is_graphs,
    make_record,
    read_graph_record,
    write_graph_record,
)
from spear_jax.audit.text_one import Returned
from spear_jax.audit.text_record import is_text
from spear_jax.config import ReconstructConfig
from spear_jax.errors import RecordError, SpearError
from spear_jax.tensor_files import make_folder
from spear_jax.update.graph_features import FeaturesFile, features_to_json, read_features
from spear_jax.update.graph_update import GraphUpdate, read_graph_update

OnStage = Callable[[str], None]


def audit_graph_update(
    path: str | os.PathLike[str],
    features: str | os.PathLike[str],
    out: str | os.PathLike[str] = "recon",
    *,
    returned: Returned = Returned(),
    on_stage: OnStage | None = None,
    on_start: OnStart | None = None,
    on_update: OnUpdate | None = None,
) -> dict[str, Any]:
    """Reconstruct the graphs behind an update of a graph network, or behind each of a folder, into a folder.

    What ``spear-jax reconstruct PATH --features FILE --out OUT`` does. Of one update the folder holds ``result.json``;
    of a folder one such folder an update, and ``summary.json``.

    Args:
        path: a bundle, or a folder of bundles at any depth.
        features: JSON file of what nodes' features may be, see `update.graph_features`.
        out: folder to write, which is made where it does not exist.
        returned: what is said of the updates beside their files.
        on_stage: called with a sentence before each stage of a reconstruction.
        on_start: of a folder: called with the names of all updates, in their order, before the first.
        on_update: of a folder: called with each update's entry of the summary as it is done.

    Returns:
        the record of one update, or the summary of a folder; `is_whole` says of either whether all is certified exact.

    Raises:
        SpearError: input that cannot be used, or from which no graph follows, in one sentence.

    Examples:
        >>> import spear_jax as sj
        >>> record = sj.audit_graph_update("update.safetensors", "features.json", out="recon")
        >>> [len(one["members"]) for one in record["graphs"]]
        [1]
    """
    path, out = Path(path), Path(out)
    known, name = read_features(features), Path(features).name
    if not path.is_dir():
        return audit_graphs(path, out, known, name, returned, on_stage=on_stage)

    def audited(file: Path, into: Path) -> dict[str, Any]:
        try:
            return entry_of(audit_graphs(file, into, known, name, returned, on_stage=on_stage))
        except Exception as error:
            return refused(error)

    return audit_each(path, out, audited, on_start=on_start, on_update=on_update)


def audit_graphs(
    path: Path,
    out: Path,
    known: FeaturesFile,
    features_name: str,
    returned: Returned = Returned(),
    *,
    on_stage: OnStage | None = None,
) -> dict[str, Any]:
    """Reconstruct the graphs behind one update into a folder.

    Returns:
        The record, as written; where ``returned.resume`` is set and the folder holds one of this very update, that.

    Raises:
        SpearError: an update from which no graph follows, or a folder that holds a reconstruction of another kind.
    """
    update = read_graph_update(path, known, kind=returned.kind, lr=returned.lr)
    if (out / record.INPUTS).exists() or is_text(out):
        raise SpearError(f"{out} holds the reconstruction of another kind of model; give another --out for graphs.")
    if returned.resume and (kept := _finished(out, update)) is not None:
        return kept
    observation = update.observation()
    make_folder(out)
    number = update.metadata.get("num_examples")
    config = ReconstructConfig(num_examples=None if number is None else int(number))
    result = reconstruct(observation, config, on_stage=on_stage)
    content = make_record(result, GraphAudited(update, path, features_name))
    write_graph_record(out, content)
    return content


def entry_of(content: dict[str, Any]) -> dict[str, Any]:
    """What the summary of a folder says of one record."""
    return {
        "update_sha256": content["update_sha256"],
        "layer": None,
        "batch_size": content["num_graphs"],
        "certified": content["certified"],
        "approximate": 0,
        "status": content["status"],
        "seconds": sum(content["seconds"].values()),
        "sentence": content["message"],
    }


def _finished(out: Path, update: GraphUpdate) -> dict[str, Any] | None:
    """The record in the folder, where it is of this update, model and features."""
    if not is_graphs(out):
        return None
    try:
        content = read_graph_record(out)
    except RecordError:
        return None
    is_same = content["update_sha256"] == update.sha256 and content["features"] == features_to_json(update.features)
    return content if is_same and content.get("model") == described(update) else None
