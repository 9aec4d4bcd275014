"""What one process of ``run.py`` measures: a JSON job on stdin, one JSON line last on stdout.

Imports of the library and of torch are part of no figure. Every variant draws the same numbers.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import classical
import torch
import torch._dynamo  # which the first torch.optim.SGD of a process imports: part of no figure
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from hoptm_plugin.augment import DSA
from hoptm_plugin.cards.software import software_versions
from hoptm_plugin.core.asking import Asking, together
from hoptm_plugin.core.compute import Compute
from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.interfaces import Task, with_each
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.engine.distil import Distiller
from hoptm_plugin.engine.optimisers import Optimisers
from hoptm_plugin.engine.settings import Distillation, Protocol
from hoptm_plugin.engine.training import train_networks
from hoptm_plugin.experts import ExpertRecipe, ExpertStore, ExpertTraining
from hoptm_plugin.experts.store import StoredTrajectories
from hoptm_plugin.experts.training import train_experts
from hoptm_plugin.matchers import Endpoint, ShapeWisePotential
from hoptm_plugin.networks import ConvNet, FlatNetwork, create
from hoptm_plugin.networks.layers import AvgPool2d
from hoptm_plugin.networks.stack import TrainingLoss
from hoptm_plugin.runtime.compute import can_compile, keep_freed_memory
from hoptm_plugin.runtime.progress import Progress
from hoptm_plugin.schedulers import SelfPaced
from hoptm_plugin.trajectory import (
    HardLabels,
    RealImages,
    StudentStep,
    TrajectoryMatching,
    UniformSegments,
    WeightedMatcher,
    unroll,
)  # fmt: skip

Job = dict[str, Any]
Figures = dict[str, float]
MIB, SEEDS = 2**20, Seeds(0)
EXPERT_EPOCHS, START_EPOCHS, RATE = 2, 4, 0.01
NOTHING = {"learning_rate": 0}
LEARNED = Distillation.model_validate(
    {"iterations": 1, "images": {"learning_rate": 1}, "step_size": NOTHING, "labels": NOTHING}
)
STARTS = {
    "classical": ["-c", "import torch, torchvision"],
    "help": ["-m", "hoptm_plugin.cli", "--help"],
    "list": ["-m", "hoptm_plugin.cli", "list"],
    "list methods": ["-m", "hoptm_plugin.cli", "list", "methods"],
}


def network(job: Job, *stream: str | int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Return a network of the job's shape, initialised from the stream of that name; classically of torch's layers."""
    builder = ConvNet(depth=job["depth"], width=job["width"])
    shape = (3, job["side"], job["side"])
    made = create(builder, shape, job["classes"], SEEDS.generator(*stream), job["device"]).to(dtype)
    for place, layer in list(made.named_modules()) if job["classical"] else ():
        if isinstance(layer, AvgPool2d):
            made.set_submodule(place, torch.nn.AvgPool2d(2))
    return made


def noise(job: Job, dtype: torch.dtype = torch.float32) -> ImageData:
    """Return as many random images as the job says."""
    normalisation = Normalisation((0.0,) * 3, (1.0,) * 3, "none")
    shape = (job["images"], 3, job["side"], job["side"])
    images = torch.randn(shape, generator=SEEDS.generator("images")).to(job["device"], dtype)
    labels = torch.arange(job["images"], device=job["device"]) % job["classes"]
    split = Split(images, labels, normalisation)
    names = tuple(f"class {label}" for label in range(job["classes"]))
    return ImageData("noise", names, split, split, split, normalisation, "none")


class WalkingExperts:
    """One expert in memory: a short random walk of parameters."""

    def __init__(self, job: Job, dtype: torch.dtype) -> None:
        start = FlatNetwork(network(job, "expert", dtype=dtype)).flatten()
        shape = (START_EPOCHS + EXPERT_EPOCHS - 1, len(start))
        steps = torch.randn(shape, generator=SEEDS.generator("walk")).to(start)
        self.points = torch.cat([start[None], start + 1e-3 * steps.cumsum(0)])

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def segment(self, expert: int, first: int, last: int) -> torch.Tensor:
        """Return parameters after epochs ``first`` to ``last``, both included."""
        return self.points[first : last + 1]


def matching(job: Job, dtype: torch.dtype = torch.float32, run: int = 0) -> tuple[TrajectoryMatching, Task]:
    """Return HoP-TM and its task; runs of other numbers draw other things."""
    kind = classical.ClassicalMatching if job["classical"] else TrajectoryMatching
    method = kind(
        matchers={"endpoint": WeightedMatcher(Endpoint()), "shape": WeightedMatcher(ShapeWisePotential(), 0.5)},
        schedulers={"pace": SelfPaced(kappa=1e-5)},
        sampler=UniformSegments(max_start_epoch=START_EPOCHS),
        labels=HardLabels(),
        initial_images=RealImages(),
        student_steps=job["steps"],
        expert_epochs=EXPERT_EPOCHS,
        student_batch=job["batch"],
        step_size=RATE,
    )
    data, experts = noise(job, dtype), WalkingExperts(job, dtype)
    compute = Compute(job["unroll"], job["compiled"], job["precision"], job["memory_budget"],
                      captured=job["captured"], stacked=job["stacked"])  # fmt: skip
    task = Task(
        data=data,
        ipc=job["images"] // job["classes"],
        network=lambda generator: network(job, "container", dtype=dtype),
        augmentation=classical.ClassicalDSA() if job["classical"] else DSA(),
        experts=lambda epochs: experts,
        seeds=SEEDS.child(run) if run else SEEDS,
        compute=compute,
        architecture="the same",
    )
    return method, task


def distillation(job: Job, dtype: torch.dtype = torch.float32, run: int = 0) -> tuple[TrajectoryMatching, SyntheticSet]:
    """Return HoP-TM, set up, and the synthetic set that it learns."""
    method, task = matching(job, dtype, run)
    synthetic = method.setup(task)
    synthetic.images.requires_grad_()
    synthetic.step_size.requires_grad_()
    return method, synthetic


def clock(device: torch.device) -> float:
    """Return the time in seconds once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def resident() -> float:
    """Return the highest resident memory of this process until now, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 2**10)


def measured(
    device: torch.device, first: Callable[[], object], again: Callable[[], object] | None = None, times: int = 1
) -> Figures:
    """Call ``first``, compilation included, then ``again`` (None: the same) so many times; seconds and memory."""
    before, began = resident(), clock(device)
    first()
    figures, durations = {"first_seconds": clock(device) - began}, []
    for _ in range(2 if times and device.type == "cuda" else 0):  # in which CUDA graphs are recorded
        first()
    for _ in range(times):
        began = clock(device)
        (again or first)()
        durations.append(clock(device) - began)
    if durations:
        figures["seconds"] = median(durations)
    figures |= {"peak_mib": resident(), "extra_mib": resident() - before}
    if device.type == "cuda":
        figures["device_mib"] = torch.cuda.max_memory_allocated() / MIB
    return figures


def iteration(job: Job) -> Figures:
    """Measure distillation iterations: forward, matchers, backward; no optimiser."""
    method, synthetic = distillation(job)
    done = 0

    def run() -> None:
        nonlocal done
        synthetic.images.grad = synthetic.step_size.grad = None
        for term in method.losses(synthetic, done):
            term.loss.backward()
        done += 1

    figures = measured(synthetic.images.device, run, times=job["iterations"])
    if "seconds" in figures:
        figures["step_ms"] = 1000 * figures["seconds"] / job["steps"]
    return figures


def side_by_side(job: Job) -> Figures:
    """Measure an iteration of several distillations side by side, optimisers included, per distillation."""
    runs = [distillation(job, run=number) for number in range(job["runs"])]
    optimisers = [Optimisers(synthetic, LEARNED, job["stacked"]) for _, synthetic in runs]
    done = 0

    def one(number: int) -> Asking[None]:
        method, synthetic = runs[number]
        losses = method.losses_side_by_side(synthetic, done)
        return with_each(losses, lambda term: optimisers[number].step_side_by_side(term.loss))

    def run() -> None:
        nonlocal done
        for outcome in together({str(number): one(number) for number in range(len(runs))}).values():
            if isinstance(outcome, BaseException):
                raise outcome
        done += 1

    figures = measured(runs[0][1].images.device, run, times=job["iterations"])
    if "seconds" in figures:
        figures["seconds"] /= len(runs)
    return figures


def counts(job: Job) -> Figures:
    """Count what an iteration of a whole distillation asks of the device: kernels, and how often the host waits for it.

    On CUDA these are the kernels that ran, what was launched (a graph is one), and the host's calls that wait. On a CPU
    they are the operations that compute (no views; compiled ones are not seen), and those whose result the host must
    see: draws of random numbers on the host, for which CUDA does not wait, among them.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if job["device"] == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    method, task = matching(job)
    many = 2 * job["iterations"]
    settings = LEARNED.model_copy(update={"iterations": many, "log_every": many, "checkpoint_every": many})
    profiler, ends = torch.profiler.profile(activities=activities), []

    class Watch(Progress):
        """Profiles the iterations between the first ones and the last."""

        def advance(self, steps: int = 1, **values: float) -> None:
            ends.append(steps)
            if sum(ends) == job["iterations"] - 1 and steps:
                profiler.start()
            if sum(ends) == many - 1 and steps:
                clock(torch.device(job["device"]))
                profiler.stop()

    with tempfile.TemporaryDirectory() as folder:
        Distiller(method, task, settings, Path(folder), lambda *_: Watch()).run()
    return counted(profiler, job["device"], job["iterations"])


NOTHING_COMPUTED = {
    "view", "_unsafe_view", "as_strided", "as_strided_", "expand", "permute", "transpose", "t", "select", "slice",
    "alias", "unsqueeze", "squeeze", "detach", "detach_", "split", "split_with_sizes", "unbind", "unfold", "narrow",
    "diagonal",
    "empty", "empty_strided", "empty_like", "new_empty", "resize_", "set_", "lift_fresh", "_reshape_alias", "numpy_T",
    "result_type", "resolve_conj", "resolve_neg", "to", "contiguous", "reshape", "flatten", "unflatten", "chunk",
    "expand_as", "view_as", "broadcast_tensors", "movedim", "item", "is_nonzero",
}  # fmt: skip
SEEN_BY_THE_HOST = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim"}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def counted(profiler: torch.profiler.profile, device: str, iterations: int) -> Figures:
    """Return what a profile holds, per iteration."""
    events = list(profiler.events() or [])
    if device == "cuda":
        ran = [each for each in events if each.device_type != DeviceType.CPU]
        launched = [each for each in events if each.name.startswith(("cudaLaunchKernel", "cudaGraphLaunch"))]
        waits = [each for each in events if each.name in WAITS]
        figures = {"kernels": len(ran), "launches": len(launched), "waits": len(waits)}
    else:
        operations = [each for each in events if _operation(each)]
        seen = [each for each in operations if _operation(each) in SEEN_BY_THE_HOST]
        computing = [each for each in operations if not any(map(_operation, each.cpu_children))]
        figures = {"kernels": len(computing) - len(seen), "waits": len(seen)}
    return {name: count / iterations for name, count in figures.items()}


def _operation(event: FunctionEvent) -> str:
    """Return the name of an operation of torch that computes something, "" for every other event."""
    name = event.name.removeprefix("aten::")
    return name if name != event.name and name not in NOTHING_COMPUTED else ""


def precision(job: Job) -> Figures:
    """Measure 1 - cosine to eager float64: at worst of any step's derivatives, and of a whole path's image gradient."""
    device, generator = torch.device(job["device"]), SEEDS.generator("precision")
    images, labels = noise(job, torch.float64).train.images, noise(job).train.labels
    batches = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(job["steps"])])
    batches = batches[: job["steps"] * job["batch"]].to(device).view(job["steps"], -1)
    exact = StudentStep(FlatNetwork(network(job, "expert", dtype=torch.float64)))
    ours = StudentStep(FlatNetwork(network(job, "expert")), job["compiled"], job["precision"])
    start = exact.network.flatten()
    direction = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(device)
    figures, gradients, points = dict.fromkeys(("gradient", "hessian", "images"), 0.0), [], []
    for step, dtype in ((exact, torch.float64), (ours, torch.float32)):
        x = images[batches.flatten()].to(dtype).requires_grad_()
        y, rate = labels[batches.flatten()], torch.tensor(RATE, dtype=dtype, device=device)
        points = unroll(step, start.to(dtype), x, y, [job["batch"]] * job["steps"], rate, "adjoint")
        gradients.append(torch.autograd.grad((points[-1] - start.to(dtype)) @ direction.to(dtype), x)[0])
    for theta, rows in zip(points, batches, strict=False):
        found = []
        for step, dtype in ((exact, torch.float64), (ours, torch.float32)):
            at, x, along = (part.detach().to(dtype) for part in (theta, images[rows], direction))
            products = step.products(at, x, labels[rows], along, (0, 1))[1]
            found.append([part.double() for part in (step.gradient(at, x, labels[rows]), *products)])
        for name, one, two in zip(figures, *found, strict=True):
            figures[name] = max(figures[name], distance(one, two))
    return figures | {"whole": distance(*gradients)}


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """Return 1 - cosine."""
    return 1 - float(torch.cosine_similarity(one.double().flatten(), two.double().flatten(), dim=0))


def training(job: Job, run: Callable[[int], object]) -> Figures:
    """Measure ``run(epochs)``: one epoch first, then all in one call; return what a second holds, of all networks."""
    epochs = job["iterations"] * job["epochs"] * (10 if job["device"] == "cuda" else 1)
    figures = measured(torch.device(job["device"]), lambda: run(1), lambda: run(epochs))
    each = epochs / figures.pop("seconds")
    if job["networks"] > 1:
        figures["epochs_per_s_each"] = each
    together = job["networks"] * each
    return {"epochs_per_s": together, "images_per_s": job["images"] * together, **figures}


def experts(job: Job) -> Figures:
    """Measure expert training, a snapshot after every epoch; several networks side by side, classically in turn."""
    split, seeds = noise(job).train, [SEEDS.child("expert", at) for at in range(job["networks"])]
    networks = [network(job, "initial", at) for at in range(job["networks"])]
    if job["classical"]:
        gsam = job["algorithm"] == "gsam"
        return training(job, lambda epochs: train_classically(job, split, epochs, networks, seeds, gsam))
    loss = TrainingLoss(networks[0], job["compiled"], job["precision"])
    starts = torch.stack([loss.network.flatten(each) for each in networks])
    settings = ExpertTraining(algorithm=job["algorithm"], learning_rate=RATE, batch=job["batch"])
    return training(job, lambda epochs: train_experts(loss, starts, split, settings, DSA(), seeds, epochs))


def evaluation(job: Job) -> Figures:
    """Measure the training that judges a synthetic set: SGD with momentum and weight decay."""
    split, seeds = noise(job).train, [SEEDS.child("network", at) for at in range(job["networks"])]
    networks = [network(job, "initial", at) for at in range(job["networks"])]
    if job["classical"]:
        return training(job, lambda epochs: train_classically(job, split, epochs, networks, seeds))
    loss, sets = TrainingLoss(networks[0], job["compiled"], job["precision"]), [(split.images, split.labels)]
    sets *= len(networks)

    def run(epochs: int) -> None:
        protocol = Protocol(epochs=epochs, batch=job["batch"], precision=job["precision"], **job["optimiser"])
        train_networks(networks, loss, sets, protocol, RATE, DSA(), seeds)

    return training(job, run)


def train_classically(job, split, epochs, networks, seeds, gsam=False) -> None:
    """Train one network after another."""
    for each, part in zip(networks, seeds, strict=True):
        optimiser = torch.optim.SGD(each.parameters(), RATE, **job["optimiser"])
        classical.train(
            each, split.images, split.labels, epochs, job["batch"], optimiser, classical.ClassicalDSA(),
            part.generator("order"), part.generator("augmentation"), gsam,
        )  # fmt: skip


def segments(job: Job) -> Figures:
    """Measure reading an expert's segment of M + 1 epochs from disk, at random start epochs."""
    flat, stored = FlatNetwork(network(job, "expert")), job["stored_epochs"]
    shape, device = (stored + 1, flat.num_parameters), torch.device(job["device"])
    trajectory = torch.randn(shape, generator=SEEDS.generator("trajectory"))
    draws, first = SEEDS.generator("starts"), stored - EXPERT_EPOCHS + 1
    with tempfile.TemporaryDirectory() as folder:
        if job["classical"]:
            path = Path(folder, "replay_buffer.pt")
            parts = [[part.clone() for part in flat.unflatten(row).values()] for row in trajectory]
            torch.save(parts, path)
            read = lambda start, end: classical.read_segment(path, start, end).to(device)  # noqa: E731
        else:
            recipe = ExpertRecipe(data="noise", network={}, augmentation={}, training=ExpertTraining(), seed=0)
            store = ExpertStore(Path(folder), recipe, flat.num_parameters)
            store.write(0, trajectory, [0.0] * stored, 0.0)
            kept = StoredTrajectories(store, 1, device)
            read = lambda start, end: kept.segment(0, start, end)  # noqa: E731

        def run() -> None:
            start = int(torch.randint(first, (), generator=draws))
            read(start, start + EXPERT_EPOCHS)

        figures = measured(device, run, times=10 * job["iterations"])
    return {"reads_per_s": 1 / figures["seconds"], **figures}


def start_up(job: Job) -> Figures:
    """Measure a whole process: a command, or classically what every script of the field imports first."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *STARTS[job["variant"]]], check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - began}


def machine(job: Job) -> dict[str, Any]:
    """Return what the figures were measured on, and the device that "auto" is; no name of a host, no path."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if job["device"] == "auto" else job["device"]
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if name == "cuda" else None
    return {"device": name, "cpu": (models or [platform.machine()])[0], "gpu": gpu, "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "software": software_versions()}  # fmt: skip


def main() -> None:
    """Do the job on stdin."""
    job = json.load(sys.stdin)
    if sys.platform == "linux":  # should memory run out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    if job["keep_freed_memory"] and job["measure"] != "machine":
        keep_freed_memory(torch.device(job["device"]), lambda: 0)
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    if job["compiled"] and not can_compile(torch.device(job["device"])):
        sys.exit("error: compiling needs a C++ compiler (g++ or clang++), on CUDA Triton; it is not there")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = job["precision"] == "tf32"
    torch.backends.cudnn.deterministic = not job["classical"]  # as hoptm-bench has it, and as torch has it
    print(json.dumps(globals()[job["measure"]](job)))


if __name__ == "__main__":
    main()
