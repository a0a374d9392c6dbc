"""Sweeps over defences: which strengths are tried, what a stopped sweep repeats, and what the trials say."""

import dataclasses
import json

import jax
import pytest

import spear_jax as sj
from spear_jax.audit.sweep import sweep
from spear_jax.defences import DEFENCES, Defence, gaussian_noise
from spear_jax.defences.trials import Trial, bounds, read_trials, write_trials
from spear_jax.errors import SweepError, UpdateError

BATCH = 2


@pytest.fixture(scope="module")
def update():
    """The gradient of two small photos."""
    batch = sj.demo_batch(batch_size=BATCH, image_size=8)
    model = sj.MLP((40,), batch.num_classes, param_dtype="float64")
    params = sj.init_params(model, jax.random.key(0), batch.inputs.shape[1])
    return sj.simulate_update(model, params, batch)[0]


def noise(grid, tried=None):
    """Noise with a grid of its own, that keeps the strengths it was asked for."""

    def function(update, std, key):
        if tried is not None:
            tried.append(std)
        return gaussian_noise(update, std, key)

    return Defence("noise", "relative", "", grid, function)


def plain(strength, leaked=0, approximate=0, defence="d", parameter="p"):
    return Trial(defence, parameter, strength, leaked, approximate, None, 3)


@pytest.mark.slow
def test_a_grid_ends_after_two_strengths_that_left_nothing(update):
    tried = []
    trials = sweep(update, defences=[noise((0.0, 1.0, 2.0, 3.0, 4.0), tried)])
    assert tried == [0.0, 1.0, 2.0]
    assert [trial.certified for trial in trials] == [BATCH, 0, 0]
    assert [trial.recognisable for trial in trials] == [BATCH, 0, 0]
    assert all(trial.batch_size == BATCH for trial in trials)
    assert [trial.relative_change > 0.5 for trial in trials] == [False, True, True]
    assert trials[0].status == "EXACT"


def test_withheld_bias_gradients_hide_nothing_where_the_next_layer_came_back(update):
    (trial,) = sweep(update, defences=[DEFENCES["zero_bias"]])
    assert (trial.leaked, trial.status) == (BATCH, "EXACT")


def test_lost_equations_of_another_activation_are_a_trial_and_not_a_fault():
    batch = sj.demo_batch(batch_size=BATCH, image_size=8)
    model = sj.MLP((40, 40), batch.num_classes, activation="gelu", param_dtype="float64")
    params = sj.init_params(model, jax.random.key(0), batch.inputs.shape[1])
    update, _ = sj.simulate_update(model, params, batch)

    def withhold_next(update, strength, key):
        came_back = {name: 0 * it if "dense_1" in name else it for name, it in update.client_tensors.items()}
        return dataclasses.replace(update, client_tensors=came_back)

    (trial,) = sweep(update, defences=[Defence("withhold", "strength", "", (1.0,), withhold_next)])
    assert (trial.leaked, trial.status[:26]) == (0, "The span method (for gelu)")


def test_a_sweep_that_was_stopped_goes_on_where_it_was(update, tmp_path):
    path, grid = tmp_path / "defences.json", (0.0, 1e-6, 1e-5)  # searches behind so little noise are short

    def stop_after_one(trials):
        write_trials(path, trials)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(update, defences=[noise(grid)], on_trial=stop_after_one)
    done = read_trials(path)
    assert [trial.strength for trial in done] == [0.0]
    tried, written = [], []
    resumed = sweep(
        update, defences=[noise(grid, tried)], done=done, on_trial=lambda trials: written.append(len(trials))
    )
    assert (tried, written) == ([1e-6, 1e-5], [2, 3])
    assert resumed == sweep(update, defences=[noise(grid)])
    write_trials(path, resumed)
    assert sweep(update, defences=[noise(grid, tried)], done=read_trials(path)) == resumed
    assert tried == [1e-6, 1e-5]


@pytest.mark.parametrize("other", [{"seed": 1}, {"max_seconds": 3.0}, {"metadata": {"kind": "gradient"}}])
def test_trials_of_something_else_are_not_gone_on_with(update, other):
    done = sweep(update, defences=[noise((0.0,))])
    update = dataclasses.replace(update, metadata=other.pop("metadata", update.metadata))
    with pytest.raises(SweepError, match="another update, seed or --max-seconds"):
        sweep(update, defences=[noise((0.0,))], done=done, **other)


def test_an_update_that_cannot_be_read_is_refused_before_any_trial(update):
    frozen = dataclasses.replace(update, client_tensors={name: 0 * it for name, it in update.client_tensors.items()})
    with pytest.raises(UpdateError, match="weight_grad is zero"):
        sweep(frozen, defences=[noise((0.0,))])
    with pytest.raises(ValueError, match="max_seconds"):
        sweep(update, max_seconds=0.0, defences=[noise((0.0,))])


@pytest.mark.parametrize(
    ("grid", "leaks_all", "stops_all", "is_falling"),
    [
        ([plain(1.0, 3), plain(2.0, 1, 2), plain(3.0, 2), plain(4.0), plain(5.0)], (True, 2.0), (True, 4.0), False),
        ([plain(1.0), plain(2.0, 1), plain(3.0)], (False, None), (True, 3.0), False),
        ([plain(1.0, 3), plain(0.5, 3)], (True, 0.5), (False, None), True),
        ([plain(None)], (False, None), (True, None), False),
        ([plain(None, 3)], (True, None), (False, None), False),
    ],
)
def test_a_verdict_names_the_last_strength_that_leaked_all_and_the_first_that_stopped_all(
    grid, leaks_all, stops_all, is_falling
):
    assert bounds([*grid, plain(1.0, 3, defence="other")])[0] == ("d", "p", leaks_all, stops_all, is_falling)


def test_every_trial_has_the_keys_that_a_reader_expects(tmp_path):
    write_trials(tmp_path / "t.json", [plain(1.0, 1, 1)])
    (entry,) = json.loads((tmp_path / "t.json").read_text())
    keys = ("defence", "parameter", "strength", "certified", "approximate", "recognisable", "batch_size")
    assert [entry[key] for key in keys] == ["d", "p", 1.0, 1, 1, None, 3]
    (tmp_path / "t.json").write_text(json.dumps([{key: entry[key] for key in keys}]))
    assert read_trials(tmp_path / "t.json") == [plain(1.0, 1, 1)]
    assert read_trials(tmp_path / "gone.json") == []


@pytest.mark.parametrize("text", ["{", "{}x", "[1]", '[{"defence": "a"}]', "3", "[]x"])
def test_a_damaged_file_of_trials_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(SweepError, match="t.json holds no trials of a sweep"):
        read_trials(tmp_path / "t.json")
