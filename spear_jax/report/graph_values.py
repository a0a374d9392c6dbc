"""What a record of graphs says of its certificate and of a class, in words that command line and page share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spear_jax.report.values import mapping, number


def certificate_sentence(record: Mapping[str, Any]) -> str:
    """How far the graphs' own gradient is from what came back, and what follows."""
    proof = mapping(record.get("certificate"))
    if proof.get("residual") is None:
        return "No graphs were assembled whose gradient could be held against what came back."
    told = f"{number(proof['residual'])} of its norm; rounding explains up to {number(proof.get('limit'))}"
    if is_reproduced(record):
        return f"Certificate: the gradient of these graphs, computed again, is what came back but for {told}."
    return f"No certificate: the gradient of the graphs found differs from what came back by {told}."


def is_reproduced(record: Mapping[str, Any]) -> bool:
    """Whether the graphs explain all that came back."""
    proof = mapping(record.get("certificate"))
    residual, limit = proof.get("residual"), proof.get("limit")
    return isinstance(residual, int | float) and isinstance(limit, int | float) and residual <= limit


def class_sentence(one: Mapping[str, Any]) -> str:
    """What is certified of one graph of the batch, a sentence."""
    size, cut = len(one["members"]), " The search was cut there: there may be more." if one["cut"] else ""
    larger = (
        " Graphs with several times as many nodes, which are not listed, have it too: a mean over nodes does not tell."
        if one["may_be_larger"]
        else ""
    )
    if one["exact"]:
        return "Exact: no other graph that the features allow has this gradient."
    if not one["certified"]:
        fits = f"{number(size)} {_of('graph', size)}"
        return f"Not certified: {fits} fit some of what came back, and none of it is confirmed."
    if size == 1:
        return f"One graph was found that has exactly this gradient.{cut}{larger}"
    which = "these" if one["cut"] else "all"
    return (
        f"{number(size)} graphs have exactly this gradient; {which} are listed, and the first is a guess that no "
        f"gradient confirms.{cut}{larger}"
    )


def headline(record: Mapping[str, Any]) -> str:
    """What leaked, in a sentence without a full stop."""
    graphs = record["graphs"]
    certified, exact = (sum(one[name] for one in graphs) for name in ("certified", "exact"))
    if graphs and exact == len(graphs):
        return f"{number(exact)} {_of('graph', exact)} reconstructed and certified without ground truth"
    if certified:
        told = f"{number(certified)} of {number(len(graphs))} {_of('graph', len(graphs))} certified"
        if exact == certified:
            return f"{told}, {'it is' if exact == 1 else 'all of them'} exact"
        parts = f": {number(exact)} exact, {number(certified - exact)}" if exact else ""
        return f"{told}{parts} up to graphs with the same gradient"
    if graphs:
        return f"{number(len(graphs))} {_of('graph', len(graphs))} assembled, none certified"
    count, stars = len(record["rows"]), len(record["stars"]["list"])
    if stars:
        return f"{number(stars)} neighbourhoods of {number(count)} kinds of nodes found, but no graph"
    return (
        f"{number(count)} {_of('row', count)} of nodes found, but no graph"
        if count
        else "Nothing could be reconstructed"
    )


def _of(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
