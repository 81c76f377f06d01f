import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from stn.kernels import cross_entropy
from stn.kernels.cross_entropy import linear_cross_entropy

CHUNK = 4


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ROWS", CHUNK)
    monkeypatch.setattr(cross_entropy, "CACHED_ROWS", CHUNK - 1)


def problem(*shape, features=6, types=9, dtype=torch.float64):
    x = torch.randn(*shape, features, dtype=dtype, requires_grad=True)
    weight = torch.randn(types, features, dtype=dtype, requires_grad=True)
    bias = torch.randn(types, dtype=dtype, requires_grad=True)
    return x, weight, bias, torch.randint(types, shape)


def reference(x, weight, bias, targets):
    return F.cross_entropy(F.linear(x, weight, bias).flatten(0, -2), targets.flatten())


@pytest.mark.parametrize("shape", [(1,), (CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (3 * CHUNK,), (3 * CHUNK + 2,), (7, 3)])
def test_equals_cross_entropy_of_linear(shape):
    *inputs, targets = problem(*shape)
    loss, expected = linear_cross_entropy(*inputs, targets), reference(*inputs, targets)
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs))


def test_gradcheck():
    *inputs, targets = problem(CHUNK + 1)
    assert torch.autograd.gradcheck(lambda *tensors: linear_cross_entropy(*tensors, targets), inputs)


@pytest.mark.parametrize("trainable", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_partly_frozen(trainable):
    *inputs, targets = problem(2 * CHUNK + 1)
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(i in trainable)
    wanted = [inputs[i] for i in trainable]
    loss, expected = linear_cross_entropy(*inputs, targets), reference(*inputs, targets)
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted))


def test_a_frozen_weight_costs_no_gradient():
    x, weight, bias, targets = problem(CHUNK)
    loss = linear_cross_entropy(x, weight.detach(), bias.detach(), targets)
    assert not any(tensor.shape == weight.shape for tensor in loss.grad_fn.saved_tensors if tensor is not None)


def test_without_gradients():
    *inputs, targets = problem(2 * CHUNK)
    with torch.no_grad():
        loss = linear_cross_entropy(*inputs, targets)
    assert not loss.requires_grad
    assert_close(loss, reference(*inputs, targets).detach())


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_stay_finite(size):
    *inputs, targets = problem(2 * CHUNK, dtype=torch.float32)
    x, weight, _ = inputs
    with torch.no_grad():
        x.fill_(1.0)
        weight[0] = size / 6
    loss, expected = linear_cross_entropy(*inputs, targets), reference(*inputs, targets)
    assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert_close(gradients, torch.autograd.grad(expected, inputs))


def test_inputs_are_left_alone():
    tensors = problem(2 * CHUNK)
    before = [tensor.detach().clone() for tensor in tensors]
    linear_cross_entropy(*tensors).backward()
    assert_close([tensor.detach() for tensor in tensors], before, rtol=0, atol=0)


@pytest.mark.parametrize("upstream", ["one", "differentiable"])
def test_double_backward_is_refused(upstream):
    x, weight, bias, targets = problem(CHUNK)
    with pytest.raises(RuntimeError):
        loss = linear_cross_entropy(x, weight, bias, targets)
        (gradient,) = torch.autograd.grad(loss.square() if upstream == "differentiable" else loss, x, create_graph=True)
        (gradient.square().sum() + x.sum()).backward()


def test_bfloat16_rounds_products_and_nothing_else():
    """Logits err by three roundings of 2⁻⁹ (input, weight, product) of their size; the loss is summed exactly."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(40, 64), torch.randn(300, 64) / 8, torch.randn(300)
    targets = torch.randint(300, (40,))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        tensors = [x.to(dtype).requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
        loss = linear_cross_entropy(*tensors, targets)
        assert loss.dtype == torch.float32
        gradients = torch.autograd.grad(loss, tensors)
        assert [gradient.dtype for gradient in gradients] == [dtype, torch.float32, torch.float32]
        results.append((loss, gradients))
    (exact, exact_gradients), (rounded, rounded_gradients) = results
    largest = (x @ weight.T).abs().max()
    assert 0 < abs(rounded - exact) < 3 * 2**-9 * largest
    for a, b in zip(rounded_gradients, exact_gradients, strict=True):
        assert (a.float() - b).norm() < 10 * 2**-9 * b.norm()
