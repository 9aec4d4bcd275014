"""Building a store of experts: which are missing, who trains them, and where what is there goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import Split
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.core.interfaces import Augmentation
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.experts.difficulty import in_order, scored, scoring_seconds
from hoptm_plugin.experts.store import Begun, ExpertStore, StoredTrajectories
from hoptm_plugin.experts.training import train_experts
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.networks.needs import network_problems
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.memory import memory_named
from hoptm_plugin.runtime.progress import Progress, ProgressFactory
from hoptm_plugin.runtime.starving import Starvation

LOOK_EVERY = 1.0  # seconds between looks at others' experts
SCORING = "experts that score images"
NEEDS_LESS = "set runtime.parallel_networks=1, or take a smaller experts.training.batch (these are other experts)"


def build_experts(
    store: ExpertStore,
    create: Callable[[torch.Generator], nn.Module],
    split: Split,
    augmentation: Augmentation,
    count: int,
    epochs: int,
    progress: ProgressFactory,
    compute: Compute | None = None,
    title: str = "experts",
) -> StoredTrajectories:
    """Train the experts that the store lacks, or holds for fewer epochs, and return the first ``count``.

    Any number of processes may do so at once: each takes the next expert that nobody trains, and waits in the end for
    those that others train. Each is written when it is finished; what an interruption leaves of one is gone on from.
    A curriculum has its images scored before, by experts without one, which are built in the same way.

    Raises:
        ConfigurationError: the network draws random numbers or keeps running statistics; before any training.
    """
    store.tidy()
    if missing := store.missing(count, epochs):

        def scoring(networks: int, epochs: int) -> StoredTrajectories:
            return build_experts(
                store.scoring(), create, split, augmentation, networks, epochs, progress, compute, SCORING
            )

        ranked = _ranked(store, scoring, create, split)
        with memory_named("training experts", NEEDS_LESS), progress(title, len(missing) * epochs) as bar:
            module, training = create(torch.Generator()), store.recipe.training
            if found := network_problems(module, split.batch(slice(0, 2)), "no_randomness", "no_state"):
                raise ConfigurationError(found)
            compute, batch = compute or Compute(), slice(0, training.batch)
            loss = TrainingLoss(module, compute.compiled, training.precision)
            together = loss.together(compute, split.batch(batch), split.labels[batch])
            starvation = Starvation(lambda line: progress(line, 0), split.labels.device)
            while missing:
                with store.claimed(missing, together, epochs) as group:
                    if group:
                        _build_group(store, loss, create, split, augmentation, epochs, group, bar, starvation, ranked)
                    else:
                        time.sleep(LOOK_EVERY)
                left = store.missing(count, epochs)
                bar.advance((len(missing) - len(left) - len(group)) * epochs)  # those that others trained
                missing = left
    return StoredTrajectories(store, count, split.labels.device, scoring_seconds(store))


def _ranked(
    store: ExpertStore,
    scoring: Callable[[int, int], StoredTrajectories],
    create: Callable[[torch.Generator], nn.Module],
    split: Split,
) -> list[Tensor]:
    """Return of each class its images from the easiest on, for a curriculum; without one, nothing."""
    curriculum = store.recipe.training.curriculum
    if curriculum is None:
        return []
    networks, epoch = curriculum.scoring_networks, curriculum.scoring_epochs
    with memory_named("scoring images", NEEDS_LESS):
        network = FlatNetwork(create(torch.Generator()))
        scores = scored(store, lambda: scoring(networks, epoch), epoch, network, split)
    return in_order(scores, split.labels)


def _build_group(
    store: ExpertStore,
    loss: TrainingLoss,
    create: Callable[[torch.Generator], nn.Module],
    split: Split,
    augmentation: Augmentation,
    epochs: int,
    group: Mapping[int, Begun | None],
    bar: Progress,
    starvation: Starvation,
    ranked: Sequence[Tensor],
) -> None:
    """Train experts whose locks are held, going on with what is begun, and store them."""
    seeds = [Seeds(store.recipe.seed).child("expert", expert) for expert in group]
    starts = torch.stack([loss.network.flatten(create(part.generator("initialisation"))) for part in seeds])
    begun = [each for each in group.values() if each is not None]
    if begun:
        bar.advance(len(group) * min(begun[0].epochs, epochs))

    def note(mean: float) -> None:
        bar.advance(len(group), loss=mean)
        starvation.look()

    def save(trained: list[Begun]) -> None:
        for expert, each in zip(group, trained, strict=True):
            store.write_begun(expert, each)

    if not begun or begun[0].epochs < epochs:
        begun = train_experts(
            loss, starts, split, store.recipe.training, augmentation, seeds, epochs,
            note, begun, save, ranked,
        )  # fmt: skip
    for expert, each in zip(group, begun, strict=True):
        store.write(expert, each.trajectory, each.epoch_losses, each.seconds)
