"""How the tests run ``spear-jax``: in this process, or as a process of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON object that stdout must be, without the NaN that JSON does not know."""
        return json.loads(self.out, parse_constant=lambda name: 1 / 0)


def run(*arguments) -> Ran:
    """Run a command in this process."""
    from spear_jax.cli import main

    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


def spawn(*arguments, devices=1, cache: Path | None = None) -> subprocess.Popen:
    """Start a command as a process of its own, on so many CPU devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    if cache is not None:
        environment |= {
            "JAX_ENABLE_COMPILATION_CACHE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    command = [sys.executable, "-m", "spear_jax", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, seconds=120) -> Ran:
    """Wait for a process; SIGKILL when it takes too long (JAX's distributed service swallows SIGTERM)."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return Ran(process.returncode, out, err)


def kill_when(process: subprocess.Popen, is_time, seconds=120) -> None:
    """SIGKILL a process as soon as a condition holds; it must not end before."""
    deadline = time.monotonic() + seconds
    while not is_time():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()


def planted_update(path: Path, batch_size: int, width: int, in_features: int = 20, *, seed: int = 0, layers=1) -> Path:
    """A bundle of planted layers, each with a batch of its own."""
    from spear_jax.testing import planted_problem
    from spear_jax.update.bundle import Update
    from spear_jax.update.bundle_file import save_update

    sent, back = {}, {}
    for index in range(layers):
        observation = planted_problem(batch_size, width, in_features, seed=seed + index).observation
        sent |= {f"dense_{index}.weight": observation.weight, f"dense_{index}.bias": observation.bias}
        back |= {f"dense_{index}.weight": observation.weight_grad, f"dense_{index}.bias": observation.bias_grad}
    save_update(Update(sent, back, {"kind": "gradient"}), path)
    return path
