"""Devices, mappers and processes change how fast a result comes, not one byte of it."""

import socket

import jax
import pytest

from spear_jax.tensor_files import read_tensors
from tests.helpers.command_line import finish, planted_update, run, spawn

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="compares bytes over CPU devices")


def bytes_of(folder):
    """Of the arrays and of the search's state: polished directions alone no longer show which candidates hit them."""
    state, _ = read_tensors(folder / "state.safetensors")
    return (folder / "inputs.safetensors").read_bytes(), [state[name].tobytes() for name in sorted(state)]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A bundle, and its reconstruction on one of this process's devices."""
    folder = tmp_path_factory.mktemp("problem")
    update = planted_update(folder / "u.safetensors", 4, 60, seed=4)
    assert run("reconstruct", update, "--out", folder / "one", "--num-devices", 1).code == 0
    return update, folder / "one"


@pytest.mark.parametrize(
    "options",
    [pytest.param(("--num-devices", 8), marks=pytest.mark.slow), ("--num-devices", 2, "--mapper", "pmap")],
    ids=str,
)
def test_devices_and_mapper_of_one_process_leave_every_byte(problem, tmp_path, options):
    update, reference = problem
    said = run("reconstruct", update, "--out", tmp_path, *options, "--json")
    assert said.code == 0
    assert said.json["stats"]["devices"] == options[1]
    assert bytes_of(tmp_path) == bytes_of(reference)


@pytest.mark.slow
def test_processes_of_their_own_leave_every_byte_too(problem, tmp_path):
    update, reference = problem
    counts = (1, 2, 8)
    processes = [spawn("reconstruct", update, "--out", tmp_path / str(n), "--json", devices=n) for n in counts]
    for count, said in zip(counts, map(finish, processes), strict=True):
        assert said.code == 0, said
        assert said.json["stats"]["devices"] == count
        assert bytes_of(tmp_path / str(count)) == bytes_of(reference)


def test_another_seed_gives_other_bytes(problem, tmp_path):
    update, reference = problem
    assert run("reconstruct", update, "--out", tmp_path, "--num-devices", 1, "--seed", 1).code == 0
    assert bytes_of(tmp_path) != bytes_of(reference)


@pytest.mark.parametrize(
    "way", ["flat", *(pytest.param(way, marks=pytest.mark.slow) for way in ("walk", "dictionary"))]
)
def test_two_processes_joined_over_the_network_give_the_bytes_of_one(problem, tmp_path, way):
    update, reference = problem
    options: tuple = ()
    if way != "flat":  # several rounds of walks, and a search that needs its batch of starts
        b, m = (32, 124) if way == "dictionary" else (14, 110)
        update, reference = planted_update(tmp_path / "u.safetensors", b, m, 200, seed=1), tmp_path / "one"
        options = ("--sampler", "walk", "--round-size", 2**18) if way == "walk" else ()
        options = ("--method", "dictionary" if way == "dictionary" else "sampling", *options)
        said = run("reconstruct", update, "--out", reference, "--num-devices", 1, *options, "--json")
        assert said.json["stats"]["rounds"] > 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = ("--coordinator", address, "--num-processes", 2)
    out = [tmp_path / "first", tmp_path / "second"]
    processes = [
        spawn("reconstruct", update, "--out", out[index], *cluster, *options, "--process-id", index, "--json")
        for index in (0, 1)
    ]
    first, second = map(finish, processes)
    assert (first.code, second.code) == (0, 0), (first, second)
    assert first.json["stats"]["devices"] == 2
    assert bytes_of(out[0]) == bytes_of(reference)
    assert second.out == ""
    assert not out[1].exists() or not list(out[1].iterdir())
