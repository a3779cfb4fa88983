"""`python -m openvlt`: the console command."""

import sys

from openvlt.cli.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command())
