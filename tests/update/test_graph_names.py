"""Names of graph networks' tensors in each library, and what is said of models that cannot be inverted."""

import pytest

GEOMETRIC = {
    "gcn": {
        "conv1.bias": (8,), "conv1.lin.weight": (8, 5), "conv2.bias": (6,), "conv2.lin.weight": (6, 8),
        "lin.weight": (2, 6), "lin.bias": (2,),
    },
    "old gcn": {
        "conv1.weight": (5, 8), "conv1.bias": (8,), "conv2.weight": (8, 6), "conv2.bias": (6,), "lin.weight": (2, 6),
    },
    "gin": {
        "convs.0.eps": (1,), "convs.0.nn.0.weight": (8, 5), "convs.0.nn.0.bias": (8,), "convs.0.nn.2.weight": (8, 8),
        "convs.0.nn.2.bias": (8,), "convs.1.nn.0.weight": (6, 8), "convs.1.nn.0.bias": (6,),
        "convs.1.nn.2.weight": (6, 6), "convs.1.nn.2.bias": (6,), "lin1.weight": (6, 6), "lin1.bias": (6,),
        "lin2.weight": (2, 6), "lin2.bias": (2,),
    },
    "sage": {
        "convs.0.lin_l.weight": (8, 5), "convs.0.lin_l.bias": (8,), "convs.0.lin_r.weight": (8, 5),
        "convs.1.lin_l.weight": (6, 8), "convs.1.lin_l.bias": (6,), "convs.1.lin_r.weight": (6, 8),
        "classifier.weight": (2, 6), "classifier.bias": (2,),
    },
    "graphconv": {
        "conv1.lin_rel.weight": (8, 5), "conv1.lin_rel.bias": (8,), "conv1.lin_root.weight": (8, 5),
        "conv2.lin_rel.weight": (6, 8), "conv2.lin_rel.bias": (6,), "conv2.lin_root.weight": (6, 8),
        "head.weight": (2, 6), "head.bias": (2,),
    },
    "gat": {
        "convs.0.att_src": (1, 2, 4), "convs.0.att_dst": (1, 2, 4), "convs.0.bias": (8,),
        "convs.0.lin.weight": (8, 5), "convs.1.att_src": (1, 2, 3), "convs.1.att_dst": (1, 2, 3),
        "convs.1.bias": (6,), "convs.1.lin.weight": (6, 8), "lin.weight": (2, 6), "lin.bias": (2,),
    },
    "FedGraphNN": {
        "gcn.W1": (5, 8), "gcn.W2": (8, 6), "readout.layer1.weight": (7, 11), "readout.layer1.bias": (7,),
        "readout.layer2.weight": (7, 7), "readout.layer2.bias": (7,), "readout.output.weight": (2, 7),
        "readout.output.bias": (2,),
    },
    "GRAIN": {
        "gcn.W_list.0": (5, 8), "gcn.W_list.1": (8, 6), "readout.layers.0.weight": (7, 11),
        "readout.layers.0.bias": (7,), "readout.layers.2.weight": (7, 7), "readout.layers.2.bias": (7,),
        "readout.output.weight": (2, 7), "readout.output.bias": (2,),
    },
}  # fmt: skip
SCOPE = {
    "gnn.convs.0.bias": (8,), "gnn.convs.0.lin.weight": (8, 5), "gnn.convs.1.bias": (8,),
    "gnn.convs.1.lin.weight": (8, 8), "linear.0.weight": (8, 8), "linear.0.bias": (8,), "clf.weight": (2, 8),
    "clf.bias": (2,),
}  # fmt: skip


def named(shapes):
    from spear_jax.update.graph_names import read_names

    return read_names(shapes)


def refusal(shapes):
    from spear_jax.errors import UpdateError

    with pytest.raises(UpdateError) as caught:
        named(shapes)
    return str(caught.value)


@pytest.mark.parametrize("library", GEOMETRIC)
def test_every_tensor_has_its_part(library):
    found = named(GEOMETRIC[library])
    kind = {"old gcn": "gcn", "FedGraphNN": "gcn", "GRAIN": "gcn"}.get(library, library)
    assert found.kind == kind
    assert set(found.canonical) == set(GEOMETRIC[library])
    assert len(set(found.canonical.values())) == len(found.canonical)
    first = {
        "gin": "convs.0.mlp.0.weight",
        "sage": "convs.0.neighbours.weight",
        "graphconv": "convs.0.neighbours.weight",
    }
    lies = found.in_out
    assert lies == ({"convs.0.weight", "convs.1.weight"} if library in ("old gcn", "FedGraphNN", "GRAIN") else set())
    whose = {own: name for name, own in found.canonical.items()}
    assert GEOMETRIC[library][whose[first.get(kind, "convs.0.weight")]] in ((8, 5), (5, 8))
    last = max(own for own in whose if own.startswith("readout.") and own.endswith(".weight"))
    assert GEOMETRIC[library][whose[last]][0] == 2
    assert found.library == (library if library in ("FedGraphNN", "GRAIN") else "PyTorch Geometric")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module.model."])
def test_what_wrappers_put_before_a_name_does_not_count(prefix):
    for shapes in (*GEOMETRIC.values(), SCOPE):
        own, wrapped = named(shapes), named({prefix + name: shape for name, shape in shapes.items()})
        assert {prefix + name: role for name, role in own.canonical.items()} == wrapped.canonical
        assert own.library == wrapped.library


def test_layers_are_counted_as_numbers_not_as_text():
    shapes = {f"convs.{layer}.lin.weight": (5, 5) for layer in range(11)} | {"lin.weight": (1, 5)}
    assert named(shapes).canonical["convs.10.lin.weight"] == "convs.10.weight"


def test_the_last_linear_layer_is_last_whatever_the_alphabet_says():
    found = named(SCOPE)
    assert found.library == "FederatedScope"
    assert found.canonical["linear.0.weight"] == "readout.0.weight"
    assert found.canonical["clf.weight"] == "readout.1.weight"


def test_counters_are_left_alone():
    assert named(GEOMETRIC["gcn"] | {"steps.num_batches_tracked": ()}).ignored == ("steps.num_batches_tracked",)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"convs.0.nn.norms.0.weight": (8,)}, "convs.0.nn.norms.0: BatchNorm in training mode mixes the nodes"),
        ({"bn1.running_mean": (8,)}, "bn1: BatchNorm"),
        ({"batch_norms.0.module.weight": (8,)}, "batch_norms.0.module: BatchNorm"),
        ({"conv1.lin_edge.weight": (8, 3)}, "conv1.lin_edge.weight: edge features"),
        ({"conv1.att_edge": (1, 1, 8)}, "edge features enter the attention"),
        ({"conv1.att_l": (1, 1, 8)}, "before 2.0"),
        ({"atom_embedding.weight": (9, 5)}, "an embedding of categories"),
        ({"cell.weight_ih": (8, 8)}, "cell.weight_ih [8, 8] is none of a graph network's"),
        ({"pool.weight": (6,)}, "pool.weight [6] is none of"),
        ({"lin3.bias": (6,)}, "lin3 has a bias but no weight"),
        ({"conv3.nn.0.weight": (6, 6)}, "conv"),
    ],
)
def test_what_cannot_be_inverted_is_said_by_its_name(more, words):
    assert words in refusal(GEOMETRIC["gcn"] | more)


def test_other_models_are_none():
    assert "no graph convolution is among its tensors (fc1.weight" in refusal({"fc1.weight": (3, 3), "fc1.bias": (3,)})
    assert "there are none" in refusal({})
    mixed = GEOMETRIC["sage"] | {"convs.2.nn.0.weight": (6, 6)}
    assert "of several kinds (gin, sage)" in refusal(mixed)
