"""The cost model of benchmarks/: its fit, its arithmetic, the committed page, and that its driver measures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import scaling  # noqa: E402
from scaling_model import OVERHEAD, STAGES, Model, Times, left_out, passes, size_of, work  # noqa: E402
from scaling_points import Point, grid  # noqa: E402
from scaling_targets import targets  # noqa: E402

KNOWN = {
    "epoch": 2e-2, "gradient": 5e-4, "iteration": 4e-3, "student step": 2e-3, "network": 6e-3, "training step": 8e-4,
    "operation": 8e-12, "activation": 1.5e-9, "fresh activation": 3e-9, "parameter": 1e-8, "learned value": 2e-9,
}  # fmt: skip


def synthetic(stage):
    """Return the grid's points of a stage with seconds of a known model."""
    points = [point for point in grid() if point.stage == stage]
    return [(point, sum(amount * KNOWN[name] for name, amount in terms(point).items())) for point in points]


def terms(point):
    return work(point, saved=1.0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_known_model_is_fitted_back(stage):
    measured = synthetic(stage)
    model = Model.fit(measured, terms)
    assert model.coefficients == pytest.approx({name: KNOWN[name] for name in model.coefficients}, rel=1e-5)
    assert max(map(abs, model.errors(measured))) < 1e-9
    assert max(map(abs, left_out(measured, terms))) < 1e-6, "the grid tells the terms apart without any one point"


def test_work_of_a_hand_counted_network():
    # 3x3 convolutions 3 -> 8 at 8x8 and 8 -> 8 at 4x4, then 32 values to 9 classes; two operations each product
    point = Point("experts", 2, 8, 8, 9, images=20, batch=8, epochs=2, algorithm="gsam")
    size = size_of(point)
    assert size.operations == 2 * (27 * 8 * 64 + 72 * 8 * 16 + 32 * 9)
    assert size.parameters == (27 * 8 + 8 + 16) + (72 * 8 + 8 + 16) + (32 * 9 + 9)
    assert size.activations == 8 * (3 * 64 + 16) + 8 * (3 * 16 + 4) + 32 + 9  # each: convolution, norm, ReLU, pool
    amounts = work(point)
    assert passes(point) == 2 * 2 * 20
    assert (amounts["gradient"], amounts["epoch"]) == (2 * 2 * 3, 2)
    assert amounts["operation"] == 3 * size.operations * 80
    assert amounts["parameter"] == 12 * size.parameters
    distilled = work(Point("distillation", 2, 8, 8, 9, images=18, batch=9, steps=5, iterations=2))
    assert distilled["operation"] == 3 * size.operations * 3 * 9 * 5 * 2
    assert (distilled["student step"], distilled["learned value"]) == (10, 18 * 3 * 64 * 2)


def test_only_overhead_stays_on_a_gpu():
    model = Model(KNOWN, terms)
    point = Point("evaluation", 3, 16, 32, 9, images=90, batch=128, epochs=4, test=9)
    parts = {name: amount * KNOWN[name] for name, amount in terms(point).items()}
    overhead = sum(part for name, part in parts.items() if name in OVERHEAD)
    assert model.predict(point, 10.0) == pytest.approx(overhead + (sum(parts.values()) - overhead) / 10)


def test_wall_times_count_whole_jobs():
    found = Times(expert=10, distillation=1000, network=7, experts=100, networks=10)
    assert found.wall(1) == 100 * 10 + 1000 + 10 * 7
    assert found.wall(8) == 13 * 10 + 1000 + 2 * 7
    assert found.wall(64) == 2 * 10 + 1000 + 7
    assert found.wall(8, runs=5) == 13 * 10 + 1000 + 7 * 7
    assert found.wall(1, runs=5) == 100 * 10 + 5 * 1000 + 50 * 7


def test_targets_are_the_recipes():
    path, covid, imagenet, longer = targets()
    assert path.expert_bytes == 100 * 62 * 317_961 * 4
    assert path.set_bytes == 9000 * 3 * 32 * 32 * 4
    assert covid.expert_bytes == 100 * 23 * 599_812 * 4
    assert imagenet.set_bytes == 10_000 * 3 * 64 * 64 * 4
    assert imagenet.data_bytes() == (1_281_167 + 50_000) * 3 * 64 * 64
    assert path.data_bytes() == (89_996 + 10_004 + 7_180) * 3 * 32 * 32 * 4
    assert [each.networks for each in targets()] == [10] * 4
    assert [each.experts for each in targets()] == [100] * 4
    assert longer.point("distillation").steps == 8 * imagenet.point("distillation").steps
    for each in targets():
        assert passes(each.point("distillation")) == each.job.distillation(each.size)
        assert size_of(each.point("experts")).operations > 0


def test_the_committed_page_is_generated_from_the_committed_points(tmp_path):
    page = tmp_path / "scaling.md"
    assert scaling.main(["report", "--output", str(page)]) == 0
    again = "python benchmarks/scaling.py report"
    assert page.read_text(encoding="utf-8") == scaling.PAGE.read_text(encoding="utf-8"), f"rebuild with {again}"


def test_the_committed_points_are_the_grid_s():
    text = scaling.RESULTS.read_text(encoding="utf-8")
    assert [point for point, _ in scaling.read(scaling.RESULTS)[1]] == grid()
    assert str(BENCHMARKS.parent) not in text


def test_every_stage_is_measured(tmp_path, monkeypatch):
    tiny = (2, 4, 8, 3)
    points = [
        Point("experts", *tiny, images=6, batch=3, epochs=2, algorithm="gsam"),
        Point("distillation", *tiny, images=3, batch=3, steps=2, iterations=2),
        Point("evaluation", *tiny, images=3, batch=3, epochs=2, test=3),
    ]
    monkeypatch.setattr(scaling, "grid", lambda: points)
    output = tmp_path / "points.json"
    assert scaling.main(["measure", "--rounds", "1", "--output", str(output)]) == 0
    assert [point for point, _ in scaling.read(output)[1]] == points
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["machine"]["threads"] == 1
    for record in content["points"]:
        assert min(record["seconds"]) > 0
        assert record["step_mib"] > 0
