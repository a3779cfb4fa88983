"""`python -m openvlt.report RUN` writes a run's figures and page; of several runs, a figure and a table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from openvlt.errors import UserError
from openvlt.report.figures import seeds_figure
from openvlt.report.page import write_page
from openvlt.report.records import load_run, write_report_file
from openvlt.report.table import seeds_table, stages_table


def draw_reports(argv: Sequence[str] | None = None) -> int:
    """Returns exit status 0, or 2 after it printed one sentence on what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m openvlt.report", description=__doc__)
    parser.add_argument("run", nargs="+", type=Path, help="a run folder, runs/NAME/TIME-ID")
    parser.add_argument(
        "--out", type=Path, help="where several runs' seeds.png and seeds.md go (default: above the runs)"
    )
    options = parser.parse_args(argv)
    try:
        if len(options.run) > 1:
            _report_runs(options.run, options.out)
        else:
            _report_run(options.run[0])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _report_run(folder: Path) -> None:
    page = write_page(folder)
    print(stages_table(load_run(folder).stages).to_markdown())
    print(f"\n{page}")


def _report_runs(folders: Sequence[Path], out: Path | None) -> None:
    table = seeds_table(folders)
    out = out or Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    if not out.is_dir():
        raise UserError(f"--out {out}: no such folder; make it first")
    figure = seeds_figure(folders, out / "seeds.png")
    file = write_report_file(out / "seeds.md", f"{table}\n".encode())
    print(f"{table}\n\n{figure}\n{file}")


if __name__ == "__main__":
    sys.exit(draw_reports())
