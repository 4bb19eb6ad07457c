"""In which numbers a network computes: a fact of the machine, the same for all who ask."""

from typing import Any

import pytest
import torch

from driftrec.networks.precision import bfloat16_is_faster


@pytest.mark.parametrize("maker", ["Intel Xeon", "AMD EPYC", "Neoverse N1", None])
@pytest.mark.parametrize("amx", [True, False, None])
@pytest.mark.parametrize("avx512", [True, False, None])
def test_of_cpus_those_that_gain_by_it(
    maker: str | None, amx: bool | None, avx512: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: dict[str, Any] = {"cpu_name": maker, "amx_bf16": amx, "avx512_bf16": avx512}
    known = {name: value for name, value in facts.items() if value is not None}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    expected = bool(amx or (avx512 and maker != "Intel Xeon"))
    assert bfloat16_is_faster(torch.device("cpu")) is expected


@pytest.mark.parametrize("supported", [True, False])
def test_of_gpus_those_that_can(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert bfloat16_is_faster(torch.device("cuda")) is supported
