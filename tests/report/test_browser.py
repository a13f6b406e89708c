"""The page in a real browser: no request leaves it, nothing is refused or fails, the slider slides, everything fits.

Headless Chromium is driven by its own protocol over a pipe. Without a Chromium on the machine, or with one that does
not start there, these tests are skipped, and say why.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.experiment.remarks import write_labels, write_note

fcntl = pytest.importorskip("fcntl", reason="the browser is driven over pipes of a Unix")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--disable-component-update"),
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PATIENCE = 120.0  # seconds: a machine may be busy with other things


class Gone(Exception):
    """The browser ended by itself; what it said last."""


class Browser:
    """One page of a headless Chromium; `events` holds everything that the browser told about it."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self.writing = os.pipe()
        self.reading, from_browser = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]

        def place() -> None:  # the protocol's pipe is file descriptors 3 and 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.said = profile.with_name(f"{profile.name}.log")
        command = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                command, stdout=said, stderr=said, close_fds=False, preexec_fn=place, start_new_session=True
            )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self.buffer, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Attach to a page of its own. Raises Gone where the browser cannot run."""
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: object) -> Any:
        """One command, and its result."""
        self.number += 1
        message: dict[str, object] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        try:
            os.write(self.writing, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise self.gone() from None
        found = self.until(lambda found: found.get("id") == self.number)
        assert "result" in found, (method, found.get("error"))
        return found["result"]

    def gone(self) -> "Gone":
        return Gone(self.said.read_text("utf-8", "replace")[-400:])

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Take in messages until one is as wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while b"\0" not in self.buffer:
                left = deadline - time.monotonic()
                assert left > 0, "the browser does not answer"
                if select.select([self.reading], [], [], left)[0]:
                    read = os.read(self.reading, 1 << 20)
                    if not read:
                        raise self.gone()
                    self.buffer += read
            line, _, self.buffer = self.buffer.partition(b"\0")
            found = json.loads(line)
            if "method" in found:
                self.events.append(found)
            if wanted(found):
                return found

    def open(self, page: Path) -> None:
        """Go to a page and wait until it is there, whatever was loaded before."""
        self("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + PATIENCE
        while self.ask("document.readyState + ' ' + location.href") != f"complete {page.as_uri()}":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.02)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def show(self, metrics: dict[str, object], scheme: str = "light") -> None:
        self("Emulation.setDeviceMetricsOverride", **metrics)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.writing)
            os.close(self.reading)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # of its own session: its renderers and nobody else
        self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in NAMES if (found := shutil.which(name)) is not None), None)
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    started = Browser(program, tmp_path_factory.mktemp("browser") / "profile")
    try:
        try:
            started.begin()
        except Gone as gone:
            pytest.skip(f"{program} is there but does not start: {gone}")
        yield started
    finally:
        started.close()


@pytest.fixture
def page(browser: Browser, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "report.html"
    sfumato.report(digits, target, n=6)
    browser.events.clear()
    return target


def test_no_request_leaves_the_page_and_nothing_fails(browser: Browser, page: Path) -> None:
    browser.show(DESKTOP)
    browser.open(page)
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", page.as_uri()))] == []
    wrong = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event["params"] for event in browser.events if event["method"] in wrong] == []
    assert browser.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_the_slider_shows_one_moment_and_moves(browser: Browser, page: Path) -> None:
    browser.show(DESKTOP)
    browser.open(page)
    shown = "[...document.querySelectorAll('.moment')].map(m => getComputedStyle(m).display != 'none')"
    count = browser.ask("document.querySelectorAll('.moment').length")
    assert browser.ask(shown) == [False] * (count - 1) + [True]
    browser.ask("(r => { r.value = 2; r.dispatchEvent(new Event('input')); })(document.querySelector('.film input'))")
    assert browser.ask(shown) == [index == 2 for index in range(count)]
    said = browser.ask("document.querySelectorAll('.moment')[2].dataset.said")
    assert browser.ask("document.querySelector('.film output').textContent") == said
    assert browser.ask("document.querySelector('.film input').getAttribute('aria-valuetext')") == said
    browser.ask("document.querySelector('.film button').click()")
    deadline = time.monotonic() + PATIENCE
    while browser.ask("document.querySelector('.film button').textContent") != "Play" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert browser.ask(shown) == [False] * (count - 1) + [True]


def test_without_scripts_the_film_is_a_strip(browser: Browser, page: Path) -> None:
    browser.show(DESKTOP)
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.ask("document.querySelector('.controls').offsetHeight") == 0
        assert browser.ask("[...document.querySelectorAll('.moment')].every(m => m.offsetWidth > 0)")
        closed = browser.ask("[...document.querySelectorAll('details')].filter(d => !d.open).length")
        assert closed > 0
        unfolding = "(d => { d.querySelector('summary').click(); return d.open; })"
        assert browser.ask(f"{unfolding}(document.querySelector('details:not([open])'))")
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, device: dict[str, object], scheme: str) -> None:
    """Tables, strips and commands scroll within themselves; the page does not."""
    browser.show(device, scheme)
    browser.open(page)
    browser.ask("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.ask("document.documentElement.scrollWidth") <= device["width"]  # type: ignore[operator]
    dark = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(22, 21, 19)"
    assert dark == (scheme == "dark")
    assert len(base64.b64decode(browser("Page.captureScreenshot", format="png")["data"])) > 10_000


def test_on_paper_everything_is_unfolded_on_white(browser: Browser, page: Path) -> None:
    browser.show(DESKTOP, "dark")
    browser("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.open(page)
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.ask("document.querySelector('.controls').offsetHeight") == 0
    assert browser.ask("[...document.querySelectorAll('.moment.key-moment')].every(m => m.offsetWidth > 0)")
    hidden = (
        "[...document.querySelectorAll('details > :not(summary)')].filter(e => e.getClientRects().length == 0).length"
    )
    assert browser.ask(hidden) == 0
    content = base64.b64decode(browser("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert content.startswith(b"%PDF")
    browser("Emulation.setEmulatedMedia", media="", features=[])


LONG, HOSTILE = (
    "x" * 300,
    "</title></style></script><script>alert(1)</script><svg onload=alert(2)><img src=//x.example/y>",
)


@pytest.fixture
def hostile(digits: Path, tmp_path: Path, browser: Browser) -> Path:
    """The page of a run that says long and evil things of itself wherever it can."""
    run = shutil.copytree(digits, tmp_path / f"run <b onclick=alert(3)> {'y' * 120}")
    environment = json.loads((run / "environment.json").read_text())
    environment |= {"command": ["sfumato", HOSTILE, LONG], "platform": f"{LONG} {HOSTILE}", "devices": [HOSTILE]}
    environment["versions"] = {HOSTILE: LONG, LONG: HOSTILE}
    (run / "environment.json").write_text(json.dumps(environment))
    config = (run / "config.yaml").read_text("utf-8")
    said = json.dumps(f"{LONG} {HOSTILE}")
    (run / "config.yaml").write_text(re.sub(r"(?m)^description:.*$", lambda _: f"description: {said}", config), "utf-8")
    write_labels(run, ["l" * 64, "paper"], [])
    write_note(run, f"{LONG}\n{HOSTILE}\u202e")
    (run / "evaluations").mkdir()
    number = {"value": 1.0, "std_error": 0.1, "n": 9, "provenance": {HOSTILE: LONG, "reference": HOSTILE}}
    numbers = {f"kid[{HOSTILE}]": number, LONG: number, "loss_by_log_snr[-1..1][held-out]": number}
    (run / "evaluations" / "<b>.json").write_text(json.dumps({"metrics": numbers, "notes": [LONG, HOSTILE]}))
    browser.events.clear()
    return sfumato.report(run, n=2, command=f"sfumato report {LONG} {HOSTILE}")


@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_long_and_hostile_names_neither_run_nor_widen_the_page(
    browser: Browser, hostile: Path, device: dict[str, object]
) -> None:
    browser.show(device)
    browser.open(hostile)
    browser.ask("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && "
    wide += "!e.closest('.scroll, .strip, pre, .skip')).map(e => e.tagName + '.' + e.className).slice(0, 5)"
    assert browser.ask("document.documentElement.scrollWidth") <= device["width"], browser.ask(wide)  # type: ignore[operator]
    assert browser.ask("document.scripts.length") == 1
    assert browser.ask("document.querySelectorAll('[onclick], [onload], [onerror]').length") == 0
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", hostile.as_uri()))] == []
    assert not [e for e in browser.events if e["method"] in ("Page.javascriptDialogOpening", "Log.entryAdded")]


def test_a_sweep_fits_a_phone(browser: Browser, sweep: Any, measure: Callable[..., None]) -> None:
    for arm, value in zip(sweep.arms[:3], (0.1, 0.1, 0.2), strict=True):
        measure(arm.folder, {"kid[pixels]": (value, 0.001, 100)})
    page = sfumato.report(sweep, n=2)
    for device in (PHONE, DESKTOP):
        browser.show(device, "dark")
        browser.open(page)
        browser.ask("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert browser.ask("document.documentElement.scrollWidth") <= device["width"]  # type: ignore[operator]
        levels = browser.ask("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
