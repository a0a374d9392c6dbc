"""Scores of recovered graphs against the true ones: isomorphic, in the class, all nodes right, and GRAIN's measures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from spear_jax.client.graph_similarity import Similarity, similarity
from spear_jax.errors import SpearError
from spear_jax.graphs.features import Features
from spear_jax.graphs.graph import Graph, is_isomorphic


class FoundClass(NamedTuple):
    """The graphs that one graph of the batch may be, as an attack says.

    Attributes:
        members: the likeliest first.
        is_certified: whether the attack certified the class.
        exact: whether it calls the only member exact.
        is_open: whether it says that further graphs, which it does not list, fit as well.
    """

    members: tuple[Graph, ...]
    is_certified: bool = False
    exact: bool = False
    is_open: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphScores:
    """Scores per true graph, in the order of the truth; one without a partner scores 0 and False.

    Attributes:
        assignment: (B,) index of the class matched to each true graph, -1 for none.
        isomorphic: (B,) whether the class's first member is the true graph.
        in_class: (B,) whether any of its members is.
        class_size: (B,) number of members, 0 for none.
        node_set: (B,) whether the first member has the true rows, each as often.
        gsm: (B, 3) GSM-0, 1 and 2 of the first member in [0, 1].
        num_found: number of classes.
        false_certificates: classes that are certified and said to be complete, and graphs called exact, for which there
            is no true graph of their own.
    """

    assignment: Int[np.ndarray, " B"]
    isomorphic: Bool[np.ndarray, " B"]
    in_class: Bool[np.ndarray, " B"]
    class_size: Int[np.ndarray, " B"]
    node_set: Bool[np.ndarray, " B"]
    gsm: Float[np.ndarray, "B 3"]
    num_found: int
    false_certificates: int

    @property
    def summary(self) -> str:
        """The scores in one sentence."""
        total = len(self.assignment)
        gsm = ", ".join(f"GSM-{level} {100 * mean:.1f}" for level, mean in enumerate(self.gsm.mean(axis=0)))
        return (
            f"{int(self.isomorphic.sum())} of {total} graphs right as listed first, {int(self.in_class.sum())} in "
            f"their class, {int(self.node_set.sum())} with all nodes right, {gsm}, "
            f"{self.false_certificates} false certificates."
        )

    @property
    def is_whole(self) -> bool:
        """Whether every true graph is in its class."""
        return bool(self.in_class.all())

    def to_json(self) -> dict[str, Any]:
        """A dictionary of valid JSON: all scores per graph, and the means of GSM."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        record = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}
        means = {f"mean_gsm_{level}": float(mean) for level, mean in enumerate(self.gsm.mean(axis=0))}
        return record | means | {"num_isomorphic": int(self.isomorphic.sum()), "summary": self.summary}


class _Pair(NamedTuple):
    """How a class fares as the one of a true graph."""

    isomorphic: bool
    in_class: bool
    node_set: bool
    gsm: Similarity

    @property
    def value(self) -> float:
        """Worth of the match: what is exact counts more than all measures together."""
        return 8.0 * self.in_class + 4.0 * self.isomorphic + 2.0 * self.node_set + sum(self.gsm) / 3


def score_graphs(found: Sequence[FoundClass], truth: Sequence[Graph], features: Features) -> GraphScores:
    """Match classes one to one to the true graphs and score every true one.

    Args:
        found: k classes in any order.
        truth: B graphs.
        features: that the rows of all of them have.

    Raises:
        SpearError: no true graph, or rows of different lengths.
    """
    if not len(truth):
        raise SpearError("the truth holds no graph; there is nothing to compare with.")
    lengths = {graph.rows.shape[1] for graph in (*truth, *(member for one in found for member in one.members))}
    if len(lengths) > 1:
        raise SpearError(f"rows have {' and '.join(map(str, sorted(lengths)))} columns; give the truth of this update.")
    listed = [place for place, one in enumerate(found) if one.members]
    pairs = [[_pair(found[place], graph, features) for place in listed] for graph in truth]
    worth = np.array([[pair.value for pair in row] for row in pairs], np.float64).reshape(len(truth), len(listed))
    chosen = {int(row): int(column) for row, column in zip(*linear_sum_assignment(worth, maximize=True), strict=True)}
    nothing = _Pair(False, False, False, Similarity(0.0, 0.0, 0.0))
    best = [pairs[row][chosen[row]] if row in chosen else nothing for row in range(len(truth))]
    places = [listed[chosen[row]] if row in chosen else -1 for row in range(len(truth))]
    return GraphScores(
        assignment=np.array(places),
        isomorphic=np.array([pair.isomorphic for pair in best]),
        in_class=np.array([pair.in_class for pair in best]),
        class_size=np.array([len(found[place].members) if place >= 0 else 0 for place in places]),
        node_set=np.array([pair.node_set for pair in best]),
        gsm=np.array([pair.gsm for pair in best], np.float64),
        num_found=len(found),
        false_certificates=_false_certificates(found, truth),
    )


def _pair(found: FoundClass, true: Graph, features: Features) -> _Pair:
    first = found.members[0]
    fits = [is_isomorphic(member, true) for member in found.members]
    return _Pair(fits[0], any(fits), node_set(first) == node_set(true), similarity(first, true, features))


def node_set(graph: Graph) -> Counter[bytes]:
    """How often each row is there."""
    return Counter(row.tobytes() for row in graph.rows + 0.0)


def _false_certificates(found: Sequence[FoundClass], truth: Sequence[Graph]) -> int:
    """Claims that the truth contradicts: as many as cannot be given true graphs of their own."""
    claims = [one for one in found if one.exact or (one.is_certified and not one.is_open)]
    holds = np.array(
        [[any(is_isomorphic(member, true) for member in one.members) for true in truth] for one in claims], bool
    ).reshape(len(claims), len(truth))
    rows, columns = linear_sum_assignment(holds, maximize=True)
    return len(claims) - int(holds[rows, columns].sum())
