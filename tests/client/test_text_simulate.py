"""A client's update as a bundle: the tensors of its kind, rounded as asked, and nothing private."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from spear_jax.client.random_model import init_adapter, random_model, tiny_gpt2
from spear_jax.client.text_batch import TextBatch
from spear_jax.client.text_gradient import text_gradient
from spear_jax.client.text_simulate import simulate_text_update
from spear_jax.errors import SpearError
from spear_jax.tensor_files import read_tensors, write_tensors
from spear_jax.update.metadata import require_valid

MODEL = tiny_gpt2(40)
BATCH = TextBatch((np.array([3, 1, 4, 1, 5]), np.array([9, 2])))
NAMES = ["transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"]


@pytest.fixture(autouse=True)
def _broadcasting():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def params():
    return random_model(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def gradients(params):
    with jax.numpy_rank_promotion("allow"):
        return text_gradient(MODEL, params, BATCH, trained=NAMES)


def test_a_gradient_alone_is_a_bundle(tmp_path, params, gradients):
    tensors, metadata = simulate_text_update(MODEL, params, BATCH, trained=NAMES)
    require_valid(metadata)
    write_tensors(tmp_path / "update.safetensors", tensors, metadata)
    found, metadata = read_tensors(tmp_path / "update.safetensors")
    assert set(found) == {f"grad/{name}" for name in NAMES}
    assert (metadata["kind"], metadata["num_examples"]) == ("gradient", "2")
    for name in NAMES:
        np.testing.assert_array_equal(found[f"grad/{name}"], gradients[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_half_in_the_file(tmp_path, params, gradients, dtype):
    tensors, metadata = simulate_text_update(MODEL, params, BATCH, trained=NAMES, dtype=dtype)
    write_tensors(tmp_path / "update.safetensors", tensors, metadata)
    found, _ = read_tensors(tmp_path / "update.safetensors")
    for name in NAMES:
        assert str(found[f"grad/{name}"].dtype) == dtype
        np.testing.assert_array_equal(found[f"grad/{name}"], gradients[name].astype(found[f"grad/{name}"].dtype))


def test_weights_and_their_change_are_one_step_away(params, gradients):
    weights, metadata = simulate_text_update(MODEL, params, BATCH, trained=NAMES, kind="weights", lr=0.5)
    change, _ = simulate_text_update(MODEL, params, BATCH, trained=NAMES, kind="delta", lr=0.5)
    require_valid(metadata)
    assert (metadata["lr"], metadata["local_steps"]) == ("0.5", "1")
    for name in NAMES:
        expected = params[name] - np.float32(0.5) * gradients[name]
        np.testing.assert_array_equal(weights[f"client/{name}"], expected)
        np.testing.assert_array_equal(change[f"client/{name}"], expected - params[name])


def test_the_sent_model_comes_along_where_asked(params):
    adapter = init_adapter(MODEL, params, jax.random.key(1), 2)
    tensors, _ = simulate_text_update(MODEL, params | adapter, BATCH, include_global=True)
    assert {name for name in tensors if name.startswith("grad/")} == {
        f"grad/{name}" for name in adapter if not name.endswith(".lora_scale")
    }
    for name, tensor in (params | adapter).items():
        np.testing.assert_array_equal(tensors[f"global/{name}"], tensor)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"kind": "sum"}, "gradient, weights, delta"), ({"lr": 0.0}, "positive"), ({"dtype": "int8"}, "dtype is 'int8'")],
)
def test_options_out_of_range_are_refused(params, options, sentence):
    with pytest.raises(SpearError, match=sentence):
        simulate_text_update(MODEL, params, BATCH, trained=NAMES, **options)
