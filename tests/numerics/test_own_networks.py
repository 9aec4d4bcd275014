"""Networks of a user's own, attention and ConvNeXt blocks: matched on, evaluated on, or refused before any work."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vision_transformer import VisionTransformer

import hoptm_plugin.builtin  # noqa: F401
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import NetworkBuilder, methods
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.evaluation import Evaluator, real_subset
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import train_networks
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining, build_experts, train_experts
from hoptm_plugin.networks import FlatNetwork, create
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.testing import example_task
from hoptm_plugin.testing.contract import stored
from hoptm_plugin.trajectory.student import StudentStep

load_plugins()

MTT = {
    "name": "trajectory_matching", "matchers": {"endpoint": {"name": "endpoint"}}, "labels": {"name": "hard"},
    "sampler": {"name": "uniform", "max_start_epoch": 3}, "student_steps": 3, "expert_epochs": 2, "student_batch": 2,
    "step_size": 0.01, "initial_images": {"name": "real"},
}  # fmt: skip
DM = {"name": "distribution_matching", "matcher": {"name": "mean_features"}, "initial_images": {"name": "real"}}

GRADIENTS = {
    "name": "gradient_matching", "matcher": {"name": "rowwise_cosine"}, "initial_images": {"name": "real"},
    "real_batch": 4, "outer_steps": 2,
}  # fmt: skip


class Attention(nn.Module):
    """By torch's fused function, which can be differentiated only once."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.mix, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens):
        query, key, value = self.mix(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class TinyViT(nn.Module):
    def __init__(self, channels: int, size: int, classes: int, dropout: float, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // 4) ** 2 + 1, width))
        self.norm, self.attention = nn.LayerNorm(width), Attention(width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.dropout, self.classifier = nn.Dropout(dropout), nn.Linear(width, classes)

    def features(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        return self.dropout(tokens + self.scale * self.attention(self.norm(tokens)))[:, 0]

    def forward(self, images):
        return self.classifier(self.features(images))


class OwnViT(NetworkBuilder):
    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def build(self, image_shape, num_classes):
        return TinyViT(*image_shape[:2], num_classes, self.dropout)


class TorchvisionViT(NetworkBuilder):
    def build(self, image_shape, num_classes):
        network = VisionTransformer(image_shape[1], 4, 1, 2, 8, 16, num_classes=num_classes)
        network.conv_proj = nn.Conv2d(image_shape[0], 8, 4, 4)
        return network


class TorchvisionConvNeXt(NetworkBuilder):
    def __init__(self, stochastic_depth: float = 0.0) -> None:
        self.stochastic_depth = stochastic_depth

    def build(self, image_shape, num_classes):
        blocks = [CNBlockConfig(8, None, 2)]
        network = ConvNeXt(blocks, stochastic_depth_prob=self.stochastic_depth, num_classes=num_classes)
        network.features[0][0] = nn.Conv2d(image_shape[0], 8, 4, 4)
        return network


class Undifferentiable(NetworkBuilder):
    """With a layer that has a first derivative and no second."""

    def build(self, image_shape, num_classes):
        class Once(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx, gradient):
                return gradient.clone()

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(image_shape[0] * image_shape[1] ** 2, num_classes)

            def forward(self, images):
                return Once.apply(self.linear(images.flatten(1)))

        return Network()


OWN = pytest.mark.parametrize("builder", [OwnViT(), TorchvisionViT(), TorchvisionConvNeXt()])
RANDOM = pytest.mark.parametrize("builder", [OwnViT(0.3), TorchvisionConvNeXt(0.5)])


@OWN
@pytest.mark.parametrize("unroll", ["full", "adjoint"])
def test_mtt_on_a_network_of_ones_own(builder, unroll):
    task = example_task(network=builder, compute=Compute(unroll=unroll))
    method = methods.build(MTT)
    assert method.problems(task) == []
    synthetic = method.setup(task)
    synthetic.images.requires_grad_()
    for step in range(2):
        (term,) = method.losses(synthetic, step)
        (gradient,) = torch.autograd.grad(term.loss, synthetic.images)
        assert gradient.isfinite().all()
        assert float(gradient.abs().max()) > 0


@OWN
def test_gradients_of_a_network_of_ones_own_are_matched(builder):
    task, method = example_task(network=builder), methods.build(GRADIENTS)
    assert method.problems(task) == []
    synthetic = method.setup(task)
    synthetic.images.requires_grad_()
    for term in method.losses(synthetic, 0):
        (gradient,) = torch.autograd.grad(term.loss, synthetic.images)
        assert gradient.isfinite().all()
        assert float(gradient.abs().max()) > 0


@OWN
def test_its_second_derivatives_are_exact_in_both_forms(builder):
    """Reverse over reverse and forward over reverse, as eager and compiled steps have them, against differences."""
    task = example_task(network=builder, dtype=torch.float64)
    flat = FlatNetwork(task.network(torch.Generator()))
    step, theta = StudentStep(flat), flat.flatten()
    images, labels = task.train.images[:3], task.train.labels[:3]
    direction = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along, derivatives = step.products(theta, images, labels, direction, (0, 1))
    assert StudentStep(flat, compiled=True).problems(images, labels) == []
    forward = step._forward_over_reverse((0, 1))(theta, images, labels, direction)
    torch.testing.assert_close(forward, (along, derivatives), rtol=1e-8, atol=1e-12)
    small = 1e-6
    differences = (step.gradient(theta + small * direction, images, labels)
                   - step.gradient(theta - small * direction, images, labels)) / (2 * small)  # fmt: skip
    torch.testing.assert_close(derivatives[0], differences, rtol=1e-4, atol=1e-7)


@OWN
def test_experts_of_it_side_by_side_are_those_of_one_at_a_time(builder):
    task = example_task(network=builder, dtype=torch.float64)
    modules = [task.network(Seeds(number).generator()) for number in range(2)]
    loss, starts = TrainingLoss(modules[0]), torch.stack([FlatNetwork(module).flatten() for module in modules])
    assert loss.stackable(task.train.images[:2], task.train.labels[:2])
    training, seeds = ExpertTraining(batch=9, learning_rate=0.05), [Seeds(0), Seeds(1)]
    together = train_experts(loss, starts, task.train, training, task.augmentation, seeds, 2)
    (alone,) = train_experts(loss, starts[1:], task.train, training, task.augmentation, seeds[1:], 2)
    torch.testing.assert_close(together[1].trajectory, alone.trajectory, rtol=1e-9, atol=1e-12)


def evaluated(builder, parallel=1, seed=0):
    task = example_task()
    evaluator = Evaluator(
        Protocol(repeats=2, epochs=6, learning_rate=0.05),
        {"own": lambda generator: create(builder, task.data.image_shape, 3, generator)},
        task.augmentation, Seeds(seed), silent, Compute(parallel_networks=parallel),
    )  # fmt: skip
    return evaluator.evaluate(lambda repeat: real_subset(task.data, 2, Seeds(repeat)), task.data.test, "a set")["own"]


@RANDOM
def test_randomness_is_evaluated_reproducibly_and_leaves_the_global_generator_alone(builder):
    before = torch.get_rng_state()
    first = evaluated(builder)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)  # what was drawn before decides nothing
    assert evaluated(builder, parallel=2) == first  # cannot be stacked, and is trained one at a time
    assert evaluated(builder, seed=1) != first


def test_an_interrupted_training_with_dropout_repeats_the_uninterrupted_one(monkeypatch):
    task, halfway = example_task(), []
    monkeypatch.setattr("hoptm_plugin.engine.training.SAVE_EVERY", 0.0)

    def save(state):
        if state["done"] == 2:
            halfway.append(stored(state))

    def train(begun=None):
        network = create(OwnViT(0.3), task.data.image_shape, 3, Seeds(0).generator())
        pairs, protocol = [(task.train.images, task.train.labels)], Protocol(epochs=4, batch=9)
        train_networks([network], TrainingLoss(network), pairs, protocol, 0.05, task.augmentation, [Seeds(0)],
                       begun=begun, save=save)  # fmt: skip
        return FlatNetwork(network).flatten()

    whole = train()
    torch.rand(5)
    assert torch.equal(train(halfway[0]), whole)


@RANDOM
@pytest.mark.parametrize("method", [MTT, DM, GRADIENTS, {"name": "herding_subset"}])
def test_randomness_is_refused_by_methods_before_any_work(builder, method):
    def experts(epoch):
        raise AssertionError("experts were opened")

    task = replace(example_task(network=builder), experts=experts)
    problems = methods.build(method).problems(task)
    assert any("draws random numbers in every training step" in problem for problem in problems)


def test_experts_of_a_random_network_are_not_trained(tmp_path):
    task = example_task(network=OwnViT(0.3))
    recipe = ExpertRecipe(
        data=task.data.fingerprint, network={"name": "own"}, augmentation={"name": "dsa"}, training=ExpertTraining(),
        seed=0,
    )  # fmt: skip
    store = ExpertStore(tmp_path, recipe, FlatNetwork(task.network(torch.Generator())).num_parameters)
    store.begin()
    with pytest.raises(ConfigurationError, match=r"dropout \(Dropout\) draws"):
        build_experts(store, task.network, task.train, task.augmentation, 1, 1, silent)
    assert store.missing(1, 1) == [0]


def test_what_cannot_be_differentiated_twice_is_refused_before_any_work():
    (problem,) = methods.build(MTT).problems(example_task(network=Undifferentiable()))
    assert re.search("network Network: .* differentiated twice, .*networks=", problem)
    assert evaluated(Undifferentiable())


def test_features_of_ones_own_are_matched_and_asked_for():
    method = methods.build(DM)
    task = example_task(network=OwnViT())
    assert method.problems(task) == []
    synthetic = method.setup(task)
    synthetic.images.requires_grad_()
    (term,) = method.losses(synthetic, 0)
    assert float(torch.autograd.grad(term.loss, synthetic.images)[0].abs().max()) > 0
    (problem,) = method.problems(example_task(network=TorchvisionViT()))
    assert "give it `features`" in problem
