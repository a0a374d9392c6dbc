"""What one round of the dictionary method is given: the problem, the options, its number and its key."""

from __future__ import annotations

from typing import NamedTuple

import jax

from spear_jax.attacks.dense.dictionary.basis import Basis, make_basis, make_row_basis
from spear_jax.attacks.dense.problem import Problem
from spear_jax.attacks.dense.regime import is_skewed
from spear_jax.config import ReconstructConfig, Schedule


class Round(NamedTuple):
    """One round.

    Attributes:
        problem: of the layer, or what known samples leave of it.
        config: of the reconstruction.
        index: number of the round; schedules and row sets take turns by it.
        key: of what is random in it.
    """

    problem: Problem
    config: ReconstructConfig
    index: int
    key: jax.Array

    @property
    def is_skewed(self) -> bool:
        """Whether the inputs are far from centred, or are to be taken so."""
        return is_skewed(self.problem, self.config.dictionary.regime)

    def basis(self) -> Basis:
        """Rows and coordinates."""
        if not self.is_skewed:
            return make_basis(self.problem)
        fractions = self.config.dictionary.row_fractions
        return make_row_basis(self.problem, fractions[self.index % len(fractions)])

    def full_schedule(self) -> Schedule:
        """How the EM of a full round runs."""
        options = self.config.dictionary
        schedules = options.skewed_schedules if self.is_skewed else options.full_schedules
        return schedules[self.index % len(schedules)]

    def subspace_schedule(self) -> Schedule:
        """How the EM of a subspace round runs."""
        schedules = self.config.dictionary.subspace_schedules
        return schedules[self.index % len(schedules)]
