"""From prefixes to sequences: where each one ends, how often it was there, and how the loss weighs it.

A label behind a prefix is the token with which a sequence goes on. What comes in at a prefix and does not go out again
ended there: so weights of labels, which add up over the sequences that share a prefix, count the sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spear_jax.attacks.text.prefixes import Grown

# Share of what goes into a prefix that is left there by rounding.
LEFT_OVER = 0.02
# Noise makes sequences of up to this part of the weight of a true one.
HEAVY = 0.4
# Weights of equal sequences agree to this part of themselves.
SAME_WEIGHT = 0.05


class Sequence(NamedTuple):
    """One sequence of the batch.

    Attributes:
        tokens: (n,) ids; where the next token was predicted with the last one, which only the loss saw.
        label: its class, where the batch was classified; None where the next token was predicted.
        weight: of each of its predictions in the loss, up to one common factor, of all copies together.
        start: place of the first prediction: the tokens up to it were masked in the loss, as a prompt is.
        copies: how often it was in the batch, as a multiple of the rarest: gradients are known up to a factor; 0 where
            the weights do not tell.
    """

    tokens: np.ndarray
    label: int | None
    weight: float
    start: int
    copies: int

    @property
    def inputs(self) -> np.ndarray:
        """The tokens that entered the model."""
        return self.tokens if self.label is not None else self.tokens[:-1]

    @property
    def predictions(self) -> int:
        """Places that the loss weighs."""
        return len(self.inputs) - self.start


def pruned(grown: Grown) -> Grown:
    """What grew without runs of one token that nothing else follows: their states are those of a single token."""
    nodes = grown.nodes
    is_run, keeps = np.zeros(len(nodes), bool), np.ones(len(nodes), bool)
    for place, node in enumerate(nodes):
        is_run[place] = node.parent < 0 or (is_run[node.parent] and nodes[node.parent].token == node.token)
        keeps[place] = not (is_run[place] and node.depth > 0)
    for place in reversed(range(len(nodes))):
        if keeps[place] and nodes[place].parent >= 0:
            keeps[nodes[place].parent] = True
    moved = np.cumsum(keeps) - 1
    kept = [
        node._replace(parent=-1 if node.parent < 0 else int(moved[node.parent]))
        for place, node in enumerate(nodes)
        if keeps[place]
    ]
    return Grown(kept)


def following(grown: Grown) -> list[dict[int, int]]:
    """Of each prefix, ``{token: place of the prefix that it leads to}``."""
    children: list[dict[int, int]] = [{} for _ in grown.nodes]
    for place, node in enumerate(grown.nodes):
        if node.parent >= 0:
            children[node.parent][node.token] = place
    return children


def predicted_sequences(grown: Grown, weights: list[dict[int, float]]) -> list[Sequence]:
    """The sequences of a batch of which every next token was predicted.

    Args:
        grown: the prefixes.
        weights: of each prefix, ``{label: weight}``.
    """
    children, found = following(grown), []
    for place, labels in enumerate(weights):
        for label, weight in labels.items():
            child = children[place].get(label)
            rest = weight - (sum(weights[child].values()) if child is not None else 0.0)
            if rest > LEFT_OVER * weight:
                tokens = np.append(grown.tokens(place), label)
                found.append(Sequence(tokens, None, rest, _start(grown, weights, place), 0))
    return found


def classified_sequences(grown: Grown, weights: list[dict[int, float]]) -> list[Sequence]:
    """The sequences of a batch each of which was classified at its last token.

    Args:
        grown: the prefixes.
        weights: of each prefix, ``{class: weight}``, empty where nothing ended.
    """
    return [
        Sequence(grown.tokens(place), label, weight, grown.nodes[place].depth, 0)
        for place, labels in enumerate(weights)
        for label, weight in labels.items()
    ]


def alike(sequences: list[Sequence], per_sequence: bool) -> list[Sequence]:
    """The heavy ones among the sequences, each once: all predictions of one weight, or all sequences of one in all."""
    heaviest = max(one.weight for one in sequences)
    sequences = [one for one in sequences if one.weight > HEAVY * heaviest]
    return counted([one._replace(weight=1.0 / one.predictions if per_sequence else 1.0) for one in sequences])


def _start(grown: Grown, weights: list[dict[int, float]], place: int) -> int:
    """Depth of the first prefix on the way to one that the loss weighs."""
    start = grown.nodes[place].depth
    while place >= 0:
        if weights[place]:
            start = grown.nodes[place].depth
        place = grown.nodes[place].parent
    return start


def counted(sequences: list[Sequence]) -> list[Sequence]:
    """The sequences with how often each was there, and weights that are whole multiples of one.

    The loss is a mean or sum over all predictions, so that all weights are multiples of one; or it is a mean over each
    sequence first, so that weights times lengths are. Where both could be and tell other numbers, none is told.
    """
    weights = np.array([sequence.weight for sequence in sequences])
    predictions = np.array([sequence.predictions for sequence in sequences], np.float64)
    read = [(size, *_multiples(weights * size)) for size in (np.ones(len(weights)), predictions)]
    found = [(size, unit, copies) for size, unit, copies in read if copies is not None]
    if not found:
        return sequences
    size, unit, copies = found[0]
    told = copies if all(np.array_equal(copies, other) for _, _, other in found) else np.zeros(len(copies))
    return [
        one._replace(weight=float(unit * count / part), copies=int(number))
        for one, count, part, number in zip(sequences, copies, size, told, strict=True)
    ]


def _multiples(values: np.ndarray) -> tuple[float, np.ndarray | None]:
    """The unit whose whole multiples the values are, and which; None where there is none."""
    if not len(values):
        return 0.0, None
    unit = float(values.min())
    copies = np.round(values / unit)
    unit = float(np.sum(values * copies) / np.sum(copies**2))
    return unit, copies if np.all(np.abs(values - unit * copies) <= SAME_WEIGHT * unit) else None
