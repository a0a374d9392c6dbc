"""The folder of one reconstruction: ``inputs.safetensors`` (arrays) and ``result.json`` (one record).

The arrays file holds nothing that depends on time or machine, so equal searches give equal bytes.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from spear_jax.audit.diagnose import Finding
from spear_jax.config import ReconstructConfig
from spear_jax.errors import RecordError, SpearError, TensorFileError
from spear_jax.normalization import Normalization
from spear_jax.status import Scale, Status
from spear_jax.tensor_files import atomic_path, read_tensors, write_tensors
from spear_jax.types import Certificate, Result
from spear_jax.update.bundle import Update
from spear_jax.update.dense_layers import DenseLayer

_NEEDED = ("layer", "config", "seed", "update", "image_shape", "normalization")  # by other commands
# Of result.json; records without one are of before it was written, and read as version 1.
FORMAT_VERSION = 1
INPUTS, RECORD, STATE = "inputs.safetensors", "result.json", "state.safetensors"
DERIVED = ("evaluation.json", "index.html", "contact.png", "texts.txt")


class Reconstruction(NamedTuple):
    """What a folder holds.

    Attributes:
        inputs: (r, n).
        directions: (k, r).
        exact: (r,) bool.
        matching: (r,).
        approximate: (r,) bool; False throughout in a folder written before there was such a certificate.
        error: (r,) expected relative error of each input, infinite where unknown, as throughout in such a folder.
        labels: (r,) int labels by the network certificate, `NO_LABEL` where it did not confirm; None without.
        record: the JSON record.
    """

    inputs: np.ndarray
    directions: np.ndarray
    exact: np.ndarray
    matching: np.ndarray
    approximate: np.ndarray
    error: np.ndarray
    labels: np.ndarray | None
    record: dict[str, Any]

    @property
    def normalization(self) -> Normalization | None:
        """How the client normalised its inputs, where the update says."""
        text = self.record.get("normalization")
        return None if text is None else Normalization.from_json(text)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, C) of an input that is an image, where the update says; None for hidden layers."""
        shape = self.record.get("image_shape")
        return None if shape is None else (shape[0], shape[1], shape[2])


class Audited(NamedTuple):
    """What was reconstructed, and how.

    Attributes:
        update: as loaded.
        layer: the layer that was inverted.
        path: where the update is from.
        config: of the reconstruction.
        seed: of its key.
    """

    update: Update
    layer: DenseLayer
    path: str | os.PathLike[str]
    config: ReconstructConfig
    seed: int


def make_record(
    result: Result, audited: Audited, copies: list[int | None] | None = None, why: Sequence[Finding] = ()
) -> dict[str, Any]:
    """One JSON-ready record of a reconstruction: outcome, cost, configuration, versions.

    Args:
        result: of the reconstruction.
        audited: what it is of.
        copies: (r,) how often each input was in the batch, None where that is not certain, or was not asked.
        why: what explains that not every sample is certified.
    """
    update, layer, path, config, seed = audited
    certificate, stats = result.certificate, result.stats
    is_first = layer == update.layers[0]
    normalization = update.normalization if is_first else None
    return {
        "format_version": FORMAT_VERSION,
        "status": result.status.name,
        "message": result.status.value,
        "batch_size": result.batch_size,
        "num_examples": config.num_examples,
        "directions_found": result.directions_found,
        "certified": int(certificate.exact.sum()),
        "approximate": int(certificate.approximate.sum()),
        "copies": copies,
        "notes": notes(result) + _without_network(update, layer),
        "findings": [finding._asdict() for finding in why],
        "layer": layer.name,
        "first_candidates": [one.name for one in update.first_candidates],
        "moved_before": list(update.moved_before(layer.name)),
        "shape": [layer.out_features, layer.in_features],
        "noise_floor": finite(result.noise_floor),
        "gap": finite(result.gap),
        "certificate": {
            "matching_score": finite(certificate.matching_score),
            "weight_residual": finite(certificate.weight_residual),
            "bias_residual": finite(certificate.bias_residual),
            **_error_summary(certificate),
            "labels": None if certificate.labels is None else certificate.labels.tolist(),
            "mean_of": certificate.mean_of.tolist(),
            "scale": certificate.scale.name,
            "factor": finite(certificate.factor),
            "factor_range": [finite(factor) for factor in certificate.factor_range],
            "reason": None if certificate.reason is None else certificate.reason.name,
        },
        "stats": {name: finite(getattr(stats, name)) for name in stats.__dataclass_fields__},
        "config": config.to_json(),
        "seed": seed,
        "update": str(path),
        "update_sha256": update.sha256,
        "observed": _observed(update, layer),
        "layout": update.layout,
        "normalization": None if normalization is None else normalization.to_json(),
        "image_shape": None if update.image_shape is None or not is_first else list(update.image_shape),
        "versions": versions(),
    }


def notes(result: Result) -> list[str]:
    """What the certificate says of the batch as a whole, in sentences: scale, means, labels, contradictions."""
    certificate, found = result.certificate, []
    vouched = certificate.exact | certificate.approximate
    if certificate.reason is not None and vouched.any():  # where nothing is, the findings name it, or a better one
        found.append(certificate.reason.value)
    if math.isnan(certificate.factor):
        found.append(
            "The bias gradient gives no scale that the model accepts (it is rounded, noisy or of other samples): each "
            "sample has the scale at which the layers above confirm it."
        )
    elif certificate.factor != 1:
        found.append(
            f"Kernel and bias gradients were scaled apart: the layers above see every input {certificate.factor:.4g} "
            "times as large as the bias gradient has it, and are believed."
        )
    elif certificate.scale is Scale.BIAS_GRADIENT and (vouched.any() or result.status is Status.CONTRADICTED):
        lowest, highest = certificate.factor_range
        open_ = f"{lowest:.3g} to {highest:.3g}" if lowest > 0 or math.isfinite(highest) else "any"
        found.append(f"{certificate.scale.value} (the patterns allow {open_}).")
    several = certificate.mean_of[certificate.mean_of > 1]
    if len(several):
        found.append(
            f"{len(several)} inputs are means of several samples of one label, equal or too close for the update to "
            f"tell apart ({', '.join(map(str, several))} samples); their error bars hold the distance."
        )
    if certificate.possible_labels is not None:
        open_labels = int(np.sum(certificate.possible_labels.sum(axis=1) > 1))
        if open_labels:
            found.append(f"Of {open_labels} samples several labels fit, so none is named.")
    return found


def _without_network(update: Update, layer: DenseLayer) -> list[str]:
    """Why the layers above confirm nothing, where there are some."""
    if update.local_steps > 1 or layer == update.layers[-1] or update.network(layer.name) is not None:
        return []
    if update.layers[-1].out_features < 2:
        why = "the model has one output, and softmax cross-entropy compares two or more"
    else:
        why = "the dense layers above do not chain to one output"
    return [f"The network certificate is left out, so no label is named: {why}."]


def _error_summary(certificate: Certificate) -> dict[str, float | None]:
    """Median and maximum of the expected errors, over the samples that they hold for; None where there are none."""
    errors = certificate.error[(certificate.exact | certificate.approximate) & np.isfinite(certificate.error)]
    summary = {"error_median": np.median, "error_max": np.max}
    return {name: float(reduce(errors)) if len(errors) else None for name, reduce in summary.items()}


def _observed(update: Update, layer: DenseLayer) -> dict[str, Any]:
    """What the client sent and how it came about, as far as the update says."""
    return {
        "kind": update.kind,
        "dtype": str(update.client_tensors[layer.kernel_name].dtype),
        "local_steps": update.local_steps,
        "lr": float(update.metadata["lr"]) if "lr" in update.metadata else None,
        "defence": update.metadata.get("defence"),
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on, and the backend."""
    found = {"python": platform.python_version(), "backend": jax.default_backend()}
    for name in ("spear-jax", "jax", "jaxlib", "numpy", "scipy", "flax", "optax", "chex"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def write_reconstruction(folder: str | os.PathLike[str], result: Result, record: dict[str, Any]) -> None:
    """Write both files, each whole or not at all, the record last."""
    folder = Path(folder)
    tensors = {
        "inputs": np.asarray(result.inputs),
        "directions": result.directions,
        "exact": result.certificate.exact,
        "matching": result.certificate.matching,
        "approximate": result.certificate.approximate,
        "error": result.certificate.error,
    }
    if result.certificate.labels is not None:
        tensors["labels"] = result.certificate.labels
    described = {name: record[name] for name in ("layer", "image_shape", "normalization", "update_sha256")}
    # One entry: safetensors writes several in an order that changes from call to call.
    write_tensors(folder / INPUTS, tensors, {"reconstruction": json.dumps(described)})
    write_json(folder / RECORD, record)


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_reconstruction(folder: str | os.PathLike[str]) -> Reconstruction:
    """Read a folder that `write_reconstruction` wrote.

    Raises:
        RecordError: no such folder, or one of its files is missing or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(f"{folder} is no folder; give the --out folder of spear-jax reconstruct.")
    refuse_other_format(folder)
    missing = [name for name in (RECORD, INPUTS) if not (folder / name).is_file()]
    if missing:
        raise RecordError(
            f"{folder} holds no finished reconstruction (no {' and no '.join(missing)}); "
            "give the --out folder of spear-jax reconstruct."
        )
    try:
        record = _read_record(folder / RECORD)
        tensors, _ = read_tensors(folder / INPUTS)
        arrays = {name: tensors[name] for name in ("inputs", "directions", "exact", "matching")}
        rank = len(arrays["exact"])
        return Reconstruction(
            **arrays,
            approximate=tensors.get("approximate", np.zeros(rank, bool)),
            error=tensors.get("error", np.full(rank, np.inf)),
            labels=tensors.get("labels"),
            record=record,
        )
    except (OSError, TensorFileError, KeyError, ValueError) as error:
        raise RecordError(f"{folder} holds a damaged reconstruction ({error}); run spear-jax reconstruct.") from error


def refuse_other_format(folder: Path) -> None:
    """Refuse a record of a newer format than this, and one whose inputs were purged; what is damaged is left to others.

    Raises:
        RecordError: it is such a record.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        return
    refuse_newer_format(folder, content)
    if content.get("purged"):
        raise RecordError(
            f"{folder} was purged: its record is kept without what was recovered; run spear-jax reconstruct to recover "
            "it again, or spear-jax report --redact for a page of what is kept."
        )


def refuse_newer_format(folder: Path, content: Mapping[str, Any]) -> None:
    """Refuse the record of a newer format than this.

    Raises:
        RecordError: it is one.
    """
    version = content.get("format_version", 1)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise RecordError(
            f"{folder / RECORD} has format_version {version!r}, and this spear-jax reads up to {FORMAT_VERSION}; "
            "update spear-jax."
        )


def _read_record(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_text())
    missing = [name for name in _NEEDED if name not in record] if isinstance(record, dict) else list(_NEEDED)
    if missing:
        raise SpearError(f"{path.name} lacks {', '.join(missing)}")
    return record


def is_of_family(folder: Path, family: str) -> bool:
    """Whether a folder holds the record of a reconstruction of another family than dense layers."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("family") == family


def read_family_record(
    folder: str | os.PathLike[str], family: str, needed: Sequence[str], check: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """The record of a reconstruction of another family than dense layers.

    Args:
        folder: that holds it.
        family: whose it must be.
        needed: names that it must have.
        check: reads what is in it, and raises where that cannot be.

    Raises:
        RecordError: no such folder, or its record is missing, damaged or of another family.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise RecordError(
            f"{folder} holds no finished reconstruction (no {RECORD}); give the --out folder of spear-jax reconstruct."
        )
    refuse_other_format(folder)
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("family") != family:
            raise SpearError(f"it is none of {family}")
        missing = [name for name in needed if name not in content]
        if missing:
            raise SpearError(f"it lacks {', '.join(missing)}")
        check(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise RecordError(f"{folder} holds a damaged reconstruction ({error}); run spear-jax reconstruct.") from error
    return content


def remove_derived(folder: Path) -> None:
    """Remove a record and what was made of it, before another one is written."""
    for stale in (*DERIVED, RECORD):
        (folder / stale).unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The value with numbers that JSON has no name for replaced by null."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
