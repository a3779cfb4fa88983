"""`python -m openvlt.report RUN` writes a run's page; of several a figure and a table; of RUNS the index."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from openvlt.errors import UserError
from openvlt.report.collect.runs import find_runs, read_run
from openvlt.report.index import write_index
from openvlt.report.records import write_report_file
from openvlt.report.table import seeds_table, stages_table
from openvlt.report.write import write_report


def draw_reports(argv: Sequence[str] | None = None) -> int:
    """Returns exit status 0, or 2 after it printed one sentence on what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m openvlt.report", description=__doc__)
    parser.add_argument(
        "run", nargs="+", type=Path, help="a run folder, runs/NAME/TIME-ID, or the folder of all runs"
    )
    parser.add_argument(
        "--out", type=Path, help="where several runs' seeds.png and seeds.md go (default: above the runs)"
    )
    parser.add_argument("--only-page", action="store_true", help="no figure and no table")
    options = parser.parse_args(argv)
    try:
        if len(options.run) > 1:
            _report_runs(options.run, options.out)
        elif options.only_page:
            print(write_report(options.run[0]))
        elif options.run[0].is_dir() and any(find_runs(options.run[0])):
            print(write_index(options.run[0]))
        else:
            _report_run(options.run[0])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _report_run(folder: Path) -> None:
    page, run = write_report(folder), read_run(folder)
    if run.kind == "train" and run.stages:
        from openvlt.report.figures import iterations_figure

        iterations_figure(folder)
        print(stages_table(run.stages).to_markdown() + "\n")
    print(page)


def _report_runs(folders: Sequence[Path], out: Path | None) -> None:
    from openvlt.report.figures import seeds_figure

    table = seeds_table(folders)
    out = out or Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    if not out.is_dir():
        raise UserError(f"--out {out}: no such folder; make it first")
    figure = seeds_figure(folders, out / "seeds.png")
    file = write_report_file(out / "seeds.md", f"{table}\n".encode())
    print(f"{table}\n\n{figure}\n{file}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no half-written file stays
    sys.exit(draw_reports())
