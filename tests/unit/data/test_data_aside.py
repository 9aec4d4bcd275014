"""Images that are put aside for an audit: seen by no step, whole patients, and the halves of shadows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.aside import mislabelled, units_of
from hoptm_plugin.data.hashes import image_hashes
from hoptm_plugin.data.loading import load, opened
from hoptm_plugin.data.pictures import Pictures
from hoptm_plugin.data.prepare import prepare
from hoptm_plugin.data.preprocess import BesideReader, Preprocess, Shadow

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")


def raw(count=120, groups=None, images=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if images is None:
        images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(len(images)) % 3
    files = [f"{number}.png" for number in range(len(images))]
    tested = torch.randint(0, 256, (12, 1, 8, 8), generator=generator, dtype=torch.uint8)
    provenance = {"split": {"train": files, "test": [f"t{number}.png" for number in range(12)]}}
    return RawImages("toy", CLASSES, (images, labels), (tested, torch.arange(12) % 3), groups=groups,
                     provenance=provenance)  # fmt: skip


def read(source, fraction=0.3, shadow=None, **preprocess):
    beside = BesideReader(holdout_fraction=fraction, shadow=shadow, preprocess=Preprocess(**preprocess))
    return prepare(source, beside, Seeds(0), CPU)


def hashes_of(split):
    """Return the images of a split of uint8 as a set."""
    return {bytes(each.numpy()) for each in image_hashes(split.images)}


def test_what_is_put_aside_is_in_no_split_and_of_every_class():
    data, without = read(raw()), read(raw(), None)
    aside = data.aside
    assert without.aside is None
    parts = [data.train, data.validation, data.test, aside.holdout, aside.reserve]
    found = [hashes_of(part) for part in parts]
    assert sum(map(len, found)) == len(set().union(*found)) == 132
    assert set().union(*found) == set().union(*map(hashes_of, (without.train, without.validation, without.test)))
    assert hashes_of(data.validation) == hashes_of(without.validation)
    total = len(without.train)
    assert len(aside.holdout) + len(aside.reserve) == pytest.approx(0.3 * total, abs=3)
    assert len(aside.reserve) == pytest.approx(0.1 * total, abs=3)
    for part in (data.train, aside.holdout, aside.reserve):
        assert torch.bincount(part.labels, minlength=3).float().std() < 2
    assert data.fingerprint != without.fingerprint
    assert "put aside for an audit: " in data.told[-1]


def test_the_normalisation_is_measured_on_the_training_images_alone():
    data = read(raw())
    mean = (data.train.images.double() / 255).mean()
    assert data.normalisation.mean[0] == pytest.approx(float(mean), rel=1e-12)
    assert data.aside.holdout.normalisation == data.normalisation


def test_labels_files_and_hashes_go_with_their_images():
    data, source = read(raw()), raw()
    known = {bytes(each.numpy()): row for row, each in enumerate(image_hashes(source.train[0]))}
    for name, part in (("train", data.train), ("holdout", data.aside.holdout), ("reserve", data.aside.reserve)):
        rows = [known[bytes(each.numpy())] for each in image_hashes(part.images)]
        assert part.labels.tolist() == source.train[1][rows].tolist()
        assert data.provenance["split"][name] == [f"{row}.png" for row in rows]
    assert torch.equal(data.image_hashes["train"], image_hashes(data.train.images))
    assert data.split_sha256.keys() == {"train", "validation", "test"}


def test_whitened_and_resized_images_are_put_aside_as_others_are():
    data = read(raw(), zca=True, image_size=6)
    assert data.aside.holdout.images.shape[1:] == (1, 6, 6)
    assert data.train.images.mean().abs() < 1e-4
    assert data.aside.holdout.images.dtype == torch.float32


class TestUnits:
    def test_equal_images_and_patients_are_linked(self):
        images = torch.tensor([0, 1, 2, 1, 4, 5], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        assert units_of(image_hashes(images), None).unique().numel() == 5
        # patient 7 has the images 0 and 1, patient 8 a copy of 1 and the image 4
        units = units_of(image_hashes(images), torch.tensor([7, 7, 9, 8, 8, 6])).tolist()
        assert units[0] == units[1] == units[3] == units[4]
        assert len(set(units)) == 3

    def test_patients_are_not_divided(self):
        groups = torch.arange(120) // 4
        source = raw(groups=groups)
        data = read(source)
        known = {
            bytes(each.numpy()): int(group) for each, group in zip(image_hashes(source.train[0]), groups, strict=True)
        }
        parts = [data.train, data.aside.holdout, data.aside.reserve]
        seen = [{known[bytes(each.numpy())] for each in image_hashes(part.images)} for part in parts]
        assert sum(map(len, seen)) == len(set().union(*seen))

    def test_equal_images_lie_on_one_side(self):
        images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8).repeat(3, 1, 1, 1)
        data = read(raw(images=images))
        parts = [hashes_of(part) for part in (data.train, data.aside.holdout, data.aside.reserve)]
        assert sum(map(len, parts)) == len(set().union(*parts))


class TestShadows:
    def shadows(self, groups=None, pairs=4):
        source = raw(groups=groups)
        return [read(source, shadow=Shadow(number=number, pairs=pairs)) for number in range(2 * pairs)]

    def test_every_image_of_the_pool_is_in_exactly_half_and_the_reserve_in_none(self):
        data, shadows = read(raw()), self.shadows()
        pool = hashes_of(data.train) | hashes_of(data.aside.holdout)
        counts = np.zeros(len(pool))
        for number, shadow in enumerate(shadows):
            trained = hashes_of(shadow.train)
            assert hashes_of(shadow.aside.holdout) == pool - trained
            assert hashes_of(shadow.aside.reserve) == hashes_of(data.aside.reserve)
            assert hashes_of(shadow.test) == hashes_of(data.test)
            assert hashes_of(shadow.validation) == hashes_of(data.validation)
            counts += [image in trained for image in sorted(pool)]
            if number % 2:
                assert trained == hashes_of(shadows[number - 1].aside.holdout)
            assert f"shadow {number} of 8: {len(trained):,} of the others" in shadow.told[-1]
        assert (counts == 4).all()
        assert len({shadow.fingerprint for shadow in shadows}) == 8, "experts of each are its own"

    def test_rows_are_the_same_numbers_in_every_shadow(self):
        data, shadows = read(raw()), self.shadows(pairs=2)
        known = {}
        for each in (data, *shadows):
            for name, part in (("train", each.train), ("holdout", each.aside.holdout), ("reserve", each.aside.reserve)):
                for row, image in zip(each.aside.rows[name].tolist(), image_hashes(part.images), strict=True):
                    assert known.setdefault(row, bytes(image.numpy())) == bytes(image.numpy())

    def test_patients_are_not_divided(self):
        for shadow in self.shadows(torch.arange(120) // 4):
            assert not set(shadow.aside.units["train"].tolist()) & set(shadow.aside.units["holdout"].tolist())

    def test_canaries_have_another_class_in_all_shadows_and_nothing_else_changes(self):
        source = raw(count=240)
        data = read(source)
        theirs = {bytes(image.numpy()): label for part in (data.train, data.aside.holdout, data.aside.reserve)
                  for image, label in zip(image_hashes(part.images), part.labels.tolist(), strict=True)}  # fmt: skip
        seen = []
        for number in range(4):
            with_some = read(source, shadow=Shadow(number=number, pairs=2, canaries=7))
            without = read(source, shadow=Shadow(number=number, pairs=2))
            assert torch.equal(with_some.train.images, without.train.images)
            wrong = {}
            for part in (with_some.train, with_some.aside.holdout, with_some.aside.reserve):
                for image, label in zip(image_hashes(part.images), part.labels.tolist(), strict=True):
                    if label != theirs[bytes(image.numpy())]:
                        wrong[bytes(image.numpy())] = label
            seen.append(wrong)
            assert torch.equal(with_some.validation.labels, without.validation.labels)
            assert torch.equal(with_some.test.labels, without.test.labels)
        assert len(seen[0]) == 7
        assert all(each == seen[0] for each in seen)
        assert not set(seen[0]) & hashes_of(data.aside.reserve)

    def test_pictures_are_decoded_once_for_all_shadows(self, tmp_path, monkeypatch):
        draws = np.random.default_rng(0)
        for split, count in (("train", 20), ("test", 3)):
            for name in ("a", "b"):
                (tmp_path / split / name).mkdir(parents=True)
                for number in range(count):
                    pixels = draws.integers(0, 256, (9 + number % 2, 9), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
        spec = {"name": "folder", "root": str(tmp_path), "holdout_fraction": 0.3,
                "preprocess": {"image_size": 8, "resize_order": "while_reading"}}  # fmt: skip
        specs = [{**spec, "shadow": {"number": number, "pairs": 2}} for number in range(4)]
        apart = [load(each, Seeds(0), CPU).fingerprint for each in specs]
        decoded, decode = [], Pictures.decode
        monkeypatch.setattr(Pictures, "decode", lambda *args: decoded.append(1) or decode(*args))
        source = opened(spec, Seeds(0))
        assert [load(each, Seeds(0), CPU, source).fingerprint for each in specs] == apart
        assert len(decoded) == 1

    def test_canaries_are_a_tenth_at_most_and_one_of_a_patient(self):
        labels, units = torch.arange(100) % 5, torch.arange(100) // 4
        rows = (mislabelled(labels, units, 5, 100, 0) != labels).nonzero().flatten()
        assert len(rows) == 2, "of 25 patients"
        rows = (mislabelled(labels, torch.arange(100), 5, 100, 0) != labels).nonzero().flatten()
        assert len(rows) == 10
        changed = mislabelled(labels, torch.arange(100), 5, 3, 1)
        assert int((changed != labels).sum()) == 3
        assert changed.min() >= 0
        assert changed.max() < 5

    def test_one_without_a_holdout_is_refused(self):
        with pytest.raises(ValueError, match="shadow needs a holdout_fraction"):
            BesideReader(shadow=Shadow(number=0, pairs=1))


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match=r"dataset\.holdout_fraction=0\.3: \d+ training images in \d+ groups"):
        read(raw(count=6, groups=torch.arange(6) // 3))
