"""Reads times of day and dates: `quarter to four`, `3:45 pm`, `下午三点半`, `2021年3月5日`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from openvlt.verify.parse.number_words import COUNT, read_number_word, read_ordinal
from openvlt.verify.parse.wording.phrases import MONTHS, SYNONYMS, WEEKDAYS

_LONGEST = 60


@dataclass(frozen=True)
class Clock:
    """The minutes of the day that a time may mean; `is_marked` where it can be nothing else (not a ratio)."""

    minutes: frozenset[int]
    is_marked: bool


@dataclass(frozen=True)
class Date:
    """A day of a year; None where a part isn't said."""

    year: int | None
    month: int
    day: int | None


_HALF = (
    r"(?:\s*(?:(?P<half>[ap])\.?\s?m\b\.?|in the (?P<part>morning|afternoon|evening)|at night|"
    r"o'?clock(?: sharp)?)){0,2}"
)
_DIGITS = re.compile(rf"(?P<hour>\d{{1,2}})(?:\s?:\s?(?P<minute>\d{{2}})(?::00)?)?{_HALF}", re.IGNORECASE)
_NUMBER = rf"(?:\d{{1,2}}|{COUNT})"
_PAST = re.compile(
    rf"(?:a |an )?(?P<shift>quarter|half|{_NUMBER})(?: minutes?)?[- ](?P<way>past|after|to|before|till)[- ]"
    rf"(?P<hour>{_NUMBER}|noon|midnight){_HALF}",
    re.IGNORECASE,
)
_SPOKEN = re.compile(rf"(?P<hour>[a-z]+)(?: (?P<minute>[a-z]+(?:[- ][a-z]+)?))?{_HALF}", re.IGNORECASE)
_CHINESE = re.compile(
    r"(?P<part>凌晨|早上|上午|中午|下午|晚上|傍晚)?(?P<hour>\d{1,2}|[一二三四五六七八九十两]{1,3})[点时:]"
    r"(?P<minute>\d{1,2}分?|[一二三四五六七八九十]{1,3}分?|半|[一三]刻)?(?:整|钟)?"
)
_FIXED = {"noon": 720, "midday": 720, "midnight": 0, "正午": 720, "中午": 720, "午夜": 0}
_OPENING = re.compile(r"^(?:(?:it is|it's|at|on|the time is|the date is)\s+)?(?:exactly\s+)?", re.IGNORECASE)
_MONTH = "|".join(
    sorted((*MONTHS, *(name for name in SYNONYMS if SYNONYMS[name] in MONTHS)), key=len, reverse=True)
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_WEEKDAY = rf"(?:(?:{'|'.join(WEEKDAYS)}),?\s+)?"
DATE_PATTERNS = (
    re.compile(
        rf"{_WEEKDAY}(?P<month>{_MONTH})\.?\s+(?P<day>{_DAY})(?:,?\s+(?P<year>\d{{4}}))?", re.IGNORECASE
    ),
    re.compile(
        rf"{_WEEKDAY}(?:the )?(?P<day>{_DAY})\s+(?:of )?(?P<month>{_MONTH})\.?(?:,?\s+(?P<year>\d{{4}}))?",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<year>\d{4})\s*[-/.年]\s*(?P<month>\d{1,2})\s*[-/.月]\s*(?P<day>\d{1,2})\s*[日号]?"),
    re.compile(r"(?P<month>\d{1,2})\s*[/月]\s*(?P<day>\d{1,2})(?:[日号]|\s*/\s*(?P<year>\d{4}))"),
    re.compile(rf"(?P<month>{_MONTH})\.?,?\s+(?P<year>\d{{4}})(?P<day>)", re.IGNORECASE),
)


def read_clock(text: str) -> Clock | None:
    """The time of day that a cleaned text names; None for other texts."""
    if len(text) > _LONGEST:
        return None
    text = _OPENING.sub("", text).strip(" .")
    fixed = _FIXED.get(text.lower().removeprefix("12 "))
    if fixed is not None:
        return Clock(frozenset((fixed,)), True)
    match = _DIGITS.fullmatch(text)
    if match:
        marked = match[0] != match["hour"] and (
            match["minute"] is None or match.end("minute") < len(match[0])
        )
        is_marked = marked or match["hour"].startswith("0") or (match["minute"] or "").startswith("0")
        return (
            _make_clock(match["hour"], match["minute"] or "0", match, is_marked)
            if match["minute"] or marked
            else None
        )
    match = _PAST.fullmatch(text)
    if match:
        return _read_past(match)
    match = _SPOKEN.fullmatch(text)
    if match and (match["minute"] or match.end("hour") < len(text)):
        return _make_clock(match["hour"], match["minute"] or "0", match, True)
    match = _CHINESE.fullmatch(text)
    if match and (match["part"] or ":" not in text):
        minute = {"半": "30", "一刻": "15", "三刻": "45"}.get(
            match["minute"] or "", (match["minute"] or "0").rstrip("分")
        )
        return _make_clock(match["hour"], minute, match, True)
    return None


def _read_past(match: re.Match[str]) -> Clock | None:
    """The time of `quarter to four`, `ten minutes past noon`."""
    shift = {"quarter": 15, "half": 30}.get(match["shift"].lower()) or _read_count(match["shift"])
    hour = {"noon": "12", "midnight": "0"}.get(match["hour"].lower(), match["hour"])
    clock = _make_clock(hour, "0", match, True)
    if clock is None or shift is None or shift >= 60:
        return None
    sign = 1 if match["way"].lower() in ("past", "after") else -1
    return Clock(frozenset((minute + sign * shift) % 1440 for minute in clock.minutes), True)


def _read_count(text: str) -> int | None:
    value = int(text) if text.isdecimal() else read_number_word(text.removeprefix("oh "))
    return None if value is None or value != int(value) else int(value)


def _make_clock(hour_text: str, minute_text: str, match: re.Match[str], is_marked: bool) -> Clock | None:
    """The minutes of the day a clock may mean: two for 3:45, one for 15:45 and 3:45 pm."""
    hour, minute = _read_count(hour_text), _read_count(minute_text)
    if hour is None or minute is None or hour > 24 or minute > 59:
        return None
    part = (match.groupdict().get("part") or "").lower()
    half = (match.groupdict().get("half") or "").lower()
    if part in ("afternoon", "evening", "下午", "晚上", "傍晚", "中午") or half == "p":
        halves: tuple[int, ...] = (720,)
    elif part in ("morning", "凌晨", "早上", "上午") or half == "a":
        halves = (0,)
    else:
        halves = (0, 720) if 0 < hour <= 12 and not hour_text.startswith("0") else (720 * (hour % 24 // 12),)
    return Clock(frozenset(60 * (hour % 12) + minute + half_day for half_day in halves), is_marked)


def read_date(text: str) -> Date | None:
    """The date that a cleaned text names; None for other texts."""
    if len(text) > _LONGEST:
        return None
    text = _OPENING.sub("", text).strip(" .")
    for pattern in DATE_PATTERNS:
        match = pattern.fullmatch(text)
        if match:
            name = match["month"].lower()
            month = int(name) if name.isdecimal() else MONTHS.index(SYNONYMS.get(name, name)) + 1
            day = match["day"] and (read_ordinal(match["day"]) or int(match["day"]))
            if 1 <= month <= 12 and (not day or 1 <= day <= 31):
                return Date(int(match["year"]) if match["year"] else None, month, day or None)
    return None
