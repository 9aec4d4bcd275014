"""The speed benchmark: its baseline computes what the library computes, and its driver runs. Nothing is timed."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import command_line
import pytest
import torch

from hoptm_plugin.augment import DSA
from hoptm_plugin.core.asking import Ask
from hoptm_plugin.engine.settings import Protocol
from hoptm_plugin.engine.training import train_networks
from hoptm_plugin.experts import ExpertTraining, train_experts
from hoptm_plugin.networks.layers import AvgPool2d
from hoptm_plugin.networks.stack import TrainingLoss

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"
DRIVER = (sys.executable, str(SPEED / "run.py"))
TINY = ("--width", "8", "--steps", "3", "--images", "9", "--rounds", "1", "--iterations", "1", "--device", "cpu")
CLASSICAL, KEPT = "classical", "classical, freed memory kept"


@pytest.fixture
def speed(monkeypatch):
    """Return the benchmark's own modules by name, which are no package, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(SPEED))
    names = ("cases", "classical", "measure", "roofline")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def job(speed, **settings):
    return speed["cases"].COMMON | {"device": "cpu", "width": 4, "depth": 2, "images": 27, "steps": 8} | settings


@pytest.mark.parametrize("library", [{"unroll": "adjoint"}, {"unroll": "auto"}], ids=["adjoint", "kept"])
def test_the_classical_gradient_is_that_of_the_library(speed, library):
    gradients = []
    for settings in ({"classical": True}, library):
        # batches of 10 out of 27 images leave a remainder of 7
        method, synthetic = speed["measure"].distillation(job(speed, **settings), torch.float64)
        losses = []
        for step in range(2):
            for term in method.losses(synthetic, step):
                term.loss.backward()
                losses.append(float(term.loss.detach()))
        gradients.append((synthetic.images.grad, synthetic.step_size.grad, torch.tensor(losses)))
    assert all(part.abs().max() > 0 for part in gradients[0])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


def test_the_classical_augmentation_is_that_of_the_library(speed):
    ours, theirs, generator = DSA(), speed["classical"].ClassicalDSA(), torch.Generator().manual_seed(0)
    groups = set()
    for _ in range(60):
        images = torch.randn(5, 3, 12, 16, dtype=torch.float64, generator=generator, requires_grad=True)
        draw = ours.draw(5, (3, 12, 16), generator)
        groups.add(draw.group)
        results = [each.apply(images, draw) for each in (ours, theirs)]
        along = torch.randn(results[0].shape, dtype=torch.float64, generator=generator)
        gradients = [torch.autograd.grad((result * along).sum(), images)[0] for result in results]
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert groups == set(ours.strategy)


def test_the_classical_way_asks_for_nothing(speed):
    """What is compared with the library must not be the library."""
    method, synthetic = speed["measure"].distillation(job(speed, classical=True))
    assert not any(isinstance(each, Ask) for each in method.losses_side_by_side(synthetic, 0))


def test_the_classical_network_is_of_torch_s_layers(speed):
    layers = [{type(layer) for layer in speed["measure"].network(job(speed, classical=way), "initial").modules()}
              for way in (True, False)]  # fmt: skip
    assert torch.nn.AvgPool2d in layers[0] - layers[1]
    assert AvgPool2d in layers[1] - layers[0]


def test_kernels_and_waits_are_counted(speed):
    """Of the iterations in the middle: so many the more, the more steps a student takes, and none of the set-up."""
    few, many = (speed["measure"].counts(job(speed, steps=steps, iterations=2)) for steps in (2, 4))
    assert 1.5 * few["kernels"] < many["kernels"] < 2.5 * few["kernels"]
    assert few["waits"] <= many["waits"] < few["waits"] + 10


def test_shares_of_the_peak(speed, tmp_path, capsys):
    """The published size: 101.5 million operations an image, 0.89 e12 an iteration, 13.3 ms of an H100 in float32."""
    roofline, setting = speed["roofline"], speed["cases"].COMMON
    assert roofline.forward_operations(setting) == pytest.approx(101.5e6, rel=1e-3)
    machine = {"gpu": "NVIDIA H100 80GB HBM3", "cpu": "any", "threads": 1}
    common = {"suite": "iteration", "case": "a case", "failed": False}
    results = [
        {**common, "variant": "kept", "setting": setting, "summary": {"seconds": {"median": 0.0133}}},
        {**common, "variant": "gsam", "setting": setting | {"algorithm": "gsam", "precision": "bf16"},
         "summary": {"images_per_s": {"median": 1e5}}},
        {**common, "variant": "eager", "setting": setting, "summary": {"epochs_per_s": {"median": 1e3}}},
        {**common, "variant": "adjoint", "setting": setting, "failed": True, "summary": {"kernels": {"median": 8000}}},
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"machine": machine, "results": results}))
    assert roofline.main([str(tmp_path / "a.json"), str(tmp_path / "gone.json")]) == 0
    shown = capsys.readouterr()
    cells = [[cell.strip() for cell in line.split("|")[3:-1]] for line in shown.out.splitlines() if "a case" in line]
    assert cells[0] == ["kept", "13.3 ms", "60,150", "67.1", "100.2 %", "-", "-", "-"]
    assert cells[1] == ["gsam", "-", "100,000", "60.9", "6.2 %", "-", "-", "-"]
    assert cells[2] == ["eager", "-", "90,000", "27.4", "40.9 %", "-", "-", "-"], "90 images an epoch"
    assert cells[3] == ["adjoint (failed)", "-", "-", "-", "-", "8,000", "-", "-"]
    assert "gone.json is not there" in shown.err


@pytest.mark.campaign
def test_the_measurement_on_a_gpu_can_be_rehearsed(tmp_path):
    tiny = ("--device", "cpu", "--width", "4", "--steps", "1", "--images", "9")
    environment = {"LIMITS": "20", "VARIANTS": "classical,kept,eager"}
    script = ("bash", str(SPEED / "gpu.sh"))
    result = command_line.call(str(tmp_path / "out"), *tiny, cwd=tmp_path, program=script, environment=environment)
    assert result.code == 0, result.err
    assert "exit code" not in result.out
    rows = [line for line in result.out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 + 4 + 2 + 1 + 2, "of iteration, experts, evaluation, published-size and counts"


@pytest.mark.parametrize("algorithm", ["sgd", "gsam"])
def test_classical_experts_are_those_of_the_library(speed, algorithm):
    setting, classical, settings = speed["measure"], speed["classical"], job(speed)
    split, seeds = setting.noise(settings, torch.float64).train, setting.SEEDS
    network = setting.network(settings, "initial", dtype=torch.float64)
    loss = TrainingLoss(network)
    training = ExpertTraining(algorithm=algorithm, learning_rate=0.1, momentum=0.5, weight_decay=1e-2, batch=10)
    # rows of one epoch: the library draws each epoch from streams of its own
    (expected,) = train_experts(loss, loss.network.flatten()[None], split, training, DSA(), [seeds], 1)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.5, weight_decay=1e-2)
    found = classical.train(
        network, split.images, split.labels, 1, 10, optimiser, DSA(), seeds.generator("order", 0),
        seeds.generator("augmentation", 0), algorithm == "gsam",
    )  # fmt: skip
    rows = torch.stack([torch.cat([part.flatten() for part in snapshot]) for snapshot in found])
    assert not torch.equal(rows[0], rows[1])
    torch.testing.assert_close(rows, expected.trajectory, rtol=1e-9, atol=1e-12)


def test_classical_evaluation_is_that_of_the_library(speed):
    setting, classical, settings = speed["measure"], speed["classical"], job(speed)
    split, seeds = setting.noise(settings, torch.float64).train, setting.SEEDS
    plain, own = (setting.network(settings, "initial", dtype=torch.float64) for _ in range(2))
    optimiser = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    generators = seeds.generator("order"), seeds.generator("augmentation")
    classical.train(plain, split.images, split.labels, 2, 10, optimiser, DSA(), *generators)
    protocol = Protocol(epochs=2, batch=10)
    train_networks([own], TrainingLoss(own), [(split.images, split.labels)], protocol, 0.1, DSA(), [seeds])
    for expected, found in zip(plain.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_both_ways_read_the_same_segment(speed, tmp_path):
    classical = speed["classical"]
    trajectory = [[torch.full((2, 2), float(epoch)), torch.arange(3.0) + epoch] for epoch in range(5)]
    torch.save(trajectory, tmp_path / "buffer.pt")
    segment = classical.read_segment(tmp_path / "buffer.pt", 1, 3)
    assert segment.shape == (3, 7)
    assert torch.equal(segment[:, 0], torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.campaign
def test_every_variant_is_measured_and_compared(tmp_path):
    variants = (CLASSICAL, KEPT, "adjoint", "kept", "expert store", "help")
    arguments = ("iteration", "segments", "start-up", *TINY, "--output", "out/speed.json", "--markdown", "speed.md")
    result = command_line.call(*arguments, "--variants", *variants, cwd=tmp_path, program=DRIVER)
    assert result.code == 0, result.err
    text = (tmp_path / "out/speed.json").read_text()
    assert str(tmp_path) not in text and str(SPEED.parents[1]) not in text  # noqa: PT018
    content = json.loads(text)
    assert {"cpu", "gpu", "cores", "threads", "software"} <= set(content["machine"])
    assert content["machine"]["software"]["torch"] == torch.__version__.split("+")[0]
    measured = {(record["suite"], record["variant"]): record for record in content["results"]}
    assert list(measured) == [
        *(("iteration", name) for name in variants[:4]),
        ("segments", CLASSICAL), ("segments", "expert store"), ("start-up", CLASSICAL), ("start-up", "help"),
    ]  # fmt: skip
    for record in measured.values():
        assert len(record["rounds"]) == 1
        assert all(value >= 0 for value in record["rounds"][0].values())
        assert all(figure["median"] >= 0 for figure in record["summary"].values())
    assert {"seconds", "first_seconds", "peak_mib", "extra_mib", "step_ms"} <= set(
        measured["iteration", "kept"]["summary"]
    )
    assert measured["iteration", CLASSICAL]["summary"]["seconds"]["ratio"] == 1
    assert "ratio" in measured["segments", "expert store"]["summary"]["reads_per_s"]

    table = (tmp_path / "speed.md").read_text()
    assert 'ratio to the variant "classical"' in result.out and "ratio to the variant" in table  # noqa: PT018
    rows = {line.split("|")[2].strip(): line for line in table.splitlines() if line.startswith("| PathMNIST")}
    assert list(rows) == list(variants[:4])
    assert all(re.search(r"\d \d+\.\d+x \|", row) for row in rows.values())


@pytest.mark.campaign
def test_a_failing_variant_is_named_and_the_others_go_on(tmp_path):
    # no C++ compiler is found, so nothing can be compiled
    arguments = ("evaluation", *TINY, "--variants", CLASSICAL, "compiled", "eager", "--output", "speed.json")
    environment = {"PATH": str(tmp_path), "CXX": "no-such-compiler"}
    result = command_line.call(*arguments, cwd=tmp_path, program=DRIVER, environment=environment)
    assert result.code == 1
    assert "error: failed: evaluation: PathMNIST IPC 10: compiled: error: compiling needs a C++ compiler" in result.err
    assert "Traceback" not in result.err
    records = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert [(each["variant"], each["failed"], len(each["rounds"])) for each in records] == [
        (CLASSICAL, False, 1), ("eager", False, 1), ("compiled", True, 0),
    ]  # fmt: skip
    assert "compiled (failed)" in result.out


def test_unknown_names_are_refused(tmp_path):
    for arguments in (("speed",), ("--variants", "fast"), ("--images", "3"), ("--rounds", "0")):
        result = command_line.call(*arguments, cwd=tmp_path, program=DRIVER)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err
