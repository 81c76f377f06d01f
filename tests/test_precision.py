import pytest
import torch

from stn.kernels import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("instructions", ["amx_bf16", "avx512_bf16"])
def test_auto_is_bfloat16_where_the_processor_multiplies_it(monkeypatch, instructions):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True})
    dtype, why = precision.choose("auto", CPU)
    assert dtype == torch.bfloat16 and "natively" in why


def test_auto_is_float32_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False, "avx512_f": True})
    dtype, why = precision.choose("auto", CPU)
    assert dtype == torch.float32 and "not" in why


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("choice", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(monkeypatch, choice, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": native})
    assert precision.choose(choice, CPU) == (getattr(torch, choice), "as asked for")


@pytest.mark.parametrize(("capability", "said"), [((8, 0), True), ((7, 5), False)])
def test_float32_on_a_gpu_says_that_it_is_tf32(monkeypatch, capability, said):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    dtype, why = precision.choose("float32", torch.device("cuda", 0))
    assert dtype == torch.float32 and ("TF32" in why) == said
    assert "TF32" not in precision.choose("bfloat16", torch.device("cuda", 0))[1]


@pytest.mark.parametrize(("capability", "native"), [((9, 0), True), ((8, 0), True), ((7, 5), False)])
def test_a_gpu_by_its_generation(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision.multiplies_bfloat16(torch.device("cuda", 0)) == native


def test_gpus_may_multiply_float32_in_their_tensor_cores():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "ieee"
        precision.use_tensor_cores()
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
