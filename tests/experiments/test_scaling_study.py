"""The scaling study: its fit on costs of known exponents, and the memory of a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.claims import scaling_study
from experiments.claims.scaling_study import STAGES


def line(kind, use, b, m, n, seconds, candidates=0):
    setting = {"kind": kind, "use": use, "b": b, "m": m, "n": n, "seed": 0}
    stages = {"factorize": seconds, "search": seconds, "solve": seconds}
    return {"setting": setting, "seconds": stages, "candidates": candidates, "peak_memory_gib": 0.1 + m * n / 2**30}


def costly(size):
    b, m, n = size
    return 3e-9 * b**0.5 * m * n**1.25


def lines(factor=lambda place: 1.0):
    fitted = [("fit", size) for size in scaling_study.SIZES["dictionary"]]
    chosen = fitted + [("check", size) for size in scaling_study.CHECKS["dictionary"]]
    return [line("dictionary", use, *size, costly(size) * factor(i)) for i, (use, size) in enumerate(chosen)]


def test_the_fit_finds_the_exponents_of_an_exact_power():
    fitted = scaling_study.fit(STAGES["factorise"], lines())
    assert fitted is not None
    np.testing.assert_allclose(fitted.exponents, (0.5, 1.0, 1.25), rtol=1e-9)
    assert fitted.constant == pytest.approx(3e-9, rel=1e-6)
    assert fitted.factor == pytest.approx(1.0, abs=1e-9)
    for each in lines():
        assert scaling_study.modelled(STAGES["factorise"], fitted, each) == pytest.approx(each["seconds"]["search"])


def test_what_the_fit_leaves_over_is_told_and_checks_are_no_part_of_it():
    noisy = lines(lambda place: 2.0 if place % 2 else 0.5)
    fitted = scaling_study.fit(STAGES["factorise"], noisy)
    assert fitted is not None
    assert 1.3 < fitted.factor < 2.1
    wrong = [each | {"seconds": {name: 1e3 for name in each["seconds"]}} for each in noisy]
    moved = [w if w["setting"]["use"] == "check" else each for w, each in zip(wrong, noisy, strict=True)]
    assert scaling_study.fit(STAGES["factorise"], moved) == fitted


def test_candidates_cost_their_share():
    drawn = line("walk", "fit", 12, 400, 1024, 8.0, candidates=4)
    assert scaling_study.cost_of(STAGES["walk"], drawn) == 2.0


def test_too_few_sizes_give_no_fit():
    assert scaling_study.fit(STAGES["walk"], []) is None
    same = [line("walk", "fit", 12, 400, 1024, 1.0, 1)] * 5
    assert scaling_study.fit(STAGES["walk"], same) is None


def test_findings_and_plots_are_made_of_lines(tmp_path):
    shared = [
        {"setting": {"kind": "devices", "devices": count, "seed": 0}, "submatrices": "ab", "candidates_per_second": 1e8}
        for count in (1, 2)
    ]
    told = scaling_study.findings(lines() + shared)
    assert "b^0.50 m^1.00 n^1.25" in told[0].measured
    assert "3 others by 1.00" in told[0].measured
    assert "1 digest of 2" in told[-1].measured
    scaling_study.draw(lines() + shared, tmp_path)
    assert (tmp_path / "scaling_study.png").stat().st_size > 10_000


def test_a_quick_run_is_a_part_of_the_full_one():
    full, quick = scaling_study.settings(False), scaling_study.settings(True)
    assert all(setting in full for setting in quick)
    assert json.loads(json.dumps(full)) == full


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no /proc/self/status")
def test_memory_of_a_process_is_its_own_and_not_its_parents():
    child = (
        "from experiments.claims.scaling_study import peak_memory, resource; "
        "print(peak_memory(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {child!r}], text=True))"
    parent = f"held = b'x' * {2**30}; {run}"
    own, inherited = map(int, subprocess.check_output([sys.executable, "-c", parent], text=True).split())
    assert 2**24 < own < 2**30
    assert inherited > 2**30  # what the other way to ask would have said


@pytest.mark.slow
def test_a_trial_runs_in_a_process_of_its_own():
    # With 64 rows a mixture of two columns may be as sparse as one, and rounding decides which is taken.
    setting = {"kind": "flat", "use": "fit", "b": 4, "m": 160, "n": 48, "seed": 0}
    outcome = scaling_study.trial(setting, None)
    assert outcome["candidates"] == scaling_study.ROUND["flat"]
    assert outcome["status"] == "EXACT"
    assert outcome["devices"] == 1
    assert all(seconds >= 0 for seconds in outcome["seconds"].values())
    with pytest.raises(RuntimeError, match="ended with"):
        scaling_study.trial(setting | {"kind": "walk", "m": 8}, None)
