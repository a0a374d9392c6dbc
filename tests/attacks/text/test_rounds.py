"""Several rounds of one client under adapters: tokens that one of them cannot tell, and rounds that do not belong."""

import dataclasses

import jax
import numpy as np
import pytest

from spear_jax.attacks.text.pipeline import reconstruct
from spear_jax.client.random_model import init_adapter
from spear_jax.client.text_simulate import simulate_text_update
from spear_jax.errors import SpearError
from spear_jax.language.linear import LORA_A, LORA_B
from spear_jax.status import Status
from spear_jax.tensor_files import write_tensors
from tests.helpers.command_line import run
from tests.helpers.small_text import batch, counted, model, observed, recovered

RANK, ROWS = 16, 32  # of queries and values: queries alone are blind to where a sequence begins


def trained(adapter):
    return [name for name in adapter if name.endswith((LORA_A, LORA_B))]


def rounds(base, batches, rank=RANK, modules=("q", "v"), seed=40):
    """What the server sees of rounds in which the adapters were others each time."""
    architecture, params = base
    seen = []
    for number, private in enumerate(batches):
        key = jax.random.key(seed + number)
        adapter = init_adapter(architecture, params, key, rank, modules=modules, alpha=float(rank))
        seen.append(observed(architecture, params | adapter, private, trained=trained(adapter)))
    return seen


def tokens_of(*batches):
    return {int(token) for private in batches for sequence in private.sequences for token in sequence[:-1]}


@pytest.fixture(scope="module")
def base():
    """One block: its first input is all that counts here."""
    return model("llama", seed=31, layers=1)


@pytest.fixture(scope="module")
def private(base):
    """More distinct tokens than one round can tell, fewer than two can."""
    made, width = batch([12] * 7, seed=32), base[0].width
    count = len(tokens_of(made))
    assert width + ROWS <= 2 * count < min(width + 2 * ROWS, 2 * width)
    return made


def test_rounds_together_tell_what_one_cannot(base, private):
    seen = rounds(base, [private] * 3)
    assert not reconstruct(seen[0]).tokens_exact
    for count in (2, 3):
        result = reconstruct(seen[0], also=seen[1:count])
        assert set(result.tokens.tolist()) == tokens_of(private)
        assert result.tokens_exact
        assert (result.rounds, result.status) == (count, Status.TOKENS_ONLY)
        assert result.views[0].rows == count * ROWS


def test_rounds_of_other_batches_give_the_tokens_of_all(base):
    batches = batch([9, 8], seed=33), batch([4], seed=34)
    # One round shows fewer directions than it has tokens, and both together have rows to spare.
    seen = [*rounds(base, batches[:1], rank=4), *rounds(base, batches[1:], rank=16, seed=50)]
    result = reconstruct(seen[0], also=seen[1:])
    assert set(result.tokens.tolist()) == tokens_of(*batches)
    assert result.tokens_exact
    assert result.views[0].rank < result.views[0].rows


def test_rounds_of_another_base_are_refused_or_never_certified(base, private):
    seen = rounds(base, [private])
    for seed in range(60, 63):
        (other,) = rounds(model("llama", seed=seed, layers=1), [private])
        with pytest.raises(SpearError, match="round 2 was of another model: model.embed_tokens.weight differs"):
            reconstruct(seen[0], also=[other])
        told = dataclasses.replace(other, params=seen[0].params)
        assert not reconstruct(seen[0], also=[told]).tokens_exact


def test_what_cannot_be_stacked_is_one_sentence(base, private):
    architecture, params = base
    (seen,) = rounds(base, [private])
    whole = observed(architecture, params, private)
    with pytest.raises(SpearError, match=r"round 2 trained model\.embed_tokens"):
        reconstruct(seen, also=[whole])
    with pytest.raises(SpearError, match=r"round 1 trained model\.embed_tokens"):
        reconstruct(whole, also=[seen])
    (output,) = rounds(base, [private], modules=("o",))
    with pytest.raises(SpearError, match="round 2 has no gradient of the first block's queries"):
        reconstruct(seen, also=[output])
    (deeper,) = rounds(model("llama", seed=31, layers=2), [batch([5])])
    with pytest.raises(SpearError, match="round 2 is of another architecture"):
        reconstruct(seen, also=[deeper])


@pytest.mark.slow
def test_sequences_and_their_certificate_are_of_the_first_round():
    base = model("llama", seed=21)
    first, second = batch([9, 8, 7], seed=22), batch([6, 5], seed=23)
    seen = rounds(base, [first, second], rank=16)
    result = reconstruct(seen[0], also=seen[1:])
    assert result.status is Status.EXACT
    assert recovered(result) == counted(first)
    assert set(result.tokens.tolist()) == tokens_of(first, second)
    assert result.tokens_exact


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and bundles of two rounds with the adapters that were sent in each."""
    from spear_jax.cli.text_demo import _write_model

    folder = tmp_path_factory.mktemp("rounds")
    architecture, params = model("llama", seed=31)
    _write_model(folder / "model", architecture, params)
    (folder / "model/tokenizer.json").unlink()
    for number, kind in enumerate(("gradient", "gradient", "weights")):
        adapter = init_adapter(architecture, params, jax.random.key(number), 4, modules=("q", "v"))
        private = batch([6, 5], seed=number)
        tensors, metadata = simulate_text_update(
            architecture, params | adapter, private, kind=kind, lr=1.0, trained=trained(adapter)
        )
        beside = {f"global/{name}": np.asarray(tensor) for name, tensor in adapter.items()}
        write_tensors(folder / f"{number}.safetensors", tensors | beside, metadata)
    whole, metadata = simulate_text_update(architecture, params, batch([6, 5]), kind="weights", lr=1.0)
    write_tensors(folder / "whole.safetensors", whole, metadata)
    return folder


def test_the_command_stacks_rounds_and_says_whose_tokens_they_are(files, tmp_path):
    call = ("reconstruct", files / "0.safetensors", "--model", files / "model", "--out", tmp_path)
    also = ("--also", files / "1.safetensors", "--also", files / "2.safetensors")
    said = run(*call, *also)
    assert said.code == 0, said.err
    union = tokens_of(*(batch([6, 5], seed=number) for number in range(3)))
    assert f"{len(union)} distinct tokens of 3 rounds together, certified." in said.out
    record = run(*call, *also, "--resume", "--json").json
    assert set(record["tokens"]["ids"]) == union
    assert record["tokens"]["rounds"] == len(record["also"]) + 1 == 3
    assert run("report", tmp_path).code == 0
    page = (tmp_path / "index.html").read_text()
    assert "They are of 3 rounds of one client together" in page
    assert f"--also {files / '1.safetensors'} --also" in page
    alone = run(*call, "--resume", "--json").json
    assert (alone["tokens"]["rounds"], alone["also"]) == (1, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("U", "--also", "U"), "--also goes with a language model"),
        (("U", "--model", "M", "--also", "nowhere.npz"), "nowhere.npz does not exist"),
        (("U", "--model", "M", "--also", "W"), "what was sent in its round is not in it"),
        (("F", "--model", "M", "--also", "U"), "is a folder of updates, and --also goes with one"),
    ],
)
def test_a_mistake_is_one_sentence(files, tmp_path, monkeypatch, arguments, words):
    names = {
        "U": files / "0.safetensors", "M": files / "model", "W": files / "whole.safetensors", "F": files,
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = run("reconstruct", *(names.get(argument, argument) for argument in arguments))
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
