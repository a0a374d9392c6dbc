"""Views: for each input of a block's linear layers, the row space of the gradients of the layers that read it.

``dL/dW = D^T X`` for a layer that read the rows of X, so these lie in the row space of its gradient; of an adapter
``W + s B A`` it is the gradient of A that has such rows (Hu et al. 2021; DAGER, Petrov et al. 2024, Sec. 4). Layers
that read the same input show the same rows and are stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spear_jax.language.architecture import Architecture
from spear_jax.language.linear import LORA_A
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import ROLES, family, module_names
from spear_jax.row_space import Space, row_space
from spear_jax.stages import stage

# Block and role of the input that is of one token, not yet of those before it.
FIRST = (0, "qkv")
# A view whose directions fill more than this share of its width tells nothing apart.
MOST_FILLED = 0.97
# Relative rounding error, root mean square, of a number that was rounded to half precision.
HALF = {"bfloat16": 2.0**-8 / np.sqrt(12), "float16": 2.0**-11 / np.sqrt(12)}
# Of the smallest numbers of that precision, which are even apart: what rounding is off by at least.
SMALLEST = {"float16": 2.0**-24 / np.sqrt(12)}
# Noise up to this many times that of rounding to the gradient's dtype is the client's arithmetic.
MOST_ROUNDING = 30.0
# Times that rows and columns are scaled in turn.
EVENING = 6


class ViewSize(NamedTuple):
    """How many directions the gradients show of one input of a block.

    Attributes:
        layer: number of the block.
        role: which of its inputs: ``"qkv"``, ``"o"``, ``"up"`` or ``"down"``.
        rank: directions above the noise.
        width: length of the input.
        rows: rows of the gradients: an adapter's rank, of all that read the input together.
    """

    layer: int
    role: str
    rank: int
    width: int
    rows: int


class View(NamedTuple):
    """What the gradients say of one input of a block.

    Attributes:
        layer: number of the block.
        role: which of its inputs, one of `ROLES`.
        space: that the input must lie in.
        gradient: (rank, d) float64 orthogonal rows, of the size that the stacked gradients have along them, columns
            scaled as the space has them.
        noise: root mean square of the noise of an entry of ``gradient``.
        rows: rows of the gradients that were stacked.
        least: root mean square of what rounding alone makes of an entry of the stack.
        stack: (rows, d) the gradients themselves, columns scaled.
        is_complete: whether the gradients of all rounds weigh every place (of the first input those of the values do,
            of queries and keys not), and were not rounded to half precision, which hides weak ones.
    """

    layer: int
    role: str
    space: Space
    gradient: np.ndarray
    noise: float
    rows: int
    least: float
    stack: np.ndarray
    is_complete: bool

    @property
    def rank(self) -> int:
        """Number of directions of the space."""
        return len(self.gradient)

    @property
    def width(self) -> int:
        """d, length of the input."""
        return self.space.basis.shape[1]

    @property
    def size(self) -> ViewSize:
        """What a result says of it."""
        return ViewSize(self.layer, self.role, self.rank, self.width, self.rows)

    @property
    def shows_tokens(self) -> bool:
        """Whether it is the first one, of tokens by themselves; all others are of beginnings of sequences."""
        return (self.layer, self.role) == FIRST

    @property
    def is_full(self) -> bool:
        """Whether the directions fill the space, so that nothing is told apart."""
        return self.rank > MOST_FILLED * self.width

    @property
    def is_noise_known(self) -> bool:
        """Whether what lies below the directions is rounding: weak directions pass for noise where it is more."""
        return self.noise <= MOST_ROUNDING * self.least

    @property
    def is_capped(self) -> bool:
        """Whether the gradients have no more rows than directions: there may be more inputs than these."""
        return self.rank >= self.rows


class Rows(NamedTuple):
    """A gradient with rows in the span of what a module read, scaled to a root mean square of one.

    Attributes:
        gradient: (rows, d).
        rounding: of an entry, in its units.
        half: relative error of each entry by rounding to half precision, 0 where there was none.
    """

    gradient: np.ndarray
    rounding: float
    half: float


def observed_rows(observation: TextObservation, layer: int, role: str) -> list[Rows]:
    """Gradients of the modules that read one input of a block, those that came back.

    Args:
        observation: what came back.
        layer: number of the block.
        role: which input.
    """
    return [found for name in module_names(observation.architecture, layer, role) for found in _rows(observation, name)]


def _rows(observation: TextObservation, module: str) -> list[Rows]:
    found = []
    for name, is_in_out in ((f"{module}.weight", family(observation.architecture).IS_IN_OUT), (module + LORA_A, False)):
        gradient = observation.gradients.get(name)
        if gradient is None or not np.any(gradient):
            continue
        gradient = gradient.T if is_in_out else gradient
        size = float(np.sqrt(np.mean(np.square(gradient, dtype=np.float64))))
        rounding = max(observation.rounding.get(name, 0.0), SMALLEST.get(observation.is_half or "", 0.0))
        half = HALF.get(observation.is_half or "", 0.0)
        found.append(Rows(gradient / gradient.dtype.type(size), rounding / size, half))
    return found


def make_view(observation: TextObservation, layer: int, role: str, also: Sequence[TextObservation] = ()) -> View | None:
    """The view of one input of a block, None where no module that reads it came back.

    Args:
        observation: what came back.
        layer: number of the block.
        role: which input.
        also: further rounds in which the same tokens have the same input, stacked below the first one.
    """
    rounds = (observation, *also)
    blocks = [rows for one in rounds for rows in observed_rows(one, layer, role)]
    if not blocks:
        return None
    gradient, rounding = np.concatenate([one.gradient for one in blocks]), max(one.rounding for one in blocks)
    scale = np.ones(gradient.shape[1])
    if any(one.half for one in blocks):
        least = float(np.finfo(gradient.dtype).eps)  # rounds that were not rounded may stand beside those that were
        noise = [np.hypot(max(one.half, least) * one.gradient, rounding) for one in blocks]
        gradient, scale = _even(gradient, np.concatenate(noise))
        rounding = 1.0
    found = row_space(gradient, observation.dtype, rounding=rounding, scale=scale)
    own = float(np.finfo(gradient.dtype).eps * np.sqrt(np.mean(np.square(gradient, dtype=np.float64))))
    return View(
        layer, role, found.space, found.directions, found.noise,
        rows=len(gradient), least=max(own, rounding), stack=gradient,
        is_complete=not any(one.half for one in blocks) and all(_weighs_all(one, layer, role) for one in rounds),
    )  # fmt: skip


def _weighs_all(observation: TextObservation, layer: int, role: str) -> bool:
    """Whether the last module that reads an input came back: the values, where queries and keys read it too."""
    return bool(_rows(observation, module_names(observation.architecture, layer, role)[-1]))


@stage("text: views")
def make_views(observation: TextObservation, layers: Sequence[int], also: Sequence[TextObservation] = ()) -> list[View]:
    """Views that show every prefix, of some blocks, in the order in which their inputs are computed.

    The first view alone is of tokens, not of prefixes, and further rounds add to it.

    Args:
        observation: what came back.
        layers: numbers of the blocks.
        also: further rounds, see `rounds.require_same_inputs`.
    """
    views = [
        make_view(observation, layer, role, also if (layer, role) == FIRST else ())
        for layer in layers
        for role in telling_roles(observation.architecture, layer)
    ]
    return [view for view in views if view is not None]


def telling_roles(architecture: Architecture, layer: int) -> tuple[str, ...]:
    """The inputs of a block whose gradients weigh every prefix.

    Of the last block these are only queries, keys and values: behind its attention, only places that the loss weighs
    have a gradient. Where sequences were classified there is none: all that flows back there comes from one place of
    each sequence, in as many directions as there are heads, whatever its length.
    """
    if layer < architecture.layers - 1:
        return ROLES
    return () if architecture.classes and layer > 0 else ROLES[:1]


def _even(gradient: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A gradient with rows and columns scaled until the noise of all is of size one, and the scale of the columns.

    Rounding to half precision is off by a part of each entry, so the noise of large rows and columns hides the
    directions of small ones. Rows do not matter to a row space, and columns are scaled in the inputs too (Sinkhorn and
    Knopp's iteration, on squares).

    Args:
        gradient: (rows, d).
        noise: (rows, d) standard deviation of the error of each entry.
    """
    rows, scale = np.ones((len(gradient), 1)), np.ones(gradient.shape[1])
    for _ in range(EVENING):
        rows = rows / _sizes(noise * rows * scale, 1)[:, None]
        scale = scale / _sizes(noise * rows * scale, 0)
    return gradient * rows * scale, scale


def _sizes(matrix: np.ndarray, axis: int) -> np.ndarray:
    """Root mean squares along an axis, 1 for what is zero."""
    sizes = np.sqrt(np.mean(np.square(matrix), axis=axis))
    return np.where(sizes > 0, sizes, 1)


def telling(views: Sequence[View]) -> list[View]:
    """The views that every prefix must fit: those with the most directions, one for each prefix of the batch.

    A view that shows fewer has lost some below its noise, tokens that the model was sure of mostly, and what is lost
    does not fit it. The first one shows tokens, not prefixes, and one that is full tells nothing apart.
    """
    of_prefixes = [view for view in views if not view.shows_tokens and not view.is_full]
    most = max((view.rank for view in of_prefixes), default=0)
    return [view for view in of_prefixes if view.rank == most]
