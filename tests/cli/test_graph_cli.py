"""The command line on updates of graph networks: what is written, what is printed, and what is said of mistakes."""

import json

import numpy as np
import pytest

from tests.helpers.command_line import run
from tests.helpers.graph_records import graph_class, planted_result, planted_update, rewired, write_planted


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Folder of a simulated update of two molecules, and what simulate said."""
    folder = tmp_path_factory.mktemp("client")
    options = ("--network", "gin", "--classes", 3, "--width", 64, "--batch-size", 2, "--seed", 1)
    files = ("--out", folder / "update.safetensors", "--truth", folder / "truth.safetensors")
    return folder, run("simulate", "--graphs", "molecules", *options, *files, "--json")


@pytest.fixture
def planted(tmp_path):
    """Folder of a planted update of two molecules, and these."""
    return tmp_path, planted_update(tmp_path).graphs


def test_simulate_writes_what_the_server_sees_and_the_truth_apart(client):
    from spear_jax.client.graph_truth import GraphTruth
    from spear_jax.tensor_files import read_tensors

    folder, said = client
    assert (said.code, said.err) == (0, "")
    assert said.json["network"] == "gin"
    assert said.json["features"] == str(folder / "features.json")
    private = GraphTruth.load(folder / "truth.safetensors").private
    assert said.json["nodes"] == [graph.num_nodes for graph in private.graphs]
    assert private.labels.shape == (2, 3)
    tensors, metadata = read_tensors(folder / "update.safetensors")
    assert tensors["grad/convs.0.nn.0.weight"].shape == (64, 45)
    assert metadata["num_examples"] == "2"
    known = json.loads((folder / "features.json").read_text())
    assert set(known) == {"features", "model"}
    assert not any(name in json.dumps(known) for name in private.names)


def test_simulate_takes_graphs_of_any_kind(tmp_path):
    people = {
        "features": {"blocks": [{"name": "party", "labels": ["red", "blue"]}], "max_degree": 2},
        "graphs": [{"nodes": [["red"], ["blue"], ["red"]], "edges": [[0, 1], [1, 2]], "label": 1}],
    }
    (tmp_path / "people.json").write_text(json.dumps(people))
    files = ("--out", tmp_path / "u.npz", "--truth", tmp_path / "t.npz", "--features", tmp_path / "f.json")
    options = ("--loss", "cross entropy", "--batch-size", 1, "--kind", "weights", "--lr", 0.5, "--dtype", "float64")
    said = run("simulate", "--graphs", tmp_path / "people.json", *files, *options)
    assert said.code == 0, said.err
    assert "weights after one step of SGD of 1 graphs, 3 nodes" in said.out
    seen = run("inspect", tmp_path / "u.npz", "--features", tmp_path / "f.json", "--json").json
    assert (seen["observed"]["lr"], seen["model"]["tasks"], seen["model"]["loss"]) == (0.5, 2, "cross entropy")


def test_the_file_of_graphs_serves_as_a_features_file(client, tmp_path):
    from spear_jax.client import graph_batch

    folder, _ = client
    file = graph_batch.__file__.replace("graph_batch.py", "molecules.json")
    assert run("inspect", folder / "update.safetensors", "--features", file).code == 0


def test_inspect_says_what_each_layer_shows_and_what_to_expect(client):
    folder, _ = client
    said = run("inspect", folder / "update.safetensors", "--features", folder / "features.json")
    assert said.code == 0, said.err
    assert "gin of 2 convolutions (64, 64), mean pool, 3 outputs; 45 columns of features." in said.out
    assert "Expected: graphs: " in said.out
    assert "Taken for granted" not in said.out
    views = run("inspect", folder / "update.safetensors", "--features", folder / "features.json", "--json").json[
        "views"
    ]
    assert [view["level"] for view in views] == sorted(view["level"] for view in views)
    assert all(view["rank"] <= view["width"] for view in views)


def test_inspect_says_why_not_all_follows(client, tmp_path):
    from spear_jax.tensor_files import read_tensors, write_tensors

    folder, _ = client
    tensors, metadata = read_tensors(folder / "update.safetensors")
    less = {name: tensor for name, tensor in tensors.items() if name != "grad/lin.bias"}
    write_tensors(tmp_path / "less.npz", less, metadata)
    said = run("inspect", tmp_path / "less.npz", "--features", folder / "features.json")
    assert "Expected: neighbourhoods only: no gradient for the last linear layer's bias" in said.out
    signs = {name: np.sign(tensor) if name.startswith("grad/") else tensor for name, tensor in tensors.items()}
    write_tensors(tmp_path / "signs.npz", signs, metadata)
    said = run("inspect", tmp_path / "signs.npz", "--features", folder / "features.json")
    assert "Expected: nothing: " in said.out
    refused = run(
        "reconstruct", tmp_path / "signs.npz", "--features", folder / "features.json", "--out", tmp_path / "x"
    )
    assert refused.code == 2
    assert not (tmp_path / "x").exists()


def test_evaluate_scores_a_record_and_says_whether_it_is_whole(planted):
    folder, (caffeine, cholesterol) = planted
    wrong = rewired(cholesterol, 1)
    for members, code, words in (
        ((wrong, cholesterol), 0, "1 of 2 graphs right as listed first, 2 in their class"),
        ((wrong,), 3, "1 false certificates"),
    ):
        write_planted(folder, planted_result([graph_class(caffeine), graph_class(*members)]))
        said = run("evaluate", folder, "--truth", folder / "truth.safetensors", "--json")
        assert said.code == code, said.err
        assert words in said.json["summary"]
        assert json.loads((folder / "evaluation.json").read_text()) == said.json


def test_the_record_comes_back_as_it_was_written(planted):
    from spear_jax.audit.graph_record import graph_from_json, read_graph_record
    from spear_jax.graphs.graph import is_isomorphic
    from spear_jax.update.graph_features import features_from_json

    folder, (caffeine, cholesterol) = planted
    written = write_planted(
        folder, planted_result([graph_class(caffeine), graph_class(cholesterol, rewired(cholesterol, 1))])
    )
    found = read_graph_record(folder)
    assert found == written
    assert (found["certified"], found["exact"], found["num_graphs"]) == (2, 1, 2)
    features = features_from_json(found["features"])
    again = graph_from_json(features, found["graphs"][1]["members"][0])
    np.testing.assert_array_equal(again.rows, cholesterol.rows)
    assert is_isomorphic(again, cholesterol)
    assert not is_isomorphic(graph_from_json(features, found["graphs"][1]["members"][1]), cholesterol)


def test_what_is_told_never_names_one_of_several_exact(planted, capsys):
    from spear_jax.cli.graphs import tell

    folder, (caffeine, cholesterol) = planted
    several = graph_class(cholesterol, rewired(cholesterol, 1))
    tell(write_planted(folder, planted_result([several, graph_class(caffeine)])), folder)
    printed = capsys.readouterr().out
    assert "2 of 2 graphs certified: 1 exact, 1 up to graphs with the same gradient." in printed
    assert "  graph 1: one of 2; 28 nodes, 31 edges (C 27, O 1)\n" in printed
    assert "  graph 2: exact; 14 nodes, 15 edges (C 8, N 4, O 2)\n" in printed
    assert "Certificate: " in printed


def test_rows_are_told_where_there_are_no_graphs(planted, capsys):
    from spear_jax.cli.graphs import tell
    from spear_jax.status import Status

    folder, (caffeine, _) = planted
    rows = np.unique(caffeine.rows, axis=0)
    result = planted_result([], rows=rows, rows_exact=np.arange(len(rows)) == 0, status=Status.NODES_ONLY)
    tell(write_planted(folder, result), folder)
    printed = capsys.readouterr().out
    assert f"{len(rows)} rows of nodes fit, 1 of them certified (type, charge, degree" in printed
    assert printed.count("\n  ? ") == len(rows) - 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reconstruct", "U", "--features", "nowhere.json"), "nowhere.json: it cannot be read"),
        (("reconstruct", "nothing.npz", "--features", "F"), "nothing.npz"),
        (("reconstruct", "U", "--features", "F", "--model", "M"), "--features is of graph networks and --model of"),
        (("reconstruct", "U", "--features", "F", "--layer", "x"), "--layer is of dense layers and --features of graph"),
        (("reconstruct", "U", "--features", "F", "--adapter", "M"), "--adapter is of language models and"),
        (("reconstruct", "U", "--features", "F", "--kind", "sum"), "kind is 'sum'"),
        (("reconstruct", "U", "--features", "T"), "no JSON"),
        (("inspect", "U", "--features", "F", "--layout", "in_out"), "--layout is of dense layers"),
        (("inspect", "U", "--lr", 1), "--lr goes with a language model or a graph network; give --model or"),
        (("simulate", "--pool", "sum"), "--pool goes with a graph network; give its graphs with --graphs."),
        (("simulate", "--features", "F"), "--features goes with a graph network"),
        (("simulate", "--graphs", "molecules", "--images", "M"), "--images is of dense layers and --graphs of graph"),
        (("simulate", "--graphs", "molecules", "--texts", "M"), "--texts is of language models and --graphs of graph"),
        (("simulate", "--graphs", "no.json"), "no.json: it cannot be read"),
        (("simulate", "--graphs", "no.csv"), "expected .json, .smi or .txt"),
        (("simulate", "--graphs", "molecules", "--batch-size", 99), "there are 32 graphs but the batch size is 99"),
        (("simulate", "--graphs", "molecules", "--network", "mlp"), "kind is 'mlp'"),
        (("simulate", "--graphs", "molecules", "--pool", "max"), "pool is 'max'"),
        (("simulate", "--graphs", "molecules", "--lr", 1), "a gradient has no step"),
        (("simulate", "--graphs", "molecules", "--dtype", "bfloat16", "--out", "u.npz"), "no bfloat16"),
        (("simulate", "--graphs", "molecules", "--dtype", "int8"), "dtype is 'int8'"),
        (("demo", "--graphs", "--width", 50), "--width is of dense layers and --graphs of graph networks"),
        (("demo", "--graphs", "--text"), "--graphs is of graph networks and --text of language models"),
        (("demo", "--graphs", "--batch-size", 99), "there are 32 graphs but the batch size is 99"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(client, tmp_path, monkeypatch, arguments, words):
    folder, _ = client
    monkeypatch.chdir(tmp_path)
    names = {"U": folder / "update.safetensors", "F": folder / "features.json", "T": folder / "truth.safetensors"}
    said = run(*(names.get(argument, argument) if isinstance(argument, str) else argument for argument in arguments))
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_folder_of_another_kind_is_left_alone(client, tmp_path):
    folder, _ = client
    (tmp_path / "inputs.safetensors").write_bytes(b"")
    call = ("reconstruct", folder / "update.safetensors", "--features", folder / "features.json", "--out", tmp_path)
    said = run(*call)
    assert said.code == 2
    assert "give another --out" in said.err
