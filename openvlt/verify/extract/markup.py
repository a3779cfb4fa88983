"""Reads the marks around an answer: thinking, channels, ends of turns, box tokens, struck-out text, emphasis.

One scan finds the marks and a closed table says what each means. All patterns are bounded, so that a megabyte
of marks takes no longer than a megabyte of prose.
"""

from __future__ import annotations

import re

_MARK = re.compile(r"<[^\s<>]{1,40}>|◁/?think▷|\[/?[A-Za-z]{4,8}\]")
_SPECIAL = re.compile(r"<[|｜][\w▁/]{2,40}[|｜]>")

_THINKING = (
    "<think>",
    "<thinking>",
    "<thought>",
    "<thoughts>",
    "<reasoning>",
    "<reflection>",
    "<analysis>",
    "<scratchpad>",
    "<seed:think>",
    "<longcat_think>",
    "◁think▷",
    "[think]",
    "[thinking]",
)
_TURN_ENDS = (
    "<|im_end|> <|end|> <|endoftext|> <|end_of_text|> <|endofturn|> <|end_of_turn|> <|end_of_turn_token|> "
    "<|eot_id|> <|eom_id|> <|eot|> <|eom|> <|eos|> <|return|> <|call|> <|user|> <|observation|> "
    "<｜end▁of▁sentence｜> <｜user｜> <end_of_turn> <end_of_utterance> <eos> <eot> [inst] [/inst] </s>"
).split()
_TURN_STARTS = (
    "<|im_start|> <|start|> <|start_header_id|> <|assistant|> <｜assistant｜> <start_of_turn>"
).split()
_MEANING = (
    {mark: "think" for mark in (*_THINKING, "<|begin_of_thought|>")}
    | {f"{mark[0]}/{mark[1:]}": "thought" for mark in _THINKING}
    | {"<|end_of_thought|>": "thought"}
    | dict.fromkeys(_TURN_ENDS, "end")
    | dict.fromkeys(_TURN_STARTS, "start")
    | {"<|begin_of_box|>": "\\boxed{", "<|end_of_box|>": "}"}
    | dict.fromkeys("<s> <bos> <pad> <unk> <conclusion> </conclusion>".split(), "\n")
)
"""What a mark in lower case means; "\\boxed{", "}" and a line break stand for themselves."""
_ROLE = re.compile(r"\s*(?:assistant|model)\b", re.IGNORECASE)

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w{1,20})[^<]{0,80}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>")
_PLAIN_CHANNEL = re.compile(r"\s*analysis(?=[A-Z\"'(])")
"""gpt-oss's first channel where special tokens were dropped: `analysisWe need …assistantfinalThe …`."""

_TURN_LINE = re.compile(
    r"\n[ \t]*(?:#{1,6} |\*\*)?(?:(human|user|assistant|student|用户|助手)|"
    r"(?:next |new |another )?(?:question|problem|q|instruction|task)|问题|问|题目|下一题)"
    r"[ \t]*#?\d{0,3}(?:\*\*)?[ \t]*(?:[:：.]|\n)",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(
    r"\banswer\b[^\n]{0,80}?(?:\bis\b|[:：=])|\\boxed|</answer>|答案|答[:：]|故选", re.IGNORECASE
)

_STRUCK = re.compile(
    r"~~(?!~).{1,400}?~~|<(del|s|strike)>.{0,400}?</\1>|"
    r"\\(?:[bx]?cancel|sout|st)\s*\{[^{}]{0,200}(?:\{[^{}]{0,100}\}[^{}]{0,200}){0,3}\}",
    re.DOTALL | re.IGNORECASE,
)
_SEQUENCE = re.compile(r"\s*<s>[^<]*</s>\s*")
"""A whole response between the marks that begin and end a sequence, which HTML uses for struck-out text."""

_EMPHASIS = re.compile(
    r"</?(?:b|i|u|em|strong|mark)>|(?<![\w*)\\])(\*{1,3})(?=[^\s*])([^*\n]{1,300}?)(?<=\S)\1(?![\w*])|"
    r"(?<![\w\\}\])_])(_{1,3})(?=[^\s_])([^_\n]{1,300}?)(?<=[\w.!?:])\3(?![\w{])"
)


_UNDERLINED = re.compile(r"(?<![\w\\}\])_])_")  # an index, x_1, is not emphasis


def find_final_turn(response: str) -> str | None:
    """What a response says after its thinking and before its turn ends; None if the thinking never ends."""
    text: str | None = response
    if "<|channel|>" in response or "assistantfinal" in response or "analysis" in response[:12]:
        text = _find_final_channel(response)
    if text is None:
        return None
    has_tag = "<" in text
    if "~~" in text or has_tag and ("</s" in text or "</del>" in text) or _has_struck(text):
        text = text if _SEQUENCE.fullmatch(text) else _STRUCK.sub(" ", text)
    text = _read_marks(text) if has_tag or "[" in text or "◁" in text else text
    return None if text is None else _cut_at_turn_line(text)


def _has_struck(text: str) -> bool:
    """Whether a LaTeX command may strike out a part of a text."""
    return "\\" in text and ("cancel" in text or "\\s" in text)


def drop_emphasis(text: str) -> str:
    """The text without the marks of bold, italic and underlined words."""
    if "*" not in text and "<" not in text and not ("_" in text and _UNDERLINED.search(text)):
        return text
    return _EMPHASIS.sub(lambda m: m[2] or m[4] or "", text)


def _find_final_channel(response: str) -> str | None:
    """The message of the first final channel; None where channels are there, but not that one."""
    if "<|channel|>" in response:
        final = (channel.end() for channel in _CHANNEL.finditer(response) if channel[1].lower() == "final")
        start = next(final, None)
        return None if start is None else response[start:]
    before, cut, after = response.partition("assistantfinal")
    if cut and before[-1:].strip():
        return after
    return None if _PLAIN_CHANNEL.match(response) else response


def _read_marks(text: str) -> str | None:
    """The text after the last end of thinking, up to the end of the turn; None if thinking is still open."""
    pieces: list[str] = []
    at, thinking, said = 0, False, False
    for mark in _MARK.finditer(text):
        meaning = _MEANING.get(mark.group().lower()) or ("\n" if _SPECIAL.fullmatch(mark.group()) else None)
        if meaning is None or mark.start() < at:
            continue
        pieces.append(text[at : mark.start()])
        said = said or bool(pieces[-1].strip())
        at = mark.end()
        if meaning == "start":
            meaning = "end" if said else "start"
            role = _ROLE.match(text, at)
            at = role.end() if role else at
        if meaning == "end":
            return None if thinking else "".join(pieces)
        if meaning in ("think", "thought"):
            thinking = meaning == "think"
            if not thinking:
                pieces.clear()
                said = False
        else:
            pieces.append("\n" if meaning == "start" else meaning)
    return None if thinking else "".join((*pieces, text[at:])) if at else text


def _cut_at_turn_line(text: str) -> str:
    """The text up to a line that opens another turn, or another question after an announced answer."""
    lines = _TURN_LINE.finditer(text) if ":" in text or "：" in text or "\n#" in text else ()
    announced: re.Match[str] | None = None
    for index, line in enumerate(lines):
        if index == 0:
            announced = _ANNOUNCED.search(text)
        before = text[: min(line.start(), 62)].strip()
        is_short = len(before) <= 60 and "\n" not in before and line.start() <= 62
        if before and (line[1] or is_short or announced and announced.end() <= line.start()):
            return text[: line.start()]
    return text
