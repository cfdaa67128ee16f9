"""The page in a real Chromium: what it says is what `Status` says, and nothing comes from elsewhere.

Debian's package `chromium` has it.
"""

import hashlib
import json
import re
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ports import free_address
from shown import got

import feedline
from feedline_server.watching.events import MOST_PAGES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

WITHIN_MS = 60_000

CODE = """
import time

def slowly(x):
    time.sleep(0.2)
    return x

def checked(x):
    if x[0, 0, 0] == 7:
        raise ValueError("<img src=x onerror=document.title='run'>")
    return x
"""

CONFIG = """
[datasets.d]
path = "d"
[[datasets.d.transforms]]
code = "mine:slowly"
columns = ["x"]
per = "batch"

[datasets.bad]
path = "bad"
on_bad_sample = "skip"
[[datasets.bad.transforms]]
code = "mine:checked"
columns = ["x"]
"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium is not None, "install Debian's package chromium, or another Chromium on the PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open a page, and wait until it shows something."""
    contexts = []

    def run(address: str, **settings: Any) -> "Page":
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(WITHIN_MS)
        page.goto(f"http://{address}/")
        page.wait_for_selector("body[data-ready=yes]")
        return page

    yield run
    for context in contexts:
        context.close()


Opened = Callable[..., Any]


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Two datasets: the loader waits for the code of one, and finds samples of the other bad."""
    for name in ("d", "bad"):
        (tmp_path / name).mkdir()
        x = np.zeros((512, 16, 16, 3), np.uint8)
        x[:, 0, 0, 0] = np.arange(512) % 256
        np.save(tmp_path / name / "x.npy", x)
        np.save(tmp_path / name / "y.npy", np.arange(512))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "loader.toml").write_text(CONFIG)
    return tmp_path / "loader.toml"


@pytest.fixture
def address(served: Path, start_loader: Callable[..., Any]) -> Iterator[str]:
    """The page of a loader that a trainer waits for."""
    metrics = free_address()
    loader = start_loader(served, "--workers", "1", "--metrics-listen", metrics)
    ended = threading.Event()

    def train() -> None:
        with feedline.connect(loader.address, timeout_s=60) as connection:
            feed = connection.feed(dataset="d", batch_size=16)
            while not ended.is_set():
                for _ in feed:
                    if ended.is_set():
                        return

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        until = time.monotonic() + 60
        while "waited" not in got(metrics, "/view.json") and time.monotonic() < until:
            time.sleep(0.2)
        yield metrics
    finally:
        ended.set()
        trainer.join(60)


def test_the_page_says_what_status_says(address: str, opened: Opened) -> None:
    page = opened(address)
    page.wait_for_selector("#waits polygon", state="attached")
    text = page.inner_text("body")
    found = json.loads(got(address, "/view.json"))

    (loader,) = found["loaders"]
    (trainer,) = found["trainers"]
    assert f"loader {loader['replica']}, feedline {loader['version']}" in text
    assert found["verdicts"][0]["cause"] == "workers"
    assert re.search(
        r"The trainer waited 9\d\.\d % of the last (\d+ s|minute); .* of that for `mine:slowly` on 1", text
    )
    assert "0 of 1" in text
    assert f"{trainer['steps']}" in text
    assert "for transform" in text
    assert page.eval_on_selector_all("#view option", "all => all.map((one) => one.value)") == ["d/train", "bad/train"]
    assert "transform" in page.eval_on_selector_all("#waits polygon title", "all => all.map((one) => one.textContent)")


def test_the_loader_tells_the_page_which_asks_for_nothing_again(address: str, opened: Opened) -> None:
    page = opened(address)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    def sent() -> str:
        return str(page.inner_text("#counters tr:has(th:text-is('batches sent')) td"))

    for _ in range(3):
        page.wait_for_function(
            "before => [...document.querySelectorAll('#counters tr')]"
            ".some((row) => row.textContent.startsWith('batches sent') && !row.textContent.endsWith(before))",
            arg=sent(),
        )

    assert asked == []


def test_a_batch_of_the_page_is_the_one_that_a_trainer_gets(address: str, opened: Opened) -> None:
    page = opened(address)
    page.fill("#offset", "500")
    page.press("#offset", "Enter")
    page.wait_for_selector("#batch canvas")

    corners = page.eval_on_selector_all(
        "#batch canvas", "all => all.map((one) => [...one.getContext('2d').getImageData(0, 0, 1, 1).data])"
    )
    assert corners == [[number % 256, 0, 0, 255] for number in range(500, 508)]
    assert "y int64 (8): min 500, max 507, mean 503.5" in page.inner_text("#batch")
    assert page.locator("#batch figure:has-text('y int64') rect").count() == 48

    page.fill("#offset", "512")
    page.click("#ask button")
    page.wait_for_function("() => document.getElementById('batch').textContent.startsWith('InvalidRequest: ')")


def test_bad_samples_and_errors_are_shown_as_text_whatever_is_in_them(
    served: Path, start_loader: Callable[..., Any], opened: Opened
) -> None:
    metrics = free_address()
    loader = start_loader(served, "--workers", "1", "--metrics-listen", metrics)
    with feedline.connect(loader.address, timeout_s=60) as connection:
        assert sum(batch.rows for batch in connection.feed(dataset="bad", batch_size=64)) == 510

    page = opened(metrics)

    bad = page.inner_text("#bad")
    assert "bad: " in bad
    assert "ValueError: <img src=x onerror=document.title='run'>" in bad
    page.wait_for_selector("#bad canvas")
    corners = page.eval_on_selector_all(
        "#bad canvas", "all => all.map((one) => [...one.getContext('2d').getImageData(0, 0, 1, 1).data])"
    )
    assert corners == [[7, 0, 0, 255]] * 2
    bad = page.inner_text("#bad")
    assert "sample 7, as it came to dataset 'bad', transforms.0 (mine:checked)" in bad
    assert "x uint8 (16, 16, 3): min 0, max 7, mean 0.009115" in bad
    assert "y int64 (): min 263, max 263, mean 263\n263" in bad
    assert page.locator("img").count() == 0
    assert page.title() == "feedline"
    assert page.inner_text("#errors") == "none"


NAMED = """
import numpy as np

class Named:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 2:
            raise ValueError("two")
        x = np.full((16, 16, 3), index, np.uint8)
        name = "<img src=x onerror=document.title='run'>"
        return {"x": x if index != 5 else x[:9], "y": index, **({name: x[0]} if index == 6 else {})}
"""


def test_bad_samples_of_own_code_are_shown_with_what_it_had_and_asked_for_once(
    tmp_path: Path, start_loader: Callable[..., Any], opened: Opened
) -> None:
    (tmp_path / "named.py").write_text(NAMED)
    (tmp_path / "loader.toml").write_text('[datasets.own]\nobject = "named:Named"\non_bad_sample = "skip"\n')
    metrics = free_address()
    loader = start_loader(tmp_path / "loader.toml", "--workers", "1", "--metrics-listen", metrics)
    with feedline.connect(loader.address, timeout_s=60) as connection:
        assert sum(batch.rows for batch in connection.feed(batch_size=8, order="sequential")) == 5

    page = opened(metrics)
    page.wait_for_function("() => document.querySelectorAll('#bad li').length === 3")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#bad li > div')].every((one) => one.childElementCount)"
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    said = page.inner_text("#state")
    page.wait_for_function("said => document.getElementById('state').textContent !== said", arg=said)

    of_two, of_five, of_six = (page.locator(f"#bad li:has-text('sample {number} (')") for number in (2, 5, 6))
    assert "raised before it returned anything, and no variable held an array" in of_two.inner_text()
    assert "The sample as it was returned" in of_five.inner_text()
    assert of_five.locator("canvas").count() == 1
    assert "<img src=x onerror=document.title='run'>" in of_six.inner_text()
    assert asked == []
    assert page.locator("img").count() == 0
    assert page.title() == "feedline"


def test_a_token_sees_its_datasets_alone(
    served: Path, tmp_path: Path, start_loader: Callable[..., Any], opened: Opened
) -> None:
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"secret").hexdigest()
    tokens.write_text(f'[me]\nsha256 = "{digest}"\ndatasets = ["bad"]\n')
    secret = tmp_path / "token"
    secret.write_text("secret")
    metrics = free_address()
    loader = start_loader(served, "--workers", "1", "--metrics-listen", metrics, "--tokens", str(tokens))
    with feedline.connect(loader.address, timeout_s=60, token_file=secret) as connection:
        assert sum(batch.rows for batch in connection.feed(dataset="bad", batch_size=64)) == 510

    page = opened(metrics, http_credentials={"username": "anybody", "password": "secret"})

    assert page.eval_on_selector_all("#view option", "all => all.map((one) => one.value)") == ["bad/train"]
    refused = page.evaluate("fetch('batch.json?view=d/train&offset=0').then((answer) => answer.text())")
    assert refused == "InvalidRequest: there is no such dataset and view here"


def test_it_is_used_by_keyboard_and_dark_where_the_screen_is(address: str, opened: Opened) -> None:
    light, dark = (opened(address, color_scheme=one) for one in ("light", "dark"))
    background = "getComputedStyle(document.body).backgroundColor"

    assert (light.evaluate(background), dark.evaluate(background)) == ("rgb(255, 255, 255)", "rgb(22, 24, 27)")
    for _ in range(3):
        light.keyboard.press("Tab")
    light.keyboard.press("Enter")
    light.wait_for_selector("th[aria-sort=descending]:has-text('waits')")
    assert light.evaluate("document.activeElement.textContent") == "waits"


def test_a_page_says_that_its_loader_is_gone_and_goes_on_with_the_one_that_comes(
    served: Path, start_loader: Callable[..., Any], opened: Opened
) -> None:
    metrics = free_address()
    first = start_loader(served, "--workers", "1", "--metrics-listen", metrics)
    page = opened(metrics)
    before = page.inner_text("#loader")
    first.process.kill()
    first.process.wait()

    page.wait_for_selector("#state:has-text('the loader does not answer; what is shown is of before')")
    start_loader(served, "--workers", "1", "--metrics-listen", metrics)
    page.wait_for_function("before => document.getElementById('loader').textContent !== before", arg=before)
    page.wait_for_selector("#state:has-text('as of')")


def test_one_page_more_than_there_may_be_says_so_until_there_is_room(
    served: Path, start_loader: Callable[..., Any], browser: "Browser"
) -> None:
    metrics = free_address()
    start_loader(served, "--workers", "1", "--metrics-listen", metrics)
    host, _, port = metrics.partition(":")
    others = [socket.create_connection((host, int(port)), timeout=60) for _ in range(MOST_PAGES)]
    try:
        for one in others:
            one.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 200"
        page = browser.new_page()
        page.set_default_timeout(WITHIN_MS)
        page.goto(f"http://{metrics}/")
        page.wait_for_selector("#state:has-text('16 pages are open, which is all there may be; close one')")
        others[0].close()
        page.wait_for_selector("#state:has-text('as of')")
        page.close()
    finally:
        for one in others:
            one.close()


def test_nothing_comes_from_elsewhere_and_nothing_else_may_run(address: str) -> None:
    with urllib.request.urlopen(f"http://{address}/", timeout=20) as answer:
        policy, page = answer.headers["Content-Security-Policy"], answer.read().decode()
    files = [
        page,
        *(urllib.request.urlopen(f"http://{address}/{name}").read().decode() for name in ("page.js", "page.css")),
    ]

    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert not [url for text in files for url in re.findall(r"https?://[^\s\"']+", text) if "www.w3.org" not in url]
    assert not re.search(r"innerHTML|insertAdjacentHTML|outerHTML|document\.write|eval\(", files[1])
