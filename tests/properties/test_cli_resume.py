"""Searches that are killed, continued, enlarged and split: the same bytes as one that ran through."""

import json
import random
import shutil

import pytest

from spear_jax.errors import TensorFileError
from spear_jax.tensor_files import read_tensors, write_tensors
from tests.helpers.command_line import kill_when, planted_update, run, spawn

ONE = ("--num-devices", 1, "--max-candidates", 2**17)
ROUNDS = ("--round-size", 1024)
SLOW = (*ROUNDS, "--max-candidates", 1024 * 60)  # more than enough for eleven samples


def bytes_of(folder):
    return (folder / "inputs.safetensors").read_bytes()


def rounds_of(folder):
    """Rounds that the state on disk holds; -1 without one. A state that cannot be read is a fault, not a wait."""
    path = folder / "state.safetensors"
    return int(read_tensors(path)[1]["next_round"]) if path.exists() else -1


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    """A bundle of four samples, two layers."""
    return planted_update(tmp_path_factory.mktemp("update") / "u.safetensors", 4, 60, layers=2)


@pytest.fixture(scope="module")
def unfinished(update):
    """A folder whose search stopped, as if killed after a round of too small a size to find anything."""
    folder = update.parent / "unfinished"
    said = run("reconstruct", update, "--out", folder, *ONE, "--round-size", 1, "--max-candidates", 2, "--json")
    assert (said.code, said.json["status"]) == (3, "CANDIDATE_BUDGET")
    state = folder / "state.safetensors"
    tensors, metadata = read_tensors(state)
    write_tensors(state, tensors, metadata | {"finished": "false"})
    return folder


@pytest.mark.slow
def test_killed_and_resumed_gives_the_bytes_of_a_run_that_never_was(tmp_path):
    update = planted_update(tmp_path / "u.safetensors", 11, 100, seed=2)
    whole = run("reconstruct", update, "--out", tmp_path / "whole", *ONE, *SLOW, "--json")
    assert whole.json["stats"]["rounds"] > 12, "too short a search to kill"
    choose, kills = random.Random(0), 0
    recon, last = tmp_path / "recon", whole.json["stats"]["rounds"]
    for resume in ((), ("--resume",)):
        goal = rounds_of(recon) + choose.randint(1, max(last // 4, 1))
        process = spawn("reconstruct", update, "--out", recon, *ONE, *SLOW, *resume, cache=tmp_path / "cache")
        kill_when(process, lambda goal=goal: rounds_of(recon) >= goal)
        kills += rounds_of(recon) < last
        assert not (recon / "inputs.safetensors").exists()
    assert kills == 2
    refused = run("reconstruct", update, "--out", recon, *ONE, *SLOW)
    assert refused.code == 2
    assert "holds an unfinished search; pass --resume to go on with it, or --fresh to discard it" in refused.err
    resumed = run("reconstruct", update, "--out", recon, *ONE, *SLOW, "--resume", "--json")
    assert resumed.code == whole.code
    assert resumed.json["stats"]["candidates"] == whole.json["stats"]["candidates"]
    assert bytes_of(recon) == bytes_of(tmp_path / "whole")
    # Temporary files of a killed process may stay, under names nothing reads.
    assert {path.name for path in recon.iterdir() if not path.name.startswith(".")} == {
        "inputs.safetensors", "result.json", "state.safetensors",
    }  # fmt: skip


@pytest.mark.slow
def test_the_dictionary_method_killed_after_its_first_round_gives_the_same_bytes(tmp_path):
    update = planted_update(tmp_path / "u.safetensors", 32, 100, 200, seed=1)
    method = ("--method", "dictionary", "--num-devices", 1)
    whole = run("reconstruct", update, "--out", tmp_path / "whole", *method, "--json")
    assert whole.json["stats"]["rounds"] > 2, "too short a search to kill"
    recon = tmp_path / "recon"
    kill_when(spawn("reconstruct", update, "--out", recon, *method), lambda: rounds_of(recon) >= 1)
    assert rounds_of(recon) < whole.json["stats"]["rounds"]
    resumed = run("reconstruct", update, "--out", recon, *method, "--resume", "--json")
    assert (resumed.code, resumed.json["stats"]["rounds"]) == (whole.code, whole.json["stats"]["rounds"])
    assert bytes_of(recon) == bytes_of(tmp_path / "whole")


def test_a_larger_budget_goes_on_where_a_smaller_one_ended(update, tmp_path):
    rounds = ("--round-size", 4, *ONE)
    whole = run("reconstruct", update, "--out", tmp_path / "whole", *rounds, "--json")
    assert (whole.code, whole.json["stats"]["rounds"] > 3) == (0, True)
    for budget, code in ((4, 3), (9, 3), (10**6, 0)):
        said = run(
            "reconstruct",
            update,
            "--out",
            tmp_path / "parts",
            *rounds,
            "--resume",
            "--max-candidates",
            budget,
            "--json",
        )
        assert said.code == code, said
        assert said.json["stats"]["candidates"] <= budget
    assert said.json["stats"]["candidates"] == whole.json["stats"]["candidates"]
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_budget_below_one_round_can_be_enlarged_without_a_gap(update, tmp_path):
    whole = run("reconstruct", update, "--out", tmp_path / "whole", *ONE, *ROUNDS, "--json")
    small = run("reconstruct", update, "--out", tmp_path / "parts", *ONE, *ROUNDS, "--max-candidates", 5, "--json")
    assert small.code in (0, 3)
    grown = run("reconstruct", update, "--out", tmp_path / "parts", *ONE, *ROUNDS, "--resume", "--json")
    assert grown.code == whole.code == 0
    # The round that was cut short is drawn again, whole.
    assert grown.json["stats"]["candidates"] == whole.json["stats"]["candidates"] + 5
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--seed", 1), "key: another seed"),
        (("--layer", "dense_1"), "observation: another update or layer"),
        (("--round-size", 2), "round_size 1 where this run has 2"),
        (("--rank", 3), "rank null where this run has 3"),
        (("--shard", "1/2"), r"shard [0, 1] where this run has [1, 2]"),
        (("--method", "sampling"), 'method "auto" where this run has "sampling"'),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_state_of_another_search_is_refused_by_name(update, unfinished, other, named):
    said = run("reconstruct", update, "--out", unfinished, *ONE, "--round-size", 1, *other, "--resume")
    assert said.code == 2
    assert named in said.err


def test_a_state_of_another_update_is_refused(unfinished, tmp_path):
    other = planted_update(tmp_path / "u.safetensors", 4, 60, seed=9)
    said = run("reconstruct", other, "--out", unfinished, *ONE, "--round-size", 1, "--resume")
    assert said.code == 2
    assert "observation: another update or layer" in said.err


def test_fresh_discards_an_unfinished_search_even_a_damaged_one(update, unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path / "recon")
    (tmp_path / "recon/state.safetensors").write_bytes(b"damaged")
    refused = run("reconstruct", update, "--out", tmp_path / "recon", *ONE)
    assert refused.code == 2
    assert "pass --fresh" in refused.err
    with pytest.raises(TensorFileError):
        rounds_of(tmp_path / "recon")
    assert run("reconstruct", update, "--out", tmp_path / "recon", *ONE, "--fresh").code == 0
    assert rounds_of(tmp_path / "recon") >= 1


@pytest.fixture(scope="module")
def shards(update):
    """Two shards of a search of rounds of 8, each with half the budget that finds everything."""
    folders = [update.parent / f"shard{index}" for index in range(2)]
    for index, folder in enumerate(folders):
        said = run("reconstruct", update, "--out", folder, *ONE, "--round-size", 8, "--shard", f"{index}/2", "--json")
        assert said.code == 0
    return folders


def test_shards_merge_into_what_one_run_finds(update, shards):
    out = update.parent / "merged"
    merged = run("merge", *shards, "--out", out, "--json")
    assert merged.code == 0
    assert merged.json["certified"] == 4
    parts = [json.loads((folder / "result.json").read_text())["stats"] for folder in shards]
    for counter in ("candidates", "hits", "rounds"):
        assert merged.json["stats"][counter] == sum(part[counter] for part in parts)
    assert {"inputs.safetensors", "result.json"} <= {path.name for path in out.iterdir()}


def test_incomplete_shards_merge_into_an_honest_count(update, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for index, folder in enumerate(folders):
        options = ("--round-size", 1, "--shard", f"{index}/2", "--max-candidates", 2)
        assert run("reconstruct", update, "--out", folder, *ONE, *options).code == 3
    said = run("merge", *folders, "--out", tmp_path / "m", "--json")
    assert said.code == 3
    assert (said.json["certified"], said.json["stats"]["candidates"]) == (0, 4)
    assert said.json["directions_found"] < said.json["batch_size"] == 4
    assert said.json["status"] == "CANDIDATE_BUDGET"


def test_a_shard_given_twice_is_refused(shards, tmp_path):
    said = run("merge", shards[0], shards[1], shards[0], "--out", tmp_path / "m")
    assert said.code == 2
    assert "hold the same shard [0, 2]; give each shard once" in said.err


def test_shards_of_different_searches_are_refused(update, shards, tmp_path):
    options = ("--round-size", 8, "--shard", "1/2", "--seed", 5)
    assert run("reconstruct", update, "--out", tmp_path / "other", *ONE, *options).code == 0
    said = run("merge", shards[0], tmp_path / "other", "--out", tmp_path / "m")
    assert said.code == 2
    assert "another seed" in said.err


def test_an_update_that_moved_is_asked_for(update, shards, tmp_path):
    moved, away = tmp_path / "moved.safetensors", update.with_suffix(".away")
    shutil.copy(update, moved)
    update.rename(away)
    try:
        refused = run("merge", *shards, "--out", tmp_path / "m")
        assert refused.code == 2
        assert "is not there; say where by --update" in refused.err
        assert run("merge", *shards, "--update", moved, "--out", tmp_path / "m").code == 0
    finally:
        away.rename(update)
