"""The audit of a path from Python: what the command line does, in one call, with errors under one base."""

import dataclasses
import doctest
import json

import jax
import numpy as np
import pytest

import spear_jax as sj
from spear_jax.audit import path as audit_path
from spear_jax.audit import resume
from spear_jax.audit.one import Options, Source, audit_one
from spear_jax.errors import CheckpointError, SpearError
from spear_jax.tensor_files import read_tensors, write_tensors
from spear_jax.update.bundle import Update
from tests.helpers.command_line import planted_update, run
from tests.helpers.networks import simulate

ONE = ("--num-devices", "1")
CONFIG = sj.ReconstructConfig(num_devices=1)


def test_the_example_of_the_docstring_runs(tmp_path, monkeypatch):
    planted_update(tmp_path / "update.safetensors", 4, 60)
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestFinder().find(audit_path.audit_update, globs={})
    runner = doctest.DocTestRunner()
    tried = [runner.run(example) for example in examples]
    assert sum(result.attempted for result in tried) == 3
    assert sum(result.failed for result in tried) == 0


def test_python_and_the_command_line_write_the_same_folder(tmp_path):
    update = planted_update(tmp_path / "u.safetensors", 4, 60)
    content = sj.audit_update(update, tmp_path / "python", config=CONFIG, seed=3)
    said = run("reconstruct", update, "--out", tmp_path / "shell", *ONE, "--seed", 3)
    assert said.code == 0
    assert sj.is_whole(content)
    python, shell = (tmp_path / name for name in ("python", "shell"))
    assert (python / "inputs.safetensors").read_bytes() == (shell / "inputs.safetensors").read_bytes()
    records = [json.loads((folder / "result.json").read_text()) for folder in (python, shell)]
    assert records[0] == json.loads(json.dumps(content))
    for record in records:
        record["stats"].pop("seconds")
    assert records[0] == records[1]


def test_a_folder_gives_the_summary_and_tells_of_each_update(tmp_path):
    (tmp_path / "updates").mkdir()
    for seed in range(2):
        planted_update(tmp_path / f"updates/client-{seed}.safetensors", 3, 60, seed=seed)
    (tmp_path / "updates/client-2.npz").write_bytes(b"damaged")
    told, rounds = [], []
    summary = sj.audit_update(
        tmp_path / "updates", tmp_path / "out", config=CONFIG, on_update=told.append, on_round=rounds.append
    )
    assert summary["updates"] == told
    assert [entry["certified"] for entry in told] == [3, 3, None]
    assert not sj.is_whole(summary)
    assert {progress.rank for progress in rounds} == {3}
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())


def test_an_unfinished_search_is_kept_until_it_is_said_what_to_do(tmp_path):
    update = planted_update(tmp_path / "u.safetensors", 11, 60)
    small = dataclasses.replace(CONFIG, method="sampling", max_candidates=2**11, round_size=2**10)
    out = tmp_path / "out"
    first = sj.audit_update(update, out, config=small)
    tensors, metadata = read_tensors(out / "state.safetensors")
    write_tensors(out / "state.safetensors", tensors, metadata | {"finished": "false"})
    with pytest.raises(CheckpointError, match="holds an unfinished search; pass --resume"):
        sj.audit_update(update, out, config=small)
    with pytest.raises(SpearError, match="resume and fresh exclude each other"):
        sj.audit_update(update, out, config=small, resume=True, fresh=True)
    resumed = sj.audit_update(update, out, config=dataclasses.replace(small, max_candidates=2**12), resume=True)
    assert resumed["stats"]["candidates"] == 2 * first["stats"]["candidates"] == 2**12


@pytest.fixture
def stopped(tmp_path):
    """A client with layers above its first, a folder with an unfinished search of it, and the options."""
    batch = simulate(6, 60, depth=2)
    (weight, bias), *_ = batch.network
    sent = {"a.weight": batch.observation.weight, "a.bias": batch.observation.bias}
    sent |= {"b.weight": weight, "b.bias": bias}
    back = {"a.weight": batch.observation.weight_grad, "a.bias": batch.observation.bias_grad}
    back |= {"b.weight": batch.next_weight_grad, "b.bias": np.ones_like(bias)}
    config = dataclasses.replace(CONFIG, method="sampling", max_candidates=2**10, round_size=2**10)
    options = Options(config, layer="a", resume=True)
    update = Update(sent, back, {"kind": "gradient"})
    audit_one(Source(update, tmp_path / "u"), tmp_path / "out", options)
    return update, tmp_path / "out", options


def test_a_state_of_another_model_is_refused_by_name(stopped):
    update, out, options = stopped
    other = dict(update.global_tensors) | {"b.bias": update.global_tensors["b.bias"] + 1}
    with pytest.raises(CheckpointError, match="another search .model: other layers above"):
        audit_one(Source(Update(other, update.client_tensors, update.metadata), out), out, options)
    other = dict(update.client_tensors) | {"b.weight": update.client_tensors["b.weight"] * 2}
    with pytest.raises(CheckpointError, match="next_weight_grad: another gradient of the next layer"):
        audit_one(Source(Update(update.global_tensors, other, update.metadata), out), out, options)
    # Control: the same update goes on.
    audit_one(Source(update, out), out, options)


def test_states_that_were_saved_before_models_counted_go_on(stopped):
    update, out, options = stopped
    path = out / "state.safetensors"
    tensors, metadata = read_tensors(path)
    old = {name: text for name, text in metadata.items() if name not in ("model", "next_weight_grad")}
    assert len(old) == len(metadata) - 2
    write_tensors(path, tensors, old)
    content = audit_one(Source(update, out), out, options)
    assert content["stats"]["candidates"] == 2**10


def test_the_hash_of_an_observation_is_that_of_states_saved_before():
    observation = sj.LayerObservation(
        weight=np.eye(3), bias=np.zeros(3), weight_grad=np.eye(3), bias_grad=np.ones(3), drift=0.5
    )
    found = resume.identity(observation, jax.random.key(0), CONFIG)["observation"]
    assert found == "37be80e60834a91a4dba14bf37c2566269d5c46286de03e79daaa3bde05bdaf4"


@pytest.fixture
def joined(monkeypatch):
    """Calls that would have joined other processes."""
    from spear_jax.cli import reconstruct

    calls = []
    monkeypatch.setattr(reconstruct, "initialize_distributed", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(reconstruct, "keep_stdout_clean", lambda: None)
    return calls


JOIN = ("--coordinator", "h:1", "--num-processes", 1, "--process-id", 0)


def test_processes_join_with_the_layout_that_was_given(tmp_path, joined):
    path = planted_update(tmp_path / "u.safetensors", 3, 60)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, metadata | {"layout": "in_out"})
    assert run("reconstruct", path, "--out", tmp_path / "a", *ONE, *JOIN).code == 2
    assert joined == []
    said = run("reconstruct", path, "--out", tmp_path / "b", *ONE, *JOIN, "--layout", "out_in")
    assert (said.code, len(joined)) == (0, 1)


@pytest.mark.parametrize("options", [("--resume", "--fresh"), ("--shard", "5/2"), ("--method", "x")])
def test_what_is_wrong_with_options_is_said_before_processes_join(tmp_path, joined, options):
    path = planted_update(tmp_path / "u.safetensors", 3, 60)
    assert run("reconstruct", path, "--out", tmp_path / "a", *JOIN, *options).code == 2
    assert joined == []


def test_a_look_without_diagnosis_names_the_same_rank_and_skips_what_is_slow():
    """Of a batch larger than the inputs that are ever lit, as the border of digits never is."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(150, 200)) * (np.arange(200) < 120)
    grad_z = rng.normal(size=(300, 150)) * (rng.random((300, 150)) < 0.5)
    sent = {"a.weight": rng.normal(size=(300, 200)), "a.bias": rng.normal(size=300)}
    back = {"a.weight": grad_z @ inputs, "a.bias": grad_z.sum(axis=1)}
    sent |= {"b.weight": rng.normal(size=(5, 300)), "b.bias": np.zeros(5)}
    back |= {"b.weight": rng.normal(size=(5, 300)), "b.bias": np.ones(5)}
    update = Update(sent, back, {"kind": "gradient"})
    whole, quick = (sj.exposure(update, update.layers[0], is_diagnosed=flag) for flag in (True, False))
    assert "at least 120 samples" in whole["verdict"]
    assert quick["verdict"] == whole["verdict"]
    assert quick.keys() == whole.keys() - {"single_rows"}
