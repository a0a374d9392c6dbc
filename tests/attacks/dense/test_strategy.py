"""What a search starts with and what takes over, decided without a search."""

import pytest

from spear_jax.attacks.dense import by_zeros
from spear_jax.attacks.dense.outcome import initial_state
from spear_jax.attacks.dense.problem import pose
from spear_jax.config import ReconstructConfig
from spear_jax.factorization import factorize
from spear_jax.testing import planted_problem


@pytest.mark.parametrize(
    ("rank", "method", "resumed", "is_long"),
    [
        (4, "dictionary", None, True),
        (4, "dictionary", "dictionary", True),
        (4, "dictionary", "sampling", False),  # its budget is for what is left, and not drawn twice
        (3, "dictionary", None, False),
        (4, "sampling", None, False),
    ],
)
def test_first_finds_are_taken_out_early_in_long_searches_by_the_dictionary_method(
    monkeypatch, rank, method, resumed, is_long
):
    monkeypatch.setattr(by_zeros, "EARLY_RANK", 4)
    config = ReconstructConfig(method=method)
    observation = planted_problem(rank, 60, 40).observation
    problem = pose(observation, factorize(observation.weight_grad))
    state = None if resumed is None else initial_state(rank, config)._replace(method=resumed)
    assert by_zeros._is_long(problem, by_zeros.plan_by_zeros(problem, config), state) == is_long
