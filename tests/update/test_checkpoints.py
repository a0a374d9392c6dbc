"""Checkpoints beside anything else, modules, lists, old files, plain pickles: tensors are read, the rest is not run."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import pickle
import struct

import numpy as np
import pytest

from spear_jax.errors import TensorFileError, UpdateError
from spear_jax.update.dense_layers import find_layers
from spear_jax.update.make import make_update
from spear_jax.update.readers.model_files import read_model
from spear_jax.update.readers.trees import Opaque, find_model
from tests.update.test_torch_files import TENSOR, archive, mapping, plain, tensor

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
STATE = mapping(**{"0.weight": tensor(), "0.bias": tensor(size=(2,), stride=(1,))})
OTHER = mapping(**{"0.weight": tensor(offset=0, size=(2, 2), stride=(1, 1)), "0.bias": tensor(size=(2,), stride=(1,))})


def entries(*pairs):
    """A dict in instructions, of keys in instructions."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def instance(module, name, state=b"}") -> bytes:
    """An object of a class that nobody has, with attributes."""
    return f"c{module}\n{name}\n".encode() + b")\x81" + state + b"b"


@dataclasses.dataclass
class Settings:
    """Something that programs store beside a model."""

    rate: float = 0.1


def names(path):
    return list(read_model(path).tensors)


CHECKPOINTS = {
    "alone": STATE,
    "state_dict": mapping(epoch=plain(3), state_dict=STATE, optimizer_states=b"]"),
    "arguments": mapping(model=STATE, args=instance("argparse", "Namespace", plain({"rate": 0.1}))),
    "any class": mapping(net=STATE, config=instance("omegaconf.dictconfig", "DictConfig", plain({"_content": {}}))),
    "a nested class": mapping(net=STATE, config=b"\x8c\x04mine\x8c\x05A.Two\x93)\x81"),
    "an optimiser": mapping(model=STATE, optimizer=mapping(state=OTHER)),
    "an optimiser of another name": mapping(weights=STATE, optim_g=OTHER, lr_scheduler=OTHER),
    "an optimiser's object": mapping(model=STATE, trainer=instance("torch.optim.adam", "Adam", mapping(state=OTHER))),
    "an average": mapping(model=STATE, model_ema=OTHER, swa_state=OTHER),
    "a name of its own and a copy": mapping(student=STATE, teacher=OTHER, step=plain(1)),
    "two levels": mapping(state=mapping(run=mapping(model_state_dict=STATE), step=plain(1))),
    "extra state": mapping(net=STATE[:-1] + plain("q._extra_state") + mapping(stats=OTHER) + b"u"),
    "a loss that is a tensor": mapping(model=STATE, loss=tensor(size=(), stride=())),
    "a default dict": mapping(model=STATE, log=b"ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R"),
    "numbers of NumPy": mapping(model=STATE, best=pickle.dumps(np.float64(3), 2)[2:-1]),
    "keys of other kinds": entries(
        (plain("model"), STATE), (plain((1, 2)), b"N"), (b"N", b"N"), (plain(1.5), b"N"), (plain(-1), b"N")
    ),
    "a set": mapping(model=STATE, seen=b"\x8f(K\x01K\x02\x90"),
    "a path": mapping(model=STATE, folder=pickle.dumps(pathlib.PurePosixPath("a/b"), 2)[2:-1]),
    "a dict of a class": mapping(model=b"cmine\nConfig\n)\x81" + STATE[1:]),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_the_model_is_found_beside_anything_else(tmp_path, case):
    found = read_model(archive(tmp_path / "a.ckpt", CHECKPOINTS[case]))
    assert [name.split(".")[-2:] for name in found.tensors] == [["0", "weight"], ["0", "bias"]]
    np.testing.assert_array_equal(found.tensors[list(found.tensors)[0]], ARRAY)


def test_a_module_saved_whole_is_read_by_its_parameters_and_buffers(tmp_path):
    linear = instance(
        "torch.nn.modules.linear",
        "Linear",
        mapping(
            training=b"\x88", _parameters=mapping(weight=tensor(), bias=b"N"),
            _buffers=mapping(mean=tensor(size=(2,), stride=(1,))), _modules=b"}",
        ),
    )  # fmt: skip
    whole = instance("mine", "Net", mapping(_parameters=b"}", _buffers=b"}", _modules=mapping(fc=linear)))
    assert names(archive(tmp_path / "a.pt", whole)) == ["fc.weight", "fc.mean"]
    assert names(archive(tmp_path / "b.pt", mapping(model=whole, epoch=plain(1)))) == ["fc.weight", "fc.mean"]


def test_what_stays_open_keeps_its_path_and_the_other_file_decides(tmp_path):
    sent = read_model(archive(tmp_path / "sent.pt", STATE))
    changed = {"0": np.arange(6, dtype=np.float32).tobytes(), "1": np.full(6, 7, np.float32).tobytes()}
    new = mapping(**{"0.weight": tensor("1"), "0.bias": tensor("1", size=(2,), stride=(1,))})
    both = archive(tmp_path / "both.pt", mapping(mine=new, yours=STATE), **changed)
    assert names(both) == ["mine.0.weight", "mine.0.bias", "yours.0.weight", "yours.0.bias"]
    update = make_update(sent, read_model(both))
    np.testing.assert_array_equal(update.client_tensors["0.weight"], np.full((2, 3), 7))
    with pytest.raises(UpdateError, match=r"0\.weight may be .*mine\.0\.weight"):
        make_update(sent, read_model(archive(tmp_path / "c.pt", mapping(mine=new, yours=OTHER_CHANGED), **changed)))


OTHER_CHANGED = mapping(**{"0.weight": tensor("1"), "0.bias": tensor(size=(2,), stride=(1,), offset=1)})


LISTS = {
    "a list": b"](" + tensor() + tensor(size=(2,), stride=(1,)) + b"e",
    "a tuple": b"(" + tensor() + tensor(size=(2,), stride=(1,)) + b"t",
    "pairs": b"]" + tensor() + tensor(size=(2,), stride=(1,)) + b"\x86a",
    "in a dict": mapping(grads=b"(" + tensor() + tensor(size=(2,), stride=(1,)) + b"t", n=plain(4)),
    "under numbers": entries((plain(0), tensor()), (plain(1), tensor(size=(2,), stride=(1,)))),
}


@pytest.mark.parametrize("case", LISTS)
def test_gradients_as_lists_tuples_and_pairs(tmp_path, case):
    found = read_model(archive(tmp_path / "g.pt", LISTS[case]))
    assert found.positions == (0, 1)
    assert list(found.tensors) == ["layer_00.weight", "layer_00.bias"]


def test_kernels_in_one_list_and_biases_in_another_are_one_model(tmp_path):
    for names in (("weights", "biases"), ("W", "b"), ("coefs_", "intercepts_")):
        lists = mapping(**{names[0]: b"]" + tensor() + b"a", names[1]: b"]" + tensor(size=(2,), stride=(1,)) + b"a"})
        for content in (lists, mapping(params=lists), mapping(model=lists), instance("sklearn.mlp", "Net", lists)):
            found = read_model(archive(tmp_path / "g.pt", content)).tensors
            assert list(found) == [f"{name}.0" for name in names]
            assert len(find_layers({name: array.shape for name, array in found.items()})[0]) == 1


def test_entries_that_are_none_leave_gaps(tmp_path):
    found = read_model(archive(tmp_path / "g.pt", b"](NN" + tensor() + tensor(size=(2,), stride=(1,)) + b"e"))
    assert found.positions == (2, 3)


EXOTIC = {
    "complex": (tensor("1", kind="ComplexFloatStorage", numel=3), "complex tensor"),
    "quantised storage": (tensor("1", kind="QInt8Storage"), "asks for torch.QInt8Storage"),
    "quantised": (b"ctorch._utils\n_rebuild_qtensor\n(NNtR", "quantised"),
    "sparse": (b"ctorch._utils\n_rebuild_sparse_tensor\n(ctorch\nlayout\n)tR", "sparse"),
    "float8": (
        b"ctorch._utils\n_rebuild_tensor_v3\n((" + plain("storage") + b"ctorch.storage\nUntypedStorage\n"
        + plain("1") + plain("cpu") + plain(3) + b"tQK\x00K\x03\x85K\x01\x85\x89Nctorch\nfloat8_e4m3fn\ntR",
        "float8_e4m3fn",
    ),
    "without elements": (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(NtR", "no elements"),
    "negated": (tensor(metadata=mapping(neg=b"\x88")), "resolve_neg"),
}  # fmt: skip


@pytest.mark.parametrize("case", EXOTIC)
def test_an_exotic_tensor_beside_the_layers_is_left_out_by_name_and_in_a_layer_refused(tmp_path, case):
    exotic, reason = EXOTIC[case]
    beside = read_model(archive(tmp_path / "a.pt", STATE[:-1] + plain("freqs") + exotic + b"u"))
    assert list(beside.tensors) == ["0.weight", "0.bias"]
    assert reason in beside.left_out["freqs"]
    update = make_update(beside, beside, as_received=True)
    assert update.metadata["left_out"].startswith("freqs ")
    layer = read_model(archive(tmp_path / "b.pt", STATE[:-1] + plain("2.weight") + exotic + plain("2.bias")
                               + tensor(size=(2,), stride=(1,)) + b"u"))  # fmt: skip
    with pytest.raises(UpdateError, match=r"2\.weight .*it belongs to a dense layer: save the model in float32"):
        make_update(layer, layer, as_received=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_of_numpy_arrays(tmp_path, protocol):
    content = {
        "params": {"w1": np.asfortranarray(ARRAY), "b1": np.ones(3, ">f8"), "half": np.ones(2, np.float16)},
        "config": Settings(),
        "log": collections.deque([1, 2]),
        "seen": {1, 2},
        "args": argparse.Namespace(out=pathlib.Path("x")),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_model(tmp_path / "a.pkl").tensors
    assert list(found) == ["w1", "b1", "half"]
    np.testing.assert_array_equal(found["w1"], ARRAY)
    assert found["b1"].dtype == np.float64
    odd = {"w": ARRAY, "objects": np.array([{}], object), "text": np.array(["a"]), "z": np.ones(2, complex)}
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(odd, protocol))
    read = read_model(tmp_path / "b.pkl")
    assert list(read.tensors) == ["w"]
    assert sorted(read.left_out) == ["objects", "text", "z"]


def test_pickles_of_jax_arrays_in_dicts_lists_and_pairs(tmp_path):
    import jax.numpy as jnp

    layers = [{"W": jnp.ones((3, 2)), "b": jnp.ones(2)}, {"W": jnp.ones((2, 2)), "b": jnp.ones(2)}]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(layers))
    assert names(tmp_path / "a.pkl") == ["0/W", "0/b", "1/W", "1/b"]
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([(layer["W"], layer["b"]) for layer in layers]))
    found = read_model(tmp_path / "b.pkl")
    assert found.positions == (0, 1, 2, 3)
    assert list(found.tensors) == ["layer_00/kernel", "layer_00/bias", "layer_01/kernel", "layer_01/bias"]


def legacy(path, content: bytes, *storages: bytes, keys=("0",)):
    """A file as PyTorch wrote it before 1.6; ids of storages there have a sixth entry."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    content = content.replace(b"tQ", b"NtQ")
    raw = b"".join(struct.pack("<q", len(storage) // 4) + storage for storage in storages)
    pickles = b"".join(pickle.dumps(part, 2) for part in head) + b"\x80\x02" + content + b"."
    path.write_bytes(pickles + pickle.dumps(list(keys), 2) + raw)
    return path


def test_files_of_the_form_before_1_6(tmp_path):
    storage = ARRAY.tobytes()
    for content in (STATE, mapping(model=STATE, optimizer=mapping(state=mapping(m=tensor())))):
        found = read_model(legacy(tmp_path / "old.pt", content, storage)).tensors
        assert list(found) == ["0.weight", "0.bias"]
        np.testing.assert_array_equal(found["0.weight"], ARRAY)
    whole = (tmp_path / "old.pt").read_bytes()
    for size in (50, 200, len(whole) - 30, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(UpdateError, match="damaged|truncated"):
            read_model(tmp_path / "cut.pt")
    with pytest.raises(UpdateError, match="has 5 elements for 6"):
        read_model(legacy(tmp_path / "short.pt", STATE, storage[:20]))


EVIL = {
    "os.system": b"cos\nsystem\n",
    "posix.system": b"cposix\nsystem\n",
    "builtins.eval": b"cbuiltins\neval\n",
    "builtins.__import__": b"cbuiltins\n__import__\n",
    "subprocess.Popen": b"csubprocess\nPopen\n",
    "importlib.import_module": b"cimportlib\nimport_module\n",
    "torch.hub.load": b"ctorch.hub\nload\n",
    "operator.attrgetter": b"coperator\nattrgetter\n",
    "runpy.run_path": b"crunpy\nrun_path\n",
    "types.FunctionType": b"ctypes\nFunctionType\n",
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("how", [b"R", b"\x81"])
def test_what_could_only_run_something_is_refused_by_name_wherever_it_stands(tmp_path, name, how):
    call = EVIL[name] + plain("touch /nowhere") + b"\x85" + how
    for content in (mapping(model=STATE, x=call), mapping(model=STATE, x=b"]" + call + b"a")):
        for path in (archive(tmp_path / "a.pt", content), legacy(tmp_path / "b.pt", content, ARRAY.tobytes())):
            with pytest.raises(UpdateError, match=name.replace(".", r"\.")):
                read_model(path)
    (tmp_path / "c.pkl").write_bytes(b"\x80\x02" + mapping(x=call) + b".")
    with pytest.raises(UpdateError, match="refused"):
        read_model(tmp_path / "c.pkl")


class Touch:
    """A pickle of it makes a file in whoever trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_an_unknown_function_is_passed_over_unrun(tmp_path):
    target = tmp_path / "ran"
    content = {"model": {"0.weight": ARRAY, "0.bias": np.ones(2)}, "x": Touch(target)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UpdateError, match="getattr"):  # how pickle names a method at this protocol
        read_model(tmp_path / "a.pkl")
    hidden = mapping(model=STATE, x=b"cshady\nrun\n" + plain(str(target)) + b"\x85R")
    assert names(archive(tmp_path / "b.pt", hidden)) == ["0.weight", "0.bias"]
    assert not target.exists()
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert target.exists()  # negative control


WRONG = {
    "a known function with other arguments": (mapping(model=STATE, x=TENSOR + b"K\x01\x85R"), "refused"),
    "bytes of another size": (
        mapping(w=pickle.dumps(np.ones((2, 3)), 2)[2:-1].replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86")),
        "damaged",
    ),
    "an array never filled": (mapping(w=b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nNNtR"), "fill"),
    "only an optimiser": (mapping(optimizer=STATE), "no tensors by name"),
    "a number": (plain(3), "not a state dict"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damage_ends_in_a_sentence(tmp_path, case):
    content, sentence = WRONG[case]
    with pytest.raises(UpdateError, match=sentence) as caught:
        read_model(archive(tmp_path / "a.pt", content))
    assert "\n" not in str(caught.value)


def test_a_tree_that_holds_itself_or_is_very_deep_ends():
    loop: dict = {"w": ARRAY}
    loop["self"], loop["object"] = loop, Opaque("mine", loop)
    assert list(find_model(loop, ".", np.ndarray).tensors) == ["w"]
    deep: list = [ARRAY]
    for _ in range(5000):
        deep = [deep]
    assert find_model({"deep": deep}, ".", np.ndarray).tensors == {}
    with pytest.raises(TensorFileError, match="two arrays are called"):
        find_model({"a/b": ARRAY, "a": {"b": ARRAY}}, "/", np.ndarray)
