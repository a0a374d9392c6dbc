"""The pages of docs/ say what the code does: examples run, and the page of formats names the keys that are written."""

import ast
import dataclasses
import json
import re
import runpy
from pathlib import Path

import jax
import pytest

import spear_jax as sj
from spear_jax.audit import resume
from spear_jax.defences.trials import Trial
from spear_jax.tensor_files import read_tensors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = Path(sj.__file__).parent
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the pages are not part of the sdist")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle, its truth, and what an audit of a folder with it wrote."""
    folder = tmp_path_factory.mktemp("formats")
    batch = sj.demo_batch(batch_size=4, image_size=16, seed=0)
    model = sj.MLP(widths=(96, 96), num_classes=batch.num_classes)
    params = sj.init_params(model, jax.random.key(1), batch.inputs.shape[1])
    update, truth = sj.simulate_update(model, params, batch, dtype="float64")
    (folder / "updates").mkdir()
    sj.save_update(update, folder / "updates/u.safetensors")
    truth.save(folder / "truth.safetensors")
    config = sj.ReconstructConfig(method="sampling", num_devices=1)  # which leaves a state
    sj.audit_update(folder / "updates", out=folder / "out", config=config)
    return folder


def keys(heading: str, first: str = "key") -> set[str]:
    """The keys that a section of the page names, in its table that begins with this column."""
    page = (DOCS / "formats.md").read_text()
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = section.split(f"| {first} |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


def stem(names) -> set[str]:
    """Names with what stands for one of many written as the page does."""
    return {re.sub(r"^(global|grad|client)/.*", r"\1/<name>", re.sub(r"^(input|grad_z)/.*", r"\1/<layer>", name))
            for name in names}  # fmt: skip


def written(path: str, function: str) -> set[str]:
    """The keys of the dictionary that a function returns."""
    tree = ast.parse((PACKAGE / path).read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    (returned,) = (node.value for node in ast.walk(found) if isinstance(node, ast.Return))
    return {ast.literal_eval(key) for key in returned.keys}


def test_the_page_names_the_keys_of_a_record(folder):
    record = json.loads((folder / "out/u/result.json").read_text())
    assert keys("`result.json`") == set(record)
    assert keys("`result.json`", "key of `certificate`") == set(record["certificate"])
    assert keys("`result.json`", "key of `observed`") == set(record["observed"])
    assert set(record["stats"]) == {field.name for field in dataclasses.fields(sj.SearchStats)}
    summary = json.loads((folder / "out/summary.json").read_text())
    assert keys("`summary.json`") == set(summary)
    assert keys("`summary.json`", "key of `updates`") == set(summary["updates"][0])


def test_the_page_names_the_tensors_and_metadata_of_every_file(folder):
    tensors, metadata = read_tensors(folder / "updates/u.safetensors")
    assert stem(tensors) <= keys("Update bundle", "tensor")
    assert set(metadata) <= keys("Update bundle", "metadata")
    tensors, metadata = read_tensors(folder / "out/u/inputs.safetensors")
    assert (keys("`inputs.safetensors`", "tensor"), set(metadata)) == (set(tensors), {"reconstruction"})
    tensors, metadata = read_tensors(folder / "truth.safetensors")
    assert (keys("Truth", "tensor"), keys("Truth", "metadata")) == (stem(tensors), set(metadata))
    tensors, metadata = read_tensors(folder / "out/u/state.safetensors")
    assert {name for name in keys("`state.safetensors`", "tensor") if "roots" not in name} == set(tensors)
    said = {re.sub(r"^config\..*", "config.<field>", name) for name in metadata}
    assert keys("`state.safetensors`", "metadata") - {"activation"} == said  # which a state of roots has


def test_the_page_names_the_metadata_that_are_checked_and_the_parts_of_the_other_records():
    from spear_jax.attacks.dense.roots.found import Found
    from spear_jax.update.metadata import _CHECKS

    assert set(_CHECKS) < keys("Update bundle", "metadata")
    assert {resume.ROOTS + name for name in Found._fields} < keys("`state.safetensors`", "tensor")
    assert keys("`result.json` of text") == written("audit/text_record.py", "make_record")
    assert keys("`result.json` of graphs") == written("audit/graph_record.py", "make_record")
    assert keys("`defences.json`") == {field.name for field in dataclasses.fields(Trial)}


def test_a_key_that_the_page_does_not_name_would_be_seen():
    assert "copies" in keys("`result.json`")
    assert "nothing" not in keys("`result.json`")
    assert keys("`result.json`") != keys("`result.json` of text")


def test_the_examples_in_python_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = DOCS / "python.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    scope: dict = {}
    for example in examples:
        exec(compile(example, str(page), "exec"), scope)
    said = capsys.readouterr().out
    assert len(examples) == 5
    assert ("4 of 4 certified: EXACT" in said, "1 of 1 updates whole" in said) == (True, True)
    assert "nothing-there.safetensors does not exist." in said


TUTORIALS = {
    "engineer": ("4 of 4 samples certified", "page: "),
    "researcher": ("dictionary: 12 of 12 exact", "whole up to"),
    "defender": ("without a defence: 6 of 6", "from noise of"),
}


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(DOCS / f"tutorials/{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert [words for words in TUTORIALS[name] if words not in said] == []


def test_every_public_name_is_on_a_page_of_the_api():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"^::: spear_jax\.(?:config\.)?(\w+)$", pages, flags=re.MULTILINE))
    assert shown - {"DictionaryConfig", "SpanConfig", "Schedule"} == set(sj.__all__) - {"__version__"}
