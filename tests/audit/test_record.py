"""The folder of a reconstruction: arrays without time or machine in them, and one valid JSON record."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import spear_jax as sj
from spear_jax import ReconstructConfig, reconstruct
from spear_jax.audit import record
from spear_jax.audit.one import Options, Source, audit_one
from spear_jax.errors import RecordError
from spear_jax.normalization import Normalization
from spear_jax.testing import planted_problem
from spear_jax.update.bundle import Update

CONFIG = ReconstructConfig(num_devices=1, num_examples=2)


def update_of(observation, **metadata):
    sent = {"fc1.weight": observation.weight, "fc1.bias": observation.bias}
    back = {"fc1.weight": observation.weight_grad, "fc1.bias": observation.bias_grad}
    return Update(sent, back, {"kind": "gradient"} | metadata)


@pytest.fixture(scope="module")
def solved():
    observation = planted_problem(2, 60, 12).observation
    return update_of(observation), reconstruct(observation, jax.random.key(0), CONFIG)


def described(solved, update=None):
    update = update or solved[0]
    return record.make_record(solved[1], record.Audited(update, update.layer(), "u.npz", CONFIG, 0))


def strict(text):
    return json.loads(text, parse_constant=lambda name: 1 / 0)


def test_a_folder_comes_back_as_it_was_written(solved, tmp_path):
    content = described(solved)
    record.write_reconstruction(tmp_path, solved[1], content)
    found = record.read_reconstruction(tmp_path)
    np.testing.assert_array_equal(found.inputs, solved[1].inputs)
    np.testing.assert_array_equal(found.directions, solved[1].directions)
    np.testing.assert_array_equal(found.exact, solved[1].certificate.exact)
    np.testing.assert_array_equal(found.matching, solved[1].certificate.matching)
    np.testing.assert_array_equal(found.approximate, solved[1].certificate.approximate)
    np.testing.assert_array_equal(found.error, solved[1].certificate.error)
    assert found.record == json.loads(json.dumps(content))
    assert (found.normalization, found.image_shape) == (None, None)


def test_the_record_says_what_a_reader_needs(solved):
    content = described(solved)
    content = strict(json.dumps(content))
    assert (content["status"], content["certified"], content["batch_size"]) == ("EXACT", 2, 2)
    assert set(content["stats"]["seconds"]) == {"factorize", "compile", "search", "solve"}
    assert content["config"]["num_examples"] == 2
    assert {"jax", "numpy", "spear-jax", "backend"} <= set(content["versions"])


def test_errors_are_summed_up_where_they_hold_and_are_finite(solved):
    update, result = solved
    certificate = dataclasses.replace(
        result.certificate,
        exact=np.array([True, False, False, True, False]),
        approximate=np.array([False, True, True, False, False]),
        error=np.array([1e-7, 0.5, 0.01, np.inf, 7.0]),
    )
    content = described((update, dataclasses.replace(result, certificate=certificate)))
    assert (content["certified"], content["approximate"]) == (2, 2)
    assert (content["certificate"]["error_median"], content["certificate"]["error_max"]) == (0.01, 0.5)
    nothing = dataclasses.replace(certificate, exact=np.zeros(5, bool), approximate=np.zeros(5, bool))
    content = described((update, dataclasses.replace(result, certificate=nothing)))
    assert (content["certificate"]["error_median"], content["certificate"]["error_max"]) == (None, None)


def test_a_folder_from_before_there_were_errors_still_loads_and_makes_a_page(solved, tmp_path):
    from spear_jax.tensor_files import read_tensors, write_tensors
    from tests.helpers.command_line import run

    content = described(solved)
    for name in ("approximate", "observed"):
        del content[name]
    for name in ("error_median", "error_max"):
        del content["certificate"][name]
    record.write_reconstruction(tmp_path, solved[1], content)
    tensors, metadata = read_tensors(tmp_path / record.INPUTS)
    del tensors["approximate"], tensors["error"]
    write_tensors(tmp_path / record.INPUTS, tensors, metadata)
    found = record.read_reconstruction(tmp_path)
    assert found.exact.all()
    assert not found.approximate.any()
    assert np.isinf(found.error).all()
    assert found.labels is None
    assert run("report", tmp_path).code == 0
    assert "expected error 0" not in (tmp_path / "index.html").read_text()


@pytest.mark.slow
def test_copies_are_counted_where_the_client_reported_more_samples_than_the_gradient_shows(tmp_path):
    from tests.helpers.command_line import run

    rng, model = np.random.default_rng(0), sj.MLP((60, 40), 6, param_dtype="float64")
    inputs, labels = rng.normal(size=(6, 20)), rng.integers(5, size=6)
    inputs[5], labels[5] = inputs[0], labels[0] + 1
    batch = sj.Batch(inputs, labels, None, tuple("abcdef"), None, None, num_classes=6)
    params = sj.init_params(model, jax.random.key(0), 20)
    update, _ = sj.simulate_update(model, params, batch, dtype="float64")
    assert record_of(update, 5, tmp_path)["copies"] is None
    content = record_of(update, 6, tmp_path)
    assert sorted(content["copies"]) == [1, 1, 1, 1, 2]
    sj.save_update(update, tmp_path / "u.safetensors")
    done = run("reconstruct", tmp_path / "u.safetensors", "--out", tmp_path / "out")
    sentence = "6 of 6 reported samples accounted for, 1 inputs more than once"
    assert sentence in done.out
    assert run("report", tmp_path / "out").code == 0
    assert sentence in (tmp_path / "out" / "index.html").read_text()


def record_of(update, num_examples, folder):
    options = Options(ReconstructConfig(num_devices=1, num_examples=num_examples), fresh=True)
    return audit_one(Source(update, folder / "u.npz"), folder / f"recon-{num_examples}", options)


def test_the_record_says_what_the_client_sent(solved):
    update = dataclasses.replace(solved[0], metadata={"kind": "gradient", "lr": "0.5", "defence": "int8"})
    sent = {"kind": "gradient", "dtype": "float64", "local_steps": 1, "lr": 0.5, "defence": "int8"}
    assert described(solved, update)["observed"] == sent


def test_pixels_belong_to_the_first_layer(solved):
    normalization = Normalization.parse("mnist")
    update = update_of(
        planted_problem(2, 60, 12).observation, image_shape="[3, 4, 1]", normalization=normalization.to_json()
    )
    content = described(solved, update)
    found = record.Reconstruction(*[np.zeros(0)] * 7, record=content)
    assert found.image_shape == (3, 4, 1)
    assert found.normalization == normalization


def test_equal_searches_give_equal_bytes_whatever_the_clock_says(solved, tmp_path):
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        content = described(solved) | {"seconds": seconds}
        record.write_reconstruction(tmp_path / name, solved[1], content)
    first, second = ((tmp_path / name / record.INPUTS).read_bytes() for name in "ab")
    assert first == second
    assert (tmp_path / "a/result.json").read_bytes() != (tmp_path / "b/result.json").read_bytes()


def test_a_search_that_found_nothing_makes_valid_json(tmp_path):
    observation = planted_problem(8, 8, 20).observation
    result = reconstruct(observation, jax.random.key(0), CONFIG)
    update = update_of(observation)
    content = record.make_record(result, record.Audited(update, update.layer(), "u.npz", CONFIG, 0))
    assert content["status"] == "RANK_FULL"
    assert content["certificate"]["weight_residual"] is None
    record.write_reconstruction(tmp_path, result, content)
    assert strict((tmp_path / "result.json").read_text()) == json.loads(json.dumps(content))
    assert np.isnan(record.read_reconstruction(tmp_path).inputs).all()


@pytest.mark.parametrize("missing", [record.RECORD, record.INPUTS])
def test_half_a_folder_is_no_reconstruction(solved, tmp_path, missing):
    record.write_reconstruction(tmp_path, solved[1], described(solved))
    (tmp_path / missing).unlink()
    with pytest.raises(RecordError, match=f"no finished reconstruction .no {missing}."):
        record.read_reconstruction(tmp_path)


def test_numbers_that_json_lacks_become_null():
    assert record.finite({"a": {"b": float("inf"), "c": float("nan")}, "d": 1.5}) == {
        "a": {"b": None, "c": None},
        "d": 1.5,
    }


def test_a_new_reconstruction_leaves_no_report_of_the_old_one(tmp_path):
    from tests.helpers.command_line import planted_update, run

    update = planted_update(tmp_path / "u.safetensors", 3, 100, seed=1)
    out = tmp_path / "recon"
    assert run("reconstruct", update, "--out", out).code == 0
    assert run("report", out).code == 0
    assert (out / "index.html").exists()
    assert run("reconstruct", update, "--out", out, "--seed", 1).code == 0
    assert not (out / "index.html").exists()
