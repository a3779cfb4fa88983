"""Patterns of announced, corrected and withdrawn answers in English and Chinese, most specific first."""

from __future__ import annotations

import re
from typing import NamedTuple

_BE = (
    r"(?:(?<![a-z])(?:is|are|was|were|(?:would|will|should|must|could|might|may|can) be|equals)(?![a-z])|"
    r"[=:：])"
)
_LINK = (
    r"(?:(?:to|of|for|here|in|that|which|choice|option|letter|from|among|given|would|,)\b[^.\n:=]{0,80}?)?"
)
_SURELY = r"(?:\s*(?:therefore|thus|then|hence|now|simply|clearly|indeed|actually|also)\b,?)?[*_ \t]*[:：]?"
_GOOD = r"(?:correct|right|best|proper|appropriate)"
_THING = r"(?:option|choice|solution|letter|statement|figure|picture|image)"


class Pattern(NamedTuple):
    """A pattern for lower-case text, tried only where one of `triggers` occurs.

    `before` and `after` must match the original text around it.
    """

    triggers: tuple[str, ...]
    regex: re.Pattern[str]
    before: re.Pattern[str] | None = None
    after: re.Pattern[str] | None = None


_LETTER = re.compile(r"[(（]?[A-ZＡ-Ｚ](?![A-Za-zＡ-Ｚ])")
CLAIMS = (
    # "the answer (to the question) is", "final answer:"
    Pattern(
        ("answer",),
        re.compile(rf"answers?\b(?! choices| options)[*_\s]*{_LINK}[*_\s,]*{_BE}{_SURELY}"),
        re.compile(r"(?<!other )\Z"),
    ),
    # a heading that stands alone: "### Final Answer"
    Pattern(
        ("answer",),
        re.compile(r"answer[*_\s]*[:：]?[*_ ]*(?=\n|\Z)"),
        re.compile(r"(?:\A|\n)[#*_\s]*(?:the\s+|my\s+)?(?:final\s+|correct\s+)?\Z", re.IGNORECASE),
    ),
    # "#### 18" as the last line, the mark of GSM8K
    Pattern(("####",), re.compile(r"(?:\A|\n)####\s*(?=[^\n\d]{0,5}\d[^\n]{0,60}\Z)")),
    Pattern(("ans",), re.compile(r"\bans\b\.?\s*[:=]")),
    # "Answer $9$", "Answer \\( 9 \\)"
    Pattern(("answer",), re.compile(r"answer\s*(?=\$|\\\(|\\\[)")),
    # "the correct option is", "the best choice for this is"
    Pattern(
        ("correct", "right", "best", "proper", "appropriate"),
        re.compile(rf"{_GOOD}\s+(?:answer\s+)?{_THING}\b[*_\s]*{_LINK}[*_\s,]*{_BE}{_SURELY}"),
    ),
    # "I choose B", "go with option C"
    Pattern(
        ("choose", "select", "pick", "go with", "chose", "opt for"),
        re.compile(
            r"(?:choose|select|pick|go with|chose|opt for)\s+(?:the\s+)?(?:correct\s+)?"
            r"(?:option|answer|choice|letter)?\s*"
        ),
        after=_LETTER,
    ),
    # "eliminating A, C and D leaves B"
    Pattern(
        ("leave", "leaving", "left with"),
        re.compile(
            r"(?:leaves?|leaving|left with)\s+(?:us with\s+)?(?:only\s+|just\s+)?(?:option|answer|choice)?\s*"
        ),
        after=_LETTER,
    ),
    # "it is option C", "the one that matches is choice (B)"
    Pattern(
        ("option", "choice"),
        re.compile(r"\b(?:is|be)\s+(?:therefore\s+|thus\s+)?(?:the\s+)?(?:option|choice)\s*"),
        after=_LETTER,
    ),
    # 答案是 12, 正确选项是 B, 答: 12, 故选 C
    Pattern(
        ("答", "选项"),
        re.compile(r"(?:答案|正确选项)\s*(?:应该|应|就|便)?\s*(?:是|为|选|等于)?\s*[:：]?|答\s*[:：]"),
    ),
    Pattern(
        ("选",),
        re.compile(r"选(?:择|取)?\s*(?:选项|答案|项)?\s*(?:为|是)?\s*[:：]?\s*"),
        before=re.compile(r"(?<!不)(?<!不能)(?<!不要)(?<!不应)(?<!不该)(?<!不会)\Z"),
        after=_LETTER,
    ),
)
# These also announce intermediate results, so they count only where no answer is announced.
WEAK_CLAIMS = (
    Pattern(
        ("option", "choice", "solution", "result", "conclusion", "roots", "zeros"),
        re.compile(
            rf"(?:(?:option|choice|solution|result|conclusion)\b[*_\s]*{_LINK}[*_\s,]*(?:is|was|must be|"
            rf"should be|=|为)|(?:solutions|results|roots|zeros)\b\s*{_LINK}\s*are){_SURELY}"
        ),
        re.compile(r"(?<!other )(?<![a-z])\Z"),
    ),
    Pattern(("结", "选项"), re.compile(r"(?:结果|结论|选项)\s*(?:应该|应)?\s*(?:是|为|等于|:|：)")),
)
# The claim stands before: "(B) is the correct answer", "选项 B 正确".
CLAIM_BEFORE = Pattern(
    ("correct", "right", "best", "answer", "正确"),
    re.compile(
        rf"(\(?\b[A-Z]\b\)?)(?:(?!\b[A-Z]\b)[^.\n]){{0,30}}?\s+(?:is|was|must be|should be)\s+"
        rf"(?:therefore\s+|thus\s+)?(?:the\s+)?(?:only\s+)?(?:correct|{_GOOD}\s+(?:answer|option|choice|one)|"
        r"(?<=the )answer|right(?=[.!]|$))\b|"
        rf"([A-Z])\s*(?:选项)?\s*(?:是)?正确"
    ),
)
NEXT_OPTION = re.compile(r"\s*\n\s*\(?([B-Z])[).:]\s")

NEGATED = re.compile(r"^\s*(?:not\b|n't|isn't|不是|incorrect\b|wrong\b)", re.IGNORECASE)
EMPTY = re.compile(
    r"^(?:as follows|shown|given|below|the following|based on|found|obtained|calculated)\b", re.IGNORECASE
)
CONDITIONAL = re.compile(
    r"(?:^|[.\n!?]\s*)(?:if|when|suppose|assuming|were|should|如果|若|假如)\b[^.\n!?]*$", re.IGNORECASE
)

OTHERWISE = re.compile(r"\b(?:otherwise|if not|depending|or else)\b|否则", re.IGNORECASE)
CORRECTION = re.compile(
    r"\b(?:but wait|wait|it(?:'s| is| was) (?:actually|really|in fact)|actually|correction|scratch that|"
    r"my mistake|on second thoughts?|hold on|oops|hmm|i made (?:a|an) (?:\w+ )?(?:mistake|error)|"
    r"let me (?:correct|re-?check|re-?compute|re-?calculate|redo|re-?think|fix|re-?evaluate)|sorry|"
    r"apologies|i apologi[sz]e|no, (?:it|that|the)|that(?:'s| is| was) (?:wrong|incorrect|not right|"
    r"a mistake)|i was wrong)\b|等等|不对|更正|修正|纠正|抱歉|重新(?:计算|检查|考虑)|我错了|算错",
)
WITHDRAWN = re.compile(
    r"that(?:'s| is| was) (?:wrong|incorrect|not right|not correct|a mistake)|i was wrong|"
    r"scratch that|这是错|不对",
    re.IGNORECASE,
)
# How a correction announces its value without the word "answer".
WEAK_CLAIM = re.compile(
    r"\b(?:wait|actually|no|sorry|correction|rather)\s*[,:]\s*(?=[-$\\(]*\d)|\b(?:should (?:actually |"
    r"really )?(?:be|have been|read|say)|must be|is actually|is really|is in fact|it(?:'s| is)|this is|"
    r"that is|becomes|equals?|we get|i get|gives|get)\b\s*(?:equal to\s+|actually\s+|not \S+ but\s+)?|=|"
    r"应该是|应当是|应为|应是|其实是|实际上是|而是|改为|是",
    re.IGNORECASE,
)

CONCLUSION = re.compile(
    r"(?:^|[\s,;(*])(?:therefore|thus|hence|so|consequently|in conclusion|to conclude|in summary|finally|"
    r"overall(?=,| there\b| the\b| we\b)|as a result|accordingly|"
    r"this means|which means|we (?:get|find|have|conclude)|we can conclude|\\therefore|∴)\b|"
    r"因此|所以|故|综上|于是|则|可得|得到|得出|即",
    re.IGNORECASE,
)
PLEASANTRY = re.compile(
    r"^\W*(?:i hope|hope (?:this|that)|let me know|is there anything|please (?:let|note|provide|feel|tell)|"
    r"feel free|if you have|do you have|would you like|can i help|sure[,!]|certainly[,!]|note(?: that|:)|"
    r"thank|you're welcome|happy to|any other questions|here (?:is|are)\b[^$\\]*$|explanation|question:|希望|"
    r"如果您|如有)",
    re.IGNORECASE,
)

# Where a claim ends: a sentence, a reason, a blank line.
END = re.compile(
    r"\n|[。；【]|(?<![\d(])(?<!\b[A-Z])(?<!\b(?:sq|ft|in|no|st|vs|eq|Dr|Mr))\.(?=\s|$|\*|\")|"
    r"(?<=\d)\.(?=\s+[A-Z*\\(]|\s*$)|[!?](?=\s|$)|,?\s+(?:because|since|as (?:it|the|this|there|we|per)|"
    r"so that|which|where|due to|given that|based on|according to|making|meaning|indicating|with (?:a|an|"
    r"the)|when (?:rounded|the|we|x)|if (?:the|we|x)|considering|assuming|and (?:the|this|it|that|we|"
    r"so))\b|,\s*(?:so|but|and(?!\s+[-$\\({]*(?:\d|[a-z]\b(?=\W*$)))|not|while|whereas|thus|therefore|"
    r"hence|as)\b|[,，]\s*而?不是|,?\s*(?:因为|由于|所以|其中|理由|解析)|\.\s*(?=The |So |This |It |We )",
    re.IGNORECASE,
)
TRUNCATION = 240
"""Longest announced answer in characters; the rest is not read."""
