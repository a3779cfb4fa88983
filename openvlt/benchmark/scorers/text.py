"""Small readers of text that the rules of several benchmarks share."""

from __future__ import annotations


def is_float(text: str) -> bool:
    """Whether Python reads the text as a float."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def find_boxes(response: str) -> list[str]:
    """The content of each `\\boxed{}`, inner braces included; an unclosed one ends the search."""
    found, place = [], response.find("\\boxed{")
    while place != -1:
        start = place + len("\\boxed{")
        end = matching_brace(response, start)
        if end is None:
            break
        found.append(response[start:end])
        place = response.find("\\boxed{", end)
    return found


def matching_brace(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` is closed; None if it isn't."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None
