"""Answer text to `Verdict`, for training rewards, distillation filters and benchmark scores alike.

Three steps: extract finds the answer in a response, parse reads it, grade compares it with the gold answer.
Neither torch nor sympy is imported here. A worker process imports sympy, for what typed comparison leaves
open.
"""

from openvlt.types import Verdict
from openvlt.verify.api import explain, extract, verify, verify_batch

__all__ = ["Verdict", "explain", "extract", "verify", "verify_batch"]
