"""Match characteristic functions of features at random frequencies (NCFM without its adversary)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hoptm_plugin import FeatureMatcher, FeaturePair, register

LEAST = 1e-12  # of the phase's part, as released


@register("characteristic_function")
class CharacteristicFunction(FeatureMatcher):
    """Distance of empirical characteristic functions of features of length 1, at random frequencies (NCFM).

    L = scale * mean_k sqrt(a (A_Rk - A_Sk)^2 + b max(2 (A_Rk A_Sk - Re Psi_Rk conj Psi_Sk), 1e-12))

    with Psi_k = mean_n exp(i <T_k, F_n / norm(F_n)>) of the real (R) and the synthetic (S) features, A = abs(Psi), and
    frequencies T (K, D) drawn anew from N(0, 1) for every pair. At a = b = 1/2 it is
    scale * sqrt(1/2) * mean_k abs(Psi_Rk - Psi_Sk).

    Args:
        frequencies: how many, K.
        amplitude_weight: a, of amplitudes.
        phase_weight: b, of phases.
        scale: of the loss.

    Raises:
        ValueError: the method that compares features gives no generator to draw from.

    Source: NCFM (Wang et al. 2025, arXiv 2502.20653), without the network that chooses frequencies, which its released
    configurations leave out as well; docs/methods.md 18. Where both of a frequency's terms are 0, which at b = 0 equal
    amplitudes are, the gradient is 0 and not NaN.
    """

    cites = ("wang2025ncfm",)

    def __init__(
        self, frequencies: int = 4096, amplitude_weight: float = 0.5, phase_weight: float = 0.5, scale: float = 300.0
    ) -> None:
        if frequencies < 1:
            raise ValueError("frequencies must be at least 1")
        if min(amplitude_weight, phase_weight) < 0 or amplitude_weight + phase_weight == 0:
            raise ValueError("amplitude_weight and phase_weight must be at least 0, and one of them above it")
        if scale <= 0:
            raise ValueError("scale must be above 0")
        self.frequencies, self.scale = frequencies, scale
        self.amplitude_weight, self.phase_weight = amplitude_weight, phase_weight

    def loss(self, pair: FeaturePair) -> Tensor:
        """Return the loss, 0-d."""
        if pair.generator is None:
            raise ValueError("characteristic_function draws frequencies: its FeaturePair must have a generator")
        shape = self.frequencies, pair.real.shape[1]
        drawn = torch.randn(shape, generator=pair.generator, dtype=pair.real.dtype).to(pair.real.device)
        real, synthetic = _characteristic(pair.real, drawn), _characteristic(pair.synthetic, drawn)
        # a norm, whose gradient at 0 is 0
        sizes = torch.linalg.vector_norm(real, dim=0), torch.linalg.vector_norm(synthetic, dim=0)
        phases = (2 * (sizes[0] * sizes[1] - (real * synthetic).sum(dim=0))).clamp_min(LEAST).sqrt()
        weighted = (sizes[0] - sizes[1]) * math.sqrt(self.amplitude_weight), phases * math.sqrt(self.phase_weight)
        return self.scale * torch.linalg.vector_norm(torch.stack(weighted), dim=0).mean()


def _characteristic(features: Tensor, frequencies: Tensor) -> Tensor:
    """Return real and imaginary part (2, K) of the characteristic function of features (n, D) made of length 1."""
    angles = normalize(features, dim=1) @ frequencies.T
    return torch.stack([angles.cos().mean(dim=0), angles.sin().mean(dim=0)])
