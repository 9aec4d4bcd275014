"""Peak memory and time of one HoP-TM distillation iteration, by unroll strategy and number of student steps.

    python benchmarks/memory.py [--steps 10 20 40 80] [--width 128] [--device cpu]

The PathMNIST IPC 10 setting: ConvNet-D3, 9 classes, 3x32x32, mini-batches of 10, DSA on. Each figure is a process of
its own. "peak" is what the machine must have: on the CPU the highest resident set, on CUDA the most that torch
had allocated. "+" is the part above the same process just before the iteration, when libraries and data were loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

STRATEGIES = ("full", "adjoint")


def iteration(strategy: str, steps: int, width: int, device_name: str) -> dict[str, float]:
    """Run one distillation iteration; return its memory and seconds."""
    import torch

    import hoptm_plugin.builtin  # noqa: F401
    from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
    from hoptm_plugin.core.interfaces import Task, augmentations, methods
    from hoptm_plugin.core.seeding import Seeds
    from hoptm_plugin.networks import ConvNet, FlatNetwork, create

    device, classes, ipc, seeds = torch.device(device_name), 9, 10, Seeds(0)
    normalisation = Normalisation((0.0,) * 3, (1.0,) * 3, "none")
    images = torch.randn(classes * ipc, 3, 32, 32, generator=seeds.generator("images")).to(device)
    split = Split(images, torch.arange(classes, device=device).repeat_interleave(ipc), normalisation)
    data = ImageData("noise", tuple("abcdefghi"), split, split, split, normalisation, "none")

    def network(generator: torch.Generator) -> torch.nn.Module:
        return create(ConvNet(depth=3, width=width), data.image_shape, classes, generator, device)

    class Experts:
        def __len__(self) -> int:
            return 1

        def segment(self, expert: int, first: int, last: int) -> torch.Tensor:
            points = [FlatNetwork(network(seeds.generator("expert"))).flatten()]
            for epoch in range(last - first):
                noise = torch.randn(points[0].shape, generator=seeds.generator(epoch)).to(device)
                points.append(points[-1] + 1e-3 * noise)
            return torch.stack(points)

    def run(student_steps: int) -> None:
        spec = {
            "name": "trajectory_matching",
            "student_steps": student_steps, "expert_epochs": 2, "student_batch": 10, "step_size": 0.01,
            "matchers": {"endpoint": {"name": "endpoint"}, "shape": {"name": "shape_wise_potential", "weight": 0.5}},
            "schedulers": {"pace": {"name": "self_paced", "kappa": 1e-5}},
            "sampler": {"name": "uniform", "max_start_epoch": 4},
            "labels": {"name": "hard"}, "initial_images": {"name": "real"},
        }  # fmt: skip
        task = Task(data, ipc, network, augmentations.build({"name": "dsa"}), lambda epochs: Experts(), seeds, strategy)
        method = methods.build(spec)
        synthetic = method.setup(task)
        synthetic.images.requires_grad_()
        synthetic.step_size.requires_grad_()
        for term in method.losses(synthetic, 0):
            term.loss.backward()

    def peak() -> float:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    network(seeds.generator("warm-up"))
    before, began = peak(), time.perf_counter()
    run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"peak": peak(), "increase": peak() - before, "seconds": time.perf_counter() - began}


def main() -> None:
    """Print one line per number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 20, 40, 80])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", nargs=2, metavar=("STRATEGY", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(iteration(options.one[0], int(options.one[1]), options.width, options.device)))
        return
    print(f"{'N':>4}  " + "".join(f"{name + ': peak MiB':>18}{'+ MiB':>8}{'s':>8}" for name in STRATEGIES))
    for steps in options.steps:
        line = f"{steps:>4}  "
        for strategy in STRATEGIES:
            command = [sys.executable, __file__, "--width", str(options.width), "--device", options.device]
            done = subprocess.run([*command, "--one", strategy, str(steps)], capture_output=True, text=True, check=True)
            row = json.loads(done.stdout)
            line += f"{row['peak']:>18.0f}{row['increase']:>8.0f}{row['seconds']:>8.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
