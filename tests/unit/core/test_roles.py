"""What settings decide: said where they are declared, refused where it is not said, and what derives from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import Field

import hoptm_plugin
from hoptm_plugin import Machine, Matcher, Nothing, RunSettings, compose, register
from hoptm_plugin.core.interfaces import REGISTRIES
from hoptm_plugin.core.registry import _BY_BASE
from hoptm_plugin.core.roles import Decides, Result, Settings, decides
from hoptm_plugin.runs.folder import RunFolder


def test_a_field_without_a_role_is_refused_when_its_class_is_defined():
    with pytest.raises(TypeError, match=r"Fresh\.colour: annotate it with what it decides"):

        class Fresh(Settings):
            size: Result[int] = 3
            colour: str = "red"


def test_a_group_of_settings_needs_none_and_plain_models_do():
    class Inner(Settings):
        size: Result[int] = 3

    class Outer(Settings):
        inner: Inner = Field(default_factory=Inner)

    assert decides(Outer, "inner") is None
    with pytest.raises(TypeError, match="Odd"):

        class Odd(Outer):
            other: Inner | None = None  # maybe there, maybe not: whose roles would hold?


def leaves(settings, prefix=""):
    for name, field in settings.model_fields.items():
        known = decides(settings, name)
        if known is None:
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", known


def test_every_setting_says_what_it_decides():
    found = dict(leaves(RunSettings))
    assert len(found) > 60
    settings = compose()
    assert {
        path: settings.decided_by(path) for path in found if path not in ("method", "dataset", "network", "augment")
    }
    for path, known in found.items():
        assert settings.decided_by(path) == known, path


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("ipc", "result"), ("seed", "chance"), ("experts.seed", "chance"), ("experts.root", "nothing"),
        ("runtime.threads", "machine"), ("runtime.precision", "result"), ("protocol.epochs", "judgement"),
        ("networks", "judgement"), ("note", "nothing"), ("dataset.root", "machine"), ("dataset.download", "machine"),
        ("dataset.size", "result"), ("method.matchers.shape.weight", "result"), ("experts", "result"),
        ("method.schedulers.pace.kappa.start", "result"), ("dataset.preprocess.image_size", "result"),
    ],
)  # fmt: skip
def test_roles_by_path(path, role):
    assert compose("method=hoptm", "dataset=pathmnist").decided_by(path).role == role


def test_digests_leave_out_what_does_not_decide():
    base = compose("method=mtt")
    same = compose("method=mtt", "runtime.threads=1", "experts.root=elsewhere", "note=x", "resume=auto", "worker=3")
    assert (same.digest(), same.set_digest()) == (base.digest(), base.set_digest())
    for override, digest, set_digest in (
        ("seed=1", False, True), ("protocol.epochs=7", False, True), ("networks=[vgg11]", False, True),
        ("ipc=2", False, False), ("network.width=9", False, False), ("method.step_size=0.5", False, False),
    ):  # fmt: skip
        other = compose("method=mtt", override)
        assert ((other.digest() == base.digest()), (other.set_digest() == base.set_digest())) == (digest, set_digest)
    npz = [compose("dataset=npz", f"dataset.root={root}").digest() for root in ("here", "there")]
    assert npz[0] == npz[1], "where the data are decides nothing, what they are is in their fingerprint"


def test_digests_are_those_of_before_there_were_such_settings():
    """What was distilled before a part had a keyword goes on, and is compared, as if it had been given the default."""
    values = compose("method=hoptm", "dataset=digits").plain()
    digest = RunSettings.of(values).digest()
    pace, shape = (values["method"][group][name] for group, name in (("schedulers", "pace"), ("matchers", "shape")))
    for part, keys in (
        (pace, ("lower", "difficulty", "ranked", "weights", "softness")),
        (shape, ("points", "distances")),
    ):
        for key in keys:
            del part[key]
    assert RunSettings.of(values).digest() == digest
    pace["lower"] = 0.1
    assert RunSettings.of(values).digest() != digest


@pytest.fixture
def cached_matcher():
    @register("cached")
    class Cached(Matcher):
        """Keeps something in a folder."""

        def __init__(self, sharpness: float = 1.0, cache: Machine[Path | None] = None, note: Nothing[str] = "") -> None:
            pass

        def loss(self, pair):
            return pair.student[-1].sum()

    yield Cached
    del _BY_BASE[Matcher]._classes["cached"]


def test_a_plug_in_marks_its_own_keywords(cached_matcher, tmp_path):
    def settings(**keywords):
        return compose(method={"name": "trajectory_matching", "matchers": {"m": {"name": "cached", **keywords}}})

    base = settings(sharpness=2.0, cache="a", note="x")
    assert settings(sharpness=2.0, cache="b", note="y").digest() == base.digest()
    assert settings(sharpness=3.0, cache="a", note="x").digest() != base.digest()
    assert base.decided_by("method.matchers.m.cache") == Decides("machine", published=True)
    folder = RunFolder(tmp_path / "run")
    folder.begin(base)
    folder.check(settings(sharpness=2.0, cache="b", note="y"), resume=True)


@pytest.fixture
def cached_network():
    from hoptm_plugin import NetworkBuilder
    from hoptm_plugin.networks import ConvNet

    @register("cached_network")
    class CachedNetwork(NetworkBuilder):
        """A ConvNet that keeps something in a folder."""

        def __init__(self, width: int = 4, cache: Machine[str] = "") -> None:
            self.width = width

        def build(self, image_shape, num_classes):
            return ConvNet(depth=2, width=self.width).build(image_shape, num_classes)

    yield CachedNetwork
    del _BY_BASE[NetworkBuilder]._classes["cached_network"]


def test_a_plug_in_s_mark_reaches_lists_labels_and_what_the_yaml_leaves_out(cached_network):
    from hoptm_plugin.runs.assembly import network_label

    specs = [{"name": "cached_network", "width": 8, "cache": cache} for cache in "ab"]
    one, other = (compose(network=spec, networks=[spec]) for spec in specs)
    assert one.digest() == other.digest()
    assert network_label(specs[0]) == network_label(specs[1]) == "cached_network(width=8)"
    assert compose(network={"name": "cached_network"}).decided_by("network.cache").role == "machine"


def test_no_list_of_setting_paths_is_kept_outside_the_fields():
    """Two or more quoted dotted paths of settings in one tuple, list, set or mapping."""
    paths = "|".join(re.escape(path) for path, _ in leaves(RunSettings) if "." in path)
    listed = re.compile(rf"""["'](?:{paths})["']\s*[,:][^\n]*\n?[^\n]*["'](?:{paths})["']""")
    root = Path(hoptm_plugin.__file__).parent
    found = [f"{file.relative_to(root)}: {hit[0]}" for file in root.rglob("*.py")
             for hit in listed.finditer(file.read_text(encoding="utf-8"))]  # fmt: skip
    assert not found
    assert listed.search('("protocol.epochs", "experts.root")'), "the search itself works"


def test_registries_are_filled_when_first_asked():
    assert {registry.kind for registry in REGISTRIES} == {registry.kind for registry in _BY_BASE.values()}
    assert all(list(registry) for registry in REGISTRIES)
