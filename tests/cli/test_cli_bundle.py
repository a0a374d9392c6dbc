"""``spear-jax bundle``: from PyTorch's files to the private batch, and every wrong way to call it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spear_jax.tensor_files import read_npz, read_tensors
from spear_jax.update.bundle_file import load_update
from tests.helpers.command_line import run

FIXTURES = Path(__file__).parents[1] / "fixtures"
BEFORE, AFTER = FIXTURES / "before.pt", FIXTURES / "after.pt"


def tensors(side):
    return {
        name.removeprefix(side): array
        for name, array in read_npz(FIXTURES / "pair.npz").items()
        if name.startswith(side)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same round in other files: a gradient, a change, names with a prefix."""
    folder = tmp_path_factory.mktemp("bundle")
    before, after = tensors("before/"), tensors("after/")
    np.savez(folder / "gradient.npz", **{name: (before[name] - after[name]) / np.float32(0.1) for name in before})
    np.savez(folder / "delta.npz", **{name: after[name] - before[name] for name in before})
    np.savez(folder / "wrapped.npz", **{f"module.{name}": array for name, array in after.items()})
    np.savez(
        folder / "two.npz",
        **{f"{client}/{name}": array + client_id for client_id, client in ((1, "a"), (2, "b"))
           for name, array in after.items()},
    )  # fmt: skip
    np.savez(folder / "list.npz", *before.values())
    np.savez(folder / "list_after.npz", *after.values())
    return folder


def test_two_pytorch_files_give_back_the_private_batch(tmp_path):
    update, recon = tmp_path / "new/update.safetensors", tmp_path / "recon"
    said = run("bundle", "--before", BEFORE, "--after", AFTER, "--lr", 0.1, "--num-examples", 4, "--out", update)
    assert said.code == 0, said.err
    assert "weights of 6 tensors; dense layers: 0 (60 x 24), 2 (40 x 60), 4 (5 x 40)" in said.out
    said = run("reconstruct", update, "--out", recon, "--num-devices", 1, "--json")
    assert said.code == 0, said.err
    assert said.json["certified"] == 4
    found = read_tensors(recon / "inputs.safetensors")[0]["inputs"]
    truth = read_npz(FIXTURES / "pair.npz")["inputs"]
    errors = np.abs(found[:, None] - truth[None]).max(axis=2)
    assert sorted(errors.argmin(axis=1)) == [0, 1, 2, 3]
    assert errors.min(axis=1).max() < 1e-3


@pytest.mark.parametrize(
    ("before", "arguments"),
    [
        (BEFORE, ("--gradient", "gradient.npz")),
        (BEFORE, ("--after", "gradient.npz", "--kind", "gradient")),
        (BEFORE, ("--after", "delta.npz", "--kind", "delta", "--lr", 0.1)),
        (BEFORE, ("--after", "wrapped.npz", "--lr", 0.1)),
        ("list.npz", ("--after", "list_after.npz", "--lr", 0.1)),
        (BEFORE, ("--after", FIXTURES / "pair.npz", "--lr", 0.1)),  # beside a copy of what was sent
    ],
)
def test_other_forms_of_the_round_give_the_same_gradient(folder, tmp_path, monkeypatch, before, arguments):
    monkeypatch.chdir(folder)
    said = run("bundle", "--before", before, *arguments, "--out", tmp_path / "update.npz", "--json")
    assert said.code == 0, said.err
    assert [layer["shape"] for layer in said.json["layers"]] == [[60, 24], [40, 60], [5, 40]]
    assert (said.json["renamed"] != {}) == (arguments[1] in ("wrapped.npz", FIXTURES / "pair.npz"))
    expected = read_npz(folder / "gradient.npz")["0.weight"]
    found = load_update(tmp_path / "update.npz").observation().weight_grad
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_aligned_names_and_layers_left_out_are_said(folder, tmp_path):
    said = run("bundle", "--before", BEFORE, "--after", folder / "wrapped.npz", "--out", tmp_path / "u.npz")
    assert "Names aligned: module.0.weight is 0.weight of the model that was sent" in said.out
    for name, scale in (("a", 1.0), ("b", 2.0)):
        np.savez(tmp_path / name, w=np.ones((3, 3, 3)), **{"d.weight": np.full((2, 3), scale), "d.bias": np.ones(2)})
    said = run("bundle", "--before", tmp_path / "a.npz", "--after", tmp_path / "b.npz", "--out", tmp_path / "u.npz")
    assert "w cannot be inverted: it has 3 dimensions" in said.out


WRONG = {
    "nothing": ((), "Missing option '--before'; see spear-jax bundle --help"),
    "nothing came back": (("--before", BEFORE), "give --after"),
    "two came back": (("--before", BEFORE, "--after", AFTER, "--gradient", AFTER), "exclude each other"),
    "kinds that differ": (("--before", BEFORE, "--gradient", AFTER, "--kind", "delta"), "contradicts --gradient"),
    "no kind": (("--before", BEFORE, "--after", AFTER, "--kind", "x"), "expected one of gradient, weights, delta"),
    "twice the same": (("--before", BEFORE, "--after", BEFORE), "no tensor changed"),
    "no file": (("--before", "gone.pt", "--after", AFTER), "gone.pt does not exist"),
    "two clients": (("--before", BEFORE, "--after", "two.npz"), "0.weight may be a/0.weight or b/0.weight"),
    "another model": (("--before", BEFORE, "--after", FIXTURES / "tricky.pt"), "and 19 more, which before lacks"),
    "a script": (("--before", __file__, "--after", AFTER), "extension '.py'; expected"),
    "a folder": (("--before", FIXTURES, "--after", AFTER), "is no Orbax checkpoint"),
    "a negative rate": (("--before", BEFORE, "--after", AFTER, "--lr", -1), "lr is '-1.0'; expected a positive number"),
    "no steps": (("--before", BEFORE, "--after", AFTER, "--local-steps", 0), "local_steps is '0'"),
    "another extension": (
        ("--before", BEFORE, "--after", AFTER, "--out", "u.pt"),
        "expected the extension .safetensors",
    ),
    "over the model": (("--before", BEFORE, "--after", AFTER, "--out", BEFORE), "is one of the files to read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_ends_in_one_sentence_and_writes_nothing(folder, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, sentence = WRONG[case]
    arguments = [folder / argument if argument == "two.npz" else argument for argument in arguments]
    said = run("bundle", *arguments, "--json")
    assert said.code == 2
    assert sentence in said.json["error"]
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
