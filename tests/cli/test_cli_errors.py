"""Every wrong input ends with exit code 2 and one sentence on stderr: what was expected, what came, what to do."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.command_line import planted_update, run

ONE = ("--num-devices", 1, "--max-candidates", 2**17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An update, its truth, the truth of another client, and things that are none of these."""
    folder = tmp_path_factory.mktemp("wrong")
    small = ("--width", 100, "--depth", 1)
    for name, more in (
        ("good", ("--batch-size", 2, "--image-size", 8)),
        ("other", ("--batch-size", 2, "--image-size", 9)),
    ):
        files = ("--out", folder / f"{name}.safetensors", "--truth", folder / f"{name}_truth.safetensors")
        assert run("simulate", *small, *more, *files).code == 0
    assert run("reconstruct", folder / "good.safetensors", "--out", folder / "recon", *ONE).code == 0
    whole = (folder / "good.safetensors").read_bytes()
    for size in (0, 5, 50, 1500, len(whole) - 3):
        (folder / f"cut{size if size < 2000 else 'end'}.safetensors").write_bytes(whole[:size])
    garbage = np.random.default_rng(0).bytes(3000)
    for name in ("garbage.safetensors", "garbage.npz", "update.bin", "afile"):
        (folder / name).write_bytes(garbage)
    for name in ("nothing", "dir.safetensors", "pictures"):
        (folder / name).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "pictures/one.png")
    return folder


def refused(folder, arguments):
    """Run in the folder; the sentence of a refusal, after checking its form."""
    said = run(*arguments)
    assert said.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    sentence = said.err.removeprefix("error: ")
    assert len(sentence) < len(said.err)
    assert sentence.count("\n") == 1
    assert "[Errno" not in sentence
    assert "ReconstructConfig" not in sentence
    return sentence


WRONG = {
    "no such command": (("bogus",), "No such command 'bogus'; see spear-jax --help"),
    "no such option": (("inspect", "good.safetensors", "--bogus"), "No such option: --bogus; see spear-jax inspect"),
    "argument left out": (("inspect",), "Missing argument .*; see spear-jax inspect --help"),
    "truth left out": (("evaluate", "recon"), "Missing option '--truth'; see"),
    "no command of a group": (("bench",), "Missing command; see spear-jax bench --help"),
    "no such file": (("inspect", "gone.safetensors"), "gone.safetensors does not exist"),
    "another extension": (("inspect", "update.bin"), "extension '.bin'; expected .safetensors or .npz"),
    "nothing of the file": (("inspect", "cut0.safetensors"), "truncated or damaged"),
    "half a header size": (("inspect", "cut5.safetensors"), "truncated or damaged"),
    "half a header": (("inspect", "cut50.safetensors"), "truncated or damaged"),
    "half the tensors": (("reconstruct", "cut1500.safetensors"), "truncated or damaged"),
    "all but the end": (("reconstruct", "cutend.safetensors"), "truncated or damaged"),
    "garbage": (("reconstruct", "garbage.safetensors"), "truncated or damaged"),
    "garbage npz": (("reconstruct", "garbage.npz"), "truncated or damaged"),
    "a folder for a file": (("inspect", "dir.safetensors"), "is a folder, not a file"),
    "the truth for the update": (("reconstruct", "good_truth.safetensors"), "expected tensors named global/"),
    "no such layer": (
        ("reconstruct", "good.safetensors", "--layer", "x"),
        "'x' is not .* choose one of dense_0, dense_1",
    ),
    "no such layout": (
        ("inspect", "good.safetensors", "--layout", "x"),
        "layout is 'x'; expected one of out_in, in_out",
    ),
    "no such data": (("simulate", "--images", "gone"), "gone does not exist"),
    "no images": (("simulate", "--images", "nothing"), "holds no images"),
    "no data": (("simulate", "--images", "afile"), "no data set that can be read; expected a folder"),
    "too few images": (("simulate", "--images", "pictures"), "has 1 images but the batch size is 8; expected 1 to 1"),
    "too few photos": (("simulate", "--batch-size", "99999"), "distinct images but the batch size is 99999"),
    "empty batch": (("simulate", "--batch-size", "0"), "--batch-size"),
    "no number": (("simulate", "--batch-size", "x"), "--batch-size"),
    "negative seed": (("simulate", "--seed", "-1"), "--seed"),
    "negative rate": (("simulate", "--learning-rate", "-1"), "--learning-rate"),
    "half precision": (("simulate", "--dtype", "float16"), "dtype is float16; expected float32 or float64"),
    "no such precision": (("simulate", "--dtype", "x"), "dtype is x; expected float32 or float64"),
    "no such initialization": (("simulate", "--initialization", "x"), "expected one of pytorch, flax, normal"),
    "no such normalization": (("simulate", "--normalize", "x"), "'x' is not understood; expected none"),
    "update of another kind": (("simulate", "--out", "u.bin"), "--out is .*u.bin; expected the extension .safetensors"),
    "truth of another kind": (
        ("simulate", "--truth", "t.bin"),
        "--truth is .*t.bin; expected the extension .safetensors",
    ),
    "update below a file": (("simulate", "--out", "afile/u.npz"), "expected a folder to write to"),
    "truth on the update": (("simulate", "--out", "u.npz", "--truth", "u.npz"), "the truth must lie apart"),
    "out is a file": (("reconstruct", "good.safetensors", "--out", "afile"), "afile is a file; expected a folder"),
    "out cannot be made": (("reconstruct", "good.safetensors", "--out", "/proc/x"), "/proc/x cannot be made"),
    "demo into a file": (("demo", "--out", "afile"), "afile is a file; expected a folder"),
    "shard is no fraction": (("reconstruct", "good.safetensors", "--shard", "3"), "--shard is '3'; expected i/N"),
    "shard too large": (("reconstruct", "good.safetensors", "--shard", "2/2"), "--shard is '2/2'; expected i/N"),
    "shard negative": (("reconstruct", "good.safetensors", "--shard=-1/2"), "--shard is '-1/2'; expected i/N"),
    "no such method": (("reconstruct", "good.safetensors", "--method", "x"), "--method is 'x'; expected one of auto"),
    "no such mapper": (
        ("reconstruct", "good.safetensors", "--mapper", "x"),
        "--mapper is 'x'; expected one of shard_map",
    ),
    "round of 1000": (
        ("reconstruct", "good.safetensors", "--round-size", "1000"),
        "--round-size is 1000; .*power of two",
    ),
    "chunk of 1000": (
        ("reconstruct", "good.safetensors", "--chunk-size", "1000"),
        "--chunk-size is 1000; .*power of two",
    ),
    "no budget": (("reconstruct", "good.safetensors", "--max-candidates", "0"), "--max-candidates is 0; expected"),
    "no time": (("reconstruct", "good.safetensors", "--max-seconds", "nan"), "--max-seconds is nan; expected"),
    "too many devices": (("reconstruct", "good.safetensors", "--num-devices", "999"), "is 999 but JAX sees"),
    "resume and fresh": (("reconstruct", "good.safetensors", "--resume", "--fresh"), "exclude each other"),
    "ids without a cluster": (
        ("reconstruct", "good.safetensors", "--local-device-ids", "0"),
        "goes with --distributed",
    ),
    "ids that are none": (
        ("reconstruct", "good.safetensors", "--local-device-ids", "a"),
        "'a'; expected numbers, as 0,1",
    ),
    "half a cluster": (
        ("reconstruct", "good.safetensors", "--coordinator", "h:1"),
        "num_processes and process_id go tog",
    ),
    "update for the truth": (("evaluate", "recon", "--truth", "good.safetensors"), "is no truth file"),
    "truth of other samples": (
        ("evaluate", "recon", "--truth", "other_truth.safetensors"),
        "243 values at dense_0 and .* 192",
    ),
    "nothing to evaluate": (
        ("evaluate", "nothing", "--truth", "good_truth.safetensors"),
        "no result.json and no inputs",
    ),
    "nothing to report": (("report", "nothing"), "holds no finished reconstruction"),
    "no folder to report": (("report", "gone"), "gone is no folder; give the --out folder"),
    "report into a file": (("report", "recon", "--out", "afile"), "afile is a file; expected a folder"),
    "merge of nothing": (("merge", "nothing", "--out", "m"), "holds no finished reconstruction"),
    "merge onto a shard": (("merge", "recon", "--out", "recon"), "is one of the shards; give another folder"),
    "rank above width": (
        ("bench", "sampling", "--batch-size", "30", "--width", "20"),
        "--batch-size is 30 but --width is 20",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_in_one_sentence(folder, monkeypatch, case):
    monkeypatch.chdir(folder)
    arguments, wanted = WRONG[case]
    assert re.search(wanted, refused(folder, arguments))


def test_with_json_a_refusal_is_one_json_object_on_stdout():
    for arguments in (("inspect", "gone.safetensors", "--json"), ("inspect", "gone.safetensors", "--bogus", "--json")):
        said = run(*arguments)
        assert said.code == 2
        assert said.err == f"error: {said.json['error']}\n"


def test_a_damaged_record_is_named(folder, tmp_path):
    tensors = (folder / "recon/inputs.safetensors").read_bytes()
    record = (folder / "recon/result.json").read_text()
    without_layer = json.dumps({name: value for name, value in json.loads(record).items() if name != "layer"})
    for index, (text, arrays) in enumerate(
        [(record[:99], tensors), ("[]", tensors), (without_layer, tensors), (record, b"x")]
    ):
        broken = tmp_path / str(index)
        broken.mkdir()
        (broken / "result.json").write_text(text)
        (broken / "inputs.safetensors").write_bytes(arrays)
        assert "holds a damaged reconstruction" in refused(tmp_path, ("report", broken))
    assert "lacks layer" in refused(tmp_path, ("report", tmp_path / "2"))


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("boom"), TypeError("boom"), np.linalg.LinAlgError("boom")],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_ours_exits_one_with_a_sentence(folder, monkeypatch, fault):
    from spear_jax.audit import exposure

    def broken(*_, **__):
        raise fault

    monkeypatch.setattr(exposure, "factorize", broken)
    said = run("inspect", folder / "good.safetensors", "--json")
    assert said.code == 1
    assert said.err == f"error: {said.json['error']}\n"
    assert re.search(f"a fault of spear-jax itself .{type(fault).__name__}: boom.*SPEAR_JAX_DEBUG", said.err)
    monkeypatch.setenv("SPEAR_JAX_DEBUG", "1")
    with pytest.raises(type(fault), match="boom"):
        run("inspect", folder / "good.safetensors")


def test_a_value_error_of_a_library_below_is_a_fault_of_ours_too(folder, monkeypatch):
    from spear_jax.audit import exposure

    monkeypatch.setattr(exposure, "factorize", lambda _: np.lib.stride_tricks.broadcast_shapes((2,), (3,)))
    assert run("inspect", folder / "good.safetensors").code == 1


def test_ctrl_c_says_how_to_go_on(folder, monkeypatch):
    from spear_jax.audit import exposure

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(exposure, "factorize", interrupted)
    said = run("inspect", folder / "good.safetensors")
    assert said.code == 130
    assert "--resume goes on" in said.err


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    from spear_jax import tensor_files

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", no_space)
    update = planted_update(tmp_path / "u.npz", 2, 40)
    said = run("reconstruct", update, "--out", tmp_path / "recon", *ONE)
    assert said.code == 2
    assert re.fullmatch("error: cannot write .*state.safetensors: .*No space left on device.\n", said.err)
