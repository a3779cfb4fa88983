"""The card beside a trained model: base, data, command, stages with their scores, and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from omegaconf import DictConfig, OmegaConf

from openvlt.storage.atomic import read_json_file, write_text
from openvlt.storage.markdown import format_percent, markdown_table

LIMITS = """\
* It answers questions about pictures of the kind that it was trained on. Other tasks weren't measured.
* Training rewards right answers. The reasoning before an answer may be wrong, and isn't checked.
* Held-out scores are of the data above, with their sampling error. They are no benchmark scores.
"""
USE = """\
```
openvlt evaluate model=<this folder> data=jsonl data.path=rows.jsonl evaluation.selection.split=train
```
"""


def write_model_card(stage: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes README.md into a finished stage's model folder; `records` are all stages' so far, by name.

    Does nothing where the stage has no model, or a card already, or the run's folder no config.yaml.
    """
    run, file = stage.parent, stage / "model" / "README.md"
    if (
        file.exists()
        or not (stage / "model" / "config.json").is_file()
        or not (run / "config.yaml").is_file()
    ):
        return
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    manifest = read_json_file(run / "manifest.json")
    write_text(file, render_model_card(config, manifest, records))


def render_model_card(
    config: DictConfig, manifest: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads."""
    base = str(
        config.model.get("path") or "the embedded model of openvlt (random weights, pretrained on figures)"
    )
    data = ModelCardData(
        base_model=base if base.count("/") == 1 and not base.startswith((".", "/", "~")) else None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["openvlt", *sorted({str(record["kind"]) for record in records.values()} & {"sft", "grpo"})],
        license="other",
    )
    command = " ".join(manifest["command"])
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {config.name}, {list(records)[-1]}\n",
        f"Trained by openvlt (commit {manifest.get('commit') or 'unknown'}) from {base}.\n",
        f"## How it was made\n\n```\npython {command}\n```\n",
        stages_with_scores(records) + "\n",
        f"## Data\n\n{markdown_table(('source', 'licence'), data_licences(config.data))}\n",
        f"## Use\n\n{USE}",
        f"## Limits\n\n{LIMITS}",
        "## Licence\n\nThat of the base model and of the data; this project adds no terms of its own.\n",
    ]
    return "\n".join(parts)


def stages_with_scores(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the stages: what each did, and its held-out accuracy with Wilson's 95 % interval."""
    rows = []
    for name, record in records.items():
        score = record.get("evaluation")
        shown = ""
        if score:
            low, high = (format_percent(end) for end in score["interval"])
            shown = f"{format_percent(score['accuracy'])} ({low}-{high}), {score['n']} problems"
        training = record.get("training") or {}
        amounts = [f"{training[key]} {key}" for key in ("steps", "traces", "problems") if key in training]
        rows.append((name, record["kind"], ", ".join(amounts), shown))
    return markdown_table(("stage", "kind", "amount", "held-out accuracy, % (95 % interval)"), rows)


def data_licences(data: DictConfig) -> list[tuple[str, str]]:
    """The sources of the training data, and the licence that each one's settings name."""
    own = data.get("path") or str(data.get("_target_", "unknown")).rpartition(".")[2]
    names = [str(name) for name in data.get("sources") or {}] or [str(own)]
    known = source_licences(data, names)
    return [(name, known.get(name, "see the source")) for name in names]


def source_licences(data: DictConfig, sources: Iterable[str]) -> dict[str, str]:
    """The licences in the data's config by source, those of a mixture's parts.

    The licence of a single source holds for whatever source names its rows have.
    """
    if data.get("licence"):
        return dict.fromkeys(sources, str(data.licence))
    parts = data.get("sources") or {}
    return {name: part.licence for name, part in parts.items() if part and part.get("licence")}
