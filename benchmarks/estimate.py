"""What a suite's runs may cost here: every one is planned as ``hoptm-bench plan`` does, from a moment of its work.

The data need not be at hand: images of their size and number stand in for them, so that nothing counts as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from suite_file import DataSize
from suite_plan import Job

from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data import load
from hoptm_plugin.runs.assembly import Workbench
from hoptm_plugin.runs.planning import Plan, alike, planned, plans
from hoptm_plugin.runtime.device import computing, resolve
from hoptm_plugin.runtime.progress import silent
from hoptm_plugin.settings import RunSettings


def estimate(
    jobs: Sequence[Job], given: DataSize, extra: Sequence[str], after_each: Callable[[], object] = lambda: None
) -> list[Plan]:
    """Return the plans of a suite's runs, one after the other.

    Args:
        jobs: all runs of a suite.
        given: size of the suite's data set.
        extra: settings of the command line; where they choose another data set, it is read.
        after_each: is called after each run.

    Raises:
        DataError: another data set was asked for and cannot be read.
    """
    replaced = any(setting.startswith("dataset=") for setting in extra)

    def make(job: Job) -> Plan:
        settings, runtime = job.settings, job.settings.runtime
        device = resolve(runtime.device, runtime.precision, runtime.compile is True)
        with computing(device, runtime.precision, runtime.threads):
            data = stand_in(settings, data_size(settings, given, replaced), device)
            return planned(Workbench(settings, job.parts, device, silent, data), judged=bool(job.evaluates))

    runs = [(f"{alike(job.settings)} {bool(job.evaluates)}", partial(make, job)) for job in jobs]
    return plans(runs, after_each)


def stand_in(settings: RunSettings, size: DataSize, device: torch.device) -> ImageData:
    """Return black images in the place of a data set, tested on a fifth as many; they take the memory of one."""
    labels = torch.arange(size.train, device=device) % size.classes
    split = Split(torch.zeros(1, *size.image, device=device).expand(size.train, -1, -1, -1), labels,
                  Normalisation((0.0,) * size.image[0], (1.0,) * size.image[0], "none"))  # fmt: skip
    names = tuple(map(str, range(size.classes)))
    tested = Split(split.images[: -(-size.train // 5)], labels[: -(-size.train // 5)], split.normalisation)
    return ImageData("stand-in", names, split, tested, tested, split.normalisation, f"stand-in {settings.dataset}")


def data_size(settings: RunSettings, given: DataSize, replaced: bool) -> DataSize:
    """Return the size of a run's data set: as the suite gives it, or read where another data set was asked for."""
    if replaced:
        data = load(settings.dataset, Seeds(settings.data_seed), torch.device("cpu"))
        return DataSize(train=len(data.train), classes=len(data.class_names), image=data.image_shape)
    side = settings.dataset.get("preprocess", {}).get("image_size")
    image = (given.image[0], side, side) if isinstance(side, int) else given.image  # not where the reader decides
    return given.model_copy(update={"image": image})
