"""The commands that ``compare --scores`` lists compose to the settings of the runs that they are to be like."""

from __future__ import annotations

import shlex

import pytest
from scored_cards import ONE, make

from hoptm_plugin.cli.entry import compose
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runs.folder import RunFolder
from hoptm_plugin.tables.asked import _text, compare_with_scores

SHARED = ("dataset", "network", "networks", "augment", "data_seed")


def listed(folder, scores="all"):
    """Return {(command, what): its settings} of the runs that are missing for the card in ``folder``."""
    card = make("mtt", 0.5, digest=ONE, seed=2)
    with pytest.raises(ConfigurationError) as caught:
        compare_with_scores([(folder / "result.json", card)], scores, against=None, tests=None)
    commands = [shlex.split(line, comments=True) for line in caught.value.problems[1:]]
    return {(command[1], command[2].removeprefix("method=")): command[2:] for command in commands}


@pytest.mark.parametrize(
    "settings",
    [
        ("dataset=digits",),
        ("dataset=digits", "augment=dsa", "protocol=default", "seed=2", "data_seed=3", "network.width=7"),
        ("dataset=pathmnist", "dataset.size=64", "dataset.root=/data/med mnist", "network=resnet18", "ipc=10"),
        ("dataset=bloodmnist", "networks=[convnet,{name: vgg11, norm: batch},alexnet]", "protocol.weight_decay=1e-6"),
        ("dataset=covid19cxr", "dataset.classes=[COVID,Normal,Viral Pneumonia]", r"dataset.root='../it\'s.zip'"),
        ("dataset=npz", "dataset.root=x.npz", "dataset.class_names={0: 'null', 1: b c}", "augment=none",
         "protocol.precision=bf16"),
        ("dataset=cifar100", "dataset.preprocess.zca=true", "+network.extra=1", "protocol.repeats=2"),
        ("dataset=tinyimagenet", "dataset.preprocess.mean=[0.5,0.5,0.5]", "network.norm=batch", "augment.prob_flip=0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["random", "full"])
def test_commands_of_whole_runs_compose_to_the_same_settings(method, settings, tmp_path):
    values, _ = compose(["method=mtt", *settings])
    RunFolder(tmp_path).begin(values)
    arguments = listed(tmp_path, "lrs")["run", method]
    again, _ = compose(arguments)
    assert again["method_id"] == method
    for key in SHARED:
        assert again[key] == values[key], arguments
    harmless = {"random_subset": method != "random"}
    assert again["protocol"] | harmless == values["protocol"] | harmless
    assert again["seed"] == values["seed"]
    if method == "random":
        assert not again["protocol"]["random_subset"], "it is one itself"


def test_commands_of_evaluations_name_the_set_and_what_the_card_was_judged_with(tmp_path, monkeypatch):
    values, _ = compose(["method=mtt", "dataset=digits"])
    run = RunFolder(tmp_path / "runs/a b")
    run.begin(values)
    (run / "synthetic.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    own = listed(run.path)["eval", "synthetic='runs/a b'"]
    assert own == ["synthetic='runs/a b'", "augment=none"]
    protocol = values["protocol"] | {"epochs": 7, "random_subset": False}
    judged = {"synthetic": "runs/a b", "seed": 4, "networks": ["vgg11"], "protocol": protocol}
    RunFolder(tmp_path / "judged").begin(values | judged)
    (plain,) = (each for (command, _), each in listed(tmp_path / "judged").items() if command == "eval")
    # random subsets come along: the run's own settings have them
    assert plain == ["synthetic='runs/a b'", "augment=none", "protocol.epochs=7", "networks=[vgg11]", "seed=4"]


@pytest.mark.parametrize("config", ["protocol: 5", "protocol: {}", "x: 1", "a: &a [*a]", "[" * 3000])
def test_a_config_that_is_none_counts_as_missing(config, tmp_path):
    (tmp_path / "config.yaml").write_text(config)
    card = make("mtt", 0.5, digest=ONE)
    with pytest.raises(ConfigurationError, match=r"which has no config\.yaml"):
        compare_with_scores([(tmp_path / "result.json", card)], "all", against=None, tests=None)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "it's ${oc.decode:1}", "a, b", "${oc.env:HOME"])
def test_stored_text_does_not_become_an_interpolation(text):
    assert compose([f"method_title={_text(text)}"])[0]["method_title"] == text
