"""A reconstruction of graphs scored against the truth that a simulation kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spear_jax.audit.graph_record import graph_from_json
from spear_jax.client.graph_scores import FoundClass, GraphScores, score_graphs
from spear_jax.client.graph_truth import GraphTruth
from spear_jax.errors import TruthError
from spear_jax.update.graph_features import features_from_json


def found_classes(record: Mapping[str, Any]) -> list[FoundClass]:
    """The classes of a record."""
    features = features_from_json(record["features"])
    return [
        FoundClass(
            members=tuple(graph_from_json(features, member) for member in one["members"]),
            is_certified=one["certified"],
            exact=one["exact"],
            is_open=one["cut"] or one["may_be_larger"],
        )
        for one in record["graphs"]
    ]


def score_record(record: Mapping[str, Any], truth: Path) -> GraphScores:
    """Score the classes of a record, certified or not.

    Raises:
        TruthError: the file is no truth of a graph network's update, or of other features.
    """
    features, private = features_from_json(record["features"]), GraphTruth.load(truth).private
    if private.features.columns != features.columns:
        raise TruthError(
            f"the truth's rows have {private.features.columns} columns and the reconstruction's {features.columns}; "
            f"pass "
            "the truth that belongs to this update."
        )
    return score_graphs(found_classes(record), private.graphs, features)
