"""The trackers of a run: built and checked first, started with it, and opened again after `resume=`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from openvlt import distributed
from openvlt.config.build import build
from openvlt.config.validate import check_not_negative
from openvlt.errors import UserError
from openvlt.storage.atomic import read_json_file, write_json
from openvlt.trackers.base import TrackedRun, Tracker
from openvlt.trackers.recorder import Recorder, describe_cause

STATE = "trackers.json"  # in a run's folder: the settings of each tracker that has followed it without a gap
TRACKER_FOLDERS = ("tensorboard", "wandb")  # in a run's folder: what its trackers keep there
TAG_GROUPS = ("experiment", "recipe")


@dataclass(frozen=True)
class Tracking:
    """`tracking:` of a configuration: what all trackers are given.

    `rollouts_every` steps there is a table of rollouts, of the groups that `grpo.transcripts` keeps (0:
    never). `group` gathers runs, `tags` are words to find them by.
    """

    rollouts_every: int = 10
    group: str | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_not_negative(self, "tracking", "rollouts_every")


def build_trackers(config: DictConfig) -> dict[str, Tracker]:
    """The trackers that `logger` names, checked. Raises UserError for one that can't be used here."""
    build(config.tracking, "tracking")
    trackers = build(config.logger, "logger")
    for tracker in trackers.values():
        tracker.check()
    return trackers


@contextlib.contextmanager
def record_run(
    trackers: Mapping[str, Tracker], config: DictConfig, folder: Path, *, finished: bool
) -> Iterator[Recorder]:
    """Yields the recorder of a run; on the main rank it starts these trackers, and closes them at the end.

    Of a `finished` run only trackers that lack some of it are told. Raises UserError for a tracker that can't
    start.
    """
    if not distributed.is_main():
        yield Recorder()
        return
    state = _TrackerState(folder / STATE, config)
    used = [name for name in trackers if not (finished and state.is_closed(name))]
    behind = [
        name for name in used if not state.knows(name) or trackers[name].buffers and not state.is_closed(name)
    ]
    tracking: Tracking = build(config.tracking, "tracking")
    recorder = Recorder({}, behind=behind, rollouts_every=tracking.rollouts_every, forget=state.forget)
    places: dict[str, str] = {}
    done = False
    try:
        for name in used:
            places[name] = _start(
                name, trackers[name], _describe_run(config, folder, tracking, state.knows(name))
            )
            recorder.trackers[name] = trackers[name]
        state.open(used)
        _print_places(places, recorder.trackers)
        yield recorder
        done = True
    finally:
        recorder.finish(done=done)
        state.close(recorder.trackers)
        _print_places(places, recorder.trackers)


class _TrackerState:
    """`trackers.json`: the trackers that have followed a run from its first step on.

    Of each, its settings, and whether the latest process has closed it: a kill doesn't.
    """

    def __init__(self, file: Path, config: DictConfig) -> None:
        self.file = file
        self.settings: Any = OmegaConf.to_container(config.logger, resolve=True)
        self.kept: dict[str, Any] = read_json_file(file) if file.is_file() else {}

    def knows(self, name: str) -> bool:
        return name in self.kept and self.kept[name]["settings"] == self.settings[name]

    def is_closed(self, name: str) -> bool:
        return self.knows(name) and self.kept[name]["closed"]

    def open(self, names: Collection[str]) -> None:
        """Notes these trackers as open. One that isn't chosen now misses a part of the run, and goes."""
        kept = {name: entry for name, entry in self.kept.items() if name in self.settings}
        kept |= {name: {"settings": self.settings[name], "closed": False} for name in names}
        if kept != self.kept:
            self.kept = kept
            write_json(self.file, kept)

    def close(self, names: Collection[str]) -> None:
        self._change(lambda: [self.kept[name].update(closed=True) for name in names])

    def forget(self, name: str) -> None:
        self._change(lambda: self.kept.pop(name, None))

    def _change(self, change: Callable[[], Any]) -> None:
        """Changes the file after `change`, if it does; where the disk is full, it stays as it is."""
        before = copy.deepcopy(self.kept)
        change()
        if self.kept != before:
            with contextlib.suppress(OSError):
                write_json(self.file, self.kept)


def _describe_run(config: DictConfig, folder: Path, tracking: Tracking, known: bool) -> TrackedRun:
    """What a tracker is told of the run in `folder`; `known` says that it has followed it before."""
    return TrackedRun(
        id=folder.resolve().name,
        name=config.name,
        folder=folder,
        config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
        tags=find_tags(config.scale, _read_overrides(folder), tracking.tags),
        group=tracking.group,
        known=known,
    )


def _start(name: str, tracker: Tracker, run: TrackedRun) -> str:
    """Starts a tracker; returns where it is. Raises UserError with the cause when it can't."""
    try:
        return tracker.start(run)
    except UserError:
        raise
    except Exception as error:  # a client may raise anything
        raise UserError(
            f"logger={name} can't start ({describe_cause(error)}); mend that, or take others, such as "
            "logger=csv"
        ) from error


def find_tags(scale: str, overrides: Sequence[str], words: Sequence[str] = ()) -> dict[str, str]:
    """A run's tags: its experiment, recipes and scale, and the words of `tracking.tags` without a value."""
    found: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group in TAG_GROUPS and (value := override.value()):
            chosen = value if isinstance(value, list) else [value]
            found[override.key_or_group] = "+".join(map(str, chosen))
    return found | {"scale": scale} | dict.fromkeys(words, "")


def _read_overrides(folder: Path) -> list[str]:
    return [line for line in (folder / "overrides").read_text(encoding="utf-8").splitlines() if line.strip()]


def _print_places(places: Mapping[str, str], trackers: Mapping[str, Tracker]) -> None:
    for name, place in places.items():
        if name in trackers:
            print(f"{name}: {place}", flush=True)
