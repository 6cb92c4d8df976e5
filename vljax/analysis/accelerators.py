"""Peak rates and memory of accelerators, by their makers' figures, for the roofline model.

All figures are for one JAX device: a chip on TPU v4 (megacore), v5e, v5p and v6e, half a chip on
tpu7x, a GPU. Rates are those of dense bfloat16 products and of one direction of a link.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9
GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """Limits of one device."""

    name: str
    peak_flops: float
    """FLOP/s of bfloat16 products."""
    memory_bytes: int
    """On TPU, the limit of the compiler; on GPU, the memory of the device."""
    memory_bandwidth: float
    """Bytes/s of the main memory."""
    link_bandwidth: float
    """Bytes/s out of one link to a neighbour; on GPU, out of all NVLinks together."""
    links_per_dimension: int
    """Links of a device along one dimension of the torus; 1 on GPU, which has a switch."""
    network_bandwidth: float | None
    """Bytes/s out of a device between slices or nodes; None if it is not published."""
    clock: float | None
    """Cycles/s; None on GPU, whose compiler estimates no cycles."""
    source: str
    """Where the figures come from."""


def _clock(peak_flops: float, multipliers: int) -> float:
    """Cycles/s, given the number of multiply-add units in the matrix units of a device.

    TPU clocks are not published. libtpu's cycle estimates agree with this formula: a bfloat16
    product of 8192 x 8192 matrices takes 70 to 90 % of peak on all five TPUs.
    """
    return peak_flops / (2 * multipliers)


_CLOUD = "docs.cloud.google.com/tpu/docs/"

ACCELERATORS = {
    "v4": Accelerator(
        "TPU v4",
        *(275e12, int(30.75 * GIB), 1200 * GB),
        *(50 * GB, 2, None),
        _clock(275e12, 8 * 128 * 128),
        _CLOUD + "v4; links: Jouppi et al. 2023 (arXiv 2304.01433)",
    ),
    "v5e": Accelerator(
        "TPU v5e",
        *(197e12, int(15.75 * GIB), 819 * GB),
        # 400 GB/s in both directions over 4 ports; 6.4 Tbit/s of network for a pod of 256.
        *(50 * GB, 2, 6.4e12 / 8 / 256),
        _clock(197e12, 4 * 128 * 128),
        _CLOUD + "v5e",
    ),
    "v5p": Accelerator(
        "TPU v5p",
        *(459e12, int(95.74 * GIB), 2765 * GB),
        # 1200 GB/s in both directions over 6 ports.
        *(100 * GB, 2, 50e9 / 8),
        _clock(459e12, 8 * 128 * 128),
        _CLOUD + "v5p",
    ),
    "v6e": Accelerator(
        "TPU v6e",
        *(918e12, int(31.25 * GIB), 1638 * GB),
        # 800 GB/s in both directions over 4 ports.
        *(100 * GB, 2, 100e9 / 8),
        _clock(918e12, 4 * 256 * 256),
        _CLOUD + "v6e and tpu7x",
    ),
    "tpu7x": Accelerator(
        "TPU7x (half a chip)",
        *(2307e12 / 2, int(94.75 * GIB), 7380 * GB / 2),
        # 1200 GB/s in both directions over 6 ports, shared by the two devices of a chip.
        *(50 * GB, 2, 100e9 / 8 / 2),
        _clock(2307e12 / 2, 4 * 256 * 256),
        _CLOUD + "tpu7x",
    ),
    "a100": Accelerator(
        "NVIDIA A100 SXM 80 GB",
        *(312e12, 80 * GIB, 2039 * GB),
        *(300 * GB, 1, 200e9 / 8),
        None,
        "NVIDIA A100 datasheet (SXM); network: DGX A100 datasheet, one 200 Gbit/s port a GPU",
    ),
    "h100": Accelerator(
        "NVIDIA H100 SXM",
        *(989.4e12, 80 * GIB, 3350 * GB),
        *(450 * GB, 1, 400e9 / 8),
        None,
        "NVIDIA H100 datasheet (SXM); network: DGX H100 datasheet, one 400 Gbit/s port a GPU",
    ),
    "h200": Accelerator(
        "NVIDIA H200 SXM",
        *(989.4e12, 141 * GB, 4800 * GB),
        *(450 * GB, 1, 400e9 / 8),
        None,
        "NVIDIA H200 datasheet (SXM); network: DGX H200 datasheet, one 400 Gbit/s port a GPU",
    ),
    "b200": Accelerator(
        "NVIDIA B200",
        *(2250e12, 180 * GB, 8000 * GB),
        *(900 * GB, 1, 400e9 / 8),
        None,
        "NVIDIA DGX B200 datasheet, an eighth of it (without sparsity)",
    ),
}
