"""Which dense layer is the first, and what of a layer is certified whose inputs moved over local steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spear_jax as sj
from spear_jax.update.before import tensors_before
from spear_jax.update.dense_layers import find_layers
from spear_jax.update.layer_order import first_candidates
from spear_jax.update.make import ModelFile
from tests.helpers.command_line import run

BATCH, CLASSES, RATE, STEPS = 4, 4, 0.01, 4
SIDE, CHANNELS, WIDTH = 8, 4, 64
# Names, inputs, neurons in the order of the file, whether it tells, and which may be the first.
TRUNK = (("shared.1", 64, 64), ("shared.3", 64, 64))
HEADS = (("age", 64, 4), ("sex", 64, 2))
TOWERS = (("user.0", 50, 64), ("user.2", 64, 16), ("item.0", 80, 64), ("item.2", 64, 16), ("top", 32, 4))
ORDERS = {
    "heads": ((*TRUNK, *HEADS), True, ["shared.1"]),
    "heads registered first": ((*HEADS, *TRUNK), True, ["shared.1"]),
    "heads in an alphabet": ((*HEADS, *TRUNK), False, ["shared.1"]),
    "names against the order": ((("zz", 64, 64), ("body", 64, 64), *HEADS), True, ["zz"]),
    "names alone": ((("body", 64, 64), ("zz", 64, 64), *HEADS), False, ["body", "zz"]),
    "numbers": ((*HEADS, ("net.10", 64, 64), ("net.2", 64, 64)), False, ["net.2"]),
    "numbers in an alphabet that a file keeps": ((("net.10", 64, 64), ("net.2", 64, 64), *HEADS), True, ["net.2"]),
    "an input width of its own": ((("body", 64, 64), *HEADS, ("stem", 50, 64)), False, ["stem"]),
    "towers": (TOWERS, True, ["user.0"]),
    "towers in an alphabet": (sorted(TOWERS), False, ["item.0", "user.0"]),
    "an encoder after its decoder": ((("dec", 16, 64), ("enc", 64, 16)), False, ["dec", "enc"]),
    "an encoder before its decoder": ((("enc", 64, 16), ("dec", 16, 64)), True, ["enc"]),
    "shapes against the file": ((("b", 64, 32), ("a", 50, 64), ("head", 32, 4)), True, ["a"]),
    "a head that rebuilds the inputs": ((("z", 64, 64), ("again", 64, 64), ("cls", 64, 4)), True, ["z"]),
    "one layer": ((("only", 50, 4),), False, ["only"]),
}


def tensors(layers):
    """Kernels and biases of dense layers in this order."""
    rng = np.random.default_rng(0)
    made = {}
    for name, inputs, neurons in layers:
        made[f"{name}.weight"] = rng.uniform(-1, 1, (neurons, inputs)).astype(np.float32) / np.sqrt(inputs)
        made[f"{name}.bias"] = rng.uniform(-1, 1, neurons).astype(np.float32) / np.sqrt(inputs)
    return {name: array.astype(np.float32) for name, array in made.items()}


@pytest.mark.parametrize("case", ORDERS)
def test_the_first_layer_follows_from_shapes_file_and_numbers(case):
    listed, is_told, expected = ORDERS[case]
    layers, _ = find_layers({name: array.shape for name, array in tensors(listed).items()}, is_told=is_told)
    assert [layer.name for layer in first_candidates(layers, is_told=is_told)] == expected
    assert layers[0].name == expected[0]


def convolutional(**norm):
    """Tensors of a convolution and three dense layers, and the features that the first of these sees."""
    rng = np.random.default_rng(1)
    kernel = rng.uniform(-1, 1, (CHANNELS, 1, 3, 3)).astype(np.float32) / 3
    made = {"conv.weight": kernel, "conv.bias": np.zeros(CHANNELS, np.float32)} | norm
    return made | tensors((("fc1", CHANNELS * SIDE**2, WIDTH), ("fc2", WIDTH, WIDTH), ("fc3", WIDTH, CLASSES)))


def features(model, images):
    maps = jax.lax.conv_general_dilated(images, model["conv.weight"], (1, 1), "SAME")
    return jax.nn.relu(maps + model["conv.bias"][None, :, None, None]).reshape(len(images), -1)


def loss(model, images, labels):
    hidden = features(model, images)
    for name in ("fc1", "fc2"):
        hidden = jax.nn.relu(hidden @ model[f"{name}.weight"].T + model[f"{name}.bias"][None])
    logits = hidden @ model["fc3.weight"].T + model["fc3.bias"][None]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


def trained(before, *, steps, frozen=()):
    """The model after some steps on a batch, the features before them, and the update that both make."""
    rng = np.random.default_rng(2)
    images, labels = rng.standard_normal((BATCH, 1, SIDE, SIDE)).astype(np.float32), rng.integers(0, CLASSES, BATCH)
    model = {name: jnp.asarray(array) for name, array in before.items()}
    seen = np.asarray(features(model, images))
    for _ in range(steps):
        slope = jax.grad(loss)(model, images, labels)
        step = lambda name: np.float32(0 if name.startswith(tuple(frozen)) else RATE)
        model = {name: value - step(name) * slope[name] for name, value in model.items()}
    after = {name: np.asarray(value) for name, value in model.items()}
    made = sj.make_update(ModelFile(before, None), ModelFile(after, None), lr=RATE, local_steps=steps)
    return made, seen


def reconstruct(update):
    return sj.reconstruct(update.observation(), jax.random.key(0), sj.ReconstructConfig(num_devices=1))


def cosines(inputs, seen):
    """The best cosine of each feature vector with a row of what was reconstructed."""
    norms = np.linalg.norm(seen, axis=1)[:, None] * np.linalg.norm(inputs, axis=1)[None, :]
    return (seen @ inputs.T / norms).max(axis=1)


@pytest.mark.parametrize("late", [False, True], ids=["convolution first in the file", "convolution last in the file"])
def test_behind_a_convolution_that_was_trained_over_steps_nothing_is_certified(late):
    before = convolutional()
    if late:
        before = dict(sorted(before.items(), key=lambda item: item[0].startswith("conv")))
    update, seen = trained(before, steps=STEPS)
    assert set(update.moved_before()) == {"conv.weight", "conv.bias"}
    result = reconstruct(update)
    assert result.status is sj.Status.INPUTS_MOVED
    assert not (result.certificate.exact | result.certificate.approximate).any()
    assert np.isinf(result.certificate.error).all()
    assert (cosines(result.inputs, seen) > 1 - 1e-4).all()


@pytest.mark.parametrize(("steps", "frozen"), [(1, ()), (STEPS, ("conv",))], ids=["one step", "frozen"])
def test_behind_a_convolution_that_stood_still_all_are_certified(steps, frozen):
    update, seen = trained(convolutional(), steps=steps, frozen=frozen)
    assert update.moved_before() == ()
    result = reconstruct(update)
    assert result.status is sj.Status.EXACT
    np.testing.assert_allclose(cosines(result.inputs, seen), 1, atol=1e-6)


def test_a_trained_bias_of_a_frozen_kernel_moves_the_inputs_and_so_does_what_did_not_come_back():
    update, _ = trained(convolutional(), steps=STEPS, frozen=("conv.weight",))
    assert update.moved_before() == ("conv.bias",)
    assert 0 < update.observation().input_drift <= 1
    kept = {name: value for name, value in update.client_tensors.items() if name != "conv.weight"}
    withheld = sj.Update(update.global_tensors, kept, update.metadata)
    assert withheld.moved_before() == ("conv.weight", "conv.bias")
    assert withheld.observation().input_drift == 1


def test_a_dense_layer_behind_a_frozen_one_is_inverted_after_several_steps():
    before = tensors((("fc1", 50, WIDTH), ("fc2", WIDTH, WIDTH), ("fc3", WIDTH, CLASSES)))
    changed = {name: value + 1 if not name.startswith("fc1") else value for name, value in before.items()}
    update = sj.Update(before, changed, {"kind": "weights", "lr": "1", "local_steps": "3"})
    assert update.observation("fc2").input_drift == 0
    trained_too = sj.Update(before, changed | {"fc1.bias": before["fc1.bias"] + 1}, update.metadata)
    with pytest.raises(sj.UpdateError, match="inputs of fc2 changed"):
        trained_too.observation("fc2")


PLACES = {  # a tensor, whether the file tells an order, and whether it may stand before a layer of 50 x 64
    "an embedding registered late": (("zz.emb", (9, 10)), True, True),
    "a norm of the inputs registered late": (("zz.norm", (50,)), True, True),
    "a norm behind the layer": (("zz.norm", (64,)), True, False),
    "a norm that does not divide the inputs": (("aa.norm", (64,)), False, False),
    "a norm of channels": (("aa.norm", (10,)), False, True),
    "a head without bias": (("zz.head", (4, 64)), True, False),
    "a head without bias, in an alphabet": (("zz.head", (4, 64)), False, True),
    "a numbered head without bias": (("fc9.weight", (4, 64)), False, False),
    "a convolution": (("zz.weight", (4, 1, 3, 3)), True, True),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_may_stand_before_a_layer(case):
    (name, shape), is_told, expected = PLACES[case]
    shapes = {"fc1.weight": (64, 50), "fc1.bias": (64,), name: shape}
    layers, _ = find_layers(shapes, is_told=is_told)
    before = tensors_before(shapes, layers, layers[0], candidates=layers[:1], is_told=is_told)
    assert before == ((name,) if expected else ())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_bundles_keep_the_order_of_the_file(tmp_path, suffix):
    made, _ = trained(convolutional(), steps=1)
    update = sj.Update(
        made.global_tensors, made.client_tensors, made.metadata | {"format_version": "1"}, is_ordered=True
    )
    sj.save_update(update, tmp_path / f"update{suffix}")
    loaded = sj.load_update(tmp_path / f"update{suffix}")
    assert list(loaded.global_tensors) == list(update.global_tensors)
    assert loaded.sha256 == update.sha256


def test_inspect_names_the_candidates_where_the_first_layer_stays_open(tmp_path):
    before = dict(sorted(tensors((("body", 64, 64), ("zz", 64, 64), *HEADS)).items()))
    rng = np.random.default_rng(0)
    slope = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in before.items()}
    sj.save_update(sj.Update(before, slope, {"kind": "gradient"}), tmp_path / "open.safetensors")
    said = run("inspect", tmp_path / "open.safetensors")
    assert "body, zz may be; body is taken, choose with --layer" in said.out
    assert run("inspect", tmp_path / "open.safetensors", "--json").json["first_candidates"] == ["body", "zz"]
    told = {name: before[name] for name in tensors((("zz", 64, 64), ("body", 64, 64), *HEADS))}
    sj.save_update(sj.Update(told, slope, {"kind": "gradient"}, is_ordered=True), tmp_path / "told.safetensors")
    assert "may be" not in run("inspect", tmp_path / "told.safetensors").out


def test_neurons_that_never_fired_tell_which_layer_is_the_first_where_names_do_not():
    before = dict(sorted(tensors((("body", 64, 64), ("zz", 64, 64), *HEADS)).items()))
    rng = np.random.default_rng(0)
    slope = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in before.items()}
    slope["zz.weight"][[3, 40]] = 0
    still_open = sj.Update(before, slope, {"kind": "gradient"})
    assert [layer.name for layer in still_open.first_candidates] == ["body", "zz"]
    slope = slope | {"body.weight": slope["body.weight"].copy()}
    slope["body.weight"][:, [3, 40]] = 0
    update = sj.Update(before, slope, {"kind": "gradient"})
    assert [layer.name for layer in update.first_candidates] == ["zz"]
    assert update.layer().name == "zz"
    slope["body.weight"][:, 5] = 0  # as a pixel that is black in every image
    assert len(sj.Update(before, slope, {"kind": "gradient"}).first_candidates) == 2
