"""The configuration: every file composes and builds with the tiny model, and a mistake is told."""

from __future__ import annotations

import functools
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from openvlt.cli.app import normalise_arguments
from openvlt.cli.errors import error_sentence
from openvlt.config.build import build
from openvlt.config.resolvers import CONF, new_run_id
from openvlt.data.sources.local import LocalRows
from openvlt.errors import UserError
from openvlt.grpo.algorithm import GRPO
from openvlt.sft.module import SFT
from tests.helpers.configs import NEEDED, compose, compose_anew
from tests.helpers.entry_scripts import ROOT, environment

GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
FILES = [  # benchmarks belong to evaluate.py alone: tests/benchmark builds them; what is in `shared` is a part of a choice and none itself
    f"{group}={file.relative_to(CONF / group).with_suffix('')}"
    for group in GROUPS
    if group not in ("benchmark", "hydra")  # Hydra's own are tests/cli/test_ranks.py's
    for file in sorted((CONF / group).rglob("*.yaml"))
    if "shared" not in file.parts
]
PLACED = {
    "optimizer": "optimizer@sft.optimizer",
    "scheduler": "scheduler@grpo.scheduler",
    "experiment": "+experiment",
    "recipe": "+recipe",
}
NODES = (
    "model",
    "adapter",
    "data",
    "rollout",
    "reward",
    "trainer",
    "sft",
    "grpo",
    "distill",
    "self_distill",
    "evaluation",
    "iteration",
)


def choice(file: str) -> list[str]:
    """`group=name` where the group stands in the tree, and what else it needs."""
    group, _, name = file.partition("=")
    return [f"{PLACED.get(group, group)}={name}", *NEEDED.get(file, [])]


@functools.cache
def default_parts() -> dict[str, Any]:
    return {node: build(default()[node], node) for node in NODES}


@functools.cache
def default() -> DictConfig:
    return compose()


@functools.cache
def default_values(node: str) -> Any:
    return OmegaConf.to_container(default()[node], resolve=True)


def same_as_default(config: DictConfig, node: str) -> bool:
    """The node says what it says without any choice: built once for all files."""
    return OmegaConf.to_container(config[node], resolve=True) == default_values(node)


# --- every file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_every_file_composes_and_builds(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    config = compose(*choice(file))
    built = {node: build(config[node], node) for node in NODES if not same_as_default(config, node)}
    built = {node: built.get(node, default_parts()[node]) for node in NODES}
    assert isinstance(built["sft"], SFT) and isinstance(built["grpo"], GRPO)
    assert (
        callable(built["data"].problems) and callable(built["rollout"].generate) and callable(built["reward"])
    )
    assert set(built["iteration"].stages) == set(config.iteration.stages)
    assert not list(tmp_path.iterdir())  # building makes nothing


@pytest.mark.parametrize("name", ["evaluate", "distill"])
def test_the_other_scripts_compose_and_build(name: str) -> None:
    config = compose(name=name)
    for node in (n for n in (*NODES, "teacher", "select") if n in config):
        build(config[node], node)
    assert config.name == name


def test_the_groups_are_the_architectures() -> None:
    known = "scale model adapter data rollout reward grpo sft distill benchmark iteration optimizer scheduler strategy trainer logger paths"
    assert set(GROUPS) <= {*known.split(), "experiment", "recipe", "hydra"}
    assert {"tiny", "7b"} <= {file.stem for file in (CONF / "scale").glob("*.yaml")}


@pytest.mark.parametrize(
    "file", [*CONF.glob("experiment/*.yaml"), *CONF.glob("recipe/*.yaml")], ids=lambda file: file.stem
)
def test_experiments_open_with_command_hardware_time_and_outcome(file: Path) -> None:
    head = re.match(r"(?:#.*\n)+", file.read_text())[0]
    for word in ("Command", "Hardware", "Time", "Outcome"):
        assert re.search(rf"^# {word}: +\S", head, re.MULTILINE), f"{file.name} says no {word}"
    command = re.search(r"^# Command: +python (\w+\.py) (\S+)", head, re.MULTILINE)
    assert (ROOT / command[1]).is_file() and command[2] == f"+{file.parent.name}={file.stem}"


@pytest.mark.parametrize("scale", ["tiny", "7b"])
def test_grpo_takes_all_rows_of_ones_own_and_what_it_waits_for_is_bounded(scale: str) -> None:
    config = compose("+experiment=own", "data.path=rows.jsonl", f"scale={scale}")
    stages = build(config.iteration, "iteration").stages
    heldout = build(config.evaluation, "evaluation").selection
    for select, most in ((stages["traces1"].select, 500), (stages["grpo1"].select, None), (heldout, 500)):
        assert (select.amount, select.levels, select.sources) == (None, None, None)
        assert select.at_most == most
    source = build(config.data, "data")
    assert isinstance(source, LocalRows) and source.path == "rows.jsonl" and source.heldout == 0.1


def test_a_smoke_test_takes_sixteen_problems() -> None:
    config = compose("+experiment=smoke", "data=jsonl", "data.path=rows.jsonl")
    stages = build(config.iteration, "iteration").stages
    selections = [stage.select for stage in stages.values() if hasattr(stage, "select")]
    assert [each.at_most for each in (*selections, build(config.evaluation, "evaluation").selection)] == [
        16
    ] * 3


@pytest.mark.parametrize("cycle", ["cycle1", "cycle2", "cycle3", "three_cycles", "controlled", "smoke"])
def test_the_shipped_stages_are_in_order(cycle: str) -> None:
    from openvlt.iteration.context import make_context
    from openvlt.iteration.runner import check_stages

    config = compose(f"iteration={cycle}")
    iteration = build(config.iteration, "iteration")
    check_stages(iteration.stages, make_context(config))
    names = list(iteration.stages)
    if cycle == "controlled":  # the loop itself comes first, its control beside it afterwards
        assert (
            names[:10] == list(build(compose("iteration=three_cycles").iteration).stages) and len(names) == 14
        )
        loop, control = (
            iteration.stages,
            {name: iteration.stages[f"control_{name}"] for name in ("traces2", "sft2", "traces3", "sft3")},
        )
        for name in ("traces2", "traces3"):  # the same problems first, and more of them
            assert control[name].select.amount > loop[name].select.amount
            assert replace(control[name].select, amount=loop[name].select.amount) == loop[name].select
        assert [control[name].settings for name in ("sft2", "sft3")] == [
            loop[name].settings for name in ("sft2", "sft3")
        ]
        assert [control["traces2"].teacher, control["traces3"].teacher] == ["sft1", "control_sft2"]


@pytest.mark.parametrize(
    "stage, change",
    [("sft1", {"traces": ["grpo1"]}), ("sft1", {"start": "grpo1"}), ("traces1", {"teacher": "grpo1"})],
)
def test_a_stage_that_needs_a_later_one_is_told(stage: str, change: dict[str, Any]) -> None:
    from openvlt.iteration.context import make_context
    from openvlt.iteration.runner import check_stages

    config = compose("iteration=cycle1")
    with open_dict(config):
        config.iteration.stages[stage].update(change)
    with pytest.raises(UserError, match=f"{stage} needs grpo1, which comes after it; reorder"):
        check_stages(build(config.iteration, "iteration").stages, make_context(config))


# --- build() ------------------------------------------------------------------------------------------------------------


def node(**keys: Any) -> DictConfig:
    return OmegaConf.create({"_target_": "openvlt.data.sources.base.Selection", **keys})


def test_build_makes_plain_objects() -> None:
    made = build(
        OmegaConf.create(
            {
                "_target_": "openvlt.data.sources.base.Selection",
                "amount": 3,
                "levels": [1, 2],
                "sources": {"a": 1},
            }
        )
    )
    assert (made.amount, made.levels, made.sources) == (3, [1, 2], {"a": 1})
    assert type(made.levels) is list and type(made.sources) is dict
    assert build(OmegaConf.create({"x": [node(amount=2)]}))["x"][0].amount == 2


@pytest.mark.parametrize(
    "config, name, said",
    [
        (
            lambda: node(ammount=3),
            "data",
            r"data has unknown key 'ammount'; openvlt\.data\.sources\.base\.Selection takes amount, levels, sources, split",
        ),
        (lambda: node(a=1, b=2), "select", r"select has unknown keys 'a', 'b'"),
        (lambda: OmegaConf.create({"deep": [node(bad=1)]}), "x", r"x\.deep\[0\] has unknown key 'bad'"),
        (lambda: node(amount="???"), "select", r"no value for select\.amount; .*select\.amount=<value>"),
        (lambda: node(amount=0), "select", r"amount=0 asks for no problems; give a positive number"),
        (lambda: compose("+grpo.stepz=3").grpo, "grpo", r"grpo has unknown key 'stepz'; .*steps"),
        (
            lambda: compose("grpo.steps=ten").grpo,
            "grpo",
            r"grpo\.steps='ten' is no int; give grpo\.steps=<int>",
        ),
        (lambda: compose("grpo.kl=true").grpo, "grpo", r"grpo\.kl=True is no float"),
        (lambda: compose("grpo.group_size=2.5").grpo, "grpo", r"grpo\.group_size=2\.5 is no int"),
        (
            lambda: compose("trainer.progress=maybe").trainer,
            "trainer",
            r"trainer\.progress='maybe' is no bool",
        ),
        (
            lambda: compose("grpo.denominator=sum").grpo,
            "grpo",
            r"grpo\.denominator='sum'; it is all .* or kept",
        ),
        (lambda: compose("grpo.kl=-1").grpo, "grpo", r"grpo\.kl=-1.* is negative"),
        (
            lambda: compose("grpo.prompts_per_update=5").grpo,
            "grpo",
            r"is no multiple of grpo\.prompts_per_update=5",
        ),
        (
            lambda: compose("+reward.weights.precision=1").reward,
            "reward",
            r"reward weights name .*terms are \['accuracy'\]; give every term",
        ),
        (
            lambda: OmegaConf.create({"_target_": "openvlt.data.sources.base.Selction"}),
            "x",
            r"x\._target_=.*: openvlt\.data\.sources\.base has no 'Selction', but Selection, .*Source",
        ),
        (
            lambda: OmegaConf.create({"_target_": "no_such_package.Thing"}),
            "x",
            r"no_such_package.*can't be imported .*install its package",
        ),
        (lambda: compose("scale=7b").iteration, "iteration", r"no value for reasoner.*reasoner="),
        (lambda: compose("+iteration.stages.sft1.amount=-5").iteration, "iteration", r"amount=-5"),
        (lambda: compose("sft.epochs=0").sft, "sft", r"sft\.epochs=0; it is above 0"),
        (lambda: compose("sft.micro_batch=0").sft, "sft", r"sft\.micro_batch=0"),
        (lambda: compose("sft.max_tokens=0").sft, "sft", r"sft\.max_tokens=0"),
        (lambda: compose("sft.batch_size=0").sft, "sft", r"sft\.batch_size=0"),
        (lambda: compose("sft.optimizer.muon_learning_rate=-1").sft, "sft", r"sft\.optimizer: .*-1"),
        (lambda: compose("grpo.optimizer.learning_rate=-1").grpo, "grpo", r"grpo\.optimizer: .*-1"),
        (
            lambda: compose("grpo.transcripts=-3").grpo,
            "grpo",
            r"grpo\.transcripts=-3 is negative; 0 keeps none",
        ),
        (
            lambda: compose("trainer.workers=-1").trainer,
            "trainer",
            r"trainer\.workers=-1 is negative; give 0 or more",
        ),
        (lambda: compose("trainer.checkpoint_every=0").trainer, "trainer", r"trainer\.checkpoint_every=0"),
        (
            lambda: compose("evaluation.batch=0").evaluation,
            "evaluation",
            r"evaluation\.batch=0; it is above 0",
        ),
        (lambda: compose("reward.workers=-2").reward, "reward", r"reward\.workers=-2"),
        (lambda: compose("reward.deadline_s=0").reward, "reward", r"reward\.deadline_s=0"),
        (
            lambda: compose("distill=policy", "distill.reason.batch=0").distill,
            "distill",
            r"^batch=0; it is above 0",
        ),
        (
            lambda: compose("cycles.one.traces.amount=many").iteration,
            "iteration",
            r"stages\.traces1\.select\.amount='many' is no int or null; give .*=<int or null>",
        ),
        (
            lambda: compose("grpo.steps=null").grpo,
            "grpo",
            r"grpo\.steps=null is no int; give grpo\.steps=<int>",
        ),
        (lambda: compose("grpo.steps=[1,2]").grpo, "grpo", r"grpo\.steps=\[1, 2\] is no int"),
        (
            lambda: compose("data.kinds=bars").data,
            "data",
            r"data\.kinds='bars' is no list; give data\.kinds=\[bars\]$",
        ),
        (
            lambda: compose("evaluation.selection.levels=3").evaluation,
            "evaluation",
            r"evaluation\.selection\.levels=3 is no list or null",
        ),
        (
            lambda: compose("~grpo.reward").grpo,
            "grpo",
            r"grpo has no reward, which openvlt\.grpo\.algorithm\.GRPO needs; give grpo\.reward=<value>",
        ),
        (
            lambda: OmegaConf.create({"_target_": "datetime.date", "year": 2026, "month": "May", "day": 1}),
            "x",
            r"^x: 'str' object .*; check the kinds of its values",
        ),
        (
            lambda: OmegaConf.create({"a": {"_target_": "collections.Counter", "_args_": [3]}}),
            "x",
            r"^x\.a: TypeError: 'int' object is not iterable; correct its settings",
        ),
        (
            lambda: OmegaConf.create({"_target_": "zipfile.ZipFile", "file": "/no/such/file"}),
            "x",
            r"^x: FileNotFoundError: .*/no/such/file",
        ),
    ],
)
def test_build_says_what_is_wrong_and_what_is_allowed(
    config: Callable[[], DictConfig], name: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        build(config(), name)


def test_a_bug_behind_a_target_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its traceback shows where; only what the values of a call do wrong is told in a sentence."""
    from openvlt.data.sources import base

    def deeper() -> int:
        return len(3)

    monkeypatch.setattr(base.Selection, "__post_init__", lambda selection: deeper())
    with pytest.raises(TypeError, match="has no len"):
        build(node())


@pytest.mark.parametrize(
    "words, said",
    [
        (["modle=tiny"], ["'modle'", "did you mean model"]),
        (["sede=3"], ["'sede'", "did you mean seed"]),
        (["data=figurs"], ["'data/figurs'", "figures", "jsonl"]),
        (["seed=[1"], ["seed=[1"]),
        (["seed=1,2"], ["seed=1,2", "add -m", "'seed=[1,2]'"]),
        (["seed"], ["seed"]),
        (
            ["cycles.one.sft.batch_size=8"],
            ["+cycles.one.sft.batch_size=8"],
        ),  # not written out in the file, and yet allowed
        (["model.sizes.hidden=64"], ["+model.sizes.hidden=64"]),
        (["+seed=3"], ["seed"]),
        (["~grpo.stepz"], ["grpo.stepz"]),
    ],
    ids=lambda value: value[0],
)
def test_a_word_that_hydra_refuses_is_told_with_its_fix(words: list[str], said: list[str]) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        compose_anew(*words)
    message = error_sentence(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message, message


@pytest.mark.parametrize(
    "change, said",
    [
        ({"epochs": "ten"}, r"iteration\.stages\.sft1\.settings\.epochs='ten' is no int"),
        ({"epochs": 0}, r"sft1: sft\.epochs=0; it is above 0"),
        (
            {"optimizer": {"learning_rate": 0.1}},
            r"sft1: settings name parts of optimizer \(learning_rate\); a stage changes whole fields",
        ),
    ],
)
def test_settings_of_a_stage_are_checked_like_the_group_s(change: dict[str, Any], said: str) -> None:
    from openvlt.iteration.stages import override_fields

    with pytest.raises(UserError, match=said):
        override_fields(default_parts()["sft"], change, "sft1")


def test_unknown_settings_of_a_stage_are_told() -> None:
    from openvlt.iteration.stages import override_fields

    with pytest.raises(UserError, match=r"sft1: settings name \['epoch'\]; SFT has .*'epochs'"):
        override_fields(build(compose().sft), {"epoch": 2}, "sft1")


# --- resolvers, arguments, folders --------------------------------------------------------------------------------------


def test_run_ids_never_collide() -> None:
    ids = [new_run_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert [name[:-8] for name in ids] == sorted(name[:-8] for name in ids)  # the newest comes last
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]+", name) for name in ids)


def test_a_new_run_gets_one_folder_wherever_it_is_named(tmp_path: Path) -> None:
    config = compose(f"paths.runs={tmp_path}", "name=x")
    assert config.paths.run == config.paths.new == config.paths.run
    assert Path(config.paths.run).parent == tmp_path / "x"
    assert compose(f"paths.runs={tmp_path}", "name=x").paths.run != config.paths.run


def test_resume_names_a_folder_or_the_newest(tmp_path: Path) -> None:
    for name in ("20250101-000000-aaaa", "20250102-000000-bbbb"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "config.yaml").touch()
    (tmp_path / "train" / "20250103-000000-cccc").mkdir()  # no run
    assert compose(f"paths.runs={tmp_path}", "resume=latest").paths.run == str(
        tmp_path / "train" / "20250102-000000-bbbb"
    )
    first = str(tmp_path / "train" / "20250101-000000-aaaa")
    assert compose(f"resume={first}").paths.run == first


@pytest.mark.parametrize(
    "written, meant",
    [
        (["experiment=iter1"], ["+experiment=iter1"]),
        (["+experiment=iter1"], ["+experiment=iter1"]),
        (["recipe=dapo", "seed=2"], ["+recipe=dapo", "seed=2"]),
        (["model=tiny"], ["model=tiny"]),
        (["model=owner/name"], ["model=pretrained", "model.path=owner/name"]),
        (["model=./here"], ["model=pretrained", "model.path=./here"]),
        (["model=pretrained", "model.path=x/y"], ["model=pretrained", "model.path=x/y"]),
        (["name=a=b", "seed=1,2", "-m"], ["name='a=b'", "seed=1,2", "-m"]),
    ],
)
def test_arguments_as_users_write_them(written: list[str], meant: list[str]) -> None:
    assert normalise_arguments(written, CONF) == meant


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_sweep_switch_stands_anywhere(place: int) -> None:
    """argparse alone takes no `a=1 -m b=2`."""
    words = ["+experiment=iter2", "seed=1,2"]
    parsed = get_args_parser().parse_args(normalise_arguments([*words[:place], "-m", *words[place:]], CONF))
    assert parsed.multirun and parsed.overrides == words


def test_a_model_folder_needs_no_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert normalise_arguments(["model=mine"], CONF) == ["model=pretrained", "model.path=mine"]


def run_python(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A finished process that lists its imports, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "distill.py"])
def test_cfg_job_answers_at_once_and_imports_nothing_heavy(script: str) -> None:
    experiment = ["+experiment=iter2"] if script == "train.py" else []
    done, cpu = run_python(script, *experiment, "--cfg", "job")
    assert cpu < 5 * run_python("-c", "import hydra")[1]  # twice in fact; a busy machine slows both down
    assert OmegaConf.create(done.stdout).seed == 1
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "omegaconf" in loaded  # the list is one
    assert not loaded & {
        "torch",
        "transformers",
        "lightning",
        "numpy",
        "PIL",
        "pyarrow",
        "matplotlib",
        "datasets",
        "wandb",
    }


def test_a_model_named_by_its_place_keeps_the_scale_s_settings() -> None:
    """`model=<place> scale=7b` is a checkpoint of that model: the same precision, pixels and frozen parts."""
    paper = compose("scale=7b").model
    named = compose(*normalise_arguments(["scale=7b", "model=owner/OpenVLThinker-7B"], CONF)).model
    assert named.path == "owner/OpenVLThinker-7B"
    for key in ("dtype", "attn_implementation", "freeze", "max_pixels", "gradient_checkpointing"):
        assert named[key] == paper[key], key
    assert (paper.dtype, paper.max_pixels, list(paper.freeze)) == (
        "bfloat16",
        262144,
        ["vision", "projector"],
    )
