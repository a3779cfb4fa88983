"""Evaluate: held-out problems, a published benchmark, recorded answers, or two runs against each other.

python evaluate.py model=runs/quickstart/<folder> data=figures
python evaluate.py benchmark=mathvision model=<folder or hub id> protocol=official | openvlthinker | openvlt
python evaluate.py benchmark=mathvision responses=answers.jsonl protocol=official
python evaluate.py compare=runs/evaluate/<one>,runs/evaluate/<other>
"""

import sys

from openvlt.cli.app import run_script

if __name__ == "__main__":
    run_script(["evaluate", *sys.argv[1:]])
