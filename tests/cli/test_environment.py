"""Where the machine is at fault, a sentence says so: backends, locales, switches of JAX, disks, memory, packages."""

import errno
import os
import re
import subprocess
import sys

import jax
import pytest

from spear_jax import tensor_files
from spear_jax.errors import SpearError, explain, is_of_user
from tests.helpers.command_line import Ran, planted_update, run

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ONE = ("--num-devices", 1, "--max-candidates", 2**17)


def outside(folder, *arguments, **variables):
    """Run a command as a process of its own with these variables of the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "spear_jax", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment | variables, capture_output=True, check=False)
    return Ran(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_backend_that_is_not_there_is_no_fault_of_ours(tmp_path, platform):
    if platform == "cuda" and jax.default_backend() != "cpu":
        pytest.skip("this machine has an accelerator")
    planted_update(tmp_path / "u.npz", 2, 40)
    said = outside(tmp_path, "inspect", "u.npz", JAX_PLATFORMS=platform)
    assert said.code == 2
    assert f"error: JAX cannot use the backend that JAX_PLATFORMS={platform} asks for" in said.err
    assert "unset JAX_PLATFORMS" in said.err
    assert "fault of spear-jax" not in said.err


def test_a_c_locale_and_a_path_beyond_ascii_go_together(tmp_path):
    planted_update(tmp_path / "ü.npz", 2, 40)
    assert outside(tmp_path, "inspect", "ü.npz", **C_LOCALE).code == 0
    said = outside(tmp_path, "reconstruct", "ü.npz", "--out", "größe", *ONE, **C_LOCALE)
    assert "2 of 2 directions" in said.out, said.err
    said = outside(tmp_path, "report", "größe", **C_LOCALE)
    assert said.code == 0, said.err
    assert "ü.npz" in (tmp_path / "größe/index.html").read_text(encoding="utf-8")
    gone = outside(tmp_path, "inspect", "gönn.npz", **C_LOCALE)
    assert (gone.code, "does not exist" in gone.err) == (2, True)


def test_a_c_locale_and_a_folder_of_updates_beyond_ascii_go_together(tmp_path):
    (tmp_path / "in").mkdir()
    planted_update(tmp_path / "in/ü.npz", 2, 40)
    assert "fault" not in outside(tmp_path, "reconstruct", "in", "--out", "out", *ONE, **C_LOCALE).out
    said = outside(tmp_path, "report", "out", **C_LOCALE)
    assert said.code == 0, said.err
    assert '<a href="%C3%BC/index.html">ü</a>' in (tmp_path / "out/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["sampling", "dictionary"])
def test_disable_jit_does_not_stop_a_search(tmp_path, method):
    planted_update(tmp_path / "u.npz", 2, 40)
    said = outside(tmp_path, "reconstruct", "u.npz", "--out", "r", "--method", method, *ONE, JAX_DISABLE_JIT="1")
    assert "2 of 2 directions" in said.out, said.err


def failing_write(target, number):
    """A write beside the target that fails so; of a full disk the system does not name the file."""
    with tensor_files.atomic_path(target) as temporary:
        named = (os.fspath(temporary),) if number != errno.ENOSPC else ()
        raise OSError(number, os.strerror(number), *named)


def test_a_full_disk_and_a_closed_folder_name_the_file_that_was_asked_for(tmp_path):
    target = tmp_path / "result.json"
    for number in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        with pytest.raises(OSError, match="result") as caught:
            failing_write(target, number)
        assert explain(caught.value) == f"{target} cannot be used: {os.strerror(number).lower()}; give another path."
        assert os.listdir(tmp_path) == []


def test_stdout_that_is_full_is_a_sentence(tmp_path):
    planted_update(tmp_path / "u.npz", 2, 40)
    if not os.path.exists("/dev/full"):
        pytest.skip("this machine has no /dev/full")
    command = f"{sys.executable} -m spear_jax inspect u.npz > /dev/full"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: the output cannot be written: no space left on device" in done.stderr


EXPLAINED = {
    "memory": (MemoryError("Unable to allocate 9 TiB"), True, "too little memory for this .Unable to allocate 9 TiB"),
    "memory of a device": (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), True, "too little memory"),
    "a package": (ModuleNotFoundError("No module named 'x'", name="x"), True, "lacks a package"),
    "a module of ours": (ModuleNotFoundError("No module named 'spear_jax.x'", name="spear_jax.x"), False, "a fault of"),
    "a mistake of ours": (RuntimeError("boom"), False, "a fault of spear-jax itself"),
    "a sentence": (SpearError("said already."), True, "^said already.$"),
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_machine_and_library_are_told_apart(case):

    error, of_user, sentence = EXPLAINED[case]
    assert is_of_user(error) is of_user
    assert re.search(sentence, explain(error))


def test_memory_that_runs_out_exits_two_and_a_fault_of_ours_one(tmp_path, monkeypatch):
    from spear_jax.audit import exposure

    update = planted_update(tmp_path / "u.npz", 2, 40)
    for error, code in ((MemoryError(), 2), (RuntimeError("boom"), 1)):

        def broken(*_, error=error, **__):
            raise error

        monkeypatch.setattr(exposure, "factorize", broken)
        assert run("inspect", update).code == code


def test_compiled_programs_are_kept_for_the_next_run_unless_told_otherwise(tmp_path):
    planted_update(tmp_path / "u.npz", 2, 40)
    kept = {"XDG_CACHE_HOME": str(tmp_path / "kept"), "JAX_ENABLE_COMPILATION_CACHE": "1"}
    first = outside(tmp_path, "reconstruct", "u.npz", "--out", "first", *ONE, **kept)
    assert first.code == 3, first.err
    programs = sorted((tmp_path / "kept/spear-jax").rglob("*-cache"))
    assert programs
    again = outside(tmp_path, "reconstruct", "u.npz", "--out", "again", *ONE, **kept)
    assert again == first._replace(out=again.out)
    assert sorted((tmp_path / "kept/spear-jax").rglob("*-cache")) == programs
    without = kept | {"XDG_CACHE_HOME": str(tmp_path / "none")}
    assert outside(tmp_path, "--no-cache", "inspect", "u.npz", **without).code == 0
    assert not (tmp_path / "none").exists()
    nowhere = kept | {"XDG_CACHE_HOME": os.devnull}
    assert outside(tmp_path, "inspect", "u.npz", **nowhere).code == 0
