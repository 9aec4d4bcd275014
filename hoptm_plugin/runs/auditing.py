"""What does a distilled set give away of the images it was made from?"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from kornia.metrics import ssim
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hoptm_plugin.cards.audit import FILE_NAME, LEVEL, AuditCard, Closeness, Control, Identity, Must, Spaces
from hoptm_plugin.cards.card import Card
from hoptm_plugin.cards.record import LONGEST_LINE, SCHEMA, write_record
from hoptm_plugin.cards.software import Software, software_versions
from hoptm_plugin.core.dataset import Aside, Split
from hoptm_plugin.core.errors import ConfigurationError, HopTMError, first_line
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.synthetic import SyntheticSet
from hoptm_plugin.data.in_memory import Arrays
from hoptm_plugin.engine.significance import holm
from hoptm_plugin.exchange.loading import load_distilled
from hoptm_plugin.networks.layers import features
from hoptm_plugin.privacy import distances, ranks
from hoptm_plugin.privacy.nearest import nearest
from hoptm_plugin.runs.assembly import Workbench, workbench
from hoptm_plugin.runs.opening import asked, on_this_machine, opened
from hoptm_plugin.runtime.bars import usual_progress
from hoptm_plugin.runtime.progress import ProgressFactory
from hoptm_plugin.storage.files import as_path, sha256
from hoptm_plugin.storage.run_files import SYNTHETIC

Floats = NDArray[np.float32]

BLOCK = 512  # images at a time
FRACTION: Final = 0.3  # that is put aside where an example is given
CLEAR = 0.005  # below which a control that gives nothing away would pass for a leak once in two hundred audits
BARELY = 0.98  # correlation of barely changed images with what they were
ITSELF = 1e-3  # root mean square in pixels of [0, 1]: half a level of 8 bits is 0.002


def audit(
    folder: str | Path, *overrides: str, seed: int = 0, dataset: Arrays | None = None,
    progress: ProgressFactory | None = None,
) -> AuditCard:  # fmt: skip
    """Measure how close a run's images are to those it was made from, and whether they point to them.

    Audited is what an export holds, 8-bit pixels. Beside it stand sets of which it is known what an audit must say of
    them; the verdict is "invalid" where it did not. The card is written into the run's folder, ``audit.json``, and
    holds nothing on single images.

    Args:
        folder: of a finished run that put images aside: ``dataset.holdout_fraction=0.3``.
        overrides: settings that change no result: where the data are, and how it is computed.
        seed: of the audit's own draws.
        dataset: the data of a run that was made with data in memory.
        progress: reports what takes long; None: bars on a terminal or in a notebook, else nothing.

    Raises:
        ConfigurationError: a run that put nothing aside, or a setting that would change its result; data that are not
            those of the run.
        RunFolderError: no finished run.
        FileFormatError: a damaged card, configuration or set.

    Source: docs/audit.md.
    """
    began, folder = time.monotonic(), as_path(folder, "folder")
    changes = asked(overrides, dataset)
    card, stored = opened(folder, changes, "audit")
    _check(folder, card)
    synthetic = load_distilled(folder)
    with workbench(on_this_machine(stored, changes), progress or usual_progress()) as bench:
        if bench.data.fingerprint != card.dataset.fingerprint:
            raise ConfigurationError(f"dataset: the data are not those of the card: fingerprint "
                                     f"{bench.data.fingerprint}, in the card {card.dataset.fingerprint}; name the "
                                     f"original data with dataset.root=PATH")  # fmt: skip
        found = _Audit(bench, synthetic.to(bench.device), Seeds(seed).child("audit")).card(card, seed, folder, began)
    write_record(found, folder / FILE_NAME)
    return found


def _check(folder: Path, card: Card) -> None:
    why = None
    if not (folder / SYNTHETIC).is_file():
        why = "holds no set of its own: name the folder of the run that made it"
    elif card.imported or card.distilled_from is not None:
        why = "its set was not made from the data it was judged on"
    elif card.ipc is None:
        why = "nothing was distilled in it"
    if why:
        raise ConfigurationError(f"{folder}: cannot be audited: {why}")


@dataclass(frozen=True)
class _Images:
    """Images of one kind in both spaces: 8-bit pixels of [0, 1], (n, C, H, W), and flat features."""

    pixels: Tensor
    labels: Tensor
    features: Floats | None

    @cached_property
    def flat(self) -> Floats:
        return np.asarray(self.pixels.flatten(1).numpy())


class _Audit:
    """One audit; see :func:`audit`."""

    def __init__(self, bench: Workbench, synthetic: SyntheticSet, seeds: Seeds) -> None:
        if bench.data.aside is None:
            raise ConfigurationError(
                f"the run put no images aside, so its set cannot be compared with images that no step has seen; make "
                f"it again with dataset.holdout_fraction={FRACTION:g}"
            )
        self.bench, self.data, self.seeds = bench, bench.data, seeds
        self.aside: Aside = bench.data.aside
        self.network = self._network()
        self.members, self.others, self.reserve = map(self._real, (self.data.train, self.aside.holdout,
                                                                   self.aside.reserve))  # fmt: skip
        whole = synthetic.expanded().detached()
        classes = whole.labels.argmax(dim=1) if whole.soft else whole.labels
        self.synthetic = self._images(self.data.pixels(whole.images), classes)
        self.ipc = bench.settings.ipc

    def card(self, card: Card, seed: int, folder: Path, began: float) -> AuditCard:
        """Return all that is measured."""
        with self.bench.progress("auditing", 6) as bar:
            synthetic = self._spaces(self.synthetic)
            bar.advance(1)
            real = self._spaces(self.reserve)
            bar.advance(1)
            identity, why = self._identity()
            bar.advance(1)
            controls = []
            for control in (self._copies, self._noise, self._fresh):
                controls += control()
                bar.advance(1)
        reasons = self._reasons(synthetic, identity)
        valid = all(each.passed for each in controls)
        units = list(self.aside.units.values())
        single = sum(len(each.unique()) for each in units) == sum(map(len, units))
        return AuditCard(
            schema=SCHEMA, config_sha256=card.config_sha256, synthetic_sha256=sha256(folder / SYNTHETIC),
            fingerprint=self.data.fingerprint, method=card.method, title=card.title, dataset=self.data.name,
            ipc=self.ipc, tier="quick", seed=seed, unit="image" if single else "group", members=len(self.data.train),
            holdout=len(self.aside.holdout), reserve=len(self.aside.reserve), synthetic=synthetic, real=real,
            identity=identity, no_identity=why, controls=tuple(controls),
            verdict="invalid" if not valid else "leak_found" if reasons else "none_found", reasons=tuple(reasons),
            seconds=time.monotonic() - began, software=Software.model_validate(software_versions()),
        )  # fmt: skip

    def _network(self) -> nn.Module | None:
        """Return a network that has seen no image, and says what its features are."""
        network = self.bench.task.network(self.seeds.generator("network"))
        try:
            features(network, self.data.train.batch(slice(1)))
        except HopTMError:
            return None
        return network.eval()

    def _real(self, split: Split) -> _Images:
        blocks = torch.arange(len(split), device=split.labels.device).split(BLOCK)
        pixels = torch.cat([self.data.pixels(split.batch(rows)).cpu() for rows in blocks])
        return self._images(pixels, split.labels)

    def _images(self, pixels: Tensor, labels: Tensor) -> _Images:
        """Return images as 8-bit pixels, and what the network sees of these."""
        levels = (255 * pixels.detach().cpu().clamp(0, 1)).round() / 255
        found = None
        if self.network is not None and self.data.zca_inverse is None:  # whitening cannot be done again from pixels
            with torch.no_grad():
                found = torch.cat([
                    features(self.network, self.data.normalisation.apply(block.to(self.data.device))).cpu()
                    for block in levels.split(BLOCK)
                ]).numpy()  # fmt: skip
        return _Images(levels, labels.cpu(), found)

    def _spaces(self, images: _Images) -> Spaces:
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

    def _identity(self) -> tuple[Identity | None, str | None]:
        """Return whether the set's images point to those they began from, or why that is not known."""
        method = self.bench.parts.method
        if method.images_are == "made":
            return None, "they began from none"
        epochs = method.last_expert_epoch()
        if epochs and self.bench.store().missing(self.bench.settings.experts.count, epochs):
            return None, "the experts that are needed to begin anew are no longer there; hoptm-bench experts makes them"
        try:
            start = method.setup(self.bench.task)
        except HopTMError as error:
            return None, f"the run cannot be begun anew ({first_line(error)})"[:LONGEST_LINE]
        initial = self._images(self.data.pixels(start.expanded().images), self.synthetic.labels)
        if len(initial.pixels) != len(self.synthetic.pixels):
            return None, "the run begins with another number of images than it ended with"
        real = self._as_tiles(start.mosaic)
        distance, index = nearest(initial.flat, real.flat)
        rows = np.flatnonzero(distance[:, 0] <= ITSELF * np.sqrt(initial.flat.shape[1]))
        if not len(rows):
            return None, "they began from no training image as it is"
        return self._identified(self.synthetic, rows, index[rows, 0], real), None

    def _as_tiles(self, mosaic: int) -> _Images:
        """Return the training images as tiles of a mosaic show them."""
        if mosaic == 1:
            return self.members
        split = self.data.train
        shown = []
        for rows in torch.arange(len(split), device=split.labels.device).split(BLOCK):
            small = interpolate(split.batch(rows), scale_factor=1 / mosaic, mode="bilinear")
            shown.append(self.data.pixels(interpolate(small, scale_factor=mosaic, mode="bilinear")).cpu())
        return _Images((255 * torch.cat(shown).clamp(0, 1)).round() / 255, split.labels.cpu(), None)

    def _identified(
        self, images: _Images, rows: NDArray[np.int64], origins: NDArray[np.int64], real: _Images
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
        found = ranks(images.flat[rows], places, candidates)
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
            ssim=float(alike.median()),
        )  # fmt: skip

    def _copies(self) -> list[Control]:
        """Return whether copies of training images, and barely changed ones, are found."""
        draws = self._draws("copies")
        labels = self.members.labels.numpy()
        origins = np.concatenate([draws.permutation(np.flatnonzero(labels == label))[: self.ipc]
                                  for label in np.unique(labels)])  # fmt: skip
        pixels = self.members.pixels[torch.from_numpy(origins)]
        spread = pixels.flatten(1).std(dim=1).view(-1, 1, 1, 1)
        noise = torch.from_numpy(draws.normal(size=pixels.shape).astype(np.float32))
        barely = pixels + noise * spread * float(np.sqrt(1 / BARELY**2 - 1))
        found = []
        for name, changed in (("copies of training images", pixels), ("barely changed training images", barely)):
            images = self._images(changed, torch.from_numpy(labels[origins]))
            seen = self._identified(images, np.arange(len(origins)), origins, self.members)
            measured = f"{seen.first} of {seen.images} point to theirs, p = {seen.p:.2g}"
            found.append(_control(name, "be found", seen.p <= LEVEL, measured))
        return found

    def _noise(self) -> list[Control]:
        """Return whether noise is cleared."""
        noise = self._draws("noise").random(self.synthetic.pixels.shape).astype(np.float32)
        return [self._cleared("noise", self._images(torch.from_numpy(noise), self.synthetic.labels))]

    def _fresh(self) -> list[Control]:
        """Return whether real images that no step has seen are cleared."""
        return [self._cleared("real images that were put aside", self.reserve)]

    def _cleared(self, name: str, images: _Images) -> Control:
        found = self._spaces(images)
        p = min(each.p for each in (found.pixels, found.features) if each is not None)
        return _control(name, "be cleared", p > CLEAR, f"p = {p:.2g} of being as close by chance")

    def _reasons(self, synthetic: Spaces, identity: Identity | None) -> list[str]:
        """Return what was found, in words; p-values corrected by Holm's method."""
        tests = [("its images are closer to training images than other real images are", synthetic.pixels.p),
                 ("its images' features are closer to those of training images than other real images' are",
                  None if synthetic.features is None else synthetic.features.p),
                 ("its images point to those they began from", None if identity is None else identity.p)]  # fmt: skip
        corrected = holm([p for _, p in tests])
        return [f"{what} (p = {p:.2g}, corrected)" for (what, _), p in zip(tests, corrected, strict=True)
                if p is not None and p <= LEVEL]  # fmt: skip


def _control(name: str, must: Must, passed: bool, measured: str) -> Control:
    return Control(name=name, must=must, passed=bool(passed), measured=measured)


def _correlations(image: Floats, others: Floats) -> NDArray[np.float64]:
    """Return Pearson's r of an image (D,) with each of others (n, D); 0 where one of them is flat."""
    one, many = image - image.mean(dtype=np.float64), others - others.mean(axis=1, dtype=np.float64, keepdims=True)
    scale = np.linalg.norm(one) * np.linalg.norm(many, axis=1)
    return np.divide(many @ one, scale, out=np.zeros(len(many)), where=scale > 0)
