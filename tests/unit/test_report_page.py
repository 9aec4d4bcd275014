"""The page of a report: what it says, what it escapes, what it leaves out."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hoptm_plugin.cards.card import Card, software_versions
from hoptm_plugin.cards.evaluation import Evaluation
from hoptm_plugin.engine.metrics import classification_metrics
from hoptm_plugin.pages.curves import Curve
from hoptm_plugin.pages.page import render
from hoptm_plugin.pages.pictures import pictures
from hoptm_plugin.pages.reading import Run, place, run_names
from hoptm_plugin.storage.paths import without_paths
from hoptm_plugin.tables.compare import compare

HOSTILE = "<script>alert('1')</script>\"&{{ 7*7 }}$x$"
SUPPORT = (6, 2, 4)


def evaluation(*wrong, network="convnet", old=False, classes=3):
    """Networks that take the first so many images of each class for the next class."""
    support = SUPPORT + (1,) * (classes - 3)
    targets = torch.arange(classes).repeat_interleave(torch.tensor(support))
    rows = []
    for count in wrong:
        predicted = targets.clone()
        for label in range(3):
            predicted[(targets == label).nonzero()[:count]] = (label + 1) % 3
        rows.append(classification_metrics(targets, 0.9 * torch.eye(classes)[predicted] + 0.1 / classes))
    found = Evaluation.from_metrics(network, rows)
    return found.model_copy(update={"confusion": None, "calibration": None, "ece": None}) if old else found


def card(method="hoptm", title="HoP-TM", ipc=1, seed=0, names=("common", "rare", "other"), old=False, **changes):
    fields = {
        "schema": 1, "method": method, "title": title, "ipc": ipc, "seed": seed, "selection": "last",
        "dataset": {"name": "scans", "fingerprint": "f" * 64, "classes": names, "train": 99, "validation": 0,
                    "test": 12 + len(names) - 3},
        "protocol": {"epochs": 100}, "evaluations": [evaluation(0, 1, old=old, classes=len(names))],
        "random_subset": [evaluation(2, 2, old=old, classes=len(names))], "artefacts": {}, "config_sha256": "0" * 64,
        "software": software_versions(),
        "cost": {"experts_s": None, "distill_s": 12.5, "evaluate_s": 1, "seconds_per_iteration": 0.25,
                 "peak_memory_bytes": 3 * 2**29, "device": "A device"},
    }  # fmt: skip
    return Card.model_validate(fields | changes)


def tiles(seed, ipc=1):
    return torch.randint(0, 256, (3, ipc, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()


def whole(card, number=0, **changes):
    """A run with all that a folder can hold."""
    steps = np.arange(5.0)
    curves = {name: Curve(steps, steps + 1) for name in ("loss", "shape", "kappa", "mask_fraction", "step_size")}
    config = {"method": {"name": "m"}, "dataset": {"root": "/home/me/secret"}}
    fields = {"config": config, "curves": curves, "initial": tiles(1), "distilled": tiles(2)} | changes
    images = fields.pop("initial"), fields.pop("distilled")
    shown = pictures(card, *images, 10**6)
    return alone(card, number, pictures=shown, **fields)


def alone(card, number=0, **fields):
    """A run of which little more than the card is there."""
    return Run(Path(f"/runs/{number}/result.json"), card, "", "", **fields)


def page(*runs, title="A title", real_images=True, **options):
    runs = sorted(runs, key=lambda run: place((run.file, run.card)))
    cards = [(run.file, run.card) for run in runs]
    names = enumerate(zip(runs, run_names(cards), strict=True), start=1)
    named = [replace(run, name=name, key=f"run-{number}") for number, (run, name) in names]
    found = [SimpleNamespace(card=run.card, folder=run.file.parent) for run in runs]
    return render(named, compare(found, **options).tables, title, real_images)


def text(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_a_whole_run_shows_everything():
    html = page(whole(card(images_are="from_real", began_from="real")), whole(card("mtt", "MTT", ipc=2), 1))
    said = text(html)
    for words in ("Comparison", "Not comparable, and why", "Single classes", "Over the iterations", "Images", "Cost",
                  "Configuration and software", "HoP-TM, scans, IPC 1, seed 0", "1.5", "12.5", "A device"):  # fmt: skip
        assert words in said
    for name in ("Accuracy against images per class", "Loss over the iterations", "Angle term over", "Mask fraction",
                 "Threshold kappa", "Step size alpha", "Reliability diagram of HoP-TM", "Distillation of each method",
                 "Peak memory of each"):  # fmt: skip
        assert re.search(f'<svg [^>]*role="img" aria-label="{name}', html), name
    assert 'alt="1 distilled image of class rare"' in html
    assert 'alt="1 real image of class rare"' in html


def test_the_rare_class_comes_first():
    said = text(page(whole(card())))
    assert "Recall in percent on convnet : HoP-TM, scans, IPC 1, seed 0 Class Test images HoP-TM Fresh random subsets "\
        "rare 2 75.00 ± 25.00 0.00 ± 0.00 other 4 87.50 ± 12.50 50.00 ± 0.00 "\
        "common 6 91.67 ± 8.33 66.67 ± 0.00" in said  # fmt: skip
    assert "75.00 ± 25.00 class rare; 2 images" in said
    assert "True \\ predicted common rare other common 92 8 0 rare 0 75 25 other 12 0 88" in said


def test_nothing_that_was_read_becomes_markup():
    names = (HOSTILE, "b", "c")
    hostile = whole(
        card(title=HOSTILE, names=names, protocol={"epochs": HOSTILE}),
        curves={HOSTILE: Curve(np.arange(3.0), np.arange(3.0))}, missing=(HOSTILE,),
        config={HOSTILE: [HOSTILE], "method": HOSTILE},
    )  # fmt: skip
    html = page(hostile, whole(card(protocol={"epochs": 1}), 1), title=HOSTILE)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<h1>" + html.split("<title>")[1].split("</title>")[0] + "</h1>" in html
    assert "{{ 7*7 }}" in html
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", html)


@pytest.mark.slow
def test_the_same_input_gives_the_same_page_in_any_order():
    runs = [whole(card()), whole(card("mtt", "MTT"), 1), whole(card(seed=1), 2)]
    assert page(*runs) == page(*reversed(runs))


def test_a_card_alone_is_enough():
    html = page(alone(card(old=True), missing=("no metrics.jsonl", "no config.yaml")))
    said = text(html)
    assert "convnet: its card holds no confusion matrix." in said
    assert "no metrics.jsonl; no config.yaml" in said
    assert "No curves, because nothing was logged or the log is not there" in said
    assert "Not shown, because there is no picture of the set: HoP-TM, scans, IPC 1, seed 0." in said
    assert "its protocol is in the card" in said
    assert "epochs: 100" in said
    assert "<img" not in html


@pytest.mark.parametrize(
    ("changes", "real"),
    [
        ({}, "initial"),
        *(
            pytest.param(*each, marks=pytest.mark.campaign)
            for each in (
                ({"initial": tiles(1), "distilled": tiles(1)}, "both"),
                ({"config": None}, "initial"),
                ({"images_are": "from_real"}, "initial"),
                ({"images_are": "made"}, "none"),
                ({"initial": None}, "both"),
                ({"initial": None, "curves": {}}, "both"),
                ({"initial": None, "config": None}, "both"),
            )
        ),
    ],
)
def test_what_may_be_real_counts_as_real(changes, real):
    said = {key: changes[key] for key in changes if key == "images_are"}
    run = whole(card(**said), **{key: changes[key] for key in changes if key not in said})
    shown, hidden = page(run), page(run, real_images=False)
    assert any(each.real for each in run.pictures) == (real != "none")
    assert ('class="real"' in shown) == (real != "none")
    assert 'class="real"' not in hidden
    assert "real image" not in hidden
    assert ("Pictures of real training images are left out.</p>" in hidden) == (real != "none")
    left = {"initial": 6, "both": 0, "none": shown.count("<img")}  # the summary has a sample of the distilled ones
    assert hidden.count("<img") == left[real]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"images_are": "from_real", "began_from": "from_real"}, "derived from real training images: averaged, shrunk"),
        ({"images_are": "from_real", "began_from": "real"}, "real training images"),
        ({"images_are": "real"}, "real training images"),
        ({"images_are": "from_real"}, "real training images, or derived from them"),
        ({"images_are": "made"}, None),
    ],
)
def test_pictures_are_called_what_they_are(fields, said):
    """Means and mosaics are no real images, and older cards do not tell what a distillation began from."""
    shown = pictures(card(**fields), tiles(1), tiles(2), 10**6)
    assert [each.kind for each in shown if each.real] == ([] if said is None else ["initial"])
    assert all(each.caption.startswith(said) for each in shown if each.real)
    assert not any(each.caption == "real training images" for each in shown) or said == "real training images"


def test_a_method_that_is_called_like_what_stands_beside_it_keeps_its_column():
    said = text(page(alone(card("random", "Fresh random subsets", images_are="real"))))
    assert "Class Test images Fresh random subsets Fresh random subsets rare 2 75.00 ± 25.00 0.00 ± 0.00" in said


def test_a_page_begins_with_the_best_method_and_whether_that_is_sure():
    mtt, hoptm = ((2,), (2, 1, 2), (2, 1, 2, 2)), ((0,), (0, 0), (0, 1))
    cards = [card("mtt", "MTT", seed=seed, random_subset=None, evaluations=[evaluation(*wrong)])
             for seed, wrong in enumerate(mtt)]  # fmt: skip
    cards += [card(seed=seed, evaluations=[evaluation(*wrong)], random_subset=[evaluation(*(2,) * (seed + 1))])
              for seed, wrong in enumerate(hoptm)]  # fmt: skip
    said = text(page(*(alone(each, number) for number, each in enumerate(cards))))
    begin = said.index("Best: HoP-TM")
    assert begin < said.index("Comparison")
    assert "points better than MTT, the next best: more than chance explains (p 0." in said
    assert "points better than training images taken at random (fresh random subsets): more than chance" in said
    assert "Cost of a run: distillation 12.5 s, evaluation 1 s; at most 1.50 GiB of memory; A device." in said
    one = text(page(alone(cards[0]), alone(cards[3], 1)))
    assert "whether by chance cannot be told from one seed; run more." in one
    only = text(page(alone(card("mtt", "MTT", evaluations=[evaluation(3)]))))
    assert "The only method here" in only
    assert "No method is better than random images here." in only


def test_pictures_that_runs_share_are_there_once():
    html = page(whole(card()), whole(card("mtt", "MTT"), 1, distilled=tiles(3)))
    assert html.count("<img") == 9 + 3, "and the summary's sample"
    assert "Initial images: the same as those of HoP-TM, scans, IPC 1, seed 0, shown there." in text(html)


def test_paths_are_left_out():
    config = {
        "dataset": {"root": "data"}, "synthetic": "runs/1", "a": ["/abs", "~/x", "C:\\x", "b/c"], "root": None, "n": 1,
    }  # fmt: skip
    left = "(path left out)"
    assert without_paths(config) == {
        "dataset": {"root": left}, "synthetic": left, "a": [left, left, left, "b/c"], "root": None, "n": 1,
    }  # fmt: skip
    assert "secret" not in page(whole(card()))
    hidden = {
        "note": "see /home/a/n.txt",
        "url": "file=/home/a/x",
        "/home/a/key": 1,
        "f": "clinic/data/a.npz",
        "g": "b/c.npz",
    }
    assert without_paths(hidden) == {"note": left, "url": left, left: 1, "f": left, "g": left}


def test_settings_that_contain_themselves_are_refused():
    config = {}
    config["a"] = config
    with pytest.raises(ValueError, match="more settings than a run can have"):
        without_paths(config)


def test_what_sets_tables_apart_is_said():
    html = page(whole(card()), whole(card(protocol={"epochs": 200}), 1), whole(card(selection="test_leaky"), 2))
    said = text(html)
    assert "These runs fall into 3 tables, which must not be held against each other." in said
    assert "What sets the tables apart Table Data set protocol.epochs Chosen" in said
    assert "scans 200 last iteration" in said
    assert "Chosen by looking at the test split" in said


def test_one_table_needs_no_explanation():
    assert "All of these runs were judged alike" in page(whole(card()))


def test_bounds_stand_below_their_table():
    bound = card("full", "Full data", ipc=None, random_subset=None, protocol={"epochs": 9})
    said = text(page(whole(card()), whole(bound, 1, curves={}, initial=None, distilled=None)))
    assert "Upper bound, Full data on all 99 training images, convnet" in said
    assert "Full data, below table 1 protocol differs: epochs 9 instead of 100" in said
    assert "they trained on the whole training split, and there is no set: Full data" in said


def test_many_classes_show_their_worst_confusions():
    many = card(names=tuple(f"c{n}" for n in range(30)))
    html = page(whole(many))
    assert "convnet: many classes, so the most frequent confusions stand for all." in html
    assert "Most frequent confusions on convnet, mean of 2 networks" in html
    assert 'class="confusion"' not in html


def test_a_diverged_network_has_a_column_of_no_predictions():
    broken = classification_metrics(torch.arange(3).repeat_interleave(torch.tensor(SUPPORT)),
                                    torch.full((12, 3), float("nan")))  # fmt: skip
    found = card(evaluations=[Evaluation.from_metrics("convnet", [broken])], random_subset=None)
    said = text(page(whole(found)))
    assert "common rare other no prediction common 0 0 0 100" in said


def test_several_networks_and_one_size_get_a_figure_each():
    both = [evaluation(0, 1), evaluation(1, 1, network="resnet")]
    html = page(whole(card(evaluations=both, random_subset=None)))
    assert len(re.findall('aria-label="Accuracy against images per class on', html)) == 2
    assert len(re.findall('aria-label="Reliability diagram', html)) == 2


def test_every_run_has_a_name_of_its_own():
    cards = [(Path(f"/{folder}/result.json"), card()) for folder in ("a/x", "b/x", "a/y")]
    assert run_names(cards) == ["HoP-TM, scans, IPC 1, seed 0, x, no. 1", "HoP-TM, scans, IPC 1, seed 0, x, no. 2",
                     "HoP-TM, scans, IPC 1, seed 0, y"]  # fmt: skip


@pytest.mark.slow
def test_options_of_the_comparison_are_passed_on():
    # what seeds scatter by is known from the second one on
    made = [card(evaluations=[evaluation(0, 1)]), card(seed=1, evaluations=[evaluation(2, 2)]),
            card("mtt", "MTT", evaluations=[evaluation(2, 1)]), card("mtt", "MTT", seed=1)]  # fmt: skip
    runs = [whole(made_card, number) for number, made_card in enumerate(made)]
    assert "Differences to MTT" in page(*runs, against="mtt")
    assert "Differences to" not in page(*runs, tests=None)


def test_a_title_that_is_no_text_is_written_all_the_same():
    html = page(whole(card()), title="a\x00b\udcff\n")
    assert "<title>a b?</title>" in html
