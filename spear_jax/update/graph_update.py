"""One client's update of a graph network: what came back by canonical names, and the observation of it.

The file is a bundle as for any other model: ``global/<name>`` of the network that was sent and ``grad/<name>`` or
``client/<name>`` of what came back, beside string metadata. What features there may be stands in a file of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from spear_jax import tensor_files
from spear_jax.errors import SpearError, UpdateError
from spear_jax.graphs.features import Features
from spear_jax.graphs.observation import GraphObservation
from spear_jax.update import graph_refusals, half_precision
from spear_jax.update.graph_features import FeaturesFile
from spear_jax.update.graph_model import GraphModel, build_model, spelled
from spear_jax.update.graph_names import plain
from spear_jax.update.metadata import PREFIX, require_valid
from spear_jax.update.one_step import nothing_changed, rounding
from spear_jax.update.returned import Returned
from spear_jax.update.weight_change import widen

Tensors = Mapping[str, np.ndarray]
_GLOBAL = "global/"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GraphUpdate:
    """What a server holds of one client's round of a graph network.

    Attributes:
        model: that was sent.
        features: the rows that nodes may have, without the constant column that an encoder's bias adds.
        came_back: gradients, weights or their changes by canonical names, in their stored dtype.
        metadata: strings as of any bundle: ``kind`` (gradient, weights or delta), and where known ``lr``,
            ``local_steps``, ``weight_decay``, ``num_examples``.

    Raises:
        UpdateError: metadata that are wrong, tensors whose shapes are not the model's or that are no real numbers.
    """

    model: GraphModel
    features: Features
    came_back: Tensors
    metadata: Mapping[str, str]

    def __post_init__(self) -> None:
        require_valid(self.metadata)
        for name, tensor in self.came_back.items():
            called = spelled(self.model.naming, name)
            if not half_precision.is_floating(tensor):
                raise UpdateError(f"{called} came back as {tensor.dtype}; expected floating numbers: dequantise it.")
            if tensor.shape != self.model.sent[name].shape:
                raise UpdateError(
                    f"{called} came back with shape {tensor.shape}, but the model's has "
                    f"{self.model.sent[name].shape}; give the model that was sent."
                )

    @property
    def kind(self) -> str:
        """``"gradient"``, ``"weights"`` or ``"delta"``."""
        return self._back.kind

    @property
    def local_steps(self) -> int:
        """SGD steps that the client took; 1 for a gradient and where the bundle does not say."""
        return self._back.local_steps

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of what was sent, of what came back and of the metadata, whatever file they were in."""
        return tensor_files.content_hash((self.model.sent, self.came_back), self.metadata)

    @functools.cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """Gradients of what was trained, or multiples of these, float32 or wider; what is zero is none of them.

        Raises:
            UpdateError: weight decay without a learning rate.
        """
        return self._back.gradients()

    @property
    def untrained(self) -> tuple[str, ...]:
        """Tensors that came back as they were sent, or with a gradient of zero."""
        return tuple(name for name in self.came_back if name not in self.gradients)

    @functools.cached_property
    def is_half(self) -> str | None:
        """``"bfloat16"`` or ``"float16"`` where gradients or changes were rounded to it, also if widened since."""
        if self.kind == "weights":
            return None
        return half_precision.kind_among(self.came_back[name] for name in self.gradients)

    @functools.cached_property
    def refusals(self) -> tuple[str, ...]:
        """Why no graph follows from this exactly, whoever searches: a sentence each, none where nothing is known."""
        return graph_refusals.refusals(self._evidence)

    @functools.cached_property
    def limits(self) -> tuple[str, ...]:
        """What keeps whole graphs from following although something does, a sentence each."""
        return graph_refusals.limits(self._evidence)

    def observation(self) -> GraphObservation:
        """What an attack sees.

        Weights and changes are turned into the gradient of the client's step, without weight decay; where the learning
        rate is not known, into a multiple of it.

        Raises:
            UpdateError: the first of `refusals`, or numbers that cannot be used (NaN, all zero).
        """
        if not self.gradients:
            raise UpdateError(nothing_changed(self.kind))
        self._require_finite()
        if self.refusals:
            raise UpdateError(self.refusals[0])
        encoder, gradients, rounding = self.model.encoder, self.gradients, self._rounding()
        if encoder is not None:
            gradients, rounding = encoder.gradients(gradients), encoder.rounding(gradients, rounding)
        try:
            return GraphObservation(
                architecture=self.model.architecture,
                features=self.features if encoder is None else encoder.features(self.features),
                params=self.model.params,
                gradients=gradients,
                rounding=rounding,
            )
        except SpearError as error:
            raise UpdateError(str(error)) from error

    def _require_finite(self) -> None:
        for name, gradient in self.gradients.items():
            if not np.isfinite(gradient).all():
                called = spelled(self.model.naming, name)
                raise UpdateError(f"{called} holds NaN or infinite values: the update is corrupt or training diverged.")

    @functools.cached_property
    def _back(self) -> Returned:
        return Returned(self.model.sent, {name: widen(t) for name, t in self.came_back.items()}, self.metadata)

    @functools.cached_property
    def _evidence(self) -> graph_refusals.Evidence:
        return graph_refusals.Evidence(self.model, self.features, self._back, self.gradients)

    def _rounding(self) -> dict[str, float]:
        """Root mean square error of an entry from rounding: of weights, or of gradients to half precision."""
        if self.kind == "weights" or (self.kind == "delta" and self.is_half is None):
            return rounding(self._back, self.gradients)
        if self.is_half is None:
            return {}
        return {name: half_precision.rounding(gradient, 1.0) for name, gradient in self.gradients.items()}


def read_graph_update(
    path: str | os.PathLike[str], known: FeaturesFile, *, kind: str | None = None, lr: float | None = None
) -> GraphUpdate:
    """Read what a client returned of a graph network.

    Args:
        path: a bundle, ``.safetensors`` or ``.npz``, with the network that was sent.
        known: what the features file says.
        kind: what came back, ``"gradient"``, ``"weights"`` or ``"delta"``; goes before what the metadata say.
        lr: learning rate of the client's SGD, likewise.

    Raises:
        UpdateError: a file that cannot be read, no kind, no network, one that cannot be inverted, names that it does
            not have; further as `GraphUpdate`.
    """
    path = Path(path)
    try:
        tensors, metadata = tensor_files.read_tensors(path)
        metadata.pop("format", None)  # of PyTorch's files, which says nothing of the update
        given = {"kind": kind, "lr": None if lr is None else str(lr)}
        metadata |= {key: value for key, value in given.items() if value is not None}
        if "kind" not in metadata and any(name.startswith(PREFIX["gradient"]) for name in tensors):
            metadata["kind"] = "gradient"
        require_valid(metadata)
        sent = _under(_GLOBAL, tensors, "the network that was sent")
        back = _under(PREFIX[metadata["kind"]], tensors, "what came back")
        model = build_model(sent, known.features, known.model)
        came_back = _named(back, sent, model)
        return GraphUpdate(
            model=model, features=known.features, came_back=came_back, metadata=MappingProxyType(metadata)
        )
    except SpearError as error:
        raise UpdateError(f"{path.name}: {error}") from error


def _under(prefix: str, tensors: Tensors, what: str) -> dict[str, np.ndarray]:
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not found:
        raise UpdateError(
            f"it holds no tensors named {prefix}<name>, {what}; make a bundle of both with spear-jax bundle."
        )
    return found


def _named(back: Tensors, sent: Tensors, model: GraphModel) -> dict[str, np.ndarray]:
    """What came back by canonical names.

    Raises:
        UpdateError: a name that the network does not have.
    """
    called = {plain(name): name for name in sent}
    found: dict[str, np.ndarray] = {}
    for name, tensor in back.items():
        own = called.get(plain(name))
        if own is None:
            shown = ascii(name[:120])[1:-1]
            raise UpdateError(f"{shown} came back, but the model has no such tensor; give the model that was sent.")
        laid = model.canonical(own, tensor)
        if laid is not None:
            found[laid[0]] = laid[1]
    if not found:
        raise UpdateError("no tensor of the graph network is among what came back; expected gradients of its layers.")
    return found
