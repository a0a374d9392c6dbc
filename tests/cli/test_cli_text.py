"""The command line on updates of language models: what works, what is printed where, and what is said of mistakes."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers.command_line import run

FILES = ("evaluation.json", "index.html", "model", "result.json", "texts.txt", "truth.safetensors")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of the demo on three sentences, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run("demo", "--text", "--batch-size", 3, "--out", folder)


@pytest.fixture(scope="module")
def adapters(demo):
    """An update of random adapters of the demo's model, and its truth."""
    folder, _ = demo
    files = {"--out": folder / "lora.safetensors", "--truth": folder / "lora_truth.safetensors"}
    options = ("--lora-rank", 2, "--lora-modules", "q,v", "--batch-size", 2)
    said = run("simulate", "--model", folder / "model", *options, *(x for pair in files.items() for x in pair))
    assert said.code == 0, said.err
    return files["--out"], files["--truth"]


def simulate(folder, name, *options):
    """An update of the demo's model, and what simulate said."""
    out = folder / f"{name}.safetensors"
    said = run("simulate", "--model", folder / "model", "--out", out, "--truth", folder / "t.safetensors", *options)
    return out, said


def test_the_demo_gets_every_sentence_back(demo):
    folder, said = demo
    assert said.code == 0, said.err
    assert set(FILES) <= {path.name for path in folder.iterdir()}
    assert "3 of 3 sequences exact" in said.out
    assert "0 false certificates" in said.out
    assert "Traceback" not in said.out
    assert "Traces" not in said.out


def test_reconstruct_says_what_is_certified_and_by_what(demo, tmp_path):
    folder, _ = demo
    said = run("reconstruct", folder / "update.safetensors", "--model", folder / "model", "--out", tmp_path)
    assert said.code == 0, said.err
    lines = (tmp_path / "texts.txt").read_text().splitlines()
    assert len(lines) == 3
    assert all(f"  {line[:40]}" in said.out for line in lines)
    assert "3 of 3 sequences reconstructed and certified." in said.out
    assert "Certificate: " in said.out
    assert said.err.splitlines()[0] == "Factorising the gradients ..."


def test_the_record_holds_the_batch_and_nothing_of_the_machine(demo, tmp_path):
    folder, _ = demo
    call = ("reconstruct", folder / "update.safetensors", "--model", folder / "model", "--out", tmp_path, "--json")
    said = run(*call)
    assert (said.code, said.err) == (0, "")
    record = said.json
    assert json.loads((tmp_path / "result.json").read_text()) == record
    assert (record["family"], record["status"], record["certified"]) == ("text", "EXACT", 3)
    assert record["model"]["name"] == "model"
    assert record["certificate"]["residual"] < record["certificate"]["limit"]
    assert {"layer", "role", "rank", "width", "rows"} == set(record["views"][0])
    truth = load_file(folder / "truth.safetensors")
    assert sorted(one for text in record["sequences"] for one in text["tokens"]) == sorted(truth["tokens"].tolist())
    before = (tmp_path / "result.json").stat().st_mtime_ns
    assert run(*call, "--resume").json == record
    assert (tmp_path / "result.json").stat().st_mtime_ns == before


def test_weights_after_a_step_give_the_text_too(demo, tmp_path):
    folder, _ = demo
    update, said = simulate(folder, "weights", "--kind", "weights", "--lr", 1, "--batch-size", 2, "--seed", 5)
    assert said.code == 0, said.err
    said = run("reconstruct", update, "--model", folder / "model", "--out", tmp_path, "--json")
    assert (said.code, said.json["certified"]) == (0, 2)
    assert said.json["observed"]["lr"] == 1


def test_adapters_show_tokens_before_a_search_and_after_it(demo, adapters, tmp_path):
    folder, _ = demo
    update, truth = adapters
    seen = run("inspect", update, "--model", folder / "model", "--json").json
    assert seen["expected"] == "whole sequences"
    assert seen["views"][0] == {"layer": 0, "role": "qkv", "rank": 4, "width": 192, "rows": 4}
    assert seen["most_beginnings"] == 24
    said = run("reconstruct", update, "--model", folder / "model", "--out", tmp_path)
    assert said.code == 3
    record = json.loads((tmp_path / "result.json").read_text())
    private = load_file(truth)
    starts = np.cumsum([0, *private["lengths"]])
    inputs = [private["tokens"][a : b - 1] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    if record["tokens"]["certified"]:
        assert set(record["tokens"]["ids"]) >= set(np.concatenate(inputs).tolist())
    assert run("evaluate", tmp_path, "--truth", truth).code == 3


def test_inspect_predicts_the_demo(demo):
    folder, _ = demo
    said = run("inspect", folder / "update.safetensors", "--model", folder / "model")
    assert said.code == 0
    assert "Expected: whole sequences: " in said.out
    assert "self_attn.q_proj (2)" in said.out
    assert "distinct tokens and" in said.out


def test_inspect_says_why_nothing_follows(demo):
    folder, _ = demo
    update, _ = simulate(folder, "signs", "--batch-size", 2)
    tensors = {name: np.sign(tensor) for name, tensor in load_file(update).items()}
    np.savez(folder / "signs.npz", **tensors, **{"meta/kind": np.array("gradient")})
    said = run("inspect", folder / "signs.npz", "--model", folder / "model")
    assert "Expected: nothing: " in said.out
    assert "signs" in said.out
    refused = run("reconstruct", folder / "signs.npz", "--model", folder / "model", "--out", folder / "x")
    assert refused.code == 2
    assert not (folder / "x").exists()


def test_evaluate_scores_and_writes(demo, tmp_path):
    folder, _ = demo
    said = run("evaluate", folder, "--truth", folder / "truth.safetensors", "--out", tmp_path / "e.json", "--json")
    assert said.code == 0
    assert said.json["num_exact"] == 3
    assert said.json["false_certificates"] == 0
    assert json.loads((tmp_path / "e.json").read_text()) == said.json


def test_a_folder_of_updates_gets_a_summary(demo, tmp_path):
    folder, _ = demo
    (tmp_path / "in/client_1").mkdir(parents=True)
    shutil.copy(folder / "update.safetensors", tmp_path / "in/client_1/update.safetensors")
    (tmp_path / "in/broken.npz").write_bytes(b"no archive")
    call = ("reconstruct", tmp_path / "in", "--model", folder / "model", "--out", tmp_path / "out")
    said = run(*call)
    assert said.code == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [entry["status"] for entry in summary["updates"]] == [None, "EXACT"]
    assert (summary["total"], summary["whole"], summary["certified"]) == (2, 1, 3)
    assert (tmp_path / "out/client_1/update/texts.txt").exists()
    pages = run("report", tmp_path / "out", "--json").json
    assert list(pages["pages"]) == ["client_1/update.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reconstruct", "U", "--adapter", "A"), "--adapter goes with a language model"),
        (("reconstruct", "U", "--lr", 1), "--lr goes with a language model"),
        (("reconstruct", "U", "--model", "M", "--layer", "x"), "--layer is of dense layers"),
        (("reconstruct", "U", "--model", "M", "--method", "auto"), "--method is of dense layers"),
        (("reconstruct", "U", "--model", "nowhere"), "nowhere does not exist"),
        (("reconstruct", "U", "--model", "F"), "has no config.json"),
        (("reconstruct", "U", "--model", "M", "--adapter", "F"), "adapter_config.json"),
        (("reconstruct", "nothing.safetensors", "--model", "M"), "nothing.safetensors does not exist"),
        (("reconstruct", "U", "--model", "M", "--kind", "sum"), "kind is 'sum'"),
        (("inspect", "U", "--kind", "delta"), "--kind goes with a language model"),
        (("inspect", "U", "--model", "M", "--layout", "in_out"), "--layout is of dense layers"),
        (("simulate", "--texts", "T"), "--texts goes with a language model"),
        (("simulate", "--model", "M", "--images", "F"), "--images is of dense layers"),
        (("simulate", "--model", "M", "--texts", "no.txt"), "no.txt cannot be read"),
        (("simulate", "--model", "M", "--lora-modules", "q"), "--lora-rank"),
        (("simulate", "--model", "M", "--lora-rank", 2, "--adapter", "F"), "exclude each other"),
        (("simulate", "--model", "M", "--lora-rank", 2, "--lora-modules", "z"), "no module 'z'"),
        (("simulate", "--model", "M", "--lr", 1), "a gradient has no step"),
        (("simulate", "--model", "M", "--dtype", "bfloat16", "--out", "u.npz"), "no bfloat16"),
        (("demo", "--text", "--width", 50), "--width is of dense layers and --text of language models"),
        (("evaluate", "R", "--truth", "U"), "no truth about a language model"),
        (("evaluate", "F", "--truth", "U"), "no finished reconstruction"),
    ],
)
def test_a_mistake_is_one_sentence(demo, tmp_path, monkeypatch, arguments, words):
    folder, _ = demo
    (tmp_path / "empty").mkdir()
    names = {"U": folder / "update.safetensors", "M": folder / "model", "F": tmp_path / "empty", "R": folder}
    monkeypatch.chdir(tmp_path)
    said = run(*(names.get(argument, argument) if isinstance(argument, str) else argument for argument in arguments))
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_damaged_record_is_said_to_be_damaged(tmp_path):
    (tmp_path / "result.json").write_text('{"family": "text", "sequences": 3}')
    for command in (("report", tmp_path), ("evaluate", tmp_path, "--truth", tmp_path)):
        said = run(*command)
        assert said.code == 2
        assert "damaged reconstruction" in said.err


def test_without_a_tokenizer_numbers_are_said(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("spear_jax.language.tokens._package", lambda: None)
    folder, _ = demo
    said = run("reconstruct", folder / "update.safetensors", "--model", folder / "model", "--out", tmp_path)
    assert said.code == 0
    lines = (tmp_path / "texts.txt").read_text().splitlines()
    assert all(word.isdigit() for line in lines for word in line.split())
    _, refused = simulate(folder, "no")
    assert refused.code == 2
    assert "the package tokenizers is not installed" in refused.err
    (tmp_path / "numbers.txt").write_text("\n".join(lines))
    assert simulate(folder, "numbers", "--texts", tmp_path / "numbers.txt", "--batch-size", 3)[1].code == 0


def test_without_the_package_gguf_its_name_is_said(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    folder, _ = demo
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(64))
    said = run("reconstruct", folder / "update.safetensors", "--model", tmp_path / "m.gguf", "--out", tmp_path)
    assert said.code == 2
    assert "gguf" in said.err
    assert said.err.count("\n") == 1


def test_a_folder_of_a_dense_layer_is_left_alone(demo, tmp_path):
    folder, _ = demo
    (tmp_path / "inputs.safetensors").write_bytes(b"")
    said = run("reconstruct", folder / "update.safetensors", "--model", folder / "model", "--out", tmp_path)
    assert said.code == 2
    assert "give another --out" in said.err


def test_what_is_printed_is_one_line_of_what_prints(monkeypatch):
    from spear_jax.audit.text_record import escaped
    from spear_jax.cli.text import shortened

    assert escaped("a\nb\x1b[31m\u202e\\") == "a\\nb\\x1b[31m\\u202e\\\\"
    monkeypatch.setenv("COLUMNS", "40")
    assert shortened("x" * 100) == "x" * 37 + "\N{HORIZONTAL ELLIPSIS}"
    assert shortened("short") == "short"


def test_tokens_without_an_order_are_listed_in_full_lines(capsys, tmp_path, monkeypatch):
    from spear_jax.cli.text import tell

    monkeypatch.setenv("COLUMNS", "40")
    ids = list(range(100, 160))
    record = {
        "status": "TOKENS_ONLY", "message": "Tokens.", "num_sequences": 0, "certified": 0, "certificate": None,
        "sequences": [], "traces": [], "tokens": {"ids": ids, "texts": None, "certified": True}, "seconds": {},
    }  # fmt: skip
    tell(record, tmp_path)
    printed = capsys.readouterr().out
    assert "60 distinct tokens, certified.\n" in printed
    assert all(f" {token}" in printed for token in ids)


def test_traces_stand_apart_from_what_is_certified(capsys, tmp_path):
    from spear_jax.cli.text import tell

    one = {"tokens": [1, 2], "text": "sure", "label": None, "copies": 2, "start": 0, "exact": True}
    record = {
        "status": "PARTIAL", "message": "Some.", "num_sequences": 3, "certified": 2, "certificate": None,
        "sequences": [one, one | {"text": "perhaps", "exact": False, "copies": None}],
        "traces": [{"tokens": [3], "text": f"trace {number}"} for number in range(12)],
        "tokens": {"ids": [1, 2, 3], "texts": None, "certified": False}, "seconds": {"views": 1.0},
    }  # fmt: skip
    tell(record, tmp_path)
    printed = capsys.readouterr().out
    certified, _, traces = printed.partition("Traces, not certified")
    assert "  sure  [2 times]\n" in certified
    assert "perhaps" not in certified
    assert "  ? perhaps\n  ? trace 0\n" in traces
    assert "and 3 more" in traces
