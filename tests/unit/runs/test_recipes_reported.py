"""What recipes report is what the HoP-TM paper's Tables 1 to 3 say, and other papers, typed here a second time."""

from __future__ import annotations

import pytest

from hoptm_plugin.core.interfaces import networks
from hoptm_plugin.runs.composition import compose

MEDICAL = {"pathmnist": (1, 5, 10, 100, 1000), "covid19cxr": (1, 5, 10, 50)}


def settings(method, dataset, ipc):
    return compose(f"method={method}", f"dataset={dataset}", f"ipc={ipc}")


# Dong et al. 2025, Tables 1 and 2
REPORTED = {
    "pathmnist": {
        "dm": ((38.39, 4.39), (62.85, 0.73), (66.99, 1.04), (82.04, 0.88), (87.29, 0.59)),
        "idm": ((50.39, 0.53), (69.32, 1.62), (72.74, 1.13), (82.05, 0.89), (87.51, 0.21)),
        "mtt": ((29.84, 1.06), (47.30, 0.37), (60.74, 1.03), (82.90, 0.47), (87.73, 0.27)),
        "ftd": ((29.36, 0.77), (55.99, 1.02), (62.06, 0.93), (82.81, 0.88), (87.65, 0.39)),
        "datm": ((45.74, 1.66), (64.94, 1.01), (73.18, 0.90), (84.07, 1.03), (89.15, 0.11)),
        "att": ((48.42, 2.29), (56.95, 1.75), (68.92, 1.09), (83.86, 0.67), (88.41, 0.32)),
        "hoptm": ((47.71, 1.22), (73.92, 0.66), (77.23, 0.65), (84.82, 0.40), (89.86, 0.36)),
    },
    "covid19cxr": {
        "dm": ((50.85, 1.86), (65.13, 0.92), (72.68, 3.54), (79.10, 1.52)),
        "idm": ((67.78, 0.92), (68.51, 0.92), (72.77, 0.82), (79.28, 0.94)),
        "mtt": ((56.98, 1.89), (74.94, 1.74), (83.30, 0.17), (86.11, 0.52)),
        "ftd": ((60.55, 2.08), (74.14, 0.90), (84.09, 0.46), (86.96, 0.44)),
        "datm": ((68.46, 0.95), (79.59, 0.34), (82.11, 0.53), (87.38, 0.31)),
        "att": ((67.83, 2.02), (73.80, 0.92), (75.12, 0.72), (87.62, 0.44)),
        "hoptm": ((69.71, 0.87), (80.81, 0.38), (84.42, 0.26), (87.71, 0.24)),
    },
}
# Table 3: PathMNIST at IPC 10, distilled with ConvNet
OTHER_NETWORKS = {
    "dm": {"resnet18": (61.66, 1.75), "vgg11": (54.68, 1.38), "alexnet": (44.30, 4.37)},
    "idm": {"resnet18": (67.21, 0.75), "vgg11": (57.72, 0.59), "alexnet": (37.26, 2.75)},
    "mtt": {"resnet18": (58.67, 0.70), "vgg11": (46.87, 3.04), "alexnet": (42.44, 4.66)},
    "ftd": {"resnet18": (58.65, 1.46), "vgg11": (47.33, 3.01), "alexnet": (46.13, 5.10)},
    "datm": {"resnet18": (60.36, 1.78), "vgg11": (49.61, 3.21), "alexnet": (47.67, 1.84)},
    "att": {"resnet18": (59.52, 1.39), "vgg11": (48.97, 1.37), "alexnet": (34.14, 1.77)},
    "hoptm": {"resnet18": (68.36, 1.52), "vgg11": (59.61, 2.06), "alexnet": (48.85, 4.44)},
}


def percent(entry):
    return round(100 * entry["accuracy"], 2), round(100 * entry["std"], 2)


@pytest.mark.parametrize("dataset", MEDICAL)
@pytest.mark.parametrize("method", OTHER_NETWORKS)
def test_reported_accuracies(method, dataset):
    values = settings(method, dataset, 10)
    published = values.reported
    table = "Tables 1 and 3" if dataset == "pathmnist" else "Table 2"
    assert published.source == f"Dong et al. 2025 (HoP-TM), {table}"
    expected = dict(zip(MEDICAL[dataset], REPORTED[dataset][method], strict=True))
    assert {ipc: percent(published.of(ipc)) for ipc in published.ipc} == expected
    others = {ipc: entry.model_dump()["networks"] for ipc, entry in published.ipc.items() if entry.networks}
    assert {ipc: {name: percent(entry) for name, entry in nets.items()} for ipc, nets in others.items()} == (
        {10: OTHER_NETWORKS[method]} if dataset == "pathmnist" else {}
    )
    assert all(networks.get(name) is not None for nets in others.values() for name in nets)


@pytest.mark.parametrize(("dataset", "expected"), [("pathmnist", (89.89, 0.49)), ("covid19cxr", (91.49, 0.42))])
def test_reported_accuracies_of_all_images(dataset, expected):
    values = settings("full", dataset, 1)
    published = values.reported
    assert (percent(published.of(None)), published.of(1)) == (expected, None)


OWN_PAPERS = {
    "dc": ("Zhao et al. 2021 (DC)", {"cifar10": {1: 28.3, 10: 44.9, 50: 53.9}, "cifar100": {1: 12.8, 10: 25.2}}),
    "dsa": ("Zhao & Bilen 2021", {"cifar10": {1: 28.8, 10: 52.1, 50: 60.6}, "cifar100": {1: 13.9, 10: 32.3}}),
    "pad": ("Li et al. 2024", {"cifar10": {1: 47.2, 10: 67.4, 50: 77.0, 500: 84.6, 1000: 86.7}}),
    "ncfm": ("Wang et al. 2025 (NCFM), ablation", {"cifar10": {10: 65.6, 50: 74.2}, "cifar100": {10: 45.9, 50: 53.7}}),
}


@pytest.mark.parametrize(
    ("method", "dataset"), [(name, each) for name, (_, sets) in OWN_PAPERS.items() for each in sets]
)
def test_reported_accuracies_of_other_papers(method, dataset):
    source, sets = OWN_PAPERS[method]
    published = settings(method, dataset, 10).reported
    assert published.source.startswith(source)
    assert {ipc: round(100 * entry.accuracy, 1) for ipc, entry in published.ipc.items()} == sets[dataset]
