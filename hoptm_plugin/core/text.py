"""Text made fit for a person: from elsewhere for a terminal, and of a name that nobody knows."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable
from typing import Any

# control characters but for tab and newline, what turns the direction of writing, and halves of characters
FORMULA = tuple("=+-@\t\r")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LINES = "\n\t\u2028\u2029"
NO_TEXT = ("null", "true", "false", "nan", "inf")  # what Hydra takes for something else


def printable(text: str) -> str:
    """Return ``text`` with escapes in the place of what a terminal would obey instead of show."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def no_formula(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def one_line(text: str) -> str:
    """Return ``text`` :func:`printable` and on one line, as names are in a table or a sentence."""
    return "".join(ascii(char)[1:-1] if char in LINES else char for char in printable(text))


def hydra_text(text: str) -> str:
    """Return a text as Hydra's grammar of overrides has it."""
    if re.fullmatch(r"[A-Za-z_/][\w/.-]*", text, re.ASCII) and text.lower() not in NO_TEXT:
        return text
    text = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return "'" + text.replace("${", "\\${") + "'"  # a text is no interpolation, and must not become one


def pasted(setting: str, value: object) -> str:
    """Return ``setting=value`` as it can be pasted behind a command in a shell, whatever a path is called."""
    word = f"{setting}={hydra_text(str(value))}"
    if one_line(word) == word:
        return shlex.quote(word)
    shown = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(shown)}'"


def all_printable(value: Any) -> bool:
    """Tell whether no text in nested mappings and lists needs :func:`printable`."""
    if isinstance(value, dict):
        return all(all_printable(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(map(all_printable, value))
    return not isinstance(value, str) or UNPRINTABLE.search(value) is None


def unknown_name(text: str, name: str, known: Iterable[str]) -> str:
    """Return ``text`` with the nearest of the known names, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"{text}{f'; did you mean {near[0]!r}?' if near else ''} (known: {', '.join(names) or 'none'})"


def shortened(error: BaseException) -> str:
    """Return an error's text as one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
