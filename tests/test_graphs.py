"""Recording and replaying, on a stand-in for CUDA graphs where there is no GPU: one that computes anew in place."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lstm.hyperparameters import TABLE
from lstm.model import AWDLSTM
from lstm.task import LanguageModeling
from stn.datasets.text import Corpus
from stn.errors import UserError
from stn.hyperparameters import Hyperparameters, Tuned
from stn.kernels import graphs
from stn.methods import STN

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def recorded(monkeypatch):
    """How often anything was recorded, and replayed."""
    counts = {"record": 0, "replay": 0}

    def record(function, arguments):
        assert entered.within
        counts["record"] += 1
        results = function(*arguments)

        def replay():
            assert entered.within
            counts["replay"] += 1
            for old, new in zip(results, function(*arguments), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)

        return replay, results

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "gpu_of", lambda _: torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "device", entered)
    return counts


@contextmanager
def entered(gpu):
    """In place of torch.cuda.device: the arguments' GPU must be the current one."""
    assert gpu == torch.device("cuda", 1)
    entered.within = True
    yield
    entered.within = False


@graphs.graphed
def scaled(x, y, factor):
    return x * factor, None if y is None else x + y


def test_results_are_those_of_the_arguments_given_and_stay_as_they_are(recorded):
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 0.0], [4.0, 0.0]])[:, 0]
    first, second = (scaled(*pair, 10, cuda_graphs=True) for pair in ((one, two), (two, one)))
    assert_close(first, (10 * one, one + two))
    assert_close(second, (10 * two, one + two))
    assert_close((one, two), (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])))
    assert recorded == {"record": 1, "replay": 2}


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.ones(3), None, 2),
        (torch.ones(2, dtype=torch.float64), None, 2),
        (torch.ones(2), None, 3),
        (torch.ones(2), torch.ones(2), 2),
    ],
    ids=["shape", "dtype", "number", "none"],
)
def test_another_signature_is_another_recording(recorded, arguments):
    function = graphs.graphed(scaled.__wrapped__)
    function(torch.ones(2), None, 2, cuda_graphs=True)
    assert_close(function(*arguments, cuda_graphs=True), scaled.__wrapped__(*arguments))
    function(torch.ones(2), None, 2, cuda_graphs=True)
    assert recorded["record"] == 2


def test_the_recordings_used_last_are_kept(recorded, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_RECORDINGS", 2)
    function = graphs.graphed(scaled.__wrapped__)
    for length in (1, 2, 1, 3, 1):  # the 3 displaces the 2
        function(torch.ones(length), None, 2, cuda_graphs=True)
    assert recorded["record"] == 3
    function(torch.ones(2), None, 2, cuda_graphs=True)
    assert recorded["record"] == 4


def test_on_a_cpu_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr(graphs, "record", None)
    assert_close(scaled(torch.ones(2), None, 3, cuda_graphs=True), (3 * torch.ones(2), None))


def test_recorded_where_all_tensors_lie_on_one_gpu():
    class OnGpu(Tensor):
        device = torch.device("cuda", 1)

    class OnAnother(Tensor):
        device = torch.device("cuda", 0)

    tensor, another = (torch.ones(2).as_subclass(kind) for kind in (OnGpu, OnAnother))
    assert graphs.gpu_of((tensor, None, 2, tensor)) == torch.device("cuda", 1)
    assert graphs.gpu_of((tensor, another)) is None
    assert graphs.gpu_of((tensor, torch.ones(2))) is None
    assert graphs.gpu_of((None, 2)) is None


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted\nmore"), torch.OutOfMemoryError("out")])
def test_a_gpu_that_cannot_record_is_told_with_the_remedy(monkeypatch, error):
    class Idle:
        def __getattr__(self, name):
            return lambda *_: None

    @contextmanager
    def broken(graph, stream):  # noqa: ARG001
        yield
        raise error

    for name in ("CUDAGraph", "Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Idle)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", broken)
    known = isinstance(error, torch.OutOfMemoryError)
    with pytest.raises(type(error) if known else UserError) as raised:
        graphs.record(scaled.__wrapped__, (torch.ones(2), None, 2))
    assert known or ("operation not permitted" in str(raised.value) and "--no_cuda_graphs" in str(raised.value))


def train(device="cpu", dtype=torch.float32, cuda_graphs=True, steps=7):
    """Losses and weights of some steps of a small language model, the text ending within them."""
    torch.manual_seed(0)
    text = torch.randint(12, (4 * 29,))
    corpus = Corpus(text, text, text, tuple(map(str, range(12))), "")
    hyper = Hyperparameters(
        **{
            name: Tuned(0.2, declared.range, per_example=declared.per_example, feed="unconstrained")
            for name, declared in TABLE.items()
        }
    ).to(device)
    # Two layers of one shape, which share their recordings.
    model = AWDLSTM(12, 6, 6, 2, hyper.num_tuned, dtype, cuda_graphs=cuda_graphs).to(device)
    task = LanguageModeling(model, corpus, 4, 8, device=device)
    method = STN(model, hyper, lr=0.5, clip=0.25, hyper_lr=0.01, tune_scales=True, entropy_weight=0.1)
    losses = []
    for _ in range(steps):
        losses += [method.weight_step(task, hyper).data, method.hyper_step(task, hyper).data]
    return torch.stack(losses), *model.parameters(), *hyper.parameters()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_is_the_same_recorded(request, dtype):
    expected = train(dtype=dtype)
    recorded = request.getfixturevalue("recorded")
    actual = train(dtype=dtype)
    assert_close(actual, expected, rtol=0, atol=0)
    # Two lengths of chunks, forward and back, of weight and hyperparameter steps: fewer than are replayed.
    assert 0 < recorded["record"] <= 8 < recorded["replay"]


def test_training_without_cuda_graphs_records_nothing(monkeypatch):
    monkeypatch.setattr(graphs, "gpu_of", None)
    train(cuda_graphs=False)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_on_a_gpu_is_the_same_recorded(dtype):
    torch.cuda.manual_seed_all(0)
    recorded = train("cuda", dtype)
    torch.cuda.manual_seed_all(0)
    assert_close(recorded, train("cuda", dtype, cuda_graphs=False))
