"""What methods need of a network, looked at in one training step of it before any work."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from hoptm_plugin.core.errors import ConfigurationError, first_line
from hoptm_plugin.networks.layers import HasFeatures, features, no_features
from hoptm_plugin.runtime.memory import exhausted
from hoptm_plugin.runtime.randomness import generator_states, seeded

Need: TypeAlias = Literal["no_randomness", "no_state", "features"]


def network_problems(network: nn.Module, images: Tensor, *needs: Need, classes: int | None = None) -> list[str]:
    """Return why a network cannot be trained on, or cannot be used for what ``needs`` more of it; one line each.

    No list of layers decides: the network computes ``images`` once in training mode, and what it does besides is seen.

    Args:
        network: a fresh one; where it keeps running statistics, they change.
        images: (B, C, H, W); two will do.
        needs: "no_randomness": no step draws random numbers (dropout, stochastic depth), or none could be repeated;
            "no_state": no step changes buffers (BatchNorm's running statistics), which trajectories do not hold;
            "features": it is a :class:`hoptm_plugin.networks.HasFeatures`.
        classes: how many logits it must give; None leaves that open.
    """
    name = f"network {type(network).__name__}"
    before = {key: buffer.clone() for key, buffer in network.named_buffers()}
    with seeded(0, images.device), torch.no_grad():
        try:
            logits, drawing = _training_step(network.train(), images)
        except (RuntimeError, ValueError, AssertionError) as error:
            if exhausted(error):
                raise
            size = "x".join(map(str, images.shape[1:]))
            return [f"{name}: fails on {size} images: {first_line(error)}"]
        changed = [key for key, buffer in network.named_buffers() if not torch.equal(buffer, before[key])]
        expected = (len(images), logits.shape[-1] if classes is None else classes)
        if logits.shape != expected:
            return [f"{name}: returns {tuple(logits.shape)} where logits {expected} are due, one per image and class"]
        found = []
        if "no_randomness" in needs and drawing:
            found.append(
                f"{name}: {drawing} draws random numbers in every training step, so that none can be repeated, which "
                f"this method needs; set its rate to 0, or only evaluate on this network: networks=[...]"
            )
        if "no_state" in needs and changed:
            found.append(
                f"{name}: keeps running statistics ({changed[0]}), as BatchNorm does, which are no "
                f"parameters: nothing matches them, and no expert's trajectory holds them; use network.norm=instance, "
                f"or GroupNorm or LayerNorm in a network of your own"
            )
        if "features" in needs and not drawing and not _are_in_a_row(network, images, logits):
            found += no_features(network).problems
    return found


def _training_step(network: nn.Module, images: Tensor) -> tuple[Tensor, str]:
    """Return logits, and the innermost layer that drew random numbers on the way, as "name (Class)", or ""."""
    entered: dict[nn.Module, tuple[object, ...]] = {}
    drew: list[nn.Module] = []

    def enter(layer: nn.Module, _: object) -> None:
        entered[layer] = generator_states(images.device)

    def leave(layer: nn.Module, *_: object) -> None:
        if not drew and generator_states(images.device) != entered[layer]:  # inner layers are left first
            drew.append(layer)

    layers = {layer: name or "it" for name, layer in network.named_modules()}
    hooks = [hook for layer in layers for hook in (layer.register_forward_pre_hook(enter),
                                                   layer.register_forward_hook(leave))]  # fmt: skip
    try:
        logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, f"{layers[drew[0]]} ({type(drew[0]).__name__})" if drew else ""


def _are_in_a_row(network: nn.Module, images: Tensor, logits: Tensor) -> bool:
    """Tell whether features and classifier give the network's logits."""
    try:
        compared = features(network, images)
        found = cast(HasFeatures, network).classifier(compared)
    except (ConfigurationError, RuntimeError):
        return False
    return found.shape == logits.shape and torch.allclose(found, logits, rtol=1e-3, atol=1e-4)
