"""Tensors and configuration for DD-Ranking (``ddranking`` on PyPI), which is neither imported nor needed here.

Facts on what it reads: its own ``configs/`` and ``ddranking.metrics``, version 0.2.0.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange.formats import Written, reordered, taken_apart
from hoptm_plugin.exchange.pixels import check_channels

IMAGES, HARD, SOFT, RATE, CONFIG = "images.pt", "labels.pt", "soft_labels.pt", "syn_lr.pt", "ddranking.yaml"
DATASETS: Final = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tinyimagenet": "TinyImageNet"}
# their names of numbers, and ours
OF_THE_PROTOCOL: Final = {
    "weight_decay": "weight_decay", "momentum": "momentum", "num_eval": "repeats", "num_epochs": "epochs",
    "syn_batch_size": "batch", "batch_size": "batch", "default_lr": "learning_rate",
}  # fmt: skip
OF_DSA: Final = {
    "flip": "prob_flip", "rotate": "rotate_degrees", "saturation": "saturation", "brightness": "brightness",
    "contrast": "contrast", "scale": "scale_ratio", "crop": "crop_ratio", "cutout": "cutout_ratio",
}  # fmt: skip


def write_ddranking(synthetic: SyntheticSet, config: Mapping[str, Any], folder: Path) -> Written:
    """Write float32 images (n, 3, H, W), normalised and class-major, labels, learning rate and configuration.

    Soft labels are logits: DD-Ranking's soft cross-entropy takes their softmax.

    Args:
        synthetic: the set; grey images are repeated to three channels.
        config: the stored configuration of the run; empty where none is known.
        folder: where the files go.

    Raises:
        ConfigurationError: images that are neither grey nor RGB.
    """
    check_channels(synthetic)
    synthetic = taken_apart(synthetic).detached().to(torch.device("cpu"))
    if not synthetic.soft:
        synthetic = reordered(synthetic, synthetic.labels.argsort(stable=True))
    tensors = {
        IMAGES: synthetic.images.float().expand(-1, 3, -1, -1).contiguous(),
        SOFT if synthetic.soft else HARD: synthetic.labels.float() if synthetic.soft else synthetic.labels,
    }
    if synthetic.step_size is not None:
        tensors[RATE] = synthetic.step_size.float()
    for name, tensor in tensors.items():
        stream = io.BytesIO()  # on a full disk, writing to a file raises errors of torch's own
        torch.save(tensor.clone(), stream)
        (folder / name).write_bytes(stream.getvalue())
    text = yaml.safe_dump(settings(synthetic, config), sort_keys=False)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return [*tensors, CONFIG], None


def settings(synthetic: SyntheticSet, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``ddranking.config.Config`` holds; what the run's configuration does not tell has usual values."""
    usual = yaml.safe_load(files("hoptm_plugin.exchange").joinpath("templates/ddranking.yaml").read_text("utf-8"))
    protocol, network, augment, data = (
        _mapping(config.get(part)) for part in ("protocol", "network", "augment", "dataset")
    )
    dataset = str(data.get("name") or synthetic.info.get("dataset", "unknown"))
    values = usual["common"] | usual["soft" if synthetic.soft else "hard"]
    values |= {
        "dataset": DATASETS.get(dataset, dataset),
        "ipc": len(synthetic) // len(synthetic.class_names),
        "im_size": list(synthetic.images.shape[2:]),
        "model_name": _model(network),
        "use_zca": synthetic.normalisation.kind == "zca",
        "syn_lr": None if synthetic.step_size is None else float(synthetic.step_size),
    }
    values |= _numbers(values, protocol, OF_THE_PROTOCOL)
    values["step_size"] = (values["num_epochs"] - 1) // 2 + 1
    if augment.get("name") == "dsa":
        values |= {"data_aug_func": "dsa", "aug_params": usual["dsa"] | _numbers(usual["dsa"], augment, OF_DSA)}
        if "flip" not in (augment.get("strategy") or ["flip"]):
            values["aug_params"]["flip"] = 0.0
    return values


def _model(network: Mapping[str, Any]) -> str:
    norm = "-BN" if network.get("norm") == "batch" else ""
    names = {"alexnet": "AlexNet", "vgg11": f"VGG-11{norm}", "resnet18": f"ResNet-18{norm}"}
    return names.get(str(network.get("name")), f"ConvNet-{network.get('depth', 3)}{norm}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(usual: Mapping[str, Any], told: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return those of ``names`` (theirs: ours) that are numbers in ``told``, each of the type of the usual one."""
    numbers = {theirs: told.get(ours) for theirs, ours in names.items()}
    return {
        theirs: type(usual[theirs])(number)
        for theirs, number in numbers.items()
        if isinstance(number, int | float) and not isinstance(number, bool)
    }
