"""From configuration to objects: the only call to Hydra's instantiate."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import openvlt.config.resolvers  # noqa: F401  registers them
from openvlt.config.validate import check_nodes
from openvlt.errors import UserError, first_line


def build(config: Any, name: str = "") -> Any:
    """Objects from config: `hydra.utils.instantiate` with plain containers, after every key has been checked.

    Raises UserError for a key that its target doesn't take, a missing value, or a target that can't be
    imported.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    plain = config
    try:
        if isinstance(config, (DictConfig, ListConfig)):
            if missing := OmegaConf.missing_keys(config):
                rootless = config._get_parent() is None  # else the keys begin at the whole config's root
                keys = sorted(f"{name}.{key}".lstrip(".") if rootless else key for key in missing)
                values = " ".join(f"{key}=<value>" for key in keys)
                raise UserError(f"no value for {', '.join(keys)}; give on the command line: {values}")
            plain = OmegaConf.to_container(config, resolve=True)
            config = OmegaConf.create(plain)
        check_nodes(plain, name)
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        raise _find_cause(error, name) from error
    except OmegaConfBaseException as error:
        raise UserError(first_line(str(error))) from error


def _find_cause(error: Exception, name: str) -> Exception:
    """The cause of Hydra's error: a UserError where the settings are at fault, else the exception itself."""
    message = str(error)
    cause: BaseException = error
    while type(cause) is type(error) and cause.__cause__ is not None:
        message, cause = str(cause), cause.__cause__
    if isinstance(cause, UserError):
        return cause
    if isinstance(cause, ValueError):
        return UserError(str(cause))
    key = re.search(r"^full_key: (\S+)", message, re.MULTILINE)
    target = re.search(r"target '([^']+)'", message)
    where = ".".join(part for part in (name, key and key[1]) if part) or (target and target[1]) or "config"
    if isinstance(cause, TypeError) and _is_at_the_call(cause):
        return UserError(f"{where}: {first_line(str(cause))}; check the kinds of its values")
    if isinstance(cause, (type(error), ImportError, OSError)) or (
        target and not target[1].startswith("openvlt.")
    ):
        return UserError(f"{where}: {type(cause).__name__}: {first_line(str(cause))}; correct its settings")
    return cause if isinstance(cause, Exception) else error


def _is_at_the_call(error: TypeError) -> bool:
    """Whether the call of a target raised it, or the target's own code, and nothing deeper."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max((index for index, file in enumerate(files) if "instantiate" in Path(file).parts), default=-1)
    # "<string>" is a dataclass's __init__
    return len([file for file in files[last + 1 :] if file != "<string>"]) <= 1
