"""Reads units of measurement after a number, by a table of their names.

It is an own table because answers use some hundred spellings (English, abbreviated, Chinese). pint has none
of the Chinese ones, takes 0.3 s to import and reads text with a tokenizer that would have to be guarded like
any other parser of foreign text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_PI = Fraction(math.pi)

# dimension | size in the dimension's base unit | names. A name with `~` also takes the _PREFIXES.
_TABLE = """
length      | 1            | ~m meter meters metre metres 米 公尺
length      | 1/100        | 厘米 公分 centimeter centimeters centimetre centimetres cms
length      | 1/1000       | 毫米 millimeter millimeters millimetre millimetres
length      | 1/10         | 分米 decimeter decimeters decimetre decimetres
length      | 1000         | 千米 公里 kilometer kilometers kilometre kilometres kms
length      | 254/10000    | inch inches in in. 英寸 "
length      | 3048/10000   | foot feet ft ft. 英尺
length      | 9144/10000   | yard yards yd yds
length      | 1609344/1000 | mile miles mi 英里
mass        | 1            | ~g gram grams gramme grammes 克
mass        | 1000         | kilogram kilograms kgs kilo kilos 千克 公斤
mass        | 1/1000       | milligram milligrams 毫克
mass        | 1000000      | ton tons tonne tonnes 吨
mass        | 45359237/100000 | pound pounds lb lbs lb. 磅
mass        | 28349523125/1000000000 | ounce ounces oz oz.
time        | 1            | ~s sec secs sec. second seconds 秒 秒钟
time        | 60           | min mins min. minute minutes 分钟
time        | 3600         | h hr hrs hour hours 小时 时
time        | 86400        | d day days 天 日
time        | 604800       | week weeks 周 星期
year        | 1            | year years yr yrs 年 岁
year        | 1/12         | month months 个月 月
angle       | DEG          | ^\\circ degree degrees deg 度
angle       | 1            | rad radian radians 弧度
volume      | 1            | ~l ~L liter liters litre litres 升
volume      | 1/1000       | milliliter milliliters millilitre millilitres cc 毫升
volume      | 3785411784/1000000000 | gallon gallons gal
frequency   | 1            | ~Hz hertz 赫兹
force       | 1            | ~N newton newtons 牛 牛顿
energy      | 1            | ~J joule joules 焦 焦耳
energy      | 4184/1000    | ~cal calorie calories
energy      | 1602176634/10000000000000000000000000000 | ~eV
power       | 1            | ~W watt watts 瓦 瓦特
pressure    | 1            | ~Pa pascal pascals 帕
pressure    | 101325       | atm
charge      | 1            | ~C coulomb coulombs 库仑
current     | 1            | ~A amp amps ampere amperes 安 安培
voltage     | 1            | ~V volt volts 伏 伏特
resistance  | 1            | ~\\Omega ~ohm ohms 欧 欧姆
capacitance | 1            | ~F farad farads
field       | 1            | ~T tesla teslas
amount      | 1            | ~mol mole moles 摩尔
temperature | 1            | K kelvin kelvins
celsius     | 1            | ^\\circC celsius 摄氏度
fahrenheit  | 1            | ^\\circF fahrenheit 华氏度
dollar      | 1            | $ \\$ dollar dollars usd us$ 美元
dollar      | 1/100        | cent cents ¢
euro        | 1            | € euro euros eur
pound       | 1            | £ gbp
yuan        | 1            | ¥ yuan yen rmb cny 元 块 块钱
yuan        | 1/10         | 角 毛
rupee       | 1            | ₹ rupee rupees rs. inr
speed       | 1609344/3600000 | mph
speed       | 1000/3600    | kph kmh kmph
decibel     | 1            | dB decibel decibels
"""
_PREFIXES = {
    "": Fraction(1),
    "k": Fraction(1000),
    "c": Fraction(1, 100),
    "m": Fraction(1, 1000),
    "d": Fraction(1, 10),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "\\mu": Fraction(1, 10**6),
    "μ": Fraction(1, 10**6),
    "u": Fraction(1, 10**6),
    "n": Fraction(1, 10**9),
    "p": Fraction(1, 10**12),
}
_WORD_PREFIXES = {
    "kilo": Fraction(1000),
    "mega": Fraction(10**6),
    "giga": Fraction(10**9),
    "centi": Fraction(1, 100),
    "milli": Fraction(1, 1000),
    "micro": Fraction(1, 10**6),
    "nano": Fraction(1, 10**9),
    "pico": Fraction(1, 10**12),
    "kil": Fraction(1000),  # kilohm
    "meg": Fraction(10**6),
}
_PREFIXED_WORDS = frozenset(
    "meter metre gram second liter litre hertz newton joule calorie watt pascal coulomb amp ampere volt ohm "
    "farad tesla mole".split()
)
# Derived dimensions by base dimensions, so that litres compare with cubic metres and newtons with kg·m/s².
_DERIVED = {
    "volume": (Fraction(1, 1000), {"length": 3}),
    "force": (Fraction(1000), {"mass": 1, "length": 1, "time": -2}),
    "energy": (Fraction(1000), {"mass": 1, "length": 2, "time": -2}),
    "frequency": (Fraction(1), {"time": -1}),
    "power": (Fraction(1000), {"mass": 1, "length": 2, "time": -3}),
    "charge": (Fraction(1), {"current": 1, "time": 1}),
    "speed": (Fraction(1), {"length": 1, "time": -1}),
    "pressure": (Fraction(1000), {"mass": 1, "length": -1, "time": -2}),
    "voltage": (Fraction(1000), {"mass": 1, "length": 2, "time": -3, "current": -1}),
    "resistance": (Fraction(1000), {"mass": 1, "length": 2, "time": -3, "current": -2}),
}
# Words in the place of a unit that cannot be compared.
GENERIC = frozenset("unit units square sq cubic u 单位 平方单位 立方单位 个 个单位".split())
CHINESE_COUNTERS = "个只条本人支次名种块张件辆棵位头朵颗双对枚根间层页道题组堆盒箱袋瓶杯把台座排级步圈"


@dataclass(frozen=True)
class Unit:
    """A scale and the powers of its dimensions: cm² is 1/10000 of (length, 2)."""

    scale: Fraction
    dims: tuple[tuple[str, int], ...]

    def __mul__(self, other: Unit) -> Unit:
        dims = dict(self.dims)
        for name, exponent in other.dims:
            dims[name] = dims.get(name, 0) + exponent
        return Unit(self.scale * other.scale, tuple(sorted((n, e) for n, e in dims.items() if e)))

    def __pow__(self, exponent: int) -> Unit:
        return Unit(self.scale**exponent, tuple((name, e * exponent) for name, e in self.dims if exponent))


ONE = Unit(Fraction(1), ())


def _make_unit(dimension: str, size: Fraction) -> Unit:
    scale, dims = _DERIVED.get(dimension, (Fraction(1), {dimension: 1}))
    return Unit(size * scale, tuple(sorted(dims.items())))


def _build_table() -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    for line in _TABLE.strip().splitlines():
        dimension, size, names = (part.strip() for part in line.split("|"))
        base = _PI / 180 if size == "DEG" else Fraction(size)
        for name in names.split():
            prefixes = _PREFIXES if name.startswith("~") else {"": Fraction(1)}
            if name.removeprefix("~").removesuffix("s") in _PREFIXED_WORDS or name == "hertz":
                prefixes = prefixes | _WORD_PREFIXES
            for prefix, factor in prefixes.items():
                table.setdefault(prefix + name.removeprefix("~"), _make_unit(dimension, base * factor))
    return table


UNITS = _build_table()
# By lower-case name, for CM and Kg. Not for one letter, where case makes the difference (m, M).
_FOLDED = {name.lower(): unit for name, unit in reversed(UNITS.items()) if len(name) > 1}
_POWER_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "平方": 2, "立方": 3}
_CHINESE = "|".join(sorted((n for n in UNITS if "\u4e00" <= n[0] <= "\u9fff"), key=len, reverse=True))
_PIECE = re.compile(
    r"(?P<join>/|per\b|每)|(?P<pre>square\b|sq\b\.?|cubic\b|平方|立方)\s*(?=\S)|\\cdot|\\times|[\s*]+|"
    rf"(?P<name>\^\s*\{{?\s*\\circ\s*\}}?\s*[CF]?(?![A-Za-z])|(?:\\mu\s*|[A-Za-z])?\\Omega|\\(?:mu\s*|\$)[A-Za-z]*|[A-Za-zμ]+\$?\.?|"
    rf"{_CHINESE}|[$€£¥₹¢\"])"
    r"(?:\s*(?P<exp>\^\s*\{\s*-?\d\s*\}|\^\s*-?\d(?!\d)|squared\b|cubed\b|(?<=m)[23](?!\d)))?",
    re.IGNORECASE,
)
_WORD_START = re.compile(
    r"(?<![A-Za-z\\μ])[A-Za-zμ]|\\(?:Omega|mu|\$)|\^\s*\{?\s*\\circ|[\u4e00-\u9fff$€£¥₹¢\"]"
)
_DEGREES = re.compile(r"(?:degrees?|\^\s*\{?\s*\\circ\s*\}?)\s+([CF])(?:elsius|ahrenheit)?$", re.IGNORECASE)
_FIRST_WORD = re.compile(r"[A-Za-zμ]+(?![$\\A-Za-zμ])")
_MAX_WORDS, _MAX_TAIL, MAX_UNIT_POWER = 8, 60, 12


def lookup_unit(name: str) -> Unit | None:
    """The unit with a name, first in exact case, then in any case; None if there is none."""
    name = "".join(name.split()).replace("{", "").replace("}", "")
    bare = name.removesuffix(".")
    return UNITS.get(name) or UNITS.get(bare) or _FOLDED.get(bare.lower())


def read_unit(text: str) -> Unit | None:
    """The unit of a whole text (`m/s^2`, `square inches`, `平方厘米`); None if it isn't one."""
    text = text.strip()
    if (first := _FIRST_WORD.match(text)) and not _begins_unit(first[0]):
        return None
    unit, sign, power, position = ONE, 1, 1, 0
    text = _DEGREES.sub(r"^\\circ \1", text) if "circ" in text or "egree" in text.lower() else text
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            return None
        position = match.end()
        if match["join"]:
            sign = -1
        elif match["pre"]:
            power = _POWER_WORDS[match["pre"].lower()]
        elif match["name"]:
            base = lookup_unit(match["name"])
            exponent = sign * power * _exponent(match["exp"])
            if base is None or abs(exponent) > MAX_UNIT_POWER:
                return None
            unit, power = unit * base**exponent, 1
    return unit if unit.dims else None


@lru_cache(maxsize=4096)
def _begins_unit(word: str) -> bool:
    """Whether a word may be the first of a unit: a unit itself, or one of `per`, `square`, `cubic`."""
    return word.lower() in ("per", *_POWER_WORDS) or lookup_unit(word) is not None


def _exponent(text: str | None) -> int:
    if not text:
        return 1
    return {"squared": 2, "cubed": 3}.get(text.lower()) or int(re.sub(r"[\^{}\s]", "", text))


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The text before a unit and the unit: (`12`, centimetre) for `12 cm`; (text, None) if one is missing."""
    offset = max(0, len(text) - _MAX_TAIL)
    starts = [offset + match.start() for match in _WORD_START.finditer(text[offset:])]
    for start in starts[-_MAX_WORDS:]:
        unit = read_unit(text[start:]) if text[:start].strip() else None
        if unit is not None:
            return text[:start].strip(), unit
    return text, None
