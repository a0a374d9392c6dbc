"""The attack on graph networks from one end to the other: the only module that knows the order of its stages."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from spear_jax.attacks.graphs.certificate import certify
from spear_jax.attacks.graphs.classes import Setting, find_members
from spear_jax.attacks.graphs.levels import ANY, Level, Model
from spear_jax.attacks.graphs.pooled import read_pooled
from spear_jax.attacks.graphs.ranking import by_rings
from spear_jax.attacks.graphs.result import GraphResult, Star
from spear_jax.attacks.graphs.rows import find_rows
from spear_jax.attacks.graphs.single import colour, sieving
from spear_jax.attacks.graphs.stars import find_stars
from spear_jax.attacks.graphs.views import make_views
from spear_jax.config import ReconstructConfig
from spear_jax.errors import SpearError
from spear_jax.graphs.features import Features
from spear_jax.graphs.observation import GraphObservation
from spear_jax.status import Status

OnStage = Callable[[str], None]


def reconstruct(
    observation: GraphObservation,
    config: ReconstructConfig = ReconstructConfig(),
    *,
    on_stage: OnStage | None = None,
) -> GraphResult:
    """Reconstruct the graphs behind the gradients of a graph network, with a certificate that needs no truth."""
    del config
    clock = _Clock(on_stage)
    architecture = observation.architecture
    params = {name: jnp.asarray(tensor, observation.dtype) for name, tensor in observation.params.items()}
    clock.enter("views", "Factorising the gradients")
    views = make_views(observation)
    if not views or views[0].level:
        raise SpearError("no first")
    clock.enter("rows", "Testing rows of features")
    rows = find_rows(observation, views[0])
    sizes = tuple(view.size for view in views)
    if rows is None or not len(rows):
        return GraphResult(
            rows=np.zeros((0, architecture.columns)),
            rows_exact=np.zeros(0, bool),
            status=Status.NO_NODES,
            reason="",
            views=sizes,
            seconds=clock.seconds(),
        )
    model = Model(architecture, params, rows)
    kinds = _kinds(observation.features, architecture.kind, rows, observation.dtype)
    clock.enter("neighbourhoods", f"Testing neighbourhoods of {len(rows)} rows")
    stars = find_stars(model, kinds, sieving(model, views, 1), observation.features.max_degree)
    clock.enter("colours", "c")
    pooled = read_pooled(observation)
    coloured = colour(model, stars.level, views, pooled)
    clock.enter("assembly", "a")
    found = []
    if coloured.weighed is not None:
        setting = Setting(observation.features, rows, architecture.pool == "mean", by_rings(observation.features))
        one = find_members(setting, coloured.level, coloured.weighed)
        found = [one] if one.members else []
    clock.enter("certificate", "z")
    classes, reproduction = certify(observation, params, found)
    return GraphResult(
        classes=classes,
        rows=rows,
        rows_exact=np.zeros(len(rows), bool),
        stars=tuple(
            Star(int(kinds.rows[o]), tuple(int(kinds.rows[x]) for x in s if x >= 0))
            for o, s in zip(stars.level.own, stars.level.slots)
        ),
        reproduction=reproduction,
        status=Status.ONE_OF_SEVERAL if classes else Status.NEIGHBOURHOODS_ONLY,
        reason=f"{coloured.number} colours, {None if coloured.level is None else len(coloured.level)} kept,
        {coloured.weighed is not None} tested {stars.tested}", views=sizes, seconds=clock.seconds(),
    )


def _kinds(features: Features, kind: str, rows: np.ndarray, dtype: np.dtype) -> Level:
    """Level 0: rows, with the number of neighbours where they say it or a layer asks for it."""
    degrees, places = features.degrees(rows), np.arange(len(rows))
    if degrees is None:
        degrees = np.full(len(rows), ANY)
        if kind == "gcn":
            degrees, places = (
                np.tile(np.arange(features.max_degree + 1), len(rows)),
                np.repeat(places, features.max_degree + 1),
            )
    return Level(np.arange(len(places)), np.zeros((len(places), 0), int), degrees, places, rows[places].astype(dtype))


class _Clock:
    """Seconds by stage."""

    def __init__(self, on_stage: OnStage | None) -> None:
        self._on_stage, self._seconds = on_stage, {}
        self._name, self._started = "", time.perf_counter()

    def enter(self, name: str, sentence: str) -> None:
        """Begin a stage, which ends the one before it."""
        self.seconds()
        self._name = name
        if self._on_stage is not None:
            self._on_stage(sentence)

    def seconds(self) -> dict[str, float]:
        """Seconds of all stages up to now."""
        now = time.perf_counter()
        if self._name:
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + now - self._started
        self._started = now
        return dict(self._seconds)
