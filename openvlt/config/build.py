"""Configuration: the one call to Hydra's instantiate, the resolvers, and the frame around every entry script."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from openvlt import distributed
from openvlt.config.validate import check_nodes
from openvlt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
APPENDED = ("experiment", "recipe")  # groups outside the defaults list: `experiment=x` is read as `+experiment=x`


# --- building ----------------------------------------------------------------------------------------------------------


def build(config: Any, name: str = "") -> Any:
    """Objects from config: `hydra.utils.instantiate` with plain containers, after every key has been checked.

    Raises UserError for a key that its target doesn't take, a missing value, or a target that can't be imported.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    plain = config
    try:
        if isinstance(config, (DictConfig, ListConfig)):
            if missing := OmegaConf.missing_keys(config):
                rootless = config._get_parent() is None  # else the keys begin at the whole config's root
                raise UserError(_no_value(sorted(f"{name}.{key}".lstrip(".") if rootless else key for key in missing)))
            plain = OmegaConf.to_container(config, resolve=True)
            config = OmegaConf.create(plain)
        check_nodes(plain, name)
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        raise _reason(error, name) from error
    except OmegaConfBaseException as error:
        raise UserError(first_line(str(error))) from error


def _no_value(missing: list[str]) -> str:
    return f"no value for {', '.join(missing)}; give on the command line: {' '.join(f'{key}=<value>' for key in missing)}"


def _reason(error: Exception, name: str) -> Exception:
    """What lies behind Hydra's error: a UserError where the settings are at fault, else the exception itself, with its traceback."""
    told, cause = str(error), error
    while type(cause) is type(error) and cause.__cause__ is not None:
        told, cause = str(cause), cause.__cause__
    if isinstance(cause, UserError):
        return cause
    if isinstance(cause, ValueError):
        return UserError(str(cause))
    key, target = re.search(r"^full_key: (\S+)", told, re.MULTILINE), re.search(r"target '([^']+)'", told)
    where = ".".join(part for part in (name, key and key[1]) if part) or (target and target[1]) or "config"
    if isinstance(cause, TypeError) and _at_the_call(cause):
        return UserError(f"{where}: {first_line(str(cause))}; check the kinds of its values")
    if isinstance(cause, (type(error), ImportError, OSError)) or (target and not target[1].startswith("openvlt.")):
        return UserError(f"{where}: {type(cause).__name__}: {first_line(str(cause))}; correct its settings")
    return cause


def _at_the_call(error: TypeError) -> bool:
    """Whether it was raised by the call of a target or in the target's own first lines, and not somewhere deeper."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max((index for index, file in enumerate(files) if "instantiate" in Path(file).parts), default=-1)
    return len([file for file in files[last + 1 :] if file != "<string>"]) <= 1  # a dataclass's __init__ is such a "file"


# --- resolvers ---------------------------------------------------------------------------------------------------------


def new_run_id() -> str:
    """Time and a short random part: two jobs that start in the same second still get folders of their own."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _run_folder(runs: str, name: str, resume: str | None) -> str:
    """A new folder for this run, or the one to resume; `latest` is the newest of that name."""
    if resume is None:
        return str(Path(runs) / name / new_run_id())
    if resume != "latest":
        if not (Path(resume) / "config.yaml").is_file():
            raise UserError(f"resume={resume}: no config.yaml there; give a run folder, or leave resume out")
        return resume
    folders = sorted(path.parent for path in (Path(runs) / name).glob("*/config.yaml"))
    if not folders:
        raise UserError(f"resume=latest: no run under {Path(runs) / name}; start one without resume")
    return str(folders[-1])


def _output_folder(default: str) -> str:
    """Hydra's output folder inside a job, `default` under `compose()` (tests, notebooks)."""
    if HydraConfig.initialized() and (output := HydraConfig.get().runtime.output_dir):
        return output
    return default


def register_resolvers() -> None:
    """The resolvers that `conf/` uses; safe to call again."""
    OmegaConf.register_new_resolver("run_folder", _run_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_id", new_run_id, replace=True)
    OmegaConf.register_new_resolver("output_folder", _output_folder, replace=True)


register_resolvers()


# --- entry scripts -----------------------------------------------------------------------------------------------------


def entry(name: str, run: Callable[[DictConfig], None]) -> None:
    """Runs an entry script under Hydra with `conf/<name>.yaml`. A user's mistake ends in one sentence and exit status 2."""
    import hydra
    from hydra.errors import HydraException
    from yaml import YAMLError

    sys.argv[1:] = normalise(sys.argv[1:], CONF)
    # idle OpenMP threads sleep: spinning ones slow a shared machine down fivefold (docs/LOG.md)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra re-raises, so that its errors can be told in our words
    told = (UserError, HydraException, OmegaConfBaseException, YAMLError)

    def framed(config: DictConfig) -> None:
        with telling(told, _DISK):
            processes, accelerator = (1, "cpu") if config.get("plan") else _trainer(config)  # a plan needs no device
            if not distributed.launched() and processes > 1:
                _leave_no_empty_folder(config)  # the ranks' run has its own
                distributed.check(processes, accelerator)
                sys.exit(distributed.launch(processes))  # the whole command, a sweep too: ranks go through it side by side
            distributed.join(accelerator)
            if not distributed.launched():
                signal.signal(signal.SIGTERM, signal.default_int_handler)  # a request to stop is a Ctrl-C
            try:
                run(config)
            finally:
                _leave_no_empty_folder(config)

    with telling((*told, OSError), ()):  # before the run begins, any trouble with a file is one with the place to run in
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(framed)()


def _leave_no_empty_folder(config: DictConfig) -> None:
    """Takes the folder that Hydra made for this process away again, unless something is in it."""
    with contextlib.suppress(OSError):
        Path(config.paths.run).rmdir()


def _trainer(config: DictConfig) -> tuple[int, str]:
    """Processes and accelerator; of a run to resume those it had, unless the command line says another number of processes."""
    trainer, saved = config.trainer, Path(config.paths.run) / "config.yaml"
    given = any(override.startswith("trainer.devices=") for override in HydraConfig.get().overrides.task)
    if config.resume is not None and saved.is_file():
        trainer = OmegaConf.load(saved).trainer
    return distributed.processes(config.trainer.devices if given else trainer.devices), trainer.accelerator


_DISK = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENOTDIR)


@contextlib.contextmanager
def telling(errors: tuple[type[Exception], ...], numbers: tuple[int, ...]) -> Iterator[None]:
    """Turns these errors, and an OSError of these numbers, into one sentence and exit status 2.

    It stands inside the job too: an error that reaches Hydra is announced by Hydra first, in its own words. OPENVLT_TRACEBACK=1
    shows the traceback.
    """
    try:
        yield
    except (*errors, OSError) as error:
        mine = isinstance(error, errors) or error.errno in numbers
        if not mine or os.environ.get("OPENVLT_TRACEBACK"):
            raise
        sys.exit(_fail(explain(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> int:
    distributed.let_main_speak()  # all ranks meet the same mistake
    print(f"error: {message}", file=sys.stderr)
    return 2


def explain(error: Exception) -> str:
    """One sentence for the errors that a user can mend."""
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename or "the disk"
        return f"{place}: {error.strerror}; free space, or choose other places with paths.runs=<folder> paths.cache=<folder>"
    text = str(error).partition("UserError raised while resolving interpolation: ")[2] or str(error)
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        key, values = found.groups()
        return f"{key}={values} are several values; add -m to run one after the other, or write a list: '{key}=[{values}]'"
    if (override := getattr(error, "override", None)) is not None:
        return f"{override!r} can't be read ({first_line(text)}); write key=value, quote lists and braces: 'key=[1,2]'"
    if (mark := getattr(error, "problem_mark", None)) is not None:
        return f"{mark.name}, line {mark.line + 1}: this is no valid YAML ({error.problem}); mend the line"
    if "Could not override" in text or "not in struct" in text:
        found = re.search(r"full_key: (\S+)", text) or re.search(r"Could not override '([^']+)'", text)
        return _unknown_key(found[1] if found else first_line(text), re.search(r"use (\+.+)", text))
    if found := re.search(r"Could not find '([^']+)'", text):
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        return f"there is no config {found[1]!r}; choose from {', '.join(options)}" if options else first_line(str(error))
    return text if isinstance(error, UserError) else first_line(text)


def _unknown_key(key: str, append: re.Match[str] | None) -> str:
    last = key.rpartition(".")[2]
    known = {match for file in CONF.rglob("*.yaml") for match in re.findall(r"^\s*(\w+):", file.read_text(), re.MULTILINE)}
    known |= {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    close = [word for word in difflib.get_close_matches(last, sorted(known), 4) if word != last][:3]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    added = f", {append[1]} adds it if its part takes it" if append else ""
    return f"there is no setting {key!r}; {hint}`--cfg job` prints all settings{added}"


def first_line(text: str) -> str:
    """The first line of a message."""
    return next(iter(text.strip().splitlines()), "no message")


def normalise(arguments: list[str], conf: Path) -> list[str]:
    """Arguments as users write them, in the form Hydra wants.

    `experiment=x` becomes `+experiment=x` (likewise recipe), `model=<path or hub id>` becomes `model=pretrained model.path=<it>`,
    `view=x` and `compare=A,B` get the form that groups inside groups and lists have, and `-m` goes to the end (Hydra's parser gives up
    on settings that follow it).
    """
    sweep = [argument for argument in arguments if argument in ("-m", "--multirun")]
    result = []
    for argument in (argument for argument in arguments if argument not in sweep):
        key, equals, value = argument.partition("=")
        if equals and key in APPENDED:
            argument = f"+{argument}"
        elif equals and key == "model" and not (conf / "model" / f"{value}.yaml").is_file() and _is_place(value):
            result.append("model=pretrained")
            argument = f"model.path={value}"
        elif equals and key == "view":  # a group inside another one
            argument = f"benchmark/view@view={value}"
        elif equals and key == "compare" and not value.startswith("["):  # a comma would mean a sweep
            argument = f"compare=[{value}]"
        result.append(argument)
    return result + sweep[:1]


def _is_place(value: str) -> bool:
    return "/" in value or value.startswith(".") or Path(value).is_dir()
