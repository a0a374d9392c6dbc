"""Folders written before records had a version stay readable; those of a newer version are refused in a sentence.

fixtures/old_folder holds an update and what ``reconstruct`` wrote of it then.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.command_line import run

OLD = Path(__file__).parents[1] / "fixtures/old_folder"


@pytest.fixture
def folder(tmp_path):
    """A copy of the old folder."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_an_old_folder_has_no_version_and_its_page_is_made(folder):
    assert "format_version" not in json.loads((folder / "result.json").read_text())
    said = run("report", folder)
    assert said.code == 0, said.err
    assert "3 samples reconstructed and certified" in (folder / "index.html").read_text()


def test_an_old_state_is_gone_on_with_to_the_same_arrays(folder):
    said = run("reconstruct", folder / "update.safetensors", "--out", folder, "--resume", "--json")
    assert (said.code, said.json["format_version"], said.json["certified"]) == (0, 1, 3)
    assert (folder / "inputs.safetensors").read_bytes() == (OLD / "inputs.safetensors").read_bytes()


@pytest.mark.parametrize("family", [None, "text", "graphs"])
@pytest.mark.parametrize("version", [2, "1"])
def test_a_newer_version_is_refused_in_a_sentence(folder, family, version):
    content = json.loads((folder / "result.json").read_text()) | {"format_version": version}
    content |= {} if family is None else {"family": family}
    (folder / "result.json").write_text(json.dumps(content))
    said = run("report", folder)
    assert said.code == 2
    assert f"has format_version {version!r}, and this spear-jax reads up to 1; update spear-jax." in said.err
