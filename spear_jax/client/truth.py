"""The private side of a simulation, kept in a file of its own and read only to score a reconstruction."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from spear_jax import tensor_files
from spear_jax.client.batch import Column
from spear_jax.errors import TruthError
from spear_jax.normalization import Normalization
from spear_jax.update.dense_layers import natural_key
from spear_jax.update.metadata import parse_shape

_CONTENT = "truth"
_INPUT, _GRAD_Z = "input/", "grad_z/"


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """The private side of a simulated update: what the client kept to itself.

    Attributes:
        layer_inputs: (b, n_l) float64 by layer name: what each dense layer took in, first layer first.
        labels: (b,) int64 classes.
        names: what each sample is called.
        images: (b, H, W, C) uint8 pixels, None for a table.
        normalization: of the pixels, None for a table.
        image_shape: (H, W, C), None for a table.
        columns: how the inputs encode a table's columns, empty for images.
        grad_z: (m_l, b) float64 by layer name: ``dL/dZ``, exactly zero where ReLU is off. Empty when it was not kept.
    """

    layer_inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...]
    images: np.ndarray | None = None
    normalization: Normalization | None = None
    image_shape: tuple[int, int, int] | None = None
    columns: tuple[Column, ...] = ()
    grad_z: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the truth to ``.safetensors`` or ``.npz``, atomically.

        Raises:
            TruthError: another extension, or the folder cannot be written.
        """
        tensors = {f"{_INPUT}{name}": inputs for name, inputs in self.layer_inputs.items()}
        tensors |= {f"{_GRAD_Z}{name}": grad_z for name, grad_z in self.grad_z.items()}
        tensors |= {"labels": self.labels} | ({} if self.images is None else {"images": self.images})
        columns = [dataclasses.asdict(column) for column in self.columns]
        metadata = {"content": _CONTENT, "names": json.dumps(self.names), "columns": json.dumps(columns)}
        if self.normalization is not None:
            metadata["normalization"] = self.normalization.to_json()
        if self.image_shape is not None:
            metadata["image_shape"] = json.dumps(self.image_shape)
        write_truth(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Truth:
        """Reads what `save` wrote.

        Raises:
            TruthError: the file cannot be read, or holds something else (an update, for instance).
        """
        tensors, metadata = read_truth(path)
        if metadata.get("content") != _CONTENT or "labels" not in tensors:
            raise TruthError(f"{os.path.basename(path)} is no truth file; pass the one that simulate wrote as --truth.")
        try:
            normalization, shape = metadata.get("normalization"), metadata.get("image_shape")
            return cls(
                layer_inputs=_under(_INPUT, tensors),
                labels=tensors["labels"],
                names=tuple(json.loads(metadata["names"])),
                images=tensors.get("images"),
                normalization=None if normalization is None else Normalization.from_json(normalization),
                image_shape=None if shape is None else parse_shape(shape),
                columns=tuple(_column(record) for record in json.loads(metadata["columns"])),
                grad_z=_under(_GRAD_Z, tensors),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TruthError(f"{os.path.basename(path)} is a damaged truth file: {error}.") from error


def write_truth(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write the tensors of a truth, atomically.

    Raises:
        TruthError: another extension than ``.safetensors`` or ``.npz``, or the folder cannot be written.
    """
    try:
        tensor_files.write_tensors(path, tensors, metadata)
    except tensor_files.TensorFileError as error:
        raise TruthError(str(error)) from error


def read_truth(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and metadata that `write_truth` wrote.

    Raises:
        TruthError: the file cannot be read.
    """
    try:
        return tensor_files.read_tensors(path)
    except tensor_files.TensorFileError as error:
        raise TruthError(str(error)) from error


def _column(record: dict[str, Any]) -> Column:
    fields: dict[str, Any] = record | {"categories": tuple(record["categories"])}
    return Column(**fields)


def _under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    return {name: tensors[prefix + name] for name in sorted(names, key=natural_key)}
