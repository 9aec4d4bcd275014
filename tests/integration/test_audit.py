"""`audit` on real digits: what leaks is found, what does not is cleared, and what cannot be audited is refused."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time

import numpy as np
import pytest
from command_line import HANG, TINY_NETWORK, TINY_PROTOCOL, card, invoke, start
from sklearn.datasets import load_digits

import hoptm_plugin
from hoptm_plugin import Arrays, audit, compose, run
from hoptm_plugin.cards.audit import FILE_NAME, AuditCard, read_audit
from hoptm_plugin.cards.record import write_record
from hoptm_plugin.core.errors import ConfigurationError, FileFormatError, PluginError
from hoptm_plugin.data.preprocess import Shadow
from hoptm_plugin.runs import auditing, closeness, shadows, telling
from hoptm_plugin.runs.folder import read_settings

PLACED = ("dataset=digits", "dataset.holdout_fraction=0.3", "dataset.preprocess.image_size=null", *TINY_NETWORK,
          *TINY_PROTOCOL)  # fmt: skip
FEW = ("distillation.iterations=3", "experts.count=1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a run and audit it, each once; return the run's folder, what the audit printed, and its exit code."""
    root, known = tmp_path_factory.mktemp("audited"), {}

    def make(name, *settings):
        if name not in known:
            folder, environment = root / name, {"HOPTM_EXPERTS": str(root / "experts")}
            done = invoke("run", *PLACED, *settings, f"hydra.run.dir={folder}", cwd=root, environment=environment)
            assert done.code == 0, done.err
            known[name] = folder, invoke("audit", str(folder), cwd=root, environment=environment)
        return known[name]

    return make


@pytest.fixture(scope="module")
def from_real(made):
    return made("from-real", "method=dm", "ipc=2", *FEW)


def test_images_that_still_look_like_those_they_began_from_are_found(from_real):
    folder, done = from_real
    found = read_audit(folder)
    assert "Traceback" not in done.err
    assert done.code == 1
    assert (found.verdict, found.method, found.ipc, found.unit) == ("leak_found", "dm", 2, "image")
    assert found.config_sha256 == card(folder)["config_sha256"]
    assert found.fingerprint == card(folder)["dataset"]["fingerprint"]
    assert card(folder)["dataset"]["train"] == found.members
    assert (found.identity.images, found.identity.first) == (20, 20)
    assert found.identity.p < 1e-20
    assert found.identity.correlation > found.identity.correlation_of_others
    assert found.identity.expected_first == pytest.approx(20 * 10 / found.members, rel=0.1)
    assert [each.passed for each in found.controls] == [True] * 4
    assert "20 of 20 synthetic images can be traced to the training image they began from" in done.out
    assert "A leak was found: " in done.out
    for word in ("safe", "private"):
        assert word not in done.out.lower().replace("privacy", "")


def test_nothing_on_single_images_is_in_the_card(from_real):
    folder, _ = from_real
    text = (folder / FILE_NAME).read_text()
    numbers = [part for part in json.loads(text).values() if isinstance(part, list)]
    assert all(isinstance(each, dict | str) for part in numbers for each in part)
    assert len(text) < 6000
    assert str(folder.parent) not in text


def test_from_python_the_same_but_for_the_time(from_real):
    folder, _ = from_real
    stored = read_audit(folder)
    again = audit(folder)
    assert again.model_copy(update={"seconds": stored.seconds}) == stored
    with pytest.raises(ConfigurationError, match="with seed=0 of the same set, which another one must not replace"):
        audit(folder, seed=1)
    (folder / FILE_NAME).rename(folder / "kept.json")
    other = audit(folder, seed=1)
    assert other.identity == stored.identity
    assert other.synthetic.pixels.share == stored.synthetic.pixels.share
    assert other.controls != stored.controls
    (folder / "kept.json").replace(folder / FILE_NAME)


def test_a_subset_of_the_data_is_what_it_is(made):
    folder, done = made("subset", "method=random", "ipc=5")
    found = read_audit(folder)
    assert (done.code, found.verdict) == (1, "leak_found")
    assert (found.identity.first, found.identity.images) == (50, 50)
    assert (found.synthetic.pixels.share, found.synthetic.pixels.ratio) == (1.0, 0.0)
    assert found.synthetic.pixels.authenticity == 0
    assert found.synthetic.pixels.p == 0.001
    assert len(found.reasons) == 3
    assert found.real.pixels.p > 0.005
    assert found.real.pixels.ratio > 0.8


def test_a_set_that_began_from_noise_has_nothing_to_point_to(made):
    folder, done = made("noise", "method=dm", "method.initial_images.name=noise", "ipc=1", *FEW)
    found = read_audit(folder)
    assert (found.identity, found.no_identity) == (None, "they began from none")
    assert (done.code, found.verdict) == (0, "none_found")
    assert "No leak was found by these tests, which are the quick ones" in done.out
    assert "That is not a proof that there is none." in done.out
    assert "Not tested at this tier" not in done.out, "said already"
    assert "does not apply: they began from none" in done.out


def test_what_a_method_guarantees_is_said(made, monkeypatch):
    folder, done = made("dp", "method=dp", "method.epsilon=2", "ipc=1", *FEW)
    said = read_audit(folder).guarantee
    assert said.startswith("Guaranteed by the method")
    assert "7.4-fold" in said
    assert said in " ".join(done.out.split())
    for unfit in ("a line\nand another", "x" * 501, ""):
        monkeypatch.setattr("hoptm_baselines.private_means._in_words", lambda *_, unfit=unfit: unfit)
        with pytest.raises(PluginError, match="method dp: what it guarantees must be one line of at most 500"):
            audit(folder)
    assert read_audit(folder).guarantee == said, "the earlier one is kept"


def test_tiles_of_mosaics_are_found(made):
    folder, _ = made("mosaics", "method=idm", "ipc=1", "distillation.iterations=2")
    found = read_audit(folder)
    assert found.identity.images == 40
    assert found.identity.first > 10 * found.identity.expected_first


def test_crops_are_traced_where_they_are_whole_images_and_else_it_is_said(made):
    crops = ("method=rded", "ipc=3", "experts.training.batch=512", "method.initial_images.teacher_epoch=1",
             "method.labels.teacher_epoch=1")  # fmt: skip
    some, of_some = made("crops", *crops, "method.initial_images.area=[0.6,1]")
    found = read_audit(some).identity
    assert 0 < found.images == found.first < 30 == found.images + found.untested
    assert "synthetic images that began as a training image as it is can be traced" in of_some.out
    assert f"The other {found.untested} began otherwise, as crops may, and were not tested" in of_some.out
    whole, _ = made("whole-crops", *crops, "method.initial_images.area=[1,1]")
    found = read_audit(whole).identity
    assert (found.images, found.first, found.untested) == (30, 30, 0)
    for name, parts in (("parts", "area=[0.1,0.6]"), ("tiles", "factor=2")):
        folder, done = made(name, *crops, f"method.initial_images.{parts}")
        found = read_audit(folder)
        assert found.identity is None
        assert found.no_identity.startswith("they began as changed training images, such as parts of them")
        assert "does not apply: they began as changed training images" in done.out


def test_a_control_that_is_judged_wrongly_makes_it_invalid(from_real, monkeypatch, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(from_real[0], folder)
    monkeypatch.setattr(closeness, "CLEAR", 1.0)
    done = invoke("audit", str(folder), cwd=tmp_path)
    assert done.code == 1
    assert read_audit(folder).verdict == "invalid"
    assert "This audit is not valid, and clears nothing: " in done.out
    assert "What it would have found: its images" in done.out
    assert "A leak was found" not in done.out


def test_equal_images_are_one_unit(tmp_path):
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    train = np.concatenate([images[:300]] * 2), np.concatenate([digits.target[:300]] * 2)
    data = Arrays(train=train, test=(images[1000:1100], digits.target[1000:1100]))
    others = [each for each in PLACED if not each.startswith("dataset=") and "image_size" not in each]
    run(compose("method=random", *others, dataset=data, ipc=1), tmp_path / "run")
    found = audit(tmp_path / "run", dataset=data)
    assert found.unit == "group"
    assert found.verdict == "leak_found"


class TestRefused:
    def check(self, done, *said):
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err
        (line,) = [each for each in done.err.splitlines() if each.startswith("error: ")]
        for each in said:
            assert each in line

    def test_a_run_that_put_nothing_aside(self, finished_run, bench):
        done = bench("audit", str(finished_run))
        self.check(done, "put no images aside", "dataset.holdout_fraction=0.3")
        assert not (finished_run / FILE_NAME).exists()

    def test_what_is_no_finished_run(self, bench, tmp_path):
        self.check(bench("audit", str(tmp_path)), "holds no run")

    def test_what_distils_nothing(self, bench, tmp_path):
        done = bench("run", *PLACED, "method=full", f"hydra.run.dir={tmp_path / 'full'}")
        assert done.code == 0, done.err
        self.check(bench("audit", str(tmp_path / "full")), "cannot be audited: ")

    def test_settings_that_would_make_it_another_run(self, from_real, bench):
        self.check(bench("audit", str(from_real[0]), "ipc=3"), "ipc: would make it another run; audit takes only")
        self.check(bench("audit", str(from_real[0]), "seed=two"), "seed=two: must be a whole number")

    def test_a_card_that_contradicts_itself_or_was_edited(self, from_real, tmp_path):
        text = (from_real[0] / FILE_NAME).read_text()
        for old, new, said in (
            ('"leak_found"', '"none_found"', "verdict"),
            ('"members": ', '"members": 1', "checksum|not"),
        ):
            (tmp_path / FILE_NAME).write_text(text.replace(old, new, 1))
            with pytest.raises(FileFormatError, match=said):
                read_audit(tmp_path)


def test_cores_are_shared_out_by_the_threads_of_each_run(from_real, monkeypatch):
    settings = read_settings(from_real[0] / "config.yaml")
    monkeypatch.setattr(auditing, "cores", lambda: 8)
    monkeypatch.setattr(auditing, "available_bytes", lambda device: 2**33)

    def fitting(threads, memory_bytes=1):
        runtime = settings.runtime.model_copy(update={"threads": threads})
        return auditing._fitting(settings.model_copy(update={"runtime": runtime}), memory_bytes)

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (fitting(None), fitting(2), fitting(16), fitting(None, 2**31)) == (8, 4, 1, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "0")  # what torch makes of it counts
    assert fitting(None) >= 1


def test_it_is_public():
    assert hoptm_plugin.audit is audit
    assert hoptm_plugin.AuditCard is AuditCard
    assert math.isfinite(auditing.FRACTION)


@pytest.fixture(scope="module")
def standard(from_real, tmp_path_factory):
    """A copy of the run that began from real images, audited at the standard tier with few redraws."""
    folder = tmp_path_factory.mktemp("standard") / "run"
    shutil.copytree(from_real[0], folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telling, "REDRAWS", 99)
        done = invoke("audit", str(folder), "tier=standard", "shadows=8", cwd=folder.parent)
    return folder, done


@pytest.mark.slow
class TestStandard:
    def test_members_are_told_where_images_are_nearly_theirs(self, standard):
        folder, done = standard
        assert (done.code, "Traceback" in done.err) == (1, False)
        assert "Audit: 8 shadow distillations of 58" in done.err
        found = read_audit(folder)
        members = found.membership
        assert (found.tier, members.shadows, members.networks) == ("standard", 8, 3)
        assert members.images == found.members + found.holdout
        # 20 of about 581 images are exposed, by 3 iterations hardly changed: 1/2 + f/2
        assert members.nearest.auc == pytest.approx(0.5 + 20 / 581 / 2, abs=0.02)
        assert members.nearest.exposed_found > 0.9
        assert members.nearest.p <= 0.05
        assert [rate.fpr for rate in members.nearest.rates] == [0.01]
        assert members.nearest.rates[0].tpr > 0.03
        assert members.loss.exposed_found < members.nearest.exposed_found
        assert found.one_run.nearest.pairs <= found.holdout
        assert found.one_run.epsilon < found.one_run.ceiling
        names = [each.name for each in found.controls]
        assert names[4:] == ["copies of members, membership", "barely changed members, membership",
                             "real images that were put aside, membership", "noise, membership"]  # fmt: skip
        assert all(each.passed for each in found.controls)
        assert "told training images from others with AUC" in done.out
        assert "Not tested at this tier" not in done.out

    def test_shadows_leave_their_signals_alone(self, standard):
        folder, _ = standard
        (place,) = (path for path in (folder / "audit").iterdir() if path.is_dir())
        assert place.name.startswith("8-shadows-seed-0-")
        kept = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
        assert kept == {f"shadow-{number:02}/signals.safetensors" for number in range(8)}

    def test_the_same_call_distils_nothing_again(self, standard, monkeypatch):
        folder, _ = standard
        stored = read_audit(folder)
        monkeypatch.setattr(telling, "REDRAWS", 99)
        monkeypatch.setattr(shadows, "Distiller", None)
        again = audit(folder, tier="standard", shadows=8)
        assert again.model_copy(update={"seconds": stored.seconds}) == stored

    def test_one_that_is_damaged_is_named(self, standard, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(standard[0], copy)
        path = next(copy.rglob("shadow-03/signals.safetensors"))
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(FileFormatError, match=r"shadow-03.*that shadow is distilled again"):
            audit(copy, tier="standard", shadows=8)
        path.unlink()
        assert not next(copy.rglob("shadow-03")).joinpath("signals.safetensors").exists()

    def test_processes_find_the_same(self, from_real, standard, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(from_real[0], folder)
        done = start("audit", str(folder), "tier=standard", "shadows=8", "processes=2", cwd=tmp_path)
        try:
            _, err = done.communicate(timeout=HANG)
        finally:
            done.kill()
        assert done.returncode == 1, err
        assert "2 at a time, each in a process" in err
        mine, theirs = read_audit(folder).membership, read_audit(standard[0]).membership
        assert mine.loss.auc == pytest.approx(theirs.loss.auc, abs=1e-3)
        assert mine.nearest.auc == pytest.approx(theirs.nearest.auc, abs=1e-3)
        place = next(path for path in (folder / "audit").iterdir() if path.is_dir())
        assert len(list(place.rglob("*"))) == 16, "signals alone"

    def test_images_of_a_wrong_class_are_told_apart_from_all_others(self, standard, tmp_path, monkeypatch):
        folder = tmp_path / "run"
        shutil.copytree(standard[0], folder)
        monkeypatch.setattr(telling, "REDRAWS", 99)
        found = audit(folder, tier="full", shadows=8)
        told = found.membership
        assert (found.tier, told.canaries.images) == ("full", min(100, (found.members + found.holdout) // 10))
        assert told.images + told.canaries.images == found.members + found.holdout
        assert told.canaries.loss.rates == (), "too few others for 1 %"
        assert told.canaries.nearest.auc != told.nearest.auc
        assert told.nearest.auc == pytest.approx(0.5 + 20 / 581 / 2, abs=0.02)
        assert any("were given a wrong class" in each for each in found.sentences())
        names = sorted(path.name for path in (folder / "audit").iterdir() if path.is_dir())
        assert [name.rsplit("-", 1)[0] for name in names] == ["8-shadows-canaries-seed-0", "8-shadows-seed-0"]

    def test_one_that_is_missing_is_distilled_in_its_place(self, standard, tmp_path, monkeypatch):
        monkeypatch.setattr(telling, "REDRAWS", 99)
        folder = tmp_path / "run"
        shutil.copytree(standard[0], folder)
        next(folder.rglob("shadow-02/signals.safetensors")).unlink()  # the others, which are there, end before it
        mine, theirs = audit(folder, tier="standard", shadows=8).membership, read_audit(standard[0]).membership
        assert mine.nearest.auc == pytest.approx(theirs.nearest.auc, abs=1e-3)
        assert mine.loss.auc == pytest.approx(theirs.loss.auc, abs=1e-2)

    def test_cards_of_shadows_reach_no_table(self, standard):
        folder, _ = standard
        assert [path for path in folder.rglob("result.json") if path.parent != folder] == []

    def test_a_quicker_one_does_not_replace_it(self, standard, bench):
        before = (standard[0] / FILE_NAME).read_text()
        TestRefused().check(bench("audit", str(standard[0])), "is an audit of tier standard of the same set")
        assert (standard[0] / FILE_NAME).read_text() == before

    def test_halves_that_are_too_small_are_refused_before_anything_is_distilled(self, made, bench):
        folder, _ = made("many", "method=random", "ipc=60")
        (folder / FILE_NAME).unlink()
        done = bench("audit", str(folder), "tier=standard", "shadows=8")
        TestRefused().check(done, "a half has only", "fewer than ipc=60")
        assert not (folder / "audit").exists()

    def test_shadows_are_runs_of_their_own_seeds(self, from_real):
        settings = read_settings(from_real[0] / "config.yaml")
        own = [shadows.shadow_settings(settings, from_real[0], Shadow(number=number, pairs=4)) for number in range(8)]
        assert len({each.seed for each in own}) == len({each.experts.seed for each in own}) == 8
        assert own[3].dataset["shadow"] == {"number": 3, "pairs": 4, "seed": 0}, "as signals were stored under"

    def test_what_cannot_be_is_refused(self, from_real, bench):
        for more, said in ((("tier=whole",), "tier: must be one of quick, standard, full"),
                           (("processes=0",), "processes: must be at least 1"), (("shadows=7",), "even number"),
                           (("shadows=6",), "an even number from 8"), (("shadows=x",), "whole number"),
                           (("seed=",), "whole number")):  # fmt: skip
            TestRefused().check(bench("audit", str(from_real[0]), *more), said)

    def test_one_that_is_stopped_goes_on_to_the_same(self, from_real, standard, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(from_real[0], folder)
        command = ("audit", str(folder), "tier=standard", "shadows=8")
        process = start(*command, cwd=tmp_path)
        end = time.monotonic() + HANG
        try:
            while not next(folder.rglob("shadow-01/signals.safetensors"), None):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=HANG)
        finally:
            process.kill()
        assert process.returncode == 75, err
        assert "stopped by SIGTERM; the same command goes on" in err
        done = invoke(*command, cwd=tmp_path)
        assert done.code == 1, done.err
        mine, theirs = read_audit(folder).membership, read_audit(standard[0]).membership
        assert (mine.loss.auc, mine.nearest.auc) == (theirs.loss.auc, theirs.nearest.auc)

    def test_a_report_shows_it_and_leaves_out_what_is_of_another_set(self, standard, made, bench, tmp_path):
        runs = [tmp_path / "standard", tmp_path / "subset"]
        for folder, copy in zip((standard[0], made("subset", "method=random", "ipc=5")[0]), runs, strict=True):
            shutil.copytree(folder, copy, ignore=lambda *_: ["audit"])
        done = bench("report", *map(str, runs), "-o", str(tmp_path / "page.html"))
        assert done.code == 0, done.err
        page = (tmp_path / "page.html").read_text()
        assert "What the sets give away" in page
        assert page.count("must be found</td><td>as it must") == 4 + 2
        assert page.count("Members told of ") >= 1
        assert "An attacker with similar data told training images from others with AUC" in page
        text = (runs[0] / FILE_NAME).read_text()
        (runs[0] / FILE_NAME).write_text(text[:-40])
        other = json.loads((runs[1] / FILE_NAME).read_text())
        del other["sha256"]
        write_record(AuditCard.model_validate({**other, "synthetic_sha256": "0" * 64}), runs[1] / FILE_NAME)
        done = bench("report", *map(str, runs), "-o", str(tmp_path / "page.html"))
        assert done.code == 0, done.err
        page = (tmp_path / "page.html").read_text()
        assert "audit.json cannot be read" in page
        assert "audit.json is left out: it is of another set; audit the run again" in page
        assert "No run here was audited" in page

    def test_compare_draws_privacy_against_accuracy(self, standard, made, bench, tmp_path):
        subset, finished = made("subset", "method=random", "ipc=5")[0], str(tmp_path / "picture.svg")
        done = bench("compare", str(standard[0]), str(subset), "--audit", finished)
        assert done.code == 0, done.err
        told = done.out.partition("what sets give away")[2]
        assert "DM " in told
        assert "Random subset " in told
        assert told.count("leak found") == 2
        picture = (tmp_path / "picture.svg").read_text()
        assert picture.startswith("<svg xmlns=")
        assert "DM, IPC 2" in picture
        assert "Random subset" not in picture, "which has no AUC"

    def test_compare_refuses_what_it_cannot_draw(self, standard, made, finished_run, bench, tmp_path):
        subset, picture = made("subset", "method=random", "ipc=5")[0], tmp_path / "picture.svg"
        (tmp_path / "folder.svg").mkdir()
        for folder, file, said in (
            (finished_run, picture, "none of these runs was audited"),
            (subset, picture, "no run was audited at the standard tier"),
            (standard[0], tmp_path / "picture.png", "name a file that ends in .svg"),
            (standard[0], tmp_path / "folder.svg", "name another file"),
        ):
            done = bench("compare", str(folder), "--audit", str(file))
            assert done.code == 2, said
            assert said in done.err
            assert "Traceback" not in done.err
        assert not picture.exists()

    def test_an_export_s_card_says_what_was_measured(self, standard, finished_run, bench, tmp_path):
        for folder, out in ((standard[0], "audited"), (finished_run, "other")):
            done = bench("export", str(folder), "--format", "medmnist", "-o", str(tmp_path / out))
            assert done.code == 0, done.err
        audited, other = ((tmp_path / out / "README.md").read_text() for out in ("audited", "other"))
        assert "by an audit (standard tier)" in audited
        assert "An attacker with similar data told training images from others with AUC" in audited
        assert "Not measured: whether a training image can be recognised" not in audited
        assert "Not measured: whether a training image can be recognised" in other
        assert "audit (" not in other
