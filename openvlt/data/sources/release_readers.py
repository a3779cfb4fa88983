"""One reader per source: from its files, as its authors released them, to rows of data=jsonl.

Image paths are relative to the folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvlt.data.rows.cells import Row, is_missing
from openvlt.data.rows.conversations import read_conversation
from openvlt.data.sources.releases import ReleaseRows, convert_rows, letter, load_json, with_hint, yes_or_no
from openvlt.errors import UserError

conversation = read_conversation  # for `data.convert`, beside the other readers


def figureqa(folder: Path, split: str) -> ReleaseRows:
    """FigureQA (Kahou et al. 2018): `<split>/qa_pairs.json`, `<split>/png/<image_index>.png`; 1 is yes."""
    file = folder / split / "qa_pairs.json"
    pairs = load_json(file)

    def convert(number: str, pair: Mapping[str, Any]) -> Row:
        image = f"{split}/png/{int(pair['image_index'])}.png"
        return {
            "id": f"{split}-{number}",
            "question": pair["question_string"],
            "answer": ("no", "yes")[pair["answer"]],
            "images": [image],
        }

    return convert_rows(file, pairs["qa_pairs"] if isinstance(pairs, dict) else pairs, convert)


def geometry3k(folder: Path, split: str) -> ReleaseRows:
    """Geometry3K (Lu et al. 2021): `<split>/<id>/data.json` beside `img_diagram.png`; answers are letters."""
    homes = sorted(
        (folder / split).glob("*/data.json"), key=lambda file: (len(file.parent.name), file.parent.name)
    )
    if not homes:
        raise UserError(f"{folder / split} has no <id>/data.json; unpack the release's {split} folder there")
    for file in homes:
        yield from convert_rows(file, {file.parent.name: load_json(file)}, lambda name, row: {
            "id": f"{split}-{name}",
            "question": row["annotat_text"] or row["problem_text"],
            "answer": row["answer"],
            "choices": row["compact_choices"],
            "images": [f"{split}/{name}/img_diagram.png"],
        }, "problem")  # fmt: skip


def tabmwp(folder: Path, split: str) -> ReleaseRows:
    """TabMWP (Lu et al. 2023): `problems_<split>.json` by id, `tables/<id>.png`; questions give the unit."""
    file = folder / f"problems_{split}.json"

    def convert(name: str, row: Mapping[str, Any]) -> Row:
        unit = f" (Unit: {row['unit']})" if row["unit"] else ""
        found = {
            "id": name,
            "question": row["question"] + unit,
            "answer": row["answer"],
            "images": [f"tables/{name}.png"],
        }
        return found | {"choices": row["choices"], "level": row.get("grade")}

    return convert_rows(file, load_json(file), convert, "problem")


def vizwiz(folder: Path, split: str) -> ReleaseRows:
    """VizWiz-VQA (Gurari et al. 2018): `<split>.json`, images in `<split>/`; the most frequent answer counts.

    Unanswerable questions are left out.
    """
    file = folder / f"{split}.json"

    def convert(number: str, row: Mapping[str, Any]) -> Row | None:
        if not row.get("answerable", 1):
            return None
        return vizwiz_row(row) | {"id": row["image"], "images": [f"{split}/{row['image']}"]}

    return convert_rows(file, load_json(file), convert)


def vizwiz_row(row: Row) -> dict[str, Any]:
    """Question and most frequent answer; the first of equals."""
    answers = Counter(one["answer"] if isinstance(one, Mapping) else one for one in row["answers"])
    return {"question": row["question"], "answer": answers.most_common(1)[0][0]}


def ai2d(folder: Path, split: str) -> ReleaseRows:
    """AI2D (Kembhavi et al. 2016): `questions/<image>.json` and `images/`; `correctAnswer` counts from 0.

    The release has no splits.
    """
    files = sorted((folder / "questions").glob("*.json"))
    if not files:
        raise UserError(f"{folder / 'questions'} has no <image>.json; unpack the release there")
    for file in files:
        page = load_json(file)
        image = page.get("imageName")
        yield from convert_rows(file, page.get("questions", {}), lambda text, row, image=image: {
            "id": row["questionId"],
            "question": text,
            "answer": letter(row["correctAnswer"], row["answerTexts"]),
            "choices": row["answerTexts"],
            "images": [f"images/{image}"],
        }, "question")  # fmt: skip


def clevr(folder: Path, split: str) -> ReleaseRows:
    """CLEVR (Johnson et al. 2017): `questions/CLEVR_<split>_questions.json`, `images/<split>/`."""
    return _scenes(folder / "questions" / f"CLEVR_{split}_questions.json", f"images/{split}")


def superclevr(folder: Path, split: str) -> ReleaseRows:
    """Super-CLEVR (Li et al. 2023): `images/` and `<split>.json` (split `superCLEVR_questions_30k`)."""
    return _scenes(folder / f"{split}.json", "images")


def _scenes(file: Path, images: str) -> ReleaseRows:
    questions = load_json(file)
    return convert_rows(file, questions["questions"], lambda number, row: {
        "id": f"{file.stem}-{row.get('question_index', number)}",
        "question": row["question"],
        "answer": yes_or_no(row["answer"]),
        "images": [f"{images}/{row['image_filename']}"],
    }, "question")  # fmt: skip


def clevr_math(folder: Path, split: str) -> ReleaseRows:
    """CLEVR-Math (Lindström and Abraham 2022) in OctoTools' flat form: `data.json`."""
    file = folder / "data.json"
    return convert_rows(file, load_json(file), lambda number, row: {
        "id": row["pid"], "question": row["question"], "answer": row["answer"], "images": [row["image"]]
    })  # fmt: skip


def iconqa(folder: Path, split: str) -> ReleaseRows:
    """IconQA (Lu et al. 2021): `<split>/<task>/<id>/data.json` and `image.png`; choices may be pictures."""
    homes = sorted((folder / split).glob("*/*/data.json"))
    if not homes:
        raise UserError(
            f"{folder / split} has no <task>/<id>/data.json; unpack the release's {split} folder there"
        )
    for file in homes:
        place = file.parent.relative_to(folder).as_posix()
        yield from convert_rows(
            file,
            {file.parent.name: load_json(file)},
            lambda name, row, place=place: iconqa_row(row, place),
            "problem",
        )


def iconqa_row(row: Mapping[str, Any], place: str) -> Row:
    """One IconQA problem of the folder `place`.

    The first image is the question's, the next is choice A, and so on.
    """
    found = {"id": place, "question": row["question"], "images": [f"{place}/image.png"]}
    if row["ques_type"] == "fill_in_blank":
        return found | {"answer": row["answer"]}
    choices = row["choices"]
    if row["ques_type"] == "choose_img":
        found["images"] += [f"{place}/{name}" for name in choices]
        choices = [f"picture {number}" for number in range(2, len(choices) + 2)]
    return found | {"choices": choices, "answer": letter(row["answer"], choices)}


def mapqa(folder: Path, split: str) -> ReleaseRows:
    """MapQA (Chang et al. 2022): `<split>-QA.json`, `images/<map_id>`; commas join several answers."""
    file = folder / f"{split}-QA.json"

    def convert(number: str, row: Mapping[str, Any]) -> Row:
        answer = ", ".join(row["answer"]) if isinstance(row["answer"], list) else row["answer"]
        image = str(row["map_id"]) if Path(str(row["map_id"])).suffix else f"{row['map_id']}.png"
        name = f"{split}-{row.get('question_id', number)}"
        return {"id": name, "question": row["question"], "answer": answer, "images": [f"images/{image}"]}

    return convert_rows(file, load_json(file), convert)


def scienceqa(folder: Path, split: str) -> ReleaseRows:
    """ScienceQA (Lu et al. 2022): `problems.json` by id, `images/<split>/<id>/image.png`.

    Questions without an image are left out.
    """
    file = folder / "problems.json"

    def convert(name: str, row: Mapping[str, Any]) -> Row | None:
        if row["split"] != split or not row["image"]:
            return None
        found = {"id": name, "question": with_hint(row["question"], row["hint"]), "choices": row["choices"]}
        return found | {
            "answer": letter(row["answer"], row["choices"]),
            "images": [f"images/{split}/{name}/{row['image']}"],
        }

    return convert_rows(file, load_json(file), convert, "problem")


# --- rows of the hub ----------------------------------------------------------------------------------------


def read_indexed_choice(
    row: Row,
    *,
    id: str = "id",
    question: str = "question",
    choices: str = "choices",
    answer: str = "answer",
    image: str = "image",
    hint: str = "hint",
) -> Row:
    """A multiple-choice row whose answer is an index, as a number or in digits (ScienceQA, AI2D)."""
    found = {
        "question": with_hint(row[question], row.get(hint)),
        "choices": row[choices],
        "images": row[image],
        "answer": letter(row[answer], row[choices]),
    }
    return found if row.get(id) is None else found | {"id": row[id]}


def majority_answer(row: Row) -> Row:
    """VizWiz-VQA as lmms-lab has it: ten answers per question."""
    return vizwiz_row(row) | {"id": row["question_id"], "images": row["image"]}


def read_solution(row: Row) -> Row:
    """RL sets with `problem` and `solution` or `answer`: EasyR1, verl and R1-V forms."""
    images = row.get("image") if is_missing(row.get("images")) else row["images"]
    found = {"question": row["problem"], "images": images}
    found["answer"] = row["answer"] if is_missing(row.get("solution")) else row["solution"]
    return found if row.get("id") is None else found | {"id": row["id"]}
