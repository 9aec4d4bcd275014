"""TGDD and NCFM's networks against loops written out from docs/methods.md 17 and docs/methods.md 18, in float64."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hoptm_baselines.distribution_matching import DistributionMatching
from hoptm_baselines.features_along_experts import FeaturesAlongExperts, drawn_epochs
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters

from hoptm_plugin.augment import DSA, NoAugmentation
from hoptm_plugin.core.observations import FeaturePair
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.matchers import MeanFeatures
from hoptm_plugin.trajectory import RealImages

CLASSES, EVERYTHING, LAST = 3, 1000, 4


def task_of(make_task, **changes):
    return make_task(**{"ipc": 2, "dtype": torch.float64, "augmentation": NoAugmentation()} | changes)


def along(**changes):
    settings = {"matcher": MeanFeatures(), "last_epoch": LAST, "window": 2, "real_batch": EVERYTHING, "clamp": False}
    return FeaturesAlongExperts(**settings | changes)


def network(task, parameters):
    made = task.network(torch.Generator())
    vector_to_parameters(parameters, made.parameters())
    return made.requires_grad_(False)


def at(task, expert, epoch):
    return task.experts(LAST).segment(expert, epoch, epoch)[0]


def learned(method, task):
    synthetic = method.setup(task)
    synthetic.images.requires_grad_()
    return synthetic


def of_class(task, label):
    return task.train.images[task.train.labels == label]


def distance(phi, real, own):
    return (phi.features(real).mean(0) - phi.features(own).mean(0)).square().sum()


def entropy(f, own, label):
    return cross_entropy(f(own), torch.full((len(own),), label))


# --- TGDD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mosaic", [1, 2])
def test_a_class_s_loss_is_a_distance_at_s_and_a_cross_entropy_at_e(make_task, mosaic):
    """Some s and e of one expert, e in the window from s on, give the losses of all classes; gradients as well."""
    task = task_of(make_task)
    method = along(mosaic=mosaic, ce_weight=2.5)
    synthetic = learned(method, task)
    seen = set()
    for step in range(12):
        found = list(method.losses(synthetic, step))
        assert len(found) == CLASSES
        whole = synthetic.expanded() if mosaic == 2 else synthetic
        matching = []
        for expert in range(2):
            for s in range(LAST + 1):
                for e in range(s, min(s + 1, LAST) + 1):
                    phi, f = network(task, at(task, expert, s)), network(task, at(task, expert, e))
                    wanted = []
                    for label in range(CLASSES):
                        own = whole.images[whole.labels == label]
                        wanted.append(distance(phi, of_class(task, label), own) + 2.5 * entropy(f, own, label))
                    if all(abs(a.loss / b - 1) < 1e-12 for a, b in zip(found, wanted, strict=True)):
                        matching.append((expert, s, e))
                        for a, b in zip(found, wanted, strict=True):
                            grads = [torch.autograd.grad(x, synthetic.images, retain_graph=True)[0]
                                     for x in (a.loss, b)]  # fmt: skip
                            torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-14)
        assert len(matching) == 1
        seen |= set(matching)
    assert {expert for expert, _, _ in seen} == {0, 1}
    assert len({s for _, s, _ in seen}) > 2


def test_equal_images_leave_the_cross_entropy(make_task):
    """All real images of each class as synthetic ones, under the same draw of an augmentation: the distance is 0."""
    task = task_of(make_task, ipc=6, augmentation=DSA())
    method = along(ce_weight=0.7)
    synthetic = method.setup(task)
    images = torch.cat([of_class(task, label) for label in range(CLASSES)]).requires_grad_()
    synthetic = SyntheticSet(images, synthetic.labels, None, synthetic.class_names, synthetic.normalisation)
    for term in method.losses(synthetic, 0):
        assert term.logs["matched"].item() == pytest.approx(0, abs=1e-20)
        assert term.loss.item() == pytest.approx(0.7 * term.logs["cross_entropy"].item(), rel=1e-12)
        assert term.loss.item() > 0


class ExpertAtStart:
    """The starts of a task's experts alone."""

    def __init__(self, experts):
        self.experts = experts

    def __len__(self):
        return len(self.experts)

    def segment(self, expert, first, last):
        return self.experts.segment(expert, 0, 0)


@pytest.mark.parametrize("stepping", ["per_class", "joint"])
def test_without_cross_entropy_at_the_start_it_is_dm_under_an_expert_s_initialisation(make_task, stepping):
    task = task_of(make_task, experts=1, augmentation=DSA())
    start = at(task, 0, 0)
    at_start = replace(task, experts=lambda last: ExpertAtStart(task.experts(last)))
    ours = along(ce_weight=0.0, stepping=stepping, real_batch=4)
    theirs = DistributionMatching(MeanFeatures(), RealImages(), real_batch=4, stepping=stepping)
    synthetic = learned(ours, at_start)
    theirs.setup(replace(task, network=lambda generator: network(task, start)))
    for step in range(2):
        pairs = list(zip(ours.losses(synthetic, step), theirs.losses(synthetic, step), strict=True))
        assert len(pairs) == (CLASSES if stepping == "per_class" else 1)
        for one, other in pairs:
            assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-13)
            gradients = [torch.autograd.grad(term.loss, synthetic.images)[0] for term in (one, other)]
            torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-16)


def test_joint_steps_are_the_sum_of_those_per_class(make_task):
    task = task_of(make_task)
    joint, separate = (along(stepping=stepping) for stepping in ("joint", "per_class"))
    (whole,) = joint.losses(learned(joint, task), 3)
    parts = list(separate.losses(learned(separate, task), 3))
    assert sum(term.loss.item() for term in parts) == pytest.approx(whole.loss.item(), rel=1e-13)


def test_epochs_are_drawn_as_published():
    """Of 61 snapshots and 7 in the window, e is s in 17 % and 2.8 epochs later on average; never before it."""
    last, window = 60, 7
    sizes = [min(window, last + 1 - s) for s in range(last + 1)]
    equal = sum(Fraction(1, size) for size in sizes) / (last + 1)
    gap = sum(Fraction(size - 1, 2) for size in sizes) / (last + 1)
    assert (round(float(equal), 2), round(float(gap), 1)) == (0.17, 2.8)
    generator, draws = Seeds(0).generator("epochs"), 20_000
    pairs = [drawn_epochs(last, window, generator) for _ in range(draws)]
    assert all(s <= e <= min(s + window - 1, last) for s, e in pairs)
    assert sum(s == e for s, e in pairs) / draws == pytest.approx(float(equal), abs=0.011)
    assert sum(e - s for s, e in pairs) / draws == pytest.approx(float(gap), abs=0.06)
    starts = Counter(s for s, _ in pairs)
    assert set(starts) == set(range(last + 1))
    assert max(starts.values()) < 1.3 * draws / (last + 1)


def test_synthetic_images_share_the_draw_with_real_ones_and_both_networks_see_them(make_task):
    applied = []

    class Recorder(DSA):
        def apply(self, images, parameters):
            applied.append((len(images), parameters))
            return super().apply(images, parameters)

    method = along(real_batch=5)
    for _ in method.losses(method.setup(task_of(make_task, augmentation=Recorder())), 0):
        pass
    assert len(applied) == 2 * CLASSES
    for (own, first), (real, second) in zip(applied[::2], applied[1::2], strict=True):
        assert (own, real) == (2, 5)
        assert first is second


@pytest.mark.parametrize("clamp", [True, False])
def test_images_come_back_into_the_range_of_pixels_when_an_iteration_begins(make_task, clamp):
    task = task_of(make_task)  # mean .5, std .25: normalised pixels lie in [-2, 2]
    method = along(clamp=clamp)
    synthetic = learned(method, task)
    with torch.no_grad():
        synthetic.images.mul_(3)
    before = synthetic.images.detach().clone()
    assert before.abs().max() > 2
    next(method.losses(synthetic, 0)).loss.backward()
    assert torch.equal(synthetic.images.detach(), before.clamp(-2, 2) if clamp else before)


# --- NCFM ------------------------------------------------------------------------------------------------------------


class Recording(MeanFeatures):
    """Mean features, and the pairs that were compared."""

    def __init__(self):
        super().__init__()
        self.pairs: list[FeaturePair] = []

    def loss(self, pair):
        self.pairs.append(pair)
        return super().loss(pair)


def test_a_mixture_matches_and_the_last_network_classifies_in_steps_of_its_own(make_task):
    """Features are those of l theta_0 + (1 - l) theta_last; after the classes come as many cross-entropies."""
    task = task_of(make_task, experts=1)
    first, last = at(task, 0, 0), at(task, 0, LAST)
    shares = []
    for step in range(3):
        matcher = Recording()
        method = along(matcher=matcher, networks="mixed", ce_steps="own", ce_weight=0.3, mosaic=2)
        synthetic = learned(method, task)
        found = list(method.losses(synthetic, step))
        assert [sorted(term.logs) for term in found] == CLASSES * [["matched"]] + CLASSES * [["cross_entropy"]]
        loaded = torch.cat([part.flatten() for part in method._matching.parameters()])
        share = torch.dot(loaded - last, first - last) / (first - last).square().sum()
        torch.testing.assert_close(loaded, share * first + (1 - share) * last, rtol=1e-10, atol=1e-12)
        shares.append(share.item())
        whole = synthetic.expanded()
        phi, f = network(task, loaded), network(task, last)
        for label in range(CLASSES):
            own = whole.images[whole.labels == label]
            torch.testing.assert_close(matcher.pairs[label].synthetic, phi.features(own), rtol=1e-12, atol=1e-14)
            assert matcher.pairs[label].generator is not None
            wanted = distance(phi, of_class(task, label), own), 0.3 * entropy(f, own, label)
            for term, value in zip((found[label], found[CLASSES + label]), wanted, strict=True):
                assert term.loss.item() == pytest.approx(value.item(), rel=1e-11)
    assert all(0 < share < 1 for share in shares)
    assert len(set(shares)) == 3


def test_cross_entropies_wait_until_all_classes_have_stepped(make_task):
    """Each loss looks at the images as the steps before it left them."""
    task = task_of(make_task, experts=1)
    method = along(networks="mixed", ce_steps="own")
    synthetic = learned(method, task)
    f = network(task, at(task, 0, LAST))
    for number, term in enumerate(method.losses(synthetic, 0)):
        if number >= CLASSES:
            own = synthetic.images[synthetic.labels == number - CLASSES]
            assert term.loss.item() == pytest.approx(entropy(f, own, number - CLASSES).item(), rel=1e-12)
        with torch.no_grad():
            synthetic.images.add_(0.1)


def test_a_weight_of_0_classifies_nothing(make_task):
    for steps in ("own", "shared"):
        method = along(ce_steps=steps, ce_weight=0.0)
        found = list(method.losses(learned(method, task_of(make_task)), 0))
        assert [sorted(term.logs) for term in found] == CLASSES * [["matched"]]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_said_before_any_work(make_task, make_data):
    task = make_task()
    whitened = replace(task, data=replace(task.data, normalisation=replace(task.data.normalisation, kind="zca")))
    (said,) = along(clamp=True).problems(whitened)
    assert "method.clamp: whitened images have no range" in said
    assert along(clamp=False).problems(whitened) == []
    (said,) = along(mosaic=2).problems(make_task(data=make_data(size=9)))
    assert "method.mosaic: images of 9x9 pixels cannot be cut into 2x2 tiles" in said
    from hoptm_plugin.networks import ConvNet

    (said,) = along().problems(make_task(network=ConvNet(depth=2, width=4, norm="batch")))
    assert "running statistics" in said


@pytest.mark.parametrize("bad", [{"last_epoch": 0}, {"window": 0}, {"real_batch": 0}, {"ce_weight": -1.0}])
def test_senseless_settings_are_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=name):
        along(**bad)
