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
    rf"\b(?:not|never|cannot|neither|nor|hardly|no longer)\b{_NOT_ONLY}",
    rf"n['’]t\b{_NOT_ONLY}",
    "不(?:会|能|可能|应该)?是|并非|不等于|而非",
    r"(?<=[a-z]{3} )(?:≠|\\neq?\b|!=)",
)
_DEGREE = (
    "(?:(?:very|completely|clearly|obviously|definitely|simply|just|also|therefore|thus|an?|the|in|common) )*"
)
WRONG = _DEGREE + _any_of(
    "wrong|incorrect|false|untrue|invalid|erroneous|errors?|mistake[ns]?|nonsense|absurd|no good",
    "impossible|unlikely|doubtful|out of the question",
    "excluded|eliminated|rejected|refuted|(?:ruled|crossed|struck) out",
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
    r"\b(?:(?:other|rather|different) than|unequal to|instead of|as opposed to|besides|unlike)\b",
    r"(?<!\) )(?<!\] )(?<!numbers )(?<!reals )\bexcept\b",  # (0, 9) except 5 is a set
    r"\b(?:differ\w*|different|far|apart|aside) from\b",
    r"\b(?:(?:any|every)thing|all) but\b",
    r"\b(?:den|reject|refus|exclud|eliminat|refut|disprov)(?:y|e|es|ies|ied|ed|s|ing)\b",
    r"\brul(?:e|es|ed|ing) out\b(?=\s+\S)",
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
_GOVERNS = _any_of(
    r"\b(?<!no )(?<!without )(?<!out a )(?<!any )doubt(?:s|ed|ful)?\b(?!\s+about\b)",
    r"\b(?:might|may|could)\s+(?:possibly\s+|well\s+)?be\b"
    r"(?!\s+(?:\w+ed|written|seen|found|shown|made|done)\b)",
    r"\b(?:unclear|uncertain|unsure|unknown|unlikely|impossible|improbable|questionable|wrong|mistaken?|"
    r"error|incorrect|false|absurd|nonsense)\s+(?:that|whether|if|to)\b",
    r"\b(?:wrongly|incorrectly|falsely|mistakenly|erroneously)\b",
    rf"\b{_SPEAKER}\s+(?:(?:may|might|could|would|will|can|often)\s+)?{_SAY}(?:s|es)?\b",
    r"\b(?:first|initially|originally)\s+(?:\w+\s+){0,2}?"
    r"(?:thought|guess(?:ed)?|assumed|believed|got|had|chose|picked)\b",
    r"\bwas (?:going|about|tempted) to (?:say|answer|choose|pick)\b",
)
_LIMITS = _any_of(
    r"(?<!\d )(?<!\d[%)}$] )"  # 4 less than 24 is a number
    r"\b(?:more|less|fewer|greater|larger|higher|lower|smaller|bigger) than\b",
    r"\bat (?:least|most)\b|\b(?:before|after|until)\b|大于|小于|超过|少于|多于",
)
_START = r"(?=\b[a-z]|n['’]t|[^\x00-\x7f]|\\n|!=)"  # where a form may begin: fails fast everywhere else
DENIAL = re.compile(
    rf"{_START}(?:(?P<governs>{_GOVERNS})|(?P<excludes>{_EXCLUDES})|(?P<untrue>\b{UNTRUE})|(?P<not>{NOT})|"
    rf"(?P<limits>{_LIMITS}))",
    re.IGNORECASE,
)
"""A denial by how far it reaches: to the end of its clause (doubt, opinions), to the next verb (exclusion),
back to its subject, to the next value, to a value directly after it."""
CALLED_WRONG = re.compile(rf"{BE}\s+{WRONG}", re.IGNORECASE)
BE_BEFORE = re.compile(rf"{BE}\s+", re.IGNORECASE)

ONLY_DENIES = re.compile(
    r"\W*(?:(?:which|that|this|it|that one|(?:that|this|the|my) (?:answer|option|choice|value|result|claim)|"
    rf"这|那)\s*(?:{UNTRUE}|['’]s\s+(?:{WRONG}|not)\b)[\w\s'’]{{0,30}}|"
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
    r"(?:changed|corrected|revised|switched|updated|fixed|amended) "
    r"(?:(?:it|that|this|my (?:answer|choice|mind)|the answer) )?(?:from \S{1,20} )?to\b",
    re.IGNORECASE,
)
"""`then corrected it to`: the clause before is withdrawn, and what follows is the answer."""
DENIES_WITHOUT_DENIAL = re.compile(
    r"\b(?:no|nope|wrong|incorrect|false|impossible|rejected|kidding|changed|corrected|revised|switched|updated|"
    r"fixed|amended)\b|['’]s\b|[❌✗✘错]",
    re.IGNORECASE,
)
"""What a text must hold for one of the four patterns above to match where `DENIAL` finds nothing."""
