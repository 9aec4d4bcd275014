"""Sets that were distilled elsewhere: a method that reads its set from files; docs/import.md has who saves what."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from hoptm_plugin.cards.record import LONGEST_LINE
from hoptm_plugin.core.dataset import ImageData
from hoptm_plugin.core.errors import ConfigurationError, DataError, FileFormatError
from hoptm_plugin.core.interfaces import LossTerm, Method, Task
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Chance, Nothing
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.core.text import one_line
from hoptm_plugin.data.memory import require
from hoptm_plugin.exchange.loading import BYTES_PER_VALUE, LARGEST_BYTES, logits
from hoptm_plugin.exchange.manifest import MOST_VALUES
from hoptm_plugin.storage.files import sha256
from hoptm_plugin.storage.foreign import read_foreign

Values = Literal["normalised", "whitened", "pixels"]
NAMES: Final = {
    "images": ("images", "train_images", "image_syn", "images_syn", "data", "x"),
    "labels": ("labels", "train_soft_labels", "soft_labels", "train_labels", "label_syn", "labels_syn", "targets", "y"),
    "step_size": ("step_size", "syn_lr", "lr", "learning_rate"),
}
LOWEST_INPUT = 0.5  # which normalised images nearly always go below, and pixels never do
LARGEST_PIXEL = 2  # of floats that are pixels of [0, 1]; optimisers leave that a little
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Found:
    """What files hold of a set, as they hold it.

    Attributes:
        images: of any of the shapes that :class:`Imported` takes.
        labels: class indices or numbers per class; None where there are none.
        step_size: one number; None where there is none.
        told: what was chosen among several, in words; "" where nothing was.
    """

    images: Tensor
    labels: Tensor | None = None
    step_size: float | None = None
    told: str = ""

    def ipc(self) -> int | None:
        """Return the images of each class, as far as the labels tell; None where there are none."""
        if self.labels is None or not self.labels.numel():
            return None
        labels = self.labels.reshape(len(self.labels), -1) if self.labels.ndim else self.labels.reshape(1, 1)
        classes = labels.shape[1] if labels.shape[1] > 1 else len(set(labels.flatten().tolist()))
        return max(1, len(self.images) // classes)


def read_files(files: Sequence[Path], experiment: int = 0) -> Found:
    """Read the files of a set: of images, labels and learning rate in this order, or one that holds several of them.

    Args:
        files: one to three.
        experiment: which one of the sets that one file holds, as DM's and IDM's do.

    Raises:
        ConfigurationError: no files, or more than three.
        FileFormatError: one is no such file, or no images are in it.
        DataError: it does not fit into memory.
    """
    if not 1 <= len(files) <= len(NAMES):
        raise ConfigurationError("import: name the files of one set: its images, then its labels, then its learning "
                                 "rate, or one that holds all of them")  # fmt: skip
    parts: dict[str, Any] = {}
    told, several = "", False
    for place, file in enumerate(files):
        content = read_foreign(file, LARGEST_BYTES, partial(require, device=CPU, what=f"{file}: its arrays"))
        if isinstance(content, Mapping) and isinstance(content.get("data"), list):  # DM's and IDM's, one set a run
            sets = content["data"]
            if not experiment < len(sets):
                raise FileFormatError(f"{file}: holds {len(sets)} sets, so experiment={experiment} names none")
            content, several = sets[experiment], True
            told = f"set {experiment} of {len(sets)}" if len(sets) > 1 else ""
        parts |= _named(content, place, len(files), file)
    names = ", ".join(map(str, files))
    if experiment and not several:
        raise ConfigurationError(f"experiment={experiment}: {names} holds one set; leave it out")
    images = parts.get("images")
    if not isinstance(images, Tensor) or images.ndim not in (3, 4) or not images.numel():
        raise FileFormatError(f"{files[0]}: holds no images, which are an array of three or four dimensions")
    for tensor in (each for each in parts.values() if isinstance(each, Tensor)):
        size = tensor.numel() * tensor.element_size()
        if tensor.numel() > MOST_VALUES or size > tensor.untyped_storage().nbytes():
            raise FileFormatError(f"{names}: an array claims {tensor.numel():,} values, more than are there or than "
                                  f"{MOST_VALUES:,}")  # fmt: skip
        require(BYTES_PER_VALUE * tensor.numel(), CPU, f"{names}: its arrays")
    labels, rate = _labels(parts.get("labels"), names), _rate(parts.get("step_size"), names)
    return Found(images.detach(), labels, rate, told)


def _named(content: Any, place: int, files: int, file: Path) -> dict[str, Any]:
    """Return what a file holds by what it is."""
    if isinstance(content, Mapping) and len(content) == 1:
        (content,) = content.values()
    if isinstance(content, Mapping):
        found = {part: next((content[name] for name in names if name in content), None)
                 for part, names in NAMES.items()}  # fmt: skip
        if not any(value is not None for value in found.values()) or (place == 0 and found["images"] is None):
            known = "; ".join(f"{part} as {', '.join(names)}" for part, names in NAMES.items())
            names = one_line(", ".join(map(str, content)))[:200] or "nothing"
            raise FileFormatError(f"{file}: holds {names}, of which nothing is known; {known}")  # fmt: skip
        return {part: value for part, value in found.items() if value is not None}
    if isinstance(content, list | tuple) and place == 0 and len(content) <= len(NAMES):
        return dict(zip(NAMES, content, strict=False))
    if isinstance(content, list | tuple):
        raise FileFormatError(
            f"{file}: holds a list of {len(content)}; save its images as one array, its labels as one"
        )
    if isinstance(content, Tensor) and content.ndim > 0 and content.numel() > 1:
        return {("images", "labels", "step_size")[place]: content}
    if place == 0 and isinstance(content, Tensor):
        return {"images": content}
    # a single number is the label of a single image, or a learning rate
    return {"labels" if place == 1 and files > len(NAMES) - 1 else "step_size": content}


def _labels(found: Any, names: str) -> Tensor | None:
    if found is not None and not isinstance(found, Tensor):
        raise FileFormatError(f"{names}: the labels are {type(found).__name__}, no array of numbers")
    return None if found is None else found.detach()


def _rate(found: Any, names: str) -> float | None:
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, int | float | None):
        raise FileFormatError(f"{names}: the learning rate is no single number; name the files in the order images, "
                              f"labels, learning rate, or give it with step_size=NUMBER")  # fmt: skip
    if isinstance(found, int) and abs(found) > 2**53:  # more than floats can hold
        return float("inf")
    return None if found is None else float(found)


@register("imported")
class Imported(Method):
    """A set that other software distilled, read from its files; nothing is learned. ``hoptm-bench import`` runs it.

    Images are (n, C, H, W), (n, H, W, C) or, grey ones, (n, H, W), as the data set's tell; labels class indices, one
    number per class (probabilities where they sum to 1, else logits), or none for images in the order of classes.

    Args:
        files: ``.pt``, ``.npy``, ``.npz`` or ``.safetensors``: of images, labels and learning rate, or of several.
        sha256: of each, as they were when the run began.
        values: what float images hold: "normalised" network input, normalised as the data set's images are here;
            "whitened" input, by a ZCA fitted as the data set's is here; or "pixels" of [0, 1], which are normalised.
            uint8 images are pixels.
        mosaic: each stored image is a mosaic of mosaic x mosaic training images (IDM, NCFM).
        experiment: which one of several sets in a file (DM, IDM).
        step_size: learning rate to train on the set with, if no file has it; null takes the protocol's.
    """

    def __init__(
        self,
        files: Nothing[tuple[Path, ...]] = (),
        sha256: Chance[tuple[str, ...]] = (),
        values: Values = "normalised",
        mosaic: int = 1,
        experiment: Chance[int] = 0,
        step_size: Chance[float | None] = None,
    ) -> None:
        if mosaic < 1 or experiment < 0:
            raise ValueError("mosaic must be at least 1, and experiment at least 0")
        self.files, self.sha256, self.values, self.mosaic = files, sha256, values, mosaic
        self.experiment, self.step_size = experiment, step_size
        self._read: SyntheticSet | None = None

    def problems(self, task: Task) -> list[str]:
        """Return why the files cannot be read, or hold no set of the task's classes and images."""
        try:
            self._read = self._of(task)
        except ConfigurationError as error:
            return error.problems
        except (DataError, FileFormatError) as error:
            return [str(error)]
        return []

    def setup(self, task: Task) -> SyntheticSet:
        """Return the set.

        Raises:
            ConfigurationError: it does not fit the data set or the IPC.
            FileFormatError: a file is missing, damaged, or has changed.
        """
        return (self._read or self._of(task)).detached()

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield nothing."""
        yield from ()

    def training_images(self, classes: int, ipc: int) -> int:
        """Return the number of images, mosaics taken apart."""
        return classes * ipc * self.mosaic**2

    def _of(self, task: Task) -> SyntheticSet:
        found = read_files(self.files, self.experiment)
        for file, digest in zip(self.files, self.sha256, strict=False):
            if sha256(file) != digest:
                raise FileFormatError(f"{file}: has changed since the run began; restore it, or import it anew")
        data, names = task.data, ", ".join(file.name for file in self.files)
        images, held = as_input(found.images, self.values, data, names)
        labels, labelled = as_labels(found.labels, len(images), data, names)
        step_size = found.step_size if self.step_size is None else self.step_size
        if step_size is not None and not 0 < step_size < float("inf"):
            raise ConfigurationError(f"{names}: its learning rate is {step_size:g}, which trains nothing; give another "
                                     f"with step_size=NUMBER")  # fmt: skip
        try:
            made = SyntheticSet(
                images, labels, None if step_size is None else torch.tensor(step_size), data.class_names,
                data.normalisation, mosaic=self.mosaic,
            )  # fmt: skip
            made.check_ipc(task.ipc)
        except ValueError as error:
            raise ConfigurationError(f"{names}: {error}") from None
        mosaic = f" in mosaics of {self.mosaic}x{self.mosaic}" if self.mosaic > 1 else ""
        rate = "the protocol's learning rate" if step_size is None else f"learning rate {step_size:.6g}"
        said = [names, *filter(None, [found.told]), f"{len(images)} images{mosaic}, {held}", labelled, rate]
        self.imported = one_line("; ".join(said))[:LONGEST_LINE]
        return made.to(data.device)


def as_input(found: Tensor, values: Values, data: ImageData, names: str) -> tuple[Tensor, str]:
    """Return images (n, C, H, W) as networks see them, float32, and what they were, in words.

    Raises:
        ConfigurationError: another shape than the data set's, or values that are not what ``values`` says.
        DataError: they do not fit into memory.
    """
    channels, height, width = data.image_shape
    shape, size = tuple(found.shape), "x".join(map(str, data.image_shape))
    if shape[1:] == (height, width) and channels == 1:
        found = found[:, None]
    elif shape[1:] == (height, width, channels) and shape[1:] != data.image_shape:
        found = found.permute(0, 3, 1, 2)
    elif shape[1:] != data.image_shape:
        raise ConfigurationError(f"{names}: its images are {'x'.join(map(str, shape))}, those of {data.name} {size}; "
                                 f"choose the data set it was distilled from, with dataset=... and "
                                 f"dataset.preprocess.image_size=...")  # fmt: skip
    whitened = data.normalisation.kind == "zca"
    if found.dtype == torch.uint8:
        values = "pixels"
    elif not found.is_floating_point():
        raise ConfigurationError(f"{names}: its images are {found.dtype}; save pixels as uint8, or floats")
    if whitened != (values == "whitened"):
        remedy = {
            "pixels": "nothing but the data it was distilled from can whiten them; use dataset.preprocess.zca=false",
            "normalised": "if the images are whitened as well, give values=whitened, else dataset.preprocess.zca=false",
            "whitened": "give dataset.preprocess.zca=true",
        }[values]
        here = "whitened" if whitened else "not whitened"
        raise ConfigurationError(f"{names}: its images are {values}, those of {data.name} are {here} here; {remedy}")
    images = found.contiguous().clone()
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if not bool(torch.isfinite(images).all()):
        raise ConfigurationError(f"{names}: its images hold NaN or infinite values, so no network can learn from them")
    low, high = float(images.min()), float(images.max())
    if values != "pixels":
        if low > -LOWEST_INPUT:
            warnings.warn(f"{names}: no value of its images is below {low:.3g}; if they are pixels and no network "
                          f"input, give values=pixels, or save levels of 0 to 255 as uint8", stacklevel=2)  # fmt: skip
        return images, f"{values} as {data.name} is here"
    if max(-low, high) > LARGEST_PIXEL:
        raise ConfigurationError(f"{names}: its values go from {low:.3g} to {high:.3g}, and those of pixels from 0 to "
                                 f"1; save levels of 0 to 255 as uint8, or give values=normalised")  # fmt: skip
    return data.normalisation.apply(images), "pixels"


def as_labels(found: Tensor | None, images: int, data: ImageData, names: str) -> tuple[Tensor, str]:
    """Return class indices (n,) or logits (n, K), and what was taken for what, in words.

    Raises:
        ConfigurationError: not as many as images, or of other classes than the data set's.
    """
    classes = len(data.class_names)
    if found is None:
        if images % classes:
            raise ConfigurationError(f"{names}: {images} images without labels are no whole number for each of the "
                                     f"{classes} classes of {data.name}; name the file of their labels")  # fmt: skip
        return torch.arange(classes).repeat_interleave(images // classes), "no labels, so in the order of classes"
    labels = found.clone().reshape(1) if not found.ndim else found.clone()
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape not in ((images,), (images, classes)) or labels.is_complex():
        raise ConfigurationError(f"{names}: {images} images, but labels {'x'.join(map(str, found.shape))}; there must "
                                 f"be a class index for each, or a number for each of the {classes} classes of "
                                 f"{data.name}")  # fmt: skip
    numbers = labels.double()
    if not bool(torch.isfinite(numbers).all()):
        raise ConfigurationError(f"{names}: its labels hold NaN or infinite values")
    if labels.ndim == 1:
        if bool((numbers != numbers.round()).any()):
            raise ConfigurationError(f"{names}: its labels are no whole numbers, so no class indices")
        if not 0 <= float(numbers.min()) <= float(numbers.max()) < classes:
            raise ConfigurationError(f"{names}: its labels go from {numbers.min():g} to {numbers.max():g}, the classes "
                                     f"of {data.name} from 0 to {classes - 1}")  # fmt: skip
        return numbers.long(), "class indices"
    if bool((numbers < 0).any()) or bool(((numbers.sum(dim=1) - 1).abs() > 1e-3).any()):
        return labels.float(), "soft labels, taken for logits"
    if bool(((numbers == 0) | (numbers == 1)).all()):
        return numbers.argmax(dim=1), "one-hot labels, taken for class indices"
    return logits(numbers), "soft labels, taken for probabilities since they sum to 1"
