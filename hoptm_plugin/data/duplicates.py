"""Leaks: test and validation images that are training images as well, or nearly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.text import printable
from hoptm_plugin.data.preprocess import OnDuplicates

Labelled = tuple[Tensor, Tensor]
Place = tuple[str, int]  # split and row

MOST_QUERIES, MOST_REFERENCES = 2_000, 60_000
SIDE = 16  # of what is compared first
SIMILAR = 0.95  # cosine of those, above which a pair is looked at closely
CLOSEST = 4  # references that are looked at closely, for each image
LARGE = 128  # pixels per side, above which images are reduced before they are looked at closely
SHIFT = 2  # pixels by which one may be moved against the other
ALIKE = 0.8  # correlation of fine detail, above which two images show the same
BLOCK_VALUES = 2**22  # pixel values that are looked at together
SHOWN = 10


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        within: images that equal an earlier one of their own split.
        across: validation and test images that equal an image of train, or of the other of the two.
        conflicting: images that equal one with another label.
        near: validation and test images that nearly equal a training image, and equal none.
        looked_at: validation and test images that were compared for near ones, of ``of``; with how many of train.
        of: validation and test images that equal no training image.
        references: training images they were compared with.
        pairs: what ``across`` and ``near`` count, with what each equals: (place, place, equal).
        copies: rows of train that equal or nearly equal a validation or test image, ascending.
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


def without_leaks(
    splits: dict[str, Labelled], places: Mapping[str, tuple[str, Tensor]], raw: RawImages,
    provenance: Mapping[str, Any], then: OnDuplicates,
) -> tuple[dict[str, Labelled], tuple[str, ...], dict[str, Any]]:  # fmt: skip
    """Look for leaks; return the splits, what to say, and the provenance with what was found.

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
    dropped = len(found.copies) if then == "drop" else 0
    provenance = {**provenance, "duplicates": {**counts, "dropped": dropped, "pairs": listed(row)}}
    said = []
    if found.across or found.near:
        more = f" and {len(found.pairs) - SHOWN} more" if len(found.pairs) > SHOWN else ""
        looked = "" if found.looked_at == found.of else f", of {found.looked_at:,} of {found.of:,} looked at"
        said.append(f"{found.across:,} validation and test images equal one of another split and {found.near:,} nearly "
                    f"equal a training image{looked} ({', '.join(listed(file))}{more})")  # fmt: skip
    if found.within:
        said.append(f"{found.within:,} images equal another one of their split")
    if found.conflicting:
        said.append(f"{found.conflicting:,} images equal one with another label")
    if then == "refuse" and (found.across or found.near):
        raise DataError(f"data set {raw.name}: {'; '.join(said)}; take them out, or go on with dataset.duplicates=warn "
                        f"or drop, which leaves the training images among them out")  # fmt: skip
    if dropped:
        kept = torch.ones(len(splits["train"][1]), dtype=torch.bool)
        kept[found.copies] = False
        splits = {**splits, "train": (splits["train"][0][kept], splits["train"][1][kept])}
        said.append(f"{dropped:,} training images that are among them were dropped")
        if "split" in provenance:
            files = [name for name, keep in zip(provenance["split"]["train"], kept.tolist(), strict=True) if keep]
            provenance["split"] = {**provenance["split"], "train": files}
    return splits, (printable(f"duplicates: {'; '.join(said)}"),) if said else (), provenance


def find(splits: Mapping[str, Labelled], bounded: bool = True) -> Duplicates:
    """Look for equal images within and across splits, and for nearly equal ones across.

    Equal are images whose pixels have the same SHA-256. Near ones are looked for among training images: grey, blurred
    to 16x16, of zero mean and unit length, those with a cosine above 0.95 are candidates; they show the same where, at
    up to 128 pixels per side and moved by up to two pixels, what a 3x3 blur takes away correlates by more than 0.8.
    Re-encoding and moving keep that detail, while two pictures of one kind, such as chests, share the coarse shapes.
    Rotated and mirrored copies are not found.

    Args:
        splits: "train", "validation" and "test": uint8 (n, C, H, W) and labels (n,).
        bounded: of near ones look at 2,000 validation and test images, evenly spaced, against 60,000 of train.
    """
    seen: dict[bytes, list[tuple[Place, int]]] = {}
    for split, (images, labels) in splits.items():
        for row, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
            seen.setdefault(hashlib.sha256(image.tobytes()).digest(), []).append(((split, row), label))
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
    queries = [rest[i] for i in _spread(len(rest), MOST_QUERIES if bounded else len(rest)).tolist()]
    train = splits["train"][0]
    references = _spread(len(train), MOST_REFERENCES if bounded else len(train))
    found = _near(splits, queries, train, references)
    copies.update(row for _, row in found)
    near = dict(reversed(found))  # the closest of each
    pairs += [(query, ("train", near[query]), False) for query in queries if query in near]
    return Duplicates(within, across, conflicting, len(near), len(queries), len(rest), len(references), tuple(pairs),
                      torch.tensor(sorted(copies), dtype=torch.int64))  # fmt: skip


def _spread(count: int, most: int) -> Tensor:
    """Return at most ``most`` of 0..count-1, evenly spaced."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most


def _near(
    splits: Mapping[str, Labelled], queries: list[Place], train: Tensor, references: Tensor
) -> list[tuple[Place, int]]:
    """Return pairs of a query and a row of train that nearly equal each other, the closest of a query first."""
    if not queries or not len(references):
        return []
    block = max(1, BLOCK_VALUES // train[0].numel())
    known = torch.cat([_coarse(train[part]) for part in references.split(block)])
    closest = min(CLOSEST, len(references))
    found: list[tuple[Place, int]] = []
    for start in range(0, len(queries), block):
        asked = queries[start : start + block]
        images = torch.stack([splits[split][0][row] for split, row in asked])
        cosine, index = (_coarse(images) @ known.T).topk(closest, dim=1)
        one, place = (cosine > SIMILAR).nonzero(as_tuple=True)  # of a query the closest first
        rows = references[index[one, place]]
        for part in torch.arange(len(one)).split(block):
            alike = _alignment(images[one[part]], train[rows[part]]) > ALIKE
            found += [(asked[i], j) for i, j in zip(one[part][alike].tolist(), rows[part][alike].tolist(), strict=True)]
    return found


def _grey(images: Tensor) -> Tensor:
    return images.float().mean(dim=1, keepdim=True)


def _unit(features: Tensor) -> Tensor:
    """Return (n, D) of zero mean and unit length; images without contrast become zeros, which resemble nothing."""
    centred = features.flatten(1) - features.flatten(1).mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-3)


def _coarse(images: Tensor) -> Tensor:
    """Return (n, 256) features of uint8 images."""
    blurred = F.interpolate(_grey(images), size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return _unit(F.avg_pool2d(blurred, 3, stride=1, padding=1, count_include_pad=False))


def _fine(images: Tensor) -> Tensor:
    """Return what a 3x3 blur takes away from uint8 images, large ones reduced: (n, 1, H, W)."""
    grey, longest = _grey(images), max(images.shape[2:])
    if longest > LARGE:
        size = [max(1, side * LARGE // longest) for side in images.shape[2:]]
        grey = F.interpolate(grey, size=size, mode="bilinear", antialias=True, align_corners=False)
    return grey - F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)


def _alignment(one: Tensor, other: Tensor) -> Tensor:
    """Return (n,) the highest correlation of fine detail over all shifts, of uint8 images (n, C, H, W)."""
    fine = _fine(one), _fine(other)
    height, width = fine[0].shape[2:]
    most = min(SHIFT, (min(height, width) - 1) // 4)
    best = torch.full((len(one),), -1.0)
    for down in range(-most, most + 1):
        for right in range(-most, most + 1):
            first, second = (
                detail[..., max(sign * down, 0) : height + min(sign * down, 0),
                       max(sign * right, 0) : width + min(sign * right, 0)]
                for detail, sign in zip(fine, (1, -1), strict=True)
            )  # fmt: skip
            best = torch.maximum(best, (_unit(first) * _unit(second)).sum(dim=1))
    return best
