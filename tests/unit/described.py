"""What a picture of a study says that it shows."""

from __future__ import annotations

import html
import json
import re


def described(svg):
    """Return the numbers in the picture's description."""
    return json.loads(html.unescape(re.search(r"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)[1]))
