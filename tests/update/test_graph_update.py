"""Updates of graph networks: the same gradients from every form they come in, and a sentence where none follow."""

import json

import numpy as np
import pytest

from tests.helpers.graph_records import planted_update, read_planted
from tests.update.test_graph_names import GEOMETRIC, SCOPE

LR = 0.5


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """Canonical gradients of the planted update, in float64."""
    folder = tmp_path_factory.mktemp("gradient")
    planted_update(folder)
    return folder, read_planted(folder).observation().gradients


def altered(folder, into, change=None, **metadata):
    """A copy of the planted update with other tensors or metadata, an entry None being left out."""
    from spear_jax.tensor_files import read_tensors, write_tensors

    tensors, old = read_tensors(folder / "update.safetensors")
    tensors = dict(tensors)
    (change or (lambda _: None))(tensors)
    metadata = {name: value for name, value in (old | metadata).items() if value is not None}
    write_tensors(into / "update.safetensors", tensors, metadata)
    (into / "features.json").write_text((folder / "features.json").read_text())
    return into


def refusal(folder, said=None):
    from spear_jax.errors import UpdateError

    if said is not None:
        content = json.loads((folder / "features.json").read_text())
        content["model"] |= said
        (folder / "features.json").write_text(json.dumps(content))
    with pytest.raises(UpdateError) as caught:
        read_planted(folder).observation()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["weights", "delta"])
def test_weights_and_changes_give_the_gradients(tmp_path, gradients, kind):
    folder, wanted = gradients
    from spear_jax.tensor_files import read_tensors, write_tensors

    tensors, metadata = read_tensors(folder / "update.safetensors")
    sent = {name[7:]: tensor for name, tensor in tensors.items() if name.startswith("global/")}
    back = {name[5:]: -LR * tensor for name, tensor in tensors.items() if name.startswith("grad/")}
    if kind == "weights":
        back = {name: sent[name] + change for name, change in back.items()}
    whole = {f"global/{name}": tensor for name, tensor in sent.items()}
    whole |= {f"client/{name}": tensor for name, tensor in back.items()}
    write_tensors(tmp_path / "update.safetensors", whole, metadata | {"kind": kind, "lr": str(LR)})
    (tmp_path / "features.json").write_text((folder / "features.json").read_text())
    found = read_planted(tmp_path).observation()
    assert set(found.gradients) == set(wanted)
    for name, gradient in wanted.items():
        assert np.abs(found.gradients[name] - gradient).max() <= 6 * found.rounding[name] + 1e-15


def test_half_precision_leaves_its_rounding(tmp_path, gradients):
    from jax.numpy import bfloat16

    def halved(tensors):
        for name in tensors:
            if name.startswith("grad/"):
                tensors[name] = tensors[name].astype(bfloat16)

    folder, wanted = gradients
    update = read_planted(altered(folder, tmp_path, halved))
    assert update.is_half == "bfloat16"
    found = update.observation()
    for name, gradient in wanted.items():
        error = found.gradients[name] - gradient
        assert np.sqrt(np.mean(error**2)) <= 3 * found.rounding[name], name
    assert read_planted(folder).observation().rounding == {}


def test_files_of_every_library_become_networks():
    from spear_jax.graphs.features import Block, Features
    from spear_jax.update.graph_model import build_model

    features = Features(blocks=(Block("type", tuple("abcde")),))
    expected = {"FedGraphNN": (False, False), "GRAIN": (True, False)}
    for library, shapes in GEOMETRIC.items():
        generator = np.random.default_rng(0)
        tensors = {name: generator.normal(size=shape) for name, shape in shapes.items()}
        model = build_model(tensors, features, {})
        assert (model.architecture.columns, model.architecture.widths, model.architecture.tasks) == (5, (8, 6), 2)
        assert model.architecture.is_activated == expected.get(library, (True, True))
        assert model.architecture.readout == ("node" if library in expected else "pooled")
        assert model.params[next(name for name in model.params if name.startswith("convs.0."))].size
        assert any(part.startswith("pool") for part in model.assumed)
    scope = build_model({name: np.ones(shape) for name, shape in SCOPE.items()}, features, {})
    assert scope.architecture.pool == "sum"
    assert scope.architecture.is_activated == (True, False)
    assert scope.architecture.readout_layers == 2


def test_what_is_said_of_the_model_goes_before_what_is_usual(gradients, tmp_path):
    folder, _ = gradients
    altered(folder, tmp_path)
    content = json.loads((tmp_path / "features.json").read_text())
    content["model"] = {"pool": "sum", "activation": "gelu", "is_activated": False, "loss": "mse"}
    (tmp_path / "features.json").write_text(json.dumps(content))
    model = read_planted(tmp_path).model
    assert (model.architecture.pool, model.architecture.activation, model.architecture.loss) == ("sum", "gelu", "mse")
    assert model.architecture.is_activated == (False, False)
    assert model.assumed == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"pool": "max"}, "only the largest entry of each column has a gradient"),
        ({"pool": "median"}, "expected mean or sum"),
        ({"activation": "maxout"}, '"activation" under "model" is \'maxout\''),
        ({"activation": 3}, '"activation" under "model" is 3'),
        ({"is_activated": [True]}, "true or false for each of 2 convolutions"),
        ({"dropout": 0.5}, "dropout=0.5"),
        ({"dropout": 2}, "a probability below 1"),
        ({"batch_norm": True}, "BatchNorm in training mode"),
        ({"width": 3}, "has an entry 'width'"),
        ({"readout": "node"}, "one linear layer"),
    ],
)
def test_a_mistake_about_the_model_is_one_sentence(gradients, tmp_path, said, words):
    folder, _ = gradients
    assert words in refusal(altered(folder, tmp_path), said)


def drop(*starts):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(starts)]:
            del tensors[name]

    return change


def times(factor, *starts):
    def change(tensors):
        for name in tensors:
            if name.startswith(starts):
                tensors[name] = tensors[name] * factor

    return change


def signs(tensors):
    for name in tensors:
        if name.startswith("grad/"):
            tensors[name] = np.sign(tensors[name])


def not_finite(tensors):
    tensors["grad/convs.1.nn.0.weight"] = tensors["grad/convs.1.nn.0.weight"] * np.nan


def transposed(tensors):
    tensors["grad/convs.0.nn.0.weight"] = tensors["grad/convs.0.nn.0.weight"].T


@pytest.mark.parametrize(
    ("change", "metadata", "words"),
    [
        (drop("global/"), {}, "holds no tensors named global/<name>"),
        (drop("grad/"), {}, "holds no tensors named grad/<name>"),
        (drop("grad/convs.0.nn.0.weight"), {}, "convs.0.nn.0.weight did not come back"),
        (times(0, "grad/"), {}, "every gradient that came back is zero"),
        (times(0, "grad/convs.0.nn.0.weight"), {}, "convs.0.nn.0.weight: every entry of the gradient is zero: no node"),
        (not_finite, {}, "convs.1.nn.0.weight holds NaN or infinite values"),
        (transposed, {}, "convs.0.nn.0.weight came back with shape (45, 16), but the model's has (16, 45)"),
        (signs, {}, "signs, as an Adam step"),
        (None, {"kind": "sum"}, "kind is 'sum'"),
        (drop("global/convs.1.nn.0.weight"), {}, "convs.1 lacks its weights"),
        (drop("global/lin", "grad/lin"), {}, "no linear layer stands behind the convolutions"),
        (lambda t: t.update({"grad/convs.7.nn.0.weight": np.ones((2, 2))}), {}, "the model has no such tensor"),
        (lambda t: t.update({"global/bn.running_mean": np.ones(2)}), {}, "bn: BatchNorm in training mode"),
        (lambda t: t.update({"global/encoder.weight": np.ones((30, 45))}), {}, "which the first convolution ("),
        (lambda t: t.update({"global/encoder.weight": np.ones((45, 7))}), {}, "45 columns but encoder.weight takes 7"),
    ],
)  # fmt: skip
def test_an_update_that_cannot_be_used_is_said_in_one_sentence(gradients, tmp_path, change, metadata, words):
    folder, _ = gradients
    said = refusal(altered(folder, tmp_path, change, **metadata))
    assert words in said
    assert said.startswith(("update.safetensors: ", words.partition(" ")[0], "every", "100%"))


def test_several_steps_and_drowned_ones_are_refused(gradients, tmp_path):
    folder, _ = gradients

    def after(lr):
        def change(tensors):
            for name in [name for name in tensors if name.startswith("grad/")]:
                own = name.removeprefix("grad/")
                step = np.float32(lr) * tensors.pop(name).astype(np.float32)
                tensors[f"global/{own}"] = tensors[f"global/{own}"].astype(np.float32)
                tensors[f"client/{own}"] = tensors[f"global/{own}"] - step

        return change

    for number, (lr, steps, words) in enumerate(
        ((1e-7, "1", "drowned in their rounding"), (0.1, "3", "took 3 local steps"), (1e-20, "1", "no tensor changed"))
    ):
        into = tmp_path / str(number)
        into.mkdir()
        assert words in refusal(altered(folder, into, after(lr), kind="weights", lr=str(lr), local_steps=steps))
    (tmp_path / "right").mkdir()
    right = read_planted(altered(folder, tmp_path / "right", after(0.1), kind="weights", lr="0.1"))
    assert right.refusals == ()


def test_features_of_another_length_are_refused(gradients, tmp_path):
    folder, _ = gradients
    altered(folder, tmp_path)
    content = json.loads((tmp_path / "features.json").read_text())
    content["features"]["blocks"].pop()
    (tmp_path / "features.json").write_text(json.dumps(content))
    assert "the features describe 41 columns but convs.0.nn.0.weight takes 45" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "metadata", "words"),
    [
        (drop("grad/convs.1."), {}, "no gradient of convs.1.nn.0.weight came back; neighbourhoods need a second layer"),
        (times(0, "grad/lin.bias"), {}, "no gradient for the last linear layer's bias (or it is zero)"),
        (drop("grad/lin."), {}, "no gradient of lin.weight came back: the pooled vector is unknown"),
        (None, {"num_examples": "5"}, "5 graphs but 3 outputs: the graphs cannot be told apart; colours only."),
    ],
)
def test_what_keeps_whole_graphs_from_following_is_said_before_the_search(gradients, tmp_path, change, metadata, words):
    folder, _ = gradients
    update = read_planted(altered(folder, tmp_path, change, **metadata))
    assert update.refusals == ()
    assert any(words in limit for limit in update.limits), update.limits
    assert read_planted(folder).limits == ()


def test_a_pool_right_behind_the_weights_is_said_to_hide_neighbourhoods():
    from types import MappingProxyType

    from spear_jax.graphs.features import Block, Features
    from spear_jax.update.graph_model import build_model
    from spear_jax.update.graph_update import GraphUpdate

    features = Features(blocks=(Block("type", tuple("abcde")),))
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(size=shape) for name, shape in SCOPE.items()}
    for said, is_hidden in (({}, True), ({"is_activated": True}, False)):
        model = build_model(tensors, features, said)
        metadata = MappingProxyType({"kind": "gradient"})
        update = GraphUpdate(model=model, features=features, came_back=model.params, metadata=metadata)
        assert any("no activation stands between gnn.convs.1.lin.weight" in one for one in update.limits) == is_hidden
