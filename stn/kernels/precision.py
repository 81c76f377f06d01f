"""The floating-point type of matrix products.

bfloat16 halves the memory traffic of a product. Where the processor has instructions for it, it is several times as
fast as float32; elsewhere it is emulated, and slower. Weights and sums stay in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

Choice = Literal["auto", "float32", "bfloat16"]
TYPES: tuple[Choice, ...] = ("float32", "bfloat16")
CHOICES: tuple[Choice, ...] = ("auto", *TYPES)


def choose(choice: Choice, device: torch.device) -> tuple[torch.dtype, str]:
    """The type for a choice, and the reason in a few words; "auto" is bfloat16 if the device multiplies it natively."""
    if choice != "auto":
        tensor_cores = choice == "float32" and device.type == "cuda" and multiplies_bfloat16(device)
        return getattr(torch, choice), "as asked for, multiplied in TF32" if tensor_cores else "as asked for"
    if multiplies_bfloat16(device):
        return torch.bfloat16, "which this processor multiplies natively"
    return torch.float32, "as this processor does not multiply bfloat16 natively"


def use_tensor_cores() -> None:
    """Let GPUs since Ampere multiply float32 in TF32, which rounds factors to 11 bits, in the whole process."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


_full: ContextVar[bool] = ContextVar("full precision", default=False)


@contextmanager
def full_precision() -> Iterator[None]:
    """Within this context products of a 16-bit type, or on a GPU in TF32, are of float32, such as those to subtract."""
    token = _full.set(True)
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, own in zip(backends, before, strict=True):
            backend.fp32_precision = own
        _full.reset(token)


def of_products(dtype: torch.dtype) -> torch.dtype:
    """The type in which products are to be computed just now, where a network was built to compute them in this one."""
    return torch.float32 if _full.get() and dtype in (torch.bfloat16, torch.float16) else dtype
