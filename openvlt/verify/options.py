"""Multiple choice: finds the option that a text means by its letter, text or value, if these agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from openvlt.verify.denials import drop_denied
from openvlt.verify.parse.normalize import clean, fold
from openvlt.verify.parse.number_words import is_refusal, read_ordinal
from openvlt.verify.parse.quantity import Quantity
from openvlt.verify.parse.reader import read_answer

Same = Callable[[str, str], bool]

_ALONE = re.compile(r"[\s\"'(\[{<*]*([A-Za-z])[\s\"')\]}>*.:,、]*")
_PUNCTUATED = re.compile(r"[(\[{*]*([A-Z])\s*(?:[)\]}*]+\s*[.:,、]?|[.:,、;]|\s-\s|\s?=)\s*(.+)", re.DOTALL)
_LOWER = re.compile(r"[(\[]?([a-z])[)\]]\s*(.*)", re.DOTALL)
_SPACED = re.compile(r"([B-HJ-Z])\s+(.+)", re.DOTALL)
_BEFORE_BRACKET = re.compile(r"([A-Z])\s*[(\[](.+)[)\]]", re.DOTALL)
_AFTER = re.compile(r"(.+?)\s*[(\[]\s*(?:option |choice )?([A-Z])\s*[)\]]", re.DOTALL)
_INTRODUCED = re.compile(
    r"(?:(?:the|is|correct|right|answer|option|choice|letter|figure|picture|image|therefore|thus|hence|so|"
    r"选项|选择|选|答案|为|是)\s*(?:[:：,]\s*)?)+[(\[]?([A-Z])[)\]]?"
    r"(?:\s*[.:,)]\s*(.+)|\s+(?:since|because|as|is)\b.*)?",
    re.DOTALL | re.IGNORECASE,
)
_ALSO = re.compile(
    r"\b(?:or|also|and|but)\s+(?:maybe |perhaps |possibly |also |equally |option |choice )*"
    r"[(\[]?([A-Z])[)\]]?"
    r"(?=\W*$|\s+(?:too|also|as well|works?|fits?|"
    r"(?:is|are|could|would|might)(?! (?:not|wrong|incorrect|too)\b))\b)"
)
_LABEL = re.compile(r"[(\[{]?([A-Z])\s*[)\]}]?\s*[.:,、)]?\s*")
_CIRCLED = {0x24B6 + i: 65 + i for i in range(26)} | {0x24D0 + i: 65 + i for i in range(26)}
"""Letters in circles, as plain capitals."""
_SUFFIXED = re.compile(r"([A-Z])\s*(?:选项|项)")
_SEVERAL = re.compile(
    r"(?:(?:options?|choices?|both|either)\s+)*[(\[]?[A-Za-z][)\]]?"
    r"(?:(?:\s*(?:,(?:\s*(?:and|or)\b)?|\band\b|\bor\b|[/&、;]|和|或)\s*|\s+)"
    r"(?:option )?[(\[]?[A-Za-z][)\]]?)+[.\s]*"
)
_ONE_LETTER, _JOINED_LETTERS = re.compile(r"\b[A-Za-z]\b"), re.compile(r"[A-J]{2,}")
_OWN_LABEL = re.compile(r"\s*[(\[]?([A-Za-z])\s*[)\].:、]\s*(?=\S)")


_PLACE = re.compile(
    r"(?:it is |it['’]s )?(?:the )?([a-z]+|\d(?:st|nd|rd|th)) (?:option|choice|answer choice)|"
    r"(?:option|choice) (?:number |no\. ?|#)?(\d)",
    re.IGNORECASE,
)
_FILLER_WORDS = frozenset(
    "the a an it is are was of in on at to this that one its their be will would answer option choice "
    "correct figure shape color colour triangle angle quadrilateral polygon animal population species "
    "month day year line graph function number value object person picture image type kind category group "
    "s therefore thus hence so".split()
)

_LIMITING = frozenset("non not no anti half nearly almost neither or and never without un".split())
"""Words beside an option's text that make it another answer; any other single word is what it describes."""


class Options:
    """The options of one question; `same(option, text)` is whether two texts mean the same."""

    def __init__(self, choices: Sequence[str], same: Same) -> None:
        self.texts = strip_labels([str(choice) for choice in choices])
        self.folded = [fold(text) for text in self.texts]
        self.same = same

    def index_of_gold(self, gold: str, *, as_text: bool) -> int | None:
        """Index of the option of a gold answer by letter, else by text; with `as_text` by text first.

        A small letter is an option's text where an option has that text.
        """
        letter = _ALONE.fullmatch(clean(gold))
        index = self._index(letter[1]) if letter else None
        if letter and letter[1].islower() and letter[1] in self.folded:
            return self.folded.index(letter[1])
        if index is not None and not as_text:
            return index
        text = self.index_of_text(gold)
        return index if text is None else text

    def index_of_answer(self, answer: str) -> int | None:
        """Index of the option that an answer means; None for none, several, or a contradiction."""
        text = clean(answer.translate(_CIRCLED))
        if len(text) == 1 and text.islower() and text in self.folded:
            return self.folded.index(text)
        labelled = self._index_of_labelled(text)
        if labelled is not None:
            return labelled
        if len(text) > 3 and fold(text) not in self.folded:
            text = drop_denied(text, letters=True).strip(" .,;")
        if has_several_letters(text) or not text:
            return None
        letter, rest = _split_letter(text)
        if letter is None:
            found = self.index_of_text(answer)
            return self._index_of_place(text) if found is None else found
        index = self._index(letter)
        if index is None:
            return self.index_of_text(answer) if len(text) == 1 else None
        if not rest or self.folded[index] == letter.lower():
            return index
        if any(also[1] != letter for also in _ALSO.finditer(rest)):
            return None
        other = self.index_of_text(rest)
        agrees = other in (None, index) and self._numbers_agree(rest, self.texts[index])
        return index if agrees else None

    def _index_of_place(self, text: str) -> int | None:
        """Index of the option that a text names by its place: `the second option`, `option 2`."""
        place = _PLACE.fullmatch(text)
        if place is None:
            return None
        number = read_ordinal(place[1].lower()) if place[1] else int(place[2])
        number = len(self.texts) if (place[1] or "").lower() == "last" else number
        return number - 1 if number and 1 <= number <= len(self.texts) else None

    def _index_of_labelled(self, text: str) -> int | None:
        """Index of the option that a label with exactly that option's text means: `D. .91`, `B12 cm`."""
        label = _LABEL.match(text)
        index = self._index(label[1]) if label and len(text) > label.end(1) else None
        if label is None or index is None:
            return None
        rests = {fold(text[at:]) for at in (label.end(1), label.end())}
        return index if self.folded[index] in rests and fold(text) not in self.folded else None

    def _numbers_agree(self, rest: str, option: str) -> bool:
        """False for two numbers that differ: `(D) 140°` where D is 20°."""
        values = read_answer(rest), read_answer(option)
        return not all(isinstance(value, Quantity) and value.is_closed for value in values) or self.same(
            rest, option
        )

    def index_of_text(self, text: str) -> int | None:
        """Index of the only option with this text, else of the only one with this value."""
        folded = fold(text)
        exact = [i for i, option in enumerate(self.folded) if option == folded]
        if exact:
            return exact[0]
        if len(self._options_in_words(folded)) > 1:
            return None
        if is_refusal(text):
            declining = [i for i, option in enumerate(self.texts) if is_refusal(option)]
            return declining[0] if len(declining) == 1 else None
        equal = [i for i, option in enumerate(self.texts) if self.same(option, text)]
        if equal:
            return equal[0] if len(equal) == 1 else None
        return self._index_among_fillers(folded)

    def _index_among_fillers(self, folded: str) -> int | None:
        """Index of the option that stands among filler words: `an isosceles triangle`, `the blue one`."""
        found = self._options_in_words(folded)
        if len(found) != 1:
            return None
        left = folded.replace(self.folded[found[0]], " ")
        others = [word for word in re.findall(r"\w+", left) if word not in _FILLER_WORDS]
        return found[0] if not others or len(others) == 1 and others[0] not in _LIMITING else None

    def _options_in_words(self, folded: str) -> list[int]:
        """Indices of the options written in words (not as number or letter) that occur in a folded text."""
        return [
            i for i in find_mentioned_options(self.folded, folded) if re.search(r"[^\W\d]{2}", self.folded[i])
        ]

    def _index(self, letter: str) -> int | None:
        index = ord(letter.upper()) - ord("A")
        return index if index < len(self.texts) else None


def find_mentioned_options(options: Sequence[str], text: str) -> list[int]:
    """Indices of the options that occur in `text` as whole words, outside of a longer option's text."""
    found = []
    for index in sorted(range(len(options)), key=lambda i: -len(options[i])):
        option = options[index]
        at = text.find(option) if len(option) > 1 else -1
        while at >= 0 and not _is_whole_word(text, at, at + len(option)):
            at = text.find(option, at + 1)
        if at >= 0:
            found.append(index)
            text = f"{text[:at]} {text[at + len(option) :]}"
    return found


def _is_whole_word(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]` begins and ends at word boundaries (`9` isn't a word of `9.5`)."""
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    joined_before = before.isalnum() and before.isascii() and text[start].isalnum()
    joined_after = after.isalnum() and after.isascii() and text[end - 1].isalnum()
    decimal = after in (".", ",") and text[end + 1 : end + 2].isdigit()
    return not (joined_before or joined_after or decimal)


def has_several_letters(text: str) -> bool:
    """Whether a text consists of the letters of several options: `A and B`, `A, B, C`."""
    return _SEVERAL.fullmatch(text) is not None and len(set(_ONE_LETTER.findall(text))) > 1


def letter_set(text: str) -> frozenset[str]:
    """The letters of `ABD`, `A, B` or `(A) and (C)`; empty if the text is anything else."""
    text = clean(text).strip("()[]")
    if _JOINED_LETTERS.fullmatch(text) and "".join(sorted(set(text))) == text:
        return frozenset(text)
    return frozenset(re.findall(r"\b[A-Z]\b", text)) if has_several_letters(text) else frozenset()


def _split_letter(text: str) -> tuple[str | None, str]:
    """The option letter of a text and the rest of the text; (None, "") if it has none.

    The article "A" and the pronoun "I" count as letters only with punctuation.
    """
    match = _ALONE.fullmatch(text)
    if match:
        return match[1], ""
    for pattern in (_PUNCTUATED, _LOWER, _BEFORE_BRACKET, _SPACED):
        match = pattern.fullmatch(text)
        if match:
            return match[1].upper(), match[2].strip(" .()")
    match = _AFTER.fullmatch(text)
    if match:
        return match[2], match[1].strip(" .")
    match = _INTRODUCED.fullmatch(text)
    if match and match[1].isupper():
        return match[1], (match[2] or "").strip()
    match = _SUFFIXED.match(text)
    return (match[1], "") if match else (None, "")


def find_letter(text: str) -> str | None:
    """The option letter of a text when no options are known."""
    text = clean(text.translate(_CIRCLED))
    return None if has_several_letters(text) else _split_letter(text)[0]


def strip_labels(texts: list[str]) -> list[str]:
    """The options without labels that only repeat their position: `(A) 12`, `B. 14`."""
    labels = [_OWN_LABEL.match(text) for text in texts]
    if len(texts) > 1 and all(m and ord(m[1].upper()) - 65 == i for i, m in enumerate(labels)):
        return [text[m.end() :] for text, m in zip(texts, labels, strict=True) if m]
    return texts
