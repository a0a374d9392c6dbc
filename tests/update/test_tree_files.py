"""Flax msgpack files and Orbax folders: what JAX programs store comes back, and damage ends in a sentence."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import flax.linen as nn
import jax
import msgpack
import numpy as np
import pytest
from flax import serialization
from jax.numpy import bfloat16

from spear_jax.errors import TensorFileError, UpdateError
from spear_jax.update.readers import tree_files
from spear_jax.update.readers.model_files import read_model

FIXTURES = Path(__file__).parents[1] / "fixtures"


def read_tree(path):
    return tree_files.read_tree(path).tensors


class Net(nn.Module):
    """Two dense layers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(4)(x)))


@pytest.fixture(scope="module")
def variables():
    return Net().init(jax.random.key(0), np.ones((1, 3), np.float32))


def assert_is_net(tensors, variables):
    expected = {
        f"{layer}/{leaf}": np.asarray(array)
        for layer, leaves in variables["params"].items()
        for leaf, array in leaves.items()
    }
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


def save_msgpack(path, tree):
    path.write_bytes(serialization.msgpack_serialize(tree))
    return path


def test_flax_msgpack_of_parameters_or_of_a_whole_training_state(tmp_path, variables):
    for name, tree in {
        "params": variables["params"],
        "variables": variables,
        "state": {"step": 3, "params": variables, "opt_state": {"0": variables["params"]}},
    }.items():
        path = tmp_path / f"{name}.msgpack"
        path.write_bytes(serialization.to_bytes(tree))
        model = read_model(path)
        assert model.framework == "flax"
        assert_is_net(model.tensors, variables)


def test_msgpack_keeps_dtypes_scalars_lists_and_split_arrays(tmp_path, monkeypatch):
    tree = {"layers": [{"w": np.ones(3, bfloat16)}, {"w": np.int8(4)}], "name": "x", "rate": 0.5, "z": 1 + 2j}
    found = read_tree(save_msgpack(tmp_path / "a.msgpack", tree))
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        "layers/0/w": (bfloat16, (3,)),
        "layers/1/w": (np.int8, ()),
    }
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    large = np.arange(100.0).reshape(4, 25)
    np.testing.assert_array_equal(read_tree(save_msgpack(tmp_path / "b.msgpack", {"w": large}))["w"], large)


def test_orbax_folders(tmp_path, variables, capfd):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    with checkpoint.StandardCheckpointer() as writer:
        writer.save(tmp_path / "state", {"params": variables["params"], "step": 3})
        writer.save(tmp_path / "steps/7/default", variables)
        writer.save(tmp_path / "steps/8/default", variables)
        writer.save(tmp_path / "nnx", {"lin": {"kernel": {"value": np.ones((3, 2))}, "bias": {"value": np.ones(2)}}})
    for folder in ("state", "steps/7", "steps/7/default"):
        model = read_model(tmp_path / folder)
        assert model.framework == "flax"
        assert_is_net(model.tensors, variables)
    assert sorted(read_tree(tmp_path / "nnx")) == ["lin/bias", "lin/kernel"]
    with pytest.raises(UpdateError, match="several Orbax checkpoints; give one, as .*steps/8/default"):
        read_model(tmp_path / "steps")
    with pytest.raises(UpdateError, match="is no Orbax checkpoint"):
        read_model(FIXTURES)
    for part in (tmp_path / "nnx/d").iterdir():
        part.write_bytes(part.read_bytes()[:-9])
    capfd.readouterr()
    with pytest.raises(UpdateError, match="is not a readable Orbax checkpoint"):
        read_model(tmp_path / "nnx")
    time.sleep(0.3)
    assert capfd.readouterr().err == ""
    (tmp_path / "state/_METADATA").write_text("{")
    with pytest.raises(UpdateError, match="is not a readable Orbax checkpoint"):
        read_model(tmp_path / "state")


def test_without_orbax_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "_METADATA").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "orbax.checkpoint", None)
    with pytest.raises(UpdateError, match="pip install orbax-checkpoint"):
        read_model(tmp_path)


def stored(*array) -> bytes:
    """A map with one array, by its shape, dtype and bytes."""
    return msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(array))})


WRONG_MSGPACK = {
    "nothing": (b"", "damaged"),
    "claims of endless lists": (b"\xdd\xff\xff\xff\xff" * 1000, "damaged"),
    "lists as long as the file, one in another": (b"\xdc\x03\xe8" * 900 + b"\xc0" * 1000, "damaged"),
    "a map without end": (b"\x82\xa1a\xc0", "damaged"),
    "more than one value": (b"\xc0\xc0", "damaged"),
    "no msgpack": (b"\xc1", "damaged"),
    "a number": (b"\x01", "holds no arrays"),
    "lists in lists": (b"\x91" * 900 + b"\xc0", "holds no arrays|damaged"),
    "lists too deep": (b"\x91" * 5000 + b"\xc0", "damaged"),
    "many small values": (b"\xdd\x00\x0f\x00\x00" + b"\x80" * 0xF0000, "more than 10000 values"),
    "an array of claims": (b"\xc7\x05\x01\xdd\xff\xff\xff\xff", "damaged"),
    "an array larger than its bytes": (stored((9, 9), "float32", b""), "damaged"),
    "objects": (stored((1,), "O", bytes(8)), "damaged"),
    "numbers in no order": (stored((1,), "i4,f4", bytes(8)), "expected real numbers"),
    "a shape of shapes": (stored(((1,),), "float32", bytes(4)), "damaged"),
    "tuples for names": (b"\x81\x91\x01\xc0", "damaged"),
}


@pytest.mark.parametrize("case", WRONG_MSGPACK)
def test_wrong_msgpack_ends_in_a_sentence_and_takes_no_memory(tmp_path, case, monkeypatch):
    monkeypatch.setattr(tree_files, "_MAX_VALUES", 10_000)  # type checks make them slow here
    content, sentence = WRONG_MSGPACK[case]
    (tmp_path / "wrong.msgpack").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UpdateError, match=sentence):
        read_model(tmp_path / "wrong.msgpack")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_msgpack_memory_stays_near_the_size_of_the_arrays(tmp_path):
    path = save_msgpack(tmp_path / "large.msgpack", {"w": np.zeros(2**21)})
    tracemalloc.start()
    found = read_tree(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * found["w"].nbytes


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with pytest.raises(TensorFileError, match="two arrays are called 'a/b'"):
        read_tree(save_msgpack(tmp_path / "a.msgpack", {"a/b": np.ones(1), "a": {"b": np.ones(1)}}))
