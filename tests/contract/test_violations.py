"""The contracts fail where they must: one part that breaks each promise, and the check that says so."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hoptm_plugin.augment import NoAugmentation
from hoptm_plugin.core.interfaces import (
    FeatureMatcher,
    GradientMatcher,
    Initialiser,
    LabelPolicy,
    LossTerm,
    Matcher,
    Method,
    NetworkBuilder,
    SegmentSampler,
    TrajectoryView,
)
from hoptm_plugin.engine.evaluation import real_subset
from hoptm_plugin.networks import ConvNet
from hoptm_plugin.testing import (
    AugmentationContract,
    FeatureMatcherContract,
    GradientMatcherContract,
    InitialiserContract,
    LabelPolicyContract,
    MatcherContract,
    MethodContract,
    NetworkContract,
    SamplerContract,
    TrajectoryViewContract,
)


def part(base, /, **methods):
    """Return a maker of a part that is made of functions."""
    return type("Bad", (base,), methods)


def counted(self, pair):
    self.count = getattr(self, "count", 0) + 1
    return pair.student[-1].sum() * self.count


def method(losses, setup=None, **more):
    def start(self, task):
        self.task = task
        return real_subset(task.data, task.ipc, task.seeds)

    return part(Method, setup=setup or start, losses=losses, **more)


def noisy(self, synthetic, step):
    yield LossTerm(synthetic.images.sum() + torch.rand(()))


def forgetful(self, synthetic, step):
    self.seen = getattr(self, "seen", 0) + 1
    yield LossTerm(synthetic.images.sum() * self.seen)


def peeking(self, synthetic, step):
    yield LossTerm(synthetic.images.sum() * len(self.task.data.test))


def reading(self, synthetic, step):
    segment = self.task.experts(2).segment(0, 2, 2)
    yield LossTerm(synthetic.images.sum() * segment.mean())


def backwards(self, task):
    synthetic = real_subset(task.data, task.ipc, task.seeds)
    return type(synthetic)(synthetic.images.flip(0), synthetic.labels.flip(0), None, synthetic.class_names,
                           synthetic.normalisation)  # fmt: skip


def halved(self, task):
    synthetic = real_subset(task.data, task.ipc, task.seeds)
    synthetic.images = synthetic.images / 2
    return synthetic


def one_more(self, task):
    return real_subset(task.data, task.ipc + 1, task.seeds)


def of_one_class(self, task):
    synthetic = real_subset(task.data, task.ipc, task.seeds)
    synthetic.labels.zero_()
    return synthetic


def mislabelled(self, task):
    synthetic = real_subset(task.data, task.ipc, task.seeds)
    synthetic.labels = synthetic.labels.flip(0)
    return synthetic


class Shown:
    """Experts as they are stored, or something done to each segment of them."""

    def __init__(self, experts, change=lambda segment: segment, further=0):
        self.experts, self.change, self.further = experts, change, further

    def __len__(self):
        return len(self.experts)

    def segment(self, expert, first, last):
        return self.change(self.experts.segment(expert, first, last + self.further)[: last - first + 1])


def view(continuous=False, **settings):
    return part(TrajectoryView, continuous=continuous, view=lambda self, experts, sizes: Shown(experts, **settings))


SHARED = ConvNet(width=4).build((3, 32, 32), 5)
VIOLATIONS = [
    (MatcherContract, "state_round_trip", part(Matcher, loss=counted)),
    (MatcherContract, "pair_is_not_mutated", part(Matcher, loss=lambda self, pair: pair.expert.zero_().sum())),
    (MatcherContract, "loss_is_a_finite_scalar_with_gradient", part(Matcher, loss=lambda self, pair: pair.student[-1])),
    (MatcherContract, "weights_of_zero_are_harmless",
     part(Matcher, loss=lambda self, pair: (pair.student[-1] * pair.weights).sum() / pair.weights.sum())),
    (FeatureMatcherContract, "equal_features_are_harmless",
     part(FeatureMatcher, loss=lambda self, pair: (pair.real - pair.synthetic).square().sum().sqrt())),
    (GradientMatcherContract, "equal_and_zero_gradients_are_harmless",
     part(GradientMatcher, loss=lambda self, pair: pair.synthetic[0].square().sum().sqrt())),
    (SamplerContract, "draws_stay_in_range",
     part(SegmentSampler, draw=lambda self, *given: (0, 0.5), last_start_epoch=lambda self: 1)),
    (SamplerContract, "draws_stay_in_range",
     part(SegmentSampler, draw=lambda self, *given: (0, 2), last_start_epoch=lambda self: 1)),
    (TrajectoryViewContract, "segments_are_paths_of_parameters", view(change=lambda segment: segment.float())),
    (TrajectoryViewContract, "segments_are_paths_of_parameters", view(further=1)),
    (TrajectoryViewContract, "says_whether_it_is_known_between_epochs", view(continuous=True)),
    (TrajectoryViewContract, "experts_alone_decide", view(change=lambda segment: segment + torch.rand(()))),
    (TrajectoryViewContract, "stored_experts_are_not_mutated", view()),
    (LabelPolicyContract, "images_and_classes_are_not_mutated",
     part(LabelPolicy, initial=lambda self, images, classes, task: classes)),
    (LabelPolicyContract, "labels_have_a_type_that_can_be_trained_on",
     part(LabelPolicy, initial=lambda self, images, classes, task: classes.int())),
    (InitialiserContract, "training_images_are_copied",
     part(Initialiser, images=lambda self, task: task.train.images[:6])),
    (InitialiserContract, "images_are_class_major",
     part(Initialiser, images=lambda self, task: task.train.images[[0, 1, 2, 3, 4, 5]])),
    (InitialiserContract, "the_seed_decides", part(Initialiser, images=lambda self, task: task.train.images[:6])),
    (InitialiserContract, "real_images_are_named_as_such",
     part(Initialiser, images_are="real", images=lambda self, task: task.train.batch(slice(0, 6)) + 0.1)),
    (InitialiserContract, "real_images_are_named_as_such", part(Initialiser, images_are="copies", images=None)),
    (AugmentationContract, "draws_can_be_replayed",
     part(NoAugmentation, apply=lambda self, images, draw: images + torch.rand(()))),
    (AugmentationContract, "global_randomness_untouched",
     part(NoAugmentation, apply=lambda self, images, draw: images + torch.rand(()))),
    (AugmentationContract, "a_siamese_draw_fits_any_batch",
     part(NoAugmentation, apply=lambda self, images, draw: images - images.mean(dim=0))),
    (AugmentationContract, "many_pieces_are_augmented_as_each_by_itself",
     part(NoAugmentation, apply=lambda self, images, draw: images * 2)),
    (NetworkContract, "the_generator_decides_and_networks_share_nothing",
     part(NetworkBuilder, build=lambda self, shape, classes: SHARED)),
    (NetworkContract, "logits_are_one_per_class",
     part(NetworkBuilder, build=lambda self, shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, 1000)))),
    (NetworkContract, "what_is_drawn_while_training_can_be_repeated",
     part(NetworkBuilder, build=lambda self, shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), Own()))),
    (NetworkContract, "gradients_of_gradients_are_finite",
     part(NetworkBuilder, build=lambda self, shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), Sign()))),
    (MethodContract, "global_randomness_untouched", method(noisy)),
    (MethodContract, "the_same_seed_gives_the_same_bits", method(noisy)),
    (MethodContract, "state_round_trip", method(forgetful)),
    (MethodContract, "state_round_trip", method(peeking, state_dict=lambda self: {"task": self.task})),
    (MethodContract, "reads_the_training_split_only", method(peeking)),
    (MethodContract, "announces_the_experts_it_reads", method(reading)),
    (MethodContract, "the_initial_set_is_complete", method(peeking, setup=backwards)),
    (MethodContract, "the_set_has_ipc_images_of_every_class", method(noisy, setup=one_more)),
    (MethodContract, "the_set_has_ipc_images_of_every_class", method(noisy, setup=of_one_class)),
    (MethodContract, "real_images_are_named_as_such", method(noisy, setup=halved, images_are="real")),
    (MethodContract, "real_images_are_named_as_such", method(noisy, setup=mislabelled, images_are="real")),
    (MethodContract, "real_images_are_named_as_such", method(noisy, images_are="none")),
    (MethodContract, "losses_are_finite_scalars_with_gradient",
     method(lambda self, synthetic, step: iter([LossTerm(torch.tensor(1.0))]))),
]  # fmt: skip


class Sign(nn.Module):
    """A layer without a useful gradient."""

    def forward(self, features):
        return features.sign()


class Own(nn.Module):
    """Noise from a generator that nobody seeds."""

    generator = torch.Generator()

    def forward(self, features):
        return features + torch.rand(features.shape, generator=self.generator)


@pytest.mark.parametrize(
    ("contract", "check", "bad"), VIOLATIONS, ids=[f"{c.__name__}-{check}" for c, check, _ in VIOLATIONS]
)
def test_a_broken_promise_is_found(contract, check, bad):
    checks = type("Checks", (contract,), {"build": lambda self, spec: bad()})()
    if check == "reads_the_training_split_only":  # it finds no test split there
        with pytest.raises(TypeError, match="NoneType"):
            getattr(checks, f"test_{check}")({})
    else:
        with pytest.raises(AssertionError):
            getattr(checks, f"test_{check}")({})


def test_no_specs_are_refused():
    with pytest.raises(pytest.UsageError, match="name at least one part"):
        type("Empty", (MatcherContract,), {})().pytest_generate_tests(SimpleNamespace(fixturenames=["spec"]))
