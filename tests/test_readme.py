"""The README's Python example runs as printed."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_python_example_runs_and_recovers_every_pixel(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    scope: dict = {}
    exec(compile(example, str(README), "exec"), scope)
    assert scope["scores"].pixel_exact.all()
    assert "6 of 6 samples certified" in capsys.readouterr().out
