"""Leaks: test and validation images that are training images as well, or nearly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.text import printable
from hoptm_plugin.data.files import some
from hoptm_plugin.data.hashes import image_hashes
from hoptm_plugin.data.preprocess import OnDuplicates

Labelled = tuple[Tensor, Tensor]
Place = tuple[str, int]  # split and row

MOST_QUERIES, MOST_REFERENCES = 2_000, 60_000
SIDE = 8  # of what is compared first
SMALLEST = 16  # pixels per side, below which images of one kind are too much alike to tell
MOVES = ((0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))  # of it: any shift by up to two pixels is near one of them
FINE_ENOUGH = 64  # pixels per side, from which on two of them hardly change it
CLOSEST = 2  # references that are looked at closely, for each image
LARGE = 128  # pixels per side, above which images are reduced before they are looked at closely
SHIFT = 2  # pixels by which one may be moved against the other
ALIKE, ALIKE_IN_DETAIL = 0.96, 0.6  # correlations above which two images show the same
BLOCK_VALUES = 2**22  # pixel values that are looked at together
SHOWN = 10


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        within: images that equal an earlier one of their own split.
        across: validation and test images that equal an image of train, or of the other of the two.
        conflicting: images that equal one with another label.
        near: validation and test images that nearly equal a training image, or test images a validation image, and
            equal none.
        looked_at: validation and test images that were compared for near ones, of ``of``; with how many of train.
        of: validation and test images that equal no training image.
        references: training images they were compared with.
        pairs: what ``across`` and ``near`` count, with what each equals: (place, place, equal).
        copies: rows of train that equal or nearly equal a validation or test image, ascending.
        hashes: of each split's images, as :func:`hoptm_plugin.data.hashes.image_hashes` gives them.
    """

    within: int
    across: int
    conflicting: int
    near: int
    looked_at: int
    of: int
    references: int
    pairs: tuple[tuple[Place, Place, bool], ...]
    copies: Tensor
    hashes: Mapping[str, Tensor]


def without_leaks(
    splits: dict[str, Labelled], places: Mapping[str, tuple[str, Tensor]], raw: RawImages,
    provenance: Mapping[str, Any], then: OnDuplicates,
) -> tuple[dict[str, Labelled], Tensor, tuple[str, ...], dict[str, Any], dict[str, Tensor]]:  # fmt: skip
    """Look for leaks; return the splits, what to say, the provenance with what was found, and the images' hashes.

    Beside the splits come the rows of train that are kept.

    Args:
        splits: uint8 images and labels by name.
        places: of each split the source's split and rows that its images are.
        raw: the source, for names of files.
        provenance: to which "duplicates" is added, for the card: counts, and up to ten pairs by rows alone.
        then: "warn"; "refuse"; or "drop": training images that are in another split are left out.

    Raises:
        DataError: validation or test images that are training images, where they are refused.
    """
    found = find({name: splits[name] for name in ("train", "validation", "test")}, bounded=then == "warn")
    pairs = [(first, other, "=" if equal else "~") for first, other, equal in found.pairs[:SHOWN]]

    def listed(name: Callable[[Place], str]) -> list[str]:
        return [f"{name(first)} {sign} {name(other)}" for first, other, sign in pairs]

    def row(place: Place) -> str:
        split, rows = places[place[0]]
        return f"{split}[{int(rows[place[1]])}]"

    def file(place: Place) -> str:
        split, rows = places[place[0]]
        return raw.files[int(getattr(raw, split)[0][rows[place[1]]])] if raw.pictures is not None else row(place)

    counts = {name: getattr(found, name) for name in ("within", "across", "conflicting", "near", "looked_at", "of")}
    dropped, hashes = len(found.copies) if then == "drop" else 0, dict(found.hashes)
    provenance = {**provenance, "duplicates": {**counts, "dropped": dropped, "pairs": listed(row)}}
    said, kept = [], torch.ones(len(splits["train"][1]), dtype=torch.bool)
    if found.across or found.near:
        more = f" and {len(found.pairs) - SHOWN} more" if len(found.pairs) > SHOWN else ""
        looked = "" if found.looked_at == found.of else f", of {found.looked_at:,} of {found.of:,} looked at"
        said.append(f"{found.across:,} validation and test images equal one of another split and {found.near:,} nearly "
                    f"equal one{looked} ({', '.join(listed(file))}{more})")  # fmt: skip
    if found.within:
        said.append(f"{found.within:,} images equal another one of their split")
    if found.conflicting:
        said.append(f"{found.conflicting:,} images equal one with another label")
    if then == "refuse" and (found.across or found.near):
        raise DataError(f"data set {raw.name}: {'; '.join(said)}; take them out, or go on with dataset.duplicates=warn "
                        f"or drop, which leaves the training images among them out")  # fmt: skip
    if dropped:
        kept[found.copies] = False
        labels = splits["train"][1]
        if lost := set(labels.tolist()) - set(labels[kept].tolist()):
            raise DataError(f"data set {raw.name}: dataset.duplicates=drop would leave no training images of "
                            f"{some([raw.class_names[label] for label in sorted(lost)])}, since all of them are in "
                            f"another split as well; supply other images")  # fmt: skip
        splits = {**splits, "train": (splits["train"][0][kept], labels[kept])}
        hashes["train"] = hashes["train"][kept]
        said.append(f"{dropped:,} training images that are among them were dropped")
        if "split" in provenance:
            files = [name for name, keep in zip(provenance["split"]["train"], kept.tolist(), strict=True) if keep]
            provenance["split"] = {**provenance["split"], "train": files}
    lines = (printable(f"duplicates: {'; '.join(said)}"),) if said else ()
    return splits, kept.nonzero().flatten(), lines, provenance, hashes


def find(splits: Mapping[str, Labelled], bounded: bool = True) -> Duplicates:
    """Look for equal images within and across splits, and for nearly equal ones across.

    Equal are images whose pixels have the same SHA-256. For near ones the two most similar training images are looked
    at closely, by luminance reduced to 8x8 (zero mean, unit length). Where they fit best, moved by up to two pixels,
    they show the same if they correlate by more than 0.96 and what a 3x3 blur takes away by more than 0.6, at up to 128
    pixels per side. Measured: of images moved by up to two pixels, or written as JPEG of quality 75, 99 % correlate by
    more than 0.962 (blood cells, 28x28), 0.995 (X-rays, 112x112), 0.99 (CIFAR-10); of 2,000 test images of blood cells
    none is like any training image by more than 0.947, of X-rays 0.3 % by more than 0.96. Rotated and
    mirrored copies are not found; images of fewer than 16 pixels per side are not looked at; simple drawings may
    resemble each other as much.

    Args:
        splits: "train", "validation" and "test": uint8 (n, C, H, W) and labels (n,).
        bounded: of near ones look at 2,000 validation and test images, evenly spaced, against 60,000 of train.
    """
    seen: dict[bytes, list[tuple[Place, int]]] = {}
    hashes = {split: image_hashes(images) for split, (images, _) in splits.items()}
    for split, (_, labels) in splits.items():
        for row, (image, label) in enumerate(zip(hashes[split].numpy(), labels.tolist(), strict=True)):
            seen.setdefault(image.tobytes(), []).append(((split, row), label))
    pairs: list[tuple[Place, Place, bool]] = []
    within = conflicting = 0
    copies: set[int] = set()
    leaked: set[Place] = set()
    for same in seen.values():
        if len(same) == 1:
            continue
        by_split: dict[str, list[int]] = {}
        for (split, row), _ in same:
            by_split.setdefault(split, []).append(row)
        within += sum(len(rows) - 1 for rows in by_split.values())
        conflicting += len(same) if len({label for _, label in same}) > 1 else 0
        first = same[0][0]
        pairs += [(place, first, True) for place, _ in same if place[0] not in ("train", first[0])]
        if len(by_split) > 1 and "train" in by_split:
            copies.update(by_split["train"])
            leaked.update(place for place, _ in same if place[0] != "train")
    across = len(pairs)
    rest = [(split, row) for split in splits if split != "train" for row in range(len(splits[split][1]))
            if (split, row) not in leaked]  # fmt: skip
    large = min(splits["train"][0].shape[2:]) >= SMALLEST
    most = (MOST_QUERIES if bounded else len(rest)) if large else 0
    queries = [rest[i] for i in _spread(len(rest), most).tolist()]
    train = splits["train"][0]
    references = _spread(len(train), MOST_REFERENCES if bounded else len(train))
    found = _near(splits, queries, train, references)
    copies.update(row for _, row in found)
    near: dict[Place, Place] = {query: ("train", row) for query, row in reversed(found)}  # the closest of each
    known = {place for place, _, _ in pairs} | near.keys()
    tested = [query for query in queries if query[0] == "test" and query not in known]
    validation = splits["validation"][0]
    other = _near(splits, tested, validation, _spread(len(validation), MOST_REFERENCES if bounded else len(validation)))
    near |= {query: ("validation", row) for query, row in reversed(other)}
    pairs += [(query, near[query], False) for query in queries if query in near]
    return Duplicates(within, across, conflicting, len(near), len(queries), len(rest), len(references), tuple(pairs),
                      torch.tensor(sorted(copies), dtype=torch.int64), hashes)  # fmt: skip


def _spread(count: int, most: int) -> Tensor:
    """Return at most ``most`` of 0..count-1, evenly spaced."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most


def _near(
    splits: Mapping[str, Labelled], queries: list[Place], train: Tensor, references: Tensor
) -> list[tuple[Place, int]]:
    """Return pairs of a query and a row of train that nearly equal each other, the closest of a query first."""
    if not queries or not len(references):
        return []
    moves = MOVES if min(train.shape[2:]) < FINE_ENOUGH else MOVES[:1]
    block = max(1, BLOCK_VALUES // train[0].numel())
    known = torch.cat([_coarse(train[part]) for part in references.split(block)])
    found: list[tuple[Place, int]] = []
    for start in range(0, len(queries), block):
        asked = queries[start : start + block]
        images = torch.stack([splits[split][0][row] for split, row in asked])
        cosine = torch.full((len(images), len(known)), -1.0)
        for moved in moves:
            cosine = torch.maximum(cosine, _coarse(torch.roll(images, moved, dims=(2, 3))) @ known.T)
        _, index = cosine.topk(min(CLOSEST, len(known)), dim=1)
        for rows in references[index].unbind(dim=1):
            whole, fine = likeness(images, train[rows])
            alike = (whole > ALIKE) & (fine > ALIKE_IN_DETAIL)
            found += [(asked[i], int(rows[i])) for i in alike.nonzero().flatten().tolist()]
    return found


def _coarse(images: Tensor) -> Tensor:
    """Return (n, 64) features of uint8 images: grey, reduced to 8x8, of zero mean and unit length."""
    reduced = F.interpolate(_grey(images), size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return _unit(reduced)


def likeness(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the correlation of images with others, and of what a 3x3 blur takes away from them, where they fit best.

    Args:
        one: uint8 (n, C, H, W); of more than 128 pixels per side they are reduced first.
        other: the same, each moved by at most two pixels to fit.
    """
    first, second = _grey(one), _grey(other)
    longest = max(first.shape[2:])
    if longest > LARGE:
        size = [max(1, side * LARGE // longest) for side in first.shape[2:]]
        first, second = (F.interpolate(each, size=size, mode="bilinear", antialias=True) for each in (first, second))
    height, width = first.shape[2:]
    fine = [each - F.avg_pool2d(each, 3, stride=1, padding=1, count_include_pad=False) for each in (first, second)]
    most = min(SHIFT, (min(height, width) - 1) // 4)
    moves = [(down, right) for down in range(-most, most + 1) for right in range(-most, most + 1)]
    # all shifts at once, as if images went on at their other side; then exactly for the best one
    spectra = [torch.fft.rfft2(each[:, 0]) for each in fine]
    product = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=(height, width))
    best = torch.stack([product[:, down, right] for down, right in moves], dim=1).argmax(dim=1)
    found = torch.zeros(2, len(one))
    for number, move in enumerate(moves):
        chosen = best == number
        if chosen.any():
            for kind, (left, right) in enumerate(((first, second), fine)):
                pair = (_moved(left[chosen], move), _moved(right[chosen], (-move[0], -move[1])))
                found[kind, chosen] = (_unit(pair[0]) * _unit(pair[1])).sum(dim=1)
    return found[0], found[1]


def _moved(images: Tensor, move: tuple[int, int]) -> Tensor:
    """Return what remains of images that are moved, without a border that the blur does not know whole."""
    down, right = move
    height, width = images.shape[2:]
    edge = min(1, (min(height, width) - 3) // 4)
    return images[..., max(down, 0) + edge : height + min(down, 0) - edge,
                  max(right, 0) + edge : width + min(right, 0) - edge]  # fmt: skip


def _grey(images: Tensor) -> Tensor:
    """Return the luminance by ITU-R 601, which JPEG keeps best."""
    weights = torch.tensor([0.299, 0.587, 0.114] if images.shape[1] == 3 else [1.0])
    return torch.einsum("nchw,c->nhw", images.float(), weights)[:, None]


def _unit(features: Tensor) -> Tensor:
    """Return (n, D) of zero mean and unit length; images without contrast become zeros, which resemble nothing."""
    centred = features.flatten(1) - features.flatten(1).mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-3)
