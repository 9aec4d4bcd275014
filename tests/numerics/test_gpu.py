"""What runs on the CPU runs on a GPU, to the same numbers; skipped where there is none."""

import pytest
import torch

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.trajectory import StudentStep, unroll

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def gradients(device, strategy, compiled=False):
    """Return loss and gradients of images and step size of a small unroll with DSA, in float64."""
    seeds, sizes = Seeds(0), [4] * 6
    module = create(
        ConvNet(depth=2, width=8), (3, 16, 16), 5, seeds.generator("network"), torch.device(device)
    ).double()
    network = FlatNetwork(module)
    images = torch.randn(24, 3, 16, 16, generator=seeds.generator("images"), dtype=torch.float64)
    images = images.to(device).requires_grad_()
    labels = torch.randint(0, 5, (24,), generator=seeds.generator("labels")).to(device)
    step_size = torch.tensor(0.05, dtype=torch.float64, device=device, requires_grad=True)
    dsa, generator = DSA(), seeds.generator("augmentation")
    draws = [dsa.draw(size, (3, 16, 16), generator) for size in sizes]
    augmented = dsa.apply_many(images, draws, sizes)
    path = unroll(StudentStep(network, compiled), network.flatten(), augmented, labels, sizes, step_size, strategy)
    loss = (path[-1] - path[0]).square().sum() + path[3].square().sum()
    return [loss.detach().cpu(), *(part.cpu() for part in torch.autograd.grad(loss, [images, step_size]))]


@pytest.mark.parametrize(("strategy", "compiled"), [("full", False), ("adjoint", False), ("adjoint", True)])
def test_cuda_gives_the_cpu_s_gradients(strategy, compiled):
    """The compiled step is a CUDA graph, whose results the next step overwrites."""
    for ours, expected in zip(gradients("cuda", strategy, compiled), gradients("cpu", "full"), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_same_bits_again_from_cuda_graphs():
    for ours, again in zip(gradients("cuda", "adjoint", True), gradients("cuda", "adjoint", True), strict=True):
        assert torch.equal(ours, again)
