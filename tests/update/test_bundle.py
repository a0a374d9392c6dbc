"""Update bundles: round trips, pairing and order of layers, one-step weight changes, and every way a file can lie."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from jax.numpy import bfloat16
from safetensors.numpy import save_file

from spear_jax.errors import UpdateError
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import load_update, save_update
from spear_jax.update.dense_layers import find_layers, natural_key

EXTENSIONS = (".safetensors", ".npz")


def tensors(seed=0, sizes=(6, 5, 4), dtype=np.float64, leaf="kernel"):
    """A chain of dense layers; Flax layout under ``kernel``, PyTorch layout under ``weight``."""
    generator = np.random.default_rng(seed)
    result = {}
    for index, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False)):
        shape = (n, m) if leaf == "kernel" else (m, n)
        result[f"dense_{index}/{leaf}"] = generator.normal(size=shape).astype(dtype)
        result[f"dense_{index}/bias"] = generator.normal(size=m).astype(dtype)
    return result


def gradient_update(**metadata):
    return Update(tensors(0), tensors(1), {"kind": "gradient", **metadata})


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16])
def test_update_survives_its_file_bit_for_bit(tmp_path, extension, dtype):
    path = tmp_path / f"update{extension}"
    metadata = {"kind": "gradient", "lr": "0.1", "num_examples": "3", "image_shape": "[1, 2, 3]", "note": "déjà vu"}
    update = Update(tensors(0, dtype=dtype), tensors(1, dtype=dtype), metadata)
    save_update(update, path)
    loaded = load_update(path)
    assert dict(loaded.metadata) == metadata | {"format_version": "1"}
    for side in ("global_tensors", "client_tensors"):
        assert sorted(getattr(loaded, side)) == sorted(getattr(update, side))
        for name, tensor in getattr(update, side).items():
            assert getattr(loaded, side)[name].dtype == dtype
            assert getattr(loaded, side)[name].tobytes() == tensor.tobytes()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_transposed_views_are_saved_as_they_read(tmp_path, extension):
    kernel = np.arange(6.0).reshape(2, 3).T
    update = Update(
        {"a.weight": kernel, "a.bias": np.ones(3)}, {"a.weight": kernel, "a.bias": np.ones(3)}, {"kind": "gradient"}
    )
    save_update(update, tmp_path / f"u{extension}")
    np.testing.assert_array_equal(load_update(tmp_path / f"u{extension}").global_tensors["a.weight"], kernel)


def test_hash_is_that_of_the_contents_not_of_the_container(tmp_path):
    update = gradient_update(format_version="1")
    for extension in EXTENSIONS:
        save_update(update, tmp_path / f"u{extension}")
        assert load_update(tmp_path / f"u{extension}").sha256 == update.sha256
    changed = dict(update.client_tensors)
    changed["dense_0/bias"] = changed["dense_0/bias"] + np.eye(5)[2] * 1e-15
    hashes = {update.sha256, Update(update.global_tensors, changed, update.metadata).sha256}
    assert len(hashes | {gradient_update(format_version="1", lr="2").sha256}) == 3


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
def test_half_precision_is_widened_without_change_of_value(dtype):
    update = Update(tensors(0, dtype=dtype), tensors(1, dtype=dtype), {"kind": "gradient"})
    observation = update.observation()
    assert observation.weight_grad.dtype == np.float32
    np.testing.assert_array_equal(observation.weight_grad.T.astype(dtype), update.client_tensors["dense_0/kernel"])


@pytest.mark.parametrize("leaf", ["kernel", "weight"])
def test_observation_is_out_by_in_whatever_the_layout(leaf):
    sent, grad = tensors(0, leaf=leaf), tensors(1, leaf=leaf)
    observation = Update(sent, grad, {"kind": "gradient"}).observation()
    turn = np.transpose if leaf == "kernel" else np.asarray
    np.testing.assert_array_equal(observation.weight, turn(sent[f"dense_0/{leaf}"]))
    np.testing.assert_array_equal(observation.weight_grad, turn(grad[f"dense_0/{leaf}"]))
    np.testing.assert_array_equal(observation.bias_grad, grad["dense_0/bias"])


@pytest.mark.parametrize(
    ("leaf", "metadata", "layout", "expected"),
    [
        ("kernel", {}, None, "in_out"),
        ("weight", {}, None, "out_in"),
        ("weight", {"framework": "Flax"}, None, "in_out"),
        ("weight", {"framework": "flax", "layout": "out_in"}, None, "out_in"),
        ("kernel", {"layout": "in_out"}, "out_in", "out_in"),
        ("kernel", {"framework": "something new"}, None, "in_out"),
    ],
)
def test_square_kernels_go_by_argument_then_metadata_then_name(leaf, metadata, layout, expected):
    square = tensors(0, sizes=(5, 5), leaf=leaf)
    assert Update(square, square, {"kind": "gradient", **metadata}, layout).layers[0].layout == expected


def test_a_layout_that_contradicts_the_bias_is_refused():
    with pytest.raises(UpdateError, match="layout=out_in contradicts dense_0/kernel"):
        Update(tensors(0), tensors(1), {"kind": "gradient"}, "out_in")
    with pytest.raises(UpdateError, match="layout is 'sideways'"):
        Update(tensors(0), tensors(1), {"kind": "gradient"}, "sideways")


@pytest.mark.parametrize("kind", ["weights", "delta"])
@pytest.mark.parametrize("lr", ["0.1", None])
def test_one_local_step_gives_back_the_gradient(kind, lr):
    sent, gradient = tensors(0), tensors(1)
    step = float(lr or 1)
    change = {name: -step * gradient[name] for name in sent}
    came_back = change if kind == "delta" else {name: sent[name] + change[name] for name in sent}
    metadata = {"kind": kind} | ({"lr": lr, "local_steps": "1"} if lr else {})
    observation = Update(sent, came_back, metadata).observation("dense_1")
    np.testing.assert_allclose(observation.weight_grad, gradient["dense_1/kernel"].T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(observation.bias_grad, gradient["dense_1/bias"], rtol=0, atol=1e-13)
    assert observation.weight is not None
    np.testing.assert_array_equal(observation.weight, sent["dense_1/kernel"].T)


def test_several_local_steps_leave_the_first_layer_with_its_drift_and_refuse_the_others():
    update = Update(tensors(0), tensors(1), {"kind": "weights", "local_steps": "5", "lr": "0.25"})
    assert update.observation().drift == 0.25
    with pytest.raises(
        UpdateError, match="5 local steps, in which the inputs of dense_1 changed.* first layer, dense_0"
    ):
        update.observation("dense_1")
    assert update.next_weight_grad() is None
    one = Update(tensors(0), tensors(1), {"kind": "weights", "local_steps": "1", "lr": "0.25"})
    assert one.observation().drift == 0


def test_weight_decay_is_removed_over_any_number_of_steps():
    """Against the steps themselves: w <- w - lr (g + lambda w)."""
    rate, decay, steps = 0.1, 0.03, 7
    sent, rng = tensors(0), np.random.default_rng(5)
    weights = {name: tensor.astype(np.float64) for name, tensor in sent.items()}
    total = {name: np.zeros_like(tensor) for name, tensor in weights.items()}
    for step in range(steps):
        for name, tensor in weights.items():
            gradient = rng.normal(size=tensor.shape)
            total[name] += (1 - rate * decay) ** (steps - 1 - step) * gradient
            weights[name] = tensor - rate * (gradient + decay * tensor)
    metadata = {"kind": "weights", "lr": str(rate), "local_steps": str(steps), "weight_decay": str(decay)}
    sent = {name: tensor.astype(np.float64) for name, tensor in sent.items()}
    observed = Update(sent, weights, metadata).observation()
    np.testing.assert_allclose(observed.weight_grad, total["dense_0/kernel"].T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(observed.bias_grad, total["dense_0/bias"], rtol=1e-9, atol=1e-9)
    with pytest.raises(UpdateError, match="weight_decay is given but lr is not"):
        Update(sent, weights, {"kind": "weights", "weight_decay": "0.1"}).observation()


def test_layers_are_found_by_exact_name_or_unique_ending():
    update = gradient_update()
    assert update.observation("_1").out_features == update.observation("dense_1").out_features == 4
    with pytest.raises(
        UpdateError, match="'dense_7' is not a dense layer of this update; choose one of dense_0, dense_1"
    ):
        update.observation("dense_7")
    twins = {f"{side}/{name}": tensor for side in "ab" for name, tensor in tensors(0).items()}
    with pytest.raises(UpdateError, match="'dense_0' matches several layers; choose one of a/dense_0, b/dense_0"):
        Update(twins, twins, {"kind": "gradient"}).observation("dense_0")


def test_network_is_the_layers_above_in_order():
    update = Update(tensors(0, sizes=(6, 5, 4, 3)), tensors(1, sizes=(6, 5, 4, 3)), {"kind": "gradient"})
    network = update.network()
    assert network is not None
    assert [(weight.shape, bias.shape) for weight, bias in network] == [((4, 5), (4,)), ((3, 4), (3,))]
    np.testing.assert_array_equal(network[0][0], update.global_tensors["dense_1/kernel"].T)
    assert update.network("dense_2") is None


def test_network_is_unknown_where_layers_do_not_chain_or_a_matrix_was_left_out():
    broken = tensors(0, sizes=(6, 5)) | {"dense_1/kernel": np.ones((7, 3)), "dense_1/bias": np.ones(3)}
    assert Update(broken, broken, {"kind": "gradient"}).network() is None
    mapped = tensors(0) | {"dense_2/matrix": np.ones((4, 2))}
    assert Update(mapped, mapped, {"kind": "gradient"}).network() is None


def test_layers_without_bias_are_layers_where_all_matrices_are_one_chain():
    headless = tensors(0) | {"dense_2/kernel": np.ones((4, 2))}
    update = Update(headless, headless, {"kind": "gradient"})
    assert [layer.bias_name for layer in update.layers] == ["dense_0/bias", "dense_1/bias", None]
    np.testing.assert_array_equal(update.network()[-1][1], np.zeros(2))
    assert update.layers_above()[-1].bias is None
    for other in ({"emb.weight": np.ones((9, 4))}, {"dense_2/kernel": np.ones((3, 2))}, {"conv": np.ones((2, 2, 2))}):
        kept = Update(headless | other, headless | other, {"kind": "gradient"})
        assert len(kept.layers) == 2
        assert set(other) & {name for name, _ in kept.skipped}


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_bias_gradient_may_be_withheld(is_gone):
    back = tensors(1)
    came_back = {name: value for name, value in back.items() if name != "dense_0/bias"}
    came_back |= {} if is_gone else {"dense_0/bias": np.zeros(5)}
    observation = Update(tensors(0), came_back, {"kind": "gradient"}).observation()
    assert observation.bias_grad is None
    np.testing.assert_array_equal(observation.bias, tensors(0)["dense_0/bias"])


def test_natural_order_puts_two_before_ten():
    assert sorted(["dense_10", "dense_2", "a"], key=natural_key) == ["a", "dense_2", "dense_10"]
    sizes = [8] * 12
    shapes = {n: t.shape for n, t in reversed(tensors(0, sizes=sizes).items())}
    assert [layer.name for layer in find_layers(shapes)[0]] == [f"dense_{i}" for i in range(11)]


def test_shapes_order_the_layers_where_names_do_not():
    shapes = {"classifier.weight": (3, 9), "classifier.bias": (3,), "encoder.0.weight": (9, 20), "encoder.0.bias": (9,)}
    shapes |= {"encoder.2.weight": (9, 9), "encoder.2.bias": (9,)}
    assert [layer.name for layer in find_layers(shapes)[0]] == ["encoder.0", "encoder.2", "classifier"]


def test_a_model_without_any_chain_keeps_the_order_of_its_names_and_ends_soon():
    shapes = {}
    for block in range(24):
        for part, m, n in (("key", 8, 8), ("mlp_in", 32, 8), ("mlp_out", 8, 32), ("query", 8, 8), ("odd", 5, 7)):
            shapes |= {f"block.{block}.{part}.weight": (m, n), f"block.{block}.{part}.bias": (m,)}
    names = [layer.name for layer in find_layers(shapes)[0]]
    assert names == sorted(names, key=natural_key)


def test_what_is_no_dense_layer_is_listed_with_its_reason():
    extra = {"conv/kernel": np.ones((3, 3, 1, 2)), "embed/embedding": np.ones((4, 4)), "head/weight": np.ones((2, 4))}
    extra |= {"count": np.ones(2), "codes/kernel": np.ones((2, 2), np.int8), "codes/bias": np.ones(2, np.int8)}
    extra |= {"bad/kernel": np.ones((2, 3)), "bad/bias": np.ones(7)}
    update = Update(tensors(0) | extra, tensors(1) | extra, {"kind": "gradient"})
    assert [layer.name for layer in update.layers] == ["dense_0", "dense_1"]
    reasons = dict(update.skipped)
    assert "4 dimensions" in reasons["conv/kernel"]
    assert "neither kernel nor weight" in reasons["embed/embedding"]
    assert "without bias" in reasons["head/weight"]
    assert "does not fit bad/bias of length 7" in reasons["bad/kernel"]
    assert "not floating point" in reasons["codes/kernel"]
    assert len(reasons) == 5


def test_buffers_without_gradient_are_no_fault():
    sent = tensors(0) | {"norm/mean": np.ones(5)}
    assert Update(sent, tensors(1), {"kind": "gradient"}).observation().out_features == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global/dense_0/kernel": None}, "dense_0/kernel came back but global/dense_0/kernel is missing"),
        ({"grad/dense_0/kernel": None}, "global/dense_0/kernel has no counterpart grad/dense_0/kernel"),
        ({"grad/dense_1/kernel": None}, "global/dense_1/kernel has no counterpart"),
        ({"grad/dense_0/kernel": np.ones((5, 6))}, r"sent with shape \(6, 5\) but came back with shape \(5, 6\)"),
        ({"meta/kind": "weights"}, r"no tensors named client/<name>; kind=weights"),
        ({"meta/kind": "secret"}, "kind is 'secret'; expected one of gradient, weights, delta"),
        ({"meta/format_version": "2"}, "format_version is '2'; this release reads 1"),
        ({"meta/lr": "-1"}, "lr is '-1'; expected a positive number"),
        ({"meta/lr": "nan"}, "lr is 'nan'"),
        ({"meta/local_steps": "1.5"}, "local_steps is '1.5'; expected a positive integer"),
        ({"meta/num_examples": "9" * 5000}, "expected a positive integer"),
        ({"meta/image_shape": "[1, 2]"}, r"image_shape is '\[1, 2\]'"),
        ({"meta/image_shape": "[" * 100_000}, "image_shape is"),
        ({"meta/normalization": "{}"}, "normalization is '{}'"),
    ],
)
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_contradictory_bundles_are_refused_in_one_sentence(tmp_path, extension, change, message):
    path = tmp_path / f"u{extension}"
    content = {f"global/{n}": t for n, t in tensors(0).items()} | {f"grad/{n}": t for n, t in tensors(1).items()}
    content |= {"meta/kind": "gradient", "meta/format_version": "1"} | change
    write(path, {name: value for name, value in content.items() if value is not None})
    with pytest.raises(UpdateError, match=message) as caught:
        load_update(path)
    assert "u" + extension in str(caught.value)
    assert "\n" not in str(caught.value)


def write(path, content):
    """A bundle written without the library's own writer."""
    strings = {name: value for name, value in content.items() if isinstance(value, str)}
    arrays = {name: value for name, value in content.items() if name not in strings}
    if path.suffix == ".npz":
        members: dict = arrays | {name: np.array(value) for name, value in strings.items()}
        np.savez(path, **members)
    else:
        save_file(arrays, path, metadata={name.removeprefix("meta/"): value for name, value in strings.items()})


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_metadata_may_be_left_out_for_a_gradient_only(tmp_path, extension):
    path = tmp_path / f"u{extension}"
    for prefix in ("grad", "client"):
        write(
            path,
            {f"global/{n}": t for n, t in tensors(0).items()} | {f"{prefix}/{n}": t for n, t in tensors(1).items()},
        )
        if prefix == "grad":
            assert load_update(path).kind == "gradient"
        else:
            with pytest.raises(UpdateError, match="say kind=weights or kind=delta"):
                load_update(path)
    write(path, {"encoder.weight": np.ones((2, 2))})
    with pytest.raises(UpdateError, match="holds encoder.weight; expected tensors named global/<name>"):
        load_update(path)


def safetensors_bytes(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npz_bytes(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def npy_bytes(shape, data, descr="<f8"):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


PICKLE = io.BytesIO()
np.save(PICKLE, np.array([{"a": 1}], dtype=object), allow_pickle=True)
HUGE = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.safetensors", b"", "not a readable safetensors file"),
        ("u.safetensors", b"a text that is no tensor file", "not a readable safetensors file"),
        ("u.safetensors", struct.pack("<Q", 2**62) + b"{}", "not a readable safetensors file"),
        ("u.safetensors", safetensors_bytes({"global/a": HUGE}, b"1234"), "not a readable safetensors file"),
        ("u.safetensors", safetensors_bytes({"a": {**HUGE, "dtype": "Q9"}}), "not a readable safetensors file"),
        ("u.safetensors", safetensors_bytes({}), "holds nothing; expected tensors"),
        ("u.npz", b"", "not a readable npz file"),
        ("u.npz", b"PK\x03\x04 and then nothing", "not a readable npz file"),
        ("u.npz", pickle.dumps({"global/a": 1}), "not a readable npz file"),
        ("u.npz", npz_bytes(("grad/a.npy", PICKLE.getvalue())), "pickled .* refused"),
        ("u.npz", npz_bytes(("grad/a.npy", npy_bytes((10**12,), b"12345678"))), "declares float64"),
        ("u.npz", npz_bytes(("grad/a.npy", npy_bytes((-1,), b"12345678"))), "u.npz"),
        ("u.npz", npz_bytes(("grad/a.npy", b"not an array")), "not a readable npz file"),
        ("u.npz", npz_bytes(("meta/kind.npy", npy_bytes((1,), b"12345678"))), r"meta/kind is float64\(1,\); expected"),
        ("u.npz", npz_bytes(), "holds nothing; expected tensors"),
        ("u.pt", b"PK", "extension '.pt'; expected .safetensors or .npz"),
        ("u", b"", r"extension '\(none\)'"),
    ],
)
def test_damaged_and_lying_files_are_refused_in_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UpdateError, match=message):
        load_update(tmp_path / name)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_truncation_anywhere_is_refused(tmp_path, extension):
    path = tmp_path / f"u{extension}"
    save_update(gradient_update(), path)
    whole = path.read_bytes()
    assert load_update(path).layers
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(UpdateError):
            load_update(path)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_damage_anywhere_raises_nothing_but_update_error(tmp_path, extension):
    path = tmp_path / f"u{extension}"
    save_update(gradient_update(), path)
    whole = path.read_bytes()
    generator, refused = np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), 4):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            load_update(path).observation()
        except UpdateError:
            refused += 1
    assert refused > 10


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UpdateError, match=r"gone\.npz does not exist"):
        load_update(tmp_path / "gone.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UpdateError, match="is a folder, not a file"):
        load_update(tmp_path / "folder.npz")


def test_numbers_that_cannot_be_used_name_the_layer():
    grad = tensors(1)
    grad["dense_0/kernel"][2, 1] = np.nan
    with pytest.raises(UpdateError, match=r"layer dense_0: weight_grad holds 1 NaN .* \(1, 2\)"):
        Update(tensors(0), grad, {"kind": "gradient"}).observation()
    with pytest.raises(UpdateError, match="weight_grad is zero everywhere"):
        Update(tensors(0), tensors(0), {"kind": "weights"}).observation()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, extension, monkeypatch):
    path = tmp_path / f"u{extension}"
    save_update(gradient_update(), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UpdateError, match="no space left"):
        save_update(gradient_update(lr="2"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_to_nowhere_or_to_another_format_is_refused(tmp_path):
    for extension in EXTENSIONS:
        with pytest.raises(UpdateError, match="cannot write"):
            save_update(gradient_update(), tmp_path / "missing" / f"u{extension}")
    with pytest.raises(UpdateError, match=r"cannot write u\.pt: expected the extension"):
        save_update(gradient_update(), tmp_path / "u.pt")
