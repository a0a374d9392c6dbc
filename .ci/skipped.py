"""Tests that environments skip, from pytest's JUnit reports (``-o junit_family=xunit1``).

python .ci/skipped.py files FIRST         prints the files of the tests that it skipped, for a second environment
python .ci/skipped.py both FIRST SECOND   says what both skipped, and fails where that lacks more than a machine
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

# What an environment cannot install: an accelerator, the data and models of experiments, a browser, another system.
A_MACHINE = re.compile(r"GPU|accelerator|device|SPEAR_JAX_|browser|chromium|/dev/full|Linux|core", re.IGNORECASE)

Skips = dict[tuple[str, str], str]


def skips_of(report: Path) -> Skips:
    """File and name of every test that was skipped, and why; a file that was skipped whole has no name."""
    found: Skips = {}
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None and skipped.get("type") != "pytest.xfail":
            name = case.get("name", "")
            file = case.get("file") or f"{(case.get('classname') or name).replace('.', '/')}.py"
            found[file, name] = skipped.get("message", "")
    return found


def lacking(first: Skips, second: Skips) -> Skips:
    """What both skipped although it could have been installed."""
    return {test: why for test, why in second.items() if test in first and not A_MACHINE.search(why)}


def main(command: str, *reports: str) -> int:
    """Exit code of one of the two commands."""
    first, *others = (skips_of(Path(report)) for report in reports)
    if command == "files":
        print("\n".join(sorted({file for file, _ in first})))
        return 0
    both = {test: why for test, why in others[0].items() if test in first}
    missing = lacking(first, others[0])
    print(f"{len(first)} tests skipped in the first environment, {len(both)} in both, {len(missing)} lack a package")
    for (file, name), why in sorted(missing.items()):
        print(f"  {file}::{name}: {why}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
