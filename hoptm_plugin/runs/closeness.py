"""How close a set's images lie to those it was made from, and whether they point to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from kornia.metrics import ssim
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hoptm_plugin.cards.audit import LEVEL, Closeness, Control, Identity, Must, Spaces
from hoptm_plugin.core.dataset import Aside, Split
from hoptm_plugin.core.errors import ConfigurationError, HopTMError
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.networks.layers import features
from hoptm_plugin.privacy.distances import distances
from hoptm_plugin.privacy.identity import moved, ranks
from hoptm_plugin.privacy.nearest import nearest
from hoptm_plugin.runs.assembly import Workbench
from hoptm_plugin.runs.shadows import BLOCK, ITSELF, barely_changed, eight_bits, pixels_of

Floats = NDArray[np.float32]

CLEAR: Final = 0.005  # below which a control that gives nothing away would pass for a leak once in two hundred audits


@dataclass(frozen=True)
class Images:
    """Images of one kind in both spaces: 8-bit pixels of [0, 1], (n, C, H, W), and flat features."""

    pixels: Tensor
    labels: Tensor
    features: Floats | None

    @cached_property
    def flat(self) -> Floats:
        """Return the pixels, (n, D)."""
        return np.asarray(self.pixels.flatten(1).numpy())


class Compared:
    """A set's images beside those it was made from, and beside images that no step has seen.

    Args:
        bench: of the run, which put images aside.
        synthetic: its set, as it is exported.
        seeds: of the audit's draws.
    """

    def __init__(self, bench: Workbench, synthetic: SyntheticSet, seeds: Seeds) -> None:
        assert bench.data.aside is not None
        self.bench, self.data, self.seeds = bench, bench.data, seeds
        self.aside: Aside = bench.data.aside
        self.network = self._network()
        self.members, self.others, self.reserve = map(self._real, (self.data.train, self.aside.holdout,
                                                                   self.aside.reserve))  # fmt: skip
        self.synthetic, self.stored = (
            self._images(self.data.pixels(each.images), each.labels.argmax(dim=1) if each.soft else each.labels)
            for each in (synthetic.expanded().detached(), synthetic.detached())
        )
        self.ipc = bench.settings.ipc

    def _network(self) -> nn.Module | None:
        """Return a network that has seen no image, and says what its features are."""
        network = self.bench.task.network(self.seeds.generator("network")).eval()
        try:
            with torch.no_grad():
                features(network, self.data.train.batch(slice(1)))
        except HopTMError:
            return None
        return network

    def _real(self, split: Split) -> Images:
        return self._images(pixels_of(self.bench, split), split.labels)

    def _images(self, pixels: Tensor, labels: Tensor) -> Images:
        """Return images as 8-bit pixels, and what the network sees of these."""
        levels = eight_bits(pixels)
        found = None
        if self.network is not None and self.data.zca_inverse is None:  # whitening cannot be done again from pixels
            with torch.no_grad():
                found = torch.cat([
                    features(self.network, self.data.normalisation.apply(block.to(self.data.device))).cpu()
                    for block in levels.split(BLOCK)
                ]).numpy()  # fmt: skip
        return Images(levels, labels.cpu(), found)

    def spaces(self, images: Images) -> Spaces:
        """Return how close images lie to those the set was made from."""
        units = np.concatenate([self.aside.units[part].numpy() for part in ("train", "holdout")])

        def closeness(name: str, *sides: Floats) -> Closeness:
            one, members, others = sides
            return Closeness(**asdict(distances(one, members, others, self._draws("resplits", name), units)))

        sides = images, self.members, self.others
        seen = [each.features for each in sides if each.features is not None]
        in_features = closeness("features", *seen) if len(seen) == len(sides) else None
        return Spaces(pixels=closeness("pixels", *(each.flat for each in sides)), features=in_features)

    def _draws(self, *name: str) -> np.random.Generator:
        return np.random.default_rng(self.seeds.child(*name).number("draws"))

    def identity(self) -> tuple[Identity | None, str | None]:
        """Return whether the set's images point to those they began from, or why that is no question.

        Raises:
            ConfigurationError: the run cannot be begun anew.
        """
        method, settings = self.bench.parts.method, self.bench.settings
        if method.images_are == "made":
            return None, "they began from none"
        epochs = method.last_expert_epoch()
        if epochs and self.bench.store().missing(settings.experts.count, epochs):
            raise ConfigurationError(f"{settings.experts.root}: the experts that are needed to begin the run anew are "
                                     f"not all there; hoptm-bench experts with the run's settings makes them, "
                                     f"experts.root=PATH says where they are")  # fmt: skip
        start = method.setup(self.bench.task)
        # in mosaics either shrunk ones, tile by tile, or whole ones
        pairs = [(start.expanded().images, self.synthetic, self._as_tiles(start.mosaic))]
        pairs += [(start.images, self.stored, self.members)] if start.mosaic > 1 else []
        for images, mine, real in pairs:
            initial = eight_bits(self.data.pixels(images)).flatten(1).numpy()
            if len(initial) != len(mine.pixels):
                continue
            distance, index = nearest(initial, real.flat)
            rows = np.flatnonzero(distance[:, 0] <= ITSELF * np.sqrt(initial.shape[1]))
            if len(rows):
                return self._identified(mine, rows, index[rows, 0], real), None
        if method.images_are == "from_real":
            return None, "they began as changed training images, such as parts of them, which it does not look for"
        return None, "none of them began as a training image as it is"

    def _as_tiles(self, mosaic: int) -> Images:
        """Return the training images as tiles of a mosaic show them."""
        if mosaic == 1:
            return self.members
        split = self.data.train
        shown = []
        for rows in torch.arange(len(split), device=split.labels.device).split(BLOCK):
            small = interpolate(split.batch(rows), scale_factor=1 / mosaic, mode="bilinear")
            shown.append(self.data.pixels(interpolate(small, scale_factor=mosaic, mode="bilinear")).cpu())
        return Images(eight_bits(torch.cat(shown)), split.labels.cpu(), None)

    def _identified(
        self, images: Images, rows: NDArray[np.int64], origins: NDArray[np.int64], real: Images
    ) -> Identity:
        """Return whether images point to the training images at ``origins``, among those of their class.

        Of equal training images one stands for all: who is the nearest is then no question.
        """
        classes, places, candidates = real.labels.numpy(), list[int](), list[Floats]()
        of_class: dict[int, tuple[Floats, NDArray[np.int64]]] = {}
        for origin in origins:
            label = int(classes[origin])
            if label not in of_class:
                of_class[label] = np.unique(real.flat[classes == label], axis=0, return_inverse=True)
            distinct, inverse = of_class[label]
            places.append(int(inverse.reshape(-1)[np.count_nonzero(classes[:origin] == label)]))
            candidates.append(distinct)
        found = ranks(moved(images.pixels.numpy()[rows]), places, candidates)
        own, others = [], []
        for row, place, those in zip(rows, places, candidates, strict=True):
            each = _correlations(images.flat[row], those)
            own.append(each[place])
            if len(those) > 1:
                others.append(float(np.median(np.delete(each, place))))
        pair = images.pixels[torch.from_numpy(rows)], real.pixels[torch.from_numpy(origins)]
        window = min(11, *(side - (side + 1) % 2 for side in pair[0].shape[2:]))
        alike = ssim(*pair, window, max_val=1.0, padding="valid").mean(dim=(1, 2, 3))
        return Identity(
            images=len(rows), first=found.first, expected_first=float((1 / found.among).sum()), mean_rank=found.mean,
            p=found.p, correlation=float(np.median(own)), correlation_of_others=float(np.median(others or [0.0])),
            ssim=float(alike.median()), untested=len(images.pixels) - len(rows),
        )  # fmt: skip

    def copies(self) -> list[Control]:
        """Return whether copies of training images, and barely changed ones, are found."""
        draws = self._draws("copies")
        labels = self.members.labels.numpy()
        origins = np.concatenate([draws.permutation(np.flatnonzero(labels == label))[: self.ipc]
                                  for label in np.unique(labels)])  # fmt: skip
        pixels = self.members.pixels[torch.from_numpy(origins)]
        barely, found = barely_changed(pixels, draws), list[Control]()
        for name, changed in (("copies of training images", pixels), ("barely changed training images", barely)):
            images = self._images(changed, torch.from_numpy(labels[origins]))
            seen = self._identified(images, np.arange(len(origins)), origins, self.members)
            measured = f"{seen.first} of {seen.images} point to theirs, p = {seen.p:.2g}"
            found.append(control(name, "be found", seen.p <= LEVEL, measured))
        return found

    def noise(self) -> list[Control]:
        """Return whether noise is cleared."""
        noise = self._draws("noise").random(self.synthetic.pixels.shape).astype(np.float32)
        return [self._cleared("noise", self._images(torch.from_numpy(noise), self.synthetic.labels))]

    def fresh(self) -> list[Control]:
        """Return whether real images that no step has seen are cleared."""
        return [self._cleared("real images that were put aside", self.reserve)]

    def _cleared(self, name: str, images: Images) -> Control:
        found = self.spaces(images)
        p = min(each.p for each in (found.pixels, found.features) if each is not None)
        return control(name, "be cleared", p > CLEAR, f"p = {p:.2g} of being as close by chance")


def control(name: str, must: Must, passed: bool, measured: str) -> Control:
    """Return the record of a control."""
    return Control(name=name, must=must, passed=bool(passed), measured=measured)


def _correlations(image: Floats, others: Floats) -> NDArray[np.float64]:
    """Return Pearson's r of an image (D,) with each of others (n, D); 0 where one of them is flat."""
    one, many = image - image.mean(dtype=np.float64), others - others.mean(axis=1, dtype=np.float64, keepdims=True)
    scale = np.linalg.norm(one) * np.linalg.norm(many, axis=1)
    return np.divide(many @ one, scale, out=np.zeros(len(many)), where=scale > 0)
