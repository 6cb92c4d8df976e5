"""Makes the files of `torch.save` in `data/` that `tests/interop/test_torch_file.py` reads.

Run by hand, never by the tests: `python tests/parity/make_torch_files.py`, with torch 2.14.1.
`torch_expected.npz` holds the tensors as PyTorch reads them; types that NumPy lacks are widened,
which loses nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "data"
EXTENDED = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = (
    *(torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.complex64),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
)
NEWER = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)


def tensors() -> OrderedDict[str, torch.Tensor]:
    """Views of every kind: transposed, sliced, broadcast, of one storage, scalar, empty."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    made = OrderedDict(
        plain=base,
        transposed=torch.randn(3, 5).t(),
        channels_last=torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        sliced=base[1:5:2, 2:7:3],
        offset=base.view(-1)[17:20],
        broadcast=torch.randn(4, 1).expand(4, 3),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 3)),
    )
    for dtype in DTYPES:
        made[str(dtype).removeprefix("torch.")] = (torch.randn(5) * 9).to(dtype)
    return made


def newer() -> OrderedDict[str, torch.Tensor]:
    """Types that only newer versions save."""
    numbers = torch.arange(7, dtype=torch.float32)
    return OrderedDict((str(d).removeprefix("torch."), numbers.to(d)[2:]) for d in NEWER)


def expected(named: dict[str, torch.Tensor], prefix: str) -> dict[str, np.ndarray]:
    wide = {k: v.detach().float() if v.dtype in EXTENDED else v.detach() for k, v in named.items()}
    return {f"{prefix}/{name}": value.numpy() for name, value in wide.items()}


def main() -> None:
    common, recent = tensors(), newer()
    common["attribute"] = torch.nn.Parameter(torch.randn(3))
    common["attribute"].note = "kept apart"  # saved by another function
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.BatchNorm2d(2))
    torch.save(common, DATA / "torch_zip.pth")
    torch.save(common, DATA / "torch_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(recent, DATA / "torch_newer_types.pth")
    torch.save(common, DATA / "torch_protocol_4.pth", pickle_protocol=4)
    torch.save({"model": module.state_dict(), "epoch": 3}, DATA / "torch_module.pth")
    torch.save({"a": recent, "b": common}, DATA / "torch_two.pth")
    torch.save(module, DATA / "torch_whole_module.pth")
    torch.jit.script(module).save(str(DATA / "torch_script.pth"))
    arrays = expected(common, "common") | expected(recent, "newer")
    arrays |= expected(module.state_dict(), "module")
    np.savez_compressed(DATA / "torch_expected.npz", **arrays)


if __name__ == "__main__":
    main()
