"""The closed lists of words that deny a value: negation, doubt, exclusion, other people's opinions."""

from __future__ import annotations

import re


def _any_of(*words: str) -> str:
    return "(?:" + "|".join(words) + ")"


BE = _any_of(
    "is|are|was|were|would be|will be|must be|can be|could be|seems?|looks|turns out",
    "(?:has|have) been",
)
_AUXILIARY = "(?:is|are|was|were|does|do|did|would|could|should|must|can|will|has|have)"
_NOT_ONLY = r"(?!\s+(?:only|just|merely|simply)\b)"
NOT = _any_of(
    rf"(?:not|never|cannot|neither|nor|hardly|no longer)\b{_NOT_ONLY}",
    "(?:is|are|was|were|do|does|did|would|could|should|must|ca|wo|has|have|had|need|ai)"
    rf"n['’]t\b{_NOT_ONLY}",
    "不(?:会|能|可能|应该)?是|并非|不等于|而非",
    r"(?<=[a-z]{3} )(?:≠|\\neq?\b|!=)",
)
_DEGREE = (
    "(?:(?:very|completely|clearly|obviously|definitely|simply|just|also|therefore|thus|an?|the|in|common) )*"
)
WRONG = _DEGREE + _any_of(
    "wrong|incorrect|false|untrue|invalid|erroneous|nonsense|absurd|no good",
    "errors?|mistake[ns]?|misconceptions?",
    "impossible|unlikely|doubtful|out of the question",
    "excluded|eliminated|rejected|refuted|(?:ruled |crossed |struck )?out",
    "unknown|unclear|uncertain|questionable|debatable",
    r"trap|distractor|too\b[\w ]{1,20}",
)
UNTRUE = _any_of(
    rf"{BE}\s+{WRONG}\b",
    rf"{BE}\s+(?:not|never|neither|hardly|far from)\b{_NOT_ONLY}",
    rf"{_AUXILIARY}(?:n['’]t|\s+not|\s+never)\b{_NOT_ONLY}",
    r"(?:cannot|can['’]t|won['’]t|fails?)\b",
    "(?:是|就是)?(?:错|不对|不正确)的?",
)
"""A predicate that denies its subject."""
_EXCLUDES = _any_of(
    r"(?:(?:other|rather|different) than|unequal to|instead of|as opposed to|besides|unlike)\b",
    r"(?<!\) )(?<!\] )(?<!numbers )(?<!reals )except\b",  # (0, 9) except 5 is a set
    r"(?:differ\w*|different|far|apart|aside) from\b",
    r"(?:(?:any|every)thing|all) but\b",
    r"(?:den|reject|refus|exclud|eliminat|refut|disprov)(?:y|e|es|ies|ied|ed|s|ing)?\b",
    r"rul(?:e|es|ed|ing) out\b(?=\s+\S)",
)
_SPEAKER = _any_of(
    r"(?:some|no)(?: ?one|body| people| students)?",
    r"(?:many|most|other|several|a few|careless) (?:people|students?|others)",
    r"(?:a|my|the|your|another|one) (?:friend|student|teacher|classmate|solver|book|textbook|key|colleague)",
    "people|others|students|one|you|he|she|they",
)
_SAY = _any_of(
    "say|said|think|thought|believe|claim|claimed|argue|guess|answer|answered|suggest|choose|pick|select"
)
_OPINION = rf"{_SPEAKER}\s+(?:(?:may|might|could|would|will|can|often)\s+)?{_SAY}(?:s|es)?\b"
OPINION = re.compile(rf"\b{_OPINION}")
"""Somebody else's opinion, in lower-case text."""
_GOVERNS = _any_of(
    r"(?<!no )(?<!without )(?<!out a )(?<!any )doubt(?:s|ed|ful)?\b(?!\s+about\b)",
    r"(?:might|may|could)\s+(?:possibly\s+|well\s+)?be\b"
    r"(?!\s+(?:\w+ed|written|seen|found|shown|made|done|in|on|at|within|inside)\b)",
    r"(?:unclear|uncertain|unsure|unknown|unlikely|impossible|improbable|questionable|wrong|mistaken?|"
    r"error|misconception|myth|incorrect|false|absurd|nonsense)\s+(?:that|whether|if|to)\b",
    r"whether\b|if (?:it|this|that|the answer) (?:were|was|is|had been)\b",
    r"(?:wrongly|incorrectly|falsely|mistakenly|erroneously)\b",
    _OPINION,
    r"(?:first|initially|originally)\s+(?:\w+\s+){0,2}?"
    r"(?:thought|guess(?:ed)?|assumed|believed|got|had|chose|picked)\b",
    r"was (?:going|about|tempted) to (?:say|answer|choose|pick)\b",
)
_LIMITS = _any_of(
    r"(?<!\d )(?<!\d[%)}$] )(?<!\bone )(?<!\btwo )(?<!\bthree )(?<!\bfour )(?<!\bfive )(?<!\bsix )(?<!\bten )"
    # 4 less than 24, one more than 24 are numbers
    r"(?:more|less|fewer|greater|larger|higher|lower|smaller|bigger) than\b",
    r"at (?:least|most)\b|(?:before|after|until)\b|大于|小于|超过|少于|多于",
)
DENIAL = re.compile(
    r"(?:\b(?=[a-z])|(?=[不并而错是就大小超少多≠!\\]))"
    rf"(?:(?P<governs>{_GOVERNS})|(?P<excludes>{_EXCLUDES})|(?P<untrue>{UNTRUE})|(?P<not>{NOT})|"
    rf"(?P<limits>{_LIMITS}))"
)
"""A denial in lower-case text by how far it reaches: to the end of its clause (doubt, opinions), to the next
verb (exclusion), back to its subject, to the next value, to a value directly after it."""
CALLED_WRONG = re.compile(rf"{BE}\s+{WRONG}", re.IGNORECASE)
BE_BEFORE = re.compile(rf"{BE}\s+", re.IGNORECASE)

_COMPLEMENT = _any_of(
    r"right|correct|true|possible|valid|so|it|acceptable|allowed|work|hold|fit|what [a-z ]{1,30}",
    "the (?:answer|case|right one|correct one)",
)
ONLY_DENIES = re.compile(
    r"\W*(?:but |and |however )?(?:(?:which|that|this|it|that one|"
    r"(?:that|this|the|my) (?:answer|option|choice|value|result|claim)|这|那)\s*"
    rf"(?:(?:{BE}\s+|['’]s\s+){WRONG}|(?:{UNTRUE}|['’]s\s+not)(?:\s+be)?(?:\s+{_COMPLEMENT})?)|"
    r"(?:he|she|they|i)\s+(?:is|am|are|was|were) (?:wrong|mistaken|incorrect)|"
    r"(?:wrong|incorrect|false|impossible|rejected|not (?:so|really|quite|true|right|correct)|just kidding|"
    r"错|不对|错误)|[❌✗✘])\W*",
    re.IGNORECASE,
)
"""A clause that only says that the one before it is wrong."""
NO = re.compile(r"(?:[?!—…→⇒？！]|\.{2,}|\s--?|->)\W*(?:no|nope|not)\W*", re.IGNORECASE)
"""`24? No`; after a comma or a full stop "no" may be the text of an option: `(B), no`."""
ALONE_NO = re.compile(r"\W*no\W*", re.IGNORECASE)
ASIDE = re.compile(
    r"\W*(?:actually|wait|hmm+|oh|oops|sorry|hold on|well|however|but|and|no)?\W*", re.IGNORECASE
)
REVISES = re.compile(
    r"\W*(?:and |but )?(?:then |later )?(?:I )?(?:then |later )?"
    r"(?:changed?|corrected|revised?|switch(?:ed)?|updated?|fixed|amend(?:ed)?) "
    r"(?:(?:it|that|this|my (?:answer|choice|mind)|the answer) )?(?:from \S{1,20} )?to\b",
    re.IGNORECASE,
)
"""`then corrected it to`: the clause before is withdrawn, and what follows is the answer."""
_KEY_WORDS = frozenset(
    "not never cannot neither nor hardly longer t ne neq wrong incorrect false untrue invalid erroneous "
    "error errors mistake mistaken mistakes nonsense absurd impossible unlikely doubtful excluded "
    "eliminated rejected refuted out trap distractor too fail fails than unequal instead opposed except "
    "besides unlike deny denies denied reject rejects refuse refuses refused exclude excludes eliminate "
    "eliminates refute refutes disprove disproves disproved excluding eliminating rejecting denying doubt "
    "doubts doubted might may could unclear uncertain unsure unknown improbable questionable wrongly "
    "incorrectly falsely mistakenly erroneously first initially originally going about tempted least most "
    "before after until no nope kidding change changed corrected revise revised switch switched update "
    "updated fixed amend amended whether misconception myth debatable".split()
)
_KEY_PAIRS = tuple(
    (frozenset(one.split()), frozenset(other.split()))
    for one, other in (
        (
            "some someone somebody nobody people noone one students you he she they others student friend "
            "teacher classmate solver book textbook key colleague",
            "say says said think thinks thought believe believes claim claims claimed argue argues guess "
            "guesses answer answers answered suggest suggests choose chooses pick picks select selects",
        ),
        ("far apart aside differ differs differed differing different differently difference", "from"),
        ("everything anything all", "but"),
        ("if", "were was is had"),
    )
)
"""Every denial has a key word or one of each of a pair, is in Chinese, or has a sign."""
_WORD, _SIGN = re.compile(r"[a-z]+"), re.compile("[≠❌✗✘\u4e00-\u9fff]")


def may_deny(lower: str) -> bool:
    """Whether a lower-case text has a word or sign that every denial has one of."""
    words = _WORD.findall(lower)
    if not _KEY_WORDS.isdisjoint(words):
        return True
    for one, other in _KEY_PAIRS:
        if not one.isdisjoint(words) and not other.isdisjoint(words):
            return True
    return "!=" in lower or not lower.isascii() and _SIGN.search(lower) is not None
