"""``report --redact``: a page to pass on, with none of the recovered values in it or beside it."""

import json
import re

import numpy as np
import pytest

from spear_jax.audit.record import read_reconstruction
from spear_jax.audit.without_inputs import without_inputs
from tests.helpers.command_line import planted_update, run


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A folder of a reconstruction of vectors."""
    folder = tmp_path_factory.mktemp("dense")
    assert run("reconstruct", planted_update(folder / "update.safetensors", 3, 60, 8), "--out", folder / "r").code == 0
    return folder / "r"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of a reconstruction of text."""
    folder = tmp_path_factory.mktemp("text")
    assert run("demo", "--text", "--batch-size", 2, "--out", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A folder of a reconstruction of molecules."""
    folder = tmp_path_factory.mktemp("graphs")
    assert run("demo", "--graphs", "--batch-size", 2, "--out", folder).code == 0
    return folder


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def leaked(values, html):
    """Which of the values, as a page would print them, stand in it."""
    return [value for value in values if value in html]


def test_no_value_is_in_the_page_or_beside_it(dense, tmp_path):
    said = run("report", dense, "--redact", "--out", tmp_path, "--json")
    assert said.code == 0, said.err
    assert files(tmp_path) == {"index.html"}
    assert said.json == {"page": str(tmp_path / "index.html"), "contact_sheet": None}
    html = (tmp_path / "index.html").read_text()
    printed = [f"{value:.4g}" for value in read_reconstruction(dense).inputs.ravel()]
    assert leaked(printed, html) == []
    assert "<img" not in html
    assert "the server recovered exactly all of the 3 records" in html
    assert run("report", dense, "--out", tmp_path / "shown").code == 0
    whole = [f"{value:.6g}" for value in np.ravel(read_reconstruction(dense).inputs)]
    assert len(leaked(whole, (tmp_path / "shown/index.html").read_text())) == len(whole)  # the check can fail


def test_no_token_is_in_the_page(text, tmp_path):
    content = json.loads((text / "result.json").read_text())
    assert run("report", text, "--redact", "--out", tmp_path).code == 0
    html = re.sub(r"<style>.*?</style>", "", (tmp_path / "index.html").read_text(), flags=re.DOTALL)
    texts = [one["text"] for one in content["sequences"]]
    assert len(texts) == 2
    assert leaked(texts, html) == []
    assert "tokens" in html
    kept = json.dumps(without_inputs(content))
    assert leaked(texts, kept) == []
    assert not {"ids", "text", "texts", "label", "start"} & set(re.findall(r'"(\w+)":', kept))
    assert '"ids":' in json.dumps(content)


def test_no_molecule_is_in_the_page(graphs, tmp_path):
    content = json.loads((graphs / "result.json").read_text())
    assert run("report", graphs, "--redact", "--out", tmp_path).code == 0
    html = (tmp_path / "index.html").read_text()
    assert "<svg" not in html
    assert "nodes and" in html
    kept = json.dumps(without_inputs(content))
    assert not {"nodes", "edges", "row", "list", "features"} & set(re.findall(r'"(\w+)":', kept))
    assert "<svg" in (graphs / "index.html").read_text()


def test_labels_are_recovered_too(dense):
    content = json.loads((dense / "result.json").read_text())
    content["certificate"]["labels"] = [7, 3, 7]
    assert "labels" not in without_inputs(content)["certificate"]
    assert "added_later" not in without_inputs(content | {"added_later": [0.5]})  # what is not named does not stay


@pytest.mark.parametrize("family", ["dense", "text", "graphs"])
def test_a_record_without_inputs_stays_as_it_is(family, request):
    once = without_inputs(json.loads((request.getfixturevalue(family) / "result.json").read_text()))
    assert without_inputs(once) == once


def test_the_page_lies_nowhere_near_what_was_recovered(dense, tmp_path):
    for out in (dense, dense / "page"):
        said = run("report", dense, "--redact", "--out", out)
        assert said.code == 2
        assert "is where the recovered data lie" in said.err
    (tmp_path / "contact.png").write_bytes(b"a picture")
    said = run("report", dense, "--redact", "--out", tmp_path)
    assert said.code == 2
    assert "holds contact.png, which is no redacted page" in said.err
    (tmp_path / "contact.png").unlink()
    assert [run("report", dense, "--redact", "--out", tmp_path).code for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [((), "--redact needs --out"), (("--truth", "t", "--out", "o"), "--truth shows the originals")],
)
def test_what_does_not_go_with_it_is_said(dense, options, words):
    said = run("report", dense, "--redact", *options)
    assert said.code == 2
    assert words in said.err


def test_a_share_that_is_not_whole_does_not_read_one():
    from spear_jax.report.redacted import render_redacted_page

    for score, shown in ((0.99999, "0.9999"), (1.0, "1")):
        html = render_redacted_page({"certificate": {"matching_score": score}})
        assert f"Matching score</th> <td>{shown}</td>" in html
