"""Recovered data are personal data: what an audit writes is of its owner alone, whatever the umask."""

import os
import stat
import sys

import pytest

from spear_jax.tensor_files import atomic_path, make_folder
from tests.helpers.command_line import planted_update, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX")


@pytest.fixture(autouse=True)
def generous():
    """A umask that hides nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder):
    """Permissions of a folder and all below it, by relative path."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def test_a_file_is_private_from_its_first_byte_on(tmp_path):
    with atomic_path(tmp_path / "file") as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.unlink()
        temporary.write_text("put in its place by a writer")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o666  # the umask hides nothing, so the rest has to
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_folders_that_are_made_are_private_and_others_stay(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o755)
    make_folder(tmp_path / "theirs/a/b")
    assert modes(tmp_path / "theirs") == {".": 0o755, "a": 0o700, "a/b": 0o700}


def test_results_states_and_pages_are_of_the_owner_alone(tmp_path):
    out = tmp_path / "recon"
    assert run("reconstruct", planted_update(tmp_path / "update.safetensors", 3, 60, 8), "--out", out).code == 0
    assert run("report", out).code == 0
    assert run("report", out, "--out", out / "page").code == 0
    found = modes(out)
    assert {"inputs.safetensors", "result.json", "state.safetensors", "index.html", "page/index.html"} <= set(found)
    assert {name: mode for name, mode in found.items() if mode != (0o600 if "." in name[1:] else 0o700)} == {}
