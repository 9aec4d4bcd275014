"""Folders of a sweep's jobs: what is swept over stands in their names, in safe characters and bounded."""

import pytest

from hoptm_plugin.cli.sweeps import LONGEST, SUBDIR, with_named_folders

USUAL = "${hydra:job.num}-${hydra:runtime.choices.method}-${hydra:runtime.choices.dataset}-ipc${ipc}-seed${seed}"


def added(*overrides):
    *given, last = with_named_folders(overrides)
    assert given == list(overrides)
    assert last.startswith(f"{SUBDIR}='{USUAL}")
    return last.removeprefix(f"{SUBDIR}='{USUAL}").removesuffix("'")


def test_swept_settings_are_named_by_the_last_words_of_their_paths():
    assert added("a.b.learning_rate=1,10", "ipc=1,2", "x.y=3") == "-b.learning_rate_${a.b.learning_rate}"
    assert added("a.b.rate=1,2", "c.b.rate=range(1,4)") == "-a.b.rate_${a.b.rate}-c.b.rate_${c.b.rate}"


def test_a_group_is_named_by_its_choice():
    assert added("network=convnet,resnet18") == "-network_${hydra:runtime.choices.network}"


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=hoptm,mtt", "ipc=1,10", "seed=0,1"),  # which the usual name has
        ("network.width=8",),
        ("dataset.root=/a,/b",),
        ("note='a b','c'",),
        ("network.width=8,16", f"{SUBDIR}=mine"),
        ("network.width=8,,",),  # malformed: Hydra says so
    ],
)
def test_names_stay_as_they_are(overrides):
    assert with_named_folders(overrides) == list(overrides)


def test_names_are_bounded():
    keys = [f"group.setting_number_{number}" for number in range(20)]
    names = added(*(f"{key}=1000000,2" for key in keys))
    assert 2 < names.count("_${") < 20
    assert sum(len(f"-{key}_1000000") for key in keys if f"-{key}_" in names) <= LONGEST
