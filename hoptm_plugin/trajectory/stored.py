"""Start from a set that was distilled before: its images, and its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from torch import Tensor

from hoptm_plugin.core.errors import ConfigurationError, HopTMError
from hoptm_plugin.core.interfaces import ImagesAre, Initialiser, LabelPolicy, Task
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.storage.run_files import SYNTHETIC
from hoptm_plugin.storage.sets import read_set


def read_stored(path: Path) -> SyntheticSet:
    """Read a set from the folder of its run or from its file.

    Raises:
        FileFormatError: missing, damaged or no set.
    """
    path = path.expanduser() if path.parts[:1] == ("~",) else path
    return read_set(path / SYNTHETIC if path.is_dir() else path)


def classes_of(synthetic: SyntheticSet) -> Tensor:
    """Return the class (n,) of each image; of soft labels the likeliest."""
    return synthetic.labels.argmax(dim=1) if synthetic.soft else synthetic.labels


def unfit(path: Path, task: Task, soft: bool = False) -> list[str]:
    """Return why a task cannot start from a stored set; ``soft``: its labels must be learned ones."""
    try:
        stored = read_stored(path)
    except HopTMError as error:
        return [f"path: {error}"]
    data, found = task.data, list[str]()
    facts = {
        "classes": (stored.class_names, data.class_names),
        "image shape": (tuple(stored.images.shape[1:]), data.image_shape),
        "normalisation": (stored.normalisation, data.normalisation),
    }
    for what, (theirs, ours) in facts.items():
        if theirs != ours:
            found.append(f"path: the {what} of {path} is {theirs}, of the data set {data.name} {ours}; "
                         f"start from a set of the same data, prepared alike")  # fmt: skip
    said, splits = stored.info.get("fingerprint"), stored.info.get("splits")
    same = data.made(said, splits if isinstance(splits, Mapping) else {})
    if "zca" in stored.normalisation.kind:  # fitted on the images as they were prepared
        same = said == data.fingerprint
    if not found and not same:  # or its images may be test images here, and the card would name the wrong data
        found.append(f"path: {path} was not distilled from {data.name} as it is here (its images, its splits, "
                     f"data_seed), or does not say so; start from a set of these")  # fmt: skip
    if stored.mosaic > 1:
        found.append(f"path: {path} holds mosaics, which are no images to start from; take a set without them")
    if soft and not stored.soft:
        found.append(f"path: the labels of {path} are hard; use method.labels.name=soft, which starts from others")
    counts = Counter(classes_of(stored).tolist())
    if not found and {counts[label] for label in range(len(data.class_names))} != {task.ipc}:
        each = ", ".join(f"{counts[label]} of {name!r}" for label, name in enumerate(data.class_names[:3]))
        more = ", ..." if len(data.class_names) > 3 else ""
        found.append(f"path: {path} holds {each}{more}; ipc={task.ipc} needs so many of every class")
    return found


def ordered(path: Path, task: Task) -> SyntheticSet:
    """Return a stored set on the task's device, class by class in the order it has them.

    Raises:
        ConfigurationError: it does not fit the task.
    """
    if problems := unfit(path, task):
        raise ConfigurationError(problems)
    stored = read_stored(path).to(task.data.device)
    order = classes_of(stored).argsort(stable=True)
    like = task.train.batch(slice(0, 1))
    return SyntheticSet(
        stored.images[order].to(like), stored.labels[order].to(like) if stored.soft else stored.labels[order],
        stored.step_size, stored.class_names, stored.normalisation, stored.info,
    )  # fmt: skip


@register("stored")
class StoredImages(Initialiser):
    """Images of a set that was distilled before, to go on from.

    Classes, image shape, normalisation and images per class must be those of the run.

    Args:
        path: of the run's folder, or of a set's ``.safetensors`` file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def problems(self, task: Task) -> list[str]:
        """Return why the set does not fit."""
        return unfit(self.path, task)

    def images(self, task: Task) -> Tensor:
        """Return images (K * ipc, C, H, W).

        Raises:
            ConfigurationError: the set does not fit the task.
        """
        stored = ordered(self.path, task)
        said = stored.info.get("images_are")
        known: tuple[ImagesAre, ...] = get_args(ImagesAre)
        self.images_are = next((word for word in known if word == said), "unknown")
        return stored.images


@register("stored")
class StoredLabels(LabelPolicy):
    """Learned labels of a set that was distilled before, to go on from; with the images of the same set.

    Args:
        path: of the run's folder, or of a set's ``.safetensors`` file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def problems(self, task: Task) -> list[str]:
        """Return why the set does not fit, or has no learned labels."""
        return unfit(self.path, task, soft=True)

    def initial(self, images: Tensor, classes: Tensor, task: Task) -> Tensor:
        """Return logits (n, K).

        Raises:
            ConfigurationError: the set does not fit the task.
        """
        return ordered(self.path, task).labels.to(images)
