"""Pages opened in headless Chromium, and what the browser made of them."""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 180  # seconds; a busy machine takes its time to start a browser

_CSP = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
#: Runs when all images are loaded or have failed. A page has no script of its own.
_PROBE = """
<script>
document.currentScript.remove();
addEventListener("load", () => {
  const images = [...document.images];
  const wide = document.documentElement.scrollWidth > innerWidth;
  const table = (each) => [...each.rows].map((row) => [...row.cells].map(
    (cell) => cell.textContent.replace(/\\s+/g, " ").trim()));
  const found = {
    images: images.length,
    broken_images: images.filter((image) => !image.complete || !image.naturalWidth).length,
    tables: [...document.querySelectorAll("table")].map(table),
    text: document.body.textContent.replace(/\\s+/g, " "),
    scrolls_sideways: wide,
  };
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
</script>
"""


@dataclass(frozen=True)
class Page:
    """A page as the browser shows it.

    Attributes:
        dom: HTML after loading.
        text: what can be read, details that are folded included; white space runs are one space.
        console_errors: lines that the browser wrote to its console.
        images, broken_images: numbers of images.
        tables: text of the cells, by table, row and column.
        scrolls_sideways: whether the page is wider than its window.
    """

    dom: str
    text: str
    console_errors: list[str]
    images: int
    broken_images: int
    tables: list[list[list[str]]]
    scrolls_sideways: bool


def chromium() -> str:
    """Path of a Chromium; skips the test where there is none."""
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium found: install one, or set CHROME to its path")
    return found


def open_page(path: Path, width: int = 1100) -> Page:
    """Open a page in headless Chromium.

    It is opened twice: as it is, for what it says on the console, and as a copy with a script that
    measures it, which its own security policy would forbid.

    Args:
        path: of an HTML file.
        width: of the window, in pixels.
    """
    _, console = _run(path, width)
    with tempfile.TemporaryDirectory() as folder:
        source = path.read_text(encoding="utf-8")
        probed, policies = _CSP.subn("", source)
        assert policies == 1, f"{path} has {policies} security policies, expected one"
        copy = Path(folder, "page.html")
        copy.write_text(probed.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
        dom, _ = _run(copy, width)
    probe = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert probe, "the page did not finish loading"
    return Page(dom=dom, console_errors=console, **json.loads(html.unescape(probe[1])))


def _run(path: Path, width: int) -> tuple[str, list[str]]:
    """DOM of a page after loading, and the lines of its console."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [
                chromium(), "--headless", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
                "--disable-background-networking",
                f"--user-data-dir={profile}", f"--window-size={width},1000",
                "--enable-logging=stderr", "--dump-dom", path.resolve().as_uri(),
            ],
            capture_output=True, text=True, timeout=TIMEOUT, check=True,
        )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
