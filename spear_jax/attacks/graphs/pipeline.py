"""The attack on graph networks from one end to the other: the only module that knows the order of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.graphs import reasons
from spear_jax.attacks.graphs.certificate import certified_rows, certify
from spear_jax.attacks.graphs.classes import Setting, find_candidates
from spear_jax.attacks.graphs.levels import ANY, Level, Model
from spear_jax.attacks.graphs.missing import with_missing_row_direction
from spear_jax.attacks.graphs.pooled import behind_pool, read_pooled
from spear_jax.attacks.graphs.ranking import Ranking, by_rings
from spear_jax.attacks.graphs.result import GraphClass, GraphResult, Reproduction, Star
from spear_jax.attacks.graphs.rows import find_rows
from spear_jax.attacks.graphs.stars import Stars, find_stars
from spear_jax.attacks.graphs.views import View, make_views, sieving
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.graphs.architecture import conv_weights
from spear_jax.graphs.observation import GraphObservation
from spear_jax.stages import OnStage, StageClock
from spear_jax.status import Status


class _Ended(NamedTuple):
    """How it ended, what there is by then, and whether nothing was in the way of a search that found nothing."""

    status: Status
    reason: str
    stars: Stars | None = None
    classes: tuple[GraphClass, ...] = ()
    reproduction: Reproduction | None = None
    rows_exact: np.ndarray | None = None
    is_searched: bool = False


def reconstruct(
    observation: GraphObservation,
    config: ReconstructConfig = ReconstructConfig(),
    *,
    rank: Ranking | None = None,
    on_stage: OnStage | None = None,
) -> GraphResult:
    """Reconstruct the graphs behind the gradients of a graph network, with a certificate that needs no truth.

    Args:
        observation: what the server sees.
        config: of it nothing is used: the search needs neither chance nor the number of graphs.
        rank: key by which graphs that share a gradient are sorted, the likeliest first; ring sizes by default. No
            certificate rests on it.
        on_stage: called with a sentence before each stage.

    Returns:
        for each graph all that have its gradient; a batch that cannot be inverted is a status, not an error.

    Raises:
        SpearError: the first convolution did not come back, or no node reached its gradient.
    """
    del config
    clock, architecture = StageClock(on_stage), observation.architecture
    clock.enter("views", "Factorising the gradients")
    views = make_views(observation)
    name = conv_weights(architecture, 0)[-1]
    if not views or views[0].name != name:
        raise SpearError(
            f"{name}.weight has no gradient, or it is zero everywhere: no node reached the loss; expected that of the "
            "first convolution, from which rows of features are read."
        )
    rank = rank or by_rings(observation.features)
    found, ended = _from_rows(observation, views, rank, clock)
    if ended.is_searched and (wider := with_missing_row_direction(observation, views[0])) is not None:
        more, again = _from_rows(observation, [wider, *views[1:]], rank, clock)
        found, ended = (more, again) if again.status in (Status.EXACT, Status.ONE_OF_SEVERAL) else (found, ended)
    return GraphResult(
        classes=ended.classes,
        rows=found,
        rows_exact=np.zeros(len(found), bool) if ended.rows_exact is None else ended.rows_exact,
        stars=_named(ended, found),
        stars_exact=ended.status is Status.EXACT,
        reproduction=ended.reproduction,
        status=ended.status,
        reason=ended.reason,
        views=tuple(view.size for view in views),
        seconds=clock.seconds(),
    )


def _from_rows(
    observation: GraphObservation, views: Sequence[View], rank: Ranking, clock: StageClock
) -> tuple[np.ndarray, _Ended]:
    """The rows that fit the first view, and what follows from them."""
    architecture = observation.architecture
    clock.enter("rows", "Testing possible rows of nodes")
    rows = find_rows(observation, views[0])
    if rows is None or not len(rows):
        reason = reasons.no_rows(None if rows is None else 0)
        return np.zeros((0, architecture.columns)), _Ended(Status.NO_NODES, reason, is_searched=rows is not None)
    params = {name: jnp.asarray(tensor, observation.dtype) for name, tensor in observation.params.items()}
    return rows, _beyond_rows(observation, Model(architecture, params, rows), views, rank, clock)


def _beyond_rows(
    observation: GraphObservation, model: Model, views: Sequence[View], rank: Ranking, clock: StageClock
) -> _Ended:
    """Neighbourhoods, colours, graphs and their certificate, as far as they are told."""
    architecture, features = observation.architecture, observation.features
    telling = sieving(architecture, views, 1)
    refusal = _refusal(observation, model, views, telling)
    if refusal:
        return _Ended(Status.NODES_ONLY, refusal)
    clock.enter("neighbourhoods", f"Testing neighbourhoods of {len(model.features)} rows")
    stars = find_stars(model, _kinds(observation, model.features), telling, features.max_degree)
    if not len(stars.level):
        reason = reasons.no_neighbourhoods(telling[0], len(model.features))
        return _Ended(Status.NODES_ONLY, reason, is_searched=True)
    pooled = read_pooled(observation)
    if pooled is None:
        return _Ended(Status.NEIGHBOURHOODS_ONLY, reasons.no_bias(behind_pool(observation)), stars)
    clock.enter("graphs", f"Putting together graphs of {len(stars.level)} neighbourhoods")
    found = find_candidates(Setting(observation, model, views, rank), stars.level, pooled)
    if not found.graphs and stars.missing:
        reason = reasons.unexplained(telling[0], stars.missing, architecture.activation)
        return _Ended(Status.NODES_ONLY, reason, stars, is_searched=True)
    if not found.graphs:
        return _Ended(Status.NEIGHBOURHOODS_ONLY, found.reason, stars)
    clock.enter("certificate", f"Computing the gradient of {len(found.graphs)} graphs")
    is_whole = stars.is_whole and not views[0].is_guessed
    classes, reproduction = certify(observation, model.params, found.graphs, is_whole)
    if not all(one.is_certified for one in classes):
        refused = reasons.not_reproduced(reproduction.residual, reproduction.limit)
        reason = found.reason or (reasons.parts() if reproduction.is_exact else refused)
        return _Ended(Status.PARTIAL, reason, stars, classes, reproduction)
    status = Status.EXACT if all(one.exact for one in classes) else Status.ONE_OF_SEVERAL
    exact = certified_rows(classes, found.graphs, len(model.features))
    return _Ended(status, reasons.of_classes(classes), stars, classes, reproduction, exact)


def _refusal(observation: GraphObservation, model: Model, views: Sequence[View], telling: Sequence[View]) -> str | None:
    """Why neighbourhoods cannot be read, None where nothing is in the way."""
    architecture, features, rows = observation.architecture, observation.features, model.features
    if architecture.kind == "gat":
        return reasons.attention(len(rows))
    if not telling:
        return reasons.one_layer(len(rows))
    shown = views[0].rank - views[0].is_guessed
    if telling[0].rank < shown:
        return reasons.capacity(telling[0], shown, architecture.activation)
    degrees = features.degrees(rows)
    if degrees is not None and degrees.max() > features.max_degree:
        return reasons.too_large(int(degrees.max()), features.max_degree)
    return None


def _kinds(observation: GraphObservation, rows: np.ndarray) -> Level:
    """Level 0: rows, with the number of neighbours where they say it or the layer asks for it."""
    features = observation.features
    degrees, places = features.degrees(rows), np.arange(len(rows))
    if degrees is None and observation.architecture.kind == "gcn":
        number = features.max_degree + 1
        degrees, places = np.tile(np.arange(number), len(rows)), np.repeat(places, number)
    elif degrees is None:
        degrees = np.full(len(rows), ANY)
    states = rows[places].astype(observation.dtype)
    return Level(np.arange(len(places)), np.zeros((len(places), 0), int), degrees, places, states)


def _named(ended: _Ended, rows: np.ndarray) -> tuple[Star, ...]:
    """Neighbourhoods by the numbers of rows: those of the graphs where these are exact, else all that fit."""
    if ended.stars is None:
        return ()
    if ended.status is Status.EXACT:
        number = {row.tobytes(): place for place, row in enumerate(rows)}
        graphs = [one.members[0] for one in ended.classes]
        kinds = [[number[row.tobytes()] for row in graph.rows] for graph in graphs]
        return tuple(
            sorted(
                {
                    Star(own[node], tuple(sorted(own[other] for other in near)))
                    for graph, own in zip(graphs, kinds, strict=True)
                    for node, near in enumerate(graph.neighbours())
                }
            )
        )
    kind, level = ended.stars.kinds.rows, ended.stars.level
    return tuple(
        Star(int(kind[own]), tuple(sorted(int(kind[slot]) for slot in slots if slot >= 0)))
        for own, slots in zip(level.own.tolist(), level.slots.tolist(), strict=True)
    )
