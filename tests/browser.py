"""A real Chromium without a window, for the tests of our pages: as Debian packs it, driven by playwright."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHECKOUT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
LOAD_S = 60.0  # a busy machine of two cores loads torch in ten

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
expect = sync_api.expect


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser; the test is skipped where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_api.sync_playwright() as playwright:
        # Nothing may be asked of the outside, not even by the browser itself; containers have no sandbox of their own.
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@contextmanager
def served(*command: object) -> Iterator[str]:
    """The address of a page that a command of ours serves, for as long as it is needed."""
    arguments = [sys.executable, "-P", "-m", "bioface_core", *map(str, command)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stderr is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=LOAD_S)


@contextmanager
def opened(
    browser: Browser, address: str, width: int = 1440, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """A page that is ready; whatever goes wrong in it, and whatever it asks of others, fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    troubles: list[str] = []
    host = address.partition("/#")[0]
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith((host, "data:")) else troubles.append(one.url))
    try:
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=1000 * LOAD_S)
        yield page
    finally:
        page.close()
    assert troubles == []


# Every text of the page with too little contrast to what is painted behind it; WCAG 2.2, 1.4.3.
LOW_CONTRAST = """() => {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const luminance = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const { rgb, a } = parse(getComputedStyle(one).backgroundColor);
      if (a > 0.99) return rgb;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !element.checkVisibility() || element.closest(":disabled")) continue;
    if (["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") && element.tagName !== "A" ? style.fill : style.color;
    const [dark, light] = [luminance(parse(ink).rgb), luminance(behind(element))].sort((a, b) => a - b);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if ((light + 0.05) / (dark + 0.05) < (large ? 3 : 4.5)) low.push(texts.currentNode.textContent.trim().slice(0, 40));
  }
  return low;
}"""
# How far the page itself, not a table in its own box, is wider than the window.
TOO_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"
