"""BibTeX of compositions, and the listing of methods."""

from __future__ import annotations

import re

import pytest

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.cards import references
from hoptm_plugin.cards.citing import bibliography, citations
from hoptm_plugin.cards.references import load_references, short_reference, split_entries
from hoptm_plugin.cli import main
from hoptm_plugin.core.errors import ConfigurationError, PluginError
from hoptm_plugin.core.interfaces import REGISTRIES
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.runs.composition import compose


def cited(*overrides):
    return set(citations(compose(*overrides).plain()))


def test_every_reference_has_author_title_year_and_balanced_braces():
    for key, entry in load_references().items():
        assert entry.count("{") == entry.count("}"), key
        for name in ("author", "title", "year"):
            assert re.search(rf"^\s*{name}\s*=\s*{{.+}},?$", entry, re.MULTILINE), (key, name)
        year = re.search(r"year\s*=\s*{(\d{4})}", entry)[1]
        assert year in key
        assert short_reference(entry).count("arXiv") == len(re.findall(r"^\s*eprint\b", entry, re.MULTILINE))


def test_every_part_cites_only_what_is_held():
    load_plugins()
    known = load_references()
    for registry in REGISTRIES:
        for name in registry:
            assert set(registry.get(name).cites) <= set(known), (registry.kind, name)


def test_a_composition_is_cited_part_by_part_each_entry_once():
    text = bibliography(compose("method=hoptm", "dataset=pathmnist").plain())
    keys = re.findall(r"^@\w+\{(.+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys))
    lines = text.splitlines()
    for line in (
        "% matcher endpoint: cazenavette2022mtt",
        "% matcher shape_wise_potential: dong2025hoptm",
        "% scheduler self_paced: dong2025hoptm",
        "% schedule geometric: dong2025hoptm",
        "% experts gsam: zhuang2022gsam",
        "% network convnet: gidaris2018convnet",
        "% augmentation dsa: zhao2021dsa",
        "% data set medmnist: yang2023medmnist",
    ):
        assert lines.count(line) == 1, line
    assert lines[lines.index("% experts gsam: zhuang2022gsam") + 1].startswith("@inproceedings{zhuang2022gsam,")


def test_overrides_change_what_is_cited():
    plain, changed = cited("method=mtt"), cited("method=mtt", "method.gradient=tesla", "experts=gsam", "augment=none",
                                                "networks=[resnet18,{name: vgg11}]")  # fmt: skip
    assert {key for _, key in plain} == {"cazenavette2022mtt", "gidaris2018convnet", "zhao2021dc", "zhao2021dsa",
                                         "riba2020kornia"}  # fmt: skip
    assert changed - plain == {
        ("unroll tesla", "cui2023tesla"), ("experts gsam", "zhuang2022gsam"), ("network resnet18", "he2016resnet"),
        ("network vgg11", "simonyan2014vgg"),
    }  # fmt: skip
    assert {role for role, _ in plain - changed} == {"augmentation dsa"}


def test_a_part_is_cited_for_what_its_settings_use():
    pace, shape = "scheduler self_paced", "matcher shape_wise_potential"
    assert not {(pace, "jiang2014spar"), (shape, "park2019rkd")} & cited("method=hoptm")
    assert (pace, "jiang2014spar") in cited("method=hoptm", "method.schedulers.pace.weights=linear")
    for more in ("method.matchers.shape.points=4", "method.matchers.shape.distances=0.1"):
        assert (shape, "park2019rkd") in cited("method=hoptm", more, "method.expert_epochs=3")
    papers = {"tgdd": "ran2026tgdd", "ncfm": "wang2025ncfm"}
    for method, key in papers.items():
        assert {each for _, each in cited(f"method={method}")} & set(papers.values()) == {key}


def test_what_the_method_itself_cites_comes_first():
    values = compose("method=mtt").plain()
    values["method_cites"] = ["dong2025hoptm"]
    assert bibliography(values).startswith("% method: dong2025hoptm\n")


def test_an_unknown_key_and_an_unknown_part_are_named():
    values = compose("method=mtt").plain()
    with pytest.raises(PluginError, match=r"method: cites 'nobody1999', which no references\.bib holds"):
        bibliography(values | {"method_cites": ["nobody1999"]})
    values["method"]["matchers"]["endpoint"]["name"] = "endpiont"
    with pytest.raises(ConfigurationError, match=r"method\.matchers\.endpoint\.name: .* did you mean 'endpoint'"):
        bibliography(values)


def test_plug_ins_bring_references_and_contradictions_are_refused(tmp_path, monkeypatch):
    class Point:
        def __init__(self, module):
            self.module = module

    for name, text in (("alpha", "@book{one,\n}\n"), ("beta", "@book{one,\n  x = 1\n}\n"), ("gamma", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        if text is not None:
            (tmp_path / name / "references.bib").write_text(text)
    (tmp_path / "single.py").touch()
    (tmp_path / "references.bib").write_text("@book{not_of_single,\n}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        references, "entry_points", lambda group: [Point("alpha.parts"), Point("gamma"), Point("single")]
    )
    found = load_references()
    assert found["one"] == "@book{one,\n}"
    assert "not_of_single" not in found
    monkeypatch.setattr(references, "entry_points", lambda group: [Point("alpha"), Point("beta")])
    with pytest.raises(PluginError, match="of beta and of alpha hold different entries called 'one'"):
        load_references()


def test_entries_are_split_at_the_start_of_lines():
    text = "a comment\n@book{a,\n  note = {me@there}\n}\n\n@misc{ b:2,\n}\n"
    assert split_entries(text, "x.bib") == {"a": "@book{a,\n  note = {me@there}\n}", "b:2": "@misc{ b:2,\n}"}
    with pytest.raises(PluginError, match=r"x\.bib: not an entry of the form @type{key, \.\.\.}: @book"):
        split_entries("@book\n", "x.bib")
    with pytest.raises(PluginError, match="different entries called 'a'"):
        split_entries("@book{a,\n}\n@misc{a,\n}\n", "x.bib")


@pytest.mark.parametrize(
    ("author", "words"),
    [
        ("Welling, Max", "Welling"),
        ("Zhao, Bo and Bilen, Hakan", "Zhao & Bilen"),
        ("A, B and C, D and E, F", "A et al."),
    ],
)
def test_a_reference_in_words(author, words):
    entry = f"@book{{x,\n  author = {{{author}}},\n  year = {{2009}}\n}}"
    assert short_reference(entry) == f"{words} 2009"
    assert short_reference(entry.replace("2009}", "2009},\n  eprint = {1.2}")) == f"{words} 2009, arXiv 1.2"


def test_the_command_prints_bibtex_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["cite", "method=mtt"])
    out = capsys.readouterr().out
    assert "@inproceedings{cazenavette2022mtt," in out
    assert all(line.startswith(("%", "@", "  ", "}")) for line in out.splitlines() if line)
    with pytest.raises(SystemExit) as caught:
        main(["cite", "-m", "method=mtt"])
    assert caught.value.code == 2
    assert not list(tmp_path.iterdir())


def test_methods_are_listed_as_they_are_chosen(capsys):
    main(["list", "methods"])
    lines = capsys.readouterr().out.splitlines()
    (mtt,) = [line for line in lines if line.startswith("mtt ")]
    assert re.match(r"mtt +MTT +(-|Cazenavette et al\. 2022, arXiv 2203\.11932) +MTT: matching training", mtt)
    assert not any("@package" in line for line in lines)
    main(["list", "method-classes"])
    assert "trajectory_matching" in capsys.readouterr().out
