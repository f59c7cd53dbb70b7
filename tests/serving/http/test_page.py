"""The page in a real Chromium against a real server that answers from a script."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from server_process import ServerProcess

if importlib.util.find_spec("selenium") is None and os.environ.get("GLM_CLIENTS_PYTHON"):  # the one of the clients
    sys.path += map(str, Path(os.environ["GLM_CLIENTS_PYTHON"]).parent.parent.glob("lib/python*/site-packages"))
pytest.importorskip("selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium") or not shutil.which("chromedriver"), reason="no chromium here"),
]
HERE = Path(__file__).parent
LAST = ".message.assistant:last-of-type .body"


class Page:
    """What a user does."""

    def __init__(self, driver, address: str) -> None:
        self.driver, self.address = driver, address
        driver.get(address)
        driver.execute_script("localStorage.clear(); sessionStorage.clear(); localStorage['glm.language'] = 'zh'")
        driver.get(address)

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, what):
        return WebDriverWait(self.driver, 120, 0.05, ignored_exceptions=[Exception]).until(lambda _: what())

    def type(self, text: str) -> None:
        """As an input method does: whole characters at once, then Enter."""
        box = self.find("#input")
        box.click()
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})
        box.send_keys(Keys.ENTER)

    def ask(self, text: str) -> str:
        before = len(self.all(".message.assistant"))
        self.type(text)
        self.until(lambda: len(self.all(".message.assistant")) > before)
        self.idle()
        return self.answers()[-1]

    def idle(self) -> None:
        self.until(lambda: self.find("#send").is_displayed())

    def answers(self) -> list[str]:
        return [item.text for item in self.all(".message.assistant .body")]

    def press(self, label: str, place: int = -1) -> None:
        buttons = [item for item in self.all(".tail button") if item.text == label]
        self.driver.execute_script("arguments[0].click()", buttons[place])


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,800", "--lang=zh-CN"):
        options.add_argument(word)
    options.add_argument("--disable-dev-shm-usage")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    made = webdriver.Chrome(options=options, service=service)
    yield made
    made.quit()


@pytest.fixture
def page(driver, parrot):
    return Page(driver, parrot.address)


def test_a_message_is_sent_answered_and_still_there_after_a_reload(page):
    assert page.ask("你好，世界") == "你说 你好，世界"
    assert page.ask("再来") == "你说 再来"
    assert "个令牌" in page.find(".message.assistant .figures").text
    page.driver.refresh()
    page.until(lambda: page.answers() == ["你说 你好，世界", "你说 再来"])


def test_nothing_of_an_answer_is_run(page):
    evil = '<script>window.broken=1</script><img src=x onerror="window.broken=1"> [a](javascript:window.broken=1) **b**'
    text = page.ask("say " + json.dumps(evil))
    assert "<script>window.broken=1</script>" in text and "javascript:window.broken=1" in text
    assert page.driver.execute_script("return window.broken") is None
    assert not page.all(".message script, .message img, .message a")
    assert page.find(".message.assistant strong").text == "b"


def test_markdown_is_shown(page):
    said = (
        "# 题\n\n1. 一\n2. 二\n\n```python\nprint('<b>')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[x](https://a.b/c)"
    )
    page.ask("say " + json.dumps(said))
    assert [item.text for item in page.all(".message li")] == ["一", "二"]
    assert page.find(".message pre code").text == "print('<b>')"
    assert [item.text for item in page.all(".message td")] == ["1", "2"]
    assert page.find(".message a").get_attribute("rel") == "noopener noreferrer"


def test_an_answer_is_stopped_and_its_rows_are_free(page):
    page.type("for ever")
    page.until(lambda: "嗯" in page.answers()[-1])
    page.find("#input").send_keys(Keys.ESCAPE)
    page.idle()
    assert "已停止" in page.find(".message.assistant .tail").text
    assert page.ask("你好") == "你说 你好"


def test_a_message_is_edited_and_both_versions_stay(page):
    page.ask("一")
    page.press("编辑")
    box = page.find(".edit textarea")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("2", Keys.ENTER)
    page.until(lambda: page.answers() == ["你说 2"])
    page.idle()
    page.press("‹", 0)
    page.until(lambda: page.answers() == ["你说 一"])
    page.press("重新生成")
    page.idle()
    page.until(lambda: "2/2" in page.find(".message.assistant .tail").text)


def test_a_tool_is_called_and_its_typed_result_answered(page):
    page.find("#settings-button").click()
    tool = [{"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}}]
    page.find("#tools").send_keys(json.dumps(tool))
    page.find("#tools").send_keys(Keys.TAB)
    page.find("#settings-button").click()
    page.type("call")
    page.until(lambda: page.find("form.call textarea").is_displayed())
    assert "weather" in page.answers()[-1] and "北京" in page.answers()[-1]
    page.find("form.call textarea").send_keys("31")
    page.find("form.call button").click()
    page.until(lambda: page.answers()[-1] == "结果是 31")


def test_a_long_answer_is_whole(page):
    long = "".join("让每一天都充满新鲜感" * 40 + f"{number}。" for number in range(26))  # ten characters a token
    assert len(long) > 10_000
    assert page.ask("say " + json.dumps(long, ensure_ascii=False)) == long
    page.driver.refresh()
    page.until(lambda: page.answers() == [long])


def test_language_theme_and_phone(page):
    page.ask("你好")
    page.find("#language").click()
    assert page.find("#send").text == "Send"
    assert page.driver.execute_script("return document.documentElement.lang") == "en"
    before = page.driver.execute_script("return document.documentElement.dataset.theme")
    page.find("#theme").click()
    assert page.driver.execute_script("return document.documentElement.dataset.theme") != before
    nameless = page.driver.execute_script(
        "return [...document.querySelectorAll('button,input,select,textarea')]"
        ".filter(e => !(e.textContent.trim() || e.ariaLabel || e.closest('label'))).map(e => e.id || e.outerHTML)"
    )
    assert nameless == []
    page.driver.set_window_size(500, 800)
    try:
        assert not page.find("#new").is_displayed()
        page.find("#open-sidebar").click()
        page.until(lambda: page.find("#new").is_displayed())
    finally:
        page.driver.set_window_size(1200, 800)


def test_a_wrong_key_is_told_and_a_right_one_taken(driver):
    server = ServerProcess(str(HERE / "parrot_server.py"), "--key", "right")
    try:
        page = Page(driver, server.address)
        page.until(lambda: "密钥" in page.find("#state").text)
        page.find("#key").send_keys("right", Keys.TAB)
        page.until(lambda: page.find("#state").text == "就绪")
        assert page.ask("你好") == "你说 你好"
        assert driver.execute_script("return JSON.stringify(localStorage)").count("right") == 0
    finally:
        server.stop()


def test_a_server_that_goes_and_comes_back(driver):
    server = ServerProcess(str(HERE / "parrot_server.py"))
    port = server.address.rpartition(":")[2]
    try:
        page = Page(driver, server.address)
        assert page.ask("一") == "你说 一"
        server.process.kill()
        server.process.wait()
        page.type("二")
        page.until(lambda: page.find(".fault").is_displayed())
        server = ServerProcess(str(HERE / "parrot_server.py"), "--port", port)
        page.until(lambda: page.find("#state").text == "就绪")
        page.press("重新生成")
        page.until(lambda: page.answers()[-1] == "你说 二")
    finally:
        server.stop()


def test_the_page_loads_nothing_from_elsewhere_and_breaks_no_rule(page):
    page.ask("你好")
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded and all(name.startswith(page.address) for name in loaded)
    faults = [line["message"] for line in page.driver.get_log("browser") if line["level"] == "SEVERE"]
    assert not [line for line in faults if "Content Security Policy" in line or "TypeError" in line]
