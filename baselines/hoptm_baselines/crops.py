"""RDED: crops of training images that experts find easiest, alone or tiled, and sets of which nothing is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, pad

from hoptm_baselines.real_batches import BLOCK
from hoptm_plugin import (
    ConfigurationError,
    Initialiser,
    LabelPolicy,
    LossTerm,
    Method,
    SyntheticSet,
    Task,
    class_major,
    network_problems,
    register,
    teachers,
)


@register("scored_crops")
class ScoredCrops(Initialiser):
    """Crops of training images that an expert finds easiest: the best of each image, of these the best, tiled (RDED).

    Of each of n images of class c, x_i, crops are drawn: a share a ~ U(area) of the image, in its shape, at a uniformly
    random place, resized to P of side/factor. l_i = min over its crops of CE(f(fit(P)), c), f an expert. The factor^2 *
    ipc crops of smallest l_i, ascending, are P_0, P_1, ...; tile k of image j is P_(k * ipc + j), in reading order.
    Whoever trains on such an image sees it whole: it is no mosaic that is taken apart, as IDM's are.

    Args:
        candidates: n, random training images per class; where a class has fewer, all of them.
        crops: of each.
        area: smallest and largest share of an image that a crop takes.
        factor: tiles per side; 1 gives single crops.
        fit: how a tile becomes as large as what the expert knows: "pad" puts it into the middle of zeros in normalised
            space, which are the mean colour; "enlarge" resizes it. The same for factor 1.
        observers: experts, from the first on, whose losses are averaged.
        teacher_epoch: expert epoch whose parameters score.

    Source: RDED (Sun et al. 2024, arXiv 2312.03526); docs/methods.md 21. Deviates: crops of images that are not square
    keep their shape. What is whitened is cropped as it is.
    """

    cites = ("sun2024rded",)

    def __init__(
        self,
        candidates: int = 300,
        crops: int = 5,
        area: tuple[float, float] = (0.08, 1.0),
        factor: int = 1,
        fit: Literal["pad", "enlarge"] = "pad",
        observers: int = 1,
        teacher_epoch: int = 50,
    ) -> None:
        if min(candidates, crops, factor, observers, teacher_epoch) < 1:
            raise ValueError("candidates, crops, factor, observers and teacher_epoch must be at least 1")
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError("area must be two shares above 0 and up to 1, the smaller one first")
        self.candidates, self.crops, self.area, self.factor = candidates, crops, area, factor
        self.fit, self.observers, self.teacher_epoch = fit, observers, teacher_epoch
        # where smaller crops may be drawn, single ones that take all of an image are real ones as well
        self.images_are = "real" if factor == 1 and area == (1, 1) else "from_real"

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read."""
        return self.teacher_epoch

    def problems(self, task: Task) -> list[str]:
        """Return why there are too few crops, tiles do not fit into an image, or no expert can score."""
        found, (_, height, width) = [], task.data.image_shape
        if height % self.factor or width % self.factor:
            found.append(f"factor: images of {height}x{width} pixels are no {self.factor}x{self.factor} equal tiles")
        needed, short = self.factor**2 * task.ipc, []
        for label, name in enumerate(task.data.class_names):
            count = min(self.candidates, len(task.train.of_class(label)))
            if count < needed:
                short.append(f"{count} of {name!r}")
        if short:
            found.append(f"candidates: factor={self.factor} with ipc={task.ipc} takes crops of {needed} images of each "
                         f"class, but looks at {', '.join(short[:3])}{', ...' if len(short) > 3 else ''}; lower ipc or "
                         f"factor, or raise candidates where the class has more images")  # fmt: skip
        if task.expert_count is not None and task.expert_count < self.observers:
            found.append(self._too_few(task.expert_count))
        images, classes = task.train.batch(slice(0, 2)), len(task.data.class_names)
        unfit = network_problems(task.network(torch.Generator()), images, "no_randomness", "no_state", classes=classes)
        return [*found, *(f"teacher_epoch: no expert can score crops: {problem}" for problem in unfit)]

    @torch.no_grad()
    def images(self, task: Task) -> Tensor:
        """Return images (K * ipc, C, H, W).

        Raises:
            ConfigurationError: there are fewer experts than observers.
        """
        observers = list(islice(teachers(task, self.teacher_epoch), self.observers))
        if len(observers) < self.observers:
            raise ConfigurationError(f"method.initial_images.{self._too_few(len(observers))}")
        return torch.cat([self._of_class(task, label, observers) for label in range(len(task.data.class_names))])

    def _too_few(self, experts: int) -> str:
        return (f"observers: {self.observers} experts are to score, but there are {experts}; set "
                f"experts.count={self.observers}")  # fmt: skip

    def _of_class(self, task: Task, label: int, observers: list[Callable[[Tensor], Tensor]]) -> Tensor:
        """Return the images (ipc, C, H, W) of one class."""
        generator, members = task.seeds.generator("scored crops", label), task.train.of_class(label)
        rows = members[torch.randperm(len(members), generator=generator)[: self.candidates].to(members.device)]
        boxes = draw_boxes(len(rows), self.crops, self.area, task.data.image_shape[1:], generator)
        losses, at_once = [], max(1, BLOCK // self.crops)
        for some, theirs in zip(rows.split(at_once), boxes.split(at_once), strict=True):
            crops = self._cropped(task.train.batch(some).repeat_interleave(self.crops, dim=0), theirs.flatten(0, 1))
            shown = self._fitted(crops, task.data.image_shape[1:])
            target = torch.full((len(shown),), label, device=shown.device)
            seen = [cross_entropy(observer(shown), target, reduction="none") for observer in observers]
            losses.append(torch.stack(seen).mean(dim=0).unflatten(0, (-1, self.crops)))
        best, crop = torch.cat(losses).cpu().min(dim=1)
        chosen = best.argsort(stable=True)[: self.factor**2 * task.ipc]
        patches = self._cropped(task.train.batch(rows[chosen.to(rows.device)]), boxes[chosen, crop[chosen]])
        return tiled(patches, self.factor)

    def _cropped(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Return the crop of each image (n, C, H, W) by its box (n, 4), resized to (n, C, H / factor, W / factor)."""
        from torchvision.transforms.v2.functional import resized_crop  # takes as long to import as half of torch

        size = [side // self.factor for side in images.shape[2:]]
        pairs = zip(images, boxes.tolist(), strict=True)
        return torch.stack([resized_crop(image, *box, size=size, antialias=True) for image, box in pairs])

    def _fitted(self, crops: Tensor, size: tuple[int, int]) -> Tensor:
        """Return crops (n, C, h, w) as large as images, (n, C, H, W)."""
        if crops.shape[2:] == size:
            return crops
        if self.fit == "enlarge":
            return interpolate(crops, size=size, mode="bilinear", align_corners=False)
        spare, more = (whole - part for whole, part in zip(size, crops.shape[2:], strict=True))
        return pad(crops, (more // 2, more - more // 2, spare // 2, spare - spare // 2))


def draw_boxes(
    images: int, crops: int, area: tuple[float, float], size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Draw ``crops`` boxes of each image: (top, left, height, width), int64 (images, crops, 4), on the CPU.

    Each takes a uniformly drawn share of the area, in the image's shape up to rounding, and lies anywhere inside.
    """
    drawn = torch.rand(images, crops, 3, generator=generator, dtype=torch.float64)
    share = (area[0] + (area[1] - area[0]) * drawn[..., 0]).sqrt()
    places, sides = [], []
    for number, whole in enumerate(size, start=1):
        side = (share * whole).round().clamp(1, whole)
        places.append((drawn[..., number] * (whole - side + 1)).floor().minimum(whole - side))
        sides.append(side)
    return torch.stack([*places, *sides], dim=-1).long()


def tiled(patches: Tensor, factor: int) -> Tensor:
    """Put patches (factor^2 * n, C, h, w) together: tile k, in reading order, of image j is patch k * n + j.

    Returns (n, C, factor * h, factor * w).
    """
    grid = patches.unflatten(0, (factor, factor, -1))  # row, column, image
    return grid.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)


@register("initial_set")
class InitialSet(Method):
    """The initial images with their labels as they are; nothing is learned.

    Args:
        initial_images: the images.
        labels: label policy.

    The protocol's own learning rate trains on it (docs/methods.md 21). Deviates from RDED: soft labels are those of the
    images as they are stored, not of every augmented view of them, which would make an expert a part of the set.
    """

    def __init__(self, initial_images: Initialiser, labels: LabelPolicy) -> None:
        self.initial_images, self.labels = initial_images, labels
        self.images_are = initial_images.images_are

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read."""
        return max(self.initial_images.last_expert_epoch(), self.labels.last_expert_epoch())

    def problems(self, task: Task) -> list[str]:
        """Return why images or labels do not fit, or no experts of the network can be read for them."""
        found = [f"method.initial_images.{problem}" for problem in self.initial_images.problems(task)]
        found += [f"method.labels.{problem}" for problem in self.labels.problems(task)]
        if found or not self.last_expert_epoch():
            return found
        images, classes = task.train.batch(slice(0, 2)), len(task.data.class_names)
        return network_problems(task.network(torch.Generator()), images, "no_randomness", "no_state", classes=classes)

    def setup(self, task: Task) -> SyntheticSet:
        """Return the set."""
        images = self.initial_images.images(task)
        self.images_are = self.initial_images.images_are  # it may know better by now
        labels = self.labels.initial(images, class_major(task), task)
        return SyntheticSet(images, labels, None, task.data.class_names, task.data.normalisation)

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield nothing."""
        yield from ()
