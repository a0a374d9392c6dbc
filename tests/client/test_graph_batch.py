"""Graphs from files: JSON and SMILES, the bundled molecules, and one sentence for each mistake."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from tests.client.make_molecules import MOLECULES

BLOCKS = [{"name": "type", "labels": ["C", "N"]}, {"name": "degree", "labels": [0, 1, 2]}]
PATH = {"nodes": [["C", 1], ["N", 2], ["C", "1"]], "edges": [[0, 1], [2, 1]], "label": 1, "name": "path"}
APART = {"nodes": [["C", 1], ["C", 1], ["C", 0]], "edges": [[0, 1]]}


def content(**changes):
    return {"features": {"blocks": BLOCKS}, "graphs": [PATH], **changes}


def read(path, what=None):
    from spear_jax.client.graph_batch import read_graphs

    if what is not None:
        path = path / "graphs.json"
        path.write_text(json.dumps(what))
    return read_graphs(path)


def sentence(path, what=None):
    from spear_jax.errors import DataError

    with pytest.raises(DataError) as caught:
        read(path, what)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_file_of_graphs_is_read(tmp_path):
    private = read(tmp_path, content())
    (graph,) = private.graphs
    np.testing.assert_array_equal(graph.rows, [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [1, 0, 0, 1, 0]])
    np.testing.assert_array_equal(graph.edges, [[0, 1], [1, 2]])
    assert (private.names, private.labels.tolist(), private.features.degree) == (("path",), [[1.0]], "degree")


def test_rows_may_be_numbers_and_labels_may_be_missing(tmp_path):
    rows = [[0, 1.5], [1, 0]]
    graphs = [
        {"nodes": rows, "edges": [[0, 1]], "label": [0, None]},
        {"nodes": [rows[1]], "edges": [], "label": [1, 1]},
    ]
    private = read(tmp_path, {"features": {"rows": rows}, "graphs": graphs, "model": {"pool": "sum"}})
    np.testing.assert_array_equal(private.graphs[0].rows, rows)
    np.testing.assert_array_equal(private.labels, [[0, np.nan], [1, 1]])
    assert private.features.columns == 2
    assert private.model == {"pool": "sum"}


def changed(**changes):
    return content(graphs=[PATH | changes])


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({}, 'no entry "features"'),
        (content(graphs=[]), '"graphs" holds none'),
        (content(features={}), 'neither "blocks" nor "rows"'),
        (content(features={"blocks": BLOCKS, "max": 3}), "has an entry 'max'"),
        (content(features={"blocks": [{"name": "type"}]}), "block 0 is"),
        (content(features={"blocks": BLOCKS, "degree": "type"}), "says the degree"),
        (content(features={"blocks": BLOCKS, "max_nodes": 2}), "has 3 nodes; max_nodes is 2"),
        (content(features={"blocks": BLOCKS, "max_degree": 1}), "has 2 neighbours; max_degree is 1"),
        (content(features={"blocks": BLOCKS, "rows": [["C", 1]]}), 'none of "rows"'),
        (changed(nodes=[["C", 1], ["P", 2], ["C", 1]]), "node 1 of graph 0 has 'P' in block 'type'"),
        (changed(nodes=[["C", 1], ["N"], ["C", 1]]), "node 1 of graph 0 has 1 entries"),
        (changed(nodes=[["C", 1], ["N", 1], ["C", 1]]), "has 2 neighbours, but its features say 1"),
        (changed(nodes=7), "graph 0 is no"),
        (changed(edges=[[0, 1], [1, 0]]), "an edge is given twice"),
        (changed(edges=[[0, 1], [1, 3]]), "expected two nodes from 0 to 2"),
        (changed(edges=[[0, 1], [1, 1]]), "joined to itself"),
        (changed(edges=[[0, 1, 2]]), "expected two numbers of nodes"),
        (changed(edges=[[0, True], [1, 2]]), "expected two numbers of nodes"),
        (changed(label="toxic"), "has the label 'toxic'"),
        (changed(bonds=[1, 2]), "edges have no features here"),
        (content(graphs=[PATH, PATH | {"label": [1, 0]}]), "different numbers of labels"),
        (content(features={"blocks": BLOCKS, "is_connected": True}, graphs=[APART]), "is not connected"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(tmp_path, what, words):
    assert words in sentence(tmp_path, what)


def test_files_that_are_none_are_said_to_be_none(tmp_path):
    (tmp_path / "broken.json").write_text('{"features": [')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "graphs.csv").write_text("a,b")
    for name, words in (
        ("broken.json", "no JSON"),
        ("list.json", "expected a JSON object"),
        ("graphs.csv", "expected .json"),
        ("no.json", "no such file"),
        ("no.smi", "cannot be read"),
    ):
        assert words in sentence(tmp_path / name), name


def test_the_bundled_molecules_have_the_atoms_of_their_formulas():
    from spear_jax.client.graph_batch import demo_molecules

    private = demo_molecules()
    assert private.names == tuple(MOLECULES)
    for name, graph in zip(private.names, private.graphs, strict=True):
        said = [private.features.labels(row) for row in graph.rows]
        counts = Counter(one["type"] for one in said) | Counter({"H": sum(int(one["hydrogens"]) for one in said)})
        formula = {atom: int(count or 1) for atom, count in re.findall(r"([A-Z][a-z]?)(\d*)", MOLECULES[name][1])}
        assert counts == formula, name
        assert [int(one["degree"]) for one in said] == graph.degrees.tolist()
        assert graph.is_connected
        assert 9 <= graph.num_nodes <= 41
    assert len({graph.num_nodes for graph in private.graphs}) > 10


def test_the_bundled_molecules_are_what_rdkit_reads():
    pytest.importorskip("rdkit", reason="RDKit is not installed; it comes with the extra 'molecules'.")
    from spear_jax.client.graph_batch import demo_molecules
    from spear_jax.client.graph_smiles import graph_of

    private = demo_molecules()
    for name, graph in zip(private.names, private.graphs, strict=True):
        found = graph_of(MOLECULES[name][0])
        np.testing.assert_array_equal(found.rows, graph.rows)
        np.testing.assert_array_equal(found.edges, graph.edges)


def test_smiles_are_read_with_their_names(tmp_path):
    pytest.importorskip("rdkit", reason="RDKit is not installed; it comes with the extra 'molecules'.")
    path = tmp_path / "some.smi"
    path.write_text("# two\nCCO ethanol\n\nC[C@H](N)C(=O)O\tL-alanine, one of two\n")
    private = read(path)
    assert private.names == ("ethanol", "L-alanine, one of two")
    assert [graph.num_nodes for graph in private.graphs] == [3, 6]
    assert private.features.labels(private.graphs[1].rows[1])["chirality"] in ("clockwise", "anticlockwise")
    for line, words in (("C(C", "does not read as SMILES"), ("S(F)(F)(F)(F)(F)(F)F", "does not read as SMILES")):
        path.write_text(line)
        assert words in sentence(path)
    path.write_text("\n")
    assert "holds no molecule" in sentence(path)


def test_without_rdkit_its_name_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    (tmp_path / "some.smi").write_text("CCO")
    assert "install spear-jax[molecules]" in sentence(tmp_path / "some.smi")


def test_labels_fit_the_loss_or_are_drawn():
    from spear_jax.client.graph_batch import demo_molecules, targets
    from spear_jax.errors import DataError
    from spear_jax.graphs.architecture import Architecture

    private = demo_molecules().chosen(np.arange(4))
    make = lambda loss, tasks: Architecture(kind="gcn", columns=45, widths=(4, 4), tasks=tasks, loss=loss)
    for loss, tasks in (("bce", 3), ("cross entropy", 3), ("mse", 2)):
        drawn = targets(private, make(loss, tasks), seed=1)
        assert drawn.shape == (4, tasks)
        np.testing.assert_array_equal(drawn, targets(private, make(loss, tasks), seed=1))
    np.testing.assert_array_equal(targets(private, make("cross entropy", 3)).sum(axis=1), np.ones(4))
    given = private._replace(labels=np.array([[0.0], [2.0], [1.0], [2.0]]))
    np.testing.assert_array_equal(targets(given, make("cross entropy", 3)), np.eye(3)[[0, 2, 1, 2]])
    for loss, tasks, words in (
        ("cross entropy", 2, "is no class"),
        ("bce", 1, "neither 0 nor 1"),
        ("mse", 2, "one for each of 2 outputs"),
    ):
        with pytest.raises(DataError, match=words):
            targets(given, make(loss, tasks))
    with pytest.raises(DataError, match="no label at all"):
        targets(private._replace(labels=np.full((4, 1), np.nan)), make("mse", 1))
