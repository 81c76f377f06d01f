"""Products of all routines against float64, within the rounding of the factors' type."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jacfwd, jvp, vmap
from torch.testing import assert_close

from stn.kernels import products
from stn.kernels.products import add_weight_gradient, linear, multiplier, weight_gradient
from stn.layers import HyperLinear
from stn.lstm import HyperLSTM

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture(params=["oneDNN", "packed", "without"])
def routine(request, monkeypatch):
    """All products by oneDNN; those of `linear` with the weight rearranged; none, as in a build without it."""
    monkeypatch.setattr(products, "MIN_ENTRIES", 1)
    monkeypatch.setattr(products, "MIN_MULTIPLICATIONS", 1)
    monkeypatch.setattr(products, "MIN_ROWS_TO_PACK", 1 if request.param == "packed" else 10**9)
    enabled = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(enabled and request.param != "without")  # what torch.backends.mkldnn.flags sets
    yield
    torch._C._set_mkldnn_enabled(enabled)


def made(shape: tuple[int, int], layout: str, dtype: torch.dtype) -> torch.Tensor:
    """A random matrix: contiguous, the transpose of one, every second column of one, or one row many times."""
    rows, columns = shape
    if layout == "transposed":
        return torch.randn(columns, rows, dtype=dtype).T
    if layout == "strided":
        return torch.randn(rows, 2 * columns, dtype=dtype)[:, ::2]
    if layout == "expanded":
        return torch.randn(1, columns, dtype=dtype).expand(rows, columns)
    return torch.randn(rows, columns, dtype=dtype)


def assert_rounded(found: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """found is a b, up to the rounding of its dtype in the result and, of float32 and float64, in sums in any order."""
    exact, size = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    sums = torch.finfo(torch.promote_types(found.dtype, torch.float32)).eps * a.shape[1] * size
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= torch.finfo(found.dtype).eps * exact.abs() + sums).all()


@pytest.mark.usefixtures("routine")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "expanded"])
@pytest.mark.parametrize(("rows", "inner", "outputs"), [(1, 13, 51), (3, 1, 7), (40, 67, 5), (37, 19, 1)])
def test_products_of_any_shape_and_layout(rows, inner, outputs, layout, dtype):
    x, weight = made((rows, inner), layout, dtype), made((outputs, inner), layout, dtype)
    output_grad = made((rows, outputs), layout, dtype)
    assert_rounded(linear(x, weight), x, weight.T)
    assert_rounded(weight_gradient(output_grad, x), output_grad.T, x)
    multiply = multiplier(weight, rows)
    for _ in range(2):
        assert_rounded(multiply(x), x, weight.T)
    assert_rounded(multiply(x[:1]), x[:1], weight.T)  # other rows than the weight was packed for
    assert_rounded(multiply(x.expand(2, rows, inner))[1], x, weight.T)


@pytest.mark.usefixtures("routine")
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_products(dtype):
    """Of a size at which oneDNN splits them among threads and into blocks."""
    x, weight, output_grad = (torch.randn(shape).to(dtype) for shape in ((1033, 129), (517, 129), (1033, 517)))
    assert_rounded(linear(x, weight), x, weight.T)
    assert_rounded(weight_gradient(output_grad, x), output_grad.T, x)
    assert_rounded(linear(output_grad, weight.T), output_grad, weight)


@pytest.mark.usefixtures("routine")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_summed_in_the_totals_type(dtype):
    total, output_grad, x = torch.randn(4, 5), torch.randn(30, 4).to(dtype), torch.randn(30, 5).to(dtype)
    expected = total.double() + (output_grad.double().T @ x.double())
    add_weight_gradient(total, output_grad, x)
    assert total.dtype == torch.float32
    assert_close(total.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.usefixtures("routine")
@pytest.mark.parametrize("shape", [(13,), (2, 3, 13), (0, 13), (2, 0, 13), (1, 1, 1, 13)])
def test_linear_takes_what_f_linear_takes(shape):
    x, weight, bias = torch.randn(shape), torch.randn(7, 13), torch.randn(7)
    assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    assert_close(linear(x, weight), F.linear(x, weight))


@pytest.mark.usefixtures("routine")
def test_products_without_entries():
    assert_close(linear(torch.ones(3, 0), torch.ones(5, 0)), torch.zeros(3, 5))
    assert_close(weight_gradient(torch.ones(0, 3), torch.ones(0, 5)), torch.zeros(3, 5))
    assert linear(torch.ones(3, 4), torch.ones(0, 4)).shape == (3, 0)


@pytest.mark.usefixtures("routine")
def test_gradients_of_linear():
    """Of first and second order, backwards, forwards and backwards over forwards, against F.linear's in float64."""
    values = {"x": torch.randn(6, 13), "weight": torch.randn(7, 13), "bias": torch.randn(7)}

    def derivatives(function, dtype):
        tensors = [value.to(dtype).requires_grad_() for value in values.values()]
        loss = function(*tensors).sin().sum()
        first = torch.autograd.grad(loss, tensors, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), tensors)
        plain = tuple(tensor.detach() for tensor in tensors)
        _, tangent = jvp(function, plain, tuple(tensor.cos() for tensor in plain))
        x, weight, bias = plain

        def tangent_size(weight):
            return jvp(lambda x: function(x, weight, bias).sin(), (x,), (x.cos(),))[1].square().sum()

        return *first, *second, tangent, *jacfwd(function, argnums=(0, 1, 2))(*plain), grad(tangent_size)(weight)

    for found, expected in zip(derivatives(linear, torch.float32), derivatives(F.linear, torch.float64), strict=True):
        assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("routine")
def test_linear_under_vmap():
    x, weight = torch.randn(6, 13), torch.randn(7, 13)
    assert_close(vmap(linear, (0, None))(x.expand(2, 6, 13), weight), F.linear(x, weight).expand(2, 6, 7))

    def loss(weight, row):
        return linear(row, weight).square().sum()

    each = vmap(grad(loss), (None, 0))(weight, x)
    assert_close(each, 2 * (x @ weight.T)[:, :, None] * x[:, None, :])


@pytest.mark.usefixtures("routine")
def test_autocast_casts_linear_too():
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.ones(3, 4), torch.ones(5, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("failure", [AttributeError, RuntimeError])
def test_a_build_without_onednns_products(monkeypatch, failure):
    """Or a processor that they do not run on: they are left out."""

    def missing(*_):
        raise failure("not here")

    monkeypatch.setattr(products, "onednn_linear", missing)
    products._onednn_multiplies.cache_clear()
    x, weight = torch.randn(300, 300), torch.randn(300, 300)
    try:
        assert_rounded(multiplier(weight, 300)(x), x, weight.T)
        assert_rounded(linear(x, weight), x, weight.T)
    finally:
        products._onednn_multiplies.cache_clear()


@pytest.fixture
def calls(monkeypatch):
    """The shapes of what oneDNN multiplies, and whether the weight was rearranged before."""
    if not products._onednn_multiplies(torch.float32):
        pytest.skip("this build of PyTorch multiplies float32 without oneDNN")
    seen, original = [], products.onednn_linear

    def recorded(x, weight):
        seen.append((tuple(x.shape), tuple(weight.shape), weight.is_mkldnn))
        return original(x, weight)

    monkeypatch.setattr(products, "onednn_linear", recorded)
    return seen


def test_onednn_multiplies_what_is_large(calls):
    """What is smaller is multiplied faster without it."""
    for side in (255, 256):
        multiplier(torch.randn(side, side), 3)(torch.randn(3, side))
        linear(torch.randn(256, 256), torch.randn(side, 256))
    assert calls == [((3, 256), (256, 256), True), ((256, 256), (256, 256), False)]


def test_the_order_of_factors_copies_less(calls):
    """A factor that is read transposed is copied: the smaller one, if the product's transpose is worth it."""
    linear(torch.randn(1000, 200), torch.randn(200, 200))
    linear(torch.randn(64, 800), torch.randn(800, 800).T)
    weight_gradient(torch.randn(700, 400), torch.randn(700, 100))
    weight_gradient(torch.randn(70, 400), torch.randn(70, 1000))
    assert calls == [
        ((1000, 200), (200, 200), True),
        ((64, 800), (800, 800), False),
        ((100, 700), (400, 700), False),
        ((400, 70), (1000, 70), False),
    ]


@pytest.mark.usefixtures("routine")
@pytest.mark.parametrize("held", ["x", "weight"])
def test_a_factor_that_the_gradient_does_not_need_may_change(held):
    """As of F.linear: of a product with a frozen factor, the gradient needs that one alone."""
    x, weight = torch.randn(6, 13), torch.randn(7, 13)
    moving, fixed = (weight, x) if held == "x" else (x, weight)
    moving.requires_grad_()
    product = linear(x, weight)
    with torch.no_grad():
        moving.zero_()
    product.sum().backward()
    assert_close(moving.grad, fixed.sum(0).expand_as(moving))


def test_the_processors_products_do_not_depend_on_the_default_device():
    products._onednn_multiplies.cache_clear()
    before = products._onednn_multiplies(torch.float32)
    products._onednn_multiplies.cache_clear()
    with torch.device("meta"):
        assert products._onednn_multiplies(torch.float32) == before


@pytest.mark.usefixtures("routine")
@pytest.mark.parametrize("num_hyper", [0, 3])
def test_layers_are_the_same_by_any_routine(num_hyper):
    """In float32, output and gradients, against float64, where PyTorch's own products are used."""
    x, h = torch.randn(5, 4, 6), torch.rand(4, num_hyper) if num_hyper else None
    for layer in (HyperLinear(6, 9, num_hyper), HyperLSTM(6, 9, num_hyper)):
        found, exact = results(layer, x, h), results(copy.deepcopy(layer).double(), x.double(), h)
        assert_close(found, [value.float() for value in exact], rtol=1e-4, atol=1e-5)


def results(layer, x, h):
    """The output, and its sum of squares' gradients in x and in all parameters."""
    x = x.detach().requires_grad_()
    found = layer(x, h=None if h is None else h.to(x.dtype))
    output = found[0] if isinstance(layer, HyperLSTM) else found
    return [output.detach(), *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])]
