"""Claims: runs that resume, split and survive failures; tables that say what the lines say."""

import argparse
import json
from pathlib import Path

import pytest

import experiments.claims
from experiments.harness import claims, common, recovery, rows, tables
from experiments.harness.recovery import Options


def counting_claim(ran, fails=()):
    """Six settings; the trial notes its seed and fails for some."""

    def trial(setting, data):
        ran.append(setting["seed"])
        if setting["seed"] in fails:
            raise ValueError("no luck")
        return None if setting["seed"] == 5 else {"square": setting["seed"] ** 2}

    settings = lambda is_quick: [{"seed": seed} for seed in range(2 if is_quick else 6)]
    findings = lambda lines: [claims.Finding("squares", "all", f"{len(claims.of(lines))} of 6", lines)]
    return claims.Claim("counting", settings, trial, findings)


def options(out, quick=False, shard=(0, 1)):
    return argparse.Namespace(out=out, quick=quick, shard=shard, data=None)


def test_a_run_that_is_called_again_runs_only_what_has_no_line(tmp_path):
    ran = []
    claims.run(counting_claim(ran), options(tmp_path, quick=True))
    assert ran == [0, 1]
    claims.run(counting_claim(ran), options(tmp_path))
    assert ran == [0, 1, 2, 3, 4, 5]
    claims.run(counting_claim(ran), options(tmp_path))
    assert ran[6:] == [5]  # it gave no line, since its data were missing


def test_shards_run_every_trial_once_and_are_read_together(tmp_path):
    ran = []
    for index in range(3):
        claims.run(counting_claim(ran), options(tmp_path, shard=(index, 3)))
    assert sorted(ran) == [0, 1, 2, 3, 4, 5]
    assert {path.name for path in (tmp_path / "lines").iterdir()} == {
        f"counting.{index}-of-3.jsonl" for index in range(3)
    }
    assert sorted(line["square"] for line in common.lines("counting", tmp_path)) == [0, 1, 4, 9, 16]


def test_a_trial_that_fails_has_a_line_and_is_tried_again(tmp_path, capfd):
    ran = []
    claims.run(counting_claim(ran, fails=(1, 3)), options(tmp_path))
    assert "no luck" in capfd.readouterr().err
    lines = common.lines("counting", tmp_path)
    assert [line["failure"] for line in lines if "failure" in line] == ["ValueError: no luck"] * 2
    assert len(claims.of(lines)) == 3
    claims.run(counting_claim(ran), options(tmp_path))
    assert ran[6:] == [1, 3, 5]
    assert len(claims.of(common.lines("counting", tmp_path))) == 5


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/4"])
def test_a_shard_that_is_none_is_refused_in_words(text):
    parser = argparse.ArgumentParser(exit_on_error=False)
    claims.add_options(parser)
    with pytest.raises(argparse.ArgumentError, match="expected i/N"):
        parser.parse_args([f"--shard={text}"])


def test_every_module_of_claims_has_rows_in_the_table():
    modules = {path.stem for path in Path(experiments.claims.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules == set(tables.CLAIMS)


@pytest.mark.parametrize("name", tables.CLAIMS)
def test_settings_are_json_with_a_seed_and_none_comes_twice(name):
    claim = tables.claim(name)
    assert claim.name == name
    for is_quick in (True, False):
        settings = claim.settings(is_quick)
        assert all("seed" in setting for setting in settings)
        texts = [json.dumps(setting, sort_keys=True) for setting in settings]
        assert len(set(texts)) == len(texts) > 0
        assert [json.loads(text) for text in texts] == settings


def test_a_setting_names_only_what_differs_and_leads_back_to_its_options():
    made = Options(batch_size=20, width=1000, raw=True)
    setting = made.setting(7)
    assert setting == {"batch_size": 20, "width": 1000, "raw": True, "seed": 7}
    row = rows.Row("twenty", made, 2)
    other = {"setting": made._replace(width=200).setting(7)}
    assert rows.lines_of(row, [{"setting": setting}, other]) == [{"setting": setting}]


def test_counts_are_those_of_the_lines():
    line = {"all_exact": True, "samples": 4, "exact": 4, "certified": 4, "false_certificates": 0, "run_seconds": 1.0}
    worse = line | {"all_exact": False, "exact": 2, "certified": 3, "false_certificates": 1, "run_seconds": 3.0}
    told = recovery.told([line, line, worse])
    assert told.startswith("2 of 3 whole; of 12 samples 10 exact, 11 certified, 1 false; 1.00 s")
    assert recovery.told([]) == "not run"


def test_the_tables_of_both_readmes_are_those_of_the_committed_lines():
    for path, text in tables.pages().items():
        assert path.read_text() == text, f"{path.name} is not current: python -m experiments.run --table"
