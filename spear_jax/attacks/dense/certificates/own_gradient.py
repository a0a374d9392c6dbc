"""What one sample alone sends back: the known network forward and backward on its input (docs/method.md, Sec. 6).

Labels are found without a backward pass for each: for w outside the column space ``w . D(y) = (J w) . softmax -
(J w)_y``, so one forward derivative of a few random w scores all classes at once. Where the softmax has two classes
left, or there are but two, both labels give one direction: the derivative along ``left p`` is ``p . left^T D(y)``,
whose sign tells them apart, as no sample counts with a negative weight. A sample that the network is sure of sends back
little: derivatives are taken from those of its likeliest class, and an entry ``softmax_y - 1`` is the sum of the
others, so that nothing is lost to cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spear_jax import numerics
from spear_jax.attacks.dense.above import Layers
from spear_jax.attacks.dense.certificates import limits
from spear_jax.attacks.dense.problem import Problem
from spear_jax.numerics import float64_namespace
from spear_jax.stages import stage

# Random vectors that score the labels, and what makes them: part of the algorithm, not of the experiment.
PROBES, PROBE_SEED = 2, 0
# Entries of the arrays of one batch of samples (128 MiB in float64).
BATCH_ENTRIES = 2**24
# Samples are padded to a power of two of these where programs are compiled.
BUCKET = 16
# Gradients of two labels are on one line where they miss the column space by as much, up to rounding.
SAME_LINE = 100.0


class Own(NamedTuple):
    """What the network says of k inputs, each taken for a sample of the batch.

    Attributes:
        labels: (k,) the likeliest label y of each.
        gradients: (m, k) ``D(y) = J^T (softmax - e_y)``.
        surprise: (k,) norm of ``softmax - e_y``.
        outside: (m, k) ``D(y)`` of unit norm less its part in the column space.
        directions: (k, r) unit rows, the direction that each gives; zero where nothing is in the column space.
        is_open: (k,) whether a neuron above is so close to zero that it may have been off for the client.
        misses: (k, c) distance of every label's gradient, of unit norm, from the column space, squared: an estimate.
        lines: (k, c) every label's gradient over that of the likeliest, where they lie on one line.
    """

    labels: Int[np.ndarray, " k"]
    gradients: Float[np.ndarray, "m k"]
    surprise: Float[np.ndarray, " k"]
    outside: Float[np.ndarray, "m k"]
    directions: Float[np.ndarray, "k r"]
    is_open: Bool[np.ndarray, " k"]
    misses: Float[np.ndarray, "k c"]
    lines: Float[np.ndarray, "k c"]

    @property
    def distance(self) -> Float[np.ndarray, " k"]:
        """Distance of each gradient, of unit norm, from the column space."""
        return np.linalg.norm(self.outside, axis=0)

    @property
    def reaches(self) -> Bool[np.ndarray, " k"]:
        """Whether anything of the gradient lies in the column space."""
        return np.any(self.directions != 0, axis=1)


@stage("network")
def own_gradients(problem: Problem, dual: Float[np.ndarray, "k r"], labels: Int[np.ndarray, " k"] | None = None) -> Own:
    """Label, gradient and direction that the network gives each input, in batches of samples.

    Args:
        problem: of the layer, with the model above.
        dual: (k, r) dual vectors, ``x = dual @ right``.
        labels: (k,) where they are known; of the others nothing is asked then, and a third of the work remains.
    """
    xp: Any = float64_namespace()
    left, network = problem.left, _on_device(problem)
    if labels is None:
        along, probes = left @ dual.T, xp.asarray(np.concatenate(_probes(left), axis=1))
        ask = lambda seen, places: _any_label(network, seen, probes, xp.asarray(along[:, places]))
    else:
        told = labels
        ask = lambda seen, places: _told_label(network, seen, xp.asarray(told[places]))
    labels, misses, lines, gradients, surprise, nearest = _in_batches(problem, dual, ask)
    inside = left.T @ gradients
    size = np.linalg.norm(gradients, axis=0)
    outside = (gradients - left @ inside) / np.where(size > 0, size, 1)
    directions = (inside / np.maximum(np.linalg.norm(inside, axis=0), np.finfo(float).tiny)).T
    is_open = nearest <= limits.OPEN * problem.client_eps
    return Own(labels, gradients, surprise, outside, directions, is_open, misses.T, lines.T)


@stage("network")
def label_misses(problem: Problem, dual: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k c"]:
    """How far every label's gradient sticks out of the column space along one random vector, largest 1.

    That takes a forward pass with one derivative, two sevenths of `own_gradients`. The label of a sample of the batch
    misses by nearly nothing next to the others, if there are others and the network is not sure of it; of a wrong
    input all labels miss by as much.

    Args:
        problem: of the layer, with the model above.
        dual: (k, r) dual vectors, ``x = dual @ right``.
    """
    xp: Any = float64_namespace()
    network, probe = _on_device(problem), xp.asarray(_probes(problem.left)[0][:, :1])
    (scores,) = _in_batches(problem, dual, lambda seen, _: (_one_probe(network, seen, probe),))
    largest = scores.max(axis=0)
    return (scores / np.where(largest > 0, largest, 1.0)).T


def _probes(left: Float[np.ndarray, "m r"]) -> tuple[np.ndarray, np.ndarray]:
    """Random vectors less their part in the column space, and whole, both (m, p)."""
    whole = np.random.default_rng(PROBE_SEED).standard_normal((len(left), PROBES))
    return whole - left @ (left.T @ whole), whole


def _on_device(problem: Problem) -> list[tuple[Any, Any, Any]]:
    """Kernels, biases and norms of the kernels' rows of the layers above."""
    xp: Any = float64_namespace()
    layers = layers_of(problem)
    assert problem.above is not None
    return [
        (xp.asarray(weight), xp.asarray(bias), xp.asarray(norms))
        for (weight, bias), norms in zip(layers, problem.above.kernel_norms, strict=True)
    ]


def _in_batches(
    problem: Problem, dual: Float[np.ndarray, "k r"], ask: Callable[[Any, np.ndarray], tuple[Any, ...]]
) -> list[np.ndarray]:
    """What ``ask`` says of samples, from their pre-activations (m, j) and places, joined along the last axis."""
    xp: Any = float64_namespace()
    pre_activation = problem.response @ dual.T + problem.bias[:, None]
    parts = []
    for place in _batches(len(dual), layers_of(problem)):
        count = place.stop - place.start
        places = numerics.in_bucket(count, BUCKET) + place.start
        said = ask(xp.asarray(pre_activation[:, places]), places)
        parts.append([np.asarray(part)[..., :count] for part in said])
    return [np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)]


def layers_of(problem: Problem) -> Layers:
    """The model above, where the caller knows that there is one."""
    assert problem.above is not None
    assert problem.above.layers is not None
    return problem.above.layers


def logits_of(
    layers: Layers, pre_activation: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c m"]]:
    """Logits of one sample, and their derivative by the pre-activations of the observed layer.

    Args:
        layers: above it, as `above.check_network` returns them.
        pre_activation: (m,) of the sample.
    """
    masks, hidden = [pre_activation > 0], np.maximum(pre_activation, 0)
    for weight, bias in layers[:-1]:
        hidden = weight @ hidden + bias
        masks.append(hidden > 0)
        hidden = np.maximum(hidden, 0)
    weight, bias = layers[-1]
    jacobian = weight * masks[-1]
    for (inner, _), mask in zip(reversed(layers[:-1]), reversed(masks[:-1]), strict=True):
        jacobian = (jacobian @ inner) * mask
    return weight @ hidden + bias, jacobian


def _batches(count: int, layers: Layers) -> Iterator[slice]:
    """So many samples in batches that fit."""
    widest = max(max(weight.shape) for weight, _ in layers)
    step = max(1, BATCH_ENTRIES // (2 * PROBES * widest))
    return (slice(start, min(start + step, count)) for start in range(0, max(count, 1), step))


@numerics.compiled
def _any_label(layers: Any, pre_activation: Any, probes: Any, along: Any) -> tuple[Any, ...]:
    """Labels, misses and lines, gradients, surprise and nearest of one batch."""
    passed = _forward(layers, pre_activation)
    told = _label(layers, passed, probes, along)
    return (*told, *_backward(layers, passed, told[0]), passed.nearest)


@numerics.compiled
def _one_probe(layers: Any, pre_activation: Any, probe: Any) -> Any:
    """``|w . D(y)|`` of every label y for one probe w (m, 1), (c, k)."""
    passed = _forward(layers, pre_activation)
    tangents = probe * passed.masks[0]
    for (weight, _, _), mask in zip(layers[:-1], passed.masks[1:], strict=True):
        tangents = (weight @ tangents) * mask
    return abs(_scores(passed.softmax, (layers[-1][0] @ tangents)[:, :, None])[:, :, 0])


@numerics.compiled
def _told_label(layers: Any, pre_activation: Any, labels: Any) -> tuple[Any, ...]:
    """The same where nothing is asked of any other label."""
    xp: Any = float64_namespace()
    passed = _forward(layers, pre_activation)
    is_label = xp.arange(len(passed.softmax))[:, None] == labels
    told = labels, xp.where(is_label, 0.0, np.inf), xp.where(is_label, 1.0, 0.0)
    return (*told, *_backward(layers, passed, labels), passed.nearest)


class _Pass(NamedTuple):
    """The network forward on k samples.

    Attributes:
        masks: (w, k) of each layer, the observed one first: the neurons that fire.
        softmax: (c, k).
        nearest: (k,) how near zero a neuron above is, over what it sums.
    """

    masks: list[Any]
    softmax: Any
    nearest: Any


def _forward(layers: Any, pre_activation: Any) -> _Pass:
    """The pass of (m, k) pre-activations of the observed layer."""
    xp: Any = float64_namespace()
    masks, hidden = [pre_activation > 0], xp.maximum(pre_activation, 0)
    nearest = xp.full(pre_activation.shape[1], np.inf)
    for weight, bias, norms in layers[:-1]:
        size = norms[:, None] * xp.linalg.norm(hidden, axis=0) + abs(bias)[:, None]
        hidden = weight @ hidden + bias[:, None]
        nearest = xp.minimum(nearest, xp.min(abs(hidden) / xp.where(size > 0, size, np.inf), axis=0))
        masks.append(hidden > 0)
        hidden = xp.maximum(hidden, 0)
    weight, bias, _ = layers[-1]
    logits = weight @ hidden + bias[:, None]
    odds = xp.exp(logits - logits.max(axis=0))
    return _Pass(masks, odds / odds.sum(axis=0), nearest)


def _label(layers: Any, passed: _Pass, probes: Any, along: Any) -> tuple[Any, Any, Any]:
    """The likeliest labels, and the misses and lines of all (`Own`), both (c, k).

    Args:
        layers: above.
        passed: forward.
        probes: (m, 2 p) random vectors, outside the column space and whole.
        along: (m, k) ``left p``.
    """
    xp: Any = float64_namespace()
    # Derivatives along the probes, (width, k, p), through the neurons that fire.
    shared = xp.broadcast_to(probes[:, None, :], (*along.shape, probes.shape[1]))
    tangents = xp.concatenate([shared, along[:, :, None]], axis=2) * passed.masks[0][:, :, None]
    for (weight, _, _), mask in zip(layers[:-1], passed.masks[1:], strict=True):
        tangents = _apply(weight, tangents) * mask[:, :, None]
    scores = _scores(passed.softmax, _apply(layers[-1][0], tangents))
    scores, weights = scores[:, :, :-1], scores[:, :, -1]
    outside, whole = (xp.sum(part**2, axis=2) for part in xp.split(scores, 2, axis=2))
    misses = xp.where(whole > 0, outside / xp.where(whole > 0, whole, 1.0), np.inf)
    labels = _likeliest(misses, weights > 0)
    chosen = xp.take_along_axis(scores, labels[None, :, None], axis=0)
    size = xp.sum(chosen**2, axis=2)
    return labels, misses, xp.sum(scores * chosen, axis=2) / xp.where(size > 0, size, 1.0)


def _backward(layers: Any, passed: _Pass, labels: Any) -> tuple[Any, Any]:
    """``D(y)``, (m, k), and the norm of ``softmax - e_y``."""
    xp: Any = float64_namespace()
    is_label = xp.arange(len(passed.softmax))[:, None] == labels
    others = xp.where(is_label, 0.0, passed.softmax)
    gradient = xp.where(is_label, -others.sum(axis=0), others)
    surprise = xp.linalg.norm(gradient, axis=0)
    for (weight, _, _), mask in zip(reversed(layers), reversed(passed.masks), strict=True):
        gradient = (weight.T @ gradient) * mask
    return gradient, surprise


def _scores(softmax: Any, tangents: Any) -> Any:
    """``w . D(y)`` of every label y and probe w, (c, k, 2 p + 1), from (c, k) softmax and the logits' derivatives."""
    xp: Any = float64_namespace()
    top = xp.argmax(softmax, axis=0)
    tangents = tangents - xp.take_along_axis(tangents, top[None, :, None], axis=0)
    return xp.einsum("ck,ckp->kp", softmax, tangents)[None] - tangents


def _likeliest(misses: Any, is_positive: Any) -> Any:
    """The label whose gradient lies in the column space best; of several on one line, one of positive weight."""
    xp: Any = float64_namespace()
    is_as_good = misses <= SAME_LINE * misses.min(axis=0)
    return xp.argmin(xp.where(is_as_good & is_positive, 0.0, misses), axis=0)


def _apply(weight: Any, tangents: Any) -> Any:
    """A kernel (o, i) on derivatives (i, k, p)."""
    size = tangents.shape
    return (weight @ tangents.reshape(size[0], size[1] * size[2])).reshape(len(weight), *size[1:])
