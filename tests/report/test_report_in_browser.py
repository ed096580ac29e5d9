"""The page in a real browser, at the widths of a phone and of a screen, light and dark."""

import pytest
from report_browser import CHROMIUM, Browser
from report_helpers import LOG, make_evaluation

from mednextv2.data import LabelScheme
from mednextv2.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
  let worst = 21;
  for (const e of document.querySelectorAll("h1,h2,h3,p,dt,dd,td,th,caption,figcaption,li,.chart text")) {
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(e.closest("svg") ? style.fill : style.color)), light(behind(e))];
    worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return worst;
})()
"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page with short names, and one with long ones."""
    made = []
    for n, labels in enumerate((["anterior", "posterior"], ["a_" * 60, "posterior " * 12])):
        root = tmp_path_factory.mktemp("browser")
        (root / "training_log.csv").write_text(LOG)
        names = ("a", "b", "c", "d", "e" * (1 + 150 * n))
        title = "Test" if n == 0 else "unbroken_title_" * 12
        folder = make_evaluation(root, names, LabelScheme(["background", *labels]), str(root / "model.pt"), title=title)
        made.append(write_report(folder))
    return made


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("number", [0, 1], ids=["short", "long"])
def test_page_fits_its_width_and_is_silent(browser, pages, number, width, dark):
    browser.open(pages[number], width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("innerWidth") == width  # a phone would show a wider page from afar
    assert browser.errors() == []
    assert all(address.startswith(("file://", "data:")) for address in browser.requests())
    assert browser.evaluate(CONTRAST) >= 4.5  # WCAG 2.2, level AA
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark


def test_slices_have_true_proportions(browser, pages):
    browser.open(pages[0], 1280)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.slice')].slice(0, 3).map(s => {"
        " const [a, b] = [s.querySelector('image').getBoundingClientRect(), s.viewBox.baseVal];"
        " return [a.width / a.height, b.width / b.height]; })"
    )
    assert len(boxes) == 3
    for shown, millimetres in boxes:
        assert shown == pytest.approx(millimetres, rel=0.01)


def column(browser, number):
    return browser.evaluate(
        f"[...[...document.querySelectorAll('table')].at(-1).tBodies[0].rows].map(r => r.cells[{number}].textContent)"
    )


def test_click_sorts_by_number_and_back(browser, pages):
    browser.open(pages[0], 1280)
    cases, click = (
        column(browser, 0),
        "[...document.querySelectorAll('table')].at(-1).querySelector('[data-column=\"%d\"] button').click()",
    )
    assert cases == list("abcde")
    browser.evaluate(click % 1)  # mean Dice
    assert column(browser, 0) == list("edcba")
    assert browser.evaluate("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    browser.evaluate(click % 1)
    assert column(browser, 0) == list("abcde")
    browser.evaluate(click % 3)  # distances, one of which is infinite
    assert column(browser, 3)[-1] == "∞"
    browser.evaluate(click % 3)
    assert column(browser, 3)[0] == "∞"
    browser.evaluate(click % 0)
    assert column(browser, 0) == list("abcde")
    assert browser.evaluate("document.querySelectorAll('th[aria-sort]').length") == 1


def test_browser_would_notice_an_error(browser, tmp_path):
    """That the checks above can fail."""
    page = tmp_path / "bad.html"
    page.write_text("<script>null.x</script><p style='color:#999;width:3000px'>x</p>")
    browser.open(page, 390)
    assert browser.errors()
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
    assert browser.evaluate(CONTRAST) < 4.5
