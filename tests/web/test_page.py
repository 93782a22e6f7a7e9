"""The page in a real browser: upload, threshold, click, comparison, a file that is not an image."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from fpt_d2.commands.web.viewer import Viewer
from fpt_d2.errors import UserError

pytest.importorskip("gradio", reason="the page needs Gradio: make web")
pytest.importorskip("selenium", reason="the browser is driven by Selenium: make web")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("no Chromium here: apt-get install chromium chromium-driver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

from fpt_d2.commands.web.page import served  # noqa: E402

PORT = 7957 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])  # each process of the tests serves its own
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1300,1400"
PATIENCE = 180  # seconds, on a busy machine
T = TypeVar("T")


@pytest.fixture(scope="module")
def address(viewer: Viewer) -> Iterator[str]:
    with served(viewer, "a model", host="127.0.0.1", port=PORT) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    try:
        chrome = webdriver.Chrome(options=options, service=Service(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {error.msg}")
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, address: str) -> webdriver.Chrome:
    browser.get(address)
    wait(lambda: find(browser, "#file input[type=file]"))
    return browser


def wait(condition: Callable[[], T], what: str = "") -> T:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except StaleElementReferenceException:
            pass
        time.sleep(0.1)
    raise AssertionError(f"Not within {PATIENCE} s: {what}")


def find(page: webdriver.Chrome, selector: str) -> list[Any]:
    return page.find_elements(By.CSS_SELECTOR, selector)


def source(page: webdriver.Chrome, name: str) -> str:
    """The address of a picture; empty without one."""
    return next((image.get_attribute("src") or "" for image in find(page, f"#{name} img")), "")


def upload(page: webdriver.Chrome, file: Path) -> None:
    find(page, "#file input[type=file]")[0].send_keys(str(file))


def set_threshold(page: webdriver.Chrome, value: str) -> None:
    number = find(page, "#threshold input[type=number]")[0]
    page.execute_script("arguments[0].value = ''", number)
    number.send_keys(value, "\t")


def test_from_an_upload_to_what_a_click_looked_at(page: webdriver.Chrome, photo: Path, viewer: Viewer) -> None:
    upload(page, photo)
    first = wait(lambda: source(page, "drawn"), "a picture of the upload")
    set_threshold(page, "0.05")
    second = wait(lambda: source(page, "drawn") not in ("", first) and source(page, "drawn"), "more objects drawn")
    expected = viewer.objects(viewer.read(photo), 0.05)
    assert expected, "the model of this test finds nothing"
    wait(lambda: expected[0][0] in find(page, "#objects")[0].text, "the table of objects")
    assert source(page, "looked") == ""

    wait(lambda: click_picture(page) and source(page, "looked"), "what the click looked at")
    assert "looked at" in find(page, "#hint")[0].text

    find(page, "#compare input")[0].click()
    wait(lambda: source(page, "without"), "the picture with the branches off")
    assert source(page, "without") != second


def test_a_click_asks_about_the_pixel_under_the_pointer(page: webdriver.Chrome, photo: Path) -> None:
    upload(page, photo)
    wait(lambda: source(page, "drawn"), "a picture of the upload")
    find(page, "#asks input")[1].click()
    image = find(page, "#drawn img")[0]
    wait(lambda: image.get_property("naturalWidth") == 640, "the picture itself")
    assert image.size["width"] >= 640 and image.size["height"] >= 400  # so it is shown as it is, in the middle
    ActionChains(page).move_to_element_with_offset(image, -160, -100).click().perform()
    x, y = wait(lambda: pixel(find(page, "#hint")[0].text), "the pixel that was asked about")
    assert abs(x - 30) <= 2 and abs(y - 19) <= 2  # of 120 x 75, which are 640 x 400 on the page


def click_picture(page: webdriver.Chrome) -> bool:
    """Again and again: while something is computed the picture takes no click."""
    ActionChains(page).move_to_element(find(page, "#drawn img")[0]).click().perform()
    time.sleep(1)
    return True


def pixel(text: str) -> tuple[int, int] | None:
    words = text.replace(",", "").split()
    at = words.index("pixel") if "pixel" in words[:-2] else -1
    return None if at < 0 or not words[at + 1].isdecimal() else (int(words[at + 1]), int(words[at + 2]))


def test_what_is_not_an_image_gets_a_sentence(page: webdriver.Chrome, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("hello")
    upload(page, tmp_path / "note.png")
    wait(lambda: "note.png cannot be read: it is not an image" in find(page, "#status")[0].text, "the sentence")
    assert source(page, "drawn") == ""


def test_nothing_is_fetched_from_elsewhere(browser: webdriver.Chrome, address: str) -> None:
    """What the tests before have made the browser ask for."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    own = (address, "data:", "blob:", "chrome", "about:")
    assert any(url.startswith(address) for url in asked)
    assert [url for url in asked if not url.startswith(own)] == []


def test_it_gives_away_only_what_was_uploaded(address: str, photo: Path) -> None:
    for file in (photo, Path(__file__), Path("README.md").absolute()):
        with pytest.raises(HTTPError, match="403"):
            urlopen(f"{address.rstrip('/')}/gradio_api/file={file}")


def test_a_port_in_use_is_a_sentence(address: str, viewer: Viewer) -> None:
    with pytest.raises(UserError, match=f"cannot be served at 127.0.0.1:{PORT}: choose another --host or --port"):
        with served(viewer, "a model", host="127.0.0.1", port=PORT):
            pass
