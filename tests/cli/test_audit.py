"""``spear-jax audit``: from two model files or a folder of rounds to the page, resumable, with its exit codes."""

import dataclasses
import functools
import json
from pathlib import Path

import pytest

from spear_jax.audit import defended
from spear_jax.defences import DEFENCES
from spear_jax.defences.trials import TRIALS, read_trials
from tests.helpers.command_line import planted_update, run

FIXTURES = Path(__file__).parents[1] / "fixtures"
PAIR = ("--before", FIXTURES / "before.pt", "--after", FIXTURES / "after.pt", "--lr", 0.1, "--no-defences")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folder of the audit of a PyTorch pair, and what it said."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, run("audit", *PAIR, "--out", folder)


def test_two_model_files_become_a_page_and_ten_lines(pair):
    folder, said = pair
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 10
    assert "Certified   4 of 4" in said.out
    assert [line for line in said.err.splitlines() if line.startswith("[")][0] == "[1/5] bundle"
    assert "the server recovered exactly all of the 4 records" in (folder / "index.html").read_text()


def test_a_second_run_goes_on_and_another_update_is_refused(pair):
    folder, first = pair
    bundle = (folder / "audited_update.safetensors").stat().st_mtime_ns
    again = run("audit", *PAIR, "--out", folder, "--json")
    assert again.code == 0
    assert (folder / "audited_update.safetensors").stat().st_mtime_ns == bundle
    assert json.loads((folder / "audit.json").read_text())["lines"] == again.json["lines"]
    assert again.json["lines"][4] == first.out.splitlines()[4]
    other = run("audit", *PAIR, "--num-examples", 9, "--out", folder)
    assert (other.code, "holds the audit of other files or options" in other.err) == (2, True)


def test_exit_codes_of_a_folder_of_rounds(tmp_path):
    (tmp_path / "rounds/round-0001").mkdir(parents=True)
    planted_update(tmp_path / "rounds/round-0001/client-a.safetensors", 3, 60, 8)
    call = ("audit", tmp_path / "rounds", "--no-defences", "--out", tmp_path / "out")
    assert run(*call).code == 0
    assert run(*call, "--fail-on-leak").code == 4
    assert (tmp_path / "out/round-0001/client-a/index.html").is_file()
    (tmp_path / "rounds/round-0001/client-b.safetensors").write_bytes(b"no update")
    said = run(*call)
    assert (said.code, len(said.out.splitlines())) == (3, 10)
    assert "2, 1 not inverted" in said.out


def test_defences_are_tried_once_on_every_update_and_gone_on_with(tmp_path, monkeypatch):
    grids = [dataclasses.replace(DEFENCES["gaussian_noise"], grid=(0.0, 10.0)), DEFENCES["zero_bias"]]
    sweep, asked = functools.partial(defended.sweep, defences=grids), []
    monkeypatch.setattr(defended, "sweep", lambda *a, done, **k: asked.append(len(done)) or sweep(*a, done=done, **k))
    (tmp_path / "rounds").mkdir()
    for name in ("a", "b"):
        planted_update(tmp_path / f"rounds/{name}.safetensors", 3, 60, 8)
    call = ("audit", tmp_path / "rounds", "--out", tmp_path / "out")
    first = run(*call)
    assert first.code == 0, first.err
    assert len(read_trials(tmp_path / "out/b" / TRIALS)) == 3
    assert "gaussian_noise (relative at least 10)" in (tmp_path / "out/a/index.html").read_text()
    assert run(*call).code == 0
    assert asked == [0, 0, 3, 3]


def test_the_exit_codes_are_documented():
    said = " ".join(run("audit", "--help").out.split()).replace("fail-on- leak", "fail-on-leak")  # wrapped
    assert "0 every sample was certified; 3 not all were; with --fail-on-leak 4 where any was" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing to audit"),
        (("u.npz", "--before", "b.pt"), "exclude each other"),
        (("u.npz", "--after", "a.pt"), "go with --before"),
        (("u.npz", "--lr", 0.1), "--kind and --lr go with"),
        (("u.npz", "--max-seconds", 0), "expected a positive number"),
        (("--before", "b.pt"), "nothing came back"),
        (("u.npz", "--adapter", "a"), "--adapter goes with a language model"),
        (("u.npz", "--features", "f.json", "--max-seconds", 1), "--max-seconds is of dense layers"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, options, words):
    said = run("audit", *options, "--out", tmp_path)
    assert said.code == 2
    assert words in said.err
    assert len(said.err.splitlines()) <= 2
