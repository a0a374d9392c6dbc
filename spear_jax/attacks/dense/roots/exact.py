"""Roots in float64: sharpened on all equations, judged by the noise, and the gradients that take a sample out.

A sample's own gradient is ``d = act'(z) o (W2^T d2)``, and so on upwards, until ``dk`` in the column space of a layer's
gradient, whose size is all that is left open: linear in it, so the weights above give the gradients of all layers, and
the equations left over confirm the sample by the other side of the gradients (docs/span.md, Sec. 1, *dual*).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spear_jax import linalg
from spear_jax.activations import apply
from spear_jax.attacks.dense.roots.equations import (
    Equations,
    best_mixture,
    first_seen,
    placed,
    seen_above,
    with_mixture,
)
from spear_jax.attacks.dense.roots.found import Found, none_found, rest_of
from spear_jax.attacks.dense.roots.newton import Course, descend
from spear_jax.attacks.dense.roots.stack import Stack
from spear_jax.numerics import in_float64, search_matmul
from spear_jax.stages import stage

# Lanes of a compiled program; fewer are padded.
LANES, DUAL_LANES = 32, 8
# Newton steps of a polish, those where gradients of few classes mix, which halve the error each, and its damping: it
# starts at a root.
POLISH_STEPS, MIXED_STEPS, POLISH_DAMPING = 8, 40, 1e-9
# Deviations of a pre-activation within which a kink counts, and the change of the derivative that makes one.
UNDECIDED, KINK = 4.0, 0.25
# What noise is expected to leave outside the column spaces may be exceeded so many times before other layers are asked.
WRONG_CHAIN = 8.0


class Sides(NamedTuple):
    """All that a float64 program needs of the layers.

    Attributes:
        equations: in p, with no sample taken out.
        left, spectrum, total: of the layer, as `Stack` and `Problem` have them.
        lefts, spectra: of the layers above.
        probes: (m, c) and (n, c), what noise of the inputs of unit size does to pre-activations, and to what reads the
            inputs too; as many as show its size, not its law.
        noise: () of the layer's gradient, per entry.
        noises: () of the layers above each.
        rounding: () error of the activations relative to their size.
    """

    equations: Equations
    left: Float[Array, "m r"]
    spectrum: Float[Array, " r"]
    total: Float[Array, " r"]
    lefts: tuple[Array, ...]
    spectra: tuple[Array, ...]
    probes: tuple[Array, Array]
    noise: Float[Array, ""]
    noises: tuple[Array, ...]
    rounding: Float[Array, ""]

    @property
    def has_total(self) -> Float[Array, ""]:
        """1 where the bias gradient came back, else 0."""
        return jnp.any(self.total != 0).astype(self.total.dtype)


def sides_of(stack: Stack) -> Sides:
    """The layers as arrays in float64."""
    scalar = lambda value: np.asarray(value, np.float64)
    leaves: dict[str, Any] = dict(
        equations=stack.whole,
        left=stack.problem.left,
        spectrum=stack.problem.spectrum,
        total=stack.total,
        lefts=tuple(upper.left for upper in stack.uppers),
        spectra=tuple(upper.spectrum for upper in stack.uppers),
        probes=stack.probes,
        noise=scalar(stack.problem.factorization.noise_std),
        noises=tuple(scalar(upper.noise) for upper in stack.uppers),
        rounding=scalar(stack.rounding),
    )
    return Sides(**leaves)


def in_lanes(function: Any, points: Float[np.ndarray, "k r"], lanes: int = LANES) -> tuple[np.ndarray, ...]:
    """``function(points)`` in float64, in blocks of one shape; every result has the points along its first axis."""
    blocks = []
    for start in range(0, max(len(points), 1), lanes):
        block = points[start : start + lanes]
        padding = np.ones((lanes - len(block), points.shape[1])) if len(block) == 0 else block[-1:]
        padding = np.broadcast_to(padding, (lanes - len(block), points.shape[1]))
        results = in_float64(function, np.concatenate([block, padding]))
        blocks.append([result[: len(block)] for result in results])
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))


@stage("polish")
def polish(stack: Stack, points: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k r"]:
    """Points after a few Newton steps on the equations of all neurons, with no sample taken out."""
    rest = rest_of(stack, none_found(stack))
    free = rest.basis.shape[1]
    if free == 0:
        return points
    place = np.zeros((len(points), rest.equations.response.shape[0]))
    place[:, :free] = (points - rest.origin) @ rest.basis
    steps = np.int32(MIXED_STEPS if stack.mixes else POLISH_STEPS)
    (ended,) = in_lanes(partial(_sharpen, rest.equations, steps), place)
    return rest.origin + ended[:, :free] @ rest.basis.T


@jax.jit
def _sharpen(equations: Equations, steps: Int[Array, ""], place: Float[Array, "l q"]) -> tuple[jax.Array]:
    place = with_mixture(equations, place, jnp.zeros(len(place)))
    course = Course(jnp.zeros(len(place)), steps, jnp.asarray(False), POLISH_DAMPING)
    return (descend(equations, place, course).place,)


def scores(stack: Stack, points: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """Squared residual of each point over what noise and rounding explain, per equation left over: near 1 for roots."""
    if stack.mixes:
        found = _by_chain(stack, points)
        return (found.outside / found.expected) ** 2
    whitened, _, _ = in_lanes(partial(_residuals, sides_of(stack)), points)
    return whitened / stack.surplus


def noise_cost(stack: Stack, points: Float[np.ndarray, "k r"]) -> Float[np.ndarray, " k"]:
    """Squared residual that noise and rounding explain, relative to the activations."""
    if stack.mixes:
        return _by_chain(stack, points).expected ** 2
    _, expected, size = in_lanes(partial(_residuals, sides_of(stack)), points)
    return expected / size


@jax.jit
def _residuals(sides: Sides, points: jax.Array) -> tuple[jax.Array, ...]:
    """Squared residuals over their variance, what noise makes of them, and the size of what is seen, balanced both."""
    equations = sides.equations
    z, x = placed(equations, points)
    hidden, push = jax.linearize(lambda z, x: seen_above(equations, z, x, jnp.zeros(len(points))), z, x)
    shaken = jax.vmap(lambda z, x: push(jnp.tile(z, (len(points), 1)), jnp.tile(x, (len(points), 1))))(
        *(probe.T for probe in sides.probes)
    )
    own = jnp.sum((points / sides.spectrum[None]) ** 2, axis=1) * sides.noise**2
    whitened, expected, size = (jnp.zeros(len(points)) for _ in range(3))
    for number, (seen, shake) in enumerate(zip(hidden, shaken, strict=True)):
        rows, one, constant = equations.seen[number], equations.ones[number], equations.constants[number]
        inside = search_matmul(seen, rows.T) + constant * one[None]
        left = seen - search_matmul(inside, rows)
        residual = jnp.sum(left**2, axis=1) + (constant * (1 - search_matmul(inside, one))) ** 2
        later = jnp.sum((inside / sides.spectra[number][None]) ** 2, axis=1) * sides.noises[number] ** 2
        guessed = sides.rounding**2 * jnp.mean(seen**2, axis=1)
        variance = own * jnp.mean(jnp.sum(shake**2, axis=0), axis=1) + later + guessed
        count, balance = seen.shape[1] + constant - len(rows), equations.balance[number] ** 2
        whitened = whitened + residual / variance
        expected, size = expected + balance * count * variance, size + balance * jnp.sum(seen**2, axis=1)
    return whitened, expected, size


@stage("take out")
def with_duals(stack: Stack, points: Float[np.ndarray, "k r"]) -> Found:
    """The points with the duals of all layers, by all layers above, or by the next one where these do not hold."""
    after = stack.seen_ranks
    if not stack.takes_out:
        nothing = np.zeros((len(points), after))
        return Found(points, _without_layers(points), nothing, np.zeros(len(points)), np.zeros(len(points)))
    found = _by_chain(stack, points)
    shorter = stack.shortest
    wrong = found.outside > WRONG_CHAIN * found.expected
    if len(shorter.uppers) == len(stack.uppers) or not shorter.takes_out or not wrong.any():
        return found
    other = _by_chain(shorter, points)
    better = wrong & (other.outside * found.expected < found.outside * other.expected)
    pick = lambda new, old: np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return Found(*(pick(new, old) for new, old in zip(other, found, strict=True)))


def _without_layers(points: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k r"]:
    """Vectors of least norm with ``p_i . q_j = delta_ij``: the duals where all points are known."""
    return linalg.pinv(points).T


def _by_chain(stack: Stack, points: Float[np.ndarray, "k r"]) -> Found:
    return Found(points, *in_lanes(partial(_duals, sides_of(stack)), points, DUAL_LANES))


@jax.jit
def _duals(sides: Sides, points: jax.Array) -> tuple[jax.Array, ...]:
    """The fields of `Found` but for the points."""
    return jax.vmap(partial(_dual, sides))(points)


class _Side(NamedTuple):
    """Gradients of one layer as mixtures of the columns of a matrix, and its column space.

    Attributes:
        columns: (m, c) the gradient is one mixture of these; zero where it is not known of a neuron.
        left: (m, r) orthonormal, of the column space on the neurons of which it is known.
        within: (r, c) what of the columns lies there.
        whole: (r, r) leads from there to the column space of all neurons.
        noise: () of the layer's gradient.
        spectrum: (r,) its singular values.
    """

    columns: Float[Array, "m c"]
    left: Float[Array, "m r"]
    within: Float[Array, "r c"]
    whole: Float[Array, "r r"]
    noise: Float[Array, ""]
    spectrum: Float[Array, " r"]

    def dual(self, mixture: jax.Array) -> jax.Array:
        """(r,) q, along ``L^T d / spectrum`` of the gradient d that a mixture gives."""
        return self.whole @ (self.within @ mixture) / self.spectrum


def _dual(sides: Sides, point: jax.Array) -> tuple[jax.Array, ...]:
    """Duals of all layers at one point: the mixture of the top layer's gradients that fits all column spaces best."""
    seen, chain, decided = _chain(sides, point)
    mixture = best_mixture([side.columns for side in chain], [side.within for side in chain])
    duals = [side.dual(mixture) for side in chain]
    outside, expected = _shares(sides, chain, mixture, duals)
    is_seen = jnp.sum(decided) >= len(duals[0]) + len(mixture)  # else the column space holds anything
    outside = jnp.where(is_seen, outside, jnp.inf)
    scale = duals[0] @ point
    after = [*duals[1:], mixture / sides.spectra[-1]]
    if len(sides.equations.back):
        return duals[0] / scale, after[0] / scale, outside, expected
    after = [dual / (dual @ inside) for dual, inside in zip(after[: len(seen)], seen, strict=True)]
    return duals[0] / scale, jnp.concatenate(after), outside, expected


def _shares(
    sides: Sides, chain: list[_Side], mixture: jax.Array, duals: list[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Share of the gradients outside the column spaces, and what noise and rounding put there."""
    outside, expected = jnp.zeros(()), jnp.zeros(())
    for side, dual in zip(chain, duals, strict=True):
        gradient = side.columns @ mixture
        size = jnp.sum(gradient**2)
        outside = outside + jnp.sum((gradient - side.left @ (side.within @ mixture)) ** 2) / size
        expected = expected + len(gradient) * side.noise**2 * jnp.sum(dual**2) / size + sides.rounding**2
    return jnp.sqrt(outside), jnp.sqrt(expected)


def _chain(sides: Sides, point: jax.Array) -> tuple[list[jax.Array], list[_Side], jax.Array]:
    """Per view its coordinates of what it saw, the layers' gradients from the layer itself upwards, what is decided."""
    equations, none = sides.equations, jnp.zeros(1)
    z, x = placed(equations, point[None])
    y, pull = jax.vjp(lambda z: first_seen(equations, z, x, none), z)
    hidden, slopes = [y[0]], []
    for weight, bias in zip(equations.weights[:-1], equations.biases[:-1], strict=True):
        y, slope = apply(equations.kind, equations.slope, (weight @ hidden[-1] + bias)[None], none)
        hidden.append(y[0])
        slopes.append(slope[0])
    columns, chain = sides.lefts[-1], []
    layers = zip(equations.weights[1:], slopes, sides.lefts, sides.noises, sides.spectra, strict=False)
    for weight, slope, left, noise, spectrum in reversed(list(layers)):
        columns = slope[:, None] * (weight.T @ columns)
        chain.insert(0, _Side(columns, left, left.T @ columns, jnp.eye(len(spectrum)), noise, spectrum))
    back = equations.weights[0].T @ columns
    columns = jax.vmap(lambda change: pull(change[None])[0][0], 1, 1)(back)
    decided = _is_decided(sides, point, z[0])
    chain.insert(0, _decided_side(sides, columns, decided))
    pairs = zip(equations.seen, equations.ones, equations.constants, hidden, strict=False)
    return [rows @ seen + one * constant for rows, one, constant, seen in pairs], chain, decided


def _is_decided(sides: Sides, point: jax.Array, z: jax.Array) -> jax.Array:
    """(m,) 1 for neurons of which the noise of the input leaves no doubt on which side of a kink they are, else 0."""
    equations = sides.equations
    if equations.between is not None:
        return jnp.ones(len(z))
    own = sides.noise * jnp.sqrt(jnp.sum((point / sides.spectrum) ** 2))
    reach = UNDECIDED * own * jnp.sqrt(jnp.sum(sides.probes[0] ** 2, axis=1))
    _, (low, high) = apply(equations.kind, equations.slope, jnp.stack([z - reach, z + reach]), jnp.zeros(2))
    return jnp.where(jnp.abs(high - low) > KINK, 0.0, 1.0)


def _decided_side(sides: Sides, columns: jax.Array, decided: jax.Array) -> _Side:
    """The layer itself by the neurons that are decided: one that a kink has wrong would spoil the whole gradient."""
    columns, left = columns * decided[:, None], sides.left * decided[:, None]
    factor = jnp.linalg.cholesky(left.T @ left)
    left = jax.scipy.linalg.solve_triangular(factor, left.T, lower=True).T
    whole = jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(factor)), lower=True).T
    return _Side(columns, left, left.T @ columns, whole, sides.noise, sides.spectrum)
