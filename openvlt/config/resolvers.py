"""The resolvers that conf/ uses, run folders and ids, and the config of a run that is resumed."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from openvlt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
_PACKAGED = Path(__file__).resolve().parents[1] / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else ROOT / "conf"  # a wheel carries it, a checkout has it beside


def new_run_id() -> str:
    """Time to a fraction of a second and a random part: names sort by age, and jobs never share a folder."""
    now = time.time()
    fraction = int(now % 1 * 16**4)
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{fraction:04x}{secrets.token_hex(4)}"


def _run_folder(runs: str, name: str, resume: str | None) -> str:
    """A new folder for this run, or the one to resume; `latest` is the newest of that name."""
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"name={'' if name is None else name}: a run needs a name, such as name=trial")
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


def load_config(file: Path) -> DictConfig:
    """A run's config.yaml. Raises UserError for a file that can't be one."""
    try:
        config = OmegaConf.load(file)
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} can't be read ({error}); put it back, or start a new run") from error
    if not isinstance(config, DictConfig) or any(name not in config for name in ("paths", "trainer", "seed")):
        raise UserError(f"{file} is cut off, or no run's; put it back, or start a new run")
    return cast(DictConfig, config)


def _output_folder(default: str) -> str:
    """Hydra's output folder inside a job, `default` under `compose()` (tests, notebooks)."""
    if HydraConfig.initialized() and (output := HydraConfig.get().runtime.output_dir):
        return output
    return default


def find_answer_form(*prompt: str | None) -> str:
    """Where the prompt's words ask for the answer: "tag" or "box"; "any" if they name neither."""
    text = " ".join(part or "" for part in prompt)
    return "tag" if "<answer>" in text else "box" if "\\boxed" in text else "any"


def register_resolvers() -> None:
    """The resolvers that `conf/` uses; safe to call again."""
    OmegaConf.register_new_resolver("run_folder", _run_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_id", new_run_id, replace=True)
    OmegaConf.register_new_resolver("answer_form", find_answer_form, replace=True)
    OmegaConf.register_new_resolver("output_folder", _output_folder, replace=True)


register_resolvers()
