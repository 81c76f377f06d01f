import pytest
import torch
from torch.testing import assert_close

from stn.kernels.products import add_product, multiplier


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_multiplier_is_a_product_with_the_transposed(dtype, rows):
    weight = torch.randn(50, 13).to(dtype)
    multiply = multiplier(weight, rows)
    for _ in range(2):
        x = torch.randn(rows, 13).to(dtype)
        assert_close(multiply(x), (x.double() @ weight.double().T).to(dtype))


def test_multiplier_takes_strided_tensors_and_other_numbers_of_rows():
    weight = torch.randn(13, 50).T
    multiply = multiplier(weight, 4)
    x = torch.randn(6, 26)[:, ::2]
    assert_close(multiply(x), x @ weight.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_product_sums_in_the_totals_type(dtype):
    total, a, b = torch.randn(4, 5), torch.randn(4, 3).to(dtype), torch.randn(3, 5).to(dtype)
    expected = total + (a @ b)
    add_product(total, a, b)
    assert total.dtype == torch.float32
    assert_close(total, expected)
