"""Where the time of a search goes: work read off programs by hand-made text, stages off a trace that is planted."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# fmt: off
PROGRAM = """HloModule jit_f, is_scheduled=true

%body (param: f32[3,4]) -> f32[3,5] {
  %param = f32[3,4]{1,0} parameter(0)
  %constant = f32[4,5]{1,0} constant({...})
  ROOT %dot.1 = f32[3,5]{1,0} dot(%param, %constant), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[3,4], i: s32[2,1], y: f64[2,7,6], z: f64[2,6,9]) -> (f32[3,5], f32[2,4]) {
  %x = f32[3,4]{1,0} parameter(0)
  %i = s32[2,1]{1,0} parameter(1)
  %y = f64[2,7,6]{2,1,0} parameter(2)
  %z = f64[2,6,9]{2,1,0} parameter(3)
  %fusion.2 = f32[3,5]{1,0} fusion(%x), kind=kOutput, calls=%body
  %gather = f32[2,4]{1,0} gather(%x, %i), offset_dims={1}
  %gemm = (f64[2,7,9]{2,1,0}, s8[0]{0}) custom-call(%y, %z), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"]}}}
  %copy-of = pred[8]{0} compare(%x, %x), direction=EQ
  ROOT %tuple = (f32[3,5], f32[2,4]) tuple(%fusion.2, %gather)
}
"""  # noqa: E501
# fmt: on


def test_work_is_counted_as_by_hand():
    from spear_jax.bench.programs import Work, work_of

    work = dict(work_of(PROGRAM))
    assert work["fusion.2"] == Work(2 * 3 * 4 * 5, 4 * (12 + 15))
    assert work["gather"] == Work(0, 4 * 8)  # what it reads is a part of what it is given
    assert work["gemm"] == Work(2 * 2 * 7 * 6 * 9, 8 * 2 * (42 + 54 + 63))
    assert work["copy-of"] == Work(0, 8 + 2 * 48)
    assert "tuple" not in work
    assert "x" not in work


def test_stages_of_a_trace_are_what_was_planted():
    from spear_jax.bench.trace import REST, traced
    from spear_jax.stages import stage

    product = jax.jit(lambda a: jax.lax.fori_loop(0, 3, lambda _, x: x @ a, a))
    array = jnp.asarray(np.eye(256), jnp.float32)
    product(array).block_until_ready()

    @stage("planted inner")
    def inner():
        np.asarray(product(array))

    @stage("planted outer")
    def outer():
        time.sleep(0.05)
        inner()
        inner()

    shares = {share.stage: share for share in traced(outer)}
    assert set(shares) == {"planted outer", "planted inner", REST}
    assert shares["planted inner"].calls == 2
    assert shares["planted inner"].flops == 2 * 3 * 2 * 256**3
    assert 0 < shares["planted inner"].device <= shares["planted inner"].seconds
    assert shares["planted outer"].seconds >= 0.05
    assert shares["planted outer"].device == 0
    assert shares["planted outer"].flops == 0


@pytest.fixture
def _small(monkeypatch):
    from spear_jax.bench import problems

    monkeypatch.setitem(problems.PROBLEMS, "small", problems.Problem(4, 64, 8))
    monkeypatch.setitem(problems.PROBLEMS, "small-text", problems.TextProblem(2, 96))


@pytest.mark.usefixtures("_small")
def test_search_is_timed_from_the_command_line(tmp_path):
    from typer.testing import CliRunner

    from spear_jax.cli import build_app

    out, plot = tmp_path / "search.json", tmp_path / "search.png"
    command = ["bench", "search", "small", "--repeats", "1", "--out", str(out), "--plot", str(plot)]
    told = CliRunner().invoke(build_app(), command, catch_exceptions=False)
    assert told.exit_code == 0
    assert "small: 4 of 4 certified" in told.output
    (search,) = json.loads(out.read_text())["searches"]
    seconds = sum(stage["seconds"] for stage in search["stages"])
    assert "factorize" in {stage["stage"] for stage in search["stages"]}
    assert all(np.isclose(stage["seconds"], stage["device"] + stage["host"]) for stage in search["stages"])
    assert seconds > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_small")
def test_a_language_model_is_timed_too():
    from spear_jax.bench.search import bench_search

    timing = bench_search("small-text", repeats=1)
    assert timing.certified == timing.batch_size == 2
    assert {"text: tokens", "text: prefixes", "text: certificate"} <= {share.stage for share in timing.shares}


def test_problem_without_a_name_is_told():
    from spear_jax.bench.search import bench_search
    from spear_jax.errors import SpearError

    with pytest.raises(SpearError, match="no problem 'none'; there are 64@1000, "):
        bench_search("none")
