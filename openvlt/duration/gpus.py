"""What GPUs can do at most, by their makers' data sheets, and what share of it a run reaches."""

from __future__ import annotations

from dataclasses import dataclass

MACHINE = 8  # GPUs of one machine; messages between machines go over the network


@dataclass(frozen=True)
class GPU:
    """One kind of GPU.

    `memory` in GB as it is sold; `rate` in bfloat16 operations a second, dense; `bandwidth` of its memory,
    `link` to the others of its machine and `network` to other machines in bytes a second, one way.
    """

    memory: int
    rate: float
    bandwidth: float
    link: float
    network: float


# NVIDIA's data sheets (SXM; L4: PCIe); networks as rented machines have them, 400 Gb/s a GPU from the H100 on
GPUS = {
    "L4": GPU(24, 121e12, 0.30e12, 32e9, 3e9),
    "A100": GPU(80, 312e12, 2.04e12, 300e9, 25e9),
    "H100": GPU(80, 989e12, 3.35e12, 450e9, 50e9),
    "H200": GPU(141, 989e12, 4.80e12, 450e9, 50e9),
    "B200": GPU(180, 2250e12, 8.00e12, 900e9, 50e9),
}


@dataclass(frozen=True)
class Efficiency:
    """What shares of a GPU's rate, bandwidth and links a run reaches.

    `overlap` is the share of messages that hide behind computing, or the other way round. `launch` are
    seconds that Python needs for a layer and decoding step, where no graph is replayed. The longest answer of
    a decoding batch is taken as `longest` times the mean one, and at most as the limit.
    """

    rate: float
    bandwidth: float
    link: float
    overlap: float
    launch: float
    longest: float


BEST = Efficiency(rate=0.5, bandwidth=0.8, link=0.8, overlap=1.0, launch=0.3e-3, longest=1.5)
MIDDLE = Efficiency(rate=0.35, bandwidth=0.6, link=0.6, overlap=0.5, launch=0.6e-3, longest=2.5)
WORST = Efficiency(rate=0.2, bandwidth=0.4, link=0.3, overlap=0.0, launch=1e-3, longest=float("inf"))
