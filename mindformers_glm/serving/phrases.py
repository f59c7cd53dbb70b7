"""What the terminal chat says to its user, in Chinese and in English."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """Prompts and notes. Braces are filled in by the terminal."""

    question: str
    answer: str
    thought: str
    observation: str
    more: str
    welcome: str
    stopped: str
    taken_back: str
    leaving: str
    cleared: str
    saved: str
    exists: str
    length: str
    context: str
    full: str
    call: str
    fault: str
    no_result: str


CHINESE = Phrases(
    question="问：",
    answer="答：",
    thought="思考：",
    observation="{name} 的结果：",
    more="... ",
    welcome=(
        "{model}：输入内容后回车。clear 清空对话，stop 退出，save 文件.json 保存对话。\n"
        '行末的 \\ 续行，多行文本放在 """ 之间；Ctrl-C 停止回答，Ctrl-D 退出。'
    ),
    stopped="（已停止）",
    taken_back="（已停止，问题已撤回）",
    leaving="（再按一次 Ctrl-C，或按 Ctrl-D 退出）",
    cleared="（对话已清空）",
    saved="（已保存到 {file}）",
    exists="{file} 已经存在，请换一个文件名。",
    length="（回答达到长度上限而结束：可调大 --max_new_tokens）",
    context="（上下文已满，共 {limit} 个 token：输入 clear 重新开始，或用更大的 --seq_length 启动）",
    full=(
        "对话已有 {tokens} 个 token，模型的上下文只有 {limit} 个（对话加回答）。"
        "输入 clear 重新开始，把问题写短一些，或用更大的 --seq_length 启动。"
    ),
    call="调用 {name} {arguments}",
    fault="（无法读取的工具调用：{fault}）",
    no_result="（未提供结果，放弃这次调用）",
)
ENGLISH = Phrases(
    question="Input: ",
    answer="Output: ",
    thought="Thought: ",
    observation="Result of {name}: ",
    more="... ",
    welcome=(
        "{model}: type a message. clear forgets the conversation, stop ends, save FILE.json keeps the conversation.\n"
        'A line ending with \\ goes on, longer text stands between """; Ctrl-C stops the answer, Ctrl-D ends.'
    ),
    stopped="(stopped)",
    taken_back="(stopped; the question is taken back)",
    leaving="(Ctrl-C once more, or Ctrl-D, ends)",
    cleared="(the conversation is forgotten)",
    saved="(saved in {file})",
    exists="{file} exists already: name another file.",
    length="(the answer ends at its greatest length: --max_new_tokens sets it)",
    context=("(the context of {limit} tokens is full: type clear to begin anew, or start with a larger --seq_length)"),
    full=(
        "The conversation has {tokens} tokens and the model's context is {limit}, conversation and answer together. "
        "Type clear to begin anew, ask something shorter, or start with a larger --seq_length."
    ),
    call="Call of {name} {arguments}",
    fault="(a tool call that cannot be read: {fault})",
    no_result="(no result: the call is given up)",
)
LANGUAGES = {"zh": CHINESE, "en": ENGLISH}
