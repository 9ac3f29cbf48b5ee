"""The gallery in a real browser: needs `chromium` and `chromedriver` on the PATH."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from vsa_ray.report import GalleryImage, GalleryRegion, GalleryWord, render_gallery, thumbnail

ATTACK = "<script>window.attacked = true</script>"
RED, BLUE, GREEN = (20, 30, 140, 150), (180, 60, 300, 180), (150, 10, 170, 30)


def scene() -> bytes:
    image = Image.new("RGB", (320, 240), "tan")
    draw = ImageDraw.Draw(image)
    draw.rectangle(RED, "firebrick")
    draw.ellipse(BLUE, "steelblue")
    draw.rectangle(GREEN, "seagreen")
    return thumbnail(np.asarray(image))


def sentence(*runs: tuple[str, int | None]) -> list[GalleryWord]:
    return [GalleryWord(text=word, region=r) for text, r in runs for word in text.split()]


def picture(caption: str, image_id: str = "scene.png") -> GalleryImage:
    boxes = [(0, 0, 320, 240), RED, BLUE, GREEN]
    captions = [caption, "a red square", "a blue disc", "a green dot"]
    return GalleryImage(
        image_id=image_id,
        width=320,
        height=240,
        jpeg=scene(),
        caption=caption,
        log_prob=-4.5,
        regions=[
            GalleryRegion(box=box, label="shape", score=0.9, caption=text, log_prob=-3)
            for box, text in zip(boxes, captions, strict=True)
        ],
        references=[
            sentence(("a red square", 1), ("beside", None), ("a blue disc", 2), ("on tan", 0)),
            sentence(("the disc is blue", 2)),
        ],
    )


def gallery() -> str:
    failed = GalleryImage(
        image_id="x" * 200,
        width=0,
        height=0,
        jpeg=b"",
        caption="",
        log_prob=0,
        regions=[],
        references=[],
        error="decode: image file is truncated",
    )
    ranks = {"r1": 100.0, "r5": 100.0, "r10": 100.0, "median_rank": 1000.5}
    both = {"image_annotation": ranks, "image_search": ranks}
    methods = ["", "upper_bound_", "most_confident_", "whole_image_", "random_"]
    boxes = {f"{method}{measure}": 100.0 for method in methods for measure in ("iou50", "pointing")}
    return render_gallery(
        [picture("two shapes"), picture(ATTACK), failed, picture("a zebra " + "y" * 200)],
        title="Shapes",
        metrics={
            "retrieval": {"images": 4, "sentences": 8, **both, "chance": both},
            "grounding": {"phrases": 10, **boxes},
        },
        note="drawn by a test",
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    flags = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-sync "
    flags += f"disable-background-networking disable-component-update user-data-dir={profile}"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options, Service(driver)) as chrome:
        yield chrome


@pytest.fixture
def page(browser: Chrome, tmp_path: Path) -> Chrome:
    """The gallery just opened in a desktop window, the mouse in no picture."""
    path = tmp_path / "index.html"
    path.write_text(gallery(), encoding="utf-8")
    view(browser, 1280, 900, "light")
    ActionChains(browser).move_by_offset(0, 0).perform()
    browser.get_log("browser"), browser.get_log("performance")  # forget what was before
    browser.get(path.as_uri())
    return browser


def view(browser: Chrome, width: int, height: int, scheme: str) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def find(page: Chrome, selector: str) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, selector)


def lit(page: Chrome) -> tuple[list[str], list[str], list[str]]:
    """All that is highlighted: the numbers of boxes, the words, the captions of regions."""
    found: tuple[list[str], list[str], list[str]] = page.execute_script(
        """
        const all = (selector, value) => [...document.querySelectorAll(selector)].map(value);
        return [
            all(".box.on", (box) => box.dataset.r),
            all(".run.on", (run) => run.firstChild.data),
            all(".region.on .said", (said) => said.textContent),
        ]"""
    )
    return found


def keys(page: Chrome, *pressed: str) -> None:
    ActionChains(page).send_keys(*pressed).perform()


BLUE_IS_LIT = [["2"], ["a blue disc", "the disc is blue"], ["a blue disc"]]
NOTHING_IS_LIT: list[list[str]] = [[], [], []]


def test_opens_without_complaints_and_without_requests(page: Chrome) -> None:
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert page.current_url in urls
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert [url for url in urls if url.startswith("file:")] == [page.current_url]
    assert all(image.get_property("naturalWidth") == 320 for image in find(page, "img")[:2])


def test_pointing_at_words_lights_their_box(page: Chrome) -> None:
    assert lit(page) == NOTHING_IS_LIT
    ActionChains(page).move_to_element(find(page, ".run")[1]).perform()
    assert lit(page) == BLUE_IS_LIT
    ActionChains(page).move_to_element(find(page, "h1")[0]).perform()
    assert lit(page) == NOTHING_IS_LIT


def test_pointing_at_a_box_lights_its_words(page: Chrome) -> None:
    edge = find(page, '.box[data-r="2"] .edge')[0]
    ActionChains(page).move_to_element(edge).perform()
    assert lit(page) == BLUE_IS_LIT
    assert edge.rect["width"] / find(page, "figure img")[0].rect["width"] == pytest.approx(
        120 / 320, abs=0.02
    )


def test_keyboard_walks_through_words_and_regions(page: Chrome) -> None:
    keys(page, Keys.TAB, Keys.TAB)  # past the search box
    assert lit(page)[:2] == [["1"], ["a red square"]]
    keys(page, Keys.ARROW_RIGHT)
    assert lit(page) == BLUE_IS_LIT
    keys(page, *[Keys.ARROW_DOWN] * 3)  # "on tan", "the disc is blue", first row of the regions
    assert lit(page)[0] == ["0"]
    assert page.switch_to.active_element.aria_role == "button"
    keys(page, Keys.TAB)  # out of the words: to the regions that have none
    assert page.switch_to.active_element.tag_name == "summary"
    assert lit(page) == NOTHING_IS_LIT


def test_a_pressed_region_stays_until_escape(page: Chrome) -> None:
    row = find(page, '.region[data-r="2"]')[0]
    row.click()
    ActionChains(page).move_to_element(find(page, ".run")[0]).perform()
    assert lit(page)[0] == ["1"], "what is pointed at comes first"
    ActionChains(page).move_to_element(find(page, ".card h2")[0]).perform()
    assert lit(page) == BLUE_IS_LIT
    assert row.get_attribute("aria-pressed") == "true"
    keys(page, Keys.ESCAPE)
    ActionChains(page).move_to_element(find(page, "h1")[0]).perform()
    assert row.get_attribute("aria-pressed") == "false"
    page.execute_script("document.activeElement.blur()")
    assert lit(page) == NOTHING_IS_LIT


def test_a_tap_keeps_the_box_of_a_word(page: Chrome) -> None:
    view(page, 360, 780, "light")
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    word = find(page, ".run")[1]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", word)
    place = page.execute_script(
        "const {x, y} = arguments[0].getClientRects()[0]; return {x: x + 5, y: y + 5}", word
    )
    for expected in (BLUE_IS_LIT, NOTHING_IS_LIT):
        touch = {"type": "touchStart", "touchPoints": [place]}
        page.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert lit(page) == expected
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_boxes_of_regions_without_words_show_on_demand(page: Chrome) -> None:
    spare = find(page, ".box.spare")[0]
    assert not spare.is_displayed()
    find(page, ".more summary")[0].click()
    assert spare.is_displayed()


def test_find_keeps_pictures_with_all_the_words(page: Chrome) -> None:
    keys(page, Keys.TAB, "ZEBRA disc")
    shown = [heading.text for heading in find(page, ".card h2") if heading.is_displayed()]
    assert shown == ["a zebra " + "y" * 200]
    assert find(page, "output")[0].text == "1 of 4"
    keys(page, Keys.BACKSPACE * len("ZEBRA disc"))
    assert all(card.is_displayed() for card in find(page, ".card"))


def test_markup_in_a_caption_is_text(page: Chrome) -> None:
    assert find(page, ".card h2")[1].text == ATTACK
    assert page.execute_script("return window.attacked") is None


def test_reads_without_scripts(page: Chrome) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.refresh()
    text = find(page, "main")[0].text
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for words in ("two shapes", "a red square", "a blue disc", "image file is truncated"):
        assert words in text
    assert not find(page, ".find")[0].is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 780), (1280, 900)])
def test_fits_the_window(
    page: Chrome, width: int, height: int, scheme: str, tmp_path: Path
) -> None:
    view(page, width, height, scheme)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(c) for c in re.findall(r"\d+", ground)) > 384) == (scheme == "light")
    page.execute_script("document.querySelector('main').scrollIntoView()")
    assert page.save_screenshot(str(tmp_path / f"{width}-{scheme}.png"))
