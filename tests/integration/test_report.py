"""``hoptm-bench report`` on the command line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from hoptm_plugin.cards.card import read_card
from hoptm_plugin.core.errors import UserError
from hoptm_plugin.storage.files import with_checksum

RESULTS = Path(__file__).parent / "older_cards"  # of a version that recorded less


@pytest.fixture
def report(bench):
    """Run the command."""
    return lambda *arguments: bench("report", *map(str, arguments))


@pytest.fixture
def copied(finished_run, tmp_path):
    """Return a function that copies the finished run under a name, with changes to its card."""

    def copy(name="run", **changes):
        folder = tmp_path / name
        shutil.copytree(finished_run, folder)
        card = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(with_checksum(card | changes)))
        return folder

    return copy


def test_a_run_becomes_one_page(report, finished_run, tmp_path):
    result = report(finished_run, "-o", "page.html", "--title", "Cells & more")
    assert result.code == 0, result.err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert result.out == f"page.html: 1 run, {len(page.encode()) / 1e6:.1f} MB\n"
    (line,) = result.err.splitlines()
    assert line.startswith("real training images are shown of HoP-TM, ")
    assert line.endswith("; --no-real-images leaves them out")
    assert "<title>Cells &amp; more</title>" in page
    assert page.count("<img") == 6 + 3, "and the summary's sample"
    for words in ("Loss over the iterations", "Mask fraction over", "Reliability diagram", "kappa:", "(path left out)"):
        assert words in page
    assert str(finished_run.parent) not in page
    assert "result.json" not in page


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(report, finished_run, tmp_path):
    assert report(finished_run, RESULTS / "0", "-o", "a.html").code == 0
    assert report(RESULTS / "0", finished_run, "-o", "b.html").code == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_a_page_is_written_from_python_without_a_word(finished_run, tmp_path, capfd):
    from hoptm_plugin.pages.report import Report, report

    path = tmp_path / "page.html"
    (name,) = report(str(finished_run), path).real
    assert name.startswith("HoP-TM, ")
    run = SimpleNamespace(card=read_card(finished_run), folder=finished_run)
    assert report([run, finished_run], path, real_images=False) == Report(path, 1, path.stat().st_size, ())
    with pytest.raises(UserError, match="nothing to compare"):
        report([], path)
    assert capfd.readouterr() == ("", "")


def test_real_images_can_be_left_out(report, finished_run, tmp_path):
    result = report(finished_run, "--no-real-images")
    assert result.code == 0, result.err
    assert result.err == ""
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Pictures of real training images are left out of this page." in page
    assert "real image" not in page


def test_committed_cards_alone_become_a_page(report, tmp_path):
    result = report(RESULTS, "--against", "random")
    assert result.code == 0, result.err
    assert result.err == ""
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for words in ("its card holds no confusion matrix", "no metrics.jsonl", "no config.yaml",
                  "no test is possible: with one distillation on a side", "Upper bound, Full data"):  # fmt: skip
        assert words in page


def test_hostile_names_are_text(report, copied, tmp_path):
    folder = copied("<b>&", title="<script>alert(1)</script>", artefacts={})
    (folder / "metrics.jsonl").write_text('{"step": 0, "<img src=x>": 1}\n{"step": 1, "lo')
    (folder / "config.yaml").write_text('method: "<script>alert(2)</script>"\n')
    (folder / "synthetic.png").write_bytes(b"\x89PNG\r\n\x1a\n<script>")
    (folder / "initial.png").unlink()
    assert report(folder).code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for words in ("synthetic.png is no picture that hoptm-bench wrote", "no initial.png", "1 line left out"):
        assert words in page


@pytest.mark.parametrize(
    "config",
    [
        "a: [",
        "",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("- 1", "[" * 3000, "a: &a [*a]", "a: !!python/object:os.system {}", "\0")
        ),
    ],
)
def test_a_configuration_that_cannot_be_read_is_said(config, report, copied, tmp_path):
    folder = copied(artefacts={})
    (folder / "config.yaml").write_text(config)
    result = report(folder)
    assert result.code == 0, result.err
    assert "config.yaml is no readable configuration" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_card_on_its_own_takes_nothing_from_its_neighbours(report, finished_run, copied, tmp_path):
    folder = copied()
    (folder / "result.json").rename(folder / "card.json")
    assert report(folder / "card.json").code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the run folder: a card on its own" in page
    assert "<img" not in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: no such result card"),
        (["."], ".: no result.json in this folder or below"),
        (["a" * 300], "File name too long; name folders of finished runs"),
        (["RUN", "-o", "."], ".: is a folder; name another output file"),
        (
            ["RUN", "-o", "missing/page.html"],
            "missing/page.html: there is no folder missing; make it, or name another output file",
        ),
        (["RUN", "--against", "gone"], "against gone: no row is called that (known: HoP-TM)"),
        (["RUN", "--against", "mtt", "--no-tests"], "not allowed with argument"),
        ([], "the following arguments are required"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(arguments, says, report, finished_run, tmp_path):
    result = report(*(finished_run if each == "RUN" else each for each in arguments))
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert says in result.err
    assert result.out == ""
    assert not list(tmp_path.glob("*.html"))


def test_links_that_lead_out_of_the_folder_are_not_followed(report, copied, tmp_path):
    folder = copied()
    (tmp_path / "secret.yaml").write_text("token: SECRET123\n")
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").symlink_to(tmp_path / "secret.yaml")
    assert report(folder).code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "SECRET123" not in page
    assert "config.yaml is a link that leads out of the run folder" in page


def test_a_file_of_a_run_is_never_written_over(report, bench, copied, tmp_path):
    folder = copied()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in before:
        result = report(folder, "-o", folder / name)
        assert (result.code, result.out) == (2, "")
        assert "exists already and is no page" in result.err
    for name in ("result.json", "metrics.jsonl"):
        result = bench("compare", str(folder), "--output", str(folder / name))
        assert (result.code, result.out) == (2, "")
        assert "is a file of a run" in result.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_a_page_that_cannot_be_written_leaves_nothing(report, finished_run, tmp_path):
    # the second leaves no room for the name of the temporary file
    for name in ("x" * 300, "x" * 250):
        result = report(finished_run, "-o", name)
        assert result.code == 2
        assert result.err.splitlines()[-1] == f"error: {name}: File name too long; name another output file"
        assert not list(tmp_path.iterdir())
