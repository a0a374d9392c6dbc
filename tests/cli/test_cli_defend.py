"""``spear-jax defend``: what it writes and says, that an audit of it works, and wrong arguments."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import re

import jax
import numpy as np
import pytest

from spear_jax.defences import DEFENCES, by_name
from spear_jax.update.bundle_file import load_update
from tests.helpers.command_line import planted_update, run

ONE = ("--num-devices", 1, "--max-candidates", 2**14)


@pytest.fixture(scope="module")
def update_file(tmp_path_factory):
    """A bundle of three samples."""
    return planted_update(tmp_path_factory.mktemp("client") / "u.safetensors", 3, 60)


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_of_the_list_writes_what_the_library_gives(update_file, tmp_path, name):
    strength = by_name(name).grid[0]
    given = () if strength is None else ("--strength", strength)
    out = tmp_path / "new/d.npz"
    said = run("defend", update_file, "--defence", name, *given, "--seed", 5, "--out", out, "--json")
    assert (said.code, said.err) == (0, "")
    expected = by_name(name)(load_update(update_file), strength, jax.random.key(5))
    loaded = load_update(out)
    assert said.json["defence"] == loaded.metadata["defence"] == expected.metadata["defence"]
    for tensor, value in expected.client_tensors.items():
        assert loaded.client_tensors[tensor].tobytes() == np.asarray(value, order="C").tobytes()
    assert (said.json["out"], said.json["name"], said.json["strength"], said.json["seed"]) == (
        str(out),
        name,
        strength,
        5,
    )


def test_the_seed_decides_the_bytes(update_file, tmp_path):
    defend = ("defend", update_file, "--defence", "gaussian_noise", "--strength", 0.1, "--out", tmp_path / "d.npz")
    first, same, other = (run(*defend, "--seed", seed, "--json").json["sha256"] for seed in (1, 1, 2))
    assert first == same != other
    assert load_update(tmp_path / "d.npz").sha256 == other


def test_the_defended_update_is_audited_like_any_other(update_file, tmp_path):
    for strength, code in ((1e-6, 0), (1.0, 3)):
        defend = ("defend", update_file, "--defence", "gaussian_noise", "--strength", strength)
        said = run(*defend, "--out", tmp_path / "d.safetensors")
        assert said.code == 0
        assert re.search(r"d.safetensors: gaussian_noise\(relative=.*\), which changed the update by", said.out)
        recon = tmp_path / str(code)
        assert run("reconstruct", tmp_path / "d.safetensors", "--out", recon, *ONE).code == code
    assert f"defence: gaussian_noise(relative={strength})" in run("inspect", tmp_path / "d.safetensors").out


def test_the_list_needs_no_update():
    said = run("defend", "--list", "--json")
    assert said.code == 0
    assert [row["name"] for row in said.json["defences"]] == list(DEFENCES)
    assert said.json["defences"][0]["grid"] == list(by_name("gaussian_noise").grid)
    plain = run("defend", "--list").out
    assert len(plain.splitlines()) == len(DEFENCES) + 1
    assert all(name in plain for name in DEFENCES)


@pytest.fixture
def short_grids(monkeypatch):
    """A table of two defences, three trials."""
    module = importlib.import_module("spear_jax.audit.defended")
    noise = dataclasses.replace(DEFENCES["gaussian_noise"], grid=(0.0, 10.0))
    monkeypatch.setattr(module, "sweep", functools.partial(module.sweep, defences=[noise, DEFENCES["zero_bias"]]))


def test_a_sweep_writes_its_trials_once_and_the_report_shows_them(update_file, tmp_path, short_grids):
    out = tmp_path / "recon"
    said = run("defend", update_file, "--sweep", "--out", out)
    assert said.code == 0, said
    assert [line.split() for line in said.out.splitlines()[1:3]] == [
        ["gaussian_noise", "relative", "0", "10"],
        ["zero_bias", "-", "-", "yes"],
    ]
    assert "gaussian_noise(relative=0): 3 of 3 certified, 0 approximate\n" in said.err
    written = (out / "defences.json").read_bytes()
    again = run("defend", update_file, "--sweep", "--out", out, "--json")
    assert (again.code, len(again.json["trials"])) == (0, 3)
    assert again.err == f"{out / 'defences.json'} holds 3 trials, which are not repeated.\n"
    assert (out / "defences.json").read_bytes() == written
    other = run("defend", update_file, "--sweep", "--out", out, "--seed", 1, "--json")
    assert other.code == 2
    assert "another update, seed or --max-seconds" in other.json["error"]

    assert run("reconstruct", update_file, "--out", out, *ONE).code == 0
    assert run("report", out).code == 0
    assert "gaussian_noise (relative from 10), zero_bias" in (out / "index.html").read_text()
    trials = json.loads(written)
    (out / "defences.json").write_text(json.dumps([trial | {"update_sha256": "another"} for trial in trials]))
    assert run("report", out).code == 0
    assert "Not tried: spear-jax defend" in (out / "index.html").read_text()
    (out / "defences.json").write_text("{")
    said = run("report", out)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "holds no trials of a sweep" in said.err


WRONG = {
    "a sweep of nothing": (("--sweep",), "--sweep tries every defence of one update: spear-jax defend UPDATE --sweep"),
    "a sweep of one": (("u.safetensors", "--sweep", "--defence", "int8"), "--sweep tries every defence"),
    "a sweep without time": (("u.safetensors", "--sweep", "--max-seconds", "0"), "--max-seconds is 0.0; expected"),
    "a sweep without end": (("u.safetensors", "--sweep", "--max-seconds", "nan"), "--max-seconds is nan; expected"),
    "a sweep of a gone file": (("gone.npz", "--sweep"), "gone.npz does not exist"),
    "a sweep into a file": (("u.safetensors", "--sweep", "--out", "u.safetensors"), "is a file; expected a folder"),
    "time without a sweep": (("u.safetensors", "--defence", "int8", "--max-seconds", "3"), "--max-seconds goes with"),
    "no update": ((), "an update is missing: spear-jax defend UPDATE --defence NAME; --list"),
    "no defence": (("u.safetensors",), "--defence is missing"),
    "no such defence": (("u.safetensors", "--defence", "x"), "no defence 'x'; choose one of gaussian_noise, gaussian"),
    "no strength": (("u.safetensors", "--defence", "top_k"), "top_k needs a strength, share: share in"),
    "a strength too many": (
        ("u.safetensors", "--defence", "int8", "--strength", "1"),
        "int8 takes no strength but got 1.0",
    ),
    "no number": (("u.safetensors", "--defence", "top_k", "--strength", "x"), "--strength"),
    "out of range": (("u.safetensors", "--defence", "top_k", "--strength", "2"), "share is 2.0; expected a number in"),
    "not finite": (("u.safetensors", "--defence", "gaussian_noise", "--strength", "inf"), "std is inf; expected"),
    "too large": (("u.safetensors", "--defence", "gaussian_noise", "--strength", "1e308"), "beyond floating point"),
    "no such file": (("gone.npz", "--defence", "int8"), "gone.npz does not exist"),
    "onto itself": (("u.safetensors", "--defence", "int8", "--out", "u.safetensors"), "the update itself; give"),
    "another extension": (("u.safetensors", "--defence", "int8", "--out", "d.bin"), "expected the extension .safetens"),
    "below a file": (
        ("u.safetensors", "--defence", "int8", "--out", "u.safetensors/d.npz"),
        "expected a folder to write to",
    ),
    "negative seed": (("u.safetensors", "--defence", "int8", "--seed", "-1"), "--seed"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_in_one_sentence(update_file, monkeypatch, case):
    monkeypatch.chdir(update_file.parent)
    arguments, wanted = WRONG[case]
    said = run("defend", *arguments, "--json")
    assert said.code == 2, said
    assert re.search(wanted, said.json["error"])
    assert said.err == f"error: {said.json['error']}\n"
    assert [path.name for path in update_file.parent.iterdir()] == ["u.safetensors"]
