"""From settings to objects: builds every part, checks that they fit, and reports all problems before any work."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import ConfigurationError, HopTMError, Problems
from hoptm_plugin.core.interfaces import (
    Augmentation,
    Method,
    NetworkBuilder,
    RawImages,
    Task,
    augmentations,
    loggers,
    methods,
    networks,
)
from hoptm_plugin.core.loggers import RunLogger
from hoptm_plugin.core.roles import of_part
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import check_ipc, check_spec, load
from hoptm_plugin.engine.evaluation import CreateNetwork, Evaluator
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, build_experts
from hoptm_plugin.experts.difficulty import has_scores
from hoptm_plugin.experts.store import StoredTrajectories
from hoptm_plugin.networks import create, network_problems
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.runtime.compute import default_budget, forward_operations, worth_compiling, worth_stacking
from hoptm_plugin.runtime.device import computing, resolve
from hoptm_plugin.runtime.memory import memory_named
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.settings import RunSettings

USUAL_EPOCHS = 100


@dataclass(frozen=True)
class Parts:
    """What settings describe, built but not yet told of any data."""

    method: Method
    augmentation: Augmentation
    network: NetworkBuilder
    evaluated: Mapping[str, NetworkBuilder]
    loggers: Sequence[tuple[str, RunLogger]] = ()


@contextmanager
def workbench(
    settings: RunSettings,
    progress: ProgressFactory,
    read: dict[str, ImageData] | None = None,
    source: RawImages | None = None,
) -> Iterator[Workbench]:
    """Make what a run needs, and let torch compute for it until the end of the block.

    Args:
        settings: of the run.
        progress: reports what takes long.
        read: data that runs beside this one have read, and into which go those that it reads.
        source: of the data, opened already.
    """
    runtime = settings.runtime
    parts = build_parts(settings)
    device = resolve(runtime.device, runtime.precision, runtime.compile is True, runtime.capture)
    with computing(device, runtime.precision, runtime.threads):
        key, known = repr((settings.dataset, settings.data_seed)), {} if read is None else read
        bench = Workbench(settings, parts, device, progress, known.get(key), source)
        known[key] = bench.data
        yield bench


def build_parts(settings: RunSettings) -> Parts:
    """Build every part that needs no data.

    Raises:
        ConfigurationError: with all problems of all parts.
    """
    problems = Problems()
    method = problems.attempt(lambda: methods.build(settings.method, "method"))
    augmentation = problems.attempt(lambda: augmentations.build(settings.augment, "augment"))
    network = problems.attempt(lambda: networks.build(settings.network, "network"))
    problems.attempt(lambda: check_spec(settings.dataset))
    evaluated: dict[str, NetworkBuilder] = {}
    if settings.networks is None and network is not None:
        evaluated[network_label(settings.network)] = network
    for index, spec in enumerate(settings.networks or ()):
        # a bare name that is the run's own network means that network, with its own width and depth
        own = isinstance(spec, str) and spec == settings.network.get("name")
        full = settings.network if own else {"name": spec} if isinstance(spec, str) else spec
        builder = problems.attempt(partial(networks.build, full, f"networks[{index}]"))
        if builder is not None:
            evaluated[network_label(full)] = builder
    told: list[tuple[str, RunLogger]] = []
    for index, spec in enumerate(settings.loggers):
        full = {"name": spec} if isinstance(spec, str) else spec
        logger = problems.attempt(partial(loggers.build, full, f"loggers[{index}]"))
        if logger is not None:
            told.append((str(full["name"]), logger))
    if settings.networks == []:
        problems.found.append("networks: must name at least one architecture, or be null")
    problems.raise_if_any()
    assert method is not None
    assert augmentation is not None
    assert network is not None
    return Parts(method, augmentation, network, evaluated, told)


def network_label(spec: Mapping[str, Any]) -> str:
    """Return a network's name with the settings that differ from its defaults, such as "convnet(width=32)"."""
    parameters = inspect.signature(networks.get(spec["name"])).parameters
    changed = [
        f"{key}={spec[key]}"
        for key, (mark, _) in of_part(spec, NetworkBuilder).items()
        if key in spec
        and key != "name"
        and mark.role == "result"
        and (key not in parameters or parameters[key].default != spec[key])
    ]
    return f"{spec['name']}({','.join(changed)})" if changed else str(spec["name"])


class Workbench:
    """Everything one run needs, checked: data on the device, parts, task, evaluator.

    Args:
        settings: of the run.
        parts: that they describe.
        device: where it computes.
        progress: reports what takes long.
        data: read already; None reads those that the settings name.
        source: of these, opened already.

    Raises:
        DataError: the data cannot be read.
    """

    def __init__(
        self,
        settings: RunSettings,
        parts: Parts,
        device: torch.device,
        progress: ProgressFactory,
        data: ImageData | None = None,
        source: RawImages | None = None,
    ) -> None:
        self.settings, self.parts, self.device, self.progress = settings, parts, device, progress
        self.seeds = Seeds(settings.seed)
        # splits have a seed of their own: runs of several seeds must share experts and test images
        with memory_named("reading the data", "take a smaller dataset.preprocess.image_size, or a machine with more"):
            seeds = Seeds(settings.data_seed)
            self.data = load(settings.dataset, seeds, self.device, source) if data is None else data
        self.experts_seconds = 0.0
        self.task = Task(
            data=self.data,
            ipc=settings.ipc,
            network=self.creator(self.parts.network),
            augmentation=self.parts.augmentation,
            experts=self.experts,
            seeds=self.seeds.child("distillation"),
            architecture=self._architecture(self.parts.network),
            chosen_by=_chosen_by(settings),
            expert_count=settings.experts.count,
        )
        self.task = replace(self.task, compute=self._distilling(settings.distillation.iterations))

    def _architecture(self, builder: NetworkBuilder) -> Hashable:
        """Return what networks of ``builder`` have in common with those of other runs, if their seed is left out."""
        return type(builder), repr(vars(builder)), self.data.image_shape, len(self.data.class_names)

    def _distilling(self, iterations: int) -> Compute:
        shape, classes = self.data.image_shape, len(self.data.class_names)
        passes = self.parts.method.image_passes(classes, self.settings.ipc)
        per_image = forward_operations(lambda: self.parts.network.build(shape, classes), shape)
        return replace(self._compute(iterations * passes), stacked=worth_stacking(self.device, shape, per_image))

    def compiled(self, iterations: int) -> bool:
        """Tell whether a distillation of so many iterations is compiled."""
        return self._distilling(iterations).compiled

    def _compute(self, image_passes: float, networks: Sequence[NetworkBuilder] = ()) -> Compute:
        """Return how work of so many image passes, forward and backward, through each of ``networks`` is computed."""
        runtime, shape, classes = self.settings.runtime, self.data.image_shape, len(self.data.class_names)
        compiled = runtime.compile
        if compiled == "auto":
            builders = networks or [self.parts.network]
            per_image = sum(
                forward_operations(partial(builder.build, shape, classes), shape) for builder in builders
            ) / len(builders)
            compiled = worth_compiling(self.device, image_passes, per_image)
        budget = default_budget(self.device) if runtime.memory_budget is None else int(runtime.memory_budget)
        return Compute(
            runtime.unroll, compiled, runtime.precision, budget, runtime.parallel_networks, runtime.capture
        )  # fmt: skip

    def creator(self, builder: NetworkBuilder) -> CreateNetwork:
        """Return a function from generator to freshly initialised network on the device."""
        shape, classes = self.data.image_shape, len(self.data.class_names)
        return lambda generator: create(builder, shape, classes, generator, self.device)

    def check(self, distils: bool = True) -> None:
        """Refuse a composition that does not fit together or the data; say what is done to these.

        Args:
            distils: the method is run; it is not where a set is judged that was made before.

        Raises:
            ConfigurationError: with all problems at once.
        """
        problems = Problems()
        problems.found += check_ipc(self.data, self.settings.ipc)
        for builder in {"network": self.parts.network, **self.parts.evaluated}.values():
            problems.found += problems.attempt(partial(self._problems_of, builder)) or []
        if distils and not problems.found:
            problems.found += self.parts.method.problems(self.task)
        problems.raise_if_any()
        imported = self.parts.method.imported
        builders = (self.parts.network, *self.parts.evaluated.values())
        remarks = dict.fromkeys(line for each in builders for line in each.remarks(self.data.image_shape))
        for line in (*self.data.told, *remarks, *([] if imported is None else [f"imported: {imported}"])):
            self.progress(line, 0)

    def unofficial(self) -> str | None:
        """Say why what was published was not for these data; None of official data."""
        said, found = self.data.provenance, sum(map(len, (self.data.train, self.data.validation, self.data.test)))
        if said.get("official_file") is False:
            return "its file is not the official one"
        if (official := said.get("official_images")) is None:
            return "nothing says that its images are those of the publication"
        return None if found == official else f"it has {found:,} images, and the official one {official:,}"

    def say_what_is_dropped(self, why: str | None = None) -> None:
        """Warn that a published figure is not told beside other data than it was published for; ``why`` is one more."""
        settings, why = self.settings, why or self.unofficial()
        if (
            why
            and settings.reported is not None
            and settings.reported.of(None if self.parts.method.whole_split else settings.ipc) is not None
        ):
            warnings.warn(f"data set {self.data.name}: {why}, so that nothing published stands beside the result "
                          f"({settings.reported.source})", stacklevel=2)  # fmt: skip

    def _problems_of(self, builder: NetworkBuilder) -> list[str]:
        """Return why a network cannot be trained on these data."""
        with memory_named("trying a network on two images", "choose a smaller network, or a machine with more"):
            try:
                network = self.creator(builder)(torch.Generator())
            except HopTMError as error:
                raise ConfigurationError(str(error)) from error
            return network_problems(network, self.data.train.batch(slice(2)), classes=len(self.data.class_names))

    def check_experts(self) -> None:
        """Begin the store if experts are missing; refuse one that cannot be begun or holds damaged experts.

        Raises:
            ConfigurationError: the store's root is no folder.
            FileFormatError: naming the damaged expert.
            StorageError: the store cannot be written to.
        """
        if epochs := self.parts.method.last_expert_epoch():
            root = self.settings.experts.root.absolute()
            nearest = next(path for path in (root, *root.parents) if path.exists())
            if not nearest.is_dir():
                raise ConfigurationError(f"experts.root: {nearest} is a file; name a folder with experts.root=PATH")
            store, curriculum = self.store(), self.settings.experts.training.curriculum
            trained = max(epochs, self.settings.experts.epochs or 0)
            if curriculum is not None and trained <= curriculum.all_at:
                warnings.warn(f"experts.training.curriculum: experts are trained for {trained} epochs, and before "
                              f"epoch {curriculum.all_at} the hardest images of each class are not open; set all_at "
                              f"lower, or the curriculum to null", stacklevel=2)  # fmt: skip
            if store.missing(self.settings.experts.count, epochs):
                if curriculum is not None and not has_scores(store):
                    store.scoring().missing(curriculum.scoring_networks, curriculum.scoring_epochs)
                store.begin()

    def store(self) -> ExpertStore:
        """Return the store of the experts that the settings describe, which may not exist."""
        settings, deciding = self.settings.experts, self.settings.deciding()
        recipe = ExpertRecipe(
            data=self.data.fingerprint,
            network=deciding["network"],
            augmentation=deciding["augment"],
            training=settings.training,
            seed=settings.seed,
        )
        parameters = FlatNetwork(self.task.network(torch.Generator())).num_parameters
        return ExpertStore(settings.root, recipe, parameters)

    def experts(self, epochs: int) -> StoredTrajectories:
        """Return experts that reach at least ``epochs``, training what is missing."""
        settings = self.settings.experts
        epochs = max(epochs, settings.epochs or 0)
        trajectories = build_experts(
            self.store(), self.task.network, self.task.train, self.parts.augmentation, settings.count, epochs,
            self.progress, self.expert_compute(),
        )  # fmt: skip
        self.experts_seconds = trajectories.seconds
        return trajectories

    def expert_compute(self) -> Compute:
        """Return how experts are computed: as one of usual length, however many there are, and for how long."""
        training = self.settings.experts.training
        passes = USUAL_EPOCHS * training.images(len(self.task.train)) * (2 if training.algorithm == "gsam" else 1)
        return self._compute(passes)

    def evaluator(self) -> Evaluator:
        """Return the evaluator of the asked architectures."""
        creators = {name: self.creator(builder) for name, builder in self.parts.evaluated.items()}
        method, protocol = self.parts.method, self.settings.protocol
        images = method.training_images(len(self.data.class_names), self.settings.ipc)
        images = protocol.images(len(self.task.train) if method.whole_split else images)
        compute = self._compute(protocol.repeats * protocol.epochs * images, list(self.parts.evaluated.values()))
        return Evaluator(
            protocol, creators, self.parts.augmentation, self.seeds.child("evaluation"), self.progress, compute,
            architectures={name: self._architecture(each) for name, each in self.parts.evaluated.items()},
        )  # fmt: skip


def _chosen_by(settings: RunSettings) -> tuple[str, ...]:
    """Return what of a run is chosen by looking at its data."""
    selection = settings.distillation.selection
    found = [] if selection == "last" else [f"distillation.selection={selection}"]
    found += [] if settings.dataset.get("duplicates") != "drop" else ["dataset.duplicates=drop"]
    return (*found, *([] if settings.tuning is None else ["tuning"]))


def device_name(bench: Workbench) -> str:
    """Return the device in words, and the precision of the unroll where it is lower."""
    precision = bench.settings.runtime.precision
    lower = "" if precision == "float32" else f", {precision}"
    if bench.device.type == "cuda":
        return f"{torch.cuda.get_device_name(bench.device)}{lower}"
    threads = torch.get_num_threads()
    return f"CPU ({threads} thread{'' if threads == 1 else 's'}{lower})"
