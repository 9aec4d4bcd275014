"""A third party's matcher: the whole of a plug-in's Python."""

import torch

from hoptm_plugin import Matcher, TrajectoryPair, register


@register("direction")
class Direction(Matcher):
    """Angle between the student's and the expert's way from start to end: 1 - cosine."""

    def loss(self, pair: TrajectoryPair) -> torch.Tensor:
        """Return the loss, 0-d."""
        expert, student = pair.expert[-1] - pair.expert[0], pair.student[-1] - pair.student[0]
        return 1 - torch.cosine_similarity(expert, student, dim=0)
