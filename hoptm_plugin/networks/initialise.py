"""Fresh networks whose parameters come from an explicit generator; the global generators are left alone."""

from __future__ import annotations

import torch
from torch import nn

from hoptm_plugin.core.errors import PluginError
from hoptm_plugin.core.interfaces import NetworkBuilder

_UNIFORM = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CONSTANT = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def create(
    builder: NetworkBuilder,
    image_shape: tuple[int, int, int],
    num_classes: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Build a network with PyTorch's default initialisation drawn from ``generator``.

    The module is built without memory (meta device) and then filled, so that nothing is drawn from a global generator.

    Args:
        builder: the architecture.
        image_shape: (C, H, W).
        num_classes: how many there are, K.
        generator: on the CPU; the parameters are drawn there, so that they do not depend on ``device``.
        device: where the network is put.

    Raises:
        ConfigurationError: the architecture does not fit the images.
        PluginError: a layer whose initialisation is not known here.
    """
    with torch.device("meta"):
        module = builder.build(image_shape, num_classes)
    module.to_empty(device="cpu")
    initialise(module, generator)
    return module.to(device)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Overwrite all parameters and running statistics with PyTorch's defaults.

    Weights and biases of convolutions and linear layers ~ U(-b, b) with b = 1 / sqrt(fan_in); norm weights 1, biases 0,
    running statistics reset.

    Raises:
        PluginError: a layer of another kind holds parameters or buffers.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _UNIFORM):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters(recurse=False):
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, _CONSTANT):
            layer.reset_parameters()
        elif held := [key for key, _ in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))]:
            raise PluginError(
                f"network {type(module).__name__}: no initialisation is known for {', '.join(held)} of layer "
                f"{name or '(the network itself)'} ({type(layer).__name__}); "
                f"build it from {', '.join(kind.__name__ for kind in (*_UNIFORM, *_CONSTANT))}"
            )


def has_buffers(module: nn.Module) -> bool:
    """Return whether a module keeps state beside its parameters, such as BatchNorm's running statistics."""
    return next(module.buffers(), None) is not None
