"""Match class features under networks of stored experts, with a cross-entropy under later ones (TGDD, NCFM)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters

from hoptm_baselines.mosaics import mosaic_problems, real_mosaics
from hoptm_baselines.real_batches import feature_problems, real_batch, real_features, with_fewer_images
from hoptm_plugin import (
    Ask,
    Excerpt,
    FeatureMatcher,
    FeaturePair,
    Features,
    LossTerm,
    Method,
    SyntheticSet,
    Task,
    class_major,
    expand_mosaic,
    register,
    terms,
)


@register("features_along_experts")
class FeaturesAlongExperts(Method):
    """Matches features of real and synthetic images of a class under networks of a stored expert.

    L_c = matcher(phi(A(real_c)), phi(A(S_c))) + ce_weight * CE(f(A(S_c)), c)

    with phi the features before the classifier of the network that matches, f the one that classifies, A one Siamese
    draw of the augmentation for both sides, and S_c all synthetic images of class c, or all tiles of its mosaics.
    Both networks are of one expert, which each iteration draws. Images alone are learned; labels are hard.

    Args:
        matcher: compares the features of one class.
        networks: "snapshots" (TGDD): phi after epoch s ~ U{0 ... last_epoch}, f after epoch
            e ~ U{s ... min(s + window - 1, last_epoch)}; or "mixed" (NCFM): phi has the parameters
            l theta_0 + (1 - l) theta_last with l ~ U(0, 1), f those after ``last_epoch``.
        last_epoch: of the experts.
        window: epochs that e may be drawn of; of snapshots alone.
        ce_weight: of the cross-entropy; at 0 nothing is classified.
        ce_steps: "shared" (TGDD) adds the cross-entropy to the distance; "own" (NCFM): after all classes have been
            matched, it takes steps of its own, under an augmentation of its own.
        real_batch: real images per class and iteration, without replacement.
        mosaic: tiles per side of each stored image; 1 stores images as they are.
        clamp: bring the images back into the range of pixels, [0, 1] before normalisation, when an iteration begins.
        stepping: "per_class": a step after each class, while others move along by momentum; or "joint": one for all.

    Source: TGDD (Ran et al. 2026, arXiv 2512.02469), docs/methods.md 17, and NCFM (Wang et al. 2025, arXiv
    2502.20653), docs/methods.md 18.
    Deviates: images start as random real ones, shrunk bilinearly into tiles (released: the first of a class, by nearest
    neighbours). Released experts augment by CutMix too, and their rate decays.
    """

    cites = ("ran2026tgdd", "wang2025ncfm")

    @classmethod
    def cited(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the paper whose networks are matched."""
        return cls.cites[1:] if settings.get("networks") == "mixed" else cls.cites[:1]

    def __init__(
        self,
        matcher: FeatureMatcher,
        networks: Literal["snapshots", "mixed"] = "snapshots",
        last_epoch: int = 60,
        window: int = 7,
        ce_weight: float = 1.0,
        ce_steps: Literal["shared", "own"] = "shared",
        real_batch: int = 128,
        mosaic: Literal[1, 2] = 1,
        clamp: bool = True,
        stepping: Literal["per_class", "joint"] = "per_class",
    ) -> None:
        if min(last_epoch, window, real_batch) < 1 or ce_weight < 0:
            raise ValueError("last_epoch, window and real_batch must be at least 1, ce_weight at least 0")
        self.matcher, self.networks, self.last_epoch, self.window = matcher, networks, last_epoch, window
        self.ce_weight, self.ce_steps, self.real_batch = ce_weight, ce_steps, real_batch
        self.mosaic, self.clamp, self.stepping = mosaic, clamp, stepping
        self.images_are = "real" if mosaic == 1 else "from_real"

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read."""
        return self.last_epoch

    def problems(self, task: Task) -> list[str]:
        """Return what does not fit together."""
        found = [*feature_problems(task, "no_state"), *mosaic_problems(task, self.mosaic)]
        if self.clamp and task.data.normalisation.kind == "zca":
            found.append("method.clamp: whitened images have no range of pixels to be brought back to;"
                         " set method.clamp=false or dataset.preprocess.zca=false")  # fmt: skip
        return found

    def setup(self, task: Task) -> SyntheticSet:
        """Open the experts and return the initial synthetic set."""
        self._task, self._experts = task, task.experts(self.last_epoch)
        # their parameters come of the experts
        self._matching, self._classifying = (
            task.network(task.seeds.generator("container")).eval().requires_grad_(False) for _ in range(2)
        )
        images, names = real_mosaics(task, self.mosaic), task.data.class_names
        return SyntheticSet(images, class_major(task), None, names, task.data.normalisation, mosaic=self.mosaic)

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield one term per class or for all, and as many of the cross-entropy where it steps by itself."""
        yield from terms(self._losses(synthetic, step))

    def losses_side_by_side(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        """Yield the same, and ask for the features."""
        yield from self._losses(synthetic, step)

    def _losses(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        self._load(self._task.seeds.generator("networks", step))
        if self.clamp:
            _clamp(synthetic)
        classes = list(range(len(synthetic.class_names)))
        groups = [[label] for label in classes] if self.stepping == "per_class" else [classes]
        shared = self.ce_steps == "shared"
        for labels in groups:
            parts = []
            for label in labels:
                parts.append((yield from self._matched(synthetic, label, step, shared)))
            yield _summed(parts)
        for labels in [] if shared or not self.ce_weight else groups:
            parts = []
            for label in labels:
                generator = self._task.seeds.generator("calibration", step, label)
                own = self._shown(synthetic, label)
                draw = self._task.augmentation.draw(len(own), self._task.data.image_shape, generator, siamese=True)
                parts.append((yield from self._classified(self._task.augmentation.apply(own, draw), label)))
            yield _summed(parts)

    def _load(self, generator: torch.Generator) -> None:
        """Draw an expert, and give its parameters to the network that matches and the one that classifies."""
        expert = int(torch.randint(len(self._experts), (), generator=generator))
        if self.networks == "snapshots":
            epochs = drawn_epochs(self.last_epoch, self.window, generator)
            matching, classifying = (self._experts.segment(expert, epoch, epoch)[0] for epoch in epochs)
        else:
            share = float(torch.rand((), generator=generator))
            first, classifying = (self._experts.segment(expert, epoch, epoch)[0] for epoch in (0, self.last_epoch))
            matching = share * first + (1 - share) * classifying
        vector_to_parameters(matching, self._matching.parameters())
        vector_to_parameters(classifying, self._classifying.parameters())

    def _shown(self, synthetic: SyntheticSet, label: int) -> Tensor:
        """Return the synthetic images of one class, or their tiles."""
        return expand_mosaic(synthetic.images[synthetic.labels == label], synthetic.mosaic)

    def _matched(
        self, synthetic: SyntheticSet, label: int, step: int, classify: bool
    ) -> Generator[Ask[Any], Any, LossTerm]:
        """Return the matcher's loss of one class, with its cross-entropy or without."""
        task = self._task
        real = real_batch(task, label, self.real_batch, task.seeds.generator("real", step, label))
        generator = task.seeds.generator("augmentation", step, label)
        draw = task.augmentation.draw(len(real), task.data.image_shape, generator, siamese=True)
        own = task.augmentation.apply(self._shown(synthetic, label), draw)
        seen = yield from real_features(self._matching, task.augmentation.apply(real, draw), task)
        shown = yield Features(self._matching, own, task)
        pair = FeaturePair(seen, shown, label, step, task.seeds.generator("matcher", step, label))
        matched = self.matcher.loss(pair)
        term = LossTerm(matched, {"matched": matched.detach()})
        if not (classify and self.ce_weight):
            return term
        return _summed([term, (yield from self._classified(own, label))])

    def _classified(self, own: Tensor, label: int) -> Generator[Ask[Any], Any, LossTerm]:
        """Return the weighted cross-entropy of augmented synthetic images of one class."""
        network: nn.Module = self._classifying
        logits = network.classifier((yield Features(network, own, self._task)))  # type: ignore[operator]
        entropy = cross_entropy(logits, torch.full((len(logits),), label, device=logits.device))
        return LossTerm(self.ce_weight * entropy, {"cross_entropy": entropy.detach()})

    def training_images(self, classes: int, ipc: int) -> int:
        """Return the number of tiles."""
        return classes * ipc * self.mosaic**2

    def image_passes(self, classes: int, ipc: int) -> float:
        """Return the synthetic images, once more where they are classified, and a third of the real ones."""
        passes = 2 if self.ce_weight else 1
        return passes * self.training_images(classes, ipc) + classes * self.real_batch / 3

    def excerpt(self, share: float, task: Task) -> Excerpt:
        """Return it with fewer real images."""
        if share >= 1:
            return Excerpt(self)
        return with_fewer_images(self, share, task, "real_batch")


def drawn_epochs(last: int, window: int, generator: torch.Generator) -> tuple[int, int]:
    """Return s ~ U{0 ... last} and e ~ U{s ... min(s + window - 1, last)}."""
    first = int(torch.randint(last + 1, (), generator=generator))
    ahead = min(window, last + 1 - first)
    return first, first + int(torch.randint(ahead, (), generator=generator))


@torch.no_grad()
def _clamp(synthetic: SyntheticSet) -> None:
    """Bring images back into the range of pixels, in place: they are what the optimiser steps on."""
    lowest, highest = (synthetic.normalisation.apply(torch.full_like(synthetic.images[:1], end)) for end in (0.0, 1.0))
    synthetic.images.clamp_(lowest, highest)


def _summed(parts: list[LossTerm]) -> LossTerm:
    """Return the sum of terms, and what they log, of several the mean."""
    names = {name for part in parts for name in part.logs}
    logs = {}
    for name in sorted(names):
        logs[name] = torch.stack([torch.as_tensor(part.logs[name]) for part in parts if name in part.logs]).mean()
    return LossTerm(torch.stack([part.loss for part in parts]).sum(), logs)
