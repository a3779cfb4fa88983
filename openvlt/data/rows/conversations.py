"""Conversations as training files have them, as a row: earlier turns, the last question, and its answer.

Read are `messages` (role, content: OpenAI, TRL, Qwen, ms-swift), `conversations` (from, value: LLaVA,
ShareGPT), ms-swift's `conversation` and `history` of pairs, and verl's `prompt` with
`reward_model.ground_truth`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from openvlt.data.image_places import PLACE
from openvlt.data.rows.cells import Row, brief, find_cell, is_missing, parse_cell
from openvlt.errors import UserError

CONVERSATIONS = ("messages", "conversations", "conversation", "prompt")
"""Columns that are looked for where a row has no question."""
ANSWERS = ("solution", "ground_truth", "reward_model.ground_truth")
"""Columns that are looked for where a conversation's row has no answer; else its last reply is the answer."""
PICTURE_KEYS = ("image", "image_url", "url", "path", "base64", "data", "bytes", "source")

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatgpt", "function_call", "tool_call"),
    "tool": ("tool", "function", "observation", "function_response", "tool_response", "ipython"),
}
_ROLE = {name: role for role, names in _ROLES.items() for name in names}

_OTHER_MEDIA = ("videos", "video", "audios", "audio")

Turns = list[tuple[str, str]]


def find_conversation(row: Row, question: str) -> Any:
    """The turns of a row whose question is a list of them, or that has none and a conversation instead."""
    there, cell = find_cell(row, question)
    for value in [cell] if there else [row.get(name) for name in CONVERSATIONS]:
        turns = parse_cell(value)
        if isinstance(turns, Mapping) and turns and all(isinstance(each, list) for each in turns.values()):
            # a list of structs, as datasets stores it
            turns = [dict(zip(turns, cells, strict=False)) for cells in zip(*turns.values(), strict=False)]
        if isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
            return turns
    return None


def read_turns(turns: Sequence[Mapping[str, Any]]) -> tuple[Turns, list[Any]]:
    """(role, text) of every turn, and the pictures in their parts. A picture's place in a text is `PLACE`.

    Raises UserError for a turn of another form, an unknown role, and parts that are neither text nor picture.
    """
    found: Turns = []
    pictures: list[Any] = []
    for number, turn in enumerate(turns, 1):
        if rounds := _read_round(turn):
            found += rounds
            continue
        name = turn.get("role") or turn.get("from")
        role = _ROLE.get(str(name).lower())
        if role is None:
            raise UserError(
                f"turn {number} is from {brief(name)}; expected a role or from of {', '.join(_ROLE)}"
            )
        content = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), "")
        text = _read_content(content, pictures, number)
        if calls := turn.get("tool_calls"):
            text += "".join(
                f"\n<tool_call>\n{json.dumps(c, ensure_ascii=False)}\n</tool_call>" for c in calls
            )
        found.append((role, text.strip("\n") if calls else text))
    return found, pictures


def _read_round(turn: Mapping[str, Any]) -> Turns:
    """The two turns of `{human: ..., assistant: ...}`, one round of ms-swift; else none."""
    names = [name for name in turn if name in ("system", "human", "user", "assistant", "gpt")]
    is_round = "role" not in turn and "from" not in turn and len(names) >= 2
    return [(_ROLE[name], str(turn[name])) for name in names if turn[name]] if is_round else []


def _read_content(content: Any, pictures: list[Any], number: int) -> str:
    """The text of a turn; pictures in its parts are added to `pictures`."""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        if not isinstance(content, str | int | float):
            raise UserError(f"turn {number} holds {brief(content)}; expected text or a list of parts")
        return str(content)
    return "".join(_read_part(part, pictures, number) for part in content)


def _read_part(part: Any, pictures: list[Any], number: int) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise UserError(f"turn {number} has a part {brief(part)}; expected text or {{type: text | image}}")
    filled = {key: value for key, value in part.items() if value is not None}
    kind = str(filled.get("type") or ("text" if "text" in filled else next(iter(filled), "")))
    if kind in ("text", "input_text", "output_text"):
        return str(filled.get("text", filled.get("content", "")))
    if kind in ("image", "image_url", "input_image"):
        picture = next((filled[key] for key in PICTURE_KEYS if key in filled), None)
        if isinstance(picture, Mapping) and "bytes" not in picture:
            picture = picture.get("url") or picture.get("path") or picture.get("data")
        if picture is not None:
            pictures.append(picture)
        return PLACE
    raise UserError(f"turn {number} has a part of type {kind!r}; only text and pictures can be shown")


def read_conversation(
    row: Row,
    *,
    question: str = "question",
    answer: str = "answer",
    images: Sequence[str] | None = None,
    before: str = "turns",
) -> Row:
    """The row with the turns, question, answer and images of its conversation; unchanged if it has none.

    The question is the last user turn; what stands `before` it, system turns included, goes to that column.
    The answer is the row's own, else the last reply. The other arguments name the columns that are filled
    (`images` None: images, also from image). Raises UserError for a conversation without a question, without
    a reply or answer, or with tools after it.
    """
    found = find_conversation(row, question)
    if found is None:
        return row
    if media := next((name for name in _OTHER_MEDIA if not is_missing(row.get(name))), None):
        raise UserError(f"the conversation has {media}; only pictures can be shown")
    completion = parse_cell(row.get("completion"))  # TRL: prompt and completion are lists of turns
    turns, pictures = read_turns([*found, *completion] if isinstance(completion, list) else found)
    if (system := row.get("system")) and isinstance(system, str) and turns[0][0] != "system":
        turns.insert(0, ("system", system))
    last, replies = _find_question(turns)
    golds = [cell for name in (answer, *ANSWERS) for there, cell in [find_cell(row, name)] if there]
    gold = next((cell for cell in golds if not is_missing(cell)), *replies[:1] or (None,))
    if gold is None:
        raise UserError(
            "the conversation has no reply after its last question, and the row no answer; "
            "name the column of the answer in data.columns.answer, or remove the row"
        )
    converted = {
        **row,
        question: turns[last][1] or PLACE,
        before: [list(turn) for turn in turns[:last]],
        answer: gold,
    }
    names = ("images", "image") if images is None else images
    filled = [row[name] for name in names if not is_missing(row.get(name))]
    if names and not filled:
        converted[names[0]] = pictures
    elif images is None:
        converted["images"] = filled[0]
    return converted


def _find_question(turns: Turns) -> tuple[int, list[str]]:
    """The index of the last user turn, and the reply to it. Raises UserError where there is no such turn."""
    users = [index for index, (role, _) in enumerate(turns) if role == "user"]
    if not users:
        raise UserError("the conversation has no user turn, so it asks nothing; mend it or remove the row")
    last = users[-1]
    replies = [text for _, text in turns[last + 1 :]]
    if any(role != "assistant" for role, _ in turns[last + 1 :]) or len(replies) > 1:
        raise UserError(
            "the conversation goes on with tools or several turns after its last question, and a prompt ends "
            "with the question; cut the conversation, or set data.convert"
        )
    return last, replies


def read_turn_cell(cell: Any) -> tuple[tuple[str, str], ...]:
    """The turns before a question: (role, text) of a list of turns, or of pairs of question and reply."""
    turns = parse_cell(cell)
    if is_missing(turns):
        return ()
    if not isinstance(turns, list):
        raise UserError(f"holds {brief(cell)}; expected a list of turns")
    found: Turns = []
    for turn in turns:
        if isinstance(turn, Mapping):
            found += read_turns([turn])[0]
        elif isinstance(turn, list | tuple) and len(turn) == 2 and turn[0] in _ROLES:
            found.append((turn[0], str(turn[1])))
        elif isinstance(turn, list | tuple) and len(turn) == 2:
            found += [("user", str(turn[0])), ("assistant", str(turn[1]))]
        else:
            raise UserError(f"holds the turn {brief(turn)}; expected {{role, content}}")
    return tuple(found)
