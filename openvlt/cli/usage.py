"""What `--help` of the entry scripts prints: examples, and the settings that people change."""

from __future__ import annotations

COMMAND_EXAMPLES = {
    "train": (
        ("+experiment=quickstart", "the whole loop on this CPU, embedded model"),
        ("+experiment=smoke data=jsonl data.path=rows.jsonl", "do data, model and memory work?"),
        ("+experiment=own scale=7b model=<hub id> data.path=rows.jsonl", "your rows, your model"),
        ("scale=7b adapter=lora plan=true", "memory, hours and cost, before anything"),
        ("+experiment=openvlthinker", "the paper's study"),
        ("+experiment=iter2 -m", "an experiment's own sweep"),
        ("grpo=dapo grpo.group_size=16 seed=2", "another method, two numbers changed"),
        ("resume=latest name=quickstart", "go on after a stop"),
    ),
    "evaluate": (
        ("model=runs/quickstart/<folder> data=figures", "held-out accuracy of a run's model"),
        ("benchmark=mathvision model=<hub id> protocol=official", "a benchmark under its own rules"),
        ("benchmark=mathvision responses=answers.jsonl protocol=official", "answers"),
        ("benchmark=all model=<hub id> data_dir=<folder>", "six benchmarks, one table"),
        ("compare=runs/evaluate/<one>,runs/evaluate/<other>", "a paired test, and what flipped"),
        ("benchmark=mathvision model=<hub id> view=blank_image", "does it look?"),
        ("benchmark=mathvision model=<hub id> limit=50", "a first look at fifty rows"),
        ("resume=runs/evaluate/<folder>", "go on after a stop"),
    ),
    "distill": (
        ("", "embedded model and a procedural reasoner: two minutes"),
        ("distill=policy model=runs/iter1/<folder>", "the model's own traces"),
        (
            "distill=served distill.reason.server.endpoints.urls=[<url>]",
            "a teacher behind a server",
        ),
        ("distill=iter1 plan=true", "calls, tokens, cost and yield"),
        ("resume=latest inspect=true", "counts, samples, rejected ones"),
        ("resume=latest", "go on after a kill, ask again for what failed"),
        ("distill=length reuse=runs/distill/<folder>", "another cut of the same answers, no call"),
        ("data=jsonl data.path=rows.jsonl", "your rows"),
    ),
}
SHARED = (
    ("scale=tiny|3b|7b", "sizes, data amounts and rates together"),
    ("model=<folder or hub id>", "the model to start from, or to ask"),
    ("data=<name> data.path=<file>", "where problems come from; data=jsonl for your rows"),
    ("adapter=lora", "train an adapter, not all weights"),
    ("seed=1", "everything random follows from it"),
    ("name=<word>", "the runs' folder below runs/"),
    ("paths.runs=runs paths.data=data", "where runs are written, and data sets lie"),
    ("trainer.devices=8 strategy=shard", "several GPUs; weights cut over them"),
    ("rollout=prefix|vllm|hf", "what generates"),
    ("tokens.response=512", "tokens of an answer at most"),
    ("model.max_pixels=262144", "area of an image at most"),
    ("prompt.instruction=<text>", "what every question ends with"),
)
OWN = {
    "train": (
        ("+experiment=<name>", "a study of conf/experiment"),
        ("+recipe=<name>", "a method of the literature, conf/recipe"),
        ("grpo=paper|dapo|gspo|...", "the algorithm, conf/grpo"),
        ("grpo.steps=30", "optimiser steps of GRPO"),
        ("grpo.group_size=8", "completions of a problem"),
        ("grpo.prompts_per_rollout=32", "problems of a rollout batch"),
        ("grpo.prompts_per_update=32", "problems of an optimiser step"),
        ("grpo.micro_batch=64", "completions of a backward pass: memory"),
        ("grpo.optimizer.learning_rate=1e-6", ""),
        ("grpo.kl=0.01", "coefficient of the KL to the reference; 0: none"),
        ("grpo.temperature=1.0", ""),
        ("sft.epochs=1 sft.batch_size=32", "supervised fine-tuning"),
        ("sft.optimizer.learning_rate=1e-5", ""),
        ("reward.weights.<term>=0.1", "weight of a reward term"),
        ("model.freeze=[vision,projector]", "parts that stay fixed"),
        ("model.gradient_checkpointing=true", "less memory for time (pretrained models)"),
        ("trainer.progress=false", "no progress bar"),
        ("plan=true", "memory, hours, cost; nothing is loaded"),
    ),
    "evaluate": (
        ("benchmark=<name>", "mathvista, mathvision, emma, ..., all"),
        ("protocol=official|openvlthinker|openvlt", "whose prompts and rules"),
        ("data_dir=<folder>", "a local copy of the benchmark"),
        ("responses=<file>", "recorded answers instead of a model"),
        ("view=blank_image|text_only|caption", "what is hidden from the model"),
        ("samples=4", "answers to a question"),
        ("limit=50", "rows at most"),
        ("baseline=<run>", "a run to compare with"),
        ("judge=<server>", "a judge for answers that rules can't decide"),
        ("compare=A,B", "two runs row by row"),
        ("evaluation.selection.split=train", "another split of your rows"),
    ),
    "distill": (
        ("distill=captions|policy|served|gold|iter1", "who writes captions and chains"),
        ("select.amount=1000", "problems to ask about"),
        ("distill.reason.server.endpoints.urls=[<url>]", "the teacher's servers"),
        ("distill.reason.server.endpoints.model=<name>", "the teacher's name there"),
        ("reuse=<run>", "answers of another run: no call"),
        ("inspect=true", "look at a run"),
        ("plan=true", "calls, tokens and cost, before them"),
    ),
}


def usage_text(name: str, command: str) -> str:
    """The help of an entry script, which the user started as `command`."""
    settings = [*OWN[name], *SHARED]
    column = max(len(words) for words, _ in settings)
    return "\n".join(
        [
            f"usage: {command} [group=option ...] [setting=value ...] [-m]",
            "",
            "examples:",
            *(f"  {command} {words}  # {said}" for words, said in COMMAND_EXAMPLES[name]),
            "",
            "settings that people change:",
            *(f"  {words:<{column}}  {said}".rstrip() for words, said in settings),
            "",
            "--cfg job prints all settings, --hydra-help Hydra's own switches.",
            "A setting that isn't there is refused with the nearest one.",
        ]
    )
