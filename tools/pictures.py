"""Makes the pictures of the documents from what the commands really print and show. Needs Chromium and chromedriver.

python -m tools.pictures docs/images                   # terminal.png, page.png, report.png, curve.png
python -m tools.pictures docs/images --only terminal
"""

from __future__ import annotations

import base64
import html
import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mindformers_glm.cli.options import Parser
from mindformers_glm.cli.report import report
from mindformers_glm.errors import ConfigError, UserError
from mindformers_glm.files import atomic_write
from tools.glm2_tiny.make_corpus import adgen, write_lines

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 300
_COLOURS = {
    "31": "#d16969",
    "32": "#7fbf7f",
    "33": "#d7ba7d",
    "34": "#6fa8dc",
    "35": "#c586c0",
    "36": "#56b6c2",
    "90": "#888",
}
_ESCAPE = re.compile(r"\x1b(?:\[([0-9;?]*)([A-Za-z])|\].*?(?:\x07|\x1b\\)|[=>])")
_STYLE = """body{margin:0;background:#1e2127}pre{margin:0;padding:18px 22px;color:#dcdfe4;white-space:pre-wrap;
font:15px/1.5 'DejaVu Sans Mono','Noto Sans Mono CJK SC','WenQuanYi Zen Hei Mono',monospace}"""
TALK = ("你好", "类型#裙*颜色#红色*风格#复古*裙长#长裙", "谢谢")


class Browser:
    """A headless Chromium, driven by the W3C protocol of chromedriver."""

    def __init__(self, *, width: int, height: int) -> None:
        self.port = _free_port()
        self.driver = subprocess.Popen([_program("chromedriver"), f"--port={self.port}"], stdout=subprocess.DEVNULL)
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=zh-CN",
                 f"--window-size={width},{height}", "--hide-scrollbars"]  # fmt: skip
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": words, "binary": _program("chromium")}}
        _until(lambda: self._ask("GET", "/status")["ready"], "chromedriver does not answer")
        self.session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
            return json.loads(reply.read())["value"]

    def do(self, method: str, path: str, body: Any = None) -> Any:
        """One command of the session."""
        return self._ask(method, f"/session/{self.session}{path}", body)

    def run(self, script: str) -> Any:
        """What a script of the page returns."""
        return self.do("POST", "/execute/sync", {"script": script, "args": []})

    def open(self, address: str) -> None:
        """Shows a page."""
        self.do("POST", "/url", {"url": address})

    def save(self, path: Path) -> None:
        """What the window shows, as PNG."""
        with atomic_write(path) as file:
            file.write(base64.b64decode(self.do("GET", "/screenshot")))

    def close(self) -> None:
        """Ends the browser."""
        self.do("DELETE", "")
        self.driver.terminate()
        self.driver.wait()


def terminal(folder: Path, work: Path) -> None:
    """A chat with glm2_tiny, as a terminal shows it."""
    shown = _typed(["mindformers-glm", "chat", "--no_history", "--stats"], [*TALK, "stop"], work)
    page = work / "terminal.html"
    page.write_text(f"<meta charset=utf-8><style>{_STYLE}</style><pre>{shown}</pre>", encoding="utf-8")
    _picture(page.as_uri(), folder / "terminal.png", width=1000)


def served(folder: Path, work: Path) -> None:
    """The page of the server after a question."""
    port = _free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "mindformers_glm", "serve", "--model", "glm2_tiny", "--port", str(port)],
        cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    browser = Browser(width=1100, height=720)
    try:
        _until(lambda: _answers(f"http://127.0.0.1:{port}/ready"), "the server does not answer")
        browser.open(f"http://127.0.0.1:{port}/")
        for question in ("你好", "类型#裙*颜色#红色*风格#复古*裙长#长裙"):
            box = browser.do("POST", "/element", {"using": "css selector", "value": "#input"})
            browser.do("POST", f"/element/{next(iter(box.values()))}/value", {"text": question + "\ue007"})
            time.sleep(1)
            _until(
                lambda: browser.run("return getComputedStyle(document.querySelector('#send')).display") != "none", "?"
            )
        time.sleep(1)
        browser.save(folder / "page.png")
    finally:
        browser.close()
        server.terminate()
        server.wait()


def evaluated(folder: Path, work: Path) -> None:
    """The report of an evaluation: glm2_tiny on advertisements."""
    write_lines(work / "dev.json", adgen("adgen", 24, 7))
    words = ["evaluate", "--model", "glm2_tiny", "--tasks", "adgen", "--data_dir", "dev.json", "--output_dir", "report"]
    _run(["-m", "mindformers_glm", *words], work)
    _picture((work / "report/report.html").as_uri(), folder / "report.png", width=1000)


def trained(folder: Path, work: Path) -> None:
    """The curve that a run draws: README's first training."""
    write_lines(work / "train.json", adgen("live", 400, 0))
    words = ["--config", str(ROOT / "configs/tiny/run_glm2_tiny_finetune.yaml"), "--run_mode", "finetune"]
    _run([str(ROOT / "run_mindformer.py"), *words, "--train_dataset_dir", "train.json", "--output_dir", "output"], work)
    (curve,) = (work / "output").rglob("*.png")
    shutil.copy(curve, folder / "curve.png")


PICTURES = {"terminal": terminal, "page": served, "report": evaluated, "curve": trained}


def _picture(address: str, path: Path, *, width: int) -> None:
    """The whole page as one picture."""
    browser = Browser(width=width, height=600)
    try:
        browser.open(address)
        height = browser.run("return document.documentElement.scrollHeight")
        browser.do("POST", "/window/rect", {"width": width, "height": min(int(height) + 90, 1600)})
        browser.save(path)
    finally:
        browser.close()


def _typed(command: list[str], lines: list[str], work: Path) -> str:
    """What a command shows on a terminal while lines are typed, as HTML; each when the one before is answered."""
    main, side = pty.openpty()
    environment = {**_environment(), "MINDFORMERS_GLM_LANG": "zh", "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(
        [sys.executable, "-m", "mindformers_glm", *command[1:]], cwd=work, stdin=side, stdout=side, stderr=side,
        env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(side)
    seen, waiting = b"", list(lines)
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        if select.select([main], [], [], 0.5)[0]:
            try:
                piece = os.read(main, 65536)
            except OSError:
                break
            if not piece:
                break
            seen += piece
            continue
        text = _ESCAPE.sub("", seen.decode("utf-8", "replace")).rstrip(" \r")
        if waiting and text.endswith(("：", "… ", "...")):
            os.write(main, (waiting.pop(0) + "\n").encode())
    child.wait()
    os.close(main)
    return "$ " + html.escape(" ".join(command)) + "\n" + _as_html(seen.decode("utf-8", "replace"))


def _as_html(text: str) -> str:
    """Colours and weight of a terminal's text as HTML; other sequences are left out."""
    found, place, is_open = [], 0, False
    text = text.replace("\r\n", "\n").replace("\r", "")
    for match in _ESCAPE.finditer(text):
        found.append(html.escape(text[place : match.start()]))
        place = match.end()
        if match.group(2) != "m":
            continue
        found += ["</span>"] if is_open else []
        codes = [code for code in (match.group(1) or "0").split(";") if code not in ("0", "")]
        is_open = bool(codes)
        if codes:
            colour = next((_COLOURS[code] for code in codes if code in _COLOURS), "inherit")
            style = f"color:{colour};font-weight:{'bold' if '1' in codes else 'normal'}"
            found.append(f'<span style="{style};opacity:{0.65 if "2" in codes else 1}">')
    return "".join(found) + html.escape(text[place:]) + ("</span>" if is_open else "")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _run(words: list[str], work: Path) -> None:
    done = subprocess.run([sys.executable, *words], cwd=work, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(words)}: status {done.returncode}\n{done.stderr[-2000:]}")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ConfigError(name, None, "It is not on this machine: install Debian's packages chromium, chromium-driver.")
    return path


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _answers(address: str) -> bool:
    with urllib.request.urlopen(address, timeout=5) as reply:
        return reply.status == 200


def _until(ask: Callable[[], Any], fault: str) -> None:
    """Waits until a question is answered by something true."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        try:
            if ask():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise UserError(fault)


@contextmanager
def _folder() -> Any:
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        yield Path(name)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", help="where the pictures go")
    parser.add_argument("--only", nargs="+", choices=sorted(PICTURES), default=list(PICTURES))
    given = parser.parse_args(arguments)
    folder = Path(given.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        with _folder() as work:
            PICTURES[name](folder, work)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    sys.exit(report(main))
