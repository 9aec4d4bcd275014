"""Distances and ranks: what copies, fresh images and noise must give, and the level of their tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.datasets import load_digits

from hoptm_plugin.privacy.distances import distances
from hoptm_plugin.privacy.identity import moved, ranks
from hoptm_plugin.privacy.nearest import nearest


@pytest.fixture(scope="module")
def digits():
    images = load_digits().data / 16
    return np.random.default_rng(0).permutation(images)


def test_nearest_is_exact_also_of_copies():
    draws = np.random.default_rng(0)
    rows, among = draws.normal(size=(7, 5)) + 100, draws.normal(size=(30, 5)) + 100
    rows[3] = among[11]
    distance, index = nearest(rows, among, 2)
    every = np.linalg.norm(rows[:, None] - among, axis=2)
    np.testing.assert_array_equal(index, every.argsort(axis=1)[:, :2])
    np.testing.assert_allclose(distance, np.sort(every, axis=1)[:, :2], rtol=1e-12)
    assert distance[3, 0] == 0


class TestDistances:
    def test_copies_are_found(self, digits):
        members, others = digits[:1200], digits[1200:1617]
        found = distances(members[:100], members, others, np.random.default_rng(0))
        assert (found.share, found.ratio, found.authenticity, found.p) == (1.0, 0.0, 0.0, 0.001)
        assert found.expected == pytest.approx(1200 / 1617)

    def test_copies_of_what_the_members_hold_twice_as_well(self, digits):
        members = np.concatenate([digits[:300], digits[:300]])
        found = distances(members[:50], members, digits[600:900], np.random.default_rng(0))
        assert (found.share, found.ratio, found.authenticity) == (1.0, 0.0, 0.0)

    def test_other_real_images_are_cleared(self, digits):
        found = distances(digits[1617:], digits[:1200], digits[1200:1617], np.random.default_rng(0))
        assert found.p > 0.01
        assert found.share == pytest.approx(found.expected, abs=0.12)
        assert 0.8 < found.ratio < 1
        assert 0.4 < found.authenticity < 0.7

    def test_noise_is_cleared(self, digits):
        noise = np.random.default_rng(1).random((100, 64))
        found = distances(noise, digits[:1200], digits[1200:1617], np.random.default_rng(0))
        assert found.p > 0.01
        assert found.ratio > 0.95
        assert found.authenticity == 1

    def test_barely_changed_members_are_found(self, digits):
        blurred = digits[:50] + 0.05 * np.random.default_rng(2).normal(size=(50, 64))
        found = distances(blurred, digits[:1200], digits[1200:1617], np.random.default_rng(0))
        assert found.p == 0.001
        assert found.ratio < 0.5
        assert found.authenticity < 0.05

    def test_the_level_without_a_leak_where_few_real_images_are_nearest_to_many(self, digits):
        """An interval that takes images for independent would be left far too often."""
        centre = digits.mean(axis=0)
        small, repeats = 0, 150
        for seed in range(repeats):
            draws = np.random.default_rng(seed)
            real = digits[draws.permutation(len(digits))[:400]]
            images = centre + 0.02 * draws.normal(size=(60, 64))  # all of them have the same few neighbours
            small += distances(images, real[:250], real[250:], draws).p <= 0.05
        assert small / repeats < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)

    def test_patients_are_split_as_a_whole(self, digits):
        """Images of a patient are alike: split one by one, they would pass for a leak."""
        draws, small = np.random.default_rng(0), {"images": 0, "patients": 0}
        for _ in range(40):
            patients = digits[draws.permutation(len(digits))[:40]]
            real = np.repeat(patients, 10, axis=0) + 0.01 * draws.normal(size=(400, 64))
            images = digits[draws.permutation(len(digits))[:3]].repeat(30, axis=0) + 0.01 * draws.normal(size=(90, 64))
            units = np.repeat(np.arange(40), 10)
            for name, each in (("images", None), ("patients", units)):
                small[name] += distances(images, real[:250], real[250:], draws, each).p <= 0.05
        assert small["patients"] <= 7
        assert small["patients"] < small["images"]

    def test_large_patients_that_are_seldom_put_aside_do_not_pass_for_a_leak(self, digits):
        """The one large patient is a member, as it nearly always is, and nearest to all images."""
        draws, small = np.random.default_rng(0), 0
        for _ in range(40):
            centre = digits[draws.integers(len(digits))]
            large = centre + 0.01 * draws.normal(size=(30, 64))
            others = digits[draws.permutation(len(digits))[:60]] + 5
            images = centre + 0.01 * draws.normal(size=(20, 64))
            units = np.concatenate([np.zeros(30, dtype=int), np.arange(1, 61)])
            small += distances(images, np.concatenate([large, others[:30]]), others[30:], draws, units).p <= 0.05
        assert small == 0, "no other split of units of its size is possible"

    def test_too_few_are_refused(self, digits):
        for members, others in ((digits[:1], digits[1:5]), (digits[:5], digits[:0])):
            with pytest.raises(ValueError, match="at least two members"):
                distances(digits[:2], members, others, np.random.default_rng(0))


class TestRanks:
    def test_copies_have_rank_one(self, digits):
        found = ranks(digits[:10, None], list(range(10)), [digits[:129]] * 10)
        assert (found.first, found.ranks.tolist()) == (10, [1.0] * 10)
        assert found.mean == pytest.approx(0.5 / 129)
        assert found.p < 1e-20

    def test_equally_near_ones_share_their_ranks(self):
        real = np.array([[1.0, 0], [0, 1], [2, 2], [-1, 0]])
        found = ranks(np.zeros((1, 1, 2)), [1], [real])
        assert found.ranks.tolist() == [2.0]
        assert found.first == 0

    @pytest.mark.parametrize(("hits", "images", "p"), [(2, 10, 0.0026), (4, 100, 0.008)])
    def test_the_probability_of_so_many_by_chance(self, hits, images, p):
        real = np.arange(129.0)[:, None]
        origins = [0] * hits + [128] * (images - hits)
        found = ranks(np.zeros((images, 1, 1)), origins, [real] * images)
        assert (found.first, found.among.tolist()) == (hits, [129] * images)
        assert found.p == pytest.approx(binom.sf(hits - 1, images, 1 / 129), rel=1e-9)
        assert found.p == pytest.approx(p, abs=5e-4)

    def test_images_that_have_nothing_to_do_with_their_origins_are_at_chance(self, digits):
        draws = np.random.default_rng(0)
        found = ranks(draws.random((300, 1, 64)), draws.integers(0, 100, 300).tolist(), [digits[:100]] * 300)
        assert found.p > 0.01
        assert found.mean == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 300))

    def test_distances_are_those_of_the_nearest_version(self, digits):
        draws = np.random.default_rng(1)
        versions, real = draws.random((6, 3, 64)), [digits[:40]] * 3 + [digits[40:90]] * 3
        found = ranks(versions, [0, 5, 9, 3, 7, 49], real)
        for row, origin in enumerate([0, 5, 9, 3, 7, 49]):
            distance = [min(np.linalg.norm(each - version) for version in versions[row]) for each in real[row]]
            assert found.ranks[row] == 1 + sum(each < distance[origin] for each in distance)
        assert found.among.tolist() == [40] * 3 + [50] * 3

    def test_an_image_moved_by_a_pixel_still_points_to_its_origin(self, digits):
        origins, side = list(range(10)), np.s_[:, :, :-1, 1:]
        images = digits[:10].reshape(-1, 1, 8, 8)
        away = np.zeros_like(images)
        away[:, :, 1:, :-1] = images[side]
        assert ranks(away.reshape(10, 1, 64), origins, [digits[:129]] * 10).first < 5, "by distance alone it does not"
        assert ranks(moved(away), origins, [digits[:129]] * 10).first == 10

    def test_versions_are_all_shifts_up_to_so_many_pixels_and_edges_are_repeated(self):
        image = np.arange(6.0).reshape(1, 1, 2, 3)
        found = moved(image)
        assert found.shape == (1, 9, 6)
        assert found[0, 4].tolist() == [0, 1, 2, 3, 4, 5]
        assert found[0, 0].tolist() == [0, 0, 1, 0, 0, 1], "down and to the right"
        assert found[0, 5].tolist() == [1, 2, 2, 4, 5, 5], "to the left"
        assert moved(image, 2).shape == (1, 25, 6)
