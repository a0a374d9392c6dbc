"""A linear layer before the first convolution, as FederatedScope-GNN has it, folded into the convolution's weights.

Convolutions of kinds gcn and gin mix nodes linearly before their weights, ``A (X E^T + 1 e^T) W^T = A [X, 1] (W [E,
e])^T``,
so encoder and convolution are one convolution of rows with a constant column more. Its gradient G solves
``W^T G = [dE, de]`` where W has full rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.graphs.features import Block, Features

Tensors = Mapping[str, np.ndarray]
WEIGHT, BIAS = "encoder.weight", "encoder.bias"
KINDS = ("gcn", "gin")
# Of the first convolution's weights: beyond it, rounding drowns what the encoder's gradient says.
MOST_CONDITION = 1e5
CONSTANT = "constant"


class Encoder(NamedTuple):
    """An encoder and the convolution behind it.

    Attributes:
        weight: (h, c) E.
        bias: (h,) e, None without.
        first: name of the convolution's weights, canonical.
        behind: (out, h) W.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    first: str
    behind: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """(h, c) or (h, c + 1): E and, where there is one, e."""
        return self.weight if self.bias is None else np.concatenate([self.weight, self.bias[:, None]], axis=1)

    def params(self, params: Tensors) -> dict[str, np.ndarray]:
        """The network's tensors without the encoder."""
        own = {name: tensor for name, tensor in params.items() if name not in (WEIGHT, BIAS)}
        return own | {self.first: self.behind @ self.whole}

    def gradients(self, gradients: Tensors) -> dict[str, np.ndarray]:
        """Gradients of the network without the encoder.

        Where the encoder's did not come back whole, the first convolution has none.
        """
        own = {name: tensor for name, tensor in gradients.items() if name not in (WEIGHT, BIAS, self.first)}
        names = [WEIGHT] + ([BIAS] if self.bias is not None else [])
        if any(name not in gradients for name in names):
            return own
        parts = [gradients[WEIGHT]] + ([gradients[BIAS][:, None]] if self.bias is not None else [])
        found = self._inverse @ np.concatenate(parts, axis=1).astype(np.float64)
        return own | {self.first: found.astype(gradients[WEIGHT].dtype)}

    def rounding(self, gradients: Tensors, rounding: Mapping[str, float]) -> dict[str, float]:
        """Root mean square of rounding errors, of the folded weights what the encoder's become."""
        own = {name: error for name, error in rounding.items() if name not in (WEIGHT, BIAS)}
        if WEIGHT not in gradients:
            return own
        gradient = gradients[WEIGHT]
        error = np.hypot(rounding.get(WEIGHT, 0.0), np.finfo(gradient.dtype).eps * np.sqrt(np.mean(gradient**2)))
        grown = np.linalg.norm(self._inverse) / np.sqrt(len(self._inverse))
        return own | {self.first: float(grown * error)}

    def features(self, features: Features) -> Features:
        """Features with the constant column, where the encoder has a bias."""
        if self.bias is None:
            return features
        possible = features.possible
        if possible is not None:
            possible = np.concatenate([possible, np.ones((len(possible), 1))], axis=1)
        blocks = (*features.blocks, Block(CONSTANT, ("1",))) if features.blocks else ()
        return dataclasses.replace(features, blocks=blocks, possible=possible)

    @property
    def _inverse(self) -> np.ndarray:
        """(out, h) what turns gradients of the encoder into those of the folded weights."""
        return np.linalg.pinv(self.behind.T.astype(np.float64))


def find_encoder(params: Tensors, kind: str, first: str, called: str) -> Encoder | None:
    """The encoder of a network, None without.

    Args:
        params: tensors by canonical names, the encoder's among them.
        kind: of the convolutions.
        first: canonical name of the first convolution's weights.
        called: what the file calls the encoder.

    Raises:
        UpdateError: another kind of convolution, shapes that do not fit, or weights behind it that are singular.
    """
    if WEIGHT not in params:
        return None
    if kind not in KINDS:
        raise UpdateError(
            f"{called}: a linear layer stands before a convolution of kind {kind}, which has several weights for it; "
            f"exact inversion of it is not here, only before {' and '.join(KINDS)}."
        )
    weight, bias, behind = params[WEIGHT], params.get(BIAS), params[first]
    if weight.ndim != 2 or behind.ndim != 2 or behind.shape[1] != weight.shape[0]:
        raise UpdateError(
            f"{called} has shape {weight.shape}, which the first convolution ({behind.shape}) does not take."
        )
    sizes = np.linalg.svd(behind, compute_uv=False)
    if len(behind) > behind.shape[1] or sizes[-1] * MOST_CONDITION < sizes[0]:
        raise UpdateError(
            f"{called}: the convolution behind it has weights of shape {behind.shape} that cannot be inverted, so that "
            f"the "
            "encoder's gradient does not tell what it read."
        )
    return Encoder(weight, bias, first, behind)
