"""Label policies: fixed class indices, or logits that are learned with the images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hoptm_plugin.core.interfaces import LabelPolicy, Task
from hoptm_plugin.core.registry import register
from hoptm_plugin.trajectory.teachers import AT_ONCE, teachers


@register("hard")
class HardLabels(LabelPolicy):
    """Fixed class indices (MTT, FTD, ATT, HoP-TM)."""

    def initial(self, images: Tensor, classes: Tensor, task: Task) -> Tensor:
        """Return ``classes``."""
        return classes.clone()


@register("soft")
class SoftLabels(LabelPolicy):
    """Logits, learned with the images; the student trains on softmax(logits) (DATM).

    Args:
        start: "experts" averages, per image, the logits of all experts that classify it correctly (of all experts if
            none does); "one_hot" starts from probability ``confidence`` for the image's class, the rest shared evenly.
        teacher_epoch: expert epoch whose parameters give the logits.
        confidence: for "one_hot".

    Source: DATM (Guo et al. 2023); docs/methods.md 7. Deviates: the released code divides by zero where no expert is
    right.
    """

    cites = ("guo2024datm",)

    def __init__(
        self, start: Literal["experts", "one_hot"] = "experts", teacher_epoch: int = 50, confidence: float = 0.99
    ) -> None:
        if not 0 < confidence < 1:
            raise ValueError("confidence must lie between 0 and 1")
        self.start, self.teacher_epoch, self.confidence = start, teacher_epoch, confidence

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read."""
        return self.teacher_epoch if self.start == "experts" else 0

    @torch.no_grad()
    def initial(self, images: Tensor, classes: Tensor, task: Task) -> Tensor:
        """Return logits (n, K)."""
        count = len(task.data.class_names)
        if self.start == "one_hot":
            rest = (1 - self.confidence) / max(count - 1, 1)
            return torch.where(one_hot(classes, count).bool(), self.confidence, rest).log().to(images)
        logits = torch.stack([torch.cat([teacher(batch) for batch in images.split(AT_ONCE)])
                              for teacher in teachers(task, self.teacher_epoch)])  # fmt: skip
        correct = (logits.argmax(dim=2) == classes).to(logits).unsqueeze(2)
        correct = torch.where(correct.sum(dim=0) > 0, correct, torch.ones_like(correct))
        return (logits * correct).sum(dim=0) / correct.sum(dim=0)
