"""`python -m openvlt.verify GOLD RESPONSE [--choices A B …]` prints the verdict and how it was reached."""

from __future__ import annotations

import argparse

from openvlt.verify.api import explain
from openvlt.verify.extract.extractor import EXTRACTIONS


def print_explanation(argv: list[str] | None = None) -> None:
    """Prints the explanation of one verdict, one line per step."""
    parser = argparse.ArgumentParser(prog="python -m openvlt.verify", description=__doc__)
    parser.add_argument("gold")
    parser.add_argument("response")
    parser.add_argument("--choices", nargs="+", help="the options, in order")
    parser.add_argument("--answer-type")
    parser.add_argument("--extraction", choices=EXTRACTIONS, default="any", help="where the answer may stand")
    args = parser.parse_args(argv)
    result = explain(
        args.gold,
        args.response,
        choices=args.choices,
        answer_type=args.answer_type,
        extraction=args.extraction,
    )
    print("\n".join(result.lines()))


if __name__ == "__main__":
    print_explanation()
