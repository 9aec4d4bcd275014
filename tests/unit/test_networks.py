from __future__ import annotations

import random
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.ops import StochasticDepth

from hoptm_plugin.core.errors import ConfigurationError, PluginError
from hoptm_plugin.core.interfaces import NetworkBuilder, networks
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.networks import (
    VGG11,
    AlexNet,
    ConvNet,
    FlatNetwork,
    ResNet18,
    ResNet18AP,
    create,
    network_problems,
)
from hoptm_plugin.networks.layers import AvgPool2d, GroupNorm

SEEDS = Seeds(0)


def make(builder, image_shape=(3, 32, 32), num_classes=9, seed=0):
    return create(builder, image_shape, num_classes, SEEDS.generator("network", seed))


def on_meta(builder, image_shape, num_classes=9):
    with torch.device("meta"):
        return builder.build(image_shape, num_classes)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("builder", "image_shape", "classes", "expected"),
    [
        (ConvNet(), (3, 32, 32), 9, 317_961),
        (ConvNet(), (3, 32, 32), 10, 320_010),
        (ConvNet(), (3, 32, 32), 100, 504_420),
        (ConvNet(depth=4), (3, 64, 64), 200, 857_160),
        (ConvNet(depth=5), (3, 112, 112), 4, 599_812),
        (AlexNet(), (3, 32, 32), 9, 1_869_129),
        (VGG11(), (3, 32, 32), 9, 9_230_601),
        (ResNet18(), (3, 32, 32), 9, 11_173_449),
        (ResNet18AP(), (3, 32, 32), 9, 11_242_569),
        (VGG11(norm="batch"), (3, 32, 32), 9, 9_230_601),
        (ResNet18(norm="batch"), (3, 32, 32), 9, 11_173_449),
        # a quarter of the channels, worked out by hand
        (AlexNet(width_factor=0.25), (3, 32, 32), 9, 123_993),
        (VGG11(width_factor=0.25), (3, 32, 32), 9, 579_657),
        (ResNet18(width_factor=0.25), (3, 32, 32), 9, 701_337),
        (ResNet18AP(width_factor=0.25), (3, 32, 32), 9, 701_337 + 15 * 128 * 9),
    ],
)
def test_parameter_counts_are_the_published_ones(builder, image_shape, classes, expected):
    module = on_meta(builder, image_shape, classes)
    assert count(module) == expected
    adaptive = [layer for layer in module.modules() if isinstance(layer, nn.AdaptiveAvgPool2d)]
    assert len(adaptive) == isinstance(builder, ResNet18)  # whose 4x4 average pool it is; the others need none


@pytest.mark.parametrize(
    ("builder", "image_shape", "features"),
    [
        (ConvNet(), (1, 28, 28), 128 * 16),  # padding 3: 28 counts as 32
        (ConvNet(), (1, 32, 32), 128 * 16),
        (ConvNet(), (3, 28, 28), 128 * 9),
        (ConvNet(depth=5), (3, 112, 112), 128 * 9),
        (ConvNet(), (3, 24, 56), 128 * 3 * 7),
        (ConvNet(pool="none", width=4), (3, 8, 9), 4 * 72),
        (AlexNet(), (1, 28, 28), 192 * 16),
        (AlexNet(), (3, 112, 112), 192 * 16),
        (AlexNet(), (3, 16, 40), 192 * 8),
        (VGG11(), (1, 28, 28), 512),
        (VGG11(), (3, 112, 96), 512),
        (ResNet18(), (3, 112, 112), 512),
        (ResNet18(), (1, 28, 28), 512),
        (ResNet18AP(), (3, 112, 80), 512 * 16),
        (ResNet18AP(), (1, 28, 28), 512 * 9),
    ],
)
def test_any_size_gives_a_head_that_fits(builder, image_shape, features):
    module = on_meta(builder, image_shape)
    images = torch.empty(2, *image_shape, device="meta")
    assert module.features(images).shape == (2, features)
    assert module.classifier.in_features == features
    assert module(images).shape == (2, 9)


def test_larger_images_are_pooled_to_the_published_head():
    for builder in (AlexNet(), VGG11(), ResNet18(), ResNet18AP()):
        assert count(on_meta(builder, (3, 112, 112))) == count(on_meta(builder, (3, 32, 32)))


@pytest.mark.parametrize("pool", ["none", "max", "avg"])
@pytest.mark.parametrize("act", ["sigmoid", "relu", "leaky_relu"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
def test_convnet_variants_compute_what_they_are_made_of(norm, act, pool):
    module = make(ConvNet(depth=2, width=8, norm=norm, act=act, pool=pool), (3, 12, 8), 3)
    images = torch.randn(4, 3, 12, 8, generator=SEEDS.generator("images"))
    with torch.no_grad():
        maps = images
        for convolution in (layer for layer in module.modules() if isinstance(layer, nn.Conv2d)):
            maps = nn.functional.conv2d(maps, convolution.weight, convolution.bias, padding=1)
            if norm != "none":
                dims = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}.get(norm)
                grouped = maps.view(4, 4, -1) if norm == "group" else maps
                mean = grouped.mean(dims or 2, keepdim=True)
                variance = grouped.var(dims or 2, keepdim=True, unbiased=False)
                maps = ((grouped - mean) / (variance + 1e-5).sqrt()).view_as(maps)
            maps = {
                "sigmoid": maps.sigmoid(),
                "relu": maps.clamp_min(0),
                "leaky_relu": torch.where(maps > 0, maps, 0.01 * maps),
            }[act]
            windows = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
            maps = {"none": maps, "max": windows.amax((3, 5)), "avg": windows.mean((3, 5))}[pool]
        expected = maps.flatten(1) @ module.classifier.weight.T + module.classifier.bias
    torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-5)
    assert not any(getattr(layer, "inplace", False) for layer in module.modules())


@pytest.mark.parametrize(
    ("depth", "image_shape", "usual"),
    [(3, (3, 32, 32), None), (3, (1, 28, 28), None), (4, (3, 64, 64), None), (5, (3, 112, 112), None),
     (5, (3, 32, 32), 3), (5, (1, 28, 28), 3), (4, (3, 28, 28), 2), (3, (3, 8, 8), 1), (1, (3, 3, 3), None)],
)  # fmt: skip
def test_a_depth_that_leaves_one_pixel_is_remarked_on(depth, image_shape, usual):
    found = ConvNet(depth, 4).remarks(image_shape)
    assert len(found) == (usual is not None)
    assert all(line.endswith(f"usual at this size is network.depth={usual}") for line in found)
    assert ConvNet(depth, 4, pool="none").remarks(image_shape) == []


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 7, 10), (3, 1, 5, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_average_pooling_is_pytorch_s(shape, layout):
    """Value, gradient, and what a student's step needs: the gradient of a gradient, and networks side by side."""
    images = torch.rand(shape, dtype=torch.float64).contiguous(memory_format=layout)
    ours, theirs = AvgPool2d(), nn.AvgPool2d(2)
    for found, expected in zip(*([pool(images), *_twice(pool, images)] for pool in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
    stacked = torch.stack([images, 2 * images])
    torch.testing.assert_close(torch.func.vmap(ours)(stacked)[1], 2 * theirs(images), rtol=1e-14, atol=1e-15)


def _twice(pool, images):
    """Return the gradient of the sum of pooled cubes, and the gradient of its squares."""
    at = images.clone().requires_grad_()
    (first,) = torch.autograd.grad(pool(at).pow(3).sum(), at, create_graph=True)
    return first, *torch.autograd.grad(first.square().sum(), at)


def test_resnet_ap_pools_where_resnet_strides():
    plain, pooled = on_meta(ResNet18(), (3, 32, 32)), on_meta(ResNet18AP(), (3, 32, 32))
    strides = [m.stride[0] for m in plain.modules() if isinstance(m, nn.Conv2d)]
    assert strides.count(2) == 6  # first convolution and shortcut of three stages
    assert all(m.stride == (1, 1) for m in pooled.modules() if isinstance(m, nn.Conv2d))
    shortcut = [type(m) for m in pooled.features[5].shortcut]
    assert shortcut == [nn.Conv2d, nn.AvgPool2d, GroupNorm]
    assert [type(m) for m in pooled.features[5].residual] == [
        *(nn.Conv2d, GroupNorm, nn.ReLU, nn.AvgPool2d),
        *(nn.Conv2d, GroupNorm),
    ]


@pytest.mark.parametrize(
    ("builder", "image_shape", "words"),
    [
        (ConvNet(depth=5), (3, 16, 16), ["convnet", "3x16x16", "block 5", "network.depth=4 or less"]),
        (ConvNet(), (3, 32, 7), ["3x32x7", "network.depth=2 or less"]),
        (ConvNet(), (3, 1, 8), ["3x1x8", "use larger images"]),
        (ConvNet(pool="none"), (3, 1, 1), ["instance norm", "1x1"]),
        (AlexNet(), (3, 7, 32), ["alexnet", "divide them by 8", "convnet"]),
        (VGG11(), (3, 16, 16), ["vgg11", "divide them by 32"]),
        (ResNet18(), (3, 8, 8), ["resnet18", "1x1"]),
        (ResNet18AP(), (3, 7, 7), ["resnet18_ap", "divide them by 8"]),
    ],
)
def test_too_small_images_are_refused_with_the_remedy(builder, image_shape, words):
    with pytest.raises(ConfigurationError) as caught:
        make(builder, image_shape)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "convnet", "depth": 0}, "network: depth and width must be at least 1"),
        ({"name": "convnet", "norm": "group", "width": 6}, "width must be a multiple of 4 with norm=group, got 6"),
        ({"name": "convnet", "norm": "instancenorm"}, "network.norm: Input should be"),
        ({"name": "resnet18", "norm": "layer"}, "network.norm: Input should be"),
        ({"name": "alexnet", "norm": "batch"}, "network.norm: unknown setting"),
        ({"name": "vgg11", "width_factor": 0}, "network: width_factor must be above 0, and is 0"),
    ],
)
def test_wrong_settings_are_named(spec, message):
    with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
        networks.build(spec, "network")


@pytest.mark.parametrize(
    ("name", "image_shape", "parameters"),
    [
        ("convnet", (3, 32, 32), 317_961),
        ("convnet_d4", (3, 64, 64), 857_160 - 191 * 2049),
        ("convnet_d5", (3, 112, 112), 599_812 + 5 * 1153),
        ("alexnet", (3, 32, 32), 1_869_129),
        ("vgg11", (3, 32, 32), 9_230_601),
        ("resnet18", (3, 32, 32), 11_173_449),
        ("resnet18_ap", (3, 32, 32), 11_242_569),
    ],
)
def test_yaml_builds_the_network_it_names(name, image_shape, parameters):
    spec = yaml.safe_load((files("hoptm_plugin.conf") / "network" / f"{name}.yaml").read_text())
    assert count(on_meta(networks.build(spec, "network"), image_shape)) == parameters


# --- initialisation -------------------------------------------------------------------------------------------------


def test_create_leaves_the_global_generator_alone_and_repeats_itself():
    before = torch.get_rng_state()
    first, second, other = make(ConvNet()), make(ConvNet()), make(ConvNet(), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    vectors = [nn.utils.parameters_to_vector(module.parameters()) for module in (first, second, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in first.parameters())


@pytest.mark.gpu
def test_create_gives_the_same_parameters_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    state = torch.cuda.get_rng_state()
    there = create(ConvNet(), (3, 32, 32), 9, SEEDS.generator("network", 0), "cuda")
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for expected, found in zip(make(ConvNet()).parameters(), there.parameters(), strict=True):
        assert found.device.type == "cuda"
        assert torch.equal(expected, found.cpu())


def test_initialisation_is_torchs_default():
    """Bounds and spread per layer, against the formula and against what torch itself draws."""
    ours = make(ConvNet(norm="batch"), num_classes=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = ConvNet(norm="batch").build((3, 32, 32), 10)
    for (name, found), reference in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        layer = ours.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(found, reference)
            continue
        bound = layer.weight[0].numel() ** -0.5
        assert float(found.detach().abs().max()) <= bound
        assert float(reference.detach().abs().max()) <= bound
        tolerance = 4 * bound / found.numel() ** 0.5
        assert abs(float(found.detach().mean())) < tolerance
        if found.numel() > 1000:
            assert float(found.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.03)
            assert float(found.detach().std()) == pytest.approx(float(reference.detach().std()), rel=0.05)
            assert float(found.detach().abs().max()) > 0.99 * bound
    running = {name: buffer for name, buffer in ours.named_buffers() if "running" in name}
    assert running
    assert all(torch.equal(buffer, dict(theirs.named_buffers())[name]) for name, buffer in running.items())


@torch.no_grad()
@pytest.mark.parametrize(
    ("builder", "image_shape"),
    [
        (ConvNet(), (3, 32, 32)),
        (ConvNet(depth=2, width=32, norm="group"), (1, 28, 28)),
        (ConvNet(norm="batch"), (3, 32, 32)),
        (AlexNet(), (3, 32, 32)),
        (VGG11(width_factor=0.25), (3, 32, 32)),
        (ResNet18(width_factor=0.25), (3, 32, 32)),  # convolutions without a bias
        (ResNet18AP(width_factor=0.25), (3, 32, 32)),
    ],
)
def test_the_bits_are_explicit_uniform_draws_layer_by_layer(builder, image_shape):
    """U(-b, b) with b = 1 / sqrt(fan_in), weight before bias: cards and experts made so are to be made so again."""
    module, generator, drawn = make(builder, image_shape), SEEDS.generator("network", 0), 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                expected = torch.empty_like(parameter).uniform_(-bound, bound, generator=generator)
                assert torch.equal(parameter, expected)
                drawn += 1
    assert drawn >= 3


def test_a_second_network_of_the_same_generator_is_another_one():
    generator = SEEDS.generator("network", 0)
    first, second = (create(ConvNet(width=4), (3, 8, 8), 3, generator) for _ in range(2))
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def builder_of(make_module):
    return type("Mine", (NetworkBuilder,), {"build": lambda self, image_shape, num_classes: make_module()})()


def test_what_cannot_be_trained_is_refused_and_the_global_generator_put_back():
    def frozen():
        module = nn.Linear(2, 2)
        module.weight.requires_grad_(False)
        return module

    def indivisible():
        torch.rand(3)
        raise AssertionError("image size indivisible by patch size")

    before = torch.get_rng_state()
    with pytest.raises(PluginError, match=r"network Mine: its parameter weight is frozen.*register_buffer"):
        make(builder_of(frozen))
    with pytest.raises(PluginError, match=r"network Mine: build\(\) must return a torch\.nn\.Module"):
        make(builder_of(dict))
    with pytest.raises(ConfigurationError, match="for 3x32x32 images and 9 classes: image size indivisible by patch"):
        make(builder_of(indivisible))
    assert torch.equal(torch.get_rng_state(), before)


# --- what methods need ----------------------------------------------------------------------------------------------


IMAGES = torch.randn(2, 3, 8, 8, generator=SEEDS.generator("images"))


class Functional(nn.Module):
    """Random in ways that no list of layers knows."""

    def __init__(self, noise):
        super().__init__()
        self.linear, self.noise = nn.Linear(192, 3), noise

    def forward(self, images):
        return self.linear(images.flatten(1)) * self.noise()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 3)
        self.register_buffer("position", torch.ones(192))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, images):
        if self.training:
            self.steps += 1
        return self.linear(images.flatten(1) * self.position)


def flat_head(*layers):
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(192, 3))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (flat_head(nn.Dropout(1e-6)), r"1 \(Dropout\) draws"),
        (nn.Sequential(nn.Flatten(), nn.Sequential(nn.RReLU(), nn.Linear(192, 3))), r"1\.0 \(RReLU\) draws"),
        (flat_head(nn.AlphaDropout(0.2)), r"1 \(AlphaDropout\) draws"),
        (flat_head(StochasticDepth(0.01, "row")), r"1 \(StochasticDepth\) draws"),
        (Functional(lambda: nn.functional.dropout(torch.ones(3), 0.5)), r"it \(Functional\) draws"),
        (Functional(random.random), r"it \(Functional\) draws"),
        (Functional(lambda: float(np.random.rand())), r"it \(Functional\) draws"),
        (flat_head(nn.Dropout(0.0), StochasticDepth(0.0, "row")), None),
    ],
)
def test_randomness_in_a_training_step_is_found_wherever_it_is(module, said):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    problems = network_problems(module, IMAGES, "no_randomness")
    assert network_problems(module, IMAGES) == []
    if said is None:
        assert problems == []
    else:
        (problem,) = problems
        assert re.search(said, problem)
        assert "networks=[...]" in problem
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_equal(np.random.get_state(), before[2])


def test_state_is_what_a_training_step_changes_not_what_is_constant():
    (problem,) = network_problems(Counting(), IMAGES, "no_state")
    assert "running statistics (steps)" in problem
    module = Counting()
    del module.steps
    module.steps = 0
    assert network_problems(module, IMAGES, "no_state") == []
    flat = FlatNetwork(module)
    for dtype in (torch.float64, torch.bfloat16):  # a constant follows the parameters' precision
        assert flat(flat.flatten().to(dtype), IMAGES.to(dtype)).dtype == dtype


def test_networks_that_do_not_give_logits_per_class_are_refused():
    (problem,) = network_problems(flat_head(), IMAGES, classes=9)
    assert "returns (2, 3) where logits (2, 9) are due" in problem
    (problem,) = network_problems(flat_head(), IMAGES[:, :2])
    assert re.search("network Sequential: fails on 2x8x8 images: .*shape", problem)


def test_features_are_asked_for_in_one_message():
    class Unrelated(nn.Module):
        """Such as torchvision's, where pooling lies between the two."""

        def __init__(self):
            super().__init__()
            self.features, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, images):
            return self.classifier(self.features(images).mean((2, 3)))

    for module in (flat_head(), Unrelated()):
        (problem,) = network_problems(module, IMAGES, "features")
        assert all(word in problem for word in ("`features`", "`classifier`", "Classifier", "list networks"))
    assert network_problems(make(ConvNet(), (3, 8, 8)), IMAGES, "features", "no_randomness", "no_state") == []


# --- flat view ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small():
    module = make(ConvNet(depth=2, width=4), (3, 8, 8), 3)
    generator = SEEDS.generator("batch")
    images = torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (5,), generator=generator)
    return FlatNetwork(module), images, labels


def test_flat_view_equals_the_module(small):
    flat, images, _ = small
    theta = flat.flatten()
    assert theta.shape == (flat.num_parameters,) == (count(flat.module),)
    assert flat.sizes == tuple(parameter.numel() for parameter in flat.module.parameters())
    assert torch.equal(flat(theta, images.float()), flat.module(images.float()))
    views = flat.unflatten(theta)
    assert list(views) == [name for name, _ in flat.module.named_parameters()]
    assert all(view.untyped_storage().data_ptr() == theta.untyped_storage().data_ptr() for view in views.values())


def test_flatten_copies_and_load_copies(small):
    flat, _, _ = small
    theta = flat.flatten()
    before = theta.clone()
    flat.load(theta + 1)
    assert torch.equal(theta, before)  # a snapshot does not follow the live parameters
    assert torch.equal(flat.flatten(), before + 1)
    source = theta.double()
    flat.load(source)
    source.zero_()
    assert torch.equal(flat.flatten(), before)
    other = make(ConvNet(depth=2, width=4), (3, 8, 8), 3, seed=5)
    assert torch.equal(flat.flatten(other), nn.utils.parameters_to_vector(other.parameters()).detach())


def test_calls_leave_the_module_alone(small):
    flat, images, labels = small
    before = flat.flatten()
    theta = (before.double() * 2).requires_grad_()
    cross_entropy(flat(theta, images), labels).backward()
    assert torch.equal(flat.flatten(), before)
    assert all(parameter.grad is None for parameter in flat.module.parameters())


def test_gradients_of_gradients_are_exact_in_float64(small):
    """A 2-step unroll: d loss / d images by autograd equals central differences; func.grad equals autograd.grad."""
    flat, images, labels = small
    start = flat.flatten().double()

    def loss(pixels):
        theta = start.clone().requires_grad_()
        for _ in range(2):
            value = cross_entropy(flat(theta, pixels), labels)
            (gradient,) = torch.autograd.grad(value, theta, create_graph=True)
            theta = theta - 0.1 * gradient
        return theta.square().sum()

    x = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(x), x)
    direction = torch.randn(x.shape, generator=SEEDS.generator("direction"), dtype=torch.float64)
    step = 1e-5
    numeric = (loss(images + step * direction) - loss(images - step * direction)) / (2 * step)
    assert float((found * direction).sum()) == pytest.approx(float(numeric.detach()), rel=1e-6)

    def scalar(theta):
        return cross_entropy(flat(theta, images), labels)

    theta = start.clone().requires_grad_()
    (expected,) = torch.autograd.grad(scalar(theta), theta)
    torch.testing.assert_close(torch.func.grad(scalar)(start), expected, rtol=1e-12, atol=1e-14)


def test_gradgradcheck_of_the_theta_function(small):
    _, images, _ = small
    smooth = FlatNetwork(make(ConvNet(depth=1, width=2, act="sigmoid"), (3, 4, 4), 2))
    theta = smooth.flatten().double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda t: smooth(t, images[:2, :, :4, :4]), (theta,))


@pytest.mark.parametrize("builder", [AlexNet(), VGG11(), ResNet18(), ResNet18AP()])
def test_every_architecture_has_finite_second_derivatives(builder):
    flat = FlatNetwork(make(builder, num_classes=3))
    theta = flat.flatten().requires_grad_()
    images = torch.randn(2, 3, 32, 32, generator=SEEDS.generator("images")).requires_grad_()
    loss = cross_entropy(flat(theta, images), torch.tensor([0, 2]))
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), images)
    assert bool(second.isfinite().all())
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize("builder", [ConvNet(norm="batch"), VGG11(norm="batch"), ResNet18(norm="batch")])
def test_running_statistics_are_refused_where_trajectories_are_needed(builder):
    images = torch.randn(2, 3, 32, 32, generator=SEEDS.generator("images"))
    (problem,) = network_problems(make(builder), images, "no_state")
    assert re.search(r"running statistics \(.*BatchNorm.*use network\.norm=instance", problem)
    assert network_problems(make(builder), images) == network_problems(make(ConvNet()), images, "no_state") == []
