"""The import contracts of pyproject.toml hold, and each refuses what it forbids."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Contract: a module of the package, and an import that may not stand there.
FORBIDDEN = {
    "floors": ("update/bundle.py", "spear_jax.audit.record"),
    "threat model: an attack sees the observation and nothing else": (
        "attacks/dense/problem.py",
        "spear_jax.update.bundle",
    ),
    "threat model: nothing between an update and its record knows the private side": (
        "audit/record.py",
        "spear_jax.client.truth",
    ),
    "the ground floor knows no room": ("numerics.py", "spear_jax.attacks.dense.regime"),
    "inside the dense attack": (
        "attacks/dense/directions/pool.py",
        "spear_jax.attacks.dense.certificates.pattern",
    ),
    "private: the family itself, the audit and the public face": (
        "report/values.py",
        "spear_jax.attacks.dense.outcome",
    ),
    "families never import one another": ("attacks/text/views.py", "spear_jax.attacks.dense.regime"),
}


def lint(folder: Path) -> tuple[int, str]:
    """Exit code and words of the import linter on a copy of the package."""
    pytest.importorskip("importlinter", reason="import-linter is not installed; it comes with the extra 'test'.")
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ran = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture
def copy(tmp_path):
    """The package and its contracts in a folder of their own."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "spear_jax", tmp_path / "spear_jax", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_contracts_hold(copy):
    code, said = lint(copy)
    assert code == 0, said
    assert f"Contracts: {len(FORBIDDEN)} kept, 0 broken" in said


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_import_is_refused(copy, name):
    module, imported = FORBIDDEN[name]
    path = copy / "spear_jax" / module
    path.write_text(f"{path.read_text()}\nimport {imported}\n")
    code, said = lint(copy)
    assert code == 1
    assert f"{name} BROKEN" in said
