"""The page of graphs: every member is drawn, exact is said of one alone, and nothing of a file is markup."""

import json
import re

import numpy as np
import pytest

from tests.helpers.command_line import run
from tests.helpers.graph_records import graph_class, planted_result, planted_update, rewired, write_planted

SCRIPT = "<script>alert('x')</script>&\""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Folder of an update of three molecules, and the molecules."""
    folder = tmp_path_factory.mktemp("planted")
    return folder, planted_update(folder, ("caffeine", "cholesterol", "aspirin")).graphs


def page(folder, *options):
    said = run("report", folder, *options, "--json")
    assert said.code == 0, said.err
    assert said.json == {"page": str(folder / "index.html"), "contact_sheet": None}
    return (folder / "index.html").read_text()


def section(html, title):
    """What stands below a heading, up to the next one of its size."""
    return html.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]


def test_every_member_of_every_class_is_drawn(planted):
    folder, (caffeine, cholesterol, aspirin) = planted
    others = [rewired(cholesterol, 2, seed) for seed in range(5)]
    classes = [graph_class(caffeine), graph_class(*others, cholesterol), graph_class(aspirin, may_be_larger=True)]
    write_planted(folder, planted_result(classes))
    html = page(folder)
    shown = section(html, "The graphs")
    assert shown.count("<svg") == 8
    assert shown.count("<circle") == sum(member.num_nodes for one in classes for member in one.members)
    assert shown.count("<line") == sum(len(member.edges) for one in classes for member in one.members)
    assert "<h3>Graph 1: exact</h3>" in shown
    assert "<h3>Graph 2: one of 6</h3>" in shown
    assert "all are listed, and the first is a guess that no gradient confirms" in shown
    assert "several times as many nodes" in shown
    assert "<h1>3 of 3 graphs certified: 1 exact, 2 up to graphs with the same gradient</h1>" in html
    assert 'class="lead part"' in html
    assert "://" not in html
    assert "spear-jax reconstruct" in section(html, "To repeat it")


def test_exact_is_said_of_one_graph_alone(planted):
    folder, (caffeine, cholesterol, _) = planted
    write_planted(folder, planted_result([graph_class(caffeine)]))
    html = page(folder)
    assert 'class="lead good"' in html
    assert "<h1>1 graph reconstructed and certified without ground truth</h1>" in html
    write_planted(folder, planted_result([graph_class(cholesterol, rewired(cholesterol, 1))]))
    badges = re.findall(r'class="badge">([^<]*)<', section(page(folder), "The graphs"))
    assert badges == ["1 of 2", "2 of 2"]


def test_a_class_that_was_cut_says_so(planted):
    folder, (_, cholesterol, _) = planted
    write_planted(folder, planted_result([graph_class(cholesterol, rewired(cholesterol, 1), is_cut=True)]))
    shown = section(page(folder), "The graphs")
    assert "one of at least 2, cut at 2" in shown
    assert "there may be more" in shown
    assert "all are listed" not in shown


def test_what_is_not_certified_looks_it(planted):
    folder, (caffeine, _, _) = planted
    write_planted(folder, planted_result([graph_class(rewired(caffeine, 1), is_certified=False)]))
    html = page(folder)
    assert "<h1>1 graph assembled, none certified</h1>" in html
    assert 'class="card open"' in section(html, "The graphs")
    assert "certified</span>" not in section(html, "The graphs").replace("not certified</span>", "")


def test_the_originals_stand_beside_where_the_truth_is_given(planted):
    folder, (caffeine, cholesterol, _) = planted
    write_planted(folder, planted_result([graph_class(rewired(cholesterol, 1), cholesterol), graph_class(caffeine)]))
    html = page(folder, "--truth", folder / "truth.safetensors")
    marks = re.findall(r'class="badge">(the original)<', section(html, "The graphs"))
    assert len(marks) == 2
    shown = section(html, "The originals")
    assert shown.count("in its class") == 2
    assert shown.count("not found") == 1
    assert "the attack did not see them" in html


def test_rows_and_neighbourhoods_are_shown_where_no_graph_holds_them(planted):
    from spear_jax.attacks.graphs.result import Star
    from spear_jax.status import Status

    folder, (caffeine, _, _) = planted
    rows = np.unique(caffeine.rows, axis=0)
    known = {"rows": rows, "rows_exact": np.arange(len(rows)) == 0, "status": Status.NEIGHBOURHOODS_ONLY}
    write_planted(folder, planted_result([], **known, stars=[Star(0, (1, 2)), Star(2, (0,))], stars_exact=False))
    html = page(folder)
    assert f"<h1>2 neighbourhoods of {len(rows)} kinds of nodes found, but no graph</h1>" in html
    assert section(html, "Neighbourhoods").count("<svg") == 2
    assert section(html, "Rows of nodes").count("not certified") == len(rows) - 1
    assert "hybridisation" in section(html, "Rows of nodes")


def test_nothing_of_a_file_is_markup(planted):
    folder, (caffeine, _, _) = planted
    content = write_planted(folder, planted_result([graph_class(caffeine)]))
    text = json.dumps(content)
    for word in ("caffeine", "SP2", "hybridisation"):
        text = text.replace(f'"{word}"', json.dumps(SCRIPT))
    changed = json.loads(text)
    changed |= {name: SCRIPT for name in ("message", "update", "features_file", "update_sha256", "status")}
    changed["model"] |= {name: SCRIPT for name in ("kind", "library", "activation", "pool")}
    changed["model"]["assumed"] = changed["limits"] = [SCRIPT]
    changed["views"][0]["name"] = SCRIPT
    (folder / "result.json").write_text(json.dumps(changed))
    html = page(folder)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_damaged_record_is_said_to_be_damaged(tmp_path):
    (tmp_path / "result.json").write_text('{"family": "graphs", "graphs": 3}')
    for command in (("report", tmp_path), ("evaluate", tmp_path, "--truth", tmp_path)):
        said = run(*command)
        assert said.code == 2
        assert "damaged reconstruction" in said.err
        assert said.err.count("\n") == 1
