"""The span method from the command line: simulated, told or not, split over shards, killed and resumed."""

import numpy as np
import pytest

from spear_jax.tensor_files import read_tensors
from tests.helpers.command_line import kill_when, run, spawn

B, M = 12, 60
ONE = ("--num-devices", 1)


@pytest.fixture(scope="module")
def update(tmp_path_factory):
    """A GELU network's gradient of bundled photos, and the truth beside it."""
    folder = tmp_path_factory.mktemp("gelu")
    said = run(
        "simulate", "--activation", "gelu", "--batch-size", B, "--width", M, "--depth", 2, "--image-size", 16,
        "--out", folder / "u.safetensors", "--truth", folder / "t.safetensors", "--json",
    )  # fmt: skip
    assert (said.code, said.json["activation"]) == (0, "gelu")
    return folder / "u.safetensors"


def rounds_of(folder):
    path = folder / "state.safetensors"
    return int(read_tensors(path)[1]["next_round"]) if path.exists() else -1


def test_inspect_says_that_the_update_is_invertible_and_how(update):
    layers = run("inspect", update, "--json").json["layers"]
    assert (layers[0]["invertible"], layers[0]["method"]) == (True, "span")
    assert "span method (for gelu) needs the gradients of the next dense layer" in layers[-1]["verdict"]


@pytest.mark.parametrize("told", [True, False])
def test_every_sample_is_certified_and_right_whether_the_activation_is_told_or_not(update, tmp_path, told):
    if not told:
        tensors, metadata = read_tensors(update)
        from spear_jax.tensor_files import write_tensors

        update_file = tmp_path / "untold.safetensors"
        write_tensors(update_file, tensors, {name: value for name, value in metadata.items() if name != "activation"})
    else:
        update_file = update
    recon = tmp_path / "recon"
    said = run("reconstruct", update_file, "--out", recon, *ONE, "--json")
    assert (said.code, said.json["certified"], said.json["stats"]["activations"][0]) == (0, B, "gelu")
    scored = run("evaluate", recon, "--truth", update.parent / "t.safetensors", "--json").json
    assert (scored["num_pixel_exact"], scored["false_certificates"]) == (B, 0)
    page = run("report", recon, "--json")
    assert page.code == 0
    assert "gelu" in (recon / "index.html").read_text()


def test_a_wrong_name_is_one_sentence(update, tmp_path):
    said = run("reconstruct", update, "--activation", "gelo", "--out", tmp_path)
    assert said.code == 2
    assert "activation is 'gelo'; expected one of relu, leaky_relu" in said.err
    assert run("simulate", "--activation", "gelo", "--out", tmp_path / "u.safetensors").code == 2


def test_shards_of_one_search_are_merged(update, tmp_path):
    folders = [tmp_path / str(number) for number in range(2)]
    for number, folder in enumerate(folders):
        run("reconstruct", update, "--out", folder, *ONE, "--shard", f"{number}/2", "--json")
    first, second = (read_tensors(folder / "state.safetensors")[0]["roots.points"] for folder in folders)
    assert not np.array_equal(first, second)
    merged = run("merge", *folders, "--out", tmp_path / "merged", "--json")
    assert (merged.code, merged.json["certified"]) == (0, B)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_bytes_of_a_run_that_never_was(update, tmp_path):
    whole = run("reconstruct", update, "--out", tmp_path / "whole", *ONE, "--json")
    assert whole.json["stats"]["rounds"] > 1
    recon = tmp_path / "recon"
    process = spawn("reconstruct", update, "--out", recon, *ONE, cache=tmp_path / "cache")
    kill_when(process, lambda: rounds_of(recon) >= 1)
    assert not (recon / "inputs.safetensors").exists()
    resumed = run("reconstruct", update, "--out", recon, *ONE, "--resume", "--json")
    assert resumed.code == 0
    assert (recon / "inputs.safetensors").read_bytes() == (tmp_path / "whole/inputs.safetensors").read_bytes()
