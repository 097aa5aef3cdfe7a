"""The demo page in a real browser. Needs gradio, selenium, Chromium and its driver.

``ATTNSEG_SCREENSHOT=FILE.png`` keeps a picture of the page.
"""

import io
import json
import os
import shutil
import urllib.request

import cv2
import numpy as np
import pytest
import tiny
from PIL import Image
from saved_run import random_variables

from attnseg.infer import Predictor
from attnseg.recipe import assemble, demo_page
from attnseg.recipe.views import eval_views

gradio = pytest.importorskip("gradio")
selenium = pytest.importorskip("selenium")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="chromium or chromedriver is not installed"
)
PATIENCE = 240  # seconds, for a loaded machine


@pytest.fixture(scope="module")
def predictor():
    config = tiny.config()
    model, info = assemble.build_model(config), assemble.dataset_info(config)
    return Predictor(model, random_variables(config), info, geometry=eval_views(config))


@pytest.fixture
def address(predictor):
    page = demo_page.build_page(predictor, "a tiny network")
    yield demo_page.serve(page, block=False)
    page.close()


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless=new",
        "--no-sandbox",  # of which root has none
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-proxy-server",
        "--window-size=1280,1200",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


def fetch(driver, place):
    """(address, u8 [h w 3]) of the picture shown at a place of the page; None without one."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By

    try:
        found = driver.find_elements(By.CSS_SELECTOR, f"#{place} img")
        source = found[0].get_attribute("src") if found else None
    except StaleElementReferenceException:  # the page is changing just now
        return None
    if not source or not source.startswith("http"):
        return None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(source, timeout=PATIENCE) as answer:
        return source, np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))


def requests(driver):
    """Addresses that the browser asked, but for those that the page's policy stopped."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent, stopped = {}, set()
    for message in messages:
        parameters = message["params"]
        if message["method"] == "Network.requestWillBeSent":
            sent[parameters["requestId"]] = parameters["request"]["url"]
        elif message["method"] == "Network.loadingFailed" and parameters.get("blockedReason"):
            stopped.add(parameters["requestId"])
    return [url for request, url in sent.items() if request not in stopped]


def test_upload_slider_and_click(browser, address, predictor, tmp_path, monkeypatch):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(image[::-1, ::-1]).save(tmp_path / "photo.png", exif=exif)
    prediction = predictor(image)
    calls = []
    usual = Predictor.predict
    monkeypatch.setattr(
        Predictor, "predict", lambda self, *a, **k: calls.append(1) or usual(self, *a, **k)
    )

    def wait(condition):
        return WebDriverWait(browser, PATIENCE).until(lambda _: condition())

    def one(selector):
        return wait(lambda: next(iter(browser.find_elements(By.CSS_SELECTOR, selector)), None))

    browser.get(address)
    one("#image input[type=file]").send_keys(str(tmp_path / "photo.png"))
    first, picture = wait(lambda: fetch(browser, "prediction"))
    np.testing.assert_array_equal(picture, prediction.overlay(demo_page.USUAL_OPACITY))
    rows = wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#shares table.classes tr"))
    largest = max(prediction.shares().items(), key=lambda item: item[1])
    assert largest[0] in rows[1].text and f"{100 * largest[1]:.1f} %" in rows[1].text

    # The slider: another picture, and nothing asked of the network.
    one("#opacity input[type=range]").send_keys(Keys.HOME)

    def changed():
        found = fetch(browser, "prediction")
        return found if found and found[0] != first else None

    _, picture = wait(changed)
    np.testing.assert_array_equal(picture, image)
    assert len(calls) == 1
    for _ in range(12):
        one("#opacity input[type=range]").send_keys(Keys.ARROW_RIGHT)
    wait(lambda: (f := fetch(browser, "prediction")) and (f[1] == prediction.overlay(0.6)).all())

    # A click into the middle of the picture: the attention of that pixel.
    assert demo_page.INVITATION in one("#told").text
    middle = one("#prediction img")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", middle)
    ActionChains(browser).move_to_element(middle).click().perform()
    wait(lambda: "row" in one("#told").text)
    words = one("#told").text.replace(",", "").split()
    row, column = (int(words[words.index(what) + 1]) for what in ("row", "column"))
    assert abs(row - 60) <= 3 and abs(column - 80) <= 3, one("#told").text
    _, attention = wait(lambda: fetch(browser, "attention"))
    assert attention.shape == image.shape and (attention != image).any()

    if keep := os.environ.get("ATTNSEG_SCREENSHOT"):
        browser.save_screenshot(keep)
    asked = requests(browser)
    assert any(url.startswith(address) for url in asked)
    outside = [u for u in asked if u.startswith(("http", "ws")) and "127.0.0.1" not in u]
    assert not outside, outside


def test_what_is_no_image_is_told_on_the_page(browser, address, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    whole = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    browser.get(address)
    wait = WebDriverWait(browser, PATIENCE)
    field = wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#image input[type=file]"))[0]
    field.send_keys(str(tmp_path / "cut.png"))
    wait.until(lambda d: "cut.png" in d.page_source and "damaged" in d.page_source)
    assert not browser.find_elements(By.CSS_SELECTOR, "#prediction img")
