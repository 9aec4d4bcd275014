"""DC and DSA: match gradients along a network that is trained on the synthetic set."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from hoptm_baselines.real_batches import real_batch
from hoptm_plugin import (
    Excerpt,
    GradientMatcher,
    GradientPair,
    Initialiser,
    LossTerm,
    Method,
    SyntheticSet,
    Task,
    class_major,
    network_problems,
    register,
)

TWICE = 3  # times what an image costs that goes forward and backward, one whose gradient is differentiated costs


@register("gradient_matching")
class GradientMatching(Method):
    """Matches gradients by real and by synthetic images, along a network that is trained on the latter (DC, DSA).

    An iteration has a fresh network theta and takes ``outer_steps`` steps on the images:

    L = sum_c matcher(grad l(theta; A(real_c)), grad l(theta; A(S_c)))

    with l the mean cross-entropy, grad by theta, ``real_batch`` real images of class c and all its synthetic ones.
    Between two of them theta is trained for ``inner_epochs`` on the synthetic set as it is then. Images alone are
    learned; labels are hard.

    Args:
        matcher: compares the gradients of one class.
        initial_images: where distillation starts.
        real_batch: real images per class and step, without replacement.
        outer_steps: steps on the images per iteration.
        inner_epochs: passes over the synthetic set between two of them, shuffled; a short last batch is kept.
        inner_batch: images per step of that training.
        inner_learning_rate: of that training: plain SGD.
        augmented: whether A is the run's augmentation: one Siamese draw per class and step for real and synthetic
            images, and a draw of its own for each image in the training (DSA). False: A is the identity (DC), while the
            set is judged as that of any other method.

    Source: DC (Zhao et al. 2021, arXiv 2006.05929), Algorithm 1; DSA (Zhao & Bilen 2021, arXiv 2102.08259);
    docs/methods.md 15 and 16. The gradient of L is exact, and made class by class, so that one class's graph is held.
    Deviates: networks that keep running statistics are refused; the released code has a treatment of its own for them.
    """

    cites = ("zhao2021dc",)

    def __init__(
        self,
        matcher: GradientMatcher,
        initial_images: Initialiser,
        real_batch: int = 256,
        outer_steps: int = 1,
        inner_epochs: int = 1,
        inner_batch: int = 256,
        inner_learning_rate: float = 0.01,
        augmented: bool = True,
    ) -> None:
        numbers = {"real_batch": real_batch, "outer_steps": outer_steps, "inner_epochs": inner_epochs,
                   "inner_batch": inner_batch}  # fmt: skip
        if low := [name for name, number in numbers.items() if number < 1]:
            raise ValueError(f"{low[0]} must be at least 1")
        if not inner_learning_rate > 0:
            raise ValueError("inner_learning_rate must be above 0")
        self.matcher, self.initial_images, self.augmented = matcher, initial_images, augmented
        self.real_batch, self.outer_steps = real_batch, outer_steps
        self.inner_epochs, self.inner_batch = inner_epochs, inner_batch
        self.inner_learning_rate = inner_learning_rate
        self.images_are = initial_images.images_are

    def last_expert_epoch(self) -> int:
        """Return what the initial images need; the matching needs none."""
        return self.initial_images.last_expert_epoch()

    def problems(self, task: Task) -> list[str]:
        """Return why the initial images do not fit, or the network's gradients cannot be matched."""
        own = [f"method.initial_images.{problem}" for problem in self.initial_images.problems(task)]
        network, images = task.network(torch.Generator()), task.train.batch(slice(0, 2))
        needs = network_problems(network, images, "no_randomness", "no_state", classes=len(task.data.class_names))
        return [*own, *(needs or _twice_problems(network, images))]

    def setup(self, task: Task) -> SyntheticSet:
        """Return the initial synthetic set."""
        self._task = task
        images = self.initial_images.images(task)
        self.images_are = self.initial_images.images_are  # it may know better by now
        return SyntheticSet(images, class_major(task), None, task.data.class_names, task.data.normalisation)

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield the sum over classes, once for each outer step."""
        network = self._task.network(self._task.seeds.generator("network", step)).train().requires_grad_()
        for outer in range(self.outer_steps):
            if outer:
                self._train(network, synthetic, step, outer)
            loss = self._matched(network, synthetic, step, outer)
            yield LossTerm(loss, watched=loss.detach())

    def _matched(self, network: nn.Module, synthetic: SyntheticSet, step: int, outer: int) -> Tensor:
        """Return L, with its gradient by the images alone behind it and no more of its graph."""
        images, losses = synthetic.images, []
        gradient = torch.zeros_like(images)
        for label in range(len(synthetic.class_names)):
            members = synthetic.labels == label
            own = images[members].detach().requires_grad_()
            real, shown = self._batches(own, step, outer, label)
            theirs = [part.detach() for part in _gradient(network, real, label)]
            ours = _gradient(network, shown, label, differentiable=True)
            loss = self.matcher.loss(GradientPair(theirs, ours, label, step))
            (gradient[members],) = torch.autograd.grad(loss, own)  # no other class depends on these images
            losses.append(loss.detach())
        return torch.stack(losses).sum() + ((images - images.detach()) * gradient).sum()

    def _batches(self, own: Tensor, step: int, outer: int, label: int) -> tuple[Tensor, Tensor]:
        """Return real and synthetic images of one class, augmented alike."""
        task = self._task
        real = real_batch(task, label, self.real_batch, task.seeds.generator("real", step, outer, label))
        if not self.augmented:
            return real, own
        generator = task.seeds.generator("augmentation", step, outer, label)
        draw = task.augmentation.draw(len(real), task.data.image_shape, generator, siamese=True)
        return task.augmentation.apply(real, draw), task.augmentation.apply(own, draw)

    def _train(self, network: nn.Module, synthetic: SyntheticSet, step: int, outer: int) -> None:
        """Train the network on the synthetic set, before the given outer step."""
        task, images = self._task, synthetic.images.detach()
        orders, draws = (task.seeds.generator(name, step, outer) for name in ("inner order", "inner augmentation"))
        optimiser = torch.optim.SGD(network.parameters(), self.inner_learning_rate)
        for _ in range(self.inner_epochs):
            order = torch.randperm(len(images), generator=orders).to(images.device)
            for rows in order.split(self.inner_batch):
                batch = task.augmentation(images[rows], draws) if self.augmented else images[rows]
                optimiser.zero_grad()
                cross_entropy(network(batch), synthetic.labels[rows]).backward()
                optimiser.step()

    def image_passes(self, classes: int, ipc: int) -> float:
        """Return the images of all steps, synthetic ones more than once, and those of the training between."""
        return self._passes(classes, ipc, self.real_batch)

    def _passes(self, classes: int, ipc: int, real: int) -> float:
        matched = self.outer_steps * (real + TWICE * ipc)
        return classes * (matched + (self.outer_steps - 1) * self.inner_epochs * ipc)

    def excerpt(self, share: float, task: Task) -> Excerpt:
        """Return it with fewer steps, of which two let the network be trained, fewer real images and inner epochs."""
        if share >= 1:
            return Excerpt(self)
        part, classes = copy.copy(self), len(task.data.class_names)
        part.outer_steps = max(min(2, self.outer_steps), round(share * self.outer_steps))
        rest = share * self.outer_steps / part.outer_steps  # of what is done in each step
        members = len(task.train) // classes
        shown = max(task.ipc, round(share * members))  # of each class, which is what a try has
        real = min(self.real_batch, members)
        part.real_batch = max(1, min(round(rest * real), real, shown))
        trained = share * (self.outer_steps - 1) * self.inner_epochs
        part.inner_epochs = max(1, round(trained / max(1, part.outer_steps - 1)))
        time = part._passes(classes, task.ipc, part.real_batch) / self._passes(classes, task.ipc, real)
        held = [max(images, TWICE * task.ipc, min(self.inner_batch, classes * task.ipc))
                for images in (part.real_batch, real)]  # fmt: skip
        return Excerpt(part, min(1.0, time), held[0] / held[1])


def _gradient(network: nn.Module, images: Tensor, label: int, differentiable: bool = False) -> tuple[Tensor, ...]:
    """Return the gradient of the mean cross-entropy of images of one class by each parameter tensor."""
    labels = torch.full((len(images),), label, device=images.device)
    with sdpa_kernel(SDPBackend.MATH):  # attention's fused kernels can be differentiated only once
        loss = cross_entropy(network(images), labels)
    return torch.autograd.grad(loss, list(network.parameters()), create_graph=differentiable, materialize_grads=True)


def _twice_problems(network: nn.Module, images: Tensor) -> list[str]:
    """Return why a network's training step cannot be differentiated twice, by trying it."""
    images = images.detach().requires_grad_()
    try:
        parts = _gradient(network.train().requires_grad_(), images, 0, differentiable=True)
        # not by the images alone: what lies on no way to them would not be looked at
        torch.stack([part.sum() for part in parts]).sum().backward()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        return [
            f"network {type(network).__name__}: a training step cannot be differentiated twice, which matching "
            f"gradients needs ({reason}); replace that operation in its forward pass, or only evaluate on this "
            f"network: networks=[...]"
        ]
    return []
