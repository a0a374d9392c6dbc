"""PyTorch files without PyTorch: the arrays that PyTorch wrote, and no way to run code, hang or fill the memory."""

from __future__ import annotations

import pickle
import re
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spear_jax.errors import TensorFileError
from spear_jax.tensor_files import read_npz
from spear_jax.update.readers import torch_files
from spear_jax.update.readers.torch_files import read_torch

FIXTURES = Path(__file__).parents[1] / "fixtures"
GLOBAL = "c{}\n{}\n".format
TENSOR = GLOBAL("torch._utils", "_rebuild_tensor_v2").encode()


def read_state_dict(path):
    return read_torch(path).tensors


def plain(value) -> bytes:
    """Instructions that push a value of the standard library."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(key="0", kind="FloatStorage", numel=6, offset=0, size=(2, 3), stride=(3, 1), metadata=b"") -> bytes:
    """Instructions that push a tensor, as torch.save writes them."""
    storage = plain("storage") + GLOBAL("torch", kind).encode() + plain(key) + plain("cpu") + plain(numel)
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        TENSOR
        + b"(("
        + storage
        + b"tQ"
        + plain(offset)
        + plain(size)
        + plain(stride)
        + b"\x89"
        + hooks
        + metadata
        + b"tR"
    )


def mapping(**values: bytes) -> bytes:
    return b"}(" + b"".join(plain(name) + value for name, value in values.items()) + b"u"


def archive(path, pickled: bytes, compression=zipfile.ZIP_STORED, **records: bytes) -> Path:
    """A file as PyTorch 1.6 wrote it: no byte order, root ``archive``."""
    records = records or {"0": np.arange(6, dtype=np.float32).tobytes()}
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + pickled + b".")
        for key, content in records.items():
            file.writestr(f"archive/{key}" if key == "byteorder" else f"archive/data/{key.strip('_')}", content)
    return path


def refused(path) -> str:
    """The sentence of a refusal, which comes soon and takes little memory."""
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(TensorFileError) as caught:
        read_state_dict(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - started < 5
    assert peak < 2 * Path(path).stat().st_size + 2**24
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tricky.pt", "tricky_protocol_4.pt"])
def test_every_tensor_is_what_pytorch_shows(name):
    found, expected = read_state_dict(FIXTURES / name), read_npz(FIXTURES / "tricky.npz")
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        assert found[key].shape == array.shape, key
        assert found[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_state_dict_alone_or_nested_beside_an_optimiser(side):
    expected = {
        name.removeprefix(f"{side}/"): array
        for name, array in read_npz(FIXTURES / "pair.npz").items()
        if name.startswith(side)
    }
    found = read_state_dict(FIXTURES / f"{side}.pt")
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_file_of_the_first_zip_format_and_big_endian_bytes(tmp_path):
    content = np.arange(6, dtype=np.float32)
    old = read_state_dict(archive(tmp_path / "old.pt", mapping(w=tensor())))
    np.testing.assert_array_equal(old["w"], content.reshape(2, 3))
    big = archive(tmp_path / "big.pt", mapping(w=tensor()), byteorder=b"big", _0=content.astype(">f4").tobytes())
    np.testing.assert_array_equal(read_state_dict(big)["w"], content.reshape(2, 3))


def test_arrays_cannot_be_written_through_a_shared_storage():
    found = read_state_dict(FIXTURES / "tricky.pt")
    with pytest.raises(ValueError, match="read-only"):
        found["tied"][0, 0] = 7


def test_memory_stays_near_the_size_of_the_tensors(tmp_path):
    size = 2**21
    records = {key: np.zeros(size, np.float32).tobytes() for key in ("0", "1")}
    one = lambda key: tensor(key, numel=size, size=(size,), stride=(1,))
    path = archive(tmp_path / "large.pt", mapping(a=one("0"), b=one("1")), **records)
    del records
    tracemalloc.start()
    found = read_state_dict(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * sum(array.nbytes for array in found.values())


CALL = b"X\x0e\x00\x00\x00touch /nowhere\x85R"
CODE = {
    "os.system": b"cos\nsystem\n" + CALL,
    "posix.system": b"cposix\nsystem\n" + CALL,
    "builtins.eval": b"cbuiltins\neval\n" + CALL,
    "__builtin__.getattr": b"c__builtin__\ngetattr\n" + CALL,
    "torch.load": b"ctorch\nload\n" + CALL,
    "numpy.core.multiarray.scalar": b"cnumpy.core.multiarray\nscalar\n" + CALL,
    "torch._utils._rebuild_sparse_tensor": b"ctorch._utils\n_rebuild_sparse_tensor\n" + CALL,
    "collections.OrderedDict.fromkeys": b"ccollections\nOrderedDict.fromkeys\n" + CALL,
    "subprocess.run": b"\x8c\x0asubprocess\x8c\x03run\x93" + CALL,
    "INST": b"(X\x02\x00\x00\x00idios\nsystem\n",
    "OBJ": b"(ccollections\nOrderedDict\no",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "EXT1": b"\x82\x01",
    "PERSID": b"Pevil\n",
}


@pytest.mark.parametrize("name", CODE)
def test_anything_that_could_run_is_refused_by_name(tmp_path, name):
    evil = archive(tmp_path / "evil.pt", mapping(w=tensor(), x=CODE[name]))
    assert name in refused(evil)
    assert "refused" in refused(evil)


def test_the_same_pickle_does_run_elsewhere(tmp_path):
    """Negative control: what is refused here is a working exploit of a reader that trusts."""
    target = tmp_path / "ran"
    exploit = b"cbuiltins\nopen\n(" + plain(str(target)) + plain("w") + b"tR"
    assert "builtins.open" in refused(archive(tmp_path / "evil.pt", mapping(w=exploit)))
    assert not target.exists()
    pickle.loads(b"\x80\x02" + exploit + b".").close()
    assert target.exists()


WRONG_PICKLES = {
    "a global called with another's arguments": (mapping(w=TENSOR + b")R"), "damaged"),
    "a storage called": (mapping(w=b"ctorch\nFloatStorage\n)R"), "damaged"),
    "a string called": (mapping(w=plain("os") + b")R"), "damaged"),
    "attributes of a global": (mapping(w=b"ctorch\nFloatStorage\n}b"), "damaged"),
    "attributes of a tensor": (mapping(w=tensor() + b"}b"), "damaged"),
    "no storage": (mapping(w=tensor(key="7")), "damaged"),
    "another place in the zip": (mapping(w=tensor(key="../data.pkl")), "damaged"),
    "a persistent id of nothing": (mapping(w=b"NQ"), "damaged"),
    "fewer bytes than said": (mapping(w=tensor(numel=7)), "should have 28 bytes and has 24"),
    "beyond the end": (mapping(w=tensor(offset=1)), "beyond its storage"),
    "before the start": (mapping(w=tensor(offset=-1)), "none: the file is damaged"),
    "backwards": (mapping(w=tensor(offset=5, stride=(-3, -1))), "none: the file is damaged"),
    "sizes without strides": (mapping(w=tensor(stride=(1,))), "none: the file is damaged"),
    "truth for a size": (mapping(w=tensor(size=(True, 3))), "damaged"),
    "an endless size": (mapping(w=tensor(size=(2**70, 3))), "beyond its storage"),
    "an endless empty size": (mapping(w=tensor(size=(2**70, 0))), "damaged"),
    "many dimensions": (mapping(w=tensor(size=(1,) * 99, stride=(1,) * 99)), "damaged"),
    "one element a billion times": (mapping(w=tensor(size=(10**9,), stride=(0,))), "an expanded tensor"),
    "many names for one storage": (
        mapping(**{f"w{i}": tensor(size=(400, 6), stride=(0, 1)) for i in range(99)}),
        "an expanded tensor",
    ),
    "one storage as two types": (mapping(w=tensor(), v=tensor(kind="IntStorage")), "described in two ways"),
    "a complex tensor": (mapping(w=tensor(kind="ComplexFloatStorage", numel=3)), "complex tensor"),
    "a lazily negated tensor": (mapping(w=tensor(metadata=mapping(neg=b"\x88"))), "resolve_neg"),
    "a quantised tensor": (mapping(w=tensor(kind="QInt8Storage")), "asks for torch.QInt8Storage"),
    "a list of nothing": (b"]", "holds no tensors by name"),
    "a tensor": (tensor(), "holds a single tensor, not a state dict"),
    "numbers for names": (b"}" + plain(1) + tensor() + b"s", "no tensors by name"),
    "no tensors": (plain({"epoch": 3, "losses": [1.5]}), "no tensors by name"),
    "nothing": (b"", "damaged"),
    "no end": (b"}X\xff\xff\xff\xff", "damaged"),
    "a huge memo": (mapping(w=tensor()) + b"r\xff\xff\xff\xff" + b"0", "uses POP"),
    "a missing memo": (b"j\xff\xff\xff\xff", "damaged"),
    "a mark too few": (b"u", "damaged"),
    "a huge buffer": (b"\x96" + struct.pack("<Q", 2**60), "damaged"),
    "a long number": (b"I" + b"9" * 100_000 + b"\n", "damaged"),
    "a key that hashes for ever": (b"})" + b"2\x86" * 60 + b"Ns", "uses DUP"),
    "the same by the memo": (b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"Ns", "tuple as key"),
    "keys that collide": (
        b"}(" + b"".join(plain(i * (2**61 - 1)) + b"N" for i in range(1, 999)) + b"u",
        "int as key",
    ),
    "a million instructions": (b"N" * 10**6, "more than"),
    "a million dicts": (b"}" * 10**6, "more than"),
    "ten million characters": (plain("x" * 10**7), "expected at most"),
}


@pytest.mark.parametrize("case", WRONG_PICKLES)
def test_a_wrong_pickle_ends_soon_in_a_sentence(tmp_path, case, monkeypatch):
    monkeypatch.setattr(torch_files, "INSTRUCTIONS", 10_000)  # type checks make them slow here
    pickled, sentence = WRONG_PICKLES[case]
    assert re.search(sentence, refused(archive(tmp_path / "wrong.pt", pickled)))


def test_what_contains_itself_or_grows_by_reference_is_harmless(tmp_path):
    itself = b"]q\x01h\x01a"
    laughs = b"]q\x02"
    for index in range(2, 30):
        laughs = b"](" + laughs + b"h%c" % index * 9 + b"eq%c" % (index + 1)
    path = archive(tmp_path / "odd.pt", mapping(model=mapping(w=tensor()), itself=itself, laughs=laughs))
    assert list(read_state_dict(path)) == ["w"]


def test_archives_that_lie(tmp_path):
    good = mapping(w=tensor())
    packed = archive(tmp_path / "packed.pt", good, zipfile.ZIP_DEFLATED, **{"0": bytes(10**7)})
    assert "is compressed, which torch.save never does" in refused(packed)
    whole = archive(tmp_path / "good.pt", good).read_bytes()
    for size in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        assert "truncated" in refused(tmp_path / "cut.pt") or size < 2
    (tmp_path / "flipped.pt").write_bytes(whole.replace(np.float32(5).tobytes(), np.float32(6).tobytes()))
    assert "Bad CRC-32" in refused(tmp_path / "flipped.pt")
    # A central directory that claims 2 GiB for a record, as stored as before.
    central = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)
    lie = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "lie.pt").write_bytes(whole[: central + 20] + lie + whole[central + 28 :])
    assert "claim more bytes than the file has" in refused(tmp_path / "lie.pt")


def test_files_of_other_kinds_are_told_how_to_be_saved_again(tmp_path):
    legacy = tmp_path / "legacy.pt"
    legacy.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    assert "since PyTorch 1.6; load it with PyTorch" in refused(legacy)
    with zipfile.ZipFile(tmp_path / "script.pt", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            file.writestr(f"script/{name}", b"x" * 99)
    assert "TorchScript archive" in refused(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("document.xml", b"")
    assert "without the data.pkl" in refused(tmp_path / "other.pt")
    with pytest.raises(TensorFileError, match="does not exist"):
        read_state_dict(tmp_path / "gone.pt")
    with pytest.raises(TensorFileError, match="is a folder"):
        read_state_dict(tmp_path)
