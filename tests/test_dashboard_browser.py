"""Does the lab's page work in a real browser, while the run goes on: by mouse, by keyboard, on a telephone?"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import LOW_CONTRAST, TOO_WIDE, chromium, expect, opened, served
from tests.test_dashboard import Growing, lines_of
from tests.test_simulate import run, tiny

pytestmark = pytest.mark.slow
__all__ = ["chromium"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def address(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a run with something of everything in its journal."""
    folder = tmp_path_factory.mktemp("shown") / "run"
    shutil.copytree(finished, folder)
    last = lines_of(folder)[-1]
    place = {"time": last["time"], "round": 2, "attempt": 1, "phase": "evaluate"}
    with (folder / "journal.jsonl").open("a") as file:
        for hospital, code in (("hospital-2", "not-finite"), ("<b>hospital-3</b>", "absent")):
            file.write(json.dumps(place | {"event": "leftout", "hospital": hospital, "code": code}) + "\n")
    with served("lab", "dashboard", folder) as found:
        yield found


def test_the_run_is_shown(chromium: Any, address: str) -> None:
    with opened(chromium, address) as page:
        assert page.inner_text("#headline") == "Finished: 2 rounds"
        assert page.locator("#curves svg").count() == 3 and page.locator("#rounds tr").count() == 3
        assert "not-finite" in page.inner_text("#hospitals") and "not connected" in page.inner_text("#hospitals")
        assert "<b>hospital-3</b>" in page.inner_text("#hospitals")  # as text: a name is no markup
        assert "No differential privacy" in page.inner_text("#budget")


def test_the_journal_can_be_searched(chromium: Any, address: str) -> None:
    with opened(chromium, address) as page:
        every = page.locator("#journal tr").count()
        page.fill("#words", "checkpoint")
        expect(page.locator("#journal tr")).to_have_count(0)
        page.fill("#words", "HOSPITAL-1 ANSWERED")
        assert 0 < page.locator("#journal tr").count() < every
        page.fill("#words", "")
        page.check("#alarming")
        expect(page.locator("#journal tr")).to_have_count(2)
        expect(page.locator("#shown")).to_contain_text(f"2 of {every} lines")


def test_it_follows_a_run_and_pauses(chromium: Any, finished: Path, tmp_path: Path) -> None:
    growing = Growing(finished, tmp_path / "run")
    with served("lab", "dashboard", growing.folder) as address, opened(chromium, address) as page:
        assert page.inner_text("#headline") == "Not begun"
        growing.grow(4)
        expect(page.locator("#journal tr")).to_have_count(4)
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#fresh")).to_contain_text("paused")
        growing.grow(len(lines_of(finished)))
        page.wait_for_timeout(2500)
        assert page.locator("#journal tr").count() == 4
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#headline")).to_have_text("Finished: 2 rounds")
        expect(page.locator("#rounds tr")).to_have_count(3)


def test_a_program_that_has_ended_and_a_damaged_run_are_told(chromium: Any, finished: Path, tmp_path: Path) -> None:
    growing = Growing(finished, tmp_path / "run")
    growing.grow(4)
    page = chromium.new_page()
    with served("lab", "dashboard", growing.folder) as address:
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        with (growing.folder / "journal.jsonl").open("a") as file:
            file.write("none\n")
        expect(page.locator("#alert")).to_contain_text("is damaged")
    expect(page.locator("#alert")).to_contain_text("has ended")
    assert page.locator("#journal tr").count() == 4
    page.close()


def test_all_of_it_can_be_done_with_the_keyboard(chromium: Any, address: str) -> None:
    with opened(chromium, address) as page:
        focused = []
        for _ in range(9):
            page.keyboard.press("Tab")
            focused.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
            if focused[-1] == "pause":
                page.keyboard.press("Enter")
                expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
            if focused[-1] == "alarming":
                page.keyboard.press("Space")
                expect(page.locator("#journal tr")).to_have_count(2)
        assert focused[0] == "Skip to the run" and {"pause", "words", "alarming"} <= set(focused)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_it_can_be_read(chromium: Any, address: str, tmp_path: Path, width: int, scheme: Any) -> None:
    with opened(chromium, address, width, scheme) as page:
        assert page.evaluate(LOW_CONTRAST) == []
        assert page.evaluate(TOO_WIDE) <= 0
        small = page.locator("button:visible, input:visible").evaluate_all(
            "all => all.filter(one => one.offsetHeight < 20).length"
        )
        assert small == 0
        page.screenshot(path=tmp_path / f"dashboard-{width}-{scheme}.png", full_page=True)


def test_without_the_token_there_is_one_line(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    page.goto(address.partition("#")[0])
    expect(page.locator("#alert")).to_have_text(re.compile("open the address that the command printed"))
    page.close()
