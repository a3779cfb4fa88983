"""Train: the stages of a study, from checkpoint to checkpoint.

python train.py                              three SFT-GRPO cycles on the embedded model, on this CPU
python train.py +experiment=quickstart -m    the same over three seeds
python train.py +experiment=iter2 scale=7b   the paper's second cycle, on GPUs
python train.py scale=7b plan=true           the memory that every device will need, before anything is loaded
python train.py resume=runs/train/<folder>   continue a run that was cut off
"""

import sys

from openvlt.cli.app import run_script

if __name__ == "__main__":
    run_script(["train", *sys.argv[1:]])
