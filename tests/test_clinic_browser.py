"""Does the clinic's page work in a real browser: with a mouse, with a keyboard, on a telephone, on paper?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from simulation import phantom
from tests.browser import LOW_CONTRAST, TOO_WIDE, chromium, expect, opened, served, sync_api
from tests.small_run import write_small_run

pytestmark = pytest.mark.slow
__all__ = ["chromium"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = write_small_run(tmp_path_factory.mktemp("run"))
    with served("clinic", "--model", run, "--device", "cpu") as found:
        yield found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    pictures = phantom.render(5, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])).photos_NCHW
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    images[0].save(folder / "first.png")
    images[1].save(folder / "second.jpg", quality=95)
    Image.fromarray(torch.cat([*pictures[[0, 2]]], 2).permute(1, 2, 0).numpy()).save(folder / "two people.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    images[0].transpose(Image.Transpose.ROTATE_90).save(folder / "lying.jpg", quality=95, exif=exif)
    images[1].convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    images[1].convert("L").convert("I").point(lambda grey: grey * 257).convert("I;16").save(folder / "deep.png")
    Image.new("RGB", (300, 200), "grey").save(folder / "wall.png")
    (folder / "letter.txt").write_text("Dear colleague")
    (folder / "telephone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    with (folder / "huge.png").open("wb") as file:
        file.truncate(41 * 2**20)
    return folder


def choose(page: Any, folder: Path, *names: str) -> None:
    """Chooses files, and waits until each has been looked at and the model has answered."""
    before = page.locator("#photos li").count()
    page.set_input_files("#files", [folder / name for name in names])
    expect(page.locator("#photos li:not(.waiting)")).to_have_count(before + len(names))
    expect(page.locator("#headline")).not_to_have_text(re.compile("^(Looking|No photo yet)"))
    expect(page.locator("#working")).to_have_text("")


def shares(page: Any, kind: str) -> list[str]:
    return list(
        page.locator(f"#ranking .{kind}").evaluate_all("all => all.map(one => one.previousSibling.textContent)")
    )


def test_photos_in_a_ranking_out(chromium: Any, address: str, photos: Path) -> None:
    with opened(chromium, address) as page:
        choose(page, photos, "first.png", "second.jpg")
        assert page.locator("#photos .usable").count() == 2
        assert "2 photos" in page.inner_text("#under")
        assert page.locator("#ranking tr").count() == 3
        assert len(shares(page, "by-photo")) == 3 and shares(page, "with-terms") == []
        drawn = page.locator("#photos img").first.evaluate("one => one.complete && one.naturalWidth")
        assert drawn == 112
        page.get_by_role("button", name="Remove first.png").click()
        expect(page.locator("#under")).to_contain_text("1 photo")
        page.get_by_role("button", name="Next patient").click()
        expect(page.locator("#headline")).to_have_text("No photo yet")
        assert page.locator("#photos li").count() == 0 and not page.is_visible("#ranked")


def test_signs_move_the_ranking_and_can_be_taken_back(chromium: Any, address: str, photos: Path) -> None:
    with opened(chromium, address) as page:
        choose(page, photos, "first.png")
        before = shares(page, "by-photo")
        page.fill("#term", "upslanted palpebral fissure")
        page.get_by_role("button", name="Is there").click()
        page.wait_for_selector("#moves li")
        assert sorted(shares(page, "by-photo")) == sorted(before)
        assert shares(page, "with-terms")[0] != before[0]
        assert page.locator("#ranking tr").first.inner_text().startswith("Down syndrome")
        page.fill("#term", "no such sign")
        page.get_by_role("button", name="Is not there").click()
        assert "No sign of that name" in page.inner_text("#term-help")
        page.get_by_role("button", name="Remove Upslanted palpebral fissure").click()
        page.wait_for_selector("#moved", state="hidden")
        assert shares(page, "by-photo") == before


def test_the_heat_map_is_shown_for_the_syndrome_that_was_chosen(chromium: Any, address: str, photos: Path) -> None:
    with opened(chromium, address) as page:
        choose(page, photos, "first.png", "second.jpg")
        second = page.locator(".shown button").nth(1)
        name = str(second.get_attribute("aria-label")).removeprefix("Heat map for ")
        second.click()
        page.wait_for_selector("#why:not([hidden])")
        assert page.inner_text("#why-title").endswith(name) and second.get_attribute("aria-pressed") == "true"
        assert page.locator("#overlays figure").count() == 2 and page.locator("#regions tr").count() > 5
        assert re.search(r"HP:\d{7}", page.inner_text("#regions"))
        second.click()
        assert page.is_hidden("#why")


@pytest.mark.parametrize(
    ("name", "verdict", "advice"),
    [
        ("huge.png", "larger than 40 MiB", ""),
        ("letter.txt", "not an image", "JPEG"),
        ("wall.png", "no face", "whole face"),
        ("two people.png", "several faces", "only the patient's face"),
        ("telephone.heic", "unsupported format", "HEIC"),
    ],
)
def test_a_photo_of_no_use_gets_its_reason_and_harms_nothing(
    chromium: Any, address: str, photos: Path, name: str, verdict: str, advice: str
) -> None:
    with opened(chromium, address) as page:
        choose(page, photos, name)
        said = page.inner_text("#photos li")
        assert verdict in said and advice in said
        assert page.inner_text("#headline") == "No photo can be used"
        choose(page, photos, "first.png")
        assert page.locator("#ranking tr").count() == 3 and "1 photo" in page.inner_text("#under")


@pytest.mark.parametrize("name", ["lying.jpg", "cmyk.jpg", "deep.png"])
def test_photos_of_every_kind_are_read(chromium: Any, address: str, photos: Path, name: str) -> None:
    with opened(chromium, address) as page:
        choose(page, photos, name)
        assert page.locator("#photos .usable").count() == 1 and page.locator("#ranking tr").count() == 3


def test_the_same_photo_counts_once(chromium: Any, address: str, photos: Path) -> None:
    with opened(chromium, address) as page:
        choose(page, photos, "first.png", "first.png")
        assert "duplicate" in page.locator("#photos li").nth(1).inner_text()
        assert "1 photo" in page.inner_text("#under")


def chooser_by_keyboard(page: Any) -> Any:
    """The choice of files that Enter opens; a busy browser swallows keys while it paints a page for the first time."""
    for _ in range(5):
        with suppress(sync_api.TimeoutError):
            with page.expect_file_chooser(timeout=6_000) as chooser:
                page.keyboard.press("Enter")
            return chooser.value
    pytest.fail("Enter opens no choice of files")


def test_all_of_it_can_be_done_with_the_keyboard(chromium: Any, address: str, photos: Path) -> None:
    with opened(chromium, address) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files"
        outline = page.evaluate("getComputedStyle(document.querySelector('label.button')).outlineStyle")
        assert outline == "solid"
        chooser_by_keyboard(page).set_files(photos / "first.png")
        page.wait_for_selector("#ranking tr")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove first.png"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "term"
        page.keyboard.type("HP:0000286")
        page.keyboard.press("Enter")
        page.wait_for_selector("#moves li")
        names = []
        for _ in range(12):
            page.keyboard.press("Tab")
            focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
            names.append(page.evaluate(focused))
        assert "Is there" in names and "Remove Epicanthus" in names
        assert sum(name.startswith("Heat map for ") for name in names) == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_it_can_be_read(chromium: Any, address: str, photos: Path, tmp_path: Path, width: int, scheme: Any) -> None:
    """On a telephone and on a desk, by day and by night: WCAG AA contrast, and no page that scrolls sideways."""
    with opened(chromium, address, width, scheme) as page:
        choose(page, photos, "first.png", "wall.png")
        page.fill("#term", "Epicanthus")
        page.get_by_role("button", name="Is there").click()
        page.wait_for_selector("#moves li")
        page.locator(".shown button").first.click()
        page.wait_for_selector("#why:not([hidden])")
        assert page.evaluate(LOW_CONTRAST) == []
        assert page.evaluate(TOO_WIDE) <= 0
        small = page.locator("button:visible").evaluate_all("all => all.filter(one => one.offsetHeight < 24).length")
        assert small == 0  # WCAG 2.2, 2.5.8
        page.screenshot(path=tmp_path / f"clinic-{width}-{scheme}.png", full_page=True)


def test_on_paper_there_is_the_answer_and_no_control(chromium: Any, address: str, photos: Path) -> None:
    with opened(chromium, address) as page:
        choose(page, photos, "first.png")
        page.evaluate("window.print = () => { document.body.dataset.printed = 'yes'; }")
        page.get_by_role("button", name="Print").click()
        assert page.get_attribute("body", "data-printed") == "yes"
        page.emulate_media(media="print")
        assert page.is_visible("#ranking") and page.is_visible("#printed") and page.is_visible("#caveats")
        assert page.locator("button:visible").count() == 0 and page.is_hidden("#term")
        assert "smoke" in page.inner_text("#printed")
        assert len(page.pdf()) > 1000


def test_without_the_token_there_is_one_line(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    page.goto(address.partition("#")[0])
    page.wait_for_selector("#alert:not([hidden])")
    assert "open the address that the command printed" in page.inner_text("#alert")
    assert page.is_disabled("#files")
    page.close()


def test_a_program_that_has_ended_is_said_to_have_ended(chromium: Any, photos: Path, tmp_path: Path) -> None:
    with served("clinic", "--model", write_small_run(tmp_path), "--device", "cpu") as address:
        page = chromium.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
    page.set_input_files("#files", photos / "first.png")
    page.wait_for_selector("#photos .refused")
    assert "has ended" in page.inner_text("#photos")
    page.close()
