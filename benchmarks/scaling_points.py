"""What ``scaling.py`` measures: a grid of small runs through the library's own functions, each in its own process.

Images are random numbers, which cost what any others do. Nothing is compiled, and no student step's graph is kept
(``unroll=adjoint``): the CPU's default budget would keep those of small points only.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch._dynamo  # which the first torch.optim.SGD of a process imports: here once for all

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.interfaces import Task
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.settings import Distillation, Optimiser, Protocol, StepSizeOptimiser
from hoptm_plugin.engine.training import predict, train_networks
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining, build_experts
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.networks import ConvNet, create
from hoptm_plugin.networks.flat import FlatNetwork
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.compute import keep_freed_memory
from hoptm_plugin.runtime.progress import Progress, Shown
from hoptm_plugin.schedulers import SelfPaced
from hoptm_plugin.trajectory import HardLabels, RealImages, TrajectoryMatching, UniformSegments, WeightedMatcher
from hoptm_plugin.trajectory.student import StudentStep

Stage: TypeAlias = Literal["experts", "distillation", "evaluation"]
SEEDS, CPU, RATE, CHANNELS, EXPERT_EPOCHS = Seeds(0), torch.device("cpu"), 0.01, 3, 2
REPEATS, ENOUGH_SECONDS, ROUNDS = 3, 0.6, 1  # of a point in a round; and rounds


@dataclass(frozen=True)
class Point:
    """Work of one stage: one expert, one distillation, or one evaluated network.

    Attributes:
        stage: which.
        depth: of a ConvNet.
        width: of it.
        side: of square images of three channels, in pixels.
        classes: of them.
        images: of the training split, or of the synthetic set.
        batch: images per step, at most.
        epochs: of an expert or an evaluated network.
        algorithm: of an expert.
        steps: of a student, N.
        iterations: of a distillation.
        test: images that an evaluated network is tested on.
        held_out: left out of the fit that predicts it.
    """

    stage: Stage
    depth: int
    width: int
    side: int
    classes: int
    images: int
    batch: int
    epochs: int = 0
    algorithm: Literal["sgd", "gsam"] = "sgd"
    steps: int = 0
    iterations: int = 0
    test: int = 0
    held_out: bool = False

    @property
    def builder(self) -> ConvNet:
        """Its network."""
        return ConvNet(depth=self.depth, width=self.width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return CHANNELS, self.side, self.side

    def network(self, generator: torch.Generator) -> torch.nn.Module:
        """Return a freshly initialised network."""
        return create(self.builder, self.shape, self.classes, generator, CPU)


def grid() -> list[Point]:
    """Return all points: one setting varied in one thing at a time, and published networks and batches held out."""
    path, covid, imagenet = (3, 128, 32, 9), (5, 128, 112, 4), (4, 128, 64, 1000)
    tiny, many = (2, 8, 8, 9), (3, 64, 32, 1000)  # all overhead; many parameters for their operations
    networks = [(3, 16, 32, 9), (3, 32, 32, 9), (3, 64, 32, 9), (4, 32, 64, 9), (4, 64, 64, 9), (5, 32, 112, 4)]
    large = [(4, 64, 64, 9), (5, 64, 112, 4)]  # with batches whose memory malloc is not let keep
    points = []
    for algorithm in ("sgd", "gsam"):
        made = [(network, 256 if network[0] == 3 else 64, 128) for network in networks]
        made += [(networks[1], 1024, 256), (networks[1], 128, 8), (tiny, 256, 8), (many, 128, 16)]
        points += [Point("experts", *net, images, batch, epochs=1, algorithm=algorithm) for net, images, batch in made]
        points += [Point("experts", *large[0], 256, 256, epochs=1, algorithm=algorithm),
                   Point("experts", *large[1], 128, 128, epochs=1, algorithm=algorithm)]  # fmt: skip
    for network, images in ((path, 256), (covid, 48), (imagenet, 128)):
        points.append(Point("experts", *network, images, 256, epochs=1, algorithm="gsam", held_out=True))
    steps = [(network, 10 * network[3], 10, 4, 1) for network in networks]
    steps += [(networks[1], 90, 10, n, 1) for n in (1, 16)] + [(networks[1], 90, batch, 4, 1) for batch in (30, 90)]
    steps += [(networks[0], 9 * ipc, 10, 2, 4) for ipc in (1, 100, 1000)]
    steps += [(tiny, 90, 9, 16, 4), (many, 1000, 10, 4, 1), (many, 1000, 100, 1, 1)]
    steps += [(large[0], 108, 108, 1, 1), (large[1], 48, 48, 1, 1)]
    points += [Point("distillation", *net, m, b, steps=n, iterations=i) for net, m, b, n, i in steps]
    for network, images, batch, n in ((path, 90, 10, 20), (path, 9000, 100, 2), (covid, 200, 20, 2),
                                      (imagenet, 1000, 100, 1)):  # fmt: skip
        points.append(Point("distillation", *network, images, batch, steps=n, iterations=1, held_out=True))
    trained = [(network, 90 if network[0] == 3 else 40, 4, 1) for network in networks]
    trained += [(networks[1], n, epochs, 1) for n, epochs in ((9, 20), (900, 1))]
    trained += [(networks[1], 90, 1, 2000), (tiny, 9, 100, 1), (many, 100, 2, 1), (many, 10, 8, 1)]
    points += [Point("evaluation", *net, m, 128, epochs=e, test=test) for net, m, e, test in trained]
    points += [Point("evaluation", *net, 192, 192, epochs=1, test=1) for net in large]
    for network, images in ((path, 256), (covid, 128), (imagenet, 128)):
        points.append(Point("evaluation", *network, images, 128, epochs=1, test=1, held_out=True))
    return points


def noise(point: Point, name: str, images: int) -> Split:
    """Return random images, classes in turn."""
    pixels = torch.randn((images, *point.shape), generator=SEEDS.generator(name))
    return Split(pixels, torch.arange(images) % point.classes, Normalisation((0.0,) * 3, (1.0,) * 3, "none"))


def clock() -> float:
    """Return seconds: of one thread those that it computed, since others use the machine as well; of several all."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Stopwatch(Progress):
    """Takes the time of a loop until it last reported what it computed; files are written after that."""

    def __enter__(self) -> Stopwatch:
        """Start."""
        self.began, self.seconds, self._values = clock(), 0.0, False
        return self

    def advance(self, steps: int = 1, **values: Shown) -> None:
        """Take the time, but not of a call without values where others have some: a checkpoint was written before."""
        if values or not self._values:
            self.seconds, self._values = clock() - self.began, bool(values)


def expert_run(point: Point, folder: Path) -> Callable[[Point], float]:
    """Return what trains one expert and returns its seconds."""
    split, training = noise(point, "train", point.images), ExpertTraining(
        algorithm=point.algorithm, learning_rate=RATE, batch=point.batch
    )  # fmt: skip
    parameters = FlatNetwork(point.network(SEEDS.generator("container"))).num_parameters

    def run(work: Point) -> float:
        recipe = ExpertRecipe(data="noise", network={}, augmentation={}, training=training, seed=0)
        with tempfile.TemporaryDirectory(dir=folder) as root:
            store = ExpertStore(Path(root), recipe, parameters)
            watch = Stopwatch()
            build_experts(store, point.network, split, DSA(), 1, work.epochs, lambda *what: watch, Compute())
        return watch.seconds

    return run


class NearbyExperts:
    """One expert in memory, a short random walk: what is read of a file while the last iteration computes."""

    def __init__(self, point: Point) -> None:
        start = FlatNetwork(point.network(SEEDS.generator("expert"))).flatten()
        walk = torch.randn((EXPERT_EPOCHS, len(start)), generator=SEEDS.generator("walk"))
        self.points = torch.cat([start[None], start + 1e-3 * walk.cumsum(0)])

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def segment(self, expert: int, first: int, last: int) -> torch.Tensor:
        """Return (last - first + 1, P)."""
        return self.points[first : last + 1].clone()


def distillation_run(point: Point, folder: Path) -> Callable[[Point], float]:
    """Return what distils with HoP-TM and returns the seconds of its loop."""
    split, experts = noise(point, "train", point.images), NearbyExperts(point)
    names = tuple(f"class {label}" for label in range(point.classes))
    task = Task(
        data=ImageData("noise", names, split, split, split, split.normalisation, "none"),
        ipc=point.images // point.classes,
        network=point.network,
        augmentation=DSA(),
        experts=lambda epochs: experts,
        seeds=SEEDS,
        compute=Compute(unroll="adjoint"),
    )

    def run(work: Point) -> float:
        method = TrajectoryMatching(
            matchers={"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.5)},
            schedulers={"pace": SelfPaced(kappa=1e-5)},
            sampler=UniformSegments(max_start_epoch=1),
            labels=HardLabels(),
            initial_images=RealImages(),
            student_steps=work.steps,
            expert_epochs=EXPERT_EPOCHS,
            student_batch=point.batch,
            step_size=RATE,
        )
        loop = Distillation(
            iterations=work.iterations, images=Optimiser(learning_rate=RATE),
            step_size=StepSizeOptimiser(learning_rate=1e-7), labels=Optimiser(learning_rate=RATE),
            checkpoint_every=work.iterations,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(dir=folder) as place:
            watch = Stopwatch()
            Distiller(method, task, loop, Path(place), lambda *what: watch).run()
        return watch.seconds

    return run


def evaluation_run(point: Point, folder: Path) -> Callable[[Point], float]:
    """Return what trains a network on a synthetic set, reads its predictions, and returns the seconds of both."""
    split, test = noise(point, "train", point.images), noise(point, "test", point.test)
    loss, rows = TrainingLoss(point.network(SEEDS.generator("container"))), slice(0, point.batch)
    keep_freed_memory(CPU, lambda: loss.bytes_per_network(split.images[rows], split.labels[rows]))

    def run(work: Point) -> float:
        network = point.network(SEEDS.generator("initialisation"))
        protocol = Protocol(epochs=work.epochs, batch=point.batch)
        began = clock()
        train_networks([network], loss, [(split.images, split.labels)], protocol, RATE, DSA(), [SEEDS])
        predict(network, test)
        return clock() - began

    return run


def step_bytes(point: Point) -> int:
    """Return what one step saves for its way back, as the library counts it to decide what malloc may keep."""
    split, network = noise(point, "train", min(point.batch, point.images)), point.network(SEEDS.generator("container"))
    if point.stage != "distillation":
        return TrainingLoss(network).bytes_per_network(split.images, split.labels)
    step = StudentStep(FlatNetwork(network))
    return step.graph_bytes(step.network.flatten(), split.images, split.labels)


RUNS = {"experts": expert_run, "distillation": distillation_run, "evaluation": evaluation_run}


def measured(point: Point, threads: int) -> dict[str, Any]:
    """Return the seconds of a few repetitions after one of warming up, and the memory that the work added at its peak.

    The warm-up is the same work but for what only repeats: epochs, student steps and iterations.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        run, before = RUNS[point.stage](point, Path(folder)), resident()
        run(replace(point, epochs=min(point.epochs, 1), steps=min(point.steps, 2), iterations=min(point.iterations, 1)))
        seconds: list[float] = []
        while not seconds or (len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS):
            seconds.append(run(point))
    extra = resident() - before
    return {"seconds": [float(f"{each:.5g}") for each in seconds], "extra_mib": round(extra, 1),
            "step_mib": round(step_bytes(point) / 2**20, 2)}  # fmt: skip


def resident() -> float:
    """Return the highest resident memory of this process until now, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure_all(points: Sequence[Point], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return a record of every point; in each round every point has a process of its own.

    Rounds lie minutes apart, so that whoever else uses the machine meets no point in all of them.
    """
    context = multiprocessing.get_context("forkserver")  # which imports everything once, and computes nothing
    context.set_forkserver_preload([Path(__file__).stem])
    records = [{key: value for key, value in asdict(point).items() if value} for point in points]
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for number in range(rounds):
            for point, record in zip(points, records, strict=True):
                print(f"round {number + 1} of {rounds}: {point}", file=sys.stderr, flush=True)
                found = pool.submit(measured, point, threads).result()
                record["seconds"] = [*record.get("seconds", []), *found["seconds"]]
                record["extra_mib"] = max(record.get("extra_mib", 0.0), found["extra_mib"])
                record["step_mib"] = found["step_mib"]
    return records
