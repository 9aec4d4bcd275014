"""What README.md, CONTRIBUTING.md and the pages in docs/ show is run: commands on tiny budgets, Python as it stands.

A fence that cannot run is preceded by ``<!-- test: skip because REASON -->``; one that is a file for the commands, by
``<!-- test: write PATH -->``. FILE.npz, FOLDER, COVID_FOLDER and RUN stand for generated data and a finished run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import command_line
import pytest
from command_line import SHORT_LOOP, TINY_EXPERTS, TINY_LOOP, TINY_NETWORK, TINY_PROTOCOL
from generated import NPZ

ROOT = Path(__file__).parents[2]
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *PAGES]
SHELLS = ("bash", "console", "sh", "shell")
FENCE = re.compile(r"(?:^<!-- test: (?P<mark>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Fence:
    """A block of code in a document."""

    language: str
    text: str
    file: str | None = None

    def commands(self) -> list[list[str]]:
        """Return the words of every shell command; in a console only lines after a prompt are commands."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        parsed = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
        return [words for words in parsed if words]


def fences(text: str) -> list[Fence]:
    """Return all fences but those that a comment skips with a reason."""
    found = []
    for match in FENCE.finditer(text):
        mark = match["mark"]
        if mark is None:
            found.append(Fence(match["language"], match["text"]))
        elif written := re.fullmatch(r"write (\S+)", mark):
            found.append(Fence(match["language"], match["text"], written[1]))
        else:
            assert re.fullmatch(r"skip because \S.*", mark), f"<!-- test: {mark} -->: write 'skip because REASON'"
    return found


def read(document: str) -> str:
    """Return a document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def showing(*languages: str) -> list[str]:
    """Return the documents that show such code to be run."""
    return [name for name in DOCUMENTS if any(fence.language in languages for fence in fences(read(name)))]


def reduced(words: list[str]) -> list[str]:
    """Return the arguments of a hoptm-bench command with a budget of seconds."""
    command, *arguments = words
    if {"--help", "--cfg", "resume=true"} & set(arguments) or command not in ("run", "plan", "tune", "eval", "experts"):
        return words
    budget = [*TINY_PROTOCOL, "runtime.device=cpu"]
    if command != "eval":
        budget += [*TINY_NETWORK, *SHORT_LOOP, "experts.count=1", "experts.training.batch=512"]
        methods = [argument for argument in arguments if argument.startswith("method=")]
        if not any(name in argument for argument in methods for name in ("random", "full")):  # they match nothing
            budget += [*TINY_EXPERTS, *TINY_LOOP]
    if any(argument.startswith("dataset.root=") for argument in arguments):
        budget += NPZ
    return [*words, *budget]


def check_only(words: list[str]) -> None:
    """Check that a command which CI runs by itself refers to what exists."""
    program, *arguments = words
    if program in (".", "source"):
        assert arguments == [".venv/bin/activate"], words
    elif program == "pip":
        with (ROOT / "pyproject.toml").open("rb") as stream:
            extras = tomllib.load(stream)["project"]["optional-dependencies"]
        target = re.fullmatch(r"\.(?:\[(?P<extras>[\w,]+)\])?", arguments[-1])
        assert arguments[0] == "install", words
        assert target, f"{words}: installs something else than this project"
        assert set((target["extras"] or "").split(",")) <= {*extras, ""}, f"{words}: unknown extra"
    elif program in ("python", "python3") and arguments[:1] == ["-m"]:
        assert arguments[1:] == ["venv", ".venv"], words
    else:
        known = ("python", "python3", "pytest", "ruff", "mypy", "git", "sphinx-build", ".ci/run")
        assert program in known, f"{words}: unknown command"
        written = arguments[-1] if program == "sphinx-build" else None
        paths = [word for word in words if ("/" in word and "://" not in word) or word.endswith(".py")]
        paths = [path for path in paths if path != written]
        assert all((ROOT / path).exists() for path in paths), f"{words}: no such file"


def is_launched(words: list[str]) -> bool:
    """Tell whether a command starts workers of a launcher, which need a process that exits itself."""
    return any(word.startswith("hydra/launcher=") for word in words)


@pytest.fixture
def table_file(image_folder, tmp_path_factory):
    """A table that lists the image folder's pictures."""
    pictures = sorted(path.relative_to(image_folder) for path in image_folder.rglob("*.png"))
    table = tmp_path_factory.mktemp("table") / "own.csv"
    table.write_text("\n".join(["file,label", *(f"{path.as_posix()},{path.parent.name}" for path in pictures)]))
    return table


@pytest.fixture
def places(npz_file, image_folder, covid_folder, finished_run, table_file):
    """What stands for generated data and a finished run."""
    return {r"FILE\.npz": npz_file, "FOLDER": image_folder, "COVID_FOLDER": covid_folder, "RUN": finished_run,
            r"TABLE\.csv": table_file}  # fmt: skip


def filled(words: list[str], places: dict[str, Path]) -> list[str]:
    """Return the arguments of a hoptm-bench command on generated data, with a budget of seconds."""
    for name, place in places.items():
        words = [re.sub(rf"\b{name}\b", str(place), word) for word in words]
    return reduced(words[1:])


@pytest.mark.slow
@pytest.mark.parametrize("document", showing(*SHELLS))
def test_commands(document, bench, tmp_path, places):
    found = fences(read(document))
    for fence in found:
        if fence.file is not None:
            (tmp_path / fence.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / fence.file).write_text(fence.text)
    shown = [words for fence in found if fence.language in SHELLS for words in fence.commands()]
    for words in shown:
        if words[0] != "hoptm-bench":
            check_only(words)
        elif not is_launched(words):
            result = bench(*filled(words, places))
            found_a_leak = words[1] == "audit" and "A leak was found" in result.out  # which is an exit code of 1
            assert result.code == int(found_a_leak), f"{shlex.join(words)}\n{result.err}"
            assert result.out
    assert not (tmp_path / "experts").exists(), "HOPTM_EXPERTS was not heeded"


@pytest.mark.campaign
def test_commands_through_a_launcher(tmp_path, places, experts_root):
    found = [fence for document in DOCUMENTS for fence in fences(read(document))]
    shown = [words for fence in found if fence.language in SHELLS for words in fence.commands() if is_launched(words)]
    assert shown
    for words in shown:
        environment = {"HOPTM_EXPERTS": str(experts_root)}
        result = command_line.call(*filled(words, places), cwd=tmp_path, environment=environment)
        assert result.code == 0, f"{shlex.join(words)}\n{result.err}"
        assert result.out
    assert not (tmp_path / "experts").exists(), "HOPTM_EXPERTS was not heeded"


@pytest.mark.slow
@pytest.mark.parametrize("document", showing("python"))
def test_python(document, tmp_path, finished_run):
    blocks = [fence.text for fence in fences(read(document)) if fence.language == "python"]
    script = tmp_path / "shown.py"
    script.write_text(re.sub(r"\bRUN\b", str(finished_run), "\n".join(blocks)))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = read(document)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert not [link for link in links if not ((ROOT / document).parent / link).exists()]


def test_readme_and_contributing_show_commands_and_python():
    assert {"README.md", "CONTRIBUTING.md"} <= set(showing("python")) & set(showing(*SHELLS))


def test_fences_are_found_and_skipped_with_a_reason_only():
    text = (
        "```bash\npip install -e . && hoptm-bench \\\n  list # all\n```\n\n"
        "<!-- test: skip because it downloads -->\n```bash\nnonsense\n```\n\n"
        "```console\n$ mypy\nSuccess\n```\n"
    )
    assert [fence.commands() for fence in fences(text)] == [
        [["pip", "install", "-e", "."], ["hoptm-bench", "list"]],
        [["mypy"]],
    ]
    with pytest.raises(AssertionError, match="skip because REASON"):
        fences("<!-- test: skip -->\n```bash\nnonsense\n```\n")


@pytest.mark.parametrize("command", ["nonsense", "pip install -e .[nosuch]", "pip install torch", "python no/file.py"])
def test_unknown_commands_fail(command):
    with pytest.raises(AssertionError):
        check_only(command.split())
