"""Graphs from one end to the other: the demo, and each command on its files."""

import json

import pytest

from tests.helpers.command_line import run

FILES = ("evaluation.json", "features.json", "index.html", "result.json", "truth.safetensors", "update.safetensors")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of the demo on two molecules, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run("demo", "--graphs", "--batch-size", 2, "--out", folder)


def test_the_demo_gets_every_molecule_back(demo):
    folder, said = demo
    assert said.code == 0, said.err
    assert set(FILES) <= {path.name for path in folder.iterdir()}
    assert "2 of 2 graphs right as listed first, 2 in their class, 2 with all nodes right" in said.out
    assert "GSM-0 100.0, GSM-1 100.0, GSM-2 100.0, 0 false certificates." in said.out
    assert "client: 2 private molecules (paracetamol, caffeine)" in said.out
    html = (folder / "index.html").read_text()
    assert html.count("the original") == 2
    assert "Traceback" not in said.out


def test_reconstruct_says_how_many_graphs_have_the_gradient(demo, tmp_path):
    folder, _ = demo
    call = ("reconstruct", folder / "update.safetensors", "--features", folder / "features.json", "--out", tmp_path)
    said = run(*call)
    record = json.loads((tmp_path / "result.json").read_text())
    assert said.code == (0 if record["exact"] == 2 else 3)
    sizes = sorted(len(one["members"]) for one in record["graphs"])
    assert all(one["certified"] for one in record["graphs"])
    assert all(one["exact"] <= (len(one["members"]) == 1 and not one["cut"]) for one in record["graphs"])
    assert "Certificate: " in said.out
    assert "graph 1: " in said.out
    assert said.err.splitlines()[0] == "Factorising the gradients ..."
    before = (tmp_path / "result.json").stat().st_mtime_ns
    again = run(*call, "--resume", "--json")
    assert again.json == record
    assert (tmp_path / "result.json").stat().st_mtime_ns == before
    scored = run("evaluate", tmp_path, "--truth", folder / "truth.safetensors", "--json")
    assert (scored.code, scored.json["false_certificates"]) == (0, 0)
    paged = run("report", tmp_path)
    assert paged.code == 0
    assert (tmp_path / "index.html").read_text().count("<svg") == sum(sizes)


@pytest.mark.parametrize("kind", ["weights", "delta"])
def test_one_step_of_sgd_says_as_much_as_the_gradient(tmp_path, kind):
    files = ("--out", tmp_path / "u.npz", "--truth", tmp_path / "t.npz")
    model = ("--network", "gin", "--pool", "sum", "--width", 128, "--batch-size", 1, "--seed", 0)
    assert run("simulate", "--graphs", "molecules", *model, *files, "--kind", kind, "--lr", 1).code == 0
    said = run(
        "reconstruct", tmp_path / "u.npz", "--features", tmp_path / "features.json", "--out", tmp_path / "out", "--json"
    )
    assert said.code in (0, 3), said.err
    assert said.json["certified"] == 1
    assert run("evaluate", tmp_path / "out", "--truth", tmp_path / "t.npz").code == 0


def test_a_folder_of_updates_gets_a_summary(demo, tmp_path):
    import shutil

    folder, _ = demo
    (tmp_path / "in/client_1").mkdir(parents=True)
    shutil.copy(folder / "update.safetensors", tmp_path / "in/client_1/update.safetensors")
    (tmp_path / "in/broken.npz").write_bytes(b"no archive")
    call = ("reconstruct", tmp_path / "in", "--features", folder / "features.json", "--out", tmp_path / "out")
    said = run(*call)
    assert said.code == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [entry["status"] for entry in summary["updates"]] == [
        None,
        json.loads((folder / "result.json").read_text())["status"],
    ]
    assert summary["certified"] == 2
    pages = run("report", tmp_path / "out", "--json").json
    assert list(pages["pages"]) == ["client_1/update.safetensors"]


def test_another_model_is_no_explanation(demo, tmp_path):
    """The gradient of other weights: nothing may be certified."""
    import numpy as np

    from spear_jax.tensor_files import read_tensors, write_tensors

    folder, _ = demo
    tensors, metadata = read_tensors(folder / "update.safetensors")
    generator = np.random.default_rng(0)
    for name in tensors:
        if name.startswith("global/") and tensors[name].ndim == 2:
            tensors[name] = tensors[name] + generator.normal(size=tensors[name].shape).astype(np.float32) / 20
    write_tensors(tmp_path / "u.safetensors", tensors, metadata)
    call = (
        "reconstruct",
        tmp_path / "u.safetensors",
        "--features",
        folder / "features.json",
        "--out",
        tmp_path / "out",
    )
    said = run(*call, "--json")
    assert said.code in (2, 3), said.err
    assert said.json.get("certified", 0) == 0
