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
    help: str
    nothing: str
    same: str
    edit: str
    cannot_edit: str
    figures: str
    first: str
    no_token: str
    shows_figures: str
    hides_figures: str


CHINESE = Phrases(
    question="问：",
    answer="答：",
    thought="思考：",
    observation="{name} 的结果：",
    more="... ",
    welcome=(
        "{model}：输入内容后回车。/help 列出命令；clear 清空对话，stop 退出，save 文件.json 保存对话。\n"
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
    help=(
        "  /retry        重新回答上一个问题\n"
        "  /edit         修改上一个问题后重新提问；/edit 新的问题 直接替换\n"
        "  /clear        清空对话（保留系统提示和工具）\n"
        "  /save 文件    把对话存成 .json 或 .jsonl，可直接用于训练\n"
        "  /stats        显示或不再显示每次回答的统计\n"
        "  /stop         退出；也可以按 Ctrl-D\n"
        'clear、stop、save 不带斜杠也可以。命令放在 """ 之间就是普通的问题。Ctrl-C 停止回答；按上、下键翻出以前的输入。'
    ),
    nothing="（还没有提过问题）",
    same="（模型每次都取概率最大的词元，回答会一样；用 --temperature 0.8 启动则每次不同）",
    edit="修改：",
    cannot_edit="（这里不能修改一行，请输入 /edit 新的问题）",
    figures="[提示 {prompt} 个词元，{first}，回答 {tokens} 个词元，{speed:.1f} 词元/秒，上下文 {used}/{limit}]",
    first="首词元 {seconds:.2f} 秒",
    no_token="没有词元",
    shows_figures="（显示统计）",
    hides_figures="（不再显示统计）",
)
ENGLISH = Phrases(
    question="Input: ",
    answer="Output: ",
    thought="Thought: ",
    observation="Result of {name}: ",
    more="... ",
    welcome=(
        "{model}: type a message. /help lists the commands; clear forgets the conversation, stop ends, save FILE.json "
        "keeps it.\n"
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
    help=(
        "  /retry       answers the last question again\n"
        "  /edit        changes the last question and asks it; /edit NEW QUESTION replaces it at once\n"
        "  /clear       forgets the conversation (system prompt and tools stay)\n"
        "  /save FILE   writes the conversation as .json or .jsonl, as training reads it\n"
        "  /stats       shows or hides the figures of each answer\n"
        "  /stop        ends; so does Ctrl-D\n"
        'clear, stop and save need no slash. A command between """ is a question. Ctrl-C stops an answer; '
        "the arrow keys bring back what was typed before."
    ),
    nothing="(no question has been asked)",
    same="(the model takes the most probable token each time, so the answer will be the same; --temperature 0.8 draws)",
    edit="Change: ",
    cannot_edit="(no line can be changed here: type /edit NEW QUESTION)",
    figures="[prompt {prompt} tokens, {first}, {tokens} tokens, {speed:.1f} tokens/s, context {used} of {limit}]",
    first="first token after {seconds:.2f} s",
    no_token="no token",
    shows_figures="(figures are shown)",
    hides_figures="(figures are hidden)",
)
LANGUAGES = {"zh": CHINESE, "en": ENGLISH}
