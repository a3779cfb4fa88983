"""Put before others on PYTHONPATH of a vLLM server on a CPU; Python runs it at its start.

The torchvision that comes with vLLM is built for CUDA. Beside a CPU build of torch its compiled half doesn't
load, and its import fails where it registers shapes for two operators. They are declared here first, so that
its Python half, which resizes images, can be used.
"""

import importlib.abc
import sys


class _DeclareOperators(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
        return


sys.meta_path.insert(0, _DeclareOperators())
