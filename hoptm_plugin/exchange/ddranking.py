"""Tensors and configuration for DD-Ranking (``ddranking`` on PyPI), which is neither imported nor needed here.

Facts on what it reads: its own ``configs/`` and ``ddranking.metrics``, version 0.2.0.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.exchange.formats import Written, reordered, taken_apart
from hoptm_plugin.exchange.pixels import check_channels

IMAGES, HARD, SOFT, RATE, CONFIG = "images.pt", "labels.pt", "soft_labels.pt", "syn_lr.pt", "ddranking.yaml"
DATASETS: Final = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tinyimagenet": "TinyImageNet"}
DEFAULT_RATE, DEFAULT_EPOCHS, DEFAULT_BATCH = 0.01, 1000, 128


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
    protocol = _mapping(config.get("protocol"))
    dataset = str(_mapping(config.get("dataset")).get("name") or synthetic.info.get("dataset", "unknown"))
    epochs = int(_number(protocol, "epochs", DEFAULT_EPOCHS))
    step_size = synthetic.step_size
    return {
        "dataset": DATASETS.get(dataset, dataset),
        "real_data_path": "./dataset/",
        "ipc": len(synthetic) // len(synthetic.class_names),
        "im_size": list(synthetic.images.shape[2:]),
        "model_name": _model(_mapping(config.get("network"))),
        **_labels(synthetic.soft),
        **_augmentation(config.get("augment")),
        "use_zca": synthetic.normalisation.kind == "zca",
        "custom_train_trans": None,
        "custom_val_trans": None,
        "optimizer": "sgd",
        "lr_scheduler": "step",
        "step_size": (epochs - 1) // 2 + 1,
        "weight_decay": float(_number(protocol, "weight_decay", 5e-4)),
        "momentum": float(_number(protocol, "momentum", 0.9)),
        "num_eval": int(_number(protocol, "repeats", 5)),
        "num_epochs": epochs,
        "syn_batch_size": int(_number(protocol, "batch", DEFAULT_BATCH)),
        "real_batch_size": 256,
        "batch_size": int(_number(protocol, "batch", DEFAULT_BATCH)),
        "default_lr": float(_number(protocol, "learning_rate", DEFAULT_RATE)),
        "syn_lr": None if step_size is None else float(step_size),
        "num_workers": 4,
        "device": "cuda",
        "dist": False,
        "eval_full_data": True,
        "random_data_format": "tensor",
        "random_data_path": "./results/random_data.pt",
        "save_path": "./results/ddranking_scores.csv",
    }


def _labels(soft: bool) -> dict[str, Any]:
    if not soft:
        return {"label_type": "hard", "use_torchvision": False}
    return {
        "label_type": "soft",
        "soft_label_mode": "S",  # one label per image
        "soft_label_criterion": "sce",
        "loss_fn_kwargs": {"temperature": 1.0, "scale_loss": False},
        "use_aug_for_hard": True,
        "stu_use_torchvision": False,
        "tea_use_torchvision": False,
        "teacher_dir": "./teacher_models",
        "teacher_model_names": ["ConvNet-3"],
    }


def _model(network: Mapping[str, Any]) -> str:
    norm = "-BN" if network.get("norm") == "batch" else ""
    names = {"alexnet": "AlexNet", "vgg11": f"VGG-11{norm}", "resnet18": f"ResNet-18{norm}"}
    return names.get(str(network.get("name")), f"ConvNet-{network.get('depth', 3)}{norm}")


def _augmentation(augment: Any) -> dict[str, Any]:
    """Return DSA with the run's constants, or none; DD-Ranking always uses all six strategies."""
    augment = _mapping(augment)
    if augment.get("name") != "dsa":
        return {"data_aug_func": "none", "aug_params": {}}
    keys = {"flip": "prob_flip", "rotate": "rotate_degrees", "saturation": "saturation", "brightness": "brightness",
            "contrast": "contrast", "scale": "scale_ratio", "crop": "crop_ratio", "cutout": "cutout_ratio"}  # fmt: skip
    usual = {"flip": 0.5, "rotate": 15.0, "saturation": 2.0, "brightness": 1.0, "contrast": 0.5, "scale": 1.2,
             "crop": 0.125, "cutout": 0.5}  # fmt: skip
    parameters = {theirs: float(_number(augment, ours, usual[theirs])) for theirs, ours in keys.items()}
    if "flip" not in (augment.get("strategy") or ["flip"]):
        parameters["flip"] = 0.0
    return {"data_aug_func": "dsa", "aug_params": parameters}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default
