import io
import json
import math
import re
import resource
import subprocess
from importlib.metadata import version

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console

import hoptm_plugin
from hoptm_plugin.cards.card import (
    Card,
    make_card,
    peak_memory_bytes,
    read_card,
    software_versions,
    write_card,
)
from hoptm_plugin.cards.evaluation import Evaluation, Summary
from hoptm_plugin.cli.console import output_console, print_card
from hoptm_plugin.core.dataset import ImageData, Normalisation, Split
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.engine.metrics import classification_metrics


def run(zero, one, lost=0):
    """A network's metrics by hand: so many of six and of four images right, ``lost`` ones without a prediction."""
    confusion = [[zero, 6 - zero, 0], [4 - one - lost, one, 0], [0, 0, 0]]
    accuracy, recalls = (zero + one) / 10, [zero / 6, one / 4, None]
    f1 = [2 * zero / (10 + zero - one - lost), 2 * one / (10 + one - zero)]
    bins = {"ece": 0.25, "counts": [4, 6], "confidence": 2 * [accuracy - 0.25], "accuracy": 2 * [accuracy]}
    if accuracy < 0.25:
        bins["confidence"] = 2 * [accuracy + 0.25]
    return {
        "accuracy": accuracy, "balanced_accuracy": sum(recalls[:2]) / 2, "macro_auroc": None if lost else 0.75,
        "macro_f1": sum(f1) / 2, "recall_per_class": recalls, "support": [6, 4, 0], "confusion": confusion,
        "calibration": None if lost else bins,
    }  # fmt: skip


RUN, OTHER = run(5, 0), run(6, 2, lost=2)


@pytest.fixture
def card():
    normalisation = Normalisation((0.0,), (1.0,), "none")
    split = {n: Split(torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.int64), normalisation) for n in (20, 5, 10)}
    data = ImageData("digits", ("zero", "one", "two"), split[20], split[5], split[10], normalisation, "f" * 64)
    results = {
        "evaluations": {"convnet": [RUN, OTHER], "resnet18": [RUN, RUN]},
        "averaged": {"convnet": [run(4, 2), run(5, 3)]},
        "random_subset": {"convnet": [run(1, 1), run(2, 2)]},
    }
    return make_card(
        data,
        results,
        method="hoptm",
        title="HoP-TM",
        ipc=2,
        seed=3,
        protocol={"epochs": 100, "learning_rate": 0.01, "augment": {"name": "dsa"}},
        selection="validation",
        reported={"accuracy": 0.8989, "source": "HoP-TM, Table 1",
                  "networks": {"resnet18": {"accuracy": 0.7, "std": 0.012}}},
        cost={
            "experts_s": 12.25, "distill_s": 60.0, "evaluate_s": 3.0, "seconds_per_iteration": 0.012,
            "peak_memory_bytes": 3 * 2**29, "device": "cpu",
        },
        config_sha256="a" * 64,
        artefacts={"synthetic.safetensors": "b" * 64},
    )  # fmt: skip


def edited(card, *path, to):
    """The card's JSON with one value changed, or removed where ``to`` is KeyError."""
    values = json.loads(card.model_dump_json(by_alias=True))
    place = values
    for key in path[:-1]:
        place = place[key]
    if to is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(values)


def test_summaries_of_several_networks(card):
    evaluation = card.evaluations[0]
    assert (evaluation.accuracy.mean, evaluation.accuracy.std) == pytest.approx((0.65, 0.15))
    assert evaluation.accuracy.values == (0.5, 0.8)
    assert evaluation.macro_auroc == Summary(mean=None, std=None, values=(0.75, None))
    assert evaluation.recall_per_class == (pytest.approx(11 / 12), 0.25, None)
    assert (evaluation.diverged, card.evaluations[1].diverged) == (1, 0)
    assert evaluation.support == (6, 4, 0)
    assert evaluation.recalls() == [(5 / 6, 0.0, None), (1.0, 0.5, None)]
    assert evaluation.ece == Summary(mean=None, std=None, values=(0.25, None))
    assert evaluation.calibration[1] is None
    assert evaluation.calibration[0].counts == (4, 6)


def test_too_many_classes_leave_the_confusion_matrices_out():
    metrics = classification_metrics(torch.arange(300), torch.eye(300))
    assert Evaluation.from_metrics("convnet", [metrics] * 2).confusion is not None
    assert Evaluation.from_metrics("convnet", [metrics] * 3).confusion is None


@pytest.mark.campaign
def test_the_largest_card_can_be_read_again(card, tmp_path):
    classes = 200
    fifth = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"), 0.2)
    confusion = [[10 if (column - row) % classes < 5 else 0 for column in range(classes)] for row in range(classes)]
    metrics = fifth | {"support": [50] * classes, "recall_per_class": [0.2] * classes, "confusion": confusion,
                       "calibration": {"ece": 0.0, "counts": [50 * classes], "confidence": [0.2],
                                       "accuracy": [0.2]}}  # fmt: skip
    many = {f"network{number}": [metrics] * 6 for number in range(8)}
    evaluations = [Evaluation.from_metrics(name, rows) for name, rows in many.items()]
    dataset = card.dataset.model_copy(update={"classes": tuple(map(str, range(classes))), "test": 50 * classes})
    sets = dict.fromkeys(("evaluations", "averaged", "random_subset"), tuple(evaluations))
    large = card.model_copy(update={"dataset": dataset, **sets})
    write_card(large, tmp_path / "result.json")
    assert read_card(tmp_path) == large


def test_cards_from_before_the_view_by_class_are_read(card):
    values = json.loads(card.model_dump_json(by_alias=True))
    for evaluation in values["evaluations"]:
        for name in ("ece", "calibration", "confusion"):
            del evaluation[name]
    old = Card.model_validate_json(json.dumps(values), strict=True)
    assert old.evaluations[0].recalls() == []


def test_round_trip_by_file_and_by_folder(card, tmp_path):
    write_card(card, tmp_path / "result.json")
    assert read_card(tmp_path / "result.json") == card == read_card(tmp_path)
    values = json.loads((tmp_path / "result.json").read_text())
    assert list(values) == [
        "schema", "method", "title", "dataset", "ipc", "seed", "distillation_seed", "protocol", "evaluations",
        "averaged", "random_subset", "reported", "selection", "selected", "averaged_selected", "saturation", "tuning",
        "note", "cost", "software", "config_sha256", "distillation_sha256", "labels", "images_are", "floor",
        "images_stored", "images_trained_on", "lower_precision", "imported", "scale", "distilled_from",
        "settings", "began_from", "artefacts", "sha256",
    ]  # fmt: skip
    assert values["schema"] == 1
    assert values["dataset"] == {
        "name": "digits", "fingerprint": "f" * 64, "classes": ["zero", "one", "two"],
        "train": 20, "validation": 5, "test": 10, "read": None, "duplicates": None, "validation_carved": 0,
    }  # fmt: skip
    assert values["evaluations"][0]["accuracy"] == {"mean": 0.65, "std": pytest.approx(0.15), "values": [0.5, 0.8]}
    assert values["random_subset"][0]["accuracy"]["mean"] == pytest.approx(0.3)


TUNING = {
    "split": "validation", "networks": 3, "seed": 100, "chosen": "a=2",
    "candidates": [{"settings": "a=1", "accuracy": 0.25}, {"settings": "a=2", "accuracy": 0.5},
                   {"settings": "a=3", "accuracy": None}],
}  # fmt: skip


def test_how_settings_were_chosen_is_kept_and_printed(card, tmp_path):
    tuned = Card.model_validate_json(edited(card, "tuning", to=TUNING))
    write_card(tuned, tmp_path / "result.json")
    assert read_card(tmp_path) == tuned
    console = Console(file=io.StringIO(), width=200)
    print_card(tuned.model_copy(update={"note": "reduced"}), console=console)
    lines = console.file.getvalue().splitlines()
    assert "settings: a=2, the best of 3 on the validation split (seed 100, networks for each: 3)" in lines
    assert "note: reduced" in lines
    reused = tuned.model_copy(update={"tuning": tuned.tuning.model_copy(update={"reused": "HoP-TM"})})
    console = Console(file=io.StringIO(), width=200)
    print_card(reused, console=console)
    assert "on the validation split in the search of HoP-TM (seed 100" in console.file.getvalue()


@pytest.mark.parametrize("change", [{"chosen": "a=9"}, {"chosen": "a=3"}, {"split": "test"}, {"candidates": []}])
def test_a_search_that_cannot_have_been_is_refused(card, change):
    with pytest.raises(ValidationError):
        Card.model_validate_json(edited(card, "tuning", to=TUNING | change))


def test_a_card_of_the_validation_split_counts_its_images(card):
    """The fixture's evaluations are of 10 images: as many as its test split has, not its validation split."""
    assert (card.split, card.tested) == ("test", 10)
    judged = card.protocol | {"split": "validation"}
    with pytest.raises(ValidationError, match="support does not sum to the 5 validation images"):
        Card.model_validate_json(edited(card, "protocol", to=judged))
    values = json.loads(edited(card, "protocol", to=judged))
    values["dataset"] |= {"validation": 10, "test": 7}
    found = Card.model_validate(values)
    assert (found.split, found.tested) == ("validation", 10)
    console = Console(file=io.StringIO(), width=200)
    print_card(found, console=console)
    assert "tested on the 10 validation images: for choosing settings, not a result" in console.file.getvalue()
    assert "validation images" in console.file.getvalue()


def test_a_card_cannot_be_changed(card):
    with pytest.raises(ValidationError, match="frozen"):
        card.seed = 4


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("schema",), 2, "schema: Input should be 1"),
        (("schema",), KeyError, "schema: Field required"),
        (("remark",), "x", "remark: Extra inputs are not permitted"),
        (("selection",), "best", "selection: Input should be 'last', 'validation' or 'test_leaky'"),
        (("ipc",), 0, "ipc: Input should be greater than 0"),
        (("ipc",), KeyError, "ipc: Field required"),
        (("averaged", 0, "support"), [10], "averaged.0: "),
        (("reported", "std"), 0.9, "reported.std: Input should be less than or equal to 0.5"),
        (("reported", "networks"), {"vgg11": {"accuracy": 80}}, "reported.networks.vgg11.accuracy: Input should be"),
        (("seed",), "3", "seed: Input should be a valid integer"),
        (("evaluations",), [], "evaluations: Tuple should have at least 1 item"),
        (
            ("evaluations", 0, "accuracy", "mean"),
            60.0,
            "evaluations.0.accuracy.mean: Input should be less than or equal",
        ),
        (("evaluations", 0, "accuracy", "mean"), 0.9, "mean is 0.9, but the values give 0.65"),
        (("evaluations", 0, "accuracy", "std"), 0.0, "std is 0.0, but the values give 0.15"),
        (("evaluations", 0, "accuracy", "values"), [0.5, math.nan], "Input should be a finite number"),
        (
            ("evaluations", 0, "accuracy"),
            {"mean": None, "std": None, "values": [None, None]},
            "accuracy must be defined",
        ),
        (("evaluations", 1, "macro_f1"), {"mean": 0.5, "std": 0.0, "values": [0.5]}, "different numbers of networks"),
        (("evaluations", 1, "network"), "convnet", "evaluations: a network is listed twice"),
        (("evaluations", 1, "recall_per_class"), [0.5], "different numbers of classes"),
        (("dataset", "test"), 11, "evaluations: support does not sum to the 11 test images"),
        (("dataset", "classes"), ["zero", "one"], "support is not of 2 classes"),
        (("random_subset", 0, "accuracy", "mean"), -0.1, "random_subset.0.accuracy.mean: Input should be greater than"),
        (("reported", "accuracy"), 89.89, "reported.accuracy: Input should be less than or equal to 1"),
        (("evaluations", 0, "confusion", 0, 0), [5, 2, 0], "counts more images of a class than there are"),
        (("evaluations", 0, "confusion", 0, 0), [6, 0], "not of 3 x 3 classes"),
        (("evaluations", 0, "confusion"), [], "confusion is not of 2 networks"),
        (("evaluations", 0, "calibration", 0, "counts"), [4], "different numbers of bins"),
        (("evaluations", 0, "calibration", 0, "counts"), [0, 10], "an empty bin has no mean"),
        (("evaluations", 0, "calibration", 0, "ece"), 2.0, "less than or equal to 1"),
        (("cost", "evaluate_s"), -1, "cost.evaluate_s: Input should be greater than or equal to 0"),
        (("cost", "distill_s"), math.inf, "cost.distill_s: Input should be a finite number"),
        (("protocol", "epochs"), math.nan, "protocol: Out of range float values are not JSON compliant"),
        (("title",), "HoP\x1b[31m", "title: String should match pattern"),
        (("config_sha256",), "abc", "config_sha256: String should match pattern"),
        (("artefacts", "x"), "abc", "artefacts.x: String should match pattern"),
        (("software", "torch"), KeyError, "software.torch: Field required"),
    ],
)
def test_a_bad_card_is_refused_in_one_line(card, tmp_path, path, to, message):
    file = tmp_path / "result.json"
    file.write_text(edited(card, *path, to=to))
    with pytest.raises(FileFormatError) as caught:
        read_card(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: not a result card of schema 1: ")
    assert message in text
    assert "\n" not in text
    assert len(text) < 1000


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 10_000, b'{"schema": 1e999}'])
def test_what_is_not_a_card_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"^[^\n]*not a result card of schema 1: [^\n]+$"):
        read_card(tmp_path)


@pytest.mark.parametrize("checksum", [None, "0" * 64])
def test_a_card_that_is_not_of_its_checksum_is_refused(card, tmp_path, checksum):
    (tmp_path / "result.json").write_text(edited(card, "sha256", to=checksum))
    with pytest.raises(FileFormatError, match=r"result\.json: damaged or edited: .* restore it, or evaluate again"):
        read_card(tmp_path)


def test_a_missing_or_huge_card_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"result\.json: no such result card"):
        read_card(tmp_path)
    with pytest.raises(FileFormatError, match="nowhere: no such result card"):
        read_card(tmp_path / "nowhere")
    with (tmp_path / "result.json").open("wb") as stream:
        stream.truncate(64 * 2**20 + 1)
    with pytest.raises(FileFormatError, match="larger than 64 MiB"):
        read_card(tmp_path)


def test_an_accuracy_in_percent_cannot_become_a_card():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Evaluation.from_metrics("convnet", [RUN | {"accuracy": 50.0}])


def test_software_versions():
    found = software_versions()
    assert found["torch"] == version("torch")
    assert found["hoptm_plugin"] == version("hoptm-plugin")
    assert list(found) == ["python", "torch", "torchvision", "kornia", "numpy", "hoptm_plugin", "commit"]


def test_commit_of_a_checkout_and_of_none(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, check=True)
        return done.stdout.decode().strip()

    package = tmp_path / "hoptm_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(hoptm_plugin, "__file__", str(package / "__init__.py"))
    assert software_versions()["commit"] is None  # no checkout
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD")
    git("tag", "v1")
    assert software_versions()["commit"] == commit
    (package / "__init__.py").write_text("edited = True\n")
    assert software_versions()["commit"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert software_versions()["commit"] is None  # no git


def test_peak_memory_is_in_bytes():
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak_memory_bytes(torch.device("cpu")) >= kilobytes * 1024 > 2**26  # torch alone takes more than 64 MiB


def test_the_printed_card_is_plain_and_unwrapped_off_a_terminal(card, tmp_path):
    stream = io.StringIO()
    folder = tmp_path / ("long" * 50)
    print_card(card, folder, output_console(stream))
    text = stream.getvalue()
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    assert "\x1b" not in text
    assert lines[0] == "HoP-TM on digits, 2 images per class, seed 3 (percent; mean ± std, networks per line: 2)"
    assert lines[1:3] == ["balanced macro macro", "network set accuracy accuracy AUROC F1"]
    assert lines[4:] == [
        "convnet HoP-TM 65.00 ± 15.00 58.33 ± 16.67 - 58.33 ± 25.00",
        "convnet HoP-TM, EMA 70.00 ± 10.00 68.75 ± 10.42 75.00 ± 0.00 68.75 ± 10.42",
        "convnet fresh random subsets 30.00 ± 10.00 31.25 ± 10.42 75.00 ± 0.00 30.00 ± 10.00",
        "resnet18 HoP-TM 50.00 ± 0.00 41.67 ± 0.00 75.00 ± 0.00 33.33 ± 0.00",
        "convnet: recall per class, rarest first",
        "class test images HoP-TM fresh random subsets",
        lines[10],
        "one 4 25.00 ± 25.00 37.50 ± 12.50",
        "zero 6 91.67 ± 8.33 25.00 ± 8.33",
        "two 0 - -",
        "calibration error (ECE) - 25.00 ± 0.00",
        "balanced accuracy, macro F1 and AUROC are over 2 of 3 classes: no test images of two",
        "resnet18: recall per class, rarest first",
        "class test images HoP-TM",
        lines[18],
        "one 4 0.00 ± 0.00",
        "zero 6 83.33 ± 0.00",
        "two 0 -",
        "calibration error (ECE) 25.00 ± 0.00",
        "balanced accuracy, macro F1 and AUROC are over 2 of 3 classes: no test images of two",
        "reported: 89.89, resnet18 70.00 ± 1.20 (HoP-TM, Table 1)",
        "HoP-TM, convnet: 1 of 2 networks diverged",
        "chosen: best on the validation split",
        "cost: experts 12.2 s, distillation 60.0 s, evaluation 3.0 s, 0.012 s per iteration, peak memory 1.50 GiB, cpu",
        f"folder: {folder}",
    ]


def test_a_card_on_the_whole_training_split_says_so(card):
    stream = io.StringIO()
    print_card(card.model_copy(update={"ipc": None}), console=output_console(stream))
    assert stream.getvalue().startswith("HoP-TM on digits, all 20 training images, seed 3 (")


def test_eighty_columns_break_no_figure(card):
    stream = io.StringIO()
    print_card(card, console=Console(file=stream, width=80))
    # one each in the title and reported, 4 * 4 figures of which one is undefined, 5 + 3 by class
    assert stream.getvalue().count(" ± ") == 17 + 8


def test_the_printed_card_takes_markup_literally_and_uses_colour_on_a_terminal(card):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    print_card(card.model_copy(update={"title": "[red]X[/red]"}), console=output_console(stream))
    assert "[red]X[/red]" in re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert "\x1b[1m" in stream.getvalue()


def test_the_default_console_is_stdout(card, capsys):
    print_card(card)
    captured = capsys.readouterr()
    assert "65.00 ± 15.00" in captured.out
    assert captured.err == ""
    assert isinstance(card, Card)
