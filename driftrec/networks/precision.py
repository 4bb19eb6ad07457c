"""In which numbers a network computes on a device."""

from __future__ import annotations

import torch


def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 that gain time. Of CPUs those with AMX; AVX-512's own multiply
    takes Intel's as long as two of float32 each, and gains nothing (`python -m benchmarks.network`). A fact of the
    machine, not measured when asked: all workers on machines of one kind compute alike.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    of_cpu = torch.cpu.get_capabilities()
    intel = str(of_cpu.get("cpu_name", "")).startswith("Intel")
    return bool(of_cpu.get("amx_bf16") or (of_cpu.get("avx512_bf16") and not intel))
