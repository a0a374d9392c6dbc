"""Keras files by h5py: the arrays of the model, nothing of other files, and a sentence where h5py is missing."""

from __future__ import annotations

import io
import sys
import zipfile

import numpy as np
import pytest

from spear_jax.errors import UpdateError
from spear_jax.update.dense_layers import find_layers
from spear_jax.update.make import make_update
from spear_jax.update.readers.model_files import read_model

h5py = pytest.importorskip("h5py", reason="h5py is not installed; it comes with the extra 'keras'.")
KERAS_3 = ("layers/dense{}/vars/0", "layers/dense{}/vars/1")
KERAS_2 = ("model_weights/dense{0}/dense{0}/kernel:0", "model_weights/dense{0}/dense{0}/bias:0")
CHECKPOINT = ("_layer_checkpoint_dependencies/dense{}/vars/0", "_layer_checkpoint_dependencies/dense{}/vars/1")
SIZES = (4, 4, 4, 2)


def weights(seed=0, names=KERAS_3):
    rng = np.random.default_rng(seed)
    tensors = {}
    for index, (n, m) in enumerate(zip(SIZES, SIZES[1:], strict=False)):
        end = f"_{index}" if index else ""
        tensors[names[0].format(end)] = rng.normal(size=(n, m)).astype(np.float32)
        tensors[names[1].format(end)] = rng.normal(size=m).astype(np.float32)
    return tensors


def save(path, tensors):
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            file[name] = tensor
    return path


def save_keras(path, tensors, configuration="{}"):
    buffer = io.BytesIO()
    save(buffer, tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", configuration)
        archive.writestr("model.weights.h5", buffer.getvalue())
    return path


@pytest.mark.parametrize("names", [KERAS_3, KERAS_2, CHECKPOINT])
@pytest.mark.parametrize("writer", [save, save_keras])
@pytest.mark.parametrize("suffix", [".h5", ".keras", ".bin"])
def test_a_round_of_keras_files_of_either_form_and_any_name(tmp_path, names, writer, suffix):
    before = read_model(writer(tmp_path / f"a{suffix}", weights(0, names) | {"optimizer/vars/0": np.ones(3)}))
    after = read_model(writer(tmp_path / f"b{suffix}", weights(1, names)))
    assert before.framework == "keras"
    assert not before.is_ordered
    update = make_update(before, after)
    assert [layer.layout for layer in update.layers] == ["in_out"] * 3
    sent, back = weights(0, names), weights(1, names)
    kernel = names[0].format("")
    np.testing.assert_array_equal(update.observation().weight_grad, (sent[kernel] - back[kernel]).T)


def test_a_list_of_gradients_is_aligned_with_the_layers(tmp_path):
    before = read_model(save(tmp_path / "a.weights.h5", weights()))
    np.savez(tmp_path / "g.npz", *weights(1).values())
    update = make_update(before, read_model(tmp_path / "g.npz"), kind="gradient")
    for name, tensor in weights(1).items():
        np.testing.assert_array_equal(update.client_tensors[name], tensor)


def test_layers_come_in_the_order_of_their_numbers():
    shapes = {name: tensor.shape for name, tensor in weights().items()}
    assert [layer.name for layer in find_layers(shapes)[0]] == ["layers/dense", "layers/dense_1", "layers/dense_2"]


def test_links_to_other_files_and_arrays_outside_are_not_followed(tmp_path):
    secret = save(tmp_path / "secret.h5", {"key": np.ones((3, 3))})
    (tmp_path / "raw").write_bytes(bytes(36))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, tensor in weights().items():
            file[name] = tensor
        file["link"] = h5py.ExternalLink(str(secret), "key")
        file["soft"] = h5py.SoftLink("/layers")
        file.create_dataset("outside", (3, 3), np.float32, external=[(str(tmp_path / "raw"), 0, 36)])
        layout = h5py.VirtualLayout((3, 3), np.float64)
        layout[:] = h5py.VirtualSource(str(secret), "key", (3, 3))
        file.create_virtual_dataset("virtual", layout)
        file["text"] = "a"
    found = read_model(tmp_path / "a.h5")
    assert sorted(found.tensors) == sorted(weights())
    assert sorted(found.left_out) == ["outside", "text", "virtual"]


def test_damage_and_claims_end_in_a_sentence(tmp_path):
    whole = save(tmp_path / "a.h5", weights()).read_bytes()
    for size in (8, 100, len(whole) // 2, len(whole) - 9):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(UpdateError, match="is not a readable Keras file|holds no arrays") as caught:
            read_model(tmp_path / "cut.h5")
        assert "\n" not in str(caught.value)
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("zeros", (2**20, 2**10), np.float64, chunks=(2**10, 2**10))
    with pytest.raises(UpdateError, match="declare more arrays than the file holds"):
        read_model(tmp_path / "huge.h5")
    save(tmp_path / "empty.h5", {"optimizer/vars/0": np.ones(3)})
    with pytest.raises(UpdateError, match="holds no arrays"):
        read_model(tmp_path / "empty.h5")
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(UpdateError, match="is not a readable Keras file"):
        read_model(tmp_path / "b.keras")


def test_without_h5py_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    path = save(tmp_path / "a.h5", weights())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UpdateError, match=r"a\.h5 needs h5py: pip install 'spear-jax\[keras\]'"):
        read_model(path)
