"""Views: what the gradients of a graph network's linear layers say of colours of one level.

A convolution's first weights read what it aggregated, ``dW = D^T A X``, so that rows of A X surely lie in the row
space, and rows of X where A is regular on the classes of equal nodes. Layers within a GIN convolution and a readout by
node read colours themselves, and the weights of SAGE for the node itself read X. Where a layer has a bias, its gradient
is one more column, and what the layer read ends with a 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.graphs.result import ViewSize
from spear_jax.graphs.architecture import Architecture, conv_weights
from spear_jax.graphs.observation import GraphObservation
from spear_jax.row_space import RowSpace, row_space, with_direction

# A view whose directions fill more than this share of its width tells nothing apart.
MOST_FILLED = 0.97


class View(NamedTuple):
    """What one linear layer, or two that read the same nodes, say of colours of a level.

    Attributes:
        name: of the layer.
        level: of the colours that it reads.
        reads: ``"states"``: of nodes, one by one; ``"inner"``: what enters a later layer of a GIN convolution;
            ``"joint"``: rows and states side by side, as a readout by node does.
        place: number of that layer within the convolution, for ``"inner"``.
        found: the row space.
        has_one: whether what is read ends with a 1, for the bias.
        is_guessed: whether one of the directions is none that the gradient shows.
    """

    name: str
    level: int
    reads: str
    place: int
    found: RowSpace
    has_one: bool
    is_guessed: bool = False

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.found.rank

    def guessed(self, direction: np.ndarray) -> View:
        """The view with one more direction (d,), orthogonal to all that the gradient shows."""
        return self._replace(found=with_direction(self.found, direction), is_guessed=True)

    @property
    def size(self) -> ViewSize:
        """What a result says of it."""
        return ViewSize(self.name, self.level, self.rank, len(self.found.space.scale))


def make_views(observation: GraphObservation) -> list[View]:
    """Views of all levels, the lowest first; layers that did not come back, or have no gradient, are left out."""
    architecture, views = observation.architecture, []
    for layer in range(architecture.layers):
        views.append(_state_view(observation, layer))
        if architecture.kind == "gin":
            names = [(f"convs.{layer}.mlp.{place}", place) for place in range(1, architecture.mlp_layers)]
            views += [_view(observation, name, layer + 1, "inner", place) for name, place in names]
    if architecture.readout == "node":
        views.append(_view(observation, "readout.0", architecture.layers, "joint", 0))
    return [view for view in views if view is not None]


def _state_view(observation: GraphObservation, layer: int) -> View | None:
    """Of the states that enter a convolution, if it is regular on classes of equal nodes."""
    name = conv_weights(observation.architecture, layer)[-1]
    gradient = observation.gradients.get(f"{name}.weight")
    return _of(observation, name, gradient, View(name, layer, "states", 0, None, False))  # pyright: ignore


def _view(observation: GraphObservation, name: str, level: int, reads: str, place: int) -> View | None:
    """Of what a layer reads that is not aggregated, with the gradient of its bias where there is one."""
    gradient, bias = (observation.gradients.get(f"{name}.{part}") for part in ("weight", "bias"))
    has_one = gradient is not None and bias is not None
    if gradient is not None and bias is not None:
        gradient = np.concatenate([gradient, bias[:, None]], axis=1)
    return _of(observation, name, gradient, View(name, level, reads, place, None, has_one))  # pyright: ignore


def _of(observation: GraphObservation, name: str, gradient: np.ndarray | None, view: View) -> View | None:
    if gradient is None or not np.any(gradient):
        return None
    rounding = observation.rounding.get(f"{name}.weight", 0.0)
    return view._replace(found=_spanned(gradient, observation.dtype, rounding))


def _spanned(gradient: np.ndarray, dtype: np.dtype, rounding: float) -> RowSpace:
    """The row space of a gradient whose equal columns are taken as one.

    Labels that go together at all nodes have columns that are equal to the last bit: they add singular values of zero,
    which would pass for the noise of the gradient.
    """
    columns, places, counts = np.unique(gradient, axis=1, return_inverse=True, return_counts=True)
    weights = np.sqrt(counts)
    found = row_space(columns * weights.astype(gradient.dtype), dtype, rounding=rounding)
    spread = lambda rows: (np.asarray(rows, np.float64) / weights)[:, places.reshape(-1)]
    space = found.space._replace(
        scale=jnp.ones(gradient.shape[1], dtype), basis=jnp.asarray(spread(found.space.basis), dtype)
    )
    return found._replace(space=space, directions=spread(found.directions))


def is_bent(architecture: Architecture, level: int) -> bool:
    """Whether an activation stands between what makes a level's states and the layer that reads them.

    Without one, states of mixtures are mixtures of states: two neighbourhoods have the sum of two others, and a graph
    of the ones has the gradient of a graph of the others though none of them lies in its row space.
    """
    is_inner = architecture.kind == "gin" and architecture.mlp_layers > 1
    return is_inner or architecture.is_activated[level - 1]


def sieving(architecture: Architecture, views: Sequence[View], level: int) -> list[View]:
    """Views that tell colours of a level apart: those that read them as they are, where there are such."""
    found = [view for view in views if view.level == level and view.rank < MOST_FILLED * len(view.found.space.scale)]
    if architecture.kind != "gin":
        return found
    return [view for view in found if view.reads != "states"] or found
