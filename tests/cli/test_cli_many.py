"""A folder of updates: each in order into a folder of its own, a summary whole at any time, a page over the pages."""

import json
import re
import shutil

import numpy as np
import pytest

from spear_jax.tensor_files import read_tensors, write_tensors
from tests.helpers.command_line import planted_update, run

ONE = ("--num-devices", 1, "--max-candidates", 2**17, "--round-size", 1024)
NAMES = ("round-0001/client-2.safetensors", "round-0001/client-10.npz", "round-0002/a/client-2.safetensors")
DAMAGED, LATE = "round-0002/client-3.npz", "round-0003/client-<b>#1.safetensors"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three updates of three samples, a damaged one, and one of noise; things that are no updates beside them."""
    folder = tmp_path_factory.mktemp("recorded")
    for seed, name in enumerate((*NAMES, LATE)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        planted_update(folder / name, 3, 60, seed=seed)
    tensors, metadata = read_tensors(folder / LATE)
    tensors["grad/dense_0.weight"] = np.random.default_rng(0).normal(size=tensors["grad/dense_0.weight"].shape)
    write_tensors(folder / LATE, tensors, metadata)
    (folder / DAMAGED).write_bytes(b"damaged")
    (folder / "round-0001/notes.txt").write_text("")
    (folder / "round-0001/.client-9.npz").write_text("a temporary file of a recorder that was killed")
    return folder


@pytest.fixture(scope="module")
def reconstructed(recorded, tmp_path_factory):
    """Folder of the reconstructions, and what reconstruct said."""
    out = tmp_path_factory.mktemp("many") / "recon"
    return out, run("reconstruct", recorded, "--out", out, *ONE)


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


def test_every_update_is_inverted_as_by_itself_and_the_table_and_the_summary_say_so(recorded, reconstructed, tmp_path):
    out, said = reconstructed
    assert said.code == 3
    lines = said.out.splitlines()
    assert lines[0].split() == ["update", "batch", "rank", "certified", "approximate", "status", "seconds"]
    order = (*NAMES, DAMAGED, LATE)
    assert [line.split()[0] for line in lines[1:] if line[0] == "r"] == list(order)
    assert re.fullmatch(r"round-0001/client-10.npz +3 +3 +0 +EXACT +\d+\.\d", lines[2])
    assert "  client-3.npz is not a readable npz file" in said.out
    assert "3 of 5 updates whole; 9 samples certified in all, 0 approximate; 1 could not be read or inverted." in lines
    summary = summary_of(out)
    assert [entry["update"] for entry in summary["updates"]] == list(order)
    for entry in summary["updates"][:3]:
        alone = tmp_path / entry["update"]
        one = run("reconstruct", recorded / entry["update"], "--out", alone, *ONE, "--json")
        assert (one.code, one.json["update_sha256"]) == (0, entry["update_sha256"])
        assert (alone / "inputs.safetensors").read_bytes() == (
            out / entry["folder"] / "inputs.safetensors"
        ).read_bytes()
    damaged, noise = summary["updates"][3:]
    assert (damaged["status"], damaged["certified"], damaged["update_sha256"]) == (None, None, None)
    assert damaged["sentence"].startswith("client-3.npz is not a readable npz file")
    assert (noise["status"], noise["certified"], noise["folder"]) == ("RANK_FULL", 0, "round-0003/client-<b>#1")
    assert not (out / damaged["folder"]).exists()


def test_resume_keeps_what_is_finished_goes_on_with_the_rest_and_is_whole_when_all_are(recorded, tmp_path):
    updates, out = tmp_path / "updates", tmp_path / "recon"
    shutil.copytree(recorded / "round-0001", updates)
    tensors, metadata = read_tensors(updates / "client-2.safetensors")
    write_tensors(updates / "client-2.safetensors", tensors, metadata | {"activation": "relu"})
    first = run("reconstruct", updates, "--out", out, *ONE, "--json")
    assert (first.code, first.json["whole"], first.json["total"]) == (0, 2, 2)
    assert first.json == summary_of(out)
    kept, other = out / "client-2", out / "client-10"
    stamp = (kept / "result.json").stat().st_mtime_ns
    tensors, metadata = read_tensors(other / "state.safetensors")
    write_tensors(other / "state.safetensors", tensors, metadata | {"finished": "false"})
    (other / "result.json").unlink()
    refused = run("reconstruct", updates, "--out", out, *ONE)
    assert refused.code == 2
    assert f"{other} holds an unfinished search; pass --resume to go on with it" in refused.err
    assert summary_of(out) == first.json
    resumed = run("reconstruct", updates, "--out", out, *ONE, "--resume", "--json")
    assert (resumed.code, resumed.json["whole"]) == (0, 2)
    assert (kept / "result.json").stat().st_mtime_ns == stamp
    assert (other / "result.json").exists()
    planted_update(updates / "client-2.safetensors", 3, 60, seed=8)
    changed = run("reconstruct", updates, "--out", out, *ONE, "--resume", "--json")
    assert (changed.code, changed.json["whole"]) == (3, 1)
    assert "another update or layer" in changed.json["updates"][0]["sentence"]
    assert run("report", out).code == 0
    fresh = run("reconstruct", updates, "--out", out, *ONE, "--fresh", "--json")
    assert not (out / "index.html").exists()
    assert (fresh.code, fresh.json["whole"]) == (0, 2)
    assert (kept / "result.json").stat().st_mtime_ns > stamp
    seeded = run("reconstruct", updates, "--out", out, *ONE, "--seed", 1, "--resume", "--json")
    assert [entry["sentence"].count("another seed") for entry in seeded.json["updates"]] == [1, 1]


def test_ctrl_c_leaves_a_summary_of_what_is_done(recorded, tmp_path, monkeypatch):
    from spear_jax.audit import one

    invert, calls = one.reconstruct, []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return invert(*arguments, **options)

    monkeypatch.setattr(one, "reconstruct", interrupted)
    said = run("reconstruct", recorded, "--out", tmp_path / "recon", *ONE)
    assert said.code == 130
    assert "--resume goes on" in said.err
    summary = summary_of(tmp_path / "recon")
    assert [entry["update"] for entry in summary["updates"]] == list(NAMES[:2])
    assert summary["sentence"] == "2 of 5 updates whole; 6 samples certified in all, 0 approximate; 3 to go."
    monkeypatch.undo()
    resumed = run("reconstruct", recorded, "--out", tmp_path / "recon", *ONE, "--resume", "--json")
    assert (resumed.json["whole"], resumed.json["total"]) == (3, 5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("{empty}",), "empty holds no update bundles, .safetensors or .npz, at any depth; give the folder"),
        (
            ("{updates}", "--out", "{updates}/recon"),
            "updates, whose files are taken for updates; give a folder outside",
        ),
        (("{updates}", "--out", "{updates}"), "updates, whose files are taken for updates; give a folder outside"),
        (("{twice}", "--out", "{out}"), "would both be written to {out}/u; rename one of them"),
        (("{updates}", "--out", "{single}"), "single holds the reconstruction of one update; give another --out"),
        (("{updates}", "--coordinator", "h:1"), "is a folder, whose updates one process takes one by one"),
        (("{updates}", "--distributed"), "leave --distributed, --coordinator and --shard out"),
        (("{updates}", "--shard", "0/2"), "--shard out, or give one update"),
        (("{updates}", "--out", "{out}", "--num-devices", "999"), "is 999 but JAX sees"),
        (("{updates}", "--out", "{out}", "--method", "x"), "--method is 'x'; expected one of auto"),
        (("{updates}", "--resume", "--fresh"), "exclude each other"),
        (("{updates}", "--out", "{updates}/../updates/u.safetensors"), "give a folder outside it"),
    ],
)
def test_what_makes_no_sense_for_a_folder_is_refused_in_a_sentence(tmp_path, arguments, sentence):
    places = {name: tmp_path / name for name in ("empty", "updates", "twice", "single", "out")}
    for name in ("empty", "updates", "twice", "single"):
        places[name].mkdir()
    planted_update(places["updates"] / "u.safetensors", 2, 20)
    for suffix in ("npz", "safetensors"):
        planted_update(places["twice"] / f"u.{suffix}", 2, 20)
    (places["single"] / "result.json").write_text("{}")
    said = run("reconstruct", *(argument.format(**places) for argument in arguments))
    assert (said.code, said.out) == (2, "")
    assert sentence.format(**places) in said.err
    assert said.err.count("\n") == 1
    assert not places["out"].exists()


def test_the_report_of_many_is_a_page_of_each_and_one_over_them(reconstructed, tmp_path):
    out, _ = reconstructed
    said = run("report", out, "--out", tmp_path / "pages", "--json")
    assert said.code == 0
    index = tmp_path / "pages/index.html"
    assert said.json["page"] == str(index)
    page = index.read_text()
    assert "9 samples of 5 client updates reconstructed and certified without ground truth" in page
    links = re.findall(r'href="([^"]+)"', page)
    assert links == [
        *("round-0001/client-2/index.html", "round-0001/client-10/index.html", "round-0002/a/client-2/index.html"),
        "round-0003/client-%3Cb%3E%231/index.html",
    ]
    assert not re.search(r"<script|src=|https?:|<b>#1", page)
    for name, path in said.json["pages"].items():
        assert "certified" in (tmp_path / "pages" / path).read_text(), name
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", page)]
    rounds = [cells[start : start + 5] for start in range(0, 30, 6)]
    assert [row[:4] for row in rounds] == [
        ["round-0001", "2", "2", "6"],
        ["round-0002/a", "1", "1", "3"],
        ["round-0002", "1", "0", "0"],
        ["round-0003", "1", "0", "0"],
        ["all", "5", "3", "9"],
    ]
    assert "not inverted" in cells
    assert any(cell.startswith("client-3.npz is not a readable npz file") for cell in cells)


def test_reports_of_many_that_cannot_be_made_say_why(reconstructed, tmp_path):
    out = tmp_path / "recon"
    shutil.copytree(reconstructed[0], out)
    said = run("report", out, "--truth", tmp_path / "truth.npz")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "holds many reconstructions and --truth is of one; give the folder of that one" in said.err
    shutil.rmtree(out / "round-0001/client-2")
    assert run("report", out).out == f"Written: {out}/index.html and 3 pages below it\n"
    assert "round-0001/client-2 is no folder" in (out / "index.html").read_text()
    for damaged in ("", "[]", '{"updates": 3}', '{"updates": [{"update": "a"}]}'):
        (out / "summary.json").write_text(damaged)
        said = run("report", out)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert "summary.json is damaged" in said.err


@pytest.mark.parametrize(("labels", "number"), [(None, None), ([-1, -1, -1], None), ([-1, 4, 0], 2)])
def test_the_layers_above_are_named_only_where_they_confirm_a_sample(reconstructed, capsys, labels, number):
    from spear_jax.cli.reconstruct import tell

    out = reconstructed[0] / "round-0001/client-2"
    content = json.loads((out / "result.json").read_text())
    content["certificate"]["labels"] = labels
    tell(content, out)
    said = capsys.readouterr().out
    assert said.startswith("3 of 3 samples reconstructed and certified.")
    assert re.findall(r"The layers above confirm (\d+) samples", said) == ([] if number is None else [str(number)])
