"""The baseline of graphs: whole molecules from their gradient, nothing from another one, and steps that leave out none.

Molecules are written out by hand or bundled; networks are those of the other tests of graphs.
"""

import collections
import dataclasses
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.baselines import depth_first_graphs as baseline
from experiments.baselines import gluing, neighbourhoods
from experiments.claims import graph_baseline
from experiments.harness import claims
from tests.helpers import molecules as m

NEVER = math.inf
ATOMS = {
    "CH3": ["C", "0", "1", "3", "no", "SP3", "none"],
    "CH2": ["C", "0", "2", "2", "no", "SP3", "none"],
    "OH": ["O", "0", "1", "1", "no", "SP3", "none"],
    "CH": ["C", "0", "2", "1", "yes", "SP2", "none"],
    "C": ["C", "0", "3", "0", "yes", "SP2", "none"],
}
RING = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)]
BY_HAND = {
    "ethanol": (["CH3", "CH2", "OH"], [(0, 1), (1, 2)]),
    "benzene": (["CH"] * 6, RING),
    "toluene": (["C", *["CH"] * 5, "CH3"], [*RING, (0, 6)]),
}


def molecule(name):
    """One, by hand or bundled."""
    from spear_jax.client.graph_batch import PrivateGraphs
    from spear_jax.graphs.graph import Graph
    from spear_jax.update.graph_features import row_from_json

    if name not in BY_HAND:
        return m.chosen(name)
    (atoms, edges), features = BY_HAND[name], m.molecules().features
    rows = np.array([row_from_json(features, ATOMS[atom], atom) for atom in atoms])
    return PrivateGraphs((Graph(rows, np.array(edges)),), features, (name,))


def observed(name, readout="node", **options):
    """What the server sees of a molecule, behind layers that show all its neighbourhoods, and the molecule."""
    layers = 2 if readout == "node" else 1
    private, network = molecule(name), m.network("gcn", 200, readout=readout, readout_layers=layers, **options)
    return m.observed(*network, private), private.graphs[0]


def changed(observation, change):
    """The observation with other gradients."""
    gradients = {name: change(name, gradient) for name, gradient in observation.gradients.items()}
    return dataclasses.replace(observation, gradients=gradients)


def span_test(observation, tolerance=1e-3):
    """Of the first convolution."""
    basis = baseline.row_space(observation.gradients["convs.1.weight"], 1e-7)
    return neighbourhoods.SpanTest.of(observation, 0, basis, tolerance, NEVER)


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        ("ethanol", "node"),
        ("benzene", "node"),
        ("toluene", "node"),
        ("dopamine", "node"),
        ("toluene", "pooled"),
        pytest.param("dopamine", "pooled", marks=pytest.mark.slow),
    ],
)
def test_a_small_molecule_is_rebuilt_exactly(name, readout):
    from spear_jax.graphs.graph import is_isomorphic

    observation, true = observed(name, readout)
    found = baseline.depth_first_graphs(observation, true.num_nodes)
    assert found.is_found
    assert not found.is_stopped
    assert found.distance < 1e-12
    assert is_isomorphic(found.graph, true)


@pytest.mark.parametrize(
    "options",
    [
        {"tasks": 2, "loss": "cross entropy"},
        pytest.param({"activation": "silu", "has_conv_bias": True, "tasks": 3}, marks=pytest.mark.slow),
        pytest.param({"pool": "sum", "dtype": "float32"}, marks=pytest.mark.slow),
    ],
)
def test_other_losses_activations_and_pools(options):
    """float32 gradients pass the tolerances of states, not the one of the whole gradient by much."""
    from spear_jax.graphs.graph import is_isomorphic

    observation, true = observed("toluene", **options)
    found = baseline.depth_first_graphs(observation, true.num_nodes)
    assert found.is_found
    assert is_isomorphic(found.graph, true)


@pytest.mark.parametrize("readout", ["node", "pooled"])
def test_of_a_gradient_that_is_no_graph_s_nothing_is_found(readout):
    observation, true = observed("toluene", readout)
    rng = np.random.default_rng(0)
    noisy = changed(observation, lambda _, gradient: gradient * (1 + 1e-4 * rng.normal(size=gradient.shape)))
    mixed = changed(observation, lambda name, gradient: gradient * (1.001 if name.startswith("readout") else 1))
    for wrong in (noisy, mixed):
        found = baseline.depth_first_graphs(wrong, true.num_nodes, baseline.Options(max_seconds=10))
        assert not found.is_found
        assert found.distance > 1e-6


def test_of_another_number_of_nodes_nothing_is_found():
    observation, true = observed("toluene")
    for nodes in (true.num_nodes - 1, true.num_nodes + 1):
        found = baseline.depth_first_graphs(observation, nodes)
        assert not found.is_found
        assert found.graph is None or found.distance > 1e-6


def test_time_that_ran_out_is_said():
    observation, true = observed("dopamine")
    found = baseline.depth_first_graphs(observation, true.num_nodes, baseline.Options(max_seconds=0))
    assert found.is_stopped
    assert not found.is_found


def test_other_networks_are_refused():
    from spear_jax.graphs.observation import GraphObservation

    features = m.molecules().features
    for kind, layers in (("gin", 2), ("gcn", 3)):
        architecture, params = m.network(kind, 8, layers=layers)
        given = {"architecture": architecture, "features": features, "params": params, "gradients": params}
        observation = GraphObservation(**given)
        with pytest.raises(ValueError, match="GCN of two convolutions"):
            baseline.depth_first_graphs(observation, 9)


def test_states_are_those_of_the_network_and_none_that_is_there_is_missed():
    from spear_jax.graphs.layers import as_batch, node_states

    observation, true = observed("dopamine")
    rows = baseline.node_rows(observation)
    number = {row.tobytes(): place for place, row in enumerate(rows)}
    kinds = [number[row.tobytes()] for row in true.rows]
    stars = neighbourhoods.find_stars(span_test(observation), rows, observation.features.degrees(rows))
    params = {name: jnp.asarray(tensor) for name, tensor in observation.params.items()}
    states = node_states(observation.architecture, params, as_batch([true], np.dtype("float64")))[0][0]
    listed = dict(zip(zip(stars.pieces.kinds, stars.pieces.near, strict=True), stars.states, strict=True))
    for node, near in enumerate(true.neighbours()):
        star = (kinds[node], tuple(sorted(kinds[other] for other in near)))
        np.testing.assert_allclose(listed[star], states[node], atol=1e-12)


def test_a_look_at_a_few_units_changes_no_result(monkeypatch):
    observation, _ = observed("dopamine", "pooled")
    rows = baseline.node_rows(observation)
    degrees = observation.features.degrees(rows)
    for tolerance in (1e-3, 0.05):
        test = span_test(observation, tolerance=tolerance)
        screened = neighbourhoods.find_stars(test, rows, degrees).pieces
        with monkeypatch.context() as patch:
            every = lambda screen, near, centres: np.ones((len(centres), len(near)), bool)
            patch.setattr(neighbourhoods._Screen, "passes", every)
            assert neighbourhoods.find_stars(test, rows, degrees).pieces == screened
    assert len(screened.kinds) > 8  # the wide tolerance lets wrong ones pass


@pytest.mark.parametrize("size", range(5))
def test_choices_of_neighbours_come_once_each(size, monkeypatch):
    monkeypatch.setattr(neighbourhoods, "WIDE", 16)
    kinds = np.array([2, 3, 5, 7, 11])
    found = list(neighbourhoods._multisets(kinds, size))
    assert all(len(part) <= 16 for part in found)
    found = [tuple(row) for part in found for row in part.tolist()]
    assert sorted(found) == sorted(itertools.combinations_with_replacement(kinds.tolist(), size))


def glued(kinds, near, nodes):
    """All complete graphs that gluing shows, as sorted lists of edges by kinds of their ends."""
    shown = []
    judge = lambda own, edges: shown.append((own, sorted(tuple(sorted(edge)) for edge in edges))) or False
    search = gluing.Gluing(gluing.Pieces(kinds, near), nodes, judge, NEVER)
    assert not search.run(list(range(len(kinds))))
    return shown


def test_gluing_closes_cycles_and_keeps_to_the_number_of_nodes():
    ring = ([0], [(0, 0)])
    for nodes in (3, 4, 6):
        ((own, edges),) = glued(*ring, nodes)
        assert own == [0] * nodes
        assert len(edges) == nodes
        assert set(collections.Counter(itertools.chain(*edges)).values()) == {2}
    assert glued(*ring, 2) == []
    path = ([0, 1], [(1,), (0, 0)])
    assert len(glued(*path, 3)) == 1
    assert glued(*path, 4) == []


def test_settings_are_of_every_molecule_by_both_readouts():
    every, quick = graph_baseline.settings(False), graph_baseline.settings(True)
    assert len(every) == 3 * 2 * 32
    assert all(setting in every for setting in quick)


def test_findings_come_from_lines_alone():
    scores = {"node_set": True, "isomorphic": True, "in_class": True, "class_size": 1, "gsm": [1.0, 1.0, 1.0]}
    scores |= {"false_certificates": 0, "run_seconds": 2.0, "process_seconds": 1.0}
    glue = scores | {"is_found": False, "is_stopped": True, "isomorphic": False, "gsm": [0.5, 0.0, 0.0]}
    two = {setting["molecule"] for setting in graph_baseline.settings(False)[:2]}
    lines = [
        {"setting": setting, "nodes": 26, "depth-first": glue, "spear-jax": scores | {"is_certified": True}}
        for setting in graph_baseline.settings(False)
        if setting["seed"] == 0 and setting["molecule"] in two
    ]
    told = [finding.measured for finding in graph_baseline.findings(lines)]
    assert len(told) == 4
    assert told[0].startswith("of 2 graphs 0 found with the gradient, 0 right as the first, 0 of 2 above 25 atoms")
    assert "2 cut off by time; GSM-0 50.0, GSM-1 0.0" in told[0]
    assert told[1].startswith("of 2 graphs 2 in a certified class, 2 right as the first, 2 of 2 above 25 atoms")
    assert claims.of(lines, readout="node") == graph_baseline.findings(lines)[0].lines
