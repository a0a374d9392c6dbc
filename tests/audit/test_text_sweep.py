"""Defences against updates of language models: what they do to the tensors, what a trial counts, and the commands."""

import dataclasses
import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spear_jax.attacks.text.result import TextResult
from spear_jax.attacks.text.sequences import Sequence
from spear_jax.audit.text_sweep import recognisable, text_sweep
from spear_jax.cli.text_demo import _write_model
from spear_jax.client.random_model import init_adapter
from spear_jax.client.text_simulate import simulate_text_update
from spear_jax.defences import DEFENCES, Defence, by_name, gaussian_noise
from spear_jax.defences.alter import relative_change
from spear_jax.errors import SweepError, UpdateError
from spear_jax.status import Status
from spear_jax.tensor_files import write_tensors
from spear_jax.update.language_model import LanguageModel
from spear_jax.update.text_file import read_text_update, save_text_update
from spear_jax.update.text_update import TextUpdate
from tests.helpers.command_line import run
from tests.helpers.small_text import batch, model

SEQUENCES = (6, 5)
CLIENT = {"kind": "gradient", "lr": 1.0}


@pytest.fixture(scope="module")
def sent():
    """A small model with random weights."""
    architecture, params = model("llama")
    return LanguageModel(architecture=architecture, params=params)


def update_of(sent, **client):
    """What a client returns of the model, by one batch of two sequences."""
    tensors, metadata = simulate_text_update(sent.architecture, sent.params, batch(SEQUENCES), **{**CLIENT, **client})
    return TextUpdate(
        model=sent, came_back={name.partition("/")[2]: it for name, it in tensors.items()}, metadata=metadata
    )


def noise(grid, tried=None):
    """Noise with a grid of its own, that keeps the strengths it was asked for."""

    def function(update, std, key):
        if tried is not None:
            tried.append(std)
        return gaussian_noise(update, std, key)

    return Defence("noise", "relative", "", grid, function)


@pytest.mark.parametrize("name", [name for name in DEFENCES if name != "zero_bias"])
def test_a_defence_does_the_same_to_a_gradient_and_to_one_step(sent, name):
    defence = by_name(name)
    strength = defence.grid[len(defence.grid) // 2]
    found = {}
    for kind in ("gradient", "delta", "weights"):
        update = update_of(sent, kind=kind)
        defended = defence(update, strength, jax.random.key(1))
        assert isinstance(defended, TextUpdate)
        assert "defence" in defended.metadata
        assert {it.dtype for it in defended.came_back.values()} == {it.dtype for it in update.came_back.values()}
        back = update.gradients, defended.gradients
        found[kind] = {tensor: back[1][tensor] - back[0][tensor] for tensor in back[0] if tensor in back[1]}
    for kind in ("delta", "weights"):
        # Weights round in units of their own size, and what is cut or rounded off may be another entry then.
        is_near = [
            (np.abs(found[kind][tensor] - change) <= 1e-5 * np.abs(sent.params[tensor]).max()).ravel()
            for tensor, change in found["gradient"].items()
        ]
        assert np.mean(np.concatenate(is_near)) > 0.99


def test_noise_is_what_numpy_makes_of_its_draw(sent):
    update = update_of(sent)
    defended = gaussian_noise(update, 0.1, jax.random.key(2))
    for index, name in enumerate(sorted(update.came_back)):
        value = update.came_back[name].astype(np.float64)
        drawn = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(2), index), value.shape, jnp.float32))
        expected = value + 0.1 * np.sqrt(np.mean(value**2)) * drawn
        np.testing.assert_allclose(defended.came_back[name], expected, rtol=1e-4, atol=1e-9)
    assert abs(relative_change(update, defended) - 0.1) < 0.01


def test_half_precision_stays_what_it_is_and_is_seen(sent):
    stored = update_of(sent, dtype="bfloat16")
    defended = by_name("top_k")(stored, 0.9, jax.random.key(0))
    assert {it.dtype.name for it in defended.came_back.values()} == {"bfloat16"}
    assert defended.is_half == "bfloat16"
    rounded = by_name("float16")(update_of(sent), None, jax.random.key(0))
    assert {it.dtype.name for it in rounded.came_back.values()} == {"float32"}
    assert (rounded.is_half, update_of(sent).is_half) == ("float16", None)


def test_a_defended_update_is_read_again_with_the_adapters_that_were_sent(sent, tmp_path):
    adapter = init_adapter(sent.architecture, sent.params, jax.random.key(3), 4, modules=("q", "v"))
    params = dict(sent.params) | adapter
    tensors, metadata = simulate_text_update(
        sent.architecture, params, batch(SEQUENCES), trained=[name for name in adapter if name.endswith(".weight")]
    )
    tensors |= {f"global/{name}": np.asarray(it) for name, it in adapter.items()}
    write_tensors(tmp_path / "u.safetensors", tensors, metadata)
    update = read_text_update(tmp_path / "u.safetensors", sent)
    assert set(update.beside) == set(adapter)
    for name in ("d.safetensors", "d.npz"):
        save_text_update(by_name("clip")(update, 1e-3, jax.random.key(0)), tmp_path / name)
        again = read_text_update(tmp_path / name, sent)
        assert again.metadata["defence"] == "clip(norm=0.001)"
        assert set(again.came_back) == set(update.came_back)
        for tensor in adapter:
            np.testing.assert_array_equal(again.model.params[tensor], adapter[tensor])
    with pytest.raises(UpdateError, match="cannot hold bfloat16; give"):
        save_text_update(update_of(sent, dtype="bfloat16"), tmp_path / "d.npz")


def result(sequences=(), prefixes=(), tokens=()):
    """A result that shows these, none of them certified."""
    made = tuple(Sequence(np.array(one), None, 1.0, 0, 1) for one in sequences)
    return TextResult(
        sequences=made, exact=np.zeros(len(made), bool), prefixes=tuple(np.array(one) for one in prefixes),
        tokens=np.array(tokens, int), status=Status.PARTIAL, views=(), seconds={},
    )  # fmt: skip


REFERENCE = [
    Sequence(np.array([1, 2, 3, 4]), None, 1.0, 0, 2),
    Sequence(np.arange(10, 21), None, 1.0, 0, 1),
]


@pytest.mark.parametrize(
    ("shown", "count"),
    [
        ({}, 0),
        ({"sequences": [[1, 2, 3, 9]]}, 2),  # all but the last token, and it was there twice
        ({"sequences": [[1, 2, 9, 4]]}, 0),
        ({"prefixes": [[1, 2, 3]]}, 2),
        ({"prefixes": [[1, 2]]}, 0),
        ({"prefixes": [[1, 2, 3, 4, 5], np.arange(10, 20)]}, 3),
        ({"tokens": [1, 2, 3]}, 2),
        ({"tokens": [1, 2]}, 0),  # two of three
        ({"tokens": np.arange(11, 20)}, 1),  # nine of ten
        ({"tokens": np.arange(12, 20)}, 0),
        ({"tokens": [1, 2, 3, 100, 101, 102]}, 2),  # half of those named were there
        ({"tokens": [1, 2, 3, 100, 101, 102, 103]}, 0),
        ({"tokens": np.arange(400)}, 0),
    ],
)
def test_a_sequence_is_recognisable_in_order_or_by_its_tokens(shown, count):
    assert recognisable(result(**shown), REFERENCE) == count


def test_a_sweep_counts_sequences_and_goes_on_where_it_was(sent):
    update, tried = update_of(sent), []
    defences = [noise((0.0, 3.0, 10.0, 30.0), tried), DEFENCES["zero_bias"]]
    written = []
    trials = text_sweep(update, defences=defences, on_trial=lambda trials: written.append(len(trials)))
    assert (tried, written) == ([0.0, 3.0, 10.0], [1, 2, 3, 4])
    assert [trial.certified for trial in trials] == [2, 0, 0, 2]
    assert [trial.recognisable for trial in trials] == [2, 0, 0, 2]
    assert [trial.batch_size for trial in trials] == [2] * 4
    assert (trials[0].status, trials[0].relative_change) == ("EXACT", 0.0)
    assert "no tensor of the update is called bias" in trials[3].status
    assert trials[3].relative_change is None
    assert text_sweep(update, defences=defences, done=trials) == trials
    assert tried == [0.0, 3.0, 10.0]
    with pytest.raises(SweepError, match="another update or seed"):
        text_sweep(update, defences=defences, done=trials, seed=1)
    with pytest.raises(SweepError, match="another update or seed"):
        text_sweep(update_of(sent, reduction="sequences"), defences=defences, done=trials)


def test_what_cannot_be_swept_is_said_before_any_trial(sent):
    signs = {name: np.sign(it) for name, it in update_of(sent).came_back.items()}
    written = []
    with pytest.raises(UpdateError, match="signs"):
        text_sweep(dataclasses.replace(update_of(sent), came_back=signs), on_trial=written.append)
    mixed = {name: np.ones_like(it) * np.linspace(1, 2, it.size).reshape(it.shape) for name, it in signs.items()}
    with pytest.raises(UpdateError, match="certified without a defence either"):
        text_sweep(dataclasses.replace(update_of(sent), came_back=mixed), on_trial=written.append)
    assert written == []


@pytest.fixture(scope="module")
def files(sent, tmp_path_factory):
    """A folder with the model and an update of it."""
    folder = tmp_path_factory.mktemp("files")
    _write_model(folder / "model", sent.architecture, dict(sent.params))
    (folder / "model/tokenizer.json").unlink()
    save_text_update(update_of(sent), folder / "u.safetensors")
    return folder


def test_the_command_writes_an_update_that_is_audited_like_any_other(files, tmp_path):
    defend = ("defend", files / "u.safetensors", "--model", files / "model", "--defence", "gaussian_noise")
    said = run(*defend, "--strength", 5, "--out", tmp_path / "d.safetensors")
    assert said.code == 0, said.err
    assert "d.safetensors: gaussian_noise(relative=5.0), which changed the update by 5 of its norm." in said.out
    audit = ("reconstruct", tmp_path / "d.safetensors", "--model", files / "model", "--out", tmp_path / "r", "--json")
    assert run(*audit).json["certified"] == 0


def test_a_sweep_is_on_the_page_of_its_update(files, tmp_path, monkeypatch):
    module = importlib.import_module("spear_jax.audit.defended")
    defences = [dataclasses.replace(DEFENCES["gaussian_noise"], grid=(0.0, 10.0)), DEFENCES["zero_bias"]]
    monkeypatch.setattr(module, "text_sweep", functools.partial(module.text_sweep, defences=defences))
    out, given = tmp_path / "r", (files / "u.safetensors", "--model", files / "model")
    assert run("reconstruct", *given, "--out", out).code == 0
    assert run("report", out).code == 0
    before = (out / "index.html").read_text()
    assert "Not tried: spear-jax defend" in before
    assert "--model model" in before
    said = run("defend", *given, "--sweep", "--out", out)
    assert said.code == 0, said.err
    assert [line.split() for line in said.out.splitlines()[1:3]] == [
        ["gaussian_noise", "relative", "0", "10"],
        ["zero_bias", "-", "yes", "-"],
    ]
    assert "gaussian_noise(relative=0): 2 of 2 certified, 2 recognisable\n" in said.err
    assert run("report", out).code == 0
    page = (out / "index.html").read_text()
    assert "The attack would have got nothing with gaussian_noise (relative from 10); zero_bias stopped it all" in page
    assert "Of 2 sequences, without ground truth; another attack may get more." in page
    assert "zero_bias could not be applied, and hides nothing: no tensor of the update is called bias" in page
    assert "Sequences leaked</th>" in page
    trials = json.loads((out / "defences.json").read_text())
    (out / "defences.json").write_text(json.dumps([trial | {"update_sha256": "another"} for trial in trials]))
    assert run("report", out).code == 0
    assert "Not tried: spear-jax defend" in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("U", "--adapter", "M", "--defence", "int8"), "--adapter goes with a language model"),
        (("U", "--kind", "delta", "--defence", "int8"), "--kind goes with a language model"),
        (("U", "--model", "M", "--sweep", "--max-seconds", 3), "--max-seconds is of dense layers"),
        (("U", "--model", "M", "--sweep", "--defence", "int8"), "--sweep tries every defence of one update"),
        (("U", "--model", "M"), "--defence is missing"),
        (("U", "--model", "M", "--defence", "zero_bias"), "no tensor of the update is called bias"),
        (("U", "--model", "nowhere", "--defence", "int8"), "nowhere does not exist"),
        (("U", "--model", "M", "--defence", "top_k"), "top_k needs a strength"),
        (("U", "--model", "M", "--defence", "int8", "--out", "U"), "the update itself"),
    ],
)
def test_a_mistake_is_one_sentence(files, tmp_path, monkeypatch, arguments, words):
    names = {"U": files / "u.safetensors", "M": files / "model"}
    monkeypatch.chdir(tmp_path)
    said = run(
        "defend", *(names.get(argument, argument) if isinstance(argument, str) else argument for argument in arguments)
    )
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
