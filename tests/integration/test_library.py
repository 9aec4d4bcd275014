"""The library as a notebook uses it: no word, no exit, nothing left behind, and mistakes named in one error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from laptop import table

from hoptm_plugin import (
    Arrays,
    ConfigurationError,
    build_experts,
    compare,
    compose,
    evaluate,
    export,
    load_distilled,
    read_run,
    report,
    run,
    verify,
)
from hoptm_plugin.core.errors import HopTMError, RunFolderError, UserError

TINY = ("method=random", "network.width=4", "network.depth=2", "protocol.repeats=1", "protocol.epochs=3",
        "protocol.random_subset=false", "runtime.device=cpu")  # fmt: skip


@pytest.fixture(scope="module")
def data():
    labels = torch.arange(24) % 2
    images = (120 * labels).view(-1, 1, 1) + torch.randint(
        0, 60, (24, 8, 8), generator=torch.Generator().manual_seed(0)
    )
    images = images.to(torch.uint8)
    return Arrays(train=(images[:16], labels[:16]), test=(images[16:], labels[16:]), class_names=["dark", "bright"])


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("library") / "run"
    run(compose(*TINY, dataset=data, ipc=2), folder)
    return folder


def test_a_run_says_nothing_and_leaves_the_process_as_it_was(data, tmp_path, capfd):
    def state():
        backends = torch.backends
        return (Path.cwd(), torch.get_num_threads(), backends.cudnn.deterministic, backends.cudnn.benchmark,
                backends.cuda.matmul.fp32_precision, torch.get_rng_state().tolist())  # fmt: skip

    before = state()
    card = run(compose(*TINY, dataset=data, ipc=1, **{"runtime.threads": 1}), tmp_path / "run")
    assert state() == before
    assert capfd.readouterr() == ("", "")
    assert (card.dataset.name, card.dataset.classes, card.images_are, card.floor) == ("arrays", ("dark", "bright"),
                                                                                      "real", True)  # fmt: skip


def test_data_in_memory_are_asked_for_again_and_must_be_the_same(data, done):
    assert verify(done, dataset=data).verified
    with pytest.raises(ConfigurationError, match="arrays in memory"):
        verify(done)
    images, labels = (torch.arange(512) % 200).view(8, 8, 8).to(torch.uint8), torch.arange(8) % 2
    other = Arrays(train=(images, labels), test=(images, labels), class_names=["dark", "bright"])
    with pytest.raises(ConfigurationError, match="not those of the card"):
        verify(done, dataset=other)


def test_a_set_in_memory_is_judged_into_a_folder_that_can_be_verified_and_gone_on_in(data, done, tmp_path):
    synthetic, folder = read_run(done).synthetic, tmp_path / "judged"
    card = evaluate(synthetic, *TINY, dataset=data, folder=folder)
    assert verify(folder, dataset=data).verified
    assert evaluate(synthetic, *TINY, dataset=data, folder=folder, resume=True) == card
    assert evaluate(synthetic, *TINY, dataset=data).config_sha256 == card.config_sha256
    assert card.method == "random"


def test_what_was_changed_in_python_counts_as_given(data, done):
    settings = compose(*TINY, dataset=data, ipc=2)
    with pytest.raises(RunFolderError, match="seed: 0 in the folder, 5 now"):
        run(settings.changed(resume="auto", seed=5), done)
    assert run(settings.changed(resume=True), done) == read_run(done).card
    with pytest.raises(ConfigurationError, match="not both"):
        evaluate(done, "networks=[vgg11]", settings=settings)
    other = evaluate(done, settings=settings.changed(networks=[{"name": "convnet", "width": 3, "depth": 2}]))
    assert [each.network for each in other.evaluations] == ["convnet(width=3,depth=2)"]


def test_what_is_refused_leaves_no_folder(data, tmp_path):
    for wrong in ("network.depth=9", "+network.bogus=9", "ipc=99"):
        with pytest.raises(ConfigurationError):
            run(compose(*TINY, wrong, dataset=data), tmp_path / "run")
        assert not (tmp_path / "run").exists(), wrong


def test_unfinished_runs_and_cards_without_folders_are_named(done, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_bytes((done / "config.yaml").read_bytes())
    with pytest.raises(ConfigurationError, match="begun: the run in it is not finished"):
        compare([read_run(begun)])
    with pytest.raises(UserError, match="a card in memory has no folder"):
        report([read_run(done).card], tmp_path / "page.html")
    (begun / "config.yaml").write_text("# SHA-256 of all below: 0\n")
    with pytest.raises(UserError, match=r"begun/config\.yaml"):
        read_run(begun)


def test_no_setting_is_heeded_where_there_are_only_checksums(done, tmp_path):
    exported = export(done, "medmnist", tmp_path / "set")
    assert verify(exported.folder).verified
    with pytest.raises(ConfigurationError, match=r"protocol\.epochs: .* an exported set"):
        verify(exported.folder, "protocol.epochs=1")


@pytest.mark.parametrize(
    "call",
    [
        lambda: compose(42), lambda: compose(None), lambda: compose(ipc=object()), lambda: run("method=random", "x"),
        lambda: run({}, "x"), lambda: run(compose(), None), lambda: build_experts({}), lambda: evaluate(42),
        lambda: verify(None), lambda: verify("nowhere"), lambda: verify("nowhere", 3), lambda: read_run(None),
        lambda: read_run("nowhere"), lambda: compare("nowhere"), lambda: compare(42), lambda: compare(None),
        lambda: report("nowhere", "page.html"), lambda: export("nowhere", "medmnist"), lambda: export("nowhere", "odd"),
        lambda: load_distilled("nowhere"), lambda: Arrays(train=1, test=2),
        lambda: Arrays(train=(torch.rand(2, 4, 4), [0, 1]), test=(torch.rand(2, 4, 4), [0, 1])),
    ],
)  # fmt: skip
def test_mistakes_are_named(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HopTMError) as caught:
        call()
    assert str(caught.value).strip()
    assert not list(tmp_path.iterdir())


def test_the_laptop_s_table_takes_its_row_from_a_run(finished_run):
    found = read_run(finished_run)
    card = found.card.model_copy(update={"random_subset": found.card.evaluations})
    row = table.row("cells", finished_run, card)
    assert (row.method, row.ipc, row.accuracy) == ("hoptm", found.card.ipc, found.card.evaluations[0].accuracy.mean)
    assert row.step_size == found.curves["step_size"].iloc[-1] > 0
    assert row.distill_s == found.card.cost.distill_s
