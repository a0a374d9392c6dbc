"""The page of a text reconstruction: what is certified stands first, traces apart, and nothing of a file is markup."""

import json
import re

import numpy as np
import pytest

from tests.helpers.command_line import run

SCRIPT = "<script>alert('x')</script> & \"quoted\"\x1b[2J"


def sequence(text, **changes):
    """A sequence of a record."""
    return {"tokens": [3, 1, 2], "text": text, "label": None, "copies": 1, "start": 0, "exact": True} | changes


def record(**changes):
    """A record as the audit writes it."""
    view = {"layer": 0, "role": "qkv", "rank": 12, "width": 96, "rows": 192}
    return {
        "family": "text", "status": "EXACT", "message": "Every sample.", "num_sequences": 1, "num_examples": 1,
        "certified": 1, "sequences": [sequence("my pin is 4417.")], "traces": [],
        "tokens": {"ids": [1, 2, 3], "texts": ["a", "b", "c"], "certified": True},
        "certificate": {"residual": 2e-7, "limit": 1e-5, "factor": 1.0},
        "views": [view, view | {"role": "o", "rank": 96}, view | {"layer": 1, "rank": 8, "rows": 8}],
        "seconds": {"views": 1.0},
        "model": {"name": "tiny", "adapter": None, "family": "llama", "layers": 2, "width": 96, "vocabulary": 400},
        "observed": {"kind": "weights", "dtype": "float32", "half": None, "tensors": 9, "untrained": 0, "lr": 0.1},
        "update": "u.safetensors", "update_sha256": "ab" * 32, "versions": {"python": "3"},
    } | changes  # fmt: skip


def page(tmp_path, **changes):
    """The page of a record, through the command."""
    (tmp_path / "result.json").write_text(json.dumps(record(**changes)))
    said = run("report", tmp_path, "--json")
    assert said.code == 0, said.err
    assert said.json == {"page": str(tmp_path / "index.html"), "contact_sheet": None}
    return (tmp_path / "index.html").read_text()


def section(html, title):
    """What stands below a heading, up to the next one."""
    return html.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]


def test_the_page_says_what_leaked_and_how_sure_that_is(tmp_path):
    html = page(tmp_path)
    assert "<h1>1 sequence reconstructed and certified without ground truth</h1>" in html
    assert 'class="lead good"' in html
    assert "my pin is 4417." in section(html, "Certified text")
    assert "is what came back but for 2.00" in html
    assert "Traces, not certified" not in html
    assert "spear-jax reconstruct u.safetensors --model tiny --kind weights --lr 0.1" in html
    assert "<script" not in html
    assert "://" not in html


@pytest.mark.parametrize("place", ["certified", "open", "traces", "tokens", "name", "message"])
def test_nothing_of_a_file_is_markup(tmp_path, place):
    changes = {
        "certified": {"sequences": [sequence(SCRIPT)]},
        "open": {"sequences": [sequence(SCRIPT, exact=False, copies=None)]},
        "traces": {"traces": [{"tokens": [1], "text": SCRIPT}]},
        "tokens": {"sequences": [], "tokens": {"ids": [1], "texts": [SCRIPT], "certified": True}},
        "name": {"model": record()["model"] | {"name": SCRIPT}},
        "message": {"message": SCRIPT},
    }
    html = page(tmp_path, **changes[place])
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    if place not in ("name", "message"):
        assert "\x1b" not in html
        assert "\\x1b[2J" in html


def test_traces_stand_in_a_section_of_their_own(tmp_path):
    open_ = sequence("perhaps so", exact=False, copies=None)
    traces = [{"tokens": [1, 2], "text": f"trace {number}"} for number in range(102)]
    html = page(tmp_path, sequences=[sequence("surely so"), open_], traces=traces)
    certified, apart = section(html, "Certified text"), section(html, "Traces, not certified")
    assert "surely so" in certified
    assert "perhaps so" not in certified
    assert "perhaps so" in apart
    assert apart.count("not certified</footer>") == 100
    assert "3 more are in result.json" in apart
    assert '<section class="traces">' in html
    assert html.count("<section") == html.count("</section>") == 1


def test_tokens_are_listed_where_no_sequence_holds_them(tmp_path):
    tokens = {"ids": [4, 9], "texts": None, "certified": True}
    html = page(
        tmp_path, sequences=[], certified=0, num_sequences=0, tokens=tokens, certificate=None, status="TOKENS_ONLY"
    )
    assert "<h1>2 distinct tokens certified without ground truth, but no sequence</h1>" in html
    assert 'class="lead part"' in html
    assert "<code>4</code> <code>9</code>" in html
    assert "No whole batch was found" in html
    assert "<h1>Nothing could be certified</h1>" in page(tmp_path, sequences=[], certified=0, tokens={})


def test_labels_and_copies_are_told(tmp_path):
    html = page(tmp_path, sequences=[sequence("one", label=2, copies=3), sequence("other", copies=None)])
    assert "3 tokens, class 2, 3 times in the batch" in html
    assert "how often it was there is not known" in html


def test_each_view_is_read(tmp_path):
    cells = re.findall(r"<td>([^<]*)</td>", section(page(tmp_path), "What the gradients show"))
    readings = [row[-1] for row in zip(*[iter(cells)] * 6, strict=True)]
    assert readings == [
        "all of them are seen: as many distinct tokens",
        "full: it tells nothing apart",
        "as many as there are rows: the batch may have more",
    ]


def test_every_defence_says_how_it_is_known(tmp_path):
    rows = section(page(tmp_path), "What stops this attack in general").split("<tr>")[2:]
    assert len(rows) == 7
    assert all("<td>argument</td>" in row or "<td>measurement</td>" in row for row in rows)
    assert "here 96" in rows[0]


def test_a_record_with_holes_still_makes_a_page(tmp_path):
    html = page(tmp_path, views=[{"layer": None}], model={}, observed={}, certificate={}, versions=None, seconds={})
    assert "No whole batch was found" in html


def test_originals_are_shown_for_comparison_only(tmp_path):
    from spear_jax.client.text_batch import TextBatch
    from spear_jax.client.text_truth import TextTruth

    (tmp_path / "result.json").write_text(json.dumps(record()))
    batch = TextBatch((np.array([3, 1, 2]), np.array([5, 6])))
    TextTruth(batch, ("my pin is 4417.", "<i>never</i> found")).save(tmp_path / "t.npz")
    said = run("report", tmp_path, "--truth", tmp_path / "t.npz", "--out", tmp_path / "page")
    assert said.code == 0, said.err
    html = (tmp_path / "page/index.html").read_text()
    originals = section(html, "The originals")
    assert originals.count("exact</span>") == 2
    assert originals.count("not exact</span>") == 1
    assert "&lt;i&gt;never" in originals
    assert "1 of 2 sequences exact" in html
    scored = run("evaluate", tmp_path, "--truth", tmp_path / "t.npz", "--json")
    assert scored.code == 3
    assert (scored.json["num_exact"], scored.json["false_certificates"]) == (1, 0)
    assert [scored.json[name] for name in ("distinct", "named", "wrong")] == [5, 3, 0]


def test_labels_are_scored_with_the_text(tmp_path):
    from spear_jax.client.text_batch import TextBatch
    from spear_jax.client.text_truth import TextTruth
    from spear_jax.report.text_scores import score_record

    TextTruth(TextBatch((np.array([3, 1, 2]),), np.array([1]))).save(tmp_path / "t.npz")
    for label, right in ((1, 1), (0, 0)):
        scored = score_record(record(sequences=[sequence("a", label=label)]), tmp_path / "t.npz")
        assert (scored.labels_right, scored.is_whole) == (right, True)
