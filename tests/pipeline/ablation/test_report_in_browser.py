"""The report of a made-up ablation at work in headless Chromium: by keyboard, on narrow screens, on paper, bare."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablation import tables
from pipeline.ablation.metrics import METRICS
from pipeline.ablation.parts import AblationReport, Difference
from pipeline.ablation.report import render

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page(ablation: AblationReport) -> str:
    return render(ablation)


class Browser:
    """A headless Chromium that is spoken to over two pipes, so that keys and clicks are real ones."""

    def __init__(self, profile: Path) -> None:
        inward, self._out = os.pipe()
        self._in, outward = os.pipe()

        def connect() -> None:  # the browser reads from descriptor 3 and writes to 4
            high = [os.dup2(inward, 20), os.dup2(outward, 21)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command, preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(inward)
        os.close(outward)
        self._rest, self._count, self._session = b"", 0, ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol; what the console says meanwhile is kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self._read(deadline)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
        raise TimeoutError(method)

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            self._rest += os.read(self._in, 1 << 20)
        first, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(first)
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(message["params"])[:300])
        return message

    def open(self, file: Path, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + 60
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        codes = {"Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        typed = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper())), "text": text or key}
        if key.startswith("Arrow"):
            typed.pop("text")
        if key == "Enter":
            typed["text"] = "\r"
        self.call("Input.dispatchKeyEvent", type="keyDown" if "text" in typed else "rawKeyDown", **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in typed.items() if k != "text"})

    def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def file(page: str, tmp_path: Path) -> Path:
    found = tmp_path / "report.html"
    found.write_text(page, encoding="utf-8")
    return found


@needs_browser
def test_a_browser_has_nothing_to_complain_about_at_any_width(browser: Browser, file: Path, page: str) -> None:
    browser.complaints.clear()
    for width in (1280, 390):
        browser.open(file, width)
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert browser.value("[...document.querySelectorAll('main svg')].every(one => one.getBBox().width > 100)")
    table = "document.querySelector('.cells').closest('.scroll')"
    browser.open(file, 1280)
    assert browser.value(f"{table}.scrollWidth <= {table}.clientWidth")
    assert browser.complaints == []
    other = file.with_name("other.html")
    other.write_text(page.replace("</main>", '<script>document.title = "run"</script></main>'), encoding="utf-8")
    browser.open(other, 1280)
    assert browser.value("document.title") != "run"  # the policy lets the page's own scripts run, and no others
    assert browser.complaints


@needs_browser
def test_five_metrics_of_many_digits_fit_a_laptop(
    browser: Browser, tmp_path: Path, ablation: AblationReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recall among the first columns, wide intervals in all, and a seed that one of each pair lacks."""
    monkeypatch.setattr(tables, "FIRST", tuple(METRICS))
    wide = Difference(mean=-112.34, error=0.1, low=-135.25, high=-104.43, p=0.0123, detectable=118.9, n=2)
    narrow = Difference(mean=-0.1234, error=0.1, low=-0.3525, high=0.1443, p=0.0123, detectable=0.1189, n=2)
    differences = {metric: narrow if words.share else wide for metric, words in METRICS.items()}
    cells = [ablation.base, *(cell.model_copy(update={"differences": differences}) for cell in ablation.others)]
    file = tmp_path / "five.html"
    file.write_text(render(ablation.model_copy(update={"cells": cells, "metrics": list(METRICS)})), encoding="utf-8")
    browser.open(file, 1280)
    assert browser.value("document.querySelectorAll('.cells thead th').length") == 7
    table = "document.querySelector('.cells').closest('.scroll')"
    assert browser.value(f"{table}.scrollWidth <= {table}.clientWidth")
    cut = "[...document.querySelectorAll('.cells .whole')].every(one => one.getClientRects().length === 1)"
    assert browser.value(cut)  # no number or interval is broken


@needs_browser
def test_two_cells_are_compared_by_the_keyboard(browser: Browser, file: Path) -> None:
    browser.open(file, 1280)
    status = "document.getElementById('compare-status').textContent"
    assert browser.value(status) == "Left of the edge none, chained, right of it noise-small, chained."
    browser.value("document.getElementById('compare-flip').focus()")
    browser.press(" ")
    assert browser.value(status) == "Showing none, chained."
    browser.press("Enter")
    assert browser.value(status) == "Showing noise-small, chained."
    browser.press("f")
    assert browser.value(status) == "Showing none, chained."
    browser.value("document.getElementById('compare-wipe').focus()")
    browser.press("ArrowLeft")
    assert browser.value(status).startswith("Left of the edge")
    assert (
        browser.value("getComputedStyle(document.getElementById('compare-over')).clipPath") == "inset(0px 1% 0px 0px)"
    )
    browser.value("document.querySelector('.sheet[data-name=blur] button').focus()")
    browser.press("Enter")
    assert "right of it blur, chained" in browser.value(status)
    shown, wanted = "document.getElementById('compare-under').src", "document.querySelector('[data-name=blur] img').src"
    assert browser.value(f"{shown} === {wanted}")
    assert browser.value("getComputedStyle(document.getElementById('compare-under')).imageRendering") == "pixelated"
    strips = "[...document.querySelectorAll('#strips-rows span')].map(name => name.textContent).join()"
    assert browser.value(strips) == "none,noise-small,noise-large,truncated,blur,no-class,real, held out"


@needs_browser
def test_the_table_is_sorted_by_a_column(browser: Browser, file: Path) -> None:
    browser.open(file, 1280)
    names = "[...document.querySelectorAll('.cells tbody th')].map(name => name.firstChild.textContent.trim()).join()"
    assert browser.value(names).startswith("none,noise-small")
    browser.value("document.querySelectorAll('.cells thead [role=button]')[5].focus()")
    browser.press("Enter")
    assert browser.value(names) == "no-class,none,blur,noise-small,truncated,noise-large"


@needs_browser
def test_it_prints_on_paper_with_everything_unfolded(browser: Browser, file: Path) -> None:
    browser.open(file, 1280)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 16
    browser.call("Emulation.setEmulatedMedia", media="print")
    folded = "[...document.querySelectorAll('details:not([open]) .command')].every(box => box.checkVisibility())"
    shown = browser.value(folded)
    browser.call("Emulation.setEmulatedMedia", media="")
    assert shown


@needs_browser
def test_it_can_be_read_without_scripts(browser: Browser, file: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(file, 1280)
    hidden = browser.value("document.getElementById('compare').hidden + ',' + document.getElementById('strips').hidden")
    grids = browser.value("[...document.querySelectorAll('.sheet img')].filter(one => one.checkVisibility()).length")
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert hidden == "true,true"
    assert grids == 7  # the oracle's are folded away
