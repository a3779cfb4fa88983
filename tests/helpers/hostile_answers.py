"""Answers made to hang, exhaust, crash or take over a grader: (name, gold, response), generated, never stored."""

from __future__ import annotations

from collections.abc import Iterator


def inputs(canary: str) -> Iterator[tuple[str, str, str]]:
    """Every hostile input; `canary` is a path that no input may manage to create."""
    for kind in (
        powers,
        factorials,
        nestings,
        giants,
        operators,
        environments,
        relations,
        unicode,
        wordings,
        notations,
        responses,
        marks,
        objects,
        denials,
        forms,
    ):
        yield from ((f"{kind.__name__}-{index}", gold, text) for index, (gold, text) in enumerate(kind()))
    yield from ((f"code-{index}", "12", text) for index, text in enumerate(code(canary)))


def tagged(*answers: str, gold: str = "12") -> Iterator[tuple[str, str]]:
    return ((gold, f"<think>t</think><answer>{answer}</answer>") for answer in answers)


def powers() -> Iterator[tuple[str, str]]:
    yield from tagged(
        "9**9**9**9",
        "9^{9^{9^{9}}}",
        "10**10**8",
        "10^{10^{8}}",
        "2^{99999999}",
        "(2^{4096})^{4096}",
        "x^{10^{9}}",
        "(x+1)^{9999999}",
        "1e999999999",
        "1E-999999999",
        r"1\times 10^{-99999999}",
        r"1 \times 10^{99999999999999999999}",
        "0^{-1}",
        "0^0",
        "(-8)^{1/3}",
        r"\sqrt[999999999]{2}",
        r"\sqrt[0]{2}",
        r"2^{1/99999999999}",
        "e^{e^{e^{e^{10}}}}",
        r"\pi^{\pi^{\pi^{\pi}}}",
        "9^9^9^9^9^9^9^9",
        "^".join(["2"] * 5_000),
        "2" + "^{2" * 600 + "}" * 600,
        "(" * 50 + "2" + ")^9" * 50,
        "1.0000001^{4000}",
        r"\left(\frac{123456789}{987654321}\right)^{4000}",
        "(((2^{60})^{60})^{60})^{60}",
    )
    yield from tagged("(x+y+z)^{4000}", "x^{4096}y^{4096}", "((x^2+1)^{99})^{99}", gold="(x+y+z)^{2}")


def factorials() -> Iterator[tuple[str, str]]:
    yield from tagged(
        "1000000!",
        "99999999999!",
        "((((9!)!)!)!)!",
        "3" + "!" * 500,
        "170!!",
        r"\binom{10^9}{10^8}",
        r"\binom{99999999}{49999999}",
        r"\frac{100000!}{99999!}",
        "(-1)!",
        "0.5!",
        r"\binom{-3}{2}",
        r"\binom{4000}{2000}",
    )


def nestings() -> Iterator[tuple[str, str]]:
    deep = 3_000
    yield from tagged(
        r"\frac{1}{" * deep + "2" + "}" * deep,
        "(" * deep + "12" + ")" * deep,
        "[" * deep + "12" + "]" * deep,
        "{" * deep + "12" + "}" * deep,
        r"\sqrt{" * deep + "2" + "}" * deep,
        r"\{" * deep + "12" + r"\}" * deep,
        r"\left(" * deep + "12" + r"\right)" * deep,
        "|" * deep + "12" + "|" * deep,
        r"\text{" * deep + "12" + "}" * deep,
        "(" * 4_000,
        ")" * 4_000,
        "{" * 8_000,
        "}" * 8_000,
        "([" * 900 + "12" + "])" * 900,
        r"\sin " * deep + "1",
        "-" * 5_000 + "12",
        "+-" * 2_500 + "12",
        "1" + "%" * 900,
        r"\frac" * deep,
        "12" + "'" * 900,
        "x" + "_{x" * 400 + "}" * 400,
        r"\frac{1}{1+" * 250 + "1" + "}" * 250,
        r"\boxed{" * 30 + "12" + "}" * 30,
    )
    yield "12", r"\boxed{" * 5_000 + "12" + "}" * 5_000
    yield "12", r"\boxed{" * 20_000


def giants() -> Iterator[tuple[str, str]]:
    million = 1_000_000
    yield from tagged(
        "1" * million,
        "0." + "3" * million,
        "12" + " " * million,
        "+".join(["1"] * 20_000),
        "*".join(["x"] * 20_000),
        ",".join(map(str, range(20_000))),
        r"\{" + ",".join(map(str, range(20_000))) + r"\}",
        "1/" + "0" * 5_000 + "1",
        "a" * million,
        "12 " * 30_000,
        "-" + "9" * 4_000,
        "0" * 1_900 + "12",
        "1,234," * 300 + "567",
        "1" * 399 + "." + "1" * 399,
        "7" * 1_400 + "^{7}",
        "(1,2)," * 300 + "(1,2)",
        "1:" * 900 + "2",
        "12 or " * 300 + "12",
        r"\frac{" + "1" * 390 + "}{" + "3" * 390 + "}",
        "sqrt(" + "7" * 390 + ")",
    )
    yield "1" * 5_000, "<answer>" + "1" * 5_000 + "</answer>"


def operators() -> Iterator[tuple[str, str]]:
    yield from tagged(
        r"\sum_{n=1}^{10^{12}} n",
        r"\prod_{k=1}^{\infty} (1-2^{-k})",
        r"\int_0^{\infty} e^{-x^2} \, dx",
        r"\int \frac{\sin(\cos(\tan x))}{x^x} dx",
        r"\lim_{n\to\infty} (1+\frac1n)^n",
        r"\sum_{i=1}^{9999}\sum_{j=1}^{9999} ij",
        r"\gcd(10^{999}, 6^{999})",
        r"\operatorname{lcm}(1,2,3)",
        r"\zeta(3)",
        r"\log_{1} 2",
        r"\ln 0",
        r"\tan 90^\circ",
        r"\arcsin 10^{300}",
        r"\sin(10^{300})",
        r"\sin(10^{1200})",
        r"\lfloor 10^{1200}/7 \rfloor",
        r"\log_{0} 0",
        r"\cosh(10^{6})",
        r"\max(1, i)",
        r"\frac{0}{0}",
        r"\infty - \infty",
        r"\frac{\infty}{\infty}",
        r"0 \cdot \infty",
        "i^{i^{i^{i}}}",
    )


def environments() -> Iterator[tuple[str, str]]:
    def matrix(rows: int, columns: int, cell: str = "1") -> str:
        return r"\begin{pmatrix}" + r"\\".join([" & ".join([cell] * columns)] * rows) + r"\end{pmatrix}"

    gold = matrix(2, 2)
    yield from tagged(
        matrix(500, 500),
        matrix(9, 9, "x^{2}+y"),
        matrix(1, 5_000),
        r"\begin{pmatrix}" * 900,
        r"\begin{pmatrix}" * 60 + "1" + r"\end{pmatrix}" * 60,
        r"\det" + matrix(9, 9, "a"),
        r"\begin{cases}" + r"x=1\\" * 300 + r"\end{cases}",
        matrix(2, 2, "9^{9^{9^{9}}}"),
        matrix(2, 2) + "^{99999}",
        gold=gold,
    )


def relations() -> Iterator[tuple[str, str]]:
    yield from tagged(
        "x^{99}+x+1=0",
        "x=y=z=" * 200 + "1",
        r"\sin x = x^{77} + \cos x",
        r"\frac{1}{x^{50}+1}+\frac{1}{x^{49}+x}=1",
        r"y=\frac{1}{x^{x}}",
        gold=r"\frac{1}{x}+\frac{1}{y}=1",
    )
    yield from tagged(
        r"\frac{1}{(x+y)^{300}}+\frac{1}{(x-y)^{299}}=1",
        r"\frac{(x+y)^{200}}{x}=\frac{y}{(x-y)^{200}}",
        gold=r"\frac{1}{x}+\frac{1}{y}=1",
    )
    yield from tagged(
        "x^{99}+x^{98}-7x+1<0",
        r"\sin(\cos(x^2))>x^{55}",
        r"x^{x^{x}}<2",
        r"\frac{x^{60}-3x+1}{x^{61}+x-5}>0",
        r"\tan(x^3)\le \ln|x|",
        gold=r"x>3 \text{ or } x<-1",
    )
    yield from tagged("<" * 900, "x<" * 500 + "1", "=" * 1_900, "x=" * 900, gold="0<x<1")
    yield from tagged(r"\cup".join(["(1,2)"] * 90), r"(1,2)\cup" * 400 + "(3,4)", gold=r"(1,2)\cup(3,4)")


def unicode() -> Iterator[tuple[str, str]]:
    yield from tagged(
        "1\u200b2\u200b" * 400,
        "\u202e21\u202c" * 300,
        "12" + "\x00" * 1_000,
        "\ud800" * 500,
        "12\udfff",
        "\ufeff" * 5_000 + "12",
        "１" * 1_500,
        "½" * 900,
        "²" * 900,
        "x" + "⁹" * 900,
        "\u0301" * 2_000,
        "ﷺ" * 900,
        "🧮" * 900,
        "\u2028\u2029" * 500,
        "Ⅻ",
        "٣" * 500,
        "千" * 900,
        "百分之" * 300,
        "\U000e0041" * 500,
    )


def wordings() -> Iterator[tuple[str, str]]:
    """Words that change a value, numbers in words, directions, phrases and sentences, by the thousand."""
    yield from tagged(
        "half of " * 200 + "24",
        "twice " * 300 + "24",
        "24" + " squared" * 200,
        "2 to the power of " * 90 + "2",
        "10 to the power of 10 to the power of 8",
        "1000000 factorial",
        "the factorial of the factorial of 1000",
        "1000000000 choose 100000000",
        "the product of " + " and ".join(["9"] * 400),
        "the least common multiple of " + ", ".join(map(str, range(2, 400))),
        "9 plus " * 250 + "9",
        "9 minus 9 times " * 110 + "9",
        "12 of " * 300 + "12",
        "one hundred and " * 120 + "one",
        "twenty-" * 280 + "one",
        "one " * 490 + "thirds",
        "thousand million billion " * 80,
        "two and a half and " * 100 + "a half",
        "minus negative " * 130 + "two",
        "三分之" * 600 + "一",
        "万亿" * 900 + "二",
        "二又" * 900 + "三分之一",
        "第" * 1_900 + "三",
        "increase of " * 160 + "25%",
        "25%" + " decrease increase" * 110,
        "5 below zero above zero " * 80,
        "24 more than less than " * 80 + "3",
        "there are no real " * 110 + "solutions",
        "no " * 900 + "solution",
        "quarter past " * 150 + "three",
        "half past " * 190 + "half past",
        "the day before " * 130 + "Wednesday",
        "星期" * 900 + "三",
    )
    yield from tagged("true " * 390, "not " * 480 + "true", "no doubt " * 220, "yes or no " * 190, gold="Yes")
    yield from tagged("Wed" * 600, "the " * 480 + "Wednesday", "before Wednesday " * 110, gold="Wednesday")
    yield from tagged("quarter to " * 180, "3:45" * 480, "three " * 320, "下午" * 900 + "3:45", gold="3:45")
    yield from tagged(
        "March 5, " * 220, "2021-" * 390, "2021年" * 390, "1/" * 900 + "2021", gold="March 5, 2021"
    )


def notations() -> Iterator[tuple[str, str]]:
    """Functions of several arguments, sums, bases, congruences, units, sequences, cases, labels, formulas."""
    yield from tagged(
        r"\gcd(" + ",".join(["123456789"] * 180) + ")",
        r"\operatorname{lcm}(" + ",".join(map(str, range(10**8, 10**8 + 150))) + ")",
        r"\gcd(" * 150 + "1,2" + ")" * 150,
        r"\max(" + "9^{4096}," * 100 + "1)",
        "C(10^9, 10^8)",
        "C(9999,4999)",
        "C_{9999}^{4999}",
        "9999C4999",
        "P(9999,4999)",
        r"\binom{4096}{2048}^{9999}",
        "C_9^4" * 300,
        r"\sum_{k=1}^{10^{12}} k",
        r"\sum_{k=1}^{200}\sum_{j=1}^{200}\sum_{i=1}^{200} ijk",
        r"\sum_{k=1}^{200} k^{k^{k}}",
        r"\prod_{k=1}^{200} 9^{4000}",
        r"\prod_{k=1}^{200} k!",
        r"\sum_{k=-10^9}^{10^9} k",
        r"\sum_{k=1}^{\sum_{j=1}^{\sum_{i=1}^{9} i} j} k",
        r"\sum" * 300,
        r"\sum_{k=1}^{199} \frac{1}{k^{99}}",
        "1" * 1_900 + "_2",
        "1" * 199 + "_{2}",
        "F" * 1_800 + "_{16}",
        "12_" * 600 + "2",
        r"x \equiv 3 \pmod{" + "9" * 1_800 + "}",
        "3 mod " * 300 + "7",
        r"9^{9^{9}} \bmod 7",
        "12 cm^{1000000000}",
        "12 " + "cm^9 " * 300,
        "12 square " + "cubic " * 250 + "cm",
        "12 km/h" + "/s" * 800,
        r"\frac12" * 90 + r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"9^{4000}\begin{pmatrix}9^{4000}&2\\3&4\end{pmatrix}",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}" + "^T" * 500,
        "1, 2, ..., 10^{12}",
        "1, 2, ..., 99999999999",
        "1, ..., " * 200 + "9",
        "0.1, 0.2, ..., 99999",
        r"\mathbb{R}" * 180,
        "all real numbers except " * 70 + "2",
        r"(0,9)\setminus" * 120 + r"\{1\}",
        "0<x<9, " + ", ".join(f"x \\ne {n}" for n in range(150)),
        "i+j+k+" * 130 + "i",
        "1=" * 900 + "1",
        "12=" * 300 + "x",
        r"\sqrt[3]{" * 60 + "-2" + "}" * 60,
        "(-x)^{1/" + "9" * 90 + "}",
        r"\sqrt[99]{-10^{300}}",
    )
    cases = r"\begin{cases}x+1,&x<0\\x^2,&x\ge 0\end{cases}"
    yield from tagged(
        r"\begin{cases}" + r"x,&x<0\\" * 90 + r"\end{cases}",
        r"\begin{cases}" * 60 + "x,&x<0" + r"\end{cases}" * 60,
        r"\begin{cases}" + ",&" * 900 + r"\end{cases}",
        r"\begin{cases}" + "if " * 600 + r"\end{cases}",
        gold=cases,
    )
    yield from tagged(
        "H2" * 90, "(" * 90 + "H2O" + ")2" * 40, "H" * 1_900, "H2O+" * 400, "^" * 190, gold="H2O"
    )
    yield from tagged(
        "H2 + " * 40 + "-> H2O", "->" * 900, "H2 -> " * 300, gold=r"2H_2 + O_2 \rightarrow 2H_2O"
    )
    yield from tagged(
        "A" * 1_900 + "=4", "AB=" * 600 + "4", r"\angle " * 250 + "A=4", "P(" * 600 + "A=4", gold="AB=4"
    )
    yield from tagged("(y,x)=" * 300 + "(1,2)", "(" + "x," * 900 + "y)=(1,2)", gold="(1,2)")


def responses() -> Iterator[tuple[str, str]]:
    million = 1_000_000
    for text in (
        "the answer is " * 60_000,
        "the answer is 12. wait, " * 40_000,
        "$" * million,
        r"\boxed{1}" * 80_000,
        "<answer>" * 80_000,
        "</answer>" * 80_000,
        "<answer>1</answer>" * 60_000,
        "<think>" * 100_000,
        "</think>" * 100_000,
        "word " * 200_000,
        "1 " * 400_000,
        "1, 2, " * 150_000,
        "It was " + "1" * 1_900 + ":00 am 5.",
        "is 1 and " * 210,
        "8 is not " * 210,
        "1 hour " + "2 " * 900,
        "\n" * million,
        "therefore " * 90_000,
        "(A) " * 200_000,
        "**" * 400_000,
        "= " * 400_000,
        r"\frac{1}{2} " * 80_000,
        "{" * million,
        "a" * million,
        " " * million,
        "答案是" * 200_000,
        "答案：" + "一" * million,
        "answer" + " " * million,
        "#" * million,
        "the answer to of for here in that " * 30_000,
        "if the answer is 12 " * 40_000,
        "," * million,
        "1," * 400_000,
        "-" * million,
        "| a " * 200_000,
        "x = " * 200_000,
        "there are " * 90_000,
    ):
        yield "12", text


def marks() -> Iterator[tuple[str, str]]:
    """Marks of thinking, turns, channels, boxes, emphasis and struck-out text by the thousand."""
    for mark in (
        "<think>",
        "</think>",
        "<think></think>",
        "◁think▷",
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_start|>assistant ",
        "<|end_of_box|>",
        "<|begin_of_box|>12",
        "<|channel|>final",
        "<|channel|>final<|message|>12",
        "[THINK]",
        "<|a_b|>",
        "assistantfinal",
        "~~",
        "~~a",
        "<del>",
        r"\cancel{",
        r"\cancel{{",
        "**",
        "*a ",
        "_a ",
        "***",
        "<b>",
    ):
        yield "12", mark * 20_000 + "12"
    yield "12", "The answer is 12." + "\nQuestion: " * 20_000
    yield "12", "a\nb" + "\nQuestion: " * 20_000
    yield "12", "<s>" * 20_000 + "12" + "</s>" * 20_000
    yield "12", "<answer>" + "~~" * 9_000 + "12</answer>"


def objects() -> Iterator[tuple[str, str]]:
    """JSON that is nested, cut off, escaped or repeated by the thousand."""
    yield "12", '{"a":' * 20_000 + "12" + "}" * 20_000
    yield "12", '{"answer":[' * 9_000 + "12" + "]}" * 9_000
    yield "12", '{"answer": "12"}' * 20_000
    yield "12", '{"answer": "' + "\\" * 30_001 + '"}'
    yield "12", "{'" * 20_000 + "}"
    yield "12", '{ "' * 20_000 + "}"
    yield "12", '{"answer": ' + "9" * 19_000 + "}"
    yield "12", '{"answer": ' + "[" * 9_000 + "]" * 9_000 + "}"
    yield "12", '{"answer": "{\\"answer\\": ' * 2_000 + "12" + "}" * 2_000
    yield "12", "```json" * 5_000 + '{"answer": 12}'
    yield "12", "The answers are:" + "\n- 12" * 20_000
    yield "12", "<answer>" + "12\n" * 9_000 + "</answer>"


def denials() -> Iterator[tuple[str, str]]:
    """Denials, corrections and yes or no by the thousand, in one clause and in many."""
    for words in (
        "not ",
        "is not ",
        "12 is not ",
        "n't ",
        "no, ",
        "12, no, ",
        "12 is wrong. ",
        "The answer is not 12. ",
        "The answer is 12, which is wrong. ",
        "The answer is not ",
        "some people say ",
        "instead of ",
        "12 is a very very ",
        "not a but ",
        "whether ",
        "then I changed it to ",
        "(not ",
        "it might be ",
        "yes no ",
        "yes, ",
        "not true ",
        "不是",
        "12 是错的",
        "The answer is B, not C. ",
        r"\boxed{12} is wrong. ",
        "<answer>12</answer> is wrong. ",
    ):
        yield "12", words * (30_000 // len(words)) + "12"
        yield "yes", f"<answer>{words * (1_900 // len(words))}</answer>"


def forms() -> Iterator[tuple[str, str]]:
    """Sentences that seem to end in a date, an order, a figure or a direction, again and again."""
    for gold, words in (
        ("a=3, b=5", "a = 3 and "),
        ("5 km north", "It is 5 km, directed to the "),
        ("5 km north", "5 km north "),
        ("B > A > C", "abc: A < "),
        ("3:45", "half past "),
        ("March 5, 2021", "5 March "),
        (r"\angle ABC", r"\angle ABC "),
        (r"AB \parallel CD", "AB is parallel to "),
        (r"\triangle ABC \sim \triangle DEF", "ABC ~ "),
        (r"\{1,2\}", r"A \cup "),
        ("0x2F", "0xF"),
        ("1.5 kΩ", r"5 k\Omega "),
        ("1:50000", "1 : 50 000 "),
        ("12", "one dozen "),
    ):
        for size in (190, 1_900, 18_000):
            yield gold, words * (size // len(words)) + "."
            yield gold, f"<answer>{words * (min(size, 1_900) // len(words))}</answer>"
    yield "5 km north", "It is 5 km" + " " * 15_000 + "x"
    yield "12", "In " + "a " * 9_000 + ": $12$"


def code(canary: str) -> Iterator[str]:
    write = f"open({canary!r},'w').write('x')"
    shell = f"touch {canary}"
    for text in (
        f"__import__('os').system('{shell}')",
        f'eval("{write}")',
        f'exec("{write}")',
        write,
        f"(lambda: {write})()",
        f"[{write} for _ in [1]]",
        f"().__class__.__bases__[0].__subclasses__() or {write}",
        f"print({write})",
        f"$({shell})",
        f"`{shell}`",
        f"; {shell} ;",
        f"{{{{{write}}}}}",
        f"${{{write}}}",
        f"f'{{{write}}}'",
        f"\\text{{{write}}}",
        f"\\input{{|{shell}}}",
        f"\\immediate\\write18{{{shell}}}",
        f"Symbol('x').subs({write})",
        f'sympify("{write}")',
        f"x.__init__.__globals__['os'].system('{shell}')",
        f"cos\nos\n(S'{shell}'\ntR.",
        f"!!python/object/apply:os.system ['{shell}']",
        f"<script>{write}</script>",
        f"%s{write}%n",
        f"12 if {write} else 12",
        f"12 # {write}",
        f"12\\par{{{write}}}",
        f"import os; os.system('{shell}')",
        f"help() or {write}",
        f"globals()['__builtins__']['{write}']",
    ):
        yield f"<think>t</think><answer>{text}</answer>"
        yield f"So the answer is \\boxed{{{text}}}."
