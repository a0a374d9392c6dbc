"""The observed layer and those above it, in the coordinates of their gradients.

With ``G = left diag(spectrum) right`` an input of the layer is ``x = right^T p``; with the kernel and bias gradient of
a layer above side by side, ``[Gk | gk] = left_k diag(spectrum_k) seen_k``, what that layer saw of the sample,
``[y; 1]``, lies in the span of the rows of ``seen_k`` (docs/span.md, Sec. 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spear_jax import linalg
from spear_jax.activations import Activation
from spear_jax.attacks.dense.above import Between
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.roots.equations import Equations, UserMap, in_dtype, seen_above
from spear_jax.factorization import factorize, is_flat, rounding_floor
from spear_jax.numerics import MIN_GAP, in_float64
from spear_jax.observation import LayerObservation

# Rounding of a client's forward pass, in units of its dtype, and of this side's float64 arithmetic.
FORWARD_ROUNDING, OWN_ROUNDING = 2.5, 1e-13
# Equations for each unknown, with and without kinks, from which one more layer above is not asked.
ENOUGH, ENOUGH_KINKED = 1.25, 2.0
# Times the edge of rounding that a singular value must be to count where steps blur all gaps.
VISIBLE = 8.0
# Units of the gradient's norm up to which its noise is the client's rounding.
QUIET = 10.0
# Random inputs by which the layers' sizes are compared, and by which noise of the inputs is carried upwards.
PROBES = 32


class Upper(NamedTuple):
    """A layer above, float64 on the host.

    Attributes:
        weight: (j, m) its kernel.
        bias: (j,).
        seen: (k, m + 1) orthonormal basis of the row space of ``[G | g]``; the last column is zero without g.
        left: (j, k) of its column space.
        spectrum: (k,) its singular values.
        constant: 1, or 0 without a bias gradient.
        noise: root mean square of an entry's noise.
        is_flat: whether nothing sticks out of the noise beyond the samples.
        is_view: whether what it saw is hidden from none of the samples and shown of nothing else.
    """

    weight: Float[np.ndarray, "j m"]
    bias: Float[np.ndarray, " j"]
    seen: Float[np.ndarray, "k w"]
    left: Float[np.ndarray, "j k"]
    spectrum: Float[np.ndarray, " k"]
    constant: float
    noise: float
    is_flat: bool
    is_view: bool

    def without_constant(self) -> Upper:
        """The same without its bias gradient."""
        turned, spectrum, seen = linalg.svd(self.spectrum[:, None] * self.seen[:, :-1], full_matrices=False)
        seen = np.append(seen, np.zeros((len(seen), 1)), axis=1)
        return self._replace(seen=seen, left=self.left @ turned, spectrum=spectrum, constant=0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """A layer and those above it, float64 on the host; inputs are ``x = (p / spectrum) @ factorization.right``.

    Attributes:
        problem: of the layer.
        uppers: layers above that follow one another, lowest first.
        views: how many of them give equations.
        rounding: error of the activations relative to their size.
        activation: between the layers.
        between: what the next layer sees of pre-activations and inputs; None for the activation alone.
    """

    problem: Problem
    uppers: tuple[Upper, ...]
    views: int
    rounding: float
    activation: Activation
    between: UserMap | None = None

    @property
    def rank(self) -> int:
        """r, samples that the gradient shows."""
        return self.problem.rank

    @property
    def mixes(self) -> bool:
        """Whether no layer above is a view, so that samples are sought by their own gradients."""
        return self.views == 0

    @property
    def seen_ranks(self) -> int:
        """Entries of the vectors that take what the layers above saw of a sample out."""
        return sum(len(upper.spectrum) for upper in self.shortest.uppers)

    @property
    def shortest(self) -> Stack:
        """The stack with no layers but those that the search asks, or the next one alone."""
        return dataclasses.replace(self, uppers=self.uppers[: max(self.views, 1)])

    @property
    def viewing(self) -> tuple[Upper, ...]:
        """The layers above that give equations."""
        return self.uppers[: self.views]

    @cached_property
    def total(self) -> Float[np.ndarray, " r"]:
        """(r,) ``t`` with ``t . p = 1`` for every sample; zero without a bias gradient."""
        return self.problem.left.T @ self.problem.bias_grad / self.problem.spectrum

    @property
    def has_total(self) -> bool:
        """Whether the bias gradient came back."""
        return bool(self.total.any())

    @property
    def has_scale(self) -> bool:
        """Whether a bias gradient says how large samples are."""
        return self.has_total or any(upper.constant for upper in self.viewing)

    @property
    def equations(self) -> int:
        """Equations of the row spaces, and that of the bias gradient."""
        if self.mixes:  # and the mixture, but for its size, is unknown
            return len(self.problem.bias) - self.rank - len(self.uppers[0].spectrum) + 1 + self.has_total
        rows = sum(upper.weight.shape[1] + int(upper.constant) - len(upper.spectrum) for upper in self.viewing)
        return rows + self.has_total

    @property
    def surplus(self) -> int:
        """Equations beyond the unknowns."""
        return self.equations - self.rank

    @property
    def takes_out(self) -> bool:
        """Whether the gradients of a known sample follow: their equations outnumber what mixes them."""
        if self.problem.drift:  # gradients of several steps are sums over different derivatives
            return False
        widths = [len(self.problem.left), *(upper.weight.shape[0] for upper in self.uppers[:-1])]
        return sum(width - self.rank for width in widths) >= len(self.uppers[-1].spectrum) - 1

    def without_bias_gradients(self) -> Stack:
        """The stack as if no bias gradient had come back: its layers' biases alone say how large samples are."""
        uppers = tuple(upper.without_constant() for upper in self.uppers)
        return dataclasses.replace(self, problem=self.problem.without_bias_grad(), uppers=uppers)

    def with_enough_views(self) -> Stack:
        """The stack with as many views as make the search easy, where so many layers came back."""
        if not self.uppers[0].is_view:
            return dataclasses.replace(self, views=0)
        most = next((number for number, upper in enumerate(self.uppers) if not upper.is_view), len(self.uppers))
        enough = (ENOUGH_KINKED if self.activation.is_kinked else ENOUGH) * (self.rank - 1)
        several = [dataclasses.replace(self, views=number) for number in range(1, most + 1)]
        return next((stack for stack in several if stack.equations - self.has_total >= enough), several[-1])

    @cached_property
    def response(self) -> Float[np.ndarray, "m r"]:
        """From p to pre-activations."""
        return self.problem.response / self.problem.spectrum

    @cached_property
    def right(self) -> Float[np.ndarray, "r n"]:
        """From p to inputs where something besides the layer reads them, else (r, 0)."""
        if self.between is None:
            return np.zeros((self.rank, 0))
        return np.asarray(self.problem.factorization.right) / self.problem.spectrum[:, None]

    @cached_property
    def probes(self) -> tuple[Float[np.ndarray, "m c"], Float[np.ndarray, "n c"]]:
        """Random signs for each neuron: their rows have the norms of the kernel's, and are as good as orthogonal."""
        rng, norms = np.random.default_rng(0), self.problem.weight_norms[:, None] / np.sqrt(PROBES)
        z = norms * rng.choice([-1.0, 1.0], size=(len(norms), PROBES))
        return z, rng.choice([-1.0, 1.0], size=(self.right.shape[1], PROBES)) / np.sqrt(PROBES)

    @cached_property
    def whole(self) -> Equations:
        """The equations in p, with no sample taken out, as NumPy arrays in float64."""
        sides = [(upper.seen[:, :-1], upper.seen[:, -1], np.asarray(upper.constant)) for upper in self.viewing]
        back = np.zeros((0, len(self.problem.bias)))
        if self.mixes:
            sides = [(self.problem.left.T, np.zeros(self.rank), np.zeros(()))]
            back = (self.uppers[0].weight.T @ self.uppers[0].left).T
        leaves: dict[str, Any] = dict(
            response=self.response.T,
            bias=self.problem.bias,
            across=self.right,
            start=np.zeros(self.right.shape[1]),
            weights=tuple(upper.weight for upper in self.uppers),
            biases=tuple(upper.bias for upper in self.uppers),
            seen=tuple(seen for seen, _, _ in sides),
            ones=tuple(one for _, one, _ in sides),
            constants=tuple(constant for _, _, constant in sides),
            balance=tuple(np.ones(()) for _ in sides),
            widths=tuple(np.ones(()) for _ in self.uppers),
            slope=np.asarray(self.activation.slope),
            kind=np.asarray(self.activation.kind, np.int32),
            back=back,
            between=self.between,
        )
        plain = Equations(**leaves)
        return plain._replace(**self._sizes(plain))

    def _sizes(self, plain: Equations) -> dict[str, Any]:
        """Balance of the views and widths of the kinks, by what random inputs of the samples' size give."""
        if self.views <= 1:
            return {}
        rng = np.random.default_rng(0)
        points = self.typical + rng.normal(size=(PROBES, self.rank)) * np.linalg.norm(self.typical)
        z = points @ self.response.T + self.problem.bias
        above = lambda *arrays: seen_above(in_dtype(plain, jnp.float64), *map(jnp.asarray, arrays))
        seen = in_float64(above, z, points @ self.right, np.zeros(PROBES))
        rms = [float(np.sqrt(np.mean(part**2))) for part in seen]
        reads = [z, *(part @ upper.weight.T + upper.bias for part, upper in zip(seen, self.viewing[:-1], strict=False))]
        unit = np.sqrt(np.mean(z**2))
        widths = [np.sqrt(np.mean(part**2)) / unit for part in reads]
        widths += [1.0] * (len(self.uppers) - len(widths))
        norms = [np.sqrt(part.shape[1]) * size for part, size in zip(seen, rms, strict=True)]
        return {
            "balance": tuple(np.asarray(norms[0] / norm) for norm in norms),
            "widths": tuple(np.asarray(width) for width in widths),
        }

    @cached_property
    def typical(self) -> Float[np.ndarray, " r"]:
        """(r,) the point of least norm that the bias gradient allows; without one, of the size of pre-activations."""
        if self.has_total:
            return self.total / (self.total @ self.total)
        size = np.linalg.norm(self.response) / np.sqrt(len(self.problem.bias))
        return np.ones(self.rank) / np.sqrt(self.rank) / size


def pose_stack(
    problem: Problem,
    observed: Sequence[LayerObservation],
    activation: Activation,
    between: Between | None = None,
) -> Stack | None:
    """The equations of a layer and those above it; None where they leave nothing to solve.

    Args:
        problem: of the layer.
        observed: the layers above, as observed, lowest first.
        activation: between them.
        between: what the next layer sees of pre-activations and inputs, where that is more than the activation.
    """
    uppers = []
    for layer in observed:
        uppers.append(_upper(problem, layer))
        if problem.drift or not uppers[-1].is_view:  # above a layer that hides nothing no other is asked
            break
    if not uppers or (not uppers[0].is_view and (between is not None or problem.drift)):
        return None
    rounding = max(FORWARD_ROUNDING * problem.client_eps, OWN_ROUNDING)
    first = None if between is None else UserMap(between)
    stack = Stack(problem, tuple(uppers), 1, rounding, activation, first).with_enough_views()
    if problem.noise_in_roundings > QUIET and stack.shortest.takes_out:  # each layer more makes more of the noise
        stack = stack.shortest
    return stack if stack.surplus > 0 and (stack.takes_out or not stack.mixes) else None


def _upper(problem: Problem, layer: LayerObservation) -> Upper:
    """A layer above in the coordinates of its gradient."""
    kernel = np.asarray(layer.weight_grad)
    has_constant = layer.bias_grad is not None
    gradient = np.column_stack([kernel, np.asarray(layer.bias_grad)]) if has_constant else kernel
    most = min(gradient.shape)
    # A sum over steps shows what was seen at the weights of each, the known first ones among them.
    found = factorize(gradient, rank=_visible(gradient, layer) if problem.drift else None, rounding=layer.rounding)
    if not problem.drift and (found.is_full or found.gap < MIN_GAP) and problem.rank < most:
        # Where noise hides the gap the samples are those that this layer shows, as it has the longer rows.
        found = factorize(gradient, rank=problem.rank, rounding=layer.rounding)
    spectrum = np.asarray(found.singular_values)[: found.rank]
    seen = np.asarray(found.right) / spectrum[:, None]
    return Upper(
        weight=np.asarray(layer.weight, np.float64),
        bias=np.zeros(len(kernel)) if layer.bias is None else np.asarray(layer.bias, np.float64),
        seen=seen if has_constant else np.column_stack([seen, np.zeros(len(seen))]),
        left=np.asarray(found.left),
        spectrum=spectrum,
        constant=float(has_constant),
        noise=found.noise_std,
        is_flat=is_flat(found),
        is_view=problem.rank <= found.rank < most,
    )


def _visible(gradient: Float[np.ndarray, "j w"], layer: LayerObservation) -> int:
    """Number of singular values above rounding, however they are spread."""
    spectrum = linalg.svd(gradient.astype(np.float64), compute_uv=False)
    eps = float(np.finfo(np.asarray(layer.weight_grad).dtype).eps)
    floor = rounding_floor(gradient.shape, eps, float(layer.rounding), spectrum)
    return max(int(np.sum(spectrum > VISIBLE * floor)), 1)
