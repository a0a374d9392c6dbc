"""Why an update cannot be inverted: every reason is found where it was put in, and none in honest SGD."""

import dataclasses
from functools import cache

import jax
import numpy as np
import pytest

import spear_jax as sj
from spear_jax.audit.diagnose import diagnose
from tests.helpers.command_line import run
from tests.helpers.networks import simulate

WIDTHS, IN_FEATURES, CLASSES = (40, 24), 60, 10


def gaussian_batch(size, seed):
    rng = np.random.default_rng(seed)
    return _batch(rng.normal(size=(size, IN_FEATURES)), rng)


def skewed_batch(size, seed):
    """Log-normal columns beside one-hot ones, as in a table."""
    rng = np.random.default_rng(seed)
    one_hot = np.eye(10)[rng.integers(0, 10, (size, 5))].reshape(size, -1)
    return _batch(np.concatenate([np.exp(1.5 * rng.normal(size=(size, 10))) - 1, one_hot], axis=1), rng)


@cache
def photo_batch(size, seed):
    return sj.demo_batch(batch_size=size, image_size=4, seed=seed)


def _batch(inputs, rng):
    names = tuple(map(str, range(len(inputs))))
    return sj.Batch(
        inputs=inputs, labels=rng.integers(0, CLASSES, len(inputs)), images=None, names=names,
        normalization=None, image_shape=None, num_classes=CLASSES,
    )  # fmt: skip


@cache
def client(training, *, batch=gaussian_batch, seed=0, kind="weights"):
    """What a client of the library sends in float32."""
    private = batch(8, seed)
    model = sj.MLP(WIDTHS, private.num_classes, param_dtype="float64")
    params = sj.init_params(model, jax.random.key(seed), private.inputs.shape[1])
    with jax.numpy_dtype_promotion("standard"):  # optax counts Adam's steps in int32
        update, _ = sj.simulate_round(model, params, private, jax.random.key(seed), training, kind=kind)
    return update


# What each optimiser makes of its first gradient, the learning rate left out.
FIRST_STEP = {"adam": lambda gradient: gradient / (np.abs(gradient) + 1e-8), "sign": np.sign}
SEVERAL_DECAYING = sj.LocalTraining(0.1, 4, weight_decay=0.01)


def without(update, *keys):
    metadata = {key: value for key, value in update.metadata.items() if key not in keys}
    return dataclasses.replace(update, metadata=metadata)


def names(update, layer_name=None):
    return [finding.name for finding in diagnose(update, update.layer(layer_name))]


def one_step(rate, *, batch=gaussian_batch, size=8, seed=0, dtype="float32", scale=1.0, decay=0.0, step=np.positive):
    """The same by a network in NumPy, one step, of SGD where the gradient is left as it is, first layer only."""
    private = batch(size, seed)
    width, inputs = WIDTHS[0], scale * private.inputs
    round_ = simulate(size, width, in_features=inputs.shape[1], depth=2, seed=seed, inputs=inputs)
    sent, gradients = round_.observation, (round_.observation.weight_grad, round_.observation.bias_grad)
    before = [np.asarray(tensor).astype(dtype) for tensor in (sent.weight, sent.bias)]
    after = [(old - rate * (step(new) + decay * old)).astype(dtype) for old, new in zip(before, gradients, strict=True)]
    tensors = [dict(zip(("dense_0.weight", "dense_0.bias"), pair, strict=True)) for pair in (before, after)]
    return sj.Update(*tensors, {"kind": "weights", "lr": str(rate)})


@pytest.mark.parametrize("batch", [gaussian_batch, skewed_batch, photo_batch])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_honest_sgd_has_no_finding(batch, dtype):
    for seed in range(2):
        for rate in (0.1, 0.01, 0.001):
            for size, scale in ((1, 1.0), (8, 0.2)):
                update = one_step(rate, batch=batch, size=size, seed=seed, dtype=dtype, scale=scale)
                assert names(update) == [], (seed, rate, size)


@pytest.mark.slow
def test_honest_local_steps_have_no_finding():
    for seed in range(3):
        assert names(client(sj.LocalTraining(0.01, 5, 4), seed=seed)) == []


@pytest.mark.parametrize("optimizer", ["adam", "sign"])
@pytest.mark.parametrize("batch", [gaussian_batch, skewed_batch])
def test_signs_and_adam_are_told_by_entries_of_one_size(optimizer, batch):
    assert names(one_step(0.001, batch=batch, step=FIRST_STEP[optimizer])) == ["optimizer"]
    training = sj.LocalTraining(0.001, 5, 4, optimizer=optimizer)
    assert names(client(training, batch=batch, kind="delta")) == ["optimizer"]


@pytest.mark.parametrize("optimizer", ["adam", "sign"])
def test_one_sample_s_signs_have_rank_one_and_are_told_all_the_same(optimizer):
    for seed in range(3):
        update = one_step(0.001, size=1, seed=seed, step=FIRST_STEP[optimizer])
        assert names(update) == ["optimizer"]
        assert optimizer == "adam" or sj.factorize(update.observation().weight_grad).rank == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [gaussian_batch, photo_batch])
def test_weight_decay_is_measured(batch, dtype):
    for seed in range(2):
        for rate, decay in ((0.1, 0.1), (0.1, 0.0005), (0.01, 0.01), (0.01, 0.001)):
            update = one_step(rate, batch=batch, seed=seed, dtype=dtype, decay=decay)
            (finding,) = diagnose(update, update.layer())
            assert finding.name == "weight_decay"
            told = float(finding.sentence.split("lr lambda = ")[1].rstrip(")"))
            assert told == pytest.approx(rate * decay, rel=1e-2 if dtype == "float32" else 1e-4)


def test_weight_decay_of_several_steps_is_told_per_step_and_naming_it_mends_the_update():
    named = client(SEVERAL_DECAYING)
    (finding,) = diagnose(without(named, "weight_decay"), named.layer())
    assert "--weight-decay 0.01 (lr lambda = 0.001)" in finding.sentence
    assert diagnose(named, named.layer()) == ()


def test_weight_decay_without_a_learning_rate_gives_their_product():
    update = without(one_step(0.1, decay=0.02, dtype="float64"), "lr")
    (finding,) = diagnose(update, update.layer())
    assert finding.sentence.endswith("bundle again with --weight-decay X --lr Y (lr lambda = 0.002)")


@pytest.mark.parametrize("draw", ["uniform", "standard_normal"])
def test_masks_look_like_noise(draw):
    for seed in range(4):
        update = one_step(0.1, seed=seed, dtype="float64")
        rng = np.random.default_rng(seed)
        masked = {
            name: tensor
            + 50 * (rng.uniform(-1, 1, tensor.shape) if draw == "uniform" else rng.normal(size=tensor.shape))
            for name, tensor in update.client_tensors.items()
        }
        assert names(dataclasses.replace(update, client_tensors=masked)) == ["masked"]


@pytest.mark.parametrize("batch", [gaussian_batch, photo_batch])
def test_a_batch_beyond_the_rank_is_neither_noise_nor_signs(batch):
    for seed in range(2):
        update = one_step(0.1, batch=batch, size=150, seed=seed, dtype="float64")
        (finding,) = diagnose(update, update.layer())
        assert finding.name == "full_rank"
        assert "at least 40 samples" in finding.sentence


def test_a_change_that_rounding_ate_is_called_so():
    assert names(one_step(1e-6)) == ["rounding"]
    assert names(one_step(1e-6, dtype="float64")) == []


def test_a_layer_that_has_no_observation_keeps_its_own_sentence():
    update = client(SEVERAL_DECAYING)
    with pytest.raises(sj.UpdateError, match="4 local steps"):
        diagnose(update, update.layer("dense_1"))


def test_inspect_says_the_finding_and_lists_it(tmp_path):
    named = client(sj.LocalTraining(0.1, weight_decay=0.02))
    sj.save_update(without(named, "weight_decay"), tmp_path / "update.safetensors")
    said = run("inspect", tmp_path / "update.safetensors", "--json")
    first, _, last = said.json["layers"]
    assert said.code == 0
    assert (first["invertible"], [finding["name"] for finding in first["findings"]]) == (False, ["weight_decay"])
    assert first["verdict"] == first["findings"][0]["sentence"]
    assert "no ReLU" in last["verdict"]
    sj.save_update(named, tmp_path / "good.safetensors")
    good = run("inspect", tmp_path / "good.safetensors", "--json").json["layers"][0]
    assert (good["invertible"], good["findings"]) == (True, [])
    assert "--weight-decay" in run("inspect", tmp_path / "update.safetensors").out
