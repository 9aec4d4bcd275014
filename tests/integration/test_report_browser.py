"""Reports in headless Chromium, at desktop and phone width and in print; and that the checks can fail."""

import re
from pathlib import Path

import browser
import pytest
from command_line import invoke

RESULTS = Path(__file__).parent / "older_cards"  # of a version that recorded less
pytestmark = pytest.mark.slow
BROKEN = {
    "missing image: a cell": '<img src="gone.png" alt="a cell">',
    "image without alt text": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">',
    "table without caption": "<table><thead><tr><th scope=col>a</th></tr></thead><tbody><tr><th scope=row>b</th></tr>"
    "</tbody></table>",
    "table without column headers": "<table><caption>c</caption><tbody><tr><th scope=row>b</th></tr></tbody></table>",
    "table without row headers": "<table><caption>c</caption><thead><tr><th scope=col>a</th></tr></thead></table>",
    "figure without a name": '<svg width="9" height="9"><path d="M0 0L9 9"/></svg>',
    "id twice: a": '<p id="a">1</p><p id="a">2</p>',
    "link to nowhere: up": '<a href="#up">up</a>',
    "heading level skipped: deep": "<h4>deep</h4>",
    "wider than the window": '<p style="width: 3000px">wide</p>',
    "console error": "<script>console.error('no')</script>",
    "console warning": "<script>console.warn('hm')</script>",
    "page error": "<script>throw new Error('no')</script>",
    "request failed": '<script src="gone.js"></script>',
    "asked for": '<link rel="stylesheet" href="http://127.0.0.1:9/style.css">',
    "color-contrast": '<p style="color: #aaa; background: #fff">faint</p>',
}
SOME = ("wider than the window", "page error", "asked for", "color-contrast")


@pytest.fixture(scope="session")
def chromium():
    """A browser, for all tests of a process."""
    with browser.chromium() as started:
        yield started


@pytest.fixture(scope="session")
def report(finished_run, experts_root, tmp_path_factory):
    """The page on the committed runs of step 2 and on a finished run with all its files; read it only."""
    folder = tmp_path_factory.mktemp("report")
    result = invoke("report", str(finished_run), str(RESULTS), "-o", "report.html", cwd=folder)
    assert result.code == 0, result.err
    return folder / "report.html"


@pytest.mark.parametrize("width", browser.WIDTHS.values(), ids=browser.WIDTHS)
def test_a_report_has_no_faults(width, chromium, report):
    with browser.opened(chromium, report, width) as (page, complaints):
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.faults(page, complaints) == []
        assert page.locator("img").count() == 9
        assert page.locator("svg[role=img]").count() > 8
        assert page.locator("table").count() > 25


def test_a_report_is_readable_by_keyboard(chromium, report):
    with browser.opened(chromium, report, 390) as (page, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.keyboard.press("Tab")
        wide = """() => {
            const here = document.activeElement;
            return here.role === 'region' && here.ariaLabel && here.scrollWidth > here.clientWidth;
        }"""
        for _ in range(60):
            if page.evaluate(wide):
                break
            page.keyboard.press("Tab")
        assert page.evaluate(wide)
        page.keyboard.press("ArrowRight")
        for _ in range(50):  # scrolling is animated, and the page's own policy forbids to wait within it
            if moved := page.evaluate("document.activeElement.scrollLeft") > 0:
                break
            page.wait_for_timeout(50)
        assert moved


def test_a_fold_opens_by_keyboard(chromium, report):
    with browser.opened(chromium, report, 1280) as (page, _):
        fold = page.locator("details").filter(has_text="Protocol of").first
        below = fold.locator("xpath=following-sibling::div[1]")
        assert not below.is_visible()
        fold.locator("summary").focus()
        page.keyboard.press("Enter")
        assert below.is_visible()


def test_print_holds_the_configuration(chromium, report):
    with browser.opened(chromium, report, 1280) as (page, _):
        page.emulate_media(media="print")
        configuration = page.locator("pre").filter(has_text="method_id: hoptm")
        assert configuration.count() == 1
        assert configuration.is_visible()
        assert page.locator("pre:visible").count() == page.locator("pre").count()
        assert page.locator("summary:visible").count() == 0
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF-")
        assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 5


@pytest.mark.parametrize(
    "fault", [pytest.param(each, marks=() if each in SOME else pytest.mark.campaign) for each in BROKEN]
)
def test_the_checks_can_fail(fault, chromium, tmp_path):
    path = tmp_path / "page.html"
    head = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title></head><body><main><h1>t</h1>'
    path.write_text(f"{head}{BROKEN[fault]}</main></body></html>")
    with browser.opened(chromium, path, 390) as (page, complaints):
        assert any(each.startswith(fault) for each in browser.faults(page, complaints))
    path.write_text(f"{head}</main></body></html>")
    with browser.opened(chromium, path, 390) as (page, complaints):
        assert browser.faults(page, complaints) == []
