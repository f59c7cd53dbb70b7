"""`make demo-chat`: tunes a small ChatGLM3 to ask a tool for prices, counts its calls, and lets you talk to it.

python demo/run_tool.py --no_chat
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo import commands  # noqa: E402
from demo.aside import set_aside  # noqa: E402
from demo.screen import curve, heading, is_terminal, note, paint, quote, table  # noqa: E402
from demo.stage import StageFailed, run_stage  # noqa: E402
from demo.tool_data import NAME, TOOLS, Asked, asked, conversations, products  # noqa: E402
from mindformers_glm.cli.options import Parser, whole  # noqa: E402
from mindformers_glm.cli.report import report  # noqa: E402
from mindformers_glm.files import write_text  # noqa: E402
from mindformers_glm.messages import say  # noqa: E402
from tools.glm2_tiny.make_corpus import write_lines  # noqa: E402

CONFIG = "demo/tool.yaml"
HELD_BACK = 40  # products that no conversation of the training names
_ASSETS = ROOT / "mindformers_glm/assets/glm3_tiny"
_INTERRUPTED = 130


class ToolDemo:
    """Data, tuning and figures of the demo that calls a tool."""

    def __init__(self, output: Path, *, train_lines: int, eval_lines: int) -> None:
        self.output, self.train_lines, self.eval_lines = output, train_lines, eval_lines
        self.train_file, self.tools_file = output / "conversations.jsonl", output / "tools.json"
        self.model, self.results = output / "model", output / "results.json"

    def make_data(self) -> None:
        """Writes the conversations and the description of the tool."""
        heading(say("1  The data: a shop's assistant that asks a tool for prices"))
        rows = list(conversations(random.Random(1), products(1)[HELD_BACK:], self.train_lines))
        write_lines(self.train_file, iter(rows))
        write_text(self.tools_file, json.dumps(TOOLS, ensure_ascii=False, indent=1) + "\n")
        note(say("{lines} conversations to learn from; one of them:", lines=self.train_lines))
        for message in next(row["messages"] for row in rows if len(row["messages"]) == 4):
            calls = message.get("tool_calls")
            quote(f"{message['role']}: " + (json.dumps(calls[0], ensure_ascii=False) if calls else message["content"]))

    def questions(self) -> list[Asked]:
        """Questions about products of which nothing was learned."""
        rng = random.Random(2)
        return [asked(rng, product) for product in products(1)[:HELD_BACK]][: self.eval_lines]

    def judge(self, model: str) -> dict[str, float]:
        """Per cent of questions with the right call, and of replies that say the price as the tool does."""
        from mindformers_glm.serving.conversation import Conversation  # noqa: PLC0415 - MindSpore takes seconds
        from mindformers_glm.serving.loading import load  # noqa: PLC0415

        loaded = load(model, seq_length=512)
        calls = replies = 0
        for one in self.questions():
            talk = Conversation(loaded.engine, loaded.tokenizer, tools=TOOLS)
            list(talk.ask(one.question))
            if [(call.name, call.arguments) for call in talk.calls] != [(NAME, {"product": one.product})]:
                continue
            calls += 1
            replies += "".join(talk.give_results([one.result])).strip() == one.reply
        lines = max(len(self.questions()), 1)
        return {"calls": 100 * calls / lines, "replies": 100 * replies / lines}

    def learn(self) -> dict:
        """Runs every stage up to the table and returns the figures."""
        self.make_data()
        heading(say("2  Learning to call: glm3_tiny, on this tool"))
        set_aside(self.model)
        outcome = run_stage(
            ["--config", CONFIG, "--run_mode", "finetune", "--train_dataset_dir", str(self.train_file),
             "--output_dir", str(self.model)],
            self.output / "finetune_console.log",
        )  # fmt: skip
        note(say("asking about {number} products that it has never seen ...", number=len(self.questions())))
        rows = {"before": self.judge(str(ROOT / CONFIG)), "after": self.judge(str(self.model))}
        found = {"fingerprint": self.fingerprint(), "metrics": rows, "losses": outcome.losses}
        write_text(self.results, json.dumps(found, indent=1))
        return found

    def earlier(self) -> dict | None:
        """The figures of a finished earlier run of the same demo, or None."""
        if not self.results.is_file() or not any(self.model.glob("checkpoint_network/rank_0/*.ckpt")):
            return None
        found = json.loads(self.results.read_text(encoding="utf-8"))
        return found if found.get("fingerprint") == self.fingerprint() else None

    def fingerprint(self) -> str:
        """Changes when the packaged model, the demo's configuration or its sizes change."""
        files = [_ASSETS / "model.safetensors", ROOT / CONFIG, ROOT / "demo/tool_data.py"]
        text = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
        return hashlib.sha256(text + f"{self.train_lines} {self.eval_lines}".encode()).hexdigest()


def show_figures(found: dict) -> None:
    """Calls and replies before and after."""
    heading(say("3  Before and after"))
    titles = {"before": say("glm3_tiny as it ships"), "after": say("after tuning")}
    rows = [[titles[key], f"{row['calls']:.1f}", f"{row['replies']:.1f}"] for key, row in found["metrics"].items()]
    table(["", say("right calls %"), say("right replies %")], rows)
    losses = found["losses"]
    note(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}  {curve(losses)}")


def main() -> int:
    """Exit status."""
    parser = Parser(description=__doc__)
    parser.add_argument("--output_dir", default=str(ROOT / "demo_output/tool"))
    parser.add_argument("--train_lines", type=whole(8, 100_000), default=1280)
    parser.add_argument("--eval_lines", type=whole(1, HELD_BACK), default=HELD_BACK)
    parser.add_argument("--no_chat", action="store_true", help="end after the figures")
    given = parser.parse_args()
    demo = ToolDemo(Path(given.output_dir), train_lines=given.train_lines, eval_lines=given.eval_lines)
    started = time.time()
    try:
        print(paint(say("mindformers_glm: a small ChatGLM3 learns to ask a tool"), "1"))
        found = None if os.environ.get("AGAIN") else demo.earlier()
        show_figures(found or demo.learn())
    except KeyboardInterrupt:
        print("\n   " + say("Stopped. `make demo-chat` starts again."))
        return _INTERRUPTED
    except StageFailed as error:
        print(say("error: {line}", line=error), file=sys.stderr)
        return 1
    heading(say("4  Talk to it"))
    command = commands.chat(demo.model, tools=demo.tools_file)
    note(say("Ask 红色裙子多少钱？ and give the tool's result, for example 价格199元"))
    print(f"   $ {paint(command, '1')}", flush=True)
    note(say("{seconds:.0f} s. Everything lies in {folder}/", seconds=time.time() - started, folder=given.output_dir))
    if given.no_chat or not (is_terminal() and sys.stdin.isatty()):
        return 0
    words = ["chat", "--model", str(demo.model), "--seq_length", "512", "--tools", str(demo.tools_file)]
    return os.execv(sys.executable, [sys.executable, "-m", "mindformers_glm", *words])


if __name__ == "__main__":
    sys.exit(report(main))
