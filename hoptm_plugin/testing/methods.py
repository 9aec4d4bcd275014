"""Contract of methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, get_args

import torch
from torch import Tensor

from hoptm_plugin.core.asking import Asking, alone, together
from hoptm_plugin.core.interfaces import ImagesAre, LossTerm, Method, Task, Trajectories, methods, with_each
from hoptm_plugin.core.observations import is_scalar_loss
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation
from hoptm_plugin.testing.contract import Spec, TaskContract, same, stored
from hoptm_plugin.testing.examples import all_real
from hoptm_plugin.trajectory.initial import class_major


class MethodContract(TaskContract):
    """What every method must satisfy.

    Attributes:
        class_major: the initial set holds K * ipc images, all of class 0 first, then class 1, and so on. A method that
            declares ``whole_split`` is never asked for that.
    """

    registry = methods
    class_major: ClassVar[bool] = True

    def use(self, part: Method, step: int) -> list[Tensor]:
        """Return the losses of an iteration from the initial set on."""
        return self._losses(part, learned(part.setup(self.task())), step)

    def test_fits_the_example(self, spec: Spec) -> None:
        """Nothing is found wrong with the example task."""
        assert self.build(spec).problems(self.task()) == []

    def test_the_initial_set_is_complete(self, spec: Spec) -> None:
        """Images are finite, of the data's shape and precision; classes and normalisation are the data's."""
        method, task = self.build(spec), self.task()
        synthetic = method.setup(task)
        assert isinstance(synthetic, SyntheticSet)
        assert synthetic.images.shape[1:] == task.data.image_shape
        assert synthetic.images.dtype == task.train.images.dtype
        assert torch.isfinite(synthetic.images).all()
        assert synthetic.class_names == task.data.class_names
        assert synthetic.normalisation == task.data.normalisation
        if self.class_major and not method.whole_split:
            assert len(synthetic.images) == len(task.data.class_names) * task.ipc
            assert synthetic.soft or torch.equal(synthetic.labels, class_major(task))

    def test_the_set_has_ipc_images_of_every_class(self, spec: Spec) -> None:
        """No more and no fewer than asked for, in whatever order; as many are trained on as the method announces."""
        for ipc in (1, 3):
            method, task = self.build(spec), replace(self.task(), ipc=ipc)
            synthetic = method.setup(task)
            if not method.whole_split:
                try:
                    synthetic.check_ipc(ipc)
                except ValueError as error:
                    raise AssertionError(f"{error}") from None
                assert len(synthetic) == method.training_images(len(task.data.class_names), ipc)

    def test_real_images_are_named_as_such(self, spec: Spec) -> None:
        """``images_are`` is one of its words; of "real" ones, each is a training image of its class."""
        method, task = self.build(spec), self.task()
        assert method.images_are in get_args(ImagesAre)
        if method.images_are == "real":
            synthetic = method.setup(task)
            assert all_real(synthetic.images, synthetic.labels, task)

    def test_losses_are_finite_scalars_with_gradient(self, spec: Spec) -> None:
        """Every term is 0-d and finite, and so are its gradients with respect to what is learned."""
        method = self.build(spec)
        synthetic = learned(method.setup(self.task()))
        for step in range(3):
            for term in method.losses(synthetic, step):
                assert isinstance(term, LossTerm)
                assert is_scalar_loss(term.loss)
                assert torch.isfinite(term.loss)
                assert term.loss.requires_grad, "the loss depends on nothing that is learned"
                term.loss.backward()
                gradients = [tensor.grad for tensor in leaves(synthetic) if tensor.grad is not None]
                assert gradients
                assert all(torch.isfinite(gradient).all() for gradient in gradients)
                {name: float(value) for name, value in term.logs.items()}
            method.after_step(step)

    def test_reads_the_training_split_only(self, spec: Spec) -> None:
        """Neither validation nor test images are looked at."""
        task = self.task()
        method = self.build(spec)
        data = replace(task.data, validation=None, test=None)  # type: ignore[arg-type]
        self._losses(method, learned(method.setup(replace(task, data=data))), 0)

    def test_announces_the_experts_it_reads(self, spec: Spec) -> None:
        """Experts are opened up to ``last_expert_epoch()`` and no further, so that enough of them are trained."""
        task, opened = self.task(), [0]

        def experts(epoch: int) -> Trajectories:
            opened.append(epoch)
            return task.experts(epoch)

        method = self.build(spec)
        synthetic = learned(method.setup(replace(task, experts=experts)))
        for step in range(3):
            self._losses(method, synthetic, step)
        assert max(opened) <= method.last_expert_epoch()

    def test_the_same_seed_gives_the_same_bits(self, spec: Spec) -> None:
        """The initial set and the losses are decided by the task's seeds."""
        runs = []
        for method in (self.build(spec), self.build(spec)):
            synthetic = learned(method.setup(self.task()))
            start = [synthetic.images.detach().clone(), synthetic.labels.detach().clone()]
            runs.append([*start, *(loss for step in range(2) for loss in self._losses(method, synthetic, step))])
        assert same(*runs)

    def test_state_round_trip(self, spec: Spec) -> None:
        """A method that takes back its state goes on as if it had never stopped, given the same synthetic set."""
        going_on, resumed = self.build(spec), self.build(spec)
        synthetic = learned(going_on.setup(self.task()))
        resumed.setup(self.task())
        for step in range(3):
            self._losses(going_on, synthetic, step)
        resumed.load_state_dict(stored(going_on.state_dict()))
        copy = learned(synthetic)
        for step in range(3, 6):
            assert same(self._losses(going_on, synthetic, step), self._losses(resumed, copy, step))
            assert same(leaves(synthetic), leaves(copy))

    def test_side_by_side_each_goes_as_alone(self, spec: Spec) -> None:
        """Two runs whose asks are answered together learn what each learns alone, up to rounding."""
        compute = replace(self.task().compute, stacked=True)
        tasks = [replace(self.task(), compute=compute, seeds=self.task().seeds.child(number)) for number in range(2)]
        expected = [alone(self._learning(self.build(spec), task)) for task in tasks]
        found = together({str(at): self._learning(self.build(spec), task) for at, task in enumerate(tasks)})
        for theirs, mine in zip(expected, found.values(), strict=True):
            assert not isinstance(mine, BaseException), mine
            for one, other in zip(mine, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    def _learning(self, method: Method, task: Task) -> Asking[list[Tensor]]:
        """Step down the losses of two iterations as the engine does; return what was learned."""
        rates = {"images": 1e-3, "labels": 1e-3, "step_size": 1e-6}
        settings = Distillation.model_validate({name: {"learning_rate": rate} for name, rate in rates.items()})
        synthetic = method.setup(task)
        optimisers = Optimisers(synthetic, settings, shared=True)
        for step in range(2):
            losses = method.losses_side_by_side(synthetic, step)
            yield from with_each(losses, lambda term: optimisers.step_side_by_side(term.loss))
            method.after_step(step)
        return [tensor.detach() for tensor in leaves(synthetic)]

    def _losses(self, method: Method, synthetic: SyntheticSet, step: int) -> list[Tensor]:
        """Return an iteration's losses; what is learned takes a small step down each of them."""
        losses = list(_descend(method, synthetic, step))
        method.after_step(step)
        return losses


def _descend(method: Method, synthetic: SyntheticSet, step: int) -> Iterator[Tensor]:
    for term in method.losses(synthetic, step):
        for tensor in leaves(synthetic):
            tensor.grad = None
        if term.loss.requires_grad:
            term.loss.backward()
            with torch.no_grad():
                for tensor in leaves(synthetic):
                    if tensor.grad is not None:
                        tensor -= 1e-4 * tensor.grad
        yield term.loss.detach()


def leaves(synthetic: SyntheticSet) -> list[Tensor]:
    """Return what is learned: images, soft labels, step size."""
    labels = [synthetic.labels] if synthetic.soft else []
    return [synthetic.images, *labels, *([] if synthetic.step_size is None else [synthetic.step_size])]


def learned(synthetic: SyntheticSet) -> SyntheticSet:
    """Return a copy whose tensors are leaves that require gradients, as the engine makes them."""
    copy = synthetic.detached()
    for tensor in leaves(copy):
        tensor.requires_grad_()
    return copy
