"""The console command `openvlt`: one table of commands, each imported when it is asked for."""

from __future__ import annotations

import difflib
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from openvlt import __version__
from openvlt.cli.errors import report_errors


@dataclass(frozen=True)
class Command:
    """A command's function, `module:name`, and what it does in one line.

    The function takes the arguments and returns the exit status. `given` comes before the user's arguments.
    """

    function: str
    help: str
    given: tuple[str, ...] = ()


COMMANDS = {
    "quickstart": Command(
        "openvlt.cli.app:run_script",
        "the whole loop on this CPU with the embedded model",
        ("train", "+experiment=quickstart", "iteration=three_cycles"),
    ),
    "train": Command("openvlt.cli.app:run_script", "the stages of a study, as python train.py", ("train",)),
    "plan": Command(
        "openvlt.cli.app:run_script", "memory, hours and cost of a run, before it", ("train", "plan=true")
    ),
    "evaluate": Command(
        "openvlt.cli.app:run_script", "a model or recorded answers, as python evaluate.py", ("evaluate",)
    ),
    "distill": Command(
        "openvlt.cli.app:run_script", "verified traces by a teacher, as python distill.py", ("distill",)
    ),
    "report": Command("openvlt.report.__main__:draw_reports", "the page of a run, or a table of several"),
    "view": Command("openvlt.report.view:view", "the pages of all runs, served on this machine"),
    "verify": Command("openvlt.verify.__main__:print_explanation", "one verdict, and how it was reached"),
    "serve": Command("openvlt.serving.__main__:main", "vLLM servers for rollout=vllm"),
    "data check": Command(
        "openvlt.cli.data_check:data_check", "what a file of rows holds, and what is left out"
    ),
    "doctor": Command("openvlt.cli.doctor:run_doctor", "versions, GPUs, kernels, disk: what is missing here"),
    "push": Command("openvlt.cli.push:push_model", "a trained model and its card to the Hugging Face hub"),
}


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name; returns the exit status."""
    with report_errors((), ()):
        return _run_words(list(sys.argv[1:] if arguments is None else arguments))


def _run_words(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(render_help(), flush=True)
        return 0
    if words[0] in ("-V", "--version"):
        print(f"openvlt {__version__}")
        return 0
    name = next((name for name in COMMANDS if words[: name.count(" ") + 1] == name.split()), None)
    if name is None:
        longer = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
        close = longer or difflib.get_close_matches(words[0], COMMANDS, 1)
        meant = f"did you mean openvlt {close[0]}? " if close else ""
        print(f"error: there is no command {words[0]!r}; {meant}openvlt --help lists them", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    rest = words[name.count(" ") + 1 :]
    given = [*command.given, *rest]
    function = pkgutil.resolve_name(command.function)
    # messages name the command as it goes on, and manifests the settings
    sys.argv[:] = [f"openvlt {given[0]}", *given[1:]] if command.given else [f"openvlt {name}", *rest]
    return function(given) or 0


def render_help() -> str:
    """The list of commands, on a screen."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"openvlt {__version__}: teach a vision-language model to reason",
            "",
            "usage: openvlt <command> [arguments]",
            "",
            *lines,
            "",
            "openvlt <command> --help says more. Settings are key=value: openvlt train grpo.steps=30",
        ]
    )
