"""Answer text -> Verdict: one function family decides training rewards, distillation filters and benchmark scores.

Reads without torch or sympy; sympy is imported in a worker process, and only for what typed comparison leaves open.
"""

from openvlt.verify.api import explain, extract, verify, verify_batch

__all__ = ["explain", "extract", "verify", "verify_batch"]
