"""Run folders and exports made to execute code, write elsewhere or fill the memory, and what they are tried with."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line
import yaml

from hoptm_plugin.storage.files import with_checksum
from hoptm_plugin.storage.tensors import read_tensors, write_tensors

ESCAPE = "\x1b[31m"
SECRET = "value-of-the-environment"
COMMANDS = {
    "resume": ("run", "hydra.run.dir=begun", "resume=true"),
    "eval": ("eval", "synthetic=run", "hydra.run.dir=judged"),
    "export": ("export", "run", "--format", "folder", "-o", "exported"),
    "report": ("report", "run", "-o", "page.html"),
    "compare": ("compare", "run"),
}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch '{self.file}'",)


def pickled(place: Place) -> bytes:
    return pickle.dumps(Bomb(place.sentinel))


def sealed(content: bytes) -> bytes:
    """Return a configuration with the checksum that whoever crafts one can compute as well."""
    return f"# SHA-256 of all below: {hashlib.sha256(content).hexdigest()}\n".encode() + content


@dataclass(frozen=True)
class Place:
    """A working folder with a finished run, a begun one and an export, and a folder that nothing may change.

    Attributes:
        work: where commands are run; holds ``run``, ``begun`` (the same without its card) and ``export``.
        outside: another folder.
    """

    work: Path
    outside: Path

    @property
    def sentinel(self) -> Path:
        """What executed code would make."""
        return self.outside / "executed"

    @property
    def runs(self) -> tuple[Path, Path]:
        """Both runs."""
        return self.work / "run", self.work / "begun"

    @classmethod
    def make(cls, root: Path, finished: Path, exported: Path) -> Place:
        place = cls(root / "work", root / "outside")
        place.outside.mkdir()
        (place.outside / "precious").write_bytes(b"do not touch")
        for folder in place.runs:
            shutil.copytree(finished, folder)
        (place.work / "begun/result.json").unlink()
        shutil.copytree(exported, place.work / "export")
        return place

    def replace(self, name: str, content: bytes) -> None:
        """Put other content in the place of a file of both runs, where there is one."""
        for folder in self.runs:
            if name != "result.json" or folder.name == "run":
                (folder / name).write_bytes(sealed(content) if name == "config.yaml" else content)

    def configure(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the stored settings of both runs, and give them the checksum of their new content."""
        for folder in self.runs:
            config = yaml.safe_load((folder / "config.yaml").read_text())
            change(config)
            (folder / "config.yaml").write_bytes(sealed(yaml.safe_dump(config, sort_keys=False).encode()))
        self.forget("config.yaml")

    def forget(self, name: str) -> None:
        """Let the finished run's card say nothing of a file."""
        self.change_json("run/result.json", lambda card: card["artefacts"].pop(name, None))

    def change_json(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a file of JSON and give it the checksum of its new content."""
        value = json.loads((self.work / name).read_text())
        change(value)
        (self.work / name).write_text(json.dumps(with_checksum(value)))

    def change_tensors(self, name: str, change: Callable[[dict[str, Any], Any], None]) -> None:
        """Change a file of tensors, checksums included, in both runs."""
        for folder in self.runs:
            tensors, content = read_tensors(folder / name, "file")
            change(tensors, content)
            write_tensors(folder / name, tensors, content)
        self.forget(name)

    def check(self, command: str, *, refused: bool | None, says: str = "") -> str:
        """Run a command; see that it is refused or not, and does nothing elsewhere; return the page."""
        before = contents(self.outside)
        page = self.work / "page.html"
        arguments = COMMANDS.get(command) or tuple(command.split())
        result = command_line.invoke(*arguments, cwd=self.work, environment={"HOPTM_SECRET": SECRET})
        said = result.out + result.err
        assert contents(self.outside) == before, f"{command}: something was done elsewhere"
        assert "Traceback" not in said, said
        assert "\x1b" not in said, said
        assert SECRET not in said
        assert result.code in (0, 1, 2), said
        if refused is not None:
            assert result.code == (2 if refused else 0), said
        if refused:
            assert result.err.count("error: ") == 1
            assert says in result.err, result.err
            assert len(result.err) < 5000
        text = page.read_text(encoding="utf-8") if command == "report" and page.exists() else ""
        assert SECRET not in text
        assert "\x1b" not in text
        return text


def contents(folder: Path) -> dict[Path, bytes | bool]:
    """Return every path below ``folder`` with its bytes."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
