"""The command line with compiled steps, lower precision, a memory budget and networks side by side."""

import pytest
import torch
from command_line import TINY_NETWORK, TINY_PROTOCOL, TINY_RUN, call, card, start
from generated import NPZ
from safetensors.torch import load_file
from test_reproducibility import bits, kill_when

from hoptm_plugin.runtime.environment import COMPILED_CODE

# mini-batches of 4 and 2 images, so that steps of two shapes are compiled
BUDGET = (
    *TINY_NETWORK, *TINY_PROTOCOL, *NPZ, "experts.count=1", "experts.training.batch=24", "ipc=2",
    "method.student_batch=4", "method.student_steps=4", "method.sampler.max_start_epoch=2",
    "distillation.iterations=40", "distillation.checkpoint_every=5", "distillation.step_size.learning_rate=1e-6",
    "network.depth=1", "runtime.compile=true",
)  # fmt: skip


@pytest.mark.campaign
def test_compiled_runs_repeat_their_bits_also_when_killed_and_resumed_from_cached_code(tmp_path, npz_file, monkeypatch):
    monkeypatch.delenv(COMPILED_CODE, raising=False)  # torch sets it when a test of this process compiles

    def arguments(folder, *more):
        return ("run", "dataset=npz", f"dataset.root={npz_file}", *BUDGET, f"experts.root={tmp_path / folder}-experts",
                f"hydra.run.dir={tmp_path / folder}", *more)  # fmt: skip

    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    whole = call(*arguments("whole"), cwd=tmp_path, environment=cache)
    assert whole.code == 0, whole.err
    assert (tmp_path / "hoptm-bench" / "compiled").is_dir()
    assert "Warning" not in whole.err
    assert "CUDA" not in whole.err
    killed = tmp_path / "killed"
    process = start(*arguments("killed"), cwd=tmp_path, environment=cache)
    kill_when(process, lambda: (killed / "checkpoint.safetensors").exists())
    assert not (killed / "synthetic.safetensors").exists()
    resumed = call(*arguments("killed", "resume=true"), cwd=tmp_path, environment=cache)
    assert resumed.code == 0, resumed.err
    assert bits(killed) == bits(tmp_path / "whole")
    assert card(killed)["evaluations"] == card(tmp_path / "whole")["evaluations"]


def test_bf16_is_written_into_the_card_and_never_shares_a_column(bench, npz_file, finished_run, tmp_path):
    low = ("runtime.precision=bf16", "experts.training.precision=bf16", "protocol.precision=bf16")
    result = bench("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, *low, "hydra.run.dir=low")
    assert result.code == 0, result.err
    assert card(tmp_path / "low")["protocol"]["precision"] == "bf16"
    assert card(tmp_path / "low")["lower_precision"] == "bf16 distillation, bf16 experts"
    assert card(finished_run)["protocol"]["precision"] == "float32"
    assert card(finished_run)["lower_precision"] is None
    compared = bench("compare", str(finished_run), "low", "--format", "json", "--no-tests")
    assert compared.code == 0, compared.err
    assert "precision" in compared.out


@pytest.mark.slow
def test_networks_side_by_side_and_any_memory_budget_run_the_whole_way(bench, npz_file, tmp_path):
    """The same numbers up to rounding; experts lie in the same store."""
    settings = ("run", "dataset=npz", f"dataset.root={npz_file}", *NPZ, *TINY_RUN, "protocol.repeats=3")
    for name, more in (("a", ("runtime.parallel_networks=2",)), ("b", ("runtime.memory_budget=0",))):
        result = bench(*settings, *more, f"hydra.run.dir={name}", experts=tmp_path / f"{name}-experts")
        assert result.code == 0, result.err
    (store_a,), (store_b,) = (list((tmp_path / f"{name}-experts").glob("[0-9a-f]*")) for name in "ab")
    assert store_a.name == store_b.name
    for one in store_a.glob("*.safetensors"):
        ours, alone = (load_file(store / one.name)["parameters"] for store in (store_a, store_b))
        torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-5)
    accuracies = [card(tmp_path / name)["evaluations"][0]["accuracy"]["values"] for name in "ab"]
    assert len(accuracies[0]) == 3
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("runtime.memory_budget=plenty", "runtime.memory_budget: could not parse value and unit"),
        ("runtime.parallel_networks=0", "runtime.parallel_networks: Input should be greater than 0"),
        ("runtime.capture=true", "runtime.capture: CUDA graphs exist on CUDA only; leave it out"),
        ("runtime.precision=half", "runtime.precision: Input should be 'float32', 'tf32' or 'bf16'"),
        ("protocol.precision=tf32", "protocol.precision: Input should be 'float32' or 'bf16'"),
        ("runtime.compile=maybe", "runtime.compile: Input should be 'auto', True or False"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(bench, setting, said):
    result = bench("run", setting)
    assert result.code == 2
    (line,) = [line for line in result.err.splitlines() if not line.startswith("recipe ")]
    assert line.startswith(f"error: {said}")
    assert "Traceback" not in result.err
