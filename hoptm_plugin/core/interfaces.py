"""The extension points: one abstract method each, and the one frozen object each receives.

Whatever must survive an iteration is in ``state_dict()`` of the part that owns it, so that a resumed run equals an
uninterrupted one. Parts get typed keyword arguments, never the configuration and never the trainer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from hoptm_plugin.core.asking import Ask, Asking
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import ImageData, Split
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.core.observations import FeaturePair, GradientPair, TrajectoryPair
from hoptm_plugin.core.registry import Registry
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet

State: TypeAlias = dict[str, Any]
Gradient: TypeAlias = Literal["exact", "tesla", "tesla_halved"]
ImagesAre: TypeAlias = Literal["real", "from_real", "made", "unknown"]
"""What images show of real ones: "real" training images as they are; "from_real", changed ones, such as mosaics; "made"
without any, of noise, say; or "unknown", where nobody said."""


class Part:
    """Base of every exchangeable part: state that survives an iteration, empty unless overridden.

    Attributes:
        cites: BibTeX keys of what the part implements, in the ``references.bib`` of its own package or of this one.
    """

    cites: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def cited(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return which of :attr:`cites` the part implements with these settings, as they stand in YAML; all of them."""
        return cls.cites

    def state_dict(self) -> State:
        """Return tensors, numbers, strings or nested dicts of them."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take back what :meth:`state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but some was given: {', '.join(state)}")


class Schedule(Part, ABC):
    """A number that changes over the run: a pure function of the distillation iteration."""

    @abstractmethod
    def at(self, step: int) -> float:
        """Return the number at iteration ``step``, counted from 0."""


Number: TypeAlias = float | Schedule


def value_at(number: Number, step: int) -> float:
    """Evaluate a number or a schedule; the one place where that happens."""
    return number.at(step) if isinstance(number, Schedule) else number


class Matcher(Part, ABC):
    """Compares what the synthetic set does to a network with what the real data does.

    Attributes:
        weight_symbol: what papers call its weight in the total loss, such as "λ"; "" where they have no symbol.
    """

    weight_symbol: ClassVar[str] = ""

    @abstractmethod
    def loss(self, pair: TrajectoryPair) -> Tensor:
        """Return a scalar (0-d) loss; must not mutate the pair."""

    def problems(self, expert_epochs: int, student_steps: int) -> list[str]:
        """Return, before any work, why segments of these lengths cannot be matched; one line each."""
        return []

    def logs(self) -> dict[str, float | Tensor]:
        """Return numbers worth a line in ``metrics.jsonl`` after the last loss."""
        return {}


class FeatureMatcher(Part, ABC):
    """Compares features of real and synthetic images of one class."""

    @abstractmethod
    def loss(self, pair: FeaturePair) -> Tensor:
        """Return a scalar (0-d) loss; must not mutate the pair."""


class GradientMatcher(Part, ABC):
    """Compares gradients by real and by synthetic images of one class."""

    @abstractmethod
    def loss(self, pair: GradientPair) -> Tensor:
        """Return a scalar (0-d) loss; must not mutate the pair."""


class Scheduler(Part):
    """Paces matching from easy to complex; override either method or both."""

    @classmethod
    def unfit(cls) -> str:
        """Say why the class paces nothing; "" where it overrides one of the two methods."""
        own = (cls.start_epochs, cls.parameter_weights) != (Scheduler.start_epochs, Scheduler.parameter_weights)
        return "" if own else "overrides neither start_epochs nor parameter_weights, so it would pace nothing"

    def start_epochs(self, step: int) -> tuple[int, int] | None:
        """Return (first, last), both included: which start epochs may be drawn now; None leaves it to the sampler."""
        return None

    def parameter_weights(self, pair: TrajectoryPair) -> Tensor | None:
        """Return weights (P,) in [0, 1] for what is matched now, given the detached pair; None means all."""
        return None

    def logs(self) -> dict[str, float | Tensor]:
        """Return numbers worth a line in ``metrics.jsonl`` after the last decision."""
        return {}


class Augmentation(Part, ABC):
    """Differentiable augmentation with replayable random parameters."""

    @abstractmethod
    def draw(
        self, batch: int, image_shape: tuple[int, int, int], generator: torch.Generator, siamese: bool = False
    ) -> Any:
        """Draw parameters for one call on ``batch`` images (C, H, W); siamese: one draw shared by all of them."""

    @abstractmethod
    def apply(self, images: Tensor, parameters: Any) -> Tensor:
        """Apply drawn parameters to images (B, C, H, W); differentiable in the images."""

    def apply_many(self, images: Tensor, parameters: Sequence[Any], sizes: Sequence[int]) -> Tensor:
        """Apply the i-th draw to the i-th run of ``sizes[i]`` images of a concatenated batch."""
        pieces = zip(images.split(list(sizes)), parameters, strict=True)
        return torch.cat([self.apply(piece, draw) for piece, draw in pieces])

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and apply in one call."""
        return self.apply(images, self.draw(len(images), tuple(images.shape[1:]), generator))  # type: ignore[arg-type]


class DatasetReader(Part, ABC):
    """Reads one source of images, whole arrays at once.

    Attributes:
        image_size: pixels per side that ``preprocess.image_size: auto`` stands for; None leaves images as read.
    """

    image_size: int | None = None

    @abstractmethod
    def read(self, seeds: Seeds) -> RawImages:
        """Return the raw images; ``seeds`` decides splits that the source does not fix.

        Raises:
            DataError: naming the file and the remedy.
        """


class Undecoded(Protocol):
    """Pictures that become pixels once their size is known.

    Attributes:
        sizes: (width, height) of each as shown.
        channels: of what :meth:`decode` returns, 1 or 3.
    """

    sizes: list[tuple[int, int]]
    channels: int

    def decode(self, size: tuple[int, int] | None, fit: Literal["crop", "pad", "stretch"] = "crop") -> Tensor:
        """Return uint8 (n, C, H, W): each brought to ``size`` (width, height), or as they are where all have one."""

    def described(self) -> dict[str, Any]:
        """Return in short words what kinds of pictures they are, and what is done to them."""


@dataclass(frozen=True)
class RawImages:
    """Images as a source holds them: uint8 tensors (n, C, H, W) and int64 labels (n,) per split.

    Attributes:
        name: the data set's name in tables.
        class_names: one per class index.
        train: images and labels; where there are ``pictures``, int64 rows (n,) of them and labels.
        test: the same.
        validation: the same, or None when the source has no such split.
        released: normalisation constants (mean, std) that a paper's code released for this source, or None.
        provenance: JSON values worth storing in a run. ``official_images``, a number over all splits, and
            ``official_file`` say what published figures are for: beside other data, and data without the number,
            none is told.
        pictures: of all splits together, not yet decoded, because sizes differ or are large; None of tensors.
        files: names of the pictures, for messages.
        groups: (n,) int64, to whom each training image belongs, such as a patient; a carved validation split takes
            whole groups. None: to nobody.
        remarks: what was done to the data without being asked, in words; said before a run, and kept in its card.
        left_out: names of what lies beside the data and was not read; said and counted as well.
        named_size: pixels per side that the name promises; where others come out, the name says so.
    """

    name: str
    class_names: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None = None
    released: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    pictures: Undecoded | None = None
    files: Sequence[str] = ()
    groups: Tensor | None = None
    remarks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    named_size: int | None = None


class NetworkBuilder(Part, ABC):
    """Builds one architecture for given images and classes."""

    @abstractmethod
    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Return the module as its constructors initialise it; what they draw comes from the run's seed.

        It is built on the CPU by :func:`hoptm_plugin.networks.create`, and anew for every network that is trained.
        """

    def remarks(self, image_shape: tuple[int, int, int]) -> list[str]:
        """Return what to know of this architecture for images (C, H, W), a line each, said before the work."""
        return []


class Trajectories(Protocol):
    """Stored expert trajectories, read a segment at a time."""

    def __len__(self) -> int:
        """Return the number of experts."""

    def segment(self, expert: int, first: int, last: int) -> Tensor:
        """Return parameters after epochs ``first`` to ``last``, both included, (last-first+1, P), on the device."""


@runtime_checkable
class ContinuousTrajectories(Trajectories, Protocol):
    """Expert trajectories that are known at any time, in epochs; at whole ones ``segment`` is ``at``."""

    def at(self, expert: int, times: Sequence[float]) -> Tensor:
        """Return parameters at these times, (len(times), P), on the device; after the end they stay as they are."""


@dataclass(frozen=True)
class Task:
    """What a method is given to distil.

    Attributes:
        data: the data set; a method reads ``train`` only.
        ipc: synthetic images per class.
        network: makes a freshly initialised network from a generator.
        augmentation: differentiable augmentation, possibly the identity.
        experts: opens (training what is missing) trajectories that reach at least the given epoch.
        seeds: random streams of this distillation.
        compute: how it is computed; changes nothing but rounding, time and memory.
        architecture: equal for tasks whose networks differ in their parameters alone; None: nobody knows.
        chosen_by: what of the run is chosen by looking at its data, by the names of settings.
        expert_count: how many trajectories ``experts`` opens; None: nobody knows before.
    """

    data: ImageData
    ipc: int
    network: Callable[[torch.Generator], nn.Module]
    augmentation: Augmentation
    experts: Callable[[int], Trajectories]
    seeds: Seeds
    compute: Compute = field(default_factory=Compute)
    architecture: Hashable = None
    chosen_by: tuple[str, ...] = ()
    expert_count: int | None = None

    @property
    def train(self) -> Split:
        """The split that may be learned from."""
        return self.data.train


@dataclass(frozen=True)
class LossTerm:
    """One loss to step on: the engine calls backward on ``loss`` and steps the optimisers once.

    Attributes:
        loss: 0-d.
        logs: numbers worth a line in ``metrics.jsonl``.
        watched: 0-d, without gradient: what can be compared between iterations and is smaller where the set is better.
            A run is stopped where it grows far beyond its beginning. None: no number of the method's is such.
    """

    loss: Tensor
    logs: Mapping[str, float | Tensor] = field(default_factory=dict)
    watched: Tensor | None = None


@dataclass(frozen=True)
class Excerpt:
    """A method whose iteration is a part of another's, to time it by.

    Attributes:
        method: the smaller one, as yet told of no task.
        time: its share of the time that the whole takes, above 0 and up to 1.
        memory: its share of what the whole holds at once.
    """

    method: Method
    time: float = 1.0
    memory: float = 1.0


class LabelPolicy(Part, ABC):
    """Decides the synthetic labels and whether they are learned."""

    @abstractmethod
    def initial(self, images: Tensor, classes: Tensor, task: Task) -> Tensor:
        """Return labels for images (n, C, H, W) of classes (n,): int64 (n,), or float logits (n, K) to be learned."""

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read; 0 if none are."""
        return 0

    def problems(self, task: Task) -> list[str]:
        """Return, before any work, why it does not fit the task; one line each, in the user's words."""
        return []


class Initialiser(Part, ABC):
    """Chooses the images a distillation starts from.

    Attributes:
        images_are: what :meth:`images` returns. Whoever is handed a distilled set is told by it whether real images
            are in there; an instance may know better than its class.
    """

    images_are: ImagesAre = "unknown"

    @abstractmethod
    def images(self, task: Task) -> Tensor:
        """Return images (K * ipc, C, H, W), class-major: all of class 0, then class 1, and so on."""

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read; 0 if none are."""
        return 0

    def problems(self, task: Task) -> list[str]:
        """Return, before any work, why it does not fit the task; one line each, in the user's words."""
        return []


class SegmentSampler(Part, ABC):
    """Draws which expert and which start epoch an iteration matches.

    Attributes:
        continuous: starts are times that may lie between epochs, which only a continuous view of the experts has; an
            instance may know better than its class.
    """

    continuous: bool = False

    @abstractmethod
    def draw(self, experts: int, bounds: tuple[int, int] | None, step: int, seeds: Seeds) -> tuple[int, float]:
        """Return (expert index, start): an epoch, or a time in epochs where this sampler is continuous.

        ``bounds`` are a scheduler's (first, last), both included.
        """

    @abstractmethod
    def last_start_epoch(self) -> int:
        """Return an epoch after which nothing starts: decides how many expert epochs are trained."""


class TrajectoryView(Part, ABC):
    """Shows stored experts otherwise than as they were trained: smoothed, straightened, at times between epochs.

    It keeps no state: what is shown depends on the experts alone, since segments are read ahead.

    Attributes:
        continuous: :meth:`view` returns :class:`ContinuousTrajectories`.
    """

    continuous: ClassVar[bool] = False

    @abstractmethod
    def view(self, trajectories: Trajectories, sizes: tuple[int, ...]) -> Trajectories:
        """Return what is shown instead of ``trajectories``, reading of these what is needed when it is asked for.

        Args:
            trajectories: as they are stored.
            sizes: lengths of the network's parameter tensors inside the flat vector, in order; they sum to P.
        """

    def last_expert_epoch(self, segments: int) -> int:
        """Return the epoch up to which stored experts are read to show segments that end at epoch ``segments``."""
        return segments

    def problems(self, last_start: int, expert_epochs: int) -> list[str]:
        """Return, before any work, why segments cannot be shown that start up to ``last_start``; one line each."""
        return []


class Method(Part, ABC):
    """A distillation method: makes the initial synthetic set and yields losses to step on.

    Attributes:
        whole_split: the method distils nothing but trains on the whole training split, whatever the IPC asked for; no
            images are then written to the run folder.
        images_are: what the images of the set are that :meth:`setup` returns; an instance may know better than its
            class, from its initialiser. Whether they were changed after that is measured.
        floor: its set is a random subset of the training images, anew for each seed: what every method must beat.
        imported: the set that :meth:`setup` returns was made elsewhere, of data that nobody named: what was read, in
            one line, once that is known. None: it is made here, of the task's data.
        no_progress: what ``LossTerm.watched`` comes to, summed over an iteration's terms, where nothing is learned; 0
            where that is not known.
        guarantee: what the method proves of what its set can give away, whoever attacks, in one line for people who
            know no formulas; an audit's card says it. None: nothing.
    """

    whole_split: ClassVar[bool] = False
    floor: ClassVar[bool] = False
    no_progress: ClassVar[float] = 0.0
    images_are: ImagesAre = "unknown"
    imported: str | None = None
    guarantee: str | None = None

    def problems(self, task: Task) -> list[str]:
        """Return, before any work, what does not fit together; one line each, in the user's words."""
        return []

    def last_expert_epoch(self) -> int:
        """Return the epoch up to which experts are read; 0 if none are."""
        return 0

    @abstractmethod
    def setup(self, task: Task) -> SyntheticSet:
        """Take the task and return the initial synthetic set: ``task.ipc`` images of every class, or it is refused."""

    @abstractmethod
    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield one term per optimiser step of iteration ``step``; none skips the iteration."""

    def losses_side_by_side(self, synthetic: SyntheticSet, step: int) -> Generator[LossTerm | Ask[Any], Any, None]:
        """Yield the terms of :meth:`losses`, and in between ask for what runs side by side compute as one.

        Worth overriding where most of an iteration's time goes into something that can be: it is yielded as an
        :class:`hoptm_plugin.core.asking.Ask`, and its answer is sent. :meth:`losses` is then :func:`terms` of it. A
        class that overrides :meth:`losses` alone asks for nothing.
        """
        yield from self.losses(synthetic, step)

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let what ``losses`` says count where a base says more in ``losses_side_by_side``."""
        super().__init_subclass__(**keywords)
        if "losses" in vars(cls) and "losses_side_by_side" not in vars(cls):
            cls.losses_side_by_side = Method.losses_side_by_side  # type: ignore[method-assign]

    def after_step(self, step: int) -> None:
        """Be told that iteration ``step`` is over."""
        return None

    def training_images(self, classes: int, ipc: int) -> int:
        """Return how many images a network is trained on in the end; more than are stored where these are mosaics."""
        return classes * ipc

    def image_passes(self, classes: int, ipc: int) -> float:
        """Return about how many images go forward and backward through a network per iteration, to estimate cost."""
        return 0

    def excerpt(self, share: float, task: Task) -> Excerpt:
        """Return a method whose iteration takes about ``share`` of this one's time: the least it can be made for 0.

        Worth overriding where an iteration may take seconds, since a run tries one to say how long it will take.
        """
        return Excerpt(self)


def with_each(
    losses: Generator[LossTerm | Ask[Any], Any, None], work: Callable[[LossTerm], Asking[None]]
) -> Asking[None]:
    """Do ``work`` with each term of :meth:`Method.losses_side_by_side`, and pass on what it asks for."""
    answer = None
    while True:
        try:
            item = losses.send(answer)
        except StopIteration:
            return
        answer = None
        if isinstance(item, Ask):
            answer = yield item
        else:
            yield from work(item)


def terms(losses: Generator[LossTerm | Ask[Any], Any, None]) -> Iterator[LossTerm]:
    """Yield the terms of :meth:`Method.losses_side_by_side` of a run that goes alone."""
    answer = None
    while True:
        try:
            item = losses.send(answer)
        except StopIteration:
            return
        if isinstance(item, Ask):
            (answer,) = item.answers([item])
        else:
            answer = None
            yield item


matchers: Registry[Matcher] = Registry("matcher", Matcher)
"""What ``method.matchers`` of trajectory matching may name: losses on paths of parameters."""
feature_matchers: Registry[FeatureMatcher] = Registry("feature matcher", FeatureMatcher)
"""What ``method.matcher`` of distribution matching may name: losses on features."""
gradient_matchers: Registry[GradientMatcher] = Registry("gradient matcher", GradientMatcher)
"""What ``method.matcher`` of gradient matching may name: losses on gradients."""
schedulers: Registry[Scheduler] = Registry("scheduler", Scheduler)
"""What ``method.schedulers`` may name: which start epochs and parameters are matched now."""
schedules: Registry[Schedule] = Registry("schedule", Schedule)
"""What may stand for a number that changes over the run."""
methods: Registry[Method] = Registry("method", Method)
"""What ``method.name`` may name; what ``method=`` takes is YAML that gives one of them its settings."""
networks: Registry[NetworkBuilder] = Registry("network", NetworkBuilder)
"""What ``network.name`` may name: the networks to distil with and to evaluate on."""
datasets: Registry[DatasetReader] = Registry("dataset reader", DatasetReader)
"""What ``dataset.name`` may name: readers of sources of images."""
augmentations: Registry[Augmentation] = Registry("augmentation", Augmentation)
"""What ``augment.name`` may name: differentiable augmentations."""
label_policies: Registry[LabelPolicy] = Registry("label policy", LabelPolicy)
"""What ``method.labels`` may name: hard or learned labels."""
initialisers: Registry[Initialiser] = Registry("initialiser", Initialiser)
"""What ``method.initial_images`` may name: the images that a distillation starts from."""
samplers: Registry[SegmentSampler] = Registry("segment sampler", SegmentSampler)
"""What ``method.sampler`` may name: which expert and start epoch an iteration matches."""
views: Registry[TrajectoryView] = Registry("trajectory view", TrajectoryView)
"""What ``method.view`` of trajectory matching may name: stored experts, shown otherwise."""
loggers: Registry[RunLogger] = Registry("logger", RunLogger)
"""What ``loggers`` may list: who is told how a run goes."""
REGISTRIES: tuple[Registry[Any], ...] = (
    methods, matchers, feature_matchers, gradient_matchers, schedulers, schedules, samplers, views,
    label_policies, initialisers, networks, datasets, augmentations, loggers,
)  # fmt: skip
