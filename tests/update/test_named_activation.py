"""What a model's own files say of its activation: configurations beside and within them, and the slopes of PReLUs."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import spear_jax as sj
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import load_update, save_update
from spear_jax.update.make import make_update
from spear_jax.update.model_file import ModelFile
from spear_jax.update.named_activation import of_configuration
from spear_jax.update.readers.model_files import read_model
from tests.helpers.command_line import run

SIZES = (6, 5, 4, 3)


def chain(seed=0, names=("0", "2", "4"), sizes=SIZES, **others):
    """Dense layers as PyTorch has them and what is given beside them, by name with ``_`` for the dot, names sorted."""
    rng = np.random.default_rng(seed)
    tensors = {name.replace("_", "."): np.asarray(tensor, np.float32) for name, tensor in others.items()}
    for name, n, m in zip(names, sizes, sizes[1:], strict=False):
        tensors |= {f"{name}.weight": rng.normal(size=(m, n)), f"{name}.bias": rng.normal(size=m)}
    return {name: tensors[name].astype(np.float32) for name in sorted(tensors)}


def update_of(sent, order=None, **metadata):
    """A gradient of a model; ``order`` puts some names first, and is that of the file."""
    sent = {name: sent[name] for name in order or ()} | sent
    came_back = {name: np.ones_like(tensor) for name, tensor in sent.items()}
    return Update(sent, came_back, {"kind": "gradient", **metadata}, is_ordered=order is not None)


def named_by(configuration, tensors=None):
    return of_configuration(json.dumps(configuration).encode(), chain() if tensors is None else tensors)


def dense(activation="linear", **settings):
    return {"class_name": "Dense", "config": {"activation": activation, **settings}}


def layer(kind, **settings):
    return {"class_name": kind, "config": settings}


def keras(*layers, kind="Sequential"):
    return {"class_name": kind, "config": {"name": "model", "layers": list(layers)}}


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"hidden_act": "gelu", "lr": 1}, "gelu"),
        ({"activation_function": "gelu_new"}, "gelu_tanh"),
        ({"hidden_activation": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({"activation": "SiLU"}, "silu"),
        ({"hidden_act": "swish", "activation": "silu"}, "silu"),
        ({"hidden_act": "relu", "activation": "tanh"}, None),
        ({"hidden_act": "leaky_relu"}, "leaky_relu(0.01)"),
        ({"activation": "leaky_relu(0.3)"}, "leaky_relu(0.3)"),
        ({"activation": "leaky_relu"}, None),  # 0.2 in TensorFlow
        ({"activation": "gelu"}, None),  # the other form in JAX
        ({"hidden_act": "quick_gelu"}, None),
        ({"hidden_act": "prelu"}, None),
        ({"hidden_act": "leaky_relu(nan)"}, None),
        ({"hidden_act": None}, None),
        ({"hidden_act": ["relu"]}, None),
        ({"hidden_act": "gelu", "num_attention_heads": 12}, None),
        ({"text_config": {"hidden_act": "gelu"}}, None),
        ({}, None),
        (["hidden_act"], None),
        ("hidden_act", None),
        (3, None),
    ],
)
def test_a_configuration_in_hugging_faces_style(configuration, expected):
    assert named_by(configuration) == expected


def test_it_speaks_of_a_chain_of_dense_layers_alone():
    said = {"hidden_act": "gelu"}
    assert named_by(said, chain()) == "gelu"
    assert named_by(said, chain(embedding_weight=np.ones((7, 5)))) is None
    assert named_by(said, chain(conv_weight=np.ones((2, 2, 3, 3)), conv_bias=np.ones(2))) is None
    assert named_by(said, chain(names=("0",))) is None
    assert named_by(said, chain() | chain(names=("pooler",), sizes=(9, 8))) is None


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((dense("relu"), dense("relu"), dense("softmax")), "relu"),
        ((layer("InputLayer"), dense("silu"), layer("Dropout", rate=0.5), dense("sigmoid")), "silu"),
        ((dense(), layer("BatchNormalization"), layer("Activation", activation="gelu"), dense()), "gelu"),
        ((dense("leaky_relu"), dense()), "leaky_relu(0.2)"),
        ((dense(), layer("LeakyReLU", negative_slope=0.25), dense()), "leaky_relu(0.25)"),
        ((dense(None), layer("LeakyReLU", alpha=0.125), dense()), "leaky_relu(0.125)"),
        ((dense({"class_name": "LeakyReLU", "config": {"negative_slope": 0.5}}), dense()), "leaky_relu(0.5)"),
        ((dense(), layer("ReLU", max_value=None, negative_slope=0.0, threshold=0.0), dense()), "relu"),
        ((dense(), layer("ReLU", max_value=6.0, negative_slope=0.0), dense()), "relu6"),
        ((dense(), layer("ReLU", max_value=None, negative_slope=0.1), dense()), "leaky_relu(0.1)"),
        ((dense(), layer("ReLU", max_value=6.0, negative_slope=0.1), dense()), None),
        ((dense(), layer("ReLU", max_value=None, threshold=1.0), dense()), None),
        ((dense(), layer("ELU", alpha=1.0), dense()), "elu"),
        ((dense(), layer("ELU", alpha=0.5), dense()), None),
        ((dense(), layer("PReLU"), dense()), None),  # a slope for each neuron
        ((dense("relu"), layer("Softmax"), dense()), None),
        ((dense("relu"), layer("Mine>Swish"), dense()), None),
        ((dense("relu"), layer("Concatenate"), dense()), None),
        ((dense("relu"), dense("tanh"), dense()), None),
        ((dense("relu"), dense(), dense()), None),
        ((dense(), dense("relu")), None),
        ((dense("relu"), layer("Activation", activation="relu"), dense()), None),
        ((dense("mish"), dense()), None),
        ((dense({"class_name": "function", "config": "relu"}), dense()), None),
        ((layer("Conv2D", activation="relu"), layer("Flatten"), dense("tanh"), dense("softmax")), "tanh"),
        ((keras(dense("selu"), dense("selu")), dense("softmax")), "selu"),
        ((dense("relu"),), None),
        ((), None),
        ((3,), None),
        (({"class_name": "Dense"}, dense()), None),
    ],
)
def test_a_configuration_of_keras(layers, expected):
    assert named_by(keras(*layers)) == expected
    assert named_by(keras(*layers, kind="Functional"), {}) == expected
    assert named_by({"class_name": "Sequential", "config": list(layers)}) == expected  # of Keras 2.0


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe\x00", b"[" * 10**5, b'{"class_name": 1, "config": 2}', b"9" * 5000]
)
def test_what_is_no_configuration_names_nothing(text):
    assert of_configuration(text, chain()) is None


@pytest.mark.parametrize("name", ["model.safetensors", "global.npz"])
def test_a_configuration_beside_the_models_file_reaches_the_bundle(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    write = save_file if name.endswith("safetensors") else lambda tensors, path: np.savez(path, **tensors)
    write(chain(), folder / name)
    write(chain(1), tmp_path / name)
    (folder / "config.json").write_text(json.dumps({"hidden_act": "gelu"}))
    for before in (folder, folder / name) if name == "model.safetensors" else (folder / name,):
        arguments = ("bundle", "--before", before, "--after", tmp_path / name, "--out", tmp_path / "u.safetensors")
        said = run(*arguments)
        assert said.code == 0, said.err
        assert "Behind the first dense layer that was trained: gelu." in said.out
        update = load_update(tmp_path / "u.safetensors")
        assert update.metadata["activation"] == update.activation == update.activation_behind("2") == "gelu"
        assert run(*arguments, "--activation", "tanh", "--json").json["activation"] == "tanh"
    (folder / "config.json").unlink()
    assert make_update(read_model(folder / name), read_model(tmp_path / name)).activation is None


def test_a_damaged_large_or_foreign_configuration_beside_it_stops_nothing(tmp_path):
    save_file(chain(), tmp_path / "model.safetensors")
    place = tmp_path / "config.json"
    for text in ('{"hidden_act": ', '{"hidden_act": "quick_gelu"}', " " * (2**24 - 20) + '{"hidden_act": "relu"}'):
        place.write_text(text)
        assert read_model(tmp_path).activation is None
    place.unlink()
    place.mkdir()
    assert read_model(tmp_path).activation is None


def test_the_configuration_within_a_keras_file(tmp_path):
    from tests.update.test_keras_files import save_keras, weights

    configuration = keras(layer("InputLayer"), dense("elu"), dense("elu"), dense("softmax"))
    for seed, name in enumerate(("a.keras", "b.keras")):
        save_keras(tmp_path / name, weights(seed), json.dumps(configuration))
    (tmp_path / "config.json").write_text('{"hidden_act": "relu"}')  # of another model
    before, after = (read_model(tmp_path / name) for name in ("a.keras", "b.keras"))
    assert before.activation == "elu"
    assert make_update(before, after).metadata["activation"] == "elu"
    assert make_update(before, after, metadata={"activation": "relu"}).activation == "relu"


PRELU = np.array([0.3], np.float32)
EXACT = f"prelu({float(PRELU[0])!r})"
NAMED = ("fc1", "fc2", "fc3")


@pytest.mark.parametrize(
    ("sent", "order", "expected"),
    [
        # Numbers tell, where the file is sorted too.
        (chain(**{"1_weight": PRELU}), None, {"0": EXACT, "2": None, "4": None}),
        (chain(**{"1_weight": PRELU, "3_weight": [0.5]}), None, {"0": EXACT, "2": "prelu(0.5)", "4": None}),
        # Shared by all, in no order or before or after all layers.
        (chain(names=NAMED, act_weight=PRELU), None, {"fc1": EXACT, "fc2": EXACT, "fc3": None}),
        (chain(names=NAMED, act_weight=PRELU), ("act.weight",), {"fc1": EXACT, "fc2": EXACT}),
        (chain(names=NAMED, zact_weight=PRELU), (*(f"{name}.weight" for name in NAMED),), {"fc1": EXACT}),
        # Two of the same slope, and of two slopes, where nothing tells which stands where.
        (chain(names=NAMED, a_weight=[0.25], b_weight=[0.25]), None, {"fc1": "prelu(0.25)", "fc2": "prelu(0.25)"}),
        (chain(names=NAMED, a_weight=[0.25], b_weight=[0.5]), None, {"fc1": None, "fc2": None}),
        (chain(names=NAMED, a_weight=[0.25], b_weight=[0.5]), ("a.weight", "fc1.weight", "b.weight"), {"fc1": None}),
        (
            chain(names=NAMED, a_weight=[0.25], b_weight=[0.5]),
            ("fc1.weight", "b.weight", "fc2.weight", "a.weight"),
            {"fc1": "prelu(0.5)", "fc2": "prelu(0.25)"},
        ),
        # Behind convolutions only its place says that it is not theirs.
        (chain(names=NAMED, conv_weight=np.ones((2, 2, 3, 3)), act_weight=PRELU), None, {"fc1": None}),
        (
            chain(names=NAMED, conv_weight=np.ones((2, 2, 3, 3)), a_weight=[0.5], b_weight=PRELU),
            ("conv.weight", "a.weight", "fc1.weight", "b.weight"),
            {"fc1": EXACT, "fc2": None},
        ),
        # A slope for each neuron, a norm of one feature, a slope that is no number.
        (chain(**{"1_weight": np.full(5, 0.25)}), None, {"0": None}),
        (chain(**{"1_weight": [0.25], "3_weight": np.full(4, 0.25)}), None, {"0": None}),
        (chain(**{"1_weight": [0.25], "1_bias": [0.25]}), None, {"0": None}),
        (chain(**{"1_weight": [np.nan]}), None, {"0": None}),
        (chain(), None, {"0": None}),
    ],
)
def test_the_slope_of_a_prelu(sent, order, expected):
    update = update_of(sent, order)
    for name, activation in expected.items():
        assert update.activation_behind(name) == activation
    assert update.activation == update.activation_behind(update.layers[0].name)


def test_flax_says_negative_slope_and_half_precision_is_a_number_too():
    tensors = {
        "Dense_0/bias": np.ones(5), "Dense_0/kernel": np.ones((6, 5)), "Dense_1/bias": np.ones(4),
        "Dense_1/kernel": np.ones((5, 4)), "PReLU_0/negative_slope": np.array(0.25, np.float16),
    }  # fmt: skip
    assert update_of(tensors).activation == "prelu(0.25)"
    assert update_of(tensors, activation="relu").activation_behind("Dense_0") == "relu"


def test_a_bundle_keeps_its_prelu_and_its_hash(tmp_path):
    before, after = (ModelFile(chain(seed, **{"1_weight": PRELU}), None) for seed in range(2))
    update = make_update(before, after)
    assert "activation" not in update.metadata
    save_update(update, tmp_path / "u.npz")
    assert load_update(tmp_path / "u.npz").activation == update.activation == EXACT


def test_a_network_of_prelus_is_whole_without_being_told(tmp_path):
    """Its slope is none that the equations try of themselves."""
    batch = sj.demo_batch(batch_size=4, image_size=8)
    model = sj.MLP((32, 32), batch.num_classes, activation="prelu(0.4375)", param_dtype="float64")
    params = sj.init_params(model, jax.random.key(1), batch.inputs.shape[1])
    update, _ = sj.simulate_update(model, params, batch)
    untold = {key: value for key, value in update.metadata.items() if key != "activation"}
    sent = {**update.global_tensors, "act.weight": np.array([0.4375], np.float32)}
    save_update(Update(sent, update.client_tensors, untold), tmp_path / "u.npz")
    config = sj.ReconstructConfig(num_devices=1, max_seconds=60.0)
    record = sj.audit_update(tmp_path / "u.npz", tmp_path / "recon", config=config)
    assert (record["status"], record["certified"]) == ("EXACT", 4)
    assert record["stats"]["activations"][0] == record["config"]["activation"] == "prelu(0.4375)"


def test_no_dense_layer_has_nothing_behind_it():
    assert update_of({"0.weight": np.ones(1), "conv.weight": np.ones((2, 2, 3, 3))}).activation is None
