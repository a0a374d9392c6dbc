"""The label behind each sequence's last known token, from whatever gradients of the last block came back.

Adapters of the attention alone do not show the output gradients one by one (`outputs`). But all labels inside a
sequence are known, being the tokens that follow, and the one at its end is one of V: gradients are linear in what flows
back into the block, and that is linear in the label's row of the output layer. A few hundred random combinations of
the gradient's entries tell the labels apart; the derivative of the block along a random direction of its parameters
gives the same combination of any candidate's gradient. Where sequences were classified nothing inside one is weighed,
and the weights of all classes of all sequences together are one non-negative least-squares problem.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

from spear_jax import linalg
from spear_jax.attacks.text.certificate import TINY, as_batch
from spear_jax.attacks.text.outputs import LEAST_WEIGHT, Top
from spear_jax.attacks.text.sequences import Sequence
from spear_jax.language.architecture import Architecture
from spear_jax.language.backward import outside_blocks, states, through_top
from spear_jax.language.linear import Params
from spear_jax.language.observation import TextObservation
from spear_jax.language.transformer import after_block, block_params
from spear_jax.stages import stage

# Random combinations of the gradient's entries.
COMBINATIONS = 384
# Assignments of labels that are followed.
BEAM = 12
# What is left of combinations that are explained, as a part of them.
SETTLED = 1e-3
# Two passes that leave the same part of the gradient are the last.
PROGRESS = 1e-3


class Ends(NamedTuple):
    """What the combinations see of each sequence.

    Attributes:
        inside: (B, c) of the labels inside it, each of weight one.
        at_end: (B, c, d) per what flows back into the block at its last token.
        final: (B, d) state of its last token behind the block.
    """

    inside: np.ndarray
    at_end: np.ndarray
    final: np.ndarray


@stage("text: labels")
def read_last_labels(observation: TextObservation, params: Params, paths: list[np.ndarray]) -> list[Sequence]:
    """Sequences with their last labels, as well as these can be told; the certificate decides.

    Args:
        observation: what came back.
        params: the model's tensors on the device.
        paths: tokens of the sequences that entered the model.

    Returns:
        none where nothing of the last block came back.
    """
    architecture = observation.architecture
    seen = block_params(architecture, observation.gradients, architecture.layers - 1)
    if not seen:
        return []
    wanted, ends = _combined(observation, params, seen, paths)
    if architecture.classes:
        return _classified(Top(architecture, params), ends, wanted, paths)
    labels, weights = _chosen(
        Top(architecture, params), ends, wanted, np.array([len(path) for path in paths], np.float64)
    )
    return [
        Sequence(np.append(path, label), None, float(weight), 0, 0)
        for path, label, weight in zip(paths, labels, weights, strict=True)
        if weight > 0
    ]


def _combined(
    observation: TextObservation, params: Params, seen: Params, paths: list[np.ndarray]
) -> tuple[np.ndarray, Ends]:
    """Random combinations (c,) of what came back, and the same of each sequence's gradient."""
    architecture = observation.architecture
    is_classified = architecture.classes > 0
    batch = as_batch([Sequence(path, 0 if is_classified else None, 1.0, 0, 1) for path in paths], observation.dtype)
    entered = states(architecture, params, batch.tokens, batch.is_token)
    count = max(sum(len(path) - 1 for path in paths), 1)
    if is_classified:
        flowing = jnp.zeros_like(entered[-1])
    else:
        flowing = through_top(architecture, outside_blocks(architecture, params), entered[-1], batch)[1] * count
    last = jnp.asarray(np.maximum(np.sum(np.asarray(batch.is_token), axis=1) - 1, 0))
    block = block_params(architecture, params, architecture.layers - 1)
    keys = jax.random.split(jax.random.key(0), COMBINATIONS)  # part of the algorithm: any combinations will do
    wanted, inside, at_end = _combinations(
        architecture, block, {name: jnp.asarray(tensor) for name, tensor in seen.items()}, keys,
        (entered[-2], batch.is_token, flowing, last),
    )  # fmt: skip
    count = len(paths)
    final = np.asarray(entered[-1])[np.arange(count), np.asarray(last)[:count]]
    by_sequence = np.swapaxes(np.asarray(at_end), 0, 1)
    return np.asarray(wanted, np.float64), Ends(np.asarray(inside).T[:count], by_sequence[:count], final)


@partial(jax.jit, static_argnums=0)
def _combinations(
    architecture: Architecture, block: Params, seen: Params, keys: jax.Array, flows: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Along random directions: of the gradient (c,), of what is inside each sequence (c, B), of its end (c, B, d)."""
    state, is_token, flowing, last = flows
    fixed = {name: tensor for name, tensor in block.items() if name not in seen}
    moving = {name: tensor for name, tensor in block.items() if name in seen}
    through = lambda moving: after_block(architecture, {**moving, **fixed}, 0, state, is_token)

    def along(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        parts = jax.random.split(key, len(moving))
        direction = {
            name: jax.random.normal(part, tensor.shape, tensor.dtype) / jnp.sqrt(jnp.mean(seen[name] ** 2))
            for part, (name, tensor) in zip(parts, sorted(moving.items()), strict=True)
        }
        moved = jax.jvp(through, (moving,), (direction,))[1]
        combined = jnp.sum(jnp.stack([jnp.sum(direction[name] * seen[name]) for name in moving]))
        at_end = jnp.take_along_axis(moved, last[:, None, None], axis=1)[:, 0]
        return combined, jnp.sum(moved * flowing, axis=(1, 2)), at_end

    return jax.lax.map(along, keys)


def _classified(top: Top, ends: Ends, wanted: np.ndarray, paths: list[np.ndarray]) -> list[Sequence]:
    """Sequences with the classes under which the combinations come closest, a sequence for each class it has.

    What flows back for each class, weighed by the model's own prediction p, adds up to nothing; so weights of classes
    are known up to multiples of p, of which as much is taken off as leaves none negative.
    """
    expected = top.expected(ends.final)
    columns = [_at_end(top, ends, expected, place) for place in range(len(paths))]
    weights = nnls(np.concatenate(columns, axis=1).astype(np.float64), wanted)[0].reshape(len(paths), top.size)
    shares = top.shares(ends.final).astype(np.float64)
    weights = weights - np.min(weights / shares, axis=1, keepdims=True) * shares
    least = LEAST_WEIGHT * float(weights.max(initial=0.0))
    return [
        Sequence(path, label, float(weight), len(path) - 1, 0)
        for path, of_path in zip(paths, weights, strict=True)
        for label, weight in enumerate(of_path)
        if weight > least
    ]


def _chosen(top: Top, ends: Ends, wanted: np.ndarray, lengths: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Labels and weights of the sequences with which the combinations come closest.

    The loss is a mean over predictions or over sequences first, so weights are equal or go with one over the length;
    copies and what else there may be are left to a search with free weights.
    """
    expected = top.expected(ends.final)
    everything = [_at_end(top, ends, expected, place) for place in range(len(ends.inside))]
    inside = ends.inside.astype(np.float64)
    tried = [_with_shares(shares, inside, everything, wanted) for shares in (np.ones(len(lengths)), 1 / lengths)]
    best = min(tried, key=lambda one: one[2])
    if best[2] > SETTLED * np.linalg.norm(wanted):
        best = min(best, _with_free_weights(inside, everything, wanted), key=lambda one: one[2])
    return best[0], best[1]


def _with_shares(
    shares: np.ndarray, inside: np.ndarray, everything: list[np.ndarray], wanted: np.ndarray
) -> tuple[list[int], np.ndarray, float]:
    """Labels, weights, and what is left, where weights go with given shares: a beam, each label looked at in turn."""
    beam: list[list[int]] = [[-1] * len(shares)]
    squares = [np.sum(np.square(part), axis=0) for part in everything]
    column = lambda labels, place: everything[place][:, labels[place]] if labels[place] >= 0 else np.zeros(len(wanted))
    left_before = np.inf
    while True:
        for place, part in enumerate(everything):
            grown = {}
            for labels in beam:
                total = shares @ inside + sum(shares[one] * column(labels, one) for one in range(len(shares)))
                common = max(float(wanted @ total) / max(float(total @ total), TINY), TINY)
                scale = common * shares[place]
                rest = wanted - common * total + scale * column(labels, place)
                left = rest @ rest - 2 * scale * (rest.astype(part.dtype) @ part) + scale**2 * squares[place]
                for label in np.argpartition(left, BEAM)[:BEAM]:
                    grown[tuple(labels[:place] + [int(label)] + labels[place + 1 :])] = float(left[label])
            beam = [list(labels) for labels in sorted(grown, key=grown.__getitem__)[:BEAM]]
        total = shares @ inside + sum(shares[one] * column(beam[0], one) for one in range(len(shares)))
        common = max(float(wanted @ total) / max(float(total @ total), TINY), 0.0)
        left_now = float(np.linalg.norm(wanted - common * total))
        if left_now > (1 - PROGRESS) * left_before:
            return beam[0], common * shares, left_now
        left_before = left_now


def _with_free_weights(
    inside: np.ndarray, everything: list[np.ndarray], wanted: np.ndarray
) -> tuple[list[int], np.ndarray, float]:
    """Labels, weights, and what is left, one sequence at a time against what the others leave."""
    columns, labels, before = inside.T.copy(), [0] * len(everything), np.inf
    while True:
        for place, part in enumerate(everything):
            candidates = part + inside[place][:, None].astype(part.dtype)
            others = linalg.qr(np.delete(columns, place, axis=1))[0].astype(part.dtype)
            apart = candidates - others @ (others.T @ candidates)
            rest = wanted - others @ (others.T @ wanted)
            scores = rest.astype(part.dtype) @ apart / np.maximum(np.linalg.norm(apart, axis=0), TINY)
            labels[place] = int(np.argmax(scores))
            columns[:, place] = candidates[:, labels[place]]
        weights, left = nnls(columns, wanted)
        if left > (1 - PROGRESS) * before:
            return labels, weights, float(left)
        before = left


def _at_end(top: Top, ends: Ends, expected: np.ndarray, place: int) -> np.ndarray:
    """(c, V) combinations of the gradient of one sequence's last prediction, for each label."""
    flows = expected[place][None] - top.pulled(ends.final[place], np.arange(top.size))
    return ends.at_end[place] @ flows.T
