r"""Distill: verified traces to imitate, as rows that SFT reads and as a data set with a card.

python distill.py                                           captions by the embedded model
python distill.py distill=policy model=runs/iter1/<folder>  the model itself, looking at the image
python distill.py distill=served distill.reason.server.endpoints.urls=[<url>] \
    distill.reason.server.endpoints.model=<name>            a reasoner behind a server
python distill.py distill=iter1 plan=true                   the paper's first data set: cost and yield
python distill.py resume=latest inspect=true                counts, samples, rejected ones
"""

import sys

from openvlt.cli.app import run_script

if __name__ == "__main__":
    run_script(["distill", *sys.argv[1:]])
