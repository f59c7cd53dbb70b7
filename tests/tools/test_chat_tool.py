"""tools/chat.py as users run it: from a pipe, and at a terminal that a pseudo-terminal plays."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time

import pytest
from waiting import has_ended

from mindformers_glm.config.names import ASSETS

pytestmark = pytest.mark.skipif(
    not (ASSETS / "glm2_tiny" / "model.safetensors").is_file(),
    reason="the weights of glm2_tiny are not in this checkout",
)
SECONDS = 240.0  # for anything that waits, on a machine that is busy
ADVERT = "类型#裙*版型#显瘦*风格#文艺*风格#简约*图案#印花*图案#撞色*裙下摆#压褶*裙长#连衣裙*裙领型#圆领"


def run(root, *options: str, typed: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, str(root / "tools" / "chat.py"), *options]
    return subprocess.run(command, input=typed, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False)


class Terminal:
    """A process at a pseudo-terminal: type, and wait for what it shows."""

    def __init__(self, *command: str) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", LC_ALL="C.UTF-8")
            os.execv(command[0], command)
        self.data = b""

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    @property
    def text(self) -> str:
        """What was shown, without the escape sequences of line editing."""
        shown = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", self.data.decode("utf-8", "ignore"))
        return shown.replace("\r\n", "\n").replace("\r", "")

    def wait_for(self, pattern: str, *, begin: int = 0) -> int:
        """Where the pattern ends in the text; it is looked for behind `begin`."""
        limit = time.monotonic() + SECONDS
        while True:
            found = re.compile(pattern, re.DOTALL).search(self.text, begin)
            if found:
                return found.end()
            ready, _, _ = select.select([self.screen], [], [], 1.0)
            try:
                self.data += os.read(self.screen, 4096) if ready else b""
            except OSError:  # the other side has gone
                ready = []
                limit = 0.0
            if time.monotonic() > limit:
                pytest.fail(f"{pattern!r} was not shown. The screen:\n{self.text}")

    def exit_status(self) -> int:
        reader = threading.Thread(target=self._read_on, daemon=True)  # what is not read would hold it up
        reader.start()
        if not has_ended(self.pid, seconds=SECONDS):
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
            pytest.fail(f"it did not end. The screen:\n{self.text}")
        reader.join()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read_on(self) -> None:
        with contextlib.suppress(OSError):  # the other side has gone
            while part := os.read(self.screen, 4096):
                self.data += part


def test_help_needs_no_mindspore(root):
    done = run(root, "--help")
    assert done.returncode == 0
    assert "--max_new_tokens" in done.stdout


@pytest.mark.slow
def test_questions_from_a_pipe(root):
    done = run(root, "--stats", "--seed", "1", typed=f"你好\n{ADVERT}\nclear\n你好\n")
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == 3
    assert all(answer.startswith("答：") and len(answer) > 4 for answer in answers)
    assert answers[0] == answers[2]  # nothing is left of the conversation after clear
    assert done.stderr.count("tokens/s") == 3


@pytest.mark.slow
def test_what_is_wrong_is_one_line_and_status_2(root, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps([{"name": "weather"}]))
    for options, typed, fault in (
        (["--tools", str(tmp_path / "tools.json")], "", "ChatGLM2 knows no tools"),
        (["--seq_length", "24"], "很长的问题" * 20 + "\n", "Type clear to begin anew"),
        (["--model", "glm2_tinny"], "", "Did you mean 'glm2_tiny'"),
        (["--top_p", "3"], "", "top_p: got 3.0"),
    ):
        done = run(root, *options, typed=typed)
        assert done.returncode == 2, done.stdout + done.stderr
        assert fault in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")


@pytest.mark.slow
def test_the_tiny_glm3_keeps_its_roles(root):
    options = ["--model", str(root / "configs/tiny/run_glm3_tiny.yaml"), "--max_new_tokens", "8", "--lang", "en"]
    done = run(root, *options, "--stats", typed="你好\nhello\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Output: ") == 2
    assert done.stderr.count("tokens/s") == 2


@pytest.mark.slow
def test_a_session_at_a_terminal(root, tmp_path):
    screen = Terminal(sys.executable, str(root / "tools" / "chat.py"), "--stats")
    place = screen.wait_for("glm2_tiny：.*问：")
    screen.type("你好\n")
    place = screen.wait_for("答：[^\n]{2,}\n\\[prompt [^\n]*tokens/s[^\n]*\n问：", begin=place)

    screen.type(ADVERT + "\n")
    place = screen.wait_for("答：[^\n]{20,}\n\\[prompt [^\n]*\n问：", begin=place)

    screen.type(ADVERT + "*裙袖长#长袖*裙款式#拼接\n")
    place = screen.wait_for("答：[^\n]{2}", begin=place)
    screen.type("\x03")
    place = screen.wait_for("（已停止）\n\\[prompt [^\n]*\n问：", begin=place)

    screen.type("第一行\\\n第二行\n")
    place = screen.wait_for("\\.\\.\\. .*答：.*问：", begin=place)
    screen.type(f"save {tmp_path}/talk.json\n")
    place = screen.wait_for("（已保存到.*问：", begin=place)
    screen.type("clear\n")
    place = screen.wait_for("（对话已清空）\n问：", begin=place)
    screen.type("谢谢\n")
    place = screen.wait_for("答：[^\n]{2,}\n\\[prompt (\\d+) tokens[^\n]*\n问：", begin=place)
    assert "\ufffd" not in screen.text
    screen.type("\x03")
    place = screen.wait_for("（再按一次 Ctrl-C[^\n]*\n问：", begin=place)
    screen.type("stop\n")
    assert screen.exit_status() == 0
    (talk,) = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    said = [message["content"] for message in talk["messages"] if message["role"] == "user"]
    assert said[:2] == ["你好", ADVERT]
    assert said[-1] == "第一行\n第二行"


@pytest.mark.slow
def test_ctrl_d_and_two_ctrl_c_end_a_session(root):
    for keys in (["\x04"], ["\x03", "\x03"]):
        screen = Terminal(sys.executable, str(root / "tools" / "chat.py"), "--lang", "en")
        place = screen.wait_for("type a message.*Input: ")
        for key in keys[:-1]:
            screen.type(key)
            place = screen.wait_for("once more[^\n]*\nInput: ", begin=place)
        screen.type(keys[-1])
        assert screen.exit_status() == 0
