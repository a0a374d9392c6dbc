"""``spear-jax purge``: reconstructions and states go, records without inputs stay, other folders are refused."""

import json
import shutil
from pathlib import Path

import pytest

from spear_jax.audit.without_inputs import without_inputs
from tests.helpers.command_line import planted_update, run

OLD = Path(__file__).parents[1] / "fixtures/old_folder"


@pytest.fixture
def folder(tmp_path):
    """A folder of two audited updates, with their pages."""
    for client in "ab":
        (tmp_path / "updates/round-0001").mkdir(parents=True, exist_ok=True)
        planted_update(tmp_path / f"updates/round-0001/client-{client}.safetensors", 3, 60, 8)
    assert run("reconstruct", tmp_path / "updates", "--out", tmp_path / "recon").code == 0
    assert run("report", tmp_path / "recon").code == 0
    return tmp_path / "recon"


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_records_stay_and_nothing_that_was_recovered(folder, tmp_path):
    one = folder / "round-0001/client-a"
    before = json.loads((one / "result.json").read_text())
    (one / f".state.safetensors.{'0' * 32}.tmp").write_bytes(b"half of a state")
    (one / "notes.md").write_text("of a person")
    said = run("purge", folder, "--yes", "--json")
    assert said.code == 0, said.err
    kept = {f"round-0001/client-{client}/result.json" for client in "ab"} | {"summary.json"}
    assert files(folder) == kept | {"round-0001/client-a/notes.md"}
    assert {Path(name).name for name in said.json["removed"]} == {
        "inputs.safetensors", "state.safetensors", "index.html", f".state.safetensors.{'0' * 32}.tmp"
    }  # fmt: skip
    assert len(said.json["removed"]) == 8  # four in the first, three in the second, the page over them
    assert json.loads((one / "result.json").read_text()) == without_inputs(before) | {"purged": True}
    again = run("purge", folder, "--yes")
    assert (again.code, "holds nothing that was recovered" in again.out) == (0, True)
    shown = run("report", one)
    assert (shown.code, "was purged" in shown.err) == (2, True)
    assert run("report", folder, "--redact", "--out", tmp_path / "page").code == 0
    page = (tmp_path / "page/round-0001/client-a/index.html").read_text()
    assert "the server recovered exactly all of the 3 records" in page
    assert run("reconstruct", tmp_path / "updates", "--out", folder, "--resume", "--json").json["certified"] == 6


def test_it_says_what_it_removed_in_words(tmp_path):
    old = Path(shutil.copytree(OLD, tmp_path / "old"))
    said = run("purge", old, "--yes")
    assert said.code == 0
    assert f"removed: {old / 'inputs.safetensors'}" in said.out
    assert f"kept without what was recovered: {old / 'result.json'}" in said.out
    assert files(old) == {"result.json", "update.safetensors"}  # the update is not ours


@pytest.mark.parametrize("demo", ["--text", "--graphs"])
def test_of_text_and_graphs_too(tmp_path, demo):
    assert run("demo", demo, "--batch-size", 2, "--out", tmp_path).code == 0
    assert run("purge", tmp_path, "--yes").code == 0
    assert not {"texts.txt", "index.html", "evaluation.json"} & files(tmp_path)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content == without_inputs(content)
    assert "was purged" in run("report", tmp_path).err


def test_an_unfinished_search_goes_too(tmp_path):
    shutil.copy(OLD / "state.safetensors", tmp_path)
    assert run("purge", tmp_path, "--yes").code == 0
    assert files(tmp_path) == set()


@pytest.mark.parametrize("content", [None, '{"status": 200}', "no JSON"])
def test_other_folders_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    for name in ("inputs.safetensors", "state.safetensors", "index.html"):
        (tmp_path / name).write_text("of somebody else")
    before = files(tmp_path)
    said = run("purge", tmp_path, "--yes", "--json")
    assert said.code == 2
    assert "nothing was removed" in said.json["error"]
    assert files(tmp_path) == before


def test_it_asks_and_removes_nothing_where_nobody_answers(tmp_path):
    old = Path(shutil.copytree(OLD, tmp_path / "old"))
    for options in ((), ("--json",)):
        said = run("purge", old, *options)
        assert (said.code, "give --yes" in said.err) == (2, True)
    assert files(old) == files(OLD)


def test_a_person_is_asked(tmp_path, monkeypatch):
    old = Path(shutil.copytree(OLD, tmp_path / "old"))
    monkeypatch.setattr("spear_jax.cli.purge.sys.stdin.isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr("typer.confirm", lambda question: bool(asked.append(question)))
    said = run("purge", old)
    assert (said.code, "nothing was removed" in said.err) == (2, True)
    assert asked == ["Remove 2 files, and what 1 records hold of them?"]
    monkeypatch.setattr("typer.confirm", lambda question: True)
    assert run("purge", old).code == 0
    assert files(old) == {"result.json", "update.safetensors"}
