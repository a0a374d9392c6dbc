"""What two environments skip: the files for the second, and what neither ran for want of a package."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / ".ci/skipped.py"
REPORT = "<testsuites><testsuite>{}</testsuite></testsuites>"
CASE = '<testcase classname="tests.a" file="tests/a.py" name="{}">{}</testcase>'
SKIP = '<skipped type="pytest.skip" message="{}"/>'


@pytest.fixture(scope="module")
def skipped():
    spec = importlib.util.spec_from_file_location("skipped", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(path, **reasons):
    cases = (CASE.format(name, SKIP.format(why) if why else "") for name, why in reasons.items())
    path.write_text(REPORT.format("".join(cases)))
    return path


@pytest.mark.parametrize(
    ("why", "code"), [("could not import 'torch'", 1), ("needs a GPU", 0), ("SPEAR_JAX_DATA is not set", 0), ("", 0)]
)
def test_what_neither_ran_for_want_of_a_package_fails(skipped, tmp_path, capsys, why, code):
    first = report(tmp_path / "1.xml", one="could not import 'torch'", two="", three="needs a GPU")
    second = report(tmp_path / "2.xml", one=why, two="could not import 'rdkit'", three="needs a GPU")
    assert skipped.main("both", str(first), str(second)) == code
    assert capsys.readouterr().out.startswith(
        f"2 tests skipped in the first environment, {1 + bool(why)} in both, {code}"
    )


def test_the_files_of_what_was_skipped(skipped, tmp_path, capsys):
    first = report(tmp_path / "1.xml", one="could not import 'torch'", two="needs a GPU")
    assert skipped.main("files", str(first)) == 0
    assert capsys.readouterr().out == "tests/a.py\n"
