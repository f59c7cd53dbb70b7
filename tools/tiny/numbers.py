"""Sums to 20, units, weekdays, dates and hours: questions with one right answer, in Chinese and English."""

from __future__ import annotations

import random

from tools.tiny.sample import Sample, english_person, filled, person, said, table

MOST = 20
WEEK = "一二三四五六日"
ENGLISH_WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SUM = (
    "<a><s><b>=", "<a><w><b>等于几", "<a> <s> <b> 等于多少", "<a><s><b>等于几？", "<a><w><b>是多少？",
    "请算一下<a><s><b>", "计算：<a><s><b>", "<a><s><b>=？", "帮我算<a><w><b>", "请问<a><s><b>是多少？", "<a> <s> <b> =",
)  # fmt: skip
_ENGLISH_SUM = (
    "What is <a> <w> <b>?", "How much is <a> <w> <b>?", "Calculate <a> <w> <b>.", "<a> <w> <b> = ?",
    "Please tell me <a> <w> <b>.", "what is <a> <w> <b>", "What is <a> <s> <b>?",
)  # fmt: skip
_WORDS = {"+": ("加", "plus"), "-": ("减", "minus"), "×": ("乘", "times"), "÷": ("除以", "divided by")}


def terms(rng: random.Random) -> tuple[int, str, int, int]:
    """a, sign, b and the result, none above 20."""
    sign = rng.choices("+-×÷", [4, 4, 2, 1])[0]
    if sign == "+":
        total = rng.randint(0, MOST)
        a = rng.randint(0, total)
        return a, sign, total - a, total
    if sign == "-":
        a = rng.randint(0, MOST)
        b = rng.randint(0, a)
        return a, sign, b, a - b
    a = rng.randint(1, 10)
    b = rng.randint(1, MOST // a)
    return (a, sign, b, a * b) if sign == "×" else (a * b, sign, a, b)


def arithmetic(rng: random.Random) -> Sample:
    """A sum, a comparison, or a little story that is one."""
    draw = rng.random()
    if draw < 0.2:
        return _story(rng)
    if draw < 0.3:
        return _comparison(rng)
    if draw < 0.38:
        return _three_terms(rng)
    a, sign, b, result = terms(rng)
    chinese, english = _WORDS[sign]
    sign = rng.choice(["*", "×"]) if sign == "×" else rng.choice(["/", "÷"]) if sign == "÷" else sign
    if rng.random() < 0.3:
        ask = rng.choice(_ENGLISH_SUM)
        answer = f"{a} {english} {b} is {result}."
        return said(filled(ask, a=a, b=b, w=english, s=sign), answer, number=str(result))
    ask = rng.choice(_SUM)
    return said(filled(ask, a=a, b=b, w=chinese, s=sign), f"{a}{sign}{b}={result}。", number=str(result))


def _three_terms(rng: random.Random) -> Sample:
    total = rng.randint(2, MOST)
    first, second = sorted(rng.randint(0, total) for _ in range(2))
    a, b, c = first, second - first, total - second
    ask = rng.choice(["<a>+<b>+<c>=", "<a>+<b>+<c>等于几？", "请算一下<a>+<b>+<c>", "What is <a>+<b>+<c>?"])
    steps = f"{a}+{b}={a + b}，{a + b}+{c}={total}。"
    return said(filled(ask, a=a, b=b, c=c), steps, number=str(total))


def _comparison(rng: random.Random) -> Sample:
    a, b = rng.sample(range(MOST + 1), 2)
    if rng.random() < 0.3:
        word, result = rng.choice([("larger", max(a, b)), ("smaller", min(a, b))])
        return said(f"Which is {word}, {a} or {b}?", f"The {word} one is {result}.", number=str(result))
    word, result = rng.choice([("大", max(a, b)), ("小", min(a, b))])
    ask = rng.choice(["<a>和<b>哪个<w>？", "<a>和<b>谁更<w>", "比一比<a>和<b>，哪个更<w>？", "<a>与<b>，哪个数<w>？"])
    return said(filled(ask, a=a, b=b, w=word), f"更{word}的是{result}。", number=str(result))


def _story(rng: random.Random) -> Sample:
    words = table("words")
    more = rng.random() < 0.5
    a = rng.randint(1, 15)
    b = rng.randint(1, MOST - a) if more else rng.randint(1, a)
    result = a + b if more else a - b
    sign = "+" if more else "-"
    if rng.random() < 0.3:
        who, what = english_person(rng), rng.choice(words["english_items"])
        change = rng.choice(
            [f"buys {b} more", f"gets {b} more"] if more else [f"eats {b}", f"gives away {b}", f"loses {b}"]
        )
        ask = f"{who} has {a} {what} and {change}. How many {what} does {who} have now?"
        return said(ask, f"{a}{sign}{b}={result}, so {who} has {result} {what}.", number=str(result))
    who, what = person(rng), rng.choice(words["items"])
    changes = ["又买了<b>个", "妈妈又给了<b>个", "又得到<b>个"] if more else ["送给朋友<b>个", "用掉<b>个", "丢了<b>个"]
    change = filled(rng.choice(changes), b=b)
    end = rng.choice(["现在有几个", "还有多少个", "一共有几个" if more else "还剩几个"])
    ask = f"{who}有{a}个{what}，{change}，{end}？"
    return said(ask, f"{a}{sign}{b}={result}，{who}有{result}个{what}。", number=str(result))


def units(rng: random.Random) -> Sample:
    """Units, weekdays, dates, hours."""
    return rng.choice([_unit, _unit, _weekday, _date, _month, _hour])(rng)


def _unit(rng: random.Random) -> Sample:
    large, small, factor, most, english_large, english_small = rng.choice(table("facts")["units"])
    n = rng.randint(1, most)
    forward = rng.random() < 0.6
    if rng.random() < 0.3:
        have, want = (english_large, english_small) if forward else (english_small, english_large)
        given, result = (n, n * factor) if forward else (n * factor, n)
        ask = rng.choice(
            [
                "How many <w> are <n> <h>?",
                "How many <w> is <n> <h>?",
                "Convert <n> <h> to <w>.",
                "<n> <h> is how many <w>?",
            ]
        )
        return said(filled(ask, w=want, n=given, h=have), f"{given} {have} = {result} {want}.", number=str(result))
    have, want = (large, small) if forward else (small, large)
    given, result = (n, n * factor) if forward else (n * factor, n)
    ask = rng.choice(
        [
            "<n><h>是多少<w>？",
            "<n><h>等于多少<w>",
            "<n><h>有几<w>？",
            "把<n><h>换算成<w>",
            "请问<n><h>是多少<w>？",
            "<n><h>=？<w>",
        ]
    )
    return said(filled(ask, w=want, n=given, h=have), f"{given}{have}={result}{want}。", number=str(result))


def _weekday(rng: random.Random) -> Sample:
    day, move = rng.randrange(7), rng.randint(-7, 7) or 1
    if rng.random() < 0.35:
        move = rng.choice([1, 1, -1, 2])
    to = (day + move) % 7
    if rng.random() < 0.3:
        name, then = ENGLISH_WEEK[day], ENGLISH_WEEK[to]
        way = f"{abs(move)} day{'s' if abs(move) > 1 else ''} {'after' if move > 0 else 'before'}"
        near = {1: "tomorrow", -1: "yesterday"}.get(move)
        if near and rng.random() < 0.6:
            verb = "is" if move > 0 else "was"
            return said(f"Today is {name}. What day {verb} {near}?", f"It {verb} {then}.", says=[then])
        return said(f"What day is {way} {name}?", f"It is {then}.", says=[then])
    near = {1: "明天", -1: "昨天", 2: "后天", -2: "前天"}.get(move)
    name, then = rng.choice(["星期", "周"]) + WEEK[day], WEEK[to]
    if near and rng.random() < 0.6:
        ask = rng.choice(
            [f"今天是{name}，{near}是星期几？", f"今天{name}，{near}星期几", f"如果今天是{name}，{near}是周几？"]
        )
        return said(ask, f"{near}是星期{then}。", says=[f"星期{then}"])
    side = "后" if move > 0 else "前"
    days = abs(move)
    last = f"{name}过{days}天是星期几？" if move > 0 else f"{name}的前{days}天是星期几？"
    ask = rng.choice([f"{name}的{days}天{side}是星期几？", f"{name}往{side}数{days}天是星期几", last])
    return said(ask, f"是星期{then}。", says=[f"星期{then}"])


def _date(rng: random.Random) -> Sample:
    month = rng.randrange(12)
    day, move = rng.randint(1, LENGTHS[month]), rng.choice([1, 1, -1, 2])
    to_month, to_day = month, day + move
    if to_day > LENGTHS[month]:
        to_month, to_day = (month + 1) % 12, to_day - LENGTHS[month]
    elif to_day < 1:
        to_month = (month - 1) % 12
        to_day = LENGTHS[to_month]
    if rng.random() < 0.3 and abs(move) == 1:
        ask = f"Today is {MONTHS[month]} {day}. What date {'is tomorrow' if move > 0 else 'was yesterday'}?"
        then = f"{MONTHS[to_month]} {to_day}"
        return said(ask, f"It {'is' if move > 0 else 'was'} {then}.", says=[then])
    near = {1: "明天", -1: "昨天", 2: "后天"}[move]
    ask = rng.choice(
        [
            f"今天是{month + 1}月{day}日，{near}是几月几日？",
            f"今天{month + 1}月{day}号，{near}几号",
            f"如果今天是{month + 1}月{day}日，{near}呢？",
        ]
    )
    then = f"{to_month + 1}月{to_day}日"
    return said(ask, f"{near}是{then}。", says=[then])


def _month(rng: random.Random) -> Sample:
    month = rng.randrange(12)
    draw = rng.random()
    if draw < 0.3:
        answer = f"{MONTHS[month]} has {LENGTHS[month]} days."
        ask = rng.choice(["How many days are in <m>?", "How many days does <m> have?", "how long is <m>"])
        return said(filled(ask, m=MONTHS[month]), answer, number=str(LENGTHS[month]))
    if draw < 0.6:
        ask = rng.choice(["<m>月有多少天？", "<m>月有几天", "<m>月份一共有多少天？", "请问<m>月有多少天？"])
        days = "28天，闰年29天" if month == 1 else f"{LENGTHS[month]}天"
        return said(filled(ask, m=month + 1), f"{month + 1}月有{days}。", says=[days])
    if draw < 0.8:
        ask = rng.choice(["<m>月的下一个月是几月？", "<m>月之后是几月", "过了<m>月是几月？"])
        return said(filled(ask, m=month + 1), f"是{(month + 1) % 12 + 1}月。", number=str((month + 1) % 12 + 1))
    season = "冬春夏秋"[(month + 1) % 12 // 3]
    return said(
        rng.choice([f"{month + 1}月是什么季节？", f"北方的{month + 1}月是哪个季节"]),
        f"{month + 1}月是{season}天。",
        says=[f"{season}天"],
    )


def _hour(rng: random.Random) -> Sample:
    hour, move = rng.randint(1, 11), rng.randint(1, 6)
    then = (hour + move - 1) % 12 + 1
    if rng.random() < 0.3:
        ask = rng.choice(
            [
                f"It is {hour} o'clock. What time is it in {move} hours?",
                f"What time is it {move} hours after {hour} o'clock?",
            ]
        )
        return said(ask, f"It is {then} o'clock.", number=str(then))
    ask = rng.choice(
        [
            f"现在{hour}点，过{move}小时是几点？",
            f"{hour}点再过{move}个小时是几点",
            f"从{hour}点开始，{move}小时以后是几点？",
        ]
    )
    return said(ask, f"是{then}点。", number=str(then))
