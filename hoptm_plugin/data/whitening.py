"""ZCA whitening of whole splits, through Kornia."""

from __future__ import annotations

import torch
from torch import Tensor

from hoptm_plugin.core.errors import ConfigurationError, DataError
from hoptm_plugin.data.memory import require

MAX_FEATURES = 16_384  # a (D, D) float32 matrix of 1 GiB, and minutes to hours for its decomposition
BLOCK = 4096  # images whitened at a time
MATRICES = 6  # (D, D) matrices alive while fitting: covariance, U, V, T, its inverse, workspace


def whiten(splits: dict[str, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """Whiten all splits in place by the fit of ``splits["train"]``; return how to undo it.

    With D = C H W, mean mu and covariance U diag(s) U^T (n - 1) of the train images:
    T = U diag((s + eps)^-1/2) U^T, inverse U diag((s + eps)^1/2) U^T, whitened = (x - mu) T.

    Args:
        splits: float32 pixels in [0, 1], (n, C, H, W), by split.
        eps: added to the eigenvalues; 0.1 in MTT's released code.

    Returns:
        (mu (D,), inverse (D, D)).

    Raises:
        ConfigurationError: D is too large to decompose.
        DataError: fewer than two train images, or too little memory.

    Source: ``kornia.enhance.ZCAWhitening(eps, compute_inv=True)``, as MTT's released code uses it; docs/methods.md 1.3.
    """
    from kornia.enhance import ZCAWhitening  # slow to import

    train = splits["train"]
    if len(train) < 2:
        raise DataError("ZCA whitening needs at least two training images")
    features = train[0].numel()
    # Kornia holds a centred copy of the train images, and their transpose for the product.
    require(4 * (2 * train.numel() + MATRICES * features**2), train.device, "ZCA whitening's matrices")
    zca = ZCAWhitening(dim=0, eps=eps, compute_inv=True).fit(train)
    for images in splits.values():
        for block in images.split(BLOCK):
            block.copy_(zca(block))
    return zca.mean_vector.flatten(), zca.transform_inv


def check_features(shape: tuple[int, ...]) -> None:
    """Refuse images (C, H, W) with too many values for whitening.

    Raises:
        ConfigurationError: with the number and the remedy.
    """
    features = int(torch.Size(shape).numel())
    if features > MAX_FEATURES:
        raise ConfigurationError(
            f"dataset.preprocess.zca: ZCA whitening of {'x'.join(map(str, shape))} images would decompose a "
            f"{features}x{features} matrix; at most {MAX_FEATURES} values per image are feasible: set "
            f"dataset.preprocess.zca=false or lower dataset.preprocess.image_size"
        )
