"""One reader per source: its files, as its authors released them, to rows of data=jsonl. Image paths are relative to the folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvlt.data.sources.releases import ReleaseRows, each, letter, load_json, with_hint, yes_or_no
from openvlt.data.sources.schema import Row
from openvlt.errors import UserError


def figureqa(folder: Path, split: str) -> ReleaseRows:
    """FigureQA (Kahou et al. 2018): `<split>/qa_pairs.json`, `<split>/png/<image_index>.png`; 0 is no, 1 is yes."""
    file = folder / split / "qa_pairs.json"
    pairs = load_json(file)

    def row(number: str, pair: Mapping[str, Any]) -> Row:
        image = f"{split}/png/{int(pair['image_index'])}.png"
        return {
            "id": f"{split}-{number}",
            "question": pair["question_string"],
            "answer": ("no", "yes")[pair["answer"]],
            "images": [image],
        }

    return each(file, pairs["qa_pairs"] if isinstance(pairs, dict) else pairs, row)


def geometry3k(folder: Path, split: str) -> ReleaseRows:
    """Geometry3K (Lu et al. 2021): `<split>/<id>/data.json` beside `img_diagram.png`; the answer is a letter."""
    homes = sorted(
        (folder / split).glob("*/data.json"), key=lambda file: (len(file.parent.name), file.parent.name)
    )
    if not homes:
        raise UserError(f"{folder / split} has no <id>/data.json; unpack the release's {split} folder there")
    for file in homes:
        yield from each(file, {file.parent.name: load_json(file)}, lambda name, row: {
            "id": f"{split}-{name}",
            "question": row["annotat_text"] or row["problem_text"],
            "answer": row["answer"],
            "choices": row["compact_choices"],
            "images": [f"{split}/{name}/img_diagram.png"],
        }, "problem")  # fmt: skip


def tabmwp(folder: Path, split: str) -> ReleaseRows:
    """TabMWP (Lu et al. 2023): `problems_<split>.json` by id, `tables/<id>.png`; the unit belongs to the question."""
    file = folder / f"problems_{split}.json"

    def row(name: str, row: Mapping[str, Any]) -> Row:
        unit = f" (Unit: {row['unit']})" if row["unit"] else ""
        found = {
            "id": name,
            "question": row["question"] + unit,
            "answer": row["answer"],
            "images": [f"tables/{name}.png"],
        }
        return found | {"choices": row["choices"], "level": row.get("grade")}

    return each(file, load_json(file), row, "problem")


def vizwiz(folder: Path, split: str) -> ReleaseRows:
    """VizWiz-VQA (Gurari et al. 2018): `<split>.json`, images in `<split>/`; what most people answered; unanswerable ones are left out."""
    file = folder / f"{split}.json"
    return each(file, load_json(file), lambda number, row: vizwiz_row(row) | {"id": row["image"], "images": [f"{split}/{row['image']}"]}
                if row.get("answerable", 1) else None)  # fmt: skip


def vizwiz_row(row: Row) -> Row:
    """Question and most frequent answer; the first of equals."""
    said = Counter(each["answer"] if isinstance(each, Mapping) else each for each in row["answers"])
    return {"question": row["question"], "answer": said.most_common(1)[0][0]}


def ai2d(folder: Path, split: str) -> ReleaseRows:
    """AI2D (Kembhavi et al. 2016): `questions/<image>.json` and `images/`; `correctAnswer` counts from 0. The release has no splits."""
    files = sorted((folder / "questions").glob("*.json"))
    if not files:
        raise UserError(f"{folder / 'questions'} has no <image>.json; unpack the release there")
    for file in files:
        page = load_json(file)
        image = page.get("imageName")
        yield from each(file, page.get("questions", {}), lambda text, row, image=image: {
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
    """Super-CLEVR (Li et al. 2023): the split is the name of a question file (`superCLEVR_questions_30k`), images in `images/`."""
    return _scenes(folder / f"{split}.json", "images")


def _scenes(file: Path, images: str) -> ReleaseRows:
    questions = load_json(file)
    return each(file, questions["questions"], lambda number, row: {
        "id": f"{file.stem}-{row.get('question_index', number)}",
        "question": row["question"],
        "answer": yes_or_no(row["answer"]),
        "images": [f"{images}/{row['image_filename']}"],
    }, "question")  # fmt: skip


def clevr_math(folder: Path, split: str) -> ReleaseRows:
    """CLEVR-Math (Lindström and Abraham 2022) in OctoTools' flat form: `data.json`, paths relative to the folder."""
    file = folder / "data.json"
    return each(file, load_json(file), lambda number, row: {
        "id": row["pid"], "question": row["question"], "answer": row["answer"], "images": [row["image"]]
    })  # fmt: skip


def iconqa(folder: Path, split: str) -> ReleaseRows:
    """IconQA (Lu et al. 2021): `<split>/<task>/<id>/data.json`, `image.png`; where pictures are to choose from, they follow the image."""
    homes = sorted((folder / split).glob("*/*/data.json"))
    if not homes:
        raise UserError(
            f"{folder / split} has no <task>/<id>/data.json; unpack the release's {split} folder there"
        )
    for file in homes:
        place = file.parent.relative_to(folder).as_posix()
        yield from each(
            file,
            {file.parent.name: load_json(file)},
            lambda name, row, place=place: iconqa_row(row, place),
            "problem",
        )


def iconqa_row(row: Mapping[str, Any], place: str) -> Row:
    """One IconQA problem of the folder `place`; of several pictures the first is the question's, the next is choice A, and so on."""
    found = {"id": place, "question": row["question"], "images": [f"{place}/image.png"]}
    if row["ques_type"] == "fill_in_blank":
        return found | {"answer": row["answer"]}
    choices = row["choices"]
    if row["ques_type"] == "choose_img":
        found["images"] += [f"{place}/{name}" for name in choices]
        choices = [f"picture {number}" for number in range(2, len(choices) + 2)]
    return found | {"choices": choices, "answer": letter(row["answer"], choices)}


def mapqa(folder: Path, split: str) -> ReleaseRows:
    """MapQA (Chang et al. 2022): `<split>-QA.json`, `images/<map_id>`; several answers are told one after the other."""
    file = folder / f"{split}-QA.json"

    def row(number: str, row: Mapping[str, Any]) -> Row:
        answer = ", ".join(row["answer"]) if isinstance(row["answer"], list) else row["answer"]
        image = str(row["map_id"]) if Path(str(row["map_id"])).suffix else f"{row['map_id']}.png"
        name = f"{split}-{row.get('question_id', number)}"
        return {"id": name, "question": row["question"], "answer": answer, "images": [f"images/{image}"]}

    return each(file, load_json(file), row)


def scienceqa(folder: Path, split: str) -> ReleaseRows:
    """ScienceQA (Lu et al. 2022): `problems.json` by id, `images/<split>/<id>/image.png`; questions without an image are left out."""
    file = folder / "problems.json"

    def row(name: str, row: Mapping[str, Any]) -> Row | None:
        if row["split"] != split or not row["image"]:
            return None
        found = {"id": name, "question": with_hint(row["question"], row["hint"]), "choices": row["choices"]}
        return found | {
            "answer": letter(row["answer"], row["choices"]),
            "images": [f"images/{split}/{name}/{row['image']}"],
        }

    return each(file, load_json(file), row, "problem")


# --- rows of the hub ------------------------------------------------------------------------------------------------


def read_indexed_choice(row: Row, *, id: str = "id", question: str = "question", choices: str = "choices", answer: str = "answer", image: str = "image",
            hint: str = "hint") -> Row:  # fmt: skip
    """A multiple-choice row whose answer is an index, as a number or in digits (ScienceQA, AI2D)."""
    found = {
        "question": with_hint(row[question], row.get(hint)),
        "choices": row[choices],
        "images": row[image],
    }
    return (
        found
        | {"answer": letter(row[answer], row[choices])}
        | ({"id": row[id]} if row.get(id) is not None else {})
    )


def majority_answer(row: Row) -> Row:
    """VizWiz-VQA as lmms-lab has it: ten answers per question."""
    return vizwiz_row(row) | {"id": row["question_id"], "images": row["image"]}


def read_solution(row: Row) -> Row:
    """RL sets whose answer stands in tags or in a box (`<answer> 3 </answer>`): EasyR1, verl and R1-V forms."""
    from openvlt.verify import extract

    text = str(row.get("solution") or row.get("answer") or "")
    images = row["images"] if row.get("images") is not None else row.get("image")
    found = {
        "question": str(row["problem"]).replace("<image>", "").strip(),
        "answer": extract(text) if "<answer>" in text else text,
    }
    return found | {"images": images} | ({"id": row["id"]} if row.get("id") is not None else {})


def read_conversation(row: Row) -> Row:
    """Traces as conversations (`messages`, or `conversations` of from and value): the question, and the answer at the end of the reply."""
    from openvlt.verify import extract

    turns = row.get("messages") or row["conversations"]
    said = {turn.get("role") or turn["from"]: turn.get("content") or turn["value"] for turn in turns}
    user, reply = said.get("user") or said["human"], said.get("assistant") or said["gpt"]
    images = row.get("images") or row.get("image")
    return {"question": user.replace("<image>", "").strip(), "answer": extract(reply) or "", "images": images}
