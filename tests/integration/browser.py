"""A report in headless Chromium: what is wrong with it, for a person and for a program that reads it."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

REQUIRE = "HOPTM_REQUIRE_BROWSER"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
WIDTHS = {"desktop": 1280, "phone": 390}
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
FAULTS = """() => {
  const found = [], text = node => (node.getAttribute('aria-label') || node.textContent || '').trim().slice(0, 60);
  for (const image of document.images) {
    if (!image.complete || image.naturalWidth === 0) found.push('missing image: ' + image.alt);
    if (!image.hasAttribute('alt') || !image.alt.trim()) found.push('image without alt text');
  }
  for (const table of document.querySelectorAll('table')) {
    if (!table.caption || !table.caption.textContent.trim()) found.push('table without caption');
    if (!table.querySelector('thead th[scope=col]')) found.push('table without column headers: ' + text(table));
    if (!table.querySelector('tbody th[scope=row]')) found.push('table without row headers: ' + text(table));
  }
  for (const drawing of document.querySelectorAll('svg:not([aria-hidden=true])')) {
    const name = drawing.getAttribute('aria-label') || (drawing.querySelector('title') || {}).textContent;
    if (drawing.getAttribute('role') !== 'img' || !(name || '').trim()) found.push('figure without a name');
  }
  const ids = [...document.querySelectorAll('[id]')].map(node => node.id);
  for (const id of new Set(ids.filter((id, index) => ids.indexOf(id) !== index))) found.push('id twice: ' + id);
  for (const link of document.querySelectorAll('a[href^="#"]'))
    if (!document.getElementById(link.getAttribute('href').slice(1))) found.push('link to nowhere: ' + text(link));
  let level = 0;
  for (const heading of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) found.push('heading level skipped: ' + text(heading));
    level = next;
  }
  if (document.querySelectorAll('h1').length !== 1) found.push('not one h1');
  if (!document.documentElement.lang) found.push('no language');
  const root = document.documentElement;
  const wide = root.scrollWidth - root.clientWidth;
  if (wide > 0) found.push(`wider than the window by ${wide}`);
  return found;
}"""


def chromium():
    """Return a started Playwright's Chromium as a context; skip, or fail where one is required, if there is none."""
    program = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    missing = [name for name, found in (("chromium", program), ("playwright", sync_playwright)) if found is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed"
        (pytest.fail if os.environ.get(REQUIRE) == "1" else pytest.skip)(reason)
    return _launched(sync_playwright, program)


@contextmanager
def _launched(sync_playwright, program):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser, path: Path, width: int):
    """Open a page from disk; yields it and a list that fills with what the browser complains of."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda said: complaints.append(f"console {said.type}: {said.text}"))
    page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
    page.on("requestfailed", lambda request: complaints.append(f"request failed: {request.url[:80]}"))
    page.on("request", lambda request: _outside(request.url, path, complaints))
    try:
        page.goto(path.resolve().as_uri(), wait_until="load")
        yield page, complaints
    finally:
        context.close()


def _outside(url: str, path: Path, complaints: list[str]) -> None:
    if not url.startswith("data:") and url != path.resolve().as_uri():
        complaints.append(f"asked for {url[:80]}")


def faults(page, complaints: list[str]) -> list[str]:
    """Return what is wrong with an opened page, in words; empty if nothing is."""
    return [*complaints, *page.evaluate(FAULTS), *_accessibility(page)]


def _accessibility(page) -> list[str]:
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        if os.environ.get(REQUIRE) == "1":
            pytest.fail("axe-playwright-python not installed")
        return []
    response = Axe().run(page, options=RULES).response
    assert response["passes"], "axe looked at nothing"
    return [
        f"{each['id']}: {each['help']} ({len(each['nodes'])} times, first {each['nodes'][0]['html'][:120]})"
        for each in response["violations"]
    ]
