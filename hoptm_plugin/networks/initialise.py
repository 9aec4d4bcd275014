"""Fresh networks, initialised by their own constructors from an explicit generator; torch's global one is put back."""

from __future__ import annotations

import torch
from torch import nn

from hoptm_plugin.core.errors import ConfigurationError, PluginError, first_line
from hoptm_plugin.core.interfaces import NetworkBuilder


def create(
    builder: NetworkBuilder,
    image_shape: tuple[int, int, int],
    num_classes: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Build a network of any modules, and let what their constructors draw come from ``generator``.

    Constructors draw from torch's global generator. For the time of the building that one is in ``generator``'s state,
    which goes on from where they leave it, so that the next network is another one.

    Args:
        builder: the architecture.
        image_shape: (C, H, W).
        num_classes: how many there are, K.
        generator: on the CPU; the network is built there, so that its parameters do not depend on ``device``.
        device: where the network is put.

    Raises:
        ConfigurationError: the architecture does not fit the images.
        PluginError: what was built is no module, or has parameters that are not to be trained.
    """
    name = type(builder).__name__
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.set_rng_state(generator.get_state())
        try:
            module = builder.build(image_shape, num_classes)
        except (AssertionError, ValueError) as error:  # how constructors refuse sizes
            size = "x".join(map(str, image_shape))
            raise ConfigurationError(
                f"network {name}: cannot be built for {size} images and {num_classes} classes: {first_line(error)}"
            ) from error
        generator.set_state(torch.get_rng_state())
    if not isinstance(module, nn.Module):
        raise PluginError(f"network {name}: build() must return a torch.nn.Module, and returned {module!r:.80}")
    if frozen := [key for key, parameter in module.named_parameters() if not parameter.requires_grad]:
        raise PluginError(
            f"network {name}: its parameter {frozen[0]} is frozen, but here all parameters are trained; "
            f"what is constant is a buffer: register_buffer"
        )
    return module.to(device)
