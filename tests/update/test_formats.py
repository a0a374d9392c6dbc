"""Formats by content whatever the name, models in several files, and exotic tensors of containers."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file

from spear_jax.errors import UpdateError
from spear_jax.update.bundle_file import load_update, save_update
from spear_jax.update.make import make_update
from spear_jax.update.model_file import ModelFile
from spear_jax.update.readers.model_files import read_model

FIXTURES = Path(__file__).parents[1] / "fixtures"


def small(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.normal(size=(3, 4)),
        "a.bias": rng.normal(size=3),
        "b.weight": rng.normal(size=(2, 3)),
        "b.bias": rng.normal(size=2),
    }


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One file of each format by its own suffix."""
    folder = tmp_path_factory.mktemp("formats")
    np.savez(folder / "a.npz", **small())
    save_file(small(), folder / "a.safetensors")
    (folder / "a.pkl").write_bytes(pickle.dumps(small()))
    (folder / "a.msgpack").write_bytes(msgpack_serialize(small()))
    shutil.copy(FIXTURES / "after.pt", folder / "a.pt")
    return folder


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pkl", ".msgpack", ".pt"])
@pytest.mark.parametrize(
    "name", ["a.ckpt", "a", "a.pth.tar", "a.dat", "a.PT", "a.bin", "a.npz", "a.safetensors", "a.h5"]
)
def test_the_content_tells_the_format_whatever_the_name(originals, tmp_path, suffix, name):
    shutil.copy(originals / f"a{suffix}", tmp_path / name)
    found, expected = read_model(tmp_path / name), read_model(originals / f"a{suffix}")
    assert list(found.tensors) == list(expected.tensors)
    assert found.framework == expected.framework


@pytest.mark.parametrize(("content", "sentence"), [
    (b"a text", "has extension '.txt'; expected"),
    (b"", "has extension '.txt'; expected"),
    (b"PK\x03\x04", "has extension '.txt'; expected"),
    (b"\x93NUMPY\x01\x00", "is a single array of NumPy; expected"),
    (b"\x80\x02.", "is not a readable pickle"),
    (struct.pack("<Q", 9) + b"{", "not a readable safetensors file"),
])  # fmt: skip
def test_what_is_no_model_by_any_sign_is_refused(tmp_path, content, sentence):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UpdateError, match=sentence):
        read_model(tmp_path / "a.txt")


def shards(folder, tensors, places=None):
    folder.mkdir()
    names = list(tensors)
    places = places or {name: f"model-{index % 2 + 1}-of-2.safetensors" for index, name in enumerate(names)}
    for file in set(places.values()):
        inside = {name: tensors[name] for name in names if places[name] == file}
        save_file(inside, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_model_in_several_files_by_its_folder_or_its_index(tmp_path):
    folder = shards(tmp_path / "a", small())
    for path in (folder, folder / "model.safetensors.index.json"):
        found = read_model(path)
        assert found.framework == "pytorch"
        assert not found.is_ordered
        assert list(found.tensors) == list(small())
        for name, tensor in small().items():
            np.testing.assert_array_equal(found.tensors[name], tensor)
    (tmp_path / "b").mkdir()
    save_file(small(), tmp_path / "b/model.safetensors")
    (tmp_path / "b/config.json").write_text("{}")
    assert sorted(read_model(tmp_path / "b").tensors) == sorted(small())


def broken(change):
    """A folder after a change of its files."""

    def make(folder):
        shards(folder, small())
        change(folder)
        return folder

    return make


def rewrite(old, new):
    def change(folder):
        index = folder / "model.safetensors.index.json"
        index.write_text(index.read_text().replace(old, new))

    return change


BROKEN = {
    "a missing file": (lambda folder: (folder / "model-2-of-2.safetensors").unlink(), "is not beside it; copy all"),
    "another folder": (rewrite("model-1", "../model-1"), "does not lie beside it; refused"),
    "an absolute path": (rewrite("model-1-of", "/etc/model-1-of"), "does not lie beside it; refused"),
    "another name": (rewrite("a.weight", "c.weight"), "names c.weight, which no file beside it holds"),
    "no map": (rewrite("weight_map", "map"), "is no index of a model"),
    "no JSON": (rewrite("{", ""), "is no index of a model"),
    "numbers": (rewrite('"model-1-of-2.safetensors"', "3"), "is no map of file names"),
    "two indices": (
        lambda folder: shutil.copy(folder / "model.safetensors.index.json", folder / "x.safetensors.index.json"),
        "give one of them",
    ),
    "a damaged file": (
        lambda folder: (folder / "model-1-of-2.safetensors").write_bytes(b"x" * 99),
        "expected|readable",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_index_that_is_wrong_is_refused_in_a_sentence(tmp_path, case):
    change, sentence = BROKEN[case]
    with pytest.raises(UpdateError, match=sentence) as caught:
        read_model(broken(change)(tmp_path / "a"))
    assert "\n" not in str(caught.value)


def safetensors_with(path, name, dtype, shape, size):
    """A file of `small` and one tensor of a dtype that NumPy lacks."""
    save_file(small(), path)
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data + bytes(size))
    return path


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 6), ("F8_E5M2", 6), ("C64", 48), ("F8_E8M0", 6)])
def test_dtypes_that_numpy_lacks_are_left_out_by_name(tmp_path, dtype, size):
    found = read_model(safetensors_with(tmp_path / "a.safetensors", "scale", dtype, [2, 3], size))
    assert sorted(found.tensors) == sorted(small())
    assert dtype in found.left_out["scale"]
    update = make_update(found, ModelFile(small(1), None), kind="gradient")
    assert f"scale has dtype {dtype}" in update.metadata["left_out"]
    layer = read_model(safetensors_with(tmp_path / "b.safetensors", "c.weight", dtype, [2, 3], size))
    layer = layer._replace(tensors=layer.tensors | {"c.bias": np.ones(2)})
    with pytest.raises(UpdateError, match=f"c.weight has dtype {dtype}; .*save the model in float32"):
        make_update(layer, ModelFile(small(1), None), kind="gradient")
    with pytest.raises(UpdateError, match=f"has dtype {dtype}; save it as F32"):
        load_update(safetensors_with(tmp_path / "c.safetensors", "global/x", dtype, [2, 3], size))


def test_strings_objects_and_complex_arrays_of_an_npz_are_left_out(tmp_path):
    odd = {"names": np.array(["x"]), "config": np.array({"a": 1}, object), "z": np.ones(2, complex)}
    np.savez(tmp_path / "a.npz", **small(), **odd)
    found = read_model(tmp_path / "a.npz")
    assert sorted(found.tensors) == sorted(small())
    assert sorted(found.left_out) == sorted(odd)
    assert "pickled" in found.left_out["config"]


def test_the_order_of_the_file_outlives_a_bundle_that_sorts(tmp_path):
    sent = {name: tensor for name, tensor in reversed(small().items())}
    for container in (".safetensors", ".npz"):
        for is_ordered in (True, False):
            before = ModelFile(sent, None, is_ordered=is_ordered)
            update = make_update(before, ModelFile(small(1), None))
            save_update(update, tmp_path / f"u{container}")
            loaded = load_update(tmp_path / f"u{container}")
            assert loaded.is_ordered == is_ordered
            assert "tensor_order" not in loaded.metadata
            if is_ordered:
                assert list(loaded.global_tensors) == list(sent)
    for text in ('{"a": 1}', "[1]", "[" * 9999):
        save_update(update, tmp_path / "u.npz")
        arrays = dict(np.load(tmp_path / "u.npz")) | {"meta/tensor_order": np.array(text)}
        np.savez(tmp_path / "u.npz", **arrays)
        with pytest.raises(UpdateError, match="tensor_order is .*expected a JSON list of names"):
            load_update(tmp_path / "u.npz")


@pytest.mark.parametrize("kind", ["gradient", "weights", "delta", "zeros"])
def test_the_first_layer_that_was_trained_is_the_default_and_named_for_a_frozen_one(kind):
    sent, grads = small(), small(1)
    frozen = ("a.weight", "a.bias")
    back = {name: tensor for name, tensor in grads.items() if name not in frozen}
    if kind == "zeros":
        back |= {name: np.zeros_like(sent[name]) for name in frozen}
    if kind == "weights":
        back = sent | {name: sent[name] - tensor for name, tensor in back.items()}
    told = "gradient" if kind == "zeros" else kind
    update = make_update(ModelFile(sent, "pytorch"), ModelFile(back, "pytorch"), kind=told)
    assert [layer.name for layer in update.layers] == ["a", "b"]
    assert [layer.name for layer in update.trained] == ["b"]
    assert update.layer().name == "b"
    sign = -1 if kind == "delta" else 1
    np.testing.assert_allclose(update.observation().weight_grad, sign * grads["b.weight"], atol=1e-12)
    with pytest.raises(UpdateError, match="layer a.* The first layer that was trained is b"):
        update.observation("a")


def test_several_steps_are_read_in_the_first_layer_that_was_trained():
    sent = small()
    back = sent | {"b.weight": sent["b.weight"] + 1, "b.bias": sent["b.bias"] + 1}
    update = make_update(ModelFile(sent, None), ModelFile(back, None), local_steps=5, lr=0.1)
    assert update.observation().drift == pytest.approx(0.1)
    back = {name: tensor + 1 for name, tensor in sent.items()}
    update = make_update(ModelFile(sent, None), ModelFile(back, None), local_steps=5, lr=0.1)
    with pytest.raises(UpdateError, match="only the first layer, a, can be inverted"):
        update.observation("b")
