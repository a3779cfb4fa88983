"""The command line as users write it: places and names reach the config as they are, slips are one sentence with the right word."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from openvlt.cli.arguments import normalise_arguments
from openvlt.cli.errors import _name_as_written
from openvlt.cli.train import unreached_settings
from openvlt.cli.unknown_keys import explain_unknown_key
from openvlt.config.resolvers import CONF
from openvlt.errors import UserError
from tests.helpers.configs import compose

ODD = [
    *(
        "a=b/rows.jsonl",
        "a==b",
        "[a].jsonl",
        "a[1]/x",
        "[x]",
        "a b.jsonl",
        " a",
        "数据/行.jsonl",
        "Ünï.jsonl",
        "a$b",
        "a%b",
    ),
    *(
        "a%20b",
        "it's",
        'a"b"',
        "a,b",
        "[a,b",
        "a(1).jsonl",
        "a{b}",
        "{a}",
        "a#b",
        "a!b",
        "a&b;c",
        "a:b",
        "2025",
        "1e5",
        "true",
    ),
    *("a*b?", "a@b", "a^b", "a|b", "a<b>", "a`b", "-a", "+a", "a+b", "😀", "a\\", "x/a[1],b=2/(c).jsonl"),
]


def read(*arguments: str) -> list[object]:
    """The values that Hydra reads in the normalised arguments."""
    parser = OverridesParser.create()
    return [
        parser.parse_override(argument).value() for argument in normalise_arguments(list(arguments), CONF)
    ]


@pytest.mark.parametrize("place", ODD)
def test_a_place_is_read_as_it_is_written(place: str, tmp_path: Path) -> None:
    for key in (
        "data.path",
        "+data.test_path",
        "resume",
        "reuse",
        "data_dir",
        "responses",
        "baseline",
        "paths.runs",
    ):
        for written in (place, f"{tmp_path}/{place}"):
            assert read(f"{key}={written}") == [written], key
    assert read(f"model={tmp_path}/{place}") == ["pretrained", f"{tmp_path}/{place}"]


@pytest.mark.parametrize("place", ["null", "'quoted'", '"quoted"', "a\\=b"])
def test_what_hydra_reads_otherwise_is_a_place_if_it_is_there(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read(f"data.path={place}") != [place] or place == "null"
    (tmp_path / place).mkdir()
    assert read(f"data.path={place}") == [place] and read(f"model={place}") == ["pretrained", place]


def test_homes_lists_and_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert read("data.path=~/x.jsonl", "resume=~/run") == ["/home/me/x.jsonl", "/home/me/run"]
    assert read("model=~/m") == ["pretrained", "/home/me/m"]
    assert read("data.path=${paths.data}/x") == ["${paths.data}/x"]
    assert read("data.columns.images=[a,b]", "distill.samples=3") == [["a", "b"], 3]
    assert read("name=2025") == ["2025"] and read("name=1e5") == ["1e5"] and read("seed=2025") == [2025]
    assert read("data.columns.answer=2", "data.columns.images=null") == ["2", None]
    assert read("prompt.instruction=What's (a) this?") == ["What's (a) this?"]
    assert read("compare=a=1/x,[b]") == [["a=1/x", "[b]"]]
    for folder in ("a,b", "c"):
        (tmp_path / folder).mkdir()
    assert read("compare=a,b,c") == [["a,b", "c"]]


def test_in_a_sweep_commas_part_values() -> None:
    assert normalise_arguments(["data.path=/a=1,/b", "-m"], CONF) == ["data.path='/a=1',/b", "-m"]
    assert normalise_arguments(["seed=1,2", "-m"], CONF) == ["seed=1,2", "-m"]
    assert normalise_arguments(["--cfg", "job", "--config-dir", "x", "-c=job"], CONF)[:4] == [
        *("--cfg", "job", "--config-dir", "x")
    ]


@pytest.mark.parametrize(
    "words, meant",
    [
        (["--experiment", "smoke"], "+experiment=smoke"),
        (["--experiment=smoke"], "+experiment=smoke"),
        (["-experiment=smoke"], "+experiment=smoke"),
        (["--exp", "smoke"], "+experiment=smoke"),
        (["experiment", "smoke"], "+experiment=smoke"),
        (["smoke"], "+experiment=smoke"),
        (["vppo"], "+recipe=vppo"),
        (["--model", "x"], "model=x"),
        (["--seed", "2"], "seed=2"),
        (["--resume"], "resume=<value>"),
        (["--data.path", "x.jsonl"], "data.path=x.jsonl"),
        (["--grpo.steps=3"], "grpo.steps=3"),
        (["--benchmrk=mathvista"], "benchmark=mathvista"),
        (["--lr", "1e-6"], "lr=1e-6"),
    ],
)
def test_what_is_no_setting_shows_how_it_is_written(words: list[str], meant: str) -> None:
    with pytest.raises(UserError) as caught:
        normalise_arguments(words, CONF)
    assert str(caught.value) == f"{words[0]!r} is no setting, settings are written key=value; write {meant}"


def test_a_setting_that_nothing_reads_is_not_added() -> None:
    with pytest.raises(UserError, match="'.lr=1e-6': nothing reads a setting 'lr'"):
        normalise_arguments(["+lr=1e-6"], CONF)
    fine = ["+experiment=smoke", "+cycles.one.grpo.steps=3", "+reward.terms.a=1", "++model.sizes.hidden=4"]
    assert normalise_arguments(fine, CONF) == fine
    mine = ["+mine=1", "--config-dir", "here"]
    assert normalise_arguments(mine, CONF) == mine


@pytest.mark.parametrize(
    "place, kind", [("rows.jsonl", "jsonl"), ("my/rows.parquet", "jsonl"), ("owner/name", "hub")]
)
def test_data_is_a_kind_of_source(place: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"write data={kind} data.path={place}"):
        normalise_arguments([f"data={place}"], CONF)
    assert normalise_arguments(["data=jsonl", "seed=1"], CONF) == ["data=jsonl", "seed=1"]


LEARNING_RATES = ["grpo.optimizer.learning_rate", "sft.optimizer.learning_rate"]


@pytest.mark.parametrize(
    "key, said",
    [
        ("grpo.lr", LEARNING_RATES),
        ("learning_rate", LEARNING_RATES),
        ("lr", LEARNING_RATES),
        ("adapter.r", ["belongs to adapter=lora; add it"]),
        ("data.path", ["belongs to", "data=jsonl", "add one of them"]),
        ("grpo.stpes", ["did you mean grpo.steps? "]),
        ("grpo.max_steps", ["grpo.steps"]),
        ("trainer.device", ["trainer.devices"]),
        ("epochs", ["sft.epochs"]),
        ("grpo.gate", ["any more; it is now grpo.group_filter"]),
        ("sft.clip", ["any more; it is now sft.max_grad_norm"]),
        ("cycles.two.screen", ["any more; it is now cycles.two.difficulty_filter"]),
    ],
)
def test_a_key_that_is_not_there(key: str, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openvlt.cli.unknown_keys._all_keys", lambda: KEYS)
    sentence = explain_unknown_key(key, None)
    assert key in sentence and all(part in sentence for part in said), sentence


KEYS = """grpo.optimizer.learning_rate sft.optimizer.learning_rate grpo.steps grpo.kl sft.epochs seed name trainer.devices model.device
model.training.epochs iteration.stages later_grpo.steps""".split()


def test_the_keys_are_those_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    from openvlt.cli.unknown_keys import _all_keys

    monkeypatch.setattr("sys.argv", ["distill.py", "data=jsonl", "grpo.lr=1"])
    keys = _all_keys()
    assert {*KEYS} - {*keys} == {"iteration.stages"} and "data.skip_bad" in keys and "reuse" in keys


def test_a_setting_is_named_as_it_was_written() -> None:
    sentence = (
        "model.corpus.source.skip_bad='yes' is no bool; give model.corpus.source.skip_bad=true or false"
    )
    named = _name_as_written(sentence, ["data=jsonl", "data.skip_bad=yes"])
    assert named == "data.skip_bad='yes' is no bool; give data.skip_bad=true or false"
    assert _name_as_written(sentence, ["skip=1"]) == sentence
    assert _name_as_written(sentence, ["a.skip_bad=yes", "b.skip_bad=yes"]) == sentence


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["grpo.steps=30"],
            ["grpo.steps=30 doesn't reach every stage: grpo2 has 22, grpo3 has 22", "later_grpo.steps=30"],
        ),
        (
            ["sft.epochs=3"],
            ["sft2 has 4, sft3 has 4; for these add cycles.two.sft.epochs=3 cycles.three.sft.epochs=3"],
        ),
        (["grpo.optimizer.learning_rate=1e-5"], ["add later_grpo.optimizer.learning_rate=1e-5"]),
        (["+experiment=smoke", "grpo.steps=9"], ["grpo has 3", "iteration.stages.grpo.settings.steps=9"]),
        (["grpo.steps=30", "later_grpo.steps=30"], []),
        (["grpo.steps=22"], []),
        (["grpo.kl=0.1", "seed=2", "grpo=paper", "evaluation.batch=8"], []),
    ],
)
def test_stages_that_a_setting_does_not_reach_are_named(words: list[str], said: list[str]) -> None:
    sentences = unreached_settings(compose(*words), words)
    assert len(sentences) == bool(said) and all(part in sentences[0] for part in said), sentences
