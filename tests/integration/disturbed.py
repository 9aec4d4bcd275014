"""Runs that are killed, stopped and started again, and the one that nothing disturbed, which they must equal."""

from __future__ import annotations

from pathlib import Path

from command_line import TINY_NETWORK, card
from generated import NPZ

EXPERTS = 8
BUDGET = (
    *TINY_NETWORK, *NPZ, f"experts.count={EXPERTS}", "experts.training.batch=4", "method.student_steps=4",
    "method.sampler.max_start_epoch=4", "distillation.iterations=80", "distillation.checkpoint_every=2",
    "distillation.log_every=1", "distillation.images.learning_rate=0.1", "distillation.step_size.learning_rate=1e-6",
    "protocol.repeats=4", "protocol.epochs=60", "runtime.threads=1", "runtime.compile=false",
)  # fmt: skip


def command(npz_file: Path, folder: Path) -> tuple[str, ...]:
    """Return a run in ``folder`` with experts of its own beside it, begun or gone on with."""
    return ("run", "dataset=npz", f"dataset.root={npz_file}", *BUDGET, f"experts.root={folder}-experts",
            f"hydra.run.dir={folder}", "resume=auto")  # fmt: skip


def stage(folder: Path) -> str | None:
    """Return what a run was doing, by its files; None before it did anything."""
    if (folder / "result.json").exists():
        return "done"
    if (folder / "synthetic.safetensors").exists():
        return "evaluation"
    metrics = folder / "metrics.jsonl"
    if metrics.exists() and metrics.stat().st_size:  # an iteration is done, which a stop must not lose
        return "distillation"
    return "experts" if (folder / "config.yaml").exists() else None


def assert_same(folder: Path, expected: Path) -> None:
    """Refuse a run that differs from the one that nothing disturbed in anything but its cost, or left something."""
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in expected.iterdir()}, "a lock, a temporary file or less than all"
    for name in names - {"result.json", "checkpoint.safetensors", "config.yaml"}:  # these hold seconds and paths
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    mine, theirs = card(folder), card(expected)
    for each in (mine, theirs):  # the commit: of a checkout that may be edited meanwhile
        del each["cost"], each["sha256"], each["artefacts"]["config.yaml"], each["software"]["commit"]
    assert mine == theirs
    (store,) = folder.with_name(f"{folder.name}-experts").glob("[0-9a-f]*")
    files = [*(f"expert-{expert:05d}.safetensors" for expert in range(EXPERTS)), "manifest.json"]
    assert sorted(path.name for path in store.iterdir()) == files
