"""How the attack is written: short argument lists, one place that says exact, nothing computed twice."""

import ast
from pathlib import Path

import jax

from tests.helpers.networks import simulate

ATTACKS = Path(__file__).parents[1] / "spear_jax/attacks"
MAX_PARAMETERS = 5


def functions():
    """Every function of the attacks, with its file."""
    for path in sorted(ATTACKS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path.relative_to(ATTACKS).as_posix(), node


def test_argument_lists_are_short():
    """Of the public `reconstruct` three may be given by place."""
    long = {}
    for file, node in functions():
        parts = node.args
        names = [arg.arg for arg in (*parts.posonlyargs, *parts.args, *parts.kwonlyargs) if arg.arg != "self"]
        if len(names) > MAX_PARAMETERS:
            long[f"{file}:{node.name}"] = len(parts.posonlyargs) + len(parts.args)
    assert long == {"dense/pipeline.py:reconstruct": 3}


def test_reconstruct_hides_no_state_in_closures():
    (node,) = [node for file, node in functions() if (file, node.name) == ("dense/pipeline.py", "reconstruct")]
    assert not [part for part in ast.walk(node) if isinstance(part, ast.Lambda | ast.FunctionDef) and part is not node]
    assert not [part for part in ast.walk(node) if isinstance(part, ast.Name) and part.id == "partial"]


def test_only_the_certificates_say_exact():
    """What hands a verdict on to the user reads it, and sets nothing."""
    said = {}
    for path in sorted(ATTACKS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("exact", "approximate"):
                said.setdefault(path.relative_to(ATTACKS).as_posix(), []).append(ast.unparse(node.value))
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        made = {node.func.id for node in calls if isinstance(node.func, ast.Name)} & {"Verdict", "Certificate"}
        home = {"dense/certificates/verdict.py": {"Verdict"}, "dense/result.py": {"Certificate"}}
        assert made == home.get(path.relative_to(ATTACKS).as_posix(), set())
    elsewhere = {file: values for file, values in said.items() if "/certificate" not in file}
    handed_on = {"dense/result.py": ["verdict.exact", "verdict.approximate"], "text/pipeline.py": ["vouched.exact"]}
    assert elsewhere == handed_on
    assert len(said) > 3  # the search sees what the certificates set


def test_a_reconstruction_is_planned_once_and_its_next_layer_factorised_once(monkeypatch):
    """Where samples are taken out one by one, over a pass at least."""
    from spear_jax.attacks.dense import above, by_zeros, one_by_one
    from spear_jax.attacks.dense.pipeline import reconstruct
    from spear_jax.config import DictionaryConfig, ReconstructConfig

    calls = []
    for module, name in ((by_zeros, "plan_search"), (above, "factorize"), (one_by_one, "_pass")):
        original = getattr(module, name)
        counted = lambda *args, name=name, original=original, **kwargs: calls.append(name) or original(*args, **kwargs)
        monkeypatch.setattr(module, name, counted)
    batch = simulate(32, 120, seed=1)
    config = ReconstructConfig(method="dictionary", num_devices=1, dictionary=DictionaryConfig(max_rounds=1, starts=4))
    reconstruct(batch.observation, jax.random.key(0), config, next_weight_grad=batch.next_weight_grad)
    assert calls.count("plan_search") == 1
    assert calls.count("_pass") >= 1
    assert calls.count("factorize") == 1
