"""Model files of every framework, names and orders, the update that two make, and mutants of them all."""

from __future__ import annotations

import importlib.util
import struct
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from spear_jax import tensor_files
from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.errors import UpdateError
from spear_jax.tensor_files import read_npz
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import save_update
from spear_jax.update.dense_layers import find_layers
from spear_jax.update.make import ModelFile, make_update, pair_files
from spear_jax.update.model_file import name_by_order
from spear_jax.update.readers.model_files import read_model

FIXTURES = Path(__file__).parents[1] / "fixtures"


def small(seed=0, separator=".", prefix=""):
    rng = np.random.default_rng(seed)
    shapes = {f"a{separator}weight": (3, 4), f"a{separator}bias": (3,), f"b{separator}weight": (2, 3), "b.bias": (2,)}
    return {prefix + name: rng.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("leaf", ["weight", "kernel"])
def test_a_list_of_arrays_is_named_by_its_order(tmp_path, leaf):
    sizes = (7, 5, 5, 9, 3, 4, 4, 4, 4, 4, 4, 4, 4)
    arrays = [np.ones((2, 2, 3, 3)), np.ones(2)]  # a convolution before the dense layers
    for n, m in zip(sizes, sizes[1:], strict=False):
        arrays += [np.full((m, n) if leaf == "weight" else (n, m), len(arrays), float), np.ones(m)]
    arrays += [np.ones((4, 3))]  # a layer without bias after them
    np.savez(tmp_path / "parameters.npz", *arrays)
    tensors = read_model(tmp_path / "parameters.npz").tensors
    assert list(tensors)[:2] == ["arr_0", "arr_1"]
    assert list(tensors)[-1] == "arr_26"
    for found, array in zip(tensors.values(), arrays, strict=True):
        np.testing.assert_array_equal(found, array)
    layers, skipped = find_layers({name: array.shape for name, array in tensors.items()})
    assert [(layer.in_features, layer.out_features) for layer in layers] == list(zip(sizes, sizes[1:], strict=False))
    assert [float(tensors[layer.kernel_name][0, 0]) for layer in layers] == list(range(2, 26, 2))
    assert {layer.layout for layer in layers} == {"out_in" if leaf == "weight" else "in_out"}
    assert [name for name, _ in skipped] == ["arr_0", "arr_26"]


def test_matrices_and_vectors_that_do_not_fit_stay_unnamed():
    arrays = [np.ones((3, 4)), np.ones(5), np.ones(3), np.ones((2, 3)), np.ones(2), np.ones(2)]
    assert list(name_by_order(arrays)) == ["arr_0", "arr_1", "arr_2", "layer_00.weight", "layer_00.bias", "arr_5"]
    assert name_by_order([]) == {}


def test_every_list_of_shapes_is_read_back_as_the_layers_it_stands_for():
    shapes = [(3, 3, 1, 8), (8,), (24, 40), (40,), (40,), (40, 40), (40,), (7, 40), (9,), (40, 6)]
    names = list(name_by_order([np.ones(shape) for shape in shapes]))
    assert names == [
        *("arr_0", "arr_1", "layer_00/kernel", "layer_00/bias", "arr_4", "layer_01/kernel", "layer_01/bias"),
        *("arr_7", "arr_8", "arr_9"),
    ]
    layers, _ = find_layers(dict(zip(names, shapes, strict=True)))
    assert [(layer.name, layer.layout) for layer in layers] == [("layer_00", "in_out"), ("layer_01", "in_out")]


def test_named_arrays_and_safetensors_keep_their_names(tmp_path):
    np.savez(tmp_path / "model.npz", **small())
    save_file(small(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert read_model(tmp_path / "model.npz").framework is None
    assert read_model(tmp_path / "model.safetensors").framework == "pytorch"
    for suffix in (".npz", ".safetensors"):
        assert sorted(read_model(tmp_path / f"model{suffix}").tensors) == sorted(small())


def test_many_names_for_the_same_bytes_of_an_archive_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "one.npz", a=np.zeros(10**6))
    content = (tmp_path / "one.npz").read_bytes()
    central, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[central:end]
    directory = b"".join(entry.replace(b"a.npy", b"%c.npy" % (97 + index)) for index in range(20))
    counts = struct.pack("<HHII", 20, 20, len(directory), central)
    (tmp_path / "many.npz").write_bytes(content[:central] + directory + content[end : end + 8] + counts + b"\0\0")
    with zipfile.ZipFile(tmp_path / "many.npz") as archive:
        assert len(archive.namelist()) == 20
    with pytest.raises(UpdateError, match="claim more bytes than the file has"):
        read_model(tmp_path / "many.npz")


def test_files_that_are_no_models_are_told_apart(tmp_path):
    save_update(Update(small(), small(1), {"kind": "gradient"}), tmp_path / "update.safetensors")
    np.savez(tmp_path / "complex.npz", w=np.ones(2, complex))
    np.savez(tmp_path / "text.npz", w=np.array(["a"]))
    np.savez(tmp_path / "bell.npz", **{"w\x07": np.ones(2)})
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    for name, sentence in {
        "update.safetensors": "is an update bundle already",
        "complex.npz": "w has dtype complex128; expected real numbers",
        "text.npz": "w has dtype <U1; expected real numbers",
        "bell.npz": r"called 'w\\x07'; expected a name that can be printed",
        "empty.npz": "holds no tensors",
        "model.onnx": "extension '.onnx'; expected .pt, .pth, .bin or .ckpt",
        "gone.pt": "does not exist",
        "gone.msgpack": "does not exist",
        "gone": r"extension '\(none\)'",
    }.items():
        with pytest.raises(UpdateError, match=sentence):
            read_model(tmp_path / name)


def test_a_pytorch_round_gives_the_gradient_that_the_client_took():
    before, after = (read_model(FIXTURES / f"{side}.pt") for side in ("before", "after"))
    update = make_update(before, after, lr=0.1, num_examples=4)
    assert dict(update.metadata) == {"kind": "weights", "lr": "0.1", "num_examples": "4", "framework": "pytorch"}
    truth = read_npz(FIXTURES / "pair.npz")
    weights = [truth[f"before/{index}.weight"].astype(float) for index in (0, 2, 4)]
    biases = [truth[f"before/{index}.bias"].astype(float) for index in (0, 2, 4)]
    # The gradient of the mean cross-entropy, by hand.
    values = [truth["inputs"].astype(float)]
    for weight, bias in zip(weights, biases, strict=True):
        values.append(np.maximum(values[-1] @ weight.T + bias[None], 0))
    logits = values[2] @ weights[2].T + biases[2][None]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    grad_z = (probabilities - np.eye(5)[truth["labels"]]) / 4
    for index in (2, 1, 0):
        observation = update.observation(f"{2 * index}")
        np.testing.assert_allclose(observation.weight_grad, grad_z.T @ values[index], atol=1e-6)
        np.testing.assert_allclose(observation.bias_grad, grad_z.sum(axis=0), atol=1e-6)
        grad_z = (grad_z @ weights[index]) * (values[index] > 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [("", "module."), ("_orig_mod.", ""), ("model.", "module._orig_mod."), ("params/", ""), ("module.", "module.")],
)
def test_usual_prefixes_are_aligned_to_the_names_that_were_sent(first, second):
    before, after = ModelFile(small(0, prefix=first), None), ModelFile(small(1, prefix=second), "pytorch")
    update = make_update(before, after)
    assert update.metadata["framework"] == "pytorch"
    assert list(update.client_tensors) == list(before.tensors)
    for sent, back in zip(before.tensors, after.tensors, strict=True):
        np.testing.assert_array_equal(update.client_tensors[sent], after.tensors[back])


def paired(before, after):
    """Names in ``after`` to names in ``before``, of tensors of one shape."""
    files = [ModelFile({name: np.ones((2, 2)) for name in names}, None) for names in (before, after)]
    return pair_files(*files, kind="gradient")


def test_names_that_merely_begin_alike_are_not_aligned():
    with pytest.raises(UpdateError, match="after holds other.a, which before lacks; after lacks a, which before holds"):
        paired(["a"], ["other.a"])
    with pytest.raises(UpdateError, match="after lacks 2, 3, 4 and 3 more, which before holds"):
        paired("234567", ["1"])
    assert paired(["w", "mean"], ["module.w"]) == {"module.w": "w"}


def test_updates_that_cannot_be_made():
    before = ModelFile(small(), None)
    fewer = ModelFile({name: tensor for name, tensor in small(1).items() if name != "b.weight"}, None)
    turned = ModelFile({name: tensor.T for name, tensor in small(1).items()}, None)
    with pytest.raises(UpdateError, match="global/b.weight has no counterpart client/b.weight"):
        make_update(before, fewer)
    with pytest.raises(UpdateError, match="global/b.weight has no counterpart grad/b.weight"):
        make_update(before, fewer, kind="gradient")
    with pytest.raises(UpdateError, match=r"a.weight is \(3, 4\) before and \(4, 3\) after, b.weight"):
        make_update(before, turned)
    with pytest.raises(UpdateError, match="no tensor changed"):
        make_update(before, before)
    with pytest.raises(UpdateError, match="kind is 'x'"):
        make_update(before, ModelFile(small(1), None), kind="x")
    with pytest.raises(UpdateError, match="lr is '-1.0'"):
        make_update(before, ModelFile(small(1), None), lr=-1.0)
    loose = ModelFile({"conv": np.ones((2, 2, 3, 3))}, None)
    with pytest.raises(UpdateError, match="no dense layer with a bias"):
        make_update(loose, ModelFile({"conv": np.zeros((2, 2, 3, 3))}, None))


def test_what_was_received_is_an_update_even_where_it_gives_nothing_away():
    before, fewer = ModelFile(small() | {"mean": np.ones(3)}, None), ModelFile(small(1), None)
    conv = ModelFile({"conv": np.ones((2, 2, 3, 3))}, None)
    assert sorted(make_update(before, fewer, as_received=True).client_tensors) == sorted(small())
    assert make_update(before, before, as_received=True).kind == "weights"
    update = make_update(conv, conv, kind="delta", lr=0.5, metadata={"image_shape": "[2, 2, 1]"}, as_received=True)
    assert dict(update.metadata) == {"kind": "delta", "lr": "0.5", "image_shape": "[2, 2, 1]"}
    assert sorted(make_update(before, fewer).client_tensors) == sorted(small())  # a part may come back
    with pytest.raises(UpdateError, match="no tensor changed"):
        make_update(before, before)
    with pytest.raises(UpdateError, match="after holds conv"):
        make_update(before, conv, as_received=True)
    half = ModelFile({name: tensor for name, tensor in small().items() if name != "b.weight"}, None)
    with pytest.raises(UpdateError, match=r"global/b\.weight has no counterpart"):
        make_update(before, half, as_received=True)


def test_a_gradient_may_lack_the_buffers():
    sent = small() | {"norm.running_mean": np.ones(3)}
    update = make_update(ModelFile(sent, None), ModelFile(small(1), None), kind="gradient")
    assert sorted(update.client_tensors) == sorted(small())


def mutants():
    """The module of the experiment, which is no part of the package."""
    path = Path(__file__).parents[2] / "experiments/fuzz/mutated_files.py"
    if not path.exists():
        pytest.skip("experiments/ is not part of the sdist")
    spec = importlib.util.spec_from_file_location("experiments.fuzz.mutated_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutants_of_every_format_are_read_or_refused(tmp_path):
    trial = mutants().run(tmp_path, 200, seed=1)
    assert trial["faults"] == []
    assert trial["tracebacks"] == trial["hangs"] == trial["over_memory"] == 0
    assert trial["formats"].keys() == {".safetensors", ".npz", ".pt", ".msgpack"}
    assert all(0 < counts["refused"] < counts["files"] for counts in trial["formats"].values())


def test_the_search_for_faults_can_find_one(tmp_path):
    def slow(path):
        while True:
            pass

    module = mutants()
    module.SECONDS = 0.05
    (tmp_path / "file").write_bytes(b"x")
    hog = lambda path: ModelFile({"w": np.zeros(2**22)[:1]}, None)
    assert module.examine(tmp_path / "file", slow).result == "hang"
    assert module.examine(tmp_path / "file", lambda path: 1 // 0).result.startswith("ZeroDivisionError")
    assert module.examine(tmp_path / "file", hog).is_fault
    assert not module.examine(tmp_path / "file", lambda path: ModelFile({}, None)).is_fault


@pytest.mark.parametrize(
    ("rate", "exact", "bound"),
    [
        ("0.1", 16, 5e-5),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("0.01", 15, 5e-4), ("0.001", 0, 5e-3))),
    ],
)
@pytest.mark.parametrize("container", [".pt", ".npz", ".safetensors"])
def test_one_step_of_pytorch_gives_its_batch_back_from_any_container(tmp_path, rate, exact, bound, container):
    """16 of 16 from float32 weights: exact at a large learning rate, with an error bar where rounding counts more."""
    before, after = (read_model(FIXTURES / f"sixteen_{name}.pt") for name in ("before", f"lr_{rate}"))
    if container != ".pt":
        for name, model in (("before", before), ("after", after)):
            tensor_files.write_tensors(tmp_path / f"{name}{container}", model.tensors)
        before, after = (read_model(tmp_path / f"{name}{container}") for name in ("before", "after"))
    update = make_update(before, after, lr=float(rate))
    result = reconstruct(update.observation(), jax.random.key(0), model=update.network())
    certificate = result.certificate
    assert certificate.exact.sum() >= exact
    assert (certificate.exact | certificate.approximate).all()
    private = read_npz(FIXTURES / "sixteen.npz")["inputs"]
    distance = np.linalg.norm(result.inputs[:, None] - private[None], axis=2) / np.linalg.norm(private, axis=1)
    assert len(set(distance.argmin(axis=1))) == 16
    assert distance.min(axis=1).max() < bound
    assert (distance.min(axis=1) < 4 * certificate.error).all()
