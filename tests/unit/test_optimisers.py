"""How images, step size and label logits are stepped (docs/methods.md 1.9)."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from hoptm_plugin.core.dataset import Normalisation
from hoptm_plugin.core.errors import NonFiniteLossError, StepSizeError
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.checkpoint import read_checkpoint, write_checkpoint
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation

NORMALISATION = Normalisation((0.0,), (1.0,), "none")


def make_set(soft=False, step_size=0.1):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.randn(2, 2, generator=generator, dtype=torch.float64) if soft else torch.tensor([0, 1])
    alpha = None if step_size is None else torch.tensor(step_size, dtype=torch.float64)
    return SyntheticSet(images, labels, alpha, ("a", "b"), NORMALISATION)


def settings(**step_size):
    return Distillation(
        images={"learning_rate": 10.0, "momentum": 0.5},
        step_size={"learning_rate": 0.01, "momentum": 0.5} | step_size,
        labels={"learning_rate": 2.0, "momentum": 0.9},
    )


def curved(synthetic, step):
    """A loss whose gradients change from step to step."""
    total = (synthetic.images.square() * (step + 1) * 0.01).sum()
    if synthetic.soft:
        total = total + (synthetic.labels.square() * 0.02).sum()
    return total if synthetic.step_size is None else total + 3 * synthetic.step_size**2


@pytest.mark.parametrize("soft", [False, True])
def test_buffer_is_half_of_it_plus_gradient(soft):
    """buf <- .5 buf + grad; value <- value - lr buf, from an empty buffer, unclamped, without decay or schedule."""
    synthetic = make_set(soft)
    images, alpha = synthetic.images.clone(), 0.1
    logits = synthetic.labels.clone()
    buffers = [torch.zeros_like(images), torch.zeros_like(logits), 0.0]
    optimisers = Optimisers(synthetic, settings())
    for step in range(5):
        buffers[0] = 0.5 * buffers[0] + 2 * images * (step + 1) * 0.01
        buffers[2] = 0.5 * buffers[2] + 6 * alpha
        images, alpha = images - 10 * buffers[0], alpha - 0.01 * buffers[2]
        if soft:
            buffers[1] = 0.9 * buffers[1] + 0.04 * logits
            logits = logits - 2 * buffers[1]
        optimisers.step(curved(synthetic, step))
        torch.testing.assert_close(synthetic.images.detach(), images, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(synthetic.labels.detach(), logits, rtol=1e-12, atol=1e-14)
        assert synthetic.step_size.item() == pytest.approx(alpha, rel=1e-12)


@pytest.mark.parametrize("slope", [100.0, 25.0])
def test_an_unconstrained_step_size_ends_the_run_at_the_first_step_that_is_not_positive(slope):
    """Nothing was changed then, the images neither; 0.25 - 0.01 * 25 is 0, or a rounding below it."""
    synthetic = make_set(step_size=0.25)
    images = synthetic.images.clone()
    optimisers = Optimisers(synthetic, settings())
    with pytest.raises(StepSizeError, match=r"the step size would go from 0.25 to (-0.75|0|-\d.*e-\d+)$"):
        optimisers.step(slope * synthetic.step_size + synthetic.images.sum())
    assert synthetic.step_size.item() == 0.25
    assert torch.equal(synthetic.images, images)


def test_damped_is_the_plain_step_where_that_is_small_and_never_reaches_0():
    """A step down by x takes alpha to alpha^2 / (alpha + x), one up is as it is; the momentum is the plain one."""
    synthetic = make_set(step_size=0.2)
    optimisers = Optimisers(synthetic, settings(constraint="damped"))
    alpha, buffer = 0.2, 0.0
    for slope in (1e-4, 3.0, 5e3, 1e9, -2e9, -4.0, 7.0):
        buffer = 0.5 * buffer + slope
        down = 0.01 * buffer
        alpha = alpha**2 / (alpha + down) if down > 0 else alpha - down
        optimisers.step(slope * synthetic.step_size)
        assert synthetic.step_size.item() == pytest.approx(alpha, rel=1e-10)
        assert synthetic.step_size.item() > 0
    small, plain = (make_set(step_size=0.2) for _ in range(2))
    Optimisers(small, settings(constraint="damped")).step(1e-5 * small.step_size)
    Optimisers(plain, settings()).step(1e-5 * plain.step_size)
    assert small.step_size.item() == pytest.approx(plain.step_size.item(), rel=1e-12)


def test_damped_stays_positive_in_the_smallest_numbers():
    synthetic = make_set(step_size=0.2)
    synthetic.step_size = synthetic.step_size.float()
    optimisers = Optimisers(synthetic, settings(constraint="damped"))
    for _ in range(20):
        optimisers.step(1e30 * synthetic.step_size)
        assert synthetic.step_size.item() > 0


def test_clamped_keeps_the_minimum_and_the_momentum():
    synthetic = make_set(step_size=0.001)
    optimisers = Optimisers(synthetic, settings(constraint="clamped", minimum=1e-4))
    optimisers.step(5 * synthetic.step_size)
    assert synthetic.step_size.item() == 1e-4
    optimisers.step(-10 * synthetic.step_size)  # buf = .5 * 5 - 10 = -7.5
    assert synthetic.step_size.item() == pytest.approx(1e-4 + 0.01 * 7.5, rel=1e-12)


def test_log_learns_the_logarithm():
    """d loss / d log alpha = alpha * d loss / d alpha; alpha stays positive whatever happens."""
    synthetic = make_set(step_size=0.2)
    optimisers = Optimisers(synthetic, settings(constraint="log"))
    assert synthetic.step_size.item() == pytest.approx(0.2, rel=1e-12)
    log_alpha, buffer = math.log(0.2), 0.0
    for slope in (3.0, -2.0, 5e3, 5e3):
        buffer = 0.5 * buffer + slope * math.exp(log_alpha)
        log_alpha -= 0.01 * buffer
        optimisers.step(slope * synthetic.step_size)
        assert synthetic.step_size.item() == pytest.approx(math.exp(log_alpha), rel=1e-10)
        assert synthetic.step_size.item() > 0


@pytest.mark.parametrize("constraint", ["none", "damped", "clamped", "log"])
def test_a_loss_that_depends_on_nothing_learned_changes_nothing(constraint):
    synthetic = make_set(soft=True)
    optimisers = Optimisers(synthetic, settings(constraint=constraint))
    optimisers.step(curved(synthetic, 0))
    before = {name: value.clone() for name, value in optimisers.state_dict().items()}
    optimisers.step(torch.tensor(1.0))
    optimisers.step(2 * torch.tensor(1.0, requires_grad=True))  # depends on a tensor that is not learned here
    after = optimisers.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_gradient_of_one_tensor_moves_that_one_alone():
    """The others have no gradient, so neither value nor momentum of theirs moves."""
    synthetic = make_set(soft=True)
    optimisers = Optimisers(synthetic, settings())
    optimisers.step(curved(synthetic, 0))
    kept = synthetic.images.detach().clone(), synthetic.step_size.item()
    optimisers.step(synthetic.labels.sum())
    assert torch.equal(synthetic.images.detach(), kept[0])
    assert synthetic.step_size.item() == kept[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(value):
    synthetic = make_set(soft=True)
    optimisers = Optimisers(synthetic, settings())
    optimisers.step(curved(synthetic, 0))
    before = {name: tensor.clone() for name, tensor in optimisers.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"the loss is (nan|inf|-inf)$"):
        optimisers.step(curved(synthetic, 1) + synthetic.step_size * value)
    with pytest.raises(NonFiniteLossError, match="gradient of the loss is NaN or infinite"):
        optimisers.step(curved(synthetic, 1) + (synthetic.step_size * 0).sqrt())
    after = optimisers.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_learning_rate_zero_freezes():
    synthetic = make_set()
    start = synthetic.step_size.item()
    optimisers = Optimisers(synthetic, settings(learning_rate=0.0))
    for step in range(2):
        optimisers.step(curved(synthetic, step))
    assert synthetic.step_size.item() == start


def test_a_set_without_step_size_is_fine():
    synthetic = make_set(step_size=None)
    before = synthetic.images.clone()
    Optimisers(synthetic, settings()).step(curved(synthetic, 0))
    torch.testing.assert_close(synthetic.images.detach(), before - 10 * 0.02 * before)


def test_the_initial_tensors_are_not_shared():
    synthetic = make_set(soft=True)
    images, labels, alpha = synthetic.images, synthetic.labels, synthetic.step_size
    kept = images.clone(), labels.clone(), alpha.clone()
    optimisers = Optimisers(synthetic, settings())
    optimisers.step(curved(synthetic, 0))
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    assert torch.equal(alpha, kept[2])
    assert not images.requires_grad


@pytest.mark.parametrize("constraint", ["none", "damped", "clamped", "log"])
def test_state_in_the_middle_continues_bit_for_bit(constraint):
    straight = make_set(soft=True)
    optimisers = Optimisers(straight, settings(constraint=constraint))
    for step in range(3):
        optimisers.step(curved(straight, step))
    state = {name: value.clone() for name, value in optimisers.state_dict().items()}
    resumed = make_set(soft=True)
    again = Optimisers(resumed, settings(constraint=constraint))
    again.load_state_dict(state)
    for step in range(3, 6):
        optimisers.step(curved(straight, step))
        again.step(curved(resumed, step))
    assert torch.equal(straight.images, resumed.images)
    assert torch.equal(straight.labels, resumed.labels)
    assert torch.equal(straight.step_size, resumed.step_size)
    without = make_set(soft=True)
    third = Optimisers(without, settings(constraint=constraint))
    third.load_state_dict({name: value for name, value in state.items() if name.startswith("value_")})
    for step in range(3, 6):
        third.step(curved(without, step))
    assert not torch.equal(straight.images, without.images)  # so the momentum did matter


# --- AdamW on images -------------------------------------------------------------------------------------------------


def adamw(rate=0.01, decay=0.1, **more):
    images = {"algorithm": "adamw", "learning_rate": rate, "weight_decay": decay} | more
    rule = {"learning_rate": 2.0, "momentum": 0.9}
    return Distillation(images=images, step_size={"learning_rate": 0.01}, labels=rule)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_that_of_the_paper_and_of_torch(decay):
    """m <- .9 m + .1 g, v <- .999 v + .001 g^2; x <- (1 - lr w) x - lr m' / (sqrt(v') + 1e-8), m' and v' corrected."""
    synthetic = make_set(soft=True)
    images = synthetic.images.clone()
    theirs = images.clone().requires_grad_()
    torchs = torch.optim.AdamW([theirs], lr=0.01, weight_decay=decay)
    first, second = torch.zeros_like(images), torch.zeros_like(images)
    optimisers = Optimisers(synthetic, adamw(decay=decay))
    for step in range(5):
        gradient = 2 * images * (step + 1) * 0.01
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        ahead, spread = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        images = (1 - 0.01 * decay) * images - 0.01 * ahead / (spread.sqrt() + 1e-8)
        torchs.zero_grad()
        ((step + 1) * 0.01 * theirs.square()).sum().backward()
        torchs.step()
        optimisers.step(curved(synthetic, step))
        torch.testing.assert_close(synthetic.images.detach(), images, rtol=1e-12, atol=1e-14)
        assert torch.equal(synthetic.images, theirs)


def test_adamw_leaves_labels_and_step_size_to_sgd():
    sets = make_set(soft=True), make_set(soft=True)
    for synthetic, rules in zip(sets, (adamw(), adamw(algorithm="sgd", weight_decay=0.0)), strict=True):
        optimisers = Optimisers(synthetic, rules)
        for step in range(3):
            optimisers.step(curved(synthetic, step))
    assert torch.equal(sets[0].labels, sets[1].labels)
    assert torch.equal(sets[0].step_size, sets[1].step_size)
    assert not torch.equal(sets[0].images, sets[1].images)


@pytest.mark.parametrize("done", [0, 3])
def test_adamw_goes_on_bit_for_bit_through_a_file(tmp_path, done):
    straight = make_set()
    straight.images = straight.images.float()
    optimisers = Optimisers(straight, adamw())
    for step in range(done):
        optimisers.step(curved(straight, step))
    write_checkpoint(tmp_path / "state", {"optimisers": optimisers.state_dict()})
    resumed = make_set()
    resumed.images = resumed.images.float()
    again = Optimisers(resumed, adamw())
    again.load_state_dict(read_checkpoint(tmp_path / "state")["optimisers"])
    for step in range(done, done + 3):
        optimisers.step(curved(straight, step))
        again.step(curved(resumed, step))
    assert torch.equal(straight.images, resumed.images)
    before, after = optimisers.state_dict(), again.state_dict()
    assert before.keys() == after.keys() == {
        "value_images", "value_step_size", "step_images", "exp_avg_images", "exp_avg_sq_images", "momentum_step_size"
    }  # fmt: skip
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_settings_of_before_there_was_an_algorithm_are_as_they_were():
    plain = settings().model_dump(mode="json")["images"]
    assert plain == {"learning_rate": 10.0, "momentum": 0.5}
    chosen = adamw().model_dump(mode="json")["images"]
    assert chosen == {"learning_rate": 0.01, "momentum": 0.5, "algorithm": "adamw", "weight_decay": 0.1}


@pytest.mark.parametrize("bad", [{"algorithm": "adam"}, {"decay": -0.1}, {"algorithm": "sgd"}])
def test_senseless_settings_of_adamw_are_refused(bad):
    with pytest.raises(ValidationError, match=r"weight_decay|'sgd' or 'adamw'"):
        adamw(**bad)


@pytest.mark.parametrize("bad", [{"learning_rate": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"minimum": 0.0},
                                 {"constraint": "positive"}, {"nesterov": True}])  # fmt: skip
def test_senseless_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        settings(**bad)
