"""What a reconstruction ended with, in one sentence each with the numbers at hand."""

from __future__ import annotations

from collections.abc import Sequence

from spear_jax.attacks.graphs.result import GraphClass
from spear_jax.attacks.graphs.views import View


def no_rows(number: int | None) -> str:
    """No row fits, or more than can be looked through."""
    if number is None:
        return "more than 50000 beginnings of rows fit the gradient (blocks mix); give the possible rows in a list."
    return "no possible row lies in the span of the first convolution's gradient; give the features of this model."


def attention(count: int) -> str:
    """Only rows of an attention network are read."""
    return (
        f"{count} rows fit; attention mixes nodes behind its weights, so that neighbourhoods are not read: rows only."
    )


def one_layer(count: int) -> str:
    """No layer reads neighbourhoods."""
    return f"{count} rows fit; the update has one layer with node inputs, and neighbourhoods need a second: rows only."


def capacity(view: View, needed: int, activation: str) -> str:
    """A layer shows fewer directions than there are neighbourhoods at least."""
    agree = (
        " (ReLU units agree on all nodes, as in trained networks, or it is too narrow)" if activation == "relu" else ""
    )
    return f"{view.name} shows {view.rank} directions for at least {needed} neighbourhoods{agree}: rows only."


def unexplained(view: View, missing: int, activation: str) -> str:
    """Neighbourhoods that fit are not all that are there."""
    agree = " (ReLU units agree on several of them, as in trained networks, or it is too narrow)" * (
        activation == "relu"
    )
    return (
        f"the neighbourhoods that fit explain {view.rank - missing} of the {view.rank} directions of {view.name}, so "
        f"that others do not lie in its span{agree}: rows only."
    )


def no_neighbourhoods(view: View, rows: int) -> str:
    """Neighbourhoods do not fit together."""
    return (
        f"{rows} rows fit, but no neighbourhoods of these explain the {view.rank} directions of {view.name}; "
        "a list of possible rows tells more: rows only."
    )


def too_large(degree: int, most: int) -> str:
    """A node has more neighbours than are tried."""
    return f"a node has {degree} neighbours, more than the {most} that are tried; raise max_degree: rows only."


def no_bias(name: str) -> str:
    """The pooled vector is not known."""
    return f"no gradient of {name}'s bias came back, or it is zero: the pooled vector is unknown; neighbourhoods only."


def too_many_colours(number: int) -> str:
    """Colours are too many to be weighed."""
    return f"{number} colours of the highest level are possible, too many to be weighed: neighbourhoods only."


def no_counts(stars: int, outputs: int) -> str:
    """No counts of colours give the pooled vector."""
    more = (
        "several graphs of one output cannot be told apart, or"
        if outputs == 1
        else "there are more graphs than outputs, or"
    )
    return f"no counts of colours of {stars} neighbourhoods give the pooled vector: {more} neighbourhoods are missing."


def not_apart(graphs: int, outputs: int) -> str:
    """More graphs than outputs."""
    return f"at least {graphs} graphs but {outputs} directions of outputs: the graphs cannot be told apart."


def not_told(found: int, rank: int) -> str:
    """Fewer graphs than the outputs show."""
    return (
        f"{found} graphs were put together, but the outputs show {rank} or more: without the others none is certified."
    )


def not_assembled(missing: int, found: int) -> str:
    """Counts of which no graph can be put together."""
    return f"colours of {missing} of {found} graphs were counted, but no graph with these was put together in time."


def not_reproduced(residual: float, limit: float) -> str:
    """What was assembled has another gradient."""
    return (
        f"the gradient of what was assembled differs by {residual:.1e} of its size, more than {limit:.1e}: nothing is "
        "certified."
    )


def parts() -> str:
    """What was assembled may be several graphs."""
    return (
        "a graph that was assembled is not connected, and its parts as a batch have the gradient too: nothing is "
        'certified; say "is_connected" in the features where all graphs are.'
    )


def of_classes(classes: Sequence[GraphClass]) -> str:
    """How many graphs have exactly the gradient that came back."""
    if all(one.exact for one in classes):
        return f"{len(classes)} of {len(classes)} graphs are the only ones with this gradient."
    parts = []
    for one in classes:
        least = "at least " if one.is_cut else ""
        number = sum(graph.num_nodes == one.nodes[0] for graph in one.members)
        said = f"{least}{number} of {one.nodes[0]} nodes" + (f", {one.size} in all" if one.size > number else "")
        parts.append(said + (" and multiples of these nodes" if one.may_be_larger else ""))
    return (
        f"graphs that have exactly this gradient: {'; '.join(parts)}; all that were found are listed, the first of "
        "each is a guess by ring sizes."
    )
