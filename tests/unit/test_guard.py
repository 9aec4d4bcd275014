"""What stops a distillation that diverges, what is kept of it, and that a good one is not disturbed."""

from __future__ import annotations

import json

import pytest
import torch

from hoptm_plugin.core.errors import DivergedError, NonFiniteLossError, StepSizeError
from hoptm_plugin.core.interfaces import LossTerm, Method
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.guard import saturated
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.matchers import Endpoint
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.trajectory import HardLabels, RealImages, TrajectoryMatching, UniformSegments, WeightedMatcher


def settings(iterations=60, images=0.0, step_size=0.0, constraint="none", **guard):
    return Distillation(
        iterations=iterations, images={"learning_rate": images, "momentum": 0},
        step_size={"learning_rate": step_size, "momentum": 0, "constraint": constraint}, labels={"learning_rate": 0},
        checkpoint_every=7, log_every=10, guard={"window": 5} | guard,
    )  # fmt: skip


class Watched(Method):
    """Moves every pixel by -1, and alpha by ``slope``, in each iteration; is watched as a test has it."""

    def __init__(self, level=lambda step: 1.0, slope=0.0, no_progress=0.0):
        self.level, self.slope, self.no_progress = level, slope, no_progress

    def setup(self, task):
        images, names = task.train.images[:3].clone(), task.data.class_names
        return SyntheticSet(images, torch.tensor([0, 1, 2]), torch.tensor(0.1), names, task.data.normalisation)

    def losses(self, synthetic, step):
        level = self.level(step)
        watched = None if level is None else torch.tensor(level)
        yield LossTerm(synthetic.images.sum() - self.slope * synthetic.step_size, {}, watched)


@pytest.fixture
def distil(make_task, tmp_path):
    def make(method, chosen, folder="a", score=None):
        (tmp_path / folder).mkdir(exist_ok=True)
        return Distiller(method, make_task(), chosen, tmp_path / folder, silent, score)

    return make


def test_a_loss_that_grows_stops_at_the_end_of_its_window_and_the_lowest_is_kept(distil):
    """Levels by window of 5: 1, 0.5, 0.8, 0.4, then 2.1 > 2 * 1."""
    levels = (1.0, 0.5, 0.8, 0.4, 2.1)
    distiller = distil(Watched(lambda step: levels[min(step // 5, 4)]), settings(images=0.25))
    start = distiller.synthetic.images.detach().clone()
    with pytest.raises(DivergedError, match=r"iteration 24: the loss has grown to 2.1 in the median of the last 5 "
                       r"iterations, from 1 .*distillation.guard.loss=2 .*Lower distillation.images.learning_rate "
                       r"from 0.25 to 0.025"):  # fmt: skip
        distiller.run()
    kept = distiller.kept()
    assert kept.iteration == 20
    torch.testing.assert_close(kept.synthetic.images, start - 0.25 * 20)


def test_single_iterations_that_are_bad_stop_nothing(distil):
    """Two of five are beyond all bounds, or are no numbers; the median is not."""
    level = {0: 50.0, 1: float("nan")}
    distil(Watched(lambda step: level.get(step % 5, 1.0)), settings()).run()


def test_what_is_easier_than_nothing_learned_at_first_may_grow_to_that(distil):
    """As where start epochs open: from 0.3 to 1, which is the student's distance if it does not move at all."""
    method = Watched(lambda step: 0.3 if step < 20 else 1.0, no_progress=1.0)
    distil(method, settings()).run()
    with pytest.raises(DivergedError, match="the loss has grown"):
        distil(Watched(method.level), settings(), "b").run()


def test_a_method_that_is_not_watched_keeps_its_last_window(distil):
    """Alpha falls from 0.1 by 0.004 in each iteration, and would be 0 or below after 25."""
    distiller = distil(Watched(lambda step: None, slope=-1.0), settings(step_size=0.004))
    with pytest.raises(StepSizeError, match=r"iteration 2[45]: the step size would go from 0.00"):
        distiller.run()
    assert distiller.kept().iteration in (20, 25)


def test_a_step_size_that_explodes_is_named_with_its_learning_rate(distil):
    """Alpha grows from 0.1 by 1 in an iteration; 10.1 after ten is more than 100 * 0.1."""
    distiller = distil(Watched(slope=1.0), settings(step_size=1.0))
    with pytest.raises(DivergedError, match=r"iteration 9: the step size has grown from 0.1 to 10.1, more than "
                       r"distillation.guard.step_size=100 times. Lower distillation.step_size.learning_rate from 1 to "
                       r"0.1, or set distillation.step_size.constraint=damped"):  # fmt: skip
        distiller.run()
    assert distiller.kept().iteration == 5


def test_damped_goes_on_where_a_free_step_size_would_end_the_run(distil):
    chosen = settings(step_size=1.0, constraint="damped")
    assert 0 < float(distil(Watched(slope=-1.0), chosen).run().synthetic.step_size) < 0.1
    with pytest.raises(StepSizeError, match=r"iteration 0: the step size would go from 0.1 to -0.9 .*from 1 to 0.1"):
        distil(Watched(slope=-1.0), settings(step_size=1.0), "b").run()


def test_the_best_by_score_is_kept_where_there_are_scores(distil):
    scores = iter((0.1, 0.9, 0.3))
    chosen = settings(images=0.25).model_copy(update={"evaluate_every": 6, "selection": "validation"})
    distiller = distil(Watched(lambda step: 1.0 if step < 15 else 9.0), chosen, score=lambda synthetic: next(scores))
    with pytest.raises(DivergedError):
        distiller.run()
    assert distiller.kept().iteration == 12


def test_a_run_that_is_gone_on_with_stops_where_an_uninterrupted_one_does(distil, tmp_path):
    """The window goes on, its beginning and the best set included."""
    levels = (1.0, 0.5, 0.8, 0.4, 2.1)
    method = Watched(lambda step: levels[min(step // 5, 4)])
    with pytest.raises(DivergedError) as first:
        distil(method, settings(images=0.25)).run()
    distiller = distil(method, settings(images=0.25))
    assert distiller.first == 21
    assert distiller.kept().iteration == 20
    with pytest.raises(DivergedError) as second:
        distiller.run()
    assert str(first.value) == str(second.value)
    assert distil(method, settings(images=0.25, loss=None)).run().synthetic.images.isfinite().all()


def test_off_leaves_only_what_cannot_go_on():
    values = settings().model_dump() | {"guard": "off"}
    guard = Distillation(**values).guard
    assert (guard.step_size, guard.loss, guard.saturation) == (None, None, None)
    with pytest.raises(ValueError, match="guard"):
        Distillation(**values | {"guard": "perhaps"})


def test_saturation_is_far_outside_the_range_of_pictures():
    assert saturated(torch.tensor([-0.2, 0.0, 1.2, 0.5])) == 0
    assert saturated(torch.tensor([-0.3, 0.0, 1.3, 0.5])) == 0.5


def test_images_that_saturate_are_warned_of_once(distil, tmp_path):
    """Pixels fall by a quarter of 1 an iteration: z = (x - 0.5) / 0.25."""
    distiller = distil(Watched(), settings(images=1.0))
    with pytest.warns(UserWarning, match=r"the images saturate: \d+% .*from 1 to 0.1") as caught:
        found = distiller.run().saturation
    assert len(caught) == 1
    rows = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert [row["saturation"] for row in rows if row["step"] == 59] == [found.end] == [1.0]
    assert found.start < 0.5


def matching():
    return TrajectoryMatching(
        {"endpoint": WeightedMatcher(Endpoint())}, UniformSegments(max_start_epoch=3), HardLabels(),
        RealImages(), student_steps=6, expert_epochs=2, student_batch=2, step_size=0.05,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("guard", "says"),
    [({}, "the step size has grown from 0.05 to "), ({"step_size": None}, "the loss has grown to |NaN or infinite")],
    ids=["step size", "loss"],
)
def test_trajectories_that_run_away_are_stopped_for_real(guard, says, distil):
    """A learning rate of alpha that is far too large: the student ends far beyond where the expert does."""
    values = settings(60, images=1.0, step_size=10.0, constraint="damped").model_dump()
    distiller = distil(matching(), Distillation(**values | {"guard": {"window": 5} | guard}))
    with pytest.raises(DivergedError, match=rf"({says}).*Lower distillation.step_size.learning_rate from 10 to 1"):
        distiller.run()
    assert float(distiller.kept().synthetic.step_size) > 0


def test_a_good_run_has_the_same_bits_with_and_without_a_guard(distil):
    chosen = settings(20, images=1.0, step_size=1e-4)
    guarded = distil(matching(), chosen).run().synthetic
    off = Distillation(**chosen.model_dump() | {"guard": "off"})
    assert torch.equal(guarded.images, distil(matching(), off, "b").run().synthetic.images)


def test_a_loss_that_is_none_says_what_to_lower_and_keeps_the_set(distil):
    class Broken(Watched):
        def losses(self, synthetic, step):
            for term in super().losses(synthetic, step):
                yield LossTerm(term.loss * (float("nan") if step == 3 else 1), {}, term.watched)

    distiller = distil(Broken(), settings(images=0.5))
    with pytest.raises(
        NonFiniteLossError, match=r"iteration 3: the loss is nan .*images.learning_rate from 0.5 to 0.05"
    ):
        distiller.run()
    assert distiller.kept().iteration == 3
