"""DiscreteMeasure: what a distributional adversary returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class DiscreteMeasure:
    """A discrete law whose atoms are moved samples; a sample's mass may split over several atoms.

    Args:
        atoms: points, shape (m, *features), in the dtype they are stored in.
        weights: masses, shape (m,), float64, >= 0, summing to one.
        sources: index of the sample each atom's mass comes from, shape (m,). The atom keeps that sample's label.

    >>> x = torch.zeros(2, 3)
    >>> DiscreteMeasure.empirical(x).weights.tolist()
    [0.5, 0.5]
    """

    atoms: Float[Tensor, "m *features"]
    weights: Float[Tensor, " m"]
    sources: Int[Tensor, " m"]

    def __post_init__(self) -> None:
        m = len(self.atoms)
        if self.weights.shape != (m,) or self.sources.shape != (m,):
            raise InputError(
                f"a measure of {m} atoms needs weights and sources of shape ({m},), "
                f"got {tuple(self.weights.shape)} and {tuple(self.sources.shape)}"
            )
        if self.weights.dtype != torch.float64:
            raise InputError(f"weights must be float64, got {self.weights.dtype}")

    @classmethod
    def empirical(cls, x: Float[Tensor, "n *features"], weights: Tensor | None = None) -> DiscreteMeasure:
        """The law of the samples themselves, nothing moved."""
        return cls.moved(x, weights)

    @classmethod
    def moved(cls, z: Float[Tensor, "n *features"], weights: Tensor | None = None) -> DiscreteMeasure:
        """One atom a sample, at z."""
        mass = torch.full((len(z),), 1 / len(z), dtype=torch.float64) if weights is None else weights.to(torch.float64)
        return cls(atoms=z.detach(), weights=mass.to(z.device), sources=torch.arange(len(z), device=z.device))

    @classmethod
    def mixture(
        cls, x: Float[Tensor, "n *features"], z: Float[Tensor, "n *features"], fractions: Tensor, weights: Tensor
    ) -> DiscreteMeasure:
        """Mass w_i (1 - fraction_i) at x_i (the sample, or a first atom of its) and w_i fraction_i at z_i.

        Empty atoms are left out. With the fractions of a knapsack allocation there are at most n + 1 atoms.
        """
        fractions, weights = fractions.to(x.device), weights.to(x.device)
        stay, move = (fractions < 1).nonzero().squeeze(1), (fractions > 0).nonzero().squeeze(1)
        return cls(
            atoms=torch.cat((x[stay], z[move])).detach(),
            weights=torch.cat((weights[stay] * (1 - fractions[stay]), weights[move] * fractions[move])),
            sources=torch.cat((stay, move)),
        )

    def __len__(self) -> int:
        return len(self.atoms)
