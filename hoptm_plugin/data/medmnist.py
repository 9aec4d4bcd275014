"""The 2-D data sets of MedMNIST, described by the ``medmnist`` package and read without it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from hoptm_plugin.core.errors import DataError
from hoptm_plugin.core.interfaces import RawImages
from hoptm_plugin.core.registry import register
from hoptm_plugin.core.roles import Machine
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.core.text import pasted
from hoptm_plugin.data.files import FileReader
from hoptm_plugin.data.npz import read_npz

USUAL, PUBLISHED = 28, 32  # pixels per side of the release, and what publications enlarge it to
RELEASED = {"pathmnist": ((0.741, 0.533, 0.706), (0.402, 0.821, 0.407))}


@register("medmnist")
class MedMnist(FileReader):
    """A 2-D MedMNIST set, read from a local npz file, or downloaded by the medmnist package when asked.

    Multi-label ChestMNIST is refused; ordinal RetinaMNIST is treated as multi-class. A file whose MD5 is not the
    official one is read, but the data set's name in tables says so.

    Source: Yang et al., MedMNIST v2, Scientific Data 2023. The normalisation constants of PathMNIST are those of
    HoP-TM's released code; its "std" is not a standard deviation (equal to the variance times 26.27).

    Args:
        flag: MedMNIST's name of the set, such as "pathmnist".
        root: the folder that holds ``FLAG.npz`` (size 28) or ``FLAG_SIZE.npz``; null is medmnist's own, ~/.medmnist.
        size: pixels per side of the release; also what is distilled, but for 28, which publications enlarge to 32.
        download: let medmnist fetch a missing file.
    """

    cites = ("yang2023medmnist",)

    def __init__(
        self,
        flag: str,
        root: Machine[Path | None] = None,
        size: Literal[28, 64, 128, 224] = 28,
        download: Machine[bool] = False,
    ) -> None:
        # takes a second and creates ~/.medmnist, so only where it is needed
        from medmnist.info import DEFAULT_ROOT, INFO

        flat = sorted(name for name, info in INFO.items() if not info["python_class"].endswith("3D"))
        if flag not in flat:
            raise ValueError(f"no 2-D MedMNIST set is called {flag!r} (known: {', '.join(flat)})")
        self.info: dict[str, Any] = INFO[flag]
        if "multi-label" in self.info["task"]:
            raise ValueError(f"{flag} is multi-label (several findings per image), which distillation with one class "
                             f"per image cannot use; choose another data set")  # fmt: skip
        self.flag, self.root, self.size, self.download = flag, root, size, download
        self.stem = flag if size == USUAL else f"{flag}_{size}"
        self.image_size = PUBLISHED if size == USUAL else size
        self.path = Path(root or DEFAULT_ROOT).expanduser() / f"{self.stem}.npz"

    def locate(self) -> Path | None:
        """Return the npz file's path, or None when it is missing and will be downloaded."""
        if self.path.is_file():
            return self.path
        if self.download:
            return None
        raise DataError(f"{self.path}: no such file; put {self.path.name} there (from {self._info('url')}), set "
                        f"dataset.root to the folder that holds it, or let medmnist fetch it with "
                        f"dataset.download=true")  # fmt: skip

    def read(self, seeds: Seeds) -> RawImages:
        """Return MedMNIST's own three splits; ``seeds`` decides nothing."""
        if self.locate() is None:
            self._fetch()
        path = self.path
        names = tuple(self.info["label"][str(label)] for label in range(len(self.info["label"])))
        splits, known, others = read_npz(path, names)
        expected = (self.info["n_channels"], self.size, self.size)
        if (shape := tuple(splits["train"][0].shape[1:])) != expected:
            raise DataError(f"{path}: images have shape (C, H, W) {shape}, but {self.stem} has {expected}; "
                            f"set dataset.size, or read the file with dataset=npz "
                            f"{pasted('dataset.root', path)}")  # fmt: skip
        with path.open("rb") as stream:
            official = hashlib.file_digest(stream, "md5").hexdigest() == self._info("MD5")
        name = self.stem if official else f"{self.stem} (unofficial file)"
        record = self._info("url").partition("/files/")[0]
        provenance = {"file": path.name, "official_file": official,
                      "official_images": sum(self.info["n_samples"].values()), "licence": self.info["license"],
                      "source": f"MedMNIST v2, {self.stem} (https://medmnist.com, {record})"}  # fmt: skip
        return RawImages(name, names, splits["train"], splits["test"], splits.get("val"),
                         RELEASED.get(self.flag), provenance, remarks=known.remarks, left_out=others,
                         named_size=None if self.size == USUAL else self.size)  # fmt: skip

    def _info(self, key: str) -> str:
        return self.info[key if self.size == USUAL else f"{key}_{self.size}"]

    def _fetch(self) -> None:
        import medmnist

        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The smallest split: only the constructor downloads, and it loads the split it is asked for.
            getattr(medmnist, self.info["python_class"])(split="val", root=path.parent, size=self.size, download=True)
        except (RuntimeError, OSError) as error:
            path.unlink(missing_ok=True)  # what an interrupted download left
            cause = f" ({error.strerror})" if isinstance(error, OSError) else ""
            raise DataError(
                f"{path}: medmnist could not download it{cause}; check the network and the folder, or fetch "
                f"{self._info('url')} (MD5 {self._info('MD5')}) and put it there"
            ) from None
