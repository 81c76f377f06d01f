"""Networks of many kinds, converted and collapsed: against the plain network, the written-out response, one another."""

import io
import pickle
import threading
import warnings
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES, BATCH, GPT, Block, encoder, inputs_of
from torch import nn
from torch.testing import assert_close

import stn
from stn.delta_stn import linearized
from stn.layers import gates, is_response
from stn.schedules import Constant

pytestmark = [pytest.mark.usefixtures("double"), pytest.mark.filterwarnings("ignore:enable_nested_tensor")]
each = pytest.mark.parametrize("name", ARCHITECTURES)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


@pytest.fixture
def hyper():
    return stn.Hyperparameters(
        rate=stn.Tuned(0.2, range=(0, 1), feed="unconstrained"),
        other=stn.Tuned(0.3, range=(0, 1), scale=0.5, feed="unconstrained"),
    )


def made(name, hyper, **options):
    """A plain network and its twin, whose response is not zero, both in evaluation."""
    make, *_, own = ARCHITECTURES[name]
    plain = make().eval()
    net = stn.convert(plain, hyper, **own, **options)
    with torch.no_grad():
        for gate in gates(net):
            gate.normal_(std=0.3)
    return plain, net


def tensor(output):
    """The tensor in what a network returns."""
    while not isinstance(output, torch.Tensor):
        output = output["logits"] if isinstance(output, dict) else output[0]
    return output


def zero_gates(net):
    stn.zero_gates(net)
    return net


def row(draw, place):
    """The draw of one example."""
    values = draw.tuned_values[place : place + 1] if len(draw.tuned_values) > 1 else draw.tuned_values
    return stn.Draw(draw.h[place : place + 1], values, draw.columns, draw.shared, draw.scheduled)


@each
def test_a_twin_starts_as_its_plain_network(name, hyper):
    plain, net = made(name, hyper)
    inputs, named = inputs_of(name)
    expected = tensor(plain(*inputs, **named))
    for draw in (hyper.perturbed(BATCH), hyper.current()):
        assert_close(tensor(zero_gates(net)(*inputs, draw=draw, **named)), expected)


@each
def test_collapsed_it_is_the_plain_class_with_the_same_outputs_and_keys(name, hyper):
    plain, net = made(name, hyper)
    inputs, named = inputs_of(name)
    draw = hyper.current()
    expected = tensor(net(*inputs, draw=draw, **named))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*a parameter of its own")
        collapsed = stn.collapse(net)
    assert [type(part) for part in collapsed.modules()] == [type(part) for part in plain.modules()]
    assert [*collapsed.state_dict()] == [*plain.state_dict()]
    for one, other in zip(collapsed.modules(), plain.modules(), strict=True):
        assert one.__dict__.keys() == other.__dict__.keys()
        assert len(one._forward_pre_hooks) == len(other._forward_pre_hooks)
        assert getattr(one, "use_nested_tensor", None) == getattr(other, "use_nested_tensor", None)
    assert_close(tensor(collapsed(*inputs, **named)), expected)
    assert not torch.allclose(tensor(plain(*inputs, **named)), expected)
    plain.load_state_dict(collapsed.state_dict())
    assert_close(tensor(plain(*inputs, **named)), expected) if name != "gpt" else None  # what was tied is so here
    assert_close(tensor(net(*inputs, draw=draw, **named)), expected)  # the twin is as it was


@each
def test_each_example_responds_to_its_own_row(name, hyper):
    """Row by row, the twin is the plain network that collapses at that row's hyperparameters."""
    _, net = made(name, hyper)
    inputs, named = inputs_of(name)
    draw = hyper.perturbed(BATCH)
    together = tensor(net(*inputs, draw=draw, **named))
    alone = [tensor(net(*inputs, draw=row(draw, place), **named)) for place in range(BATCH)]
    axis = together.shape.index(BATCH)
    for place in range(BATCH):
        assert_close(together.select(axis, place), alone[place].select(axis, place))


@each
def test_without_gradients_the_response_is_not_bypassed(name, hyper):
    """PyTorch's fast paths read weights without calling the layers that have them."""
    _, net = made(name, hyper)
    inputs, named = inputs_of(name)
    expected = tensor(net(*inputs, draw=hyper.current(), **named))
    with torch.no_grad():
        assert_close(tensor(net(*inputs, draw=hyper.current(), **named)), expected)
    with torch.inference_mode():
        assert_close(tensor(net(*inputs, draw=hyper.current(), **named)), expected)


@each
def test_gradients_reach_every_weight_that_trains_and_the_hyperparameters(name, hyper):
    drops = name not in ("lstm", "resnet", "gpt", "shared layer", "weight norm")
    _, net = made(name, hyper, **({"dropout": "rate"} if drops else {}))
    inputs, named = inputs_of(name)
    tensor(net.train()(*inputs, draw=hyper.perturbed(BATCH), **named)).square().mean().backward()
    for key, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    tensor(net.eval()(*inputs, draw=hyper.current(), **named)).square().mean().backward()
    assert hyper.unconstrained.grad.abs().min() > 0


@each
def test_linearized_it_is_the_directional_derivative(name, hyper):
    _, net = made(name, hyper)
    hyper = stn.Hyperparameters(
        rate=stn.Tuned(0.2, range=(0, 1), feed="centred"), other=stn.Tuned(0.3, range=(0, 1), feed="centred")
    )
    inputs, named = inputs_of(name)
    draw = hyper.perturbed(BATCH)

    def predict(draw):
        return tensor(net(*inputs, draw=draw, **named))

    def moved(by):
        return predict(stn.Draw(by * draw.h, draw.tuned_values, draw.columns, draw.shared, draw.scheduled))

    with stn.frozen(parameter for key, parameter in net.named_parameters() if not is_response(key.split(".")[-1])):
        found = linearized(predict, draw)
    step = 1e-5
    with torch.no_grad():
        expected = moved(0.0) + (moved(step) - moved(-step)) / (2 * step)
    assert_close(found, expected, rtol=1e-6, atol=1e-8)
    found.square().mean().backward()
    assert all(gate.grad is not None for gate in gates(net))


@each
def test_copies_are_twins_of_their_own(name, hyper):
    _, net = made(name, hyper)
    inputs, named = inputs_of(name)
    expected = tensor(net(*inputs, draw=hyper.current(), **named))
    copies = [deepcopy(net)]
    if name != "weight norm":  # PyTorch pickles no parametrized layer
        copies.append(pickle.loads(pickle.dumps(net)))
    for copy in copies:
        assert_close(tensor(copy(*inputs, draw=hyper.current(), **named)), expected)
        with pytest.raises(RuntimeError, match="called without a draw"), net.using(hyper.current()):
            copy(*inputs, **named)


@each
def test_plain_checkpoints_load_into_the_twin_and_back(name, hyper):
    plain, net = made(name, hyper)
    inputs, named = inputs_of(name)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.3)
    expected = tensor(plain(*inputs, **named))
    response = {key: value.clone() for key, value in net.named_parameters() if is_response(key.split(".")[-1])}
    net.module.load_state_dict(plain.state_dict())
    assert response.keys() and all(torch.equal(net.get_parameter(key), value) for key, value in response.items())
    back = ARCHITECTURES[name][0]().eval()
    whole = net.module.state_dict()
    back.load_state_dict({key: whole[key] for key in back.state_dict()})
    assert_close(tensor(back(*inputs, **named)), expected)


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_compiled_it_gives_the_same(name, hyper):
    _, net = made(name, hyper)
    inputs, named = inputs_of(name)
    draw = hyper.perturbed(BATCH)
    expected = tensor(net(*inputs, draw=draw, **named))
    compiled = torch.compile(net, backend="aot_eager")
    assert_close(tensor(compiled(*inputs, draw=draw, **named)), expected)


def test_the_written_out_response(hyper):
    """y = W x + b + (V h) ⊙ (W' x) + (C h) ⊙ b' (MacKay et al. 2019, eq. 10), for three kinds of layers."""
    linear, convolution = nn.Linear(5, 3), nn.Conv2d(4, 6, 3, groups=2, padding=2, dilation=2, padding_mode="circular")
    embedding = nn.Embedding(9, 3)
    draw = hyper.perturbed(BATCH)
    x, image, ids = torch.randn(7, BATCH, 5), torch.randn(BATCH, 4, 6, 6), torch.randint(9, (BATCH, 2))
    for layer, value, axis in ((linear, x, 1), (convolution, image, 0), (embedding, ids, 0)):
        net = stn.convert(layer, hyper, batch_axis=axis)
        with torch.no_grad():
            net.module.gate.normal_()
        twin, response = net.module, deepcopy(layer)
        response.weight = twin.response_weight
        if layer is embedding:
            gate, bias = draw.h @ twin.gate.T, 0.0
            expected = layer(value) + gate[:, None] * response(value)
        else:
            response.bias = None
            gate, bias = (draw.h @ twin.gate.T).chunk(2, -1)
            bias = bias * twin.response_bias
            if layer is convolution:
                gate, bias = gate[..., None, None], bias[..., None, None]
            expected = layer(value) + gate * response(value) + bias
        assert_close(net(value, draw=draw), expected)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["bool", "float", "per head"])
def test_attention_is_that_of_torch_with_any_mask(hyper, kind, need_weights):
    plain = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True).eval()
    net = stn.convert(plain, hyper)
    query, key, value = torch.randn(BATCH, 5, 8), torch.randn(BATCH, 7, 6), torch.randn(BATCH, 7, 5)
    mask = torch.rand(*((2 * BATCH,) if kind == "per head" else ()), 5, 7) < 0.3
    padding = torch.zeros(BATCH, 7, dtype=torch.bool)
    padding[1, 5:] = True
    if kind == "float":
        mask, padding = mask * -2.0, padding * -3.0
    for average in (True, False):
        masks = {"attn_mask": mask, "key_padding_mask": padding, "need_weights": need_weights}
        expected = plain(query, key, value, **masks, average_attn_weights=average)
        for draw in (hyper.perturbed(BATCH), hyper.current()):
            found = net(query, key, value, **masks, average_attn_weights=average, draw=draw)
            assert_close(found[0], expected[0], equal_nan=True)
            assert (found[1] is None) == (expected[1] is None)
            if need_weights:
                assert_close(found[1], expected[1], equal_nan=True)


def test_states_of_an_lstm_go_in_and_come_out(hyper):
    plain = nn.LSTM(8, 6, num_layers=2, bidirectional=True)
    net = stn.convert(plain, hyper, batch_axis=1)
    x, state = torch.randn(5, BATCH, 8), (torch.randn(4, BATCH, 6), torch.randn(4, BATCH, 6))
    expected = plain(x, state)
    for draw in (hyper.perturbed(BATCH), hyper.current()):
        assert_close(net(x, state, draw=draw), expected)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Dropout(0.9), (BATCH, 4000), 0),
        (nn.Dropout(0.9), (4000, BATCH), 1),
        (nn.Dropout1d(0.9), (BATCH, 4000, 2), 0),
        (nn.Dropout2d(0.9), (BATCH, 4000, 2, 3), 0),
    ],
)
def test_dropout_follows_its_hyperparameter_example_by_example(hyper, layer, shape, axis):
    net = stn.convert(layer, hyper, dropout="rate", batch_axis=axis)
    draw = hyper.perturbed(BATCH)
    kept = net(torch.ones(shape), draw=draw)
    rates = draw["rate"]
    assert rates.std() > 0.05
    for place in range(BATCH):
        values = kept.select(axis, place)
        assert values.eq(0).double().mean().item() == pytest.approx(rates[place].item(), abs=0.03)
        assert values.max().item() == pytest.approx(1 / (1 - rates[place].item()))
    if len(shape) > 2:
        assert kept.flatten(2).eq(0).double().std(-1).max() == 0  # whole channels
    assert net.eval()(torch.ones(shape), draw=draw).eq(1).all()


def test_rates_inside_attention_and_lstm_follow_too(hyper):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    lstm = nn.LSTM(8, 6, num_layers=2, dropout=0.3, batch_first=True)
    x = torch.randn(BATCH, 5, 8)
    for plain, inner in ((layer.self_attn, (x, x, x)), (lstm, (x,))):
        net = stn.convert(plain, stn.Hyperparameters(rate=Constant(0.0)), dropout="rate")
        still = net.train()(*inner, draw=net.hyper.current())
        assert_close(still, plain.eval()(*inner), rtol=1e-6, atol=1e-8)
        net = stn.convert(plain, hyper, dropout="rate").train()
        draw = hyper.perturbed(BATCH)
        assert not torch.allclose(net(*inner, draw=draw)[0], net(*inner, draw=draw)[0])


def test_patterns_choose_what_responds_and_which_rate_is_followed(hyper):
    network = nn.Sequential(GPT(), Block())
    net = stn.convert(network, hyper, dropout={"0.blocks.0.*": "other", "0.*": "rate"}, respond=["0.*.project", "1.*"])
    responding = {name for name, part in net.module.named_modules() if hasattr(part, "gate")}
    assert responding == {"0.blocks.0.project", "0.blocks.1.project", "1.query_key_value", "1.project"}
    parts = ((name, getattr(part, "place", None)) for name, part in net.module.named_modules())
    rates = {name: place.rate for name, place in parts if place and place.rate}
    assert rates == {"0.blocks.0.dropout": "other", "0.blocks.1.dropout": "rate"}
    assert type(net.module[1].dropout) is nn.Dropout
    chosen = stn.convert(network, hyper, respond=lambda _, layer: isinstance(layer, nn.Embedding))
    assert [name for name, part in chosen.module.named_modules() if hasattr(part, "gate")] == ["0.embedding"]


def test_what_was_tied_stays_tied_until_a_response_parts_it(hyper):
    net = stn.convert(GPT(), hyper)
    assert net.module.decoder.weight is net.module.embedding.weight
    assert "decoder  " in (told := stn.summary(net)) and "shares its weight with embedding" in told
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collapsed = stn.collapse(net)  # its response is zero as yet
    assert collapsed.decoder.weight is collapsed.embedding.weight
    nn.init.normal_(net.module.embedding.gate)
    with pytest.warns(UserWarning, match=r"embedding\.weight does not respond alike .* a parameter of its own"):
        collapsed = stn.collapse(net)
    assert collapsed.decoder.weight is not collapsed.embedding.weight
    assert_close(collapsed.embedding.weight[0], net.module.embedding.weight[0])  # the padding does not respond


def test_a_shared_layer_has_one_twin(hyper):
    _, net = made("shared layer", hyper)
    assert net.module.again is net.module.layer
    assert "again" in stn.summary(net) and "is layer" in stn.summary(net)


def test_collapsed_dropout_has_the_current_rate(hyper):
    net = stn.convert(nn.Sequential(nn.Linear(8, 2), nn.Dropout(0.9)), hyper, dropout="rate")
    assert stn.collapse(net)[1].p == pytest.approx(0.2)


def test_the_summary_says_what_became_of_each_layer(hyper):
    network = nn.ModuleDict(
        {
            "frozen": nn.Linear(2, 2).requires_grad_(False),
            "limited": nn.Embedding(5, 2, max_norm=1.0),
            "projected": nn.LSTM(4, 3, proj_size=2),
            "gru": nn.GRU(4, 3),
            "norm": nn.BatchNorm1d(3),
            "linear": nn.Linear(2, 2),
            "dropout": nn.Dropout(0.4),
        }
    )
    lines = dict(line.split(maxsplit=1) for line in stn.summary(stn.convert(network, hyper, batch_axis=1)).splitlines())
    assert lines["frozen"] == "Linear, plain: frozen"
    assert lines["limited"] == "Embedding, plain: it has max_norm"
    assert lines["projected"] == "LSTM, plain: it has proj_size"
    assert lines["gru"] == "GRU, plain: it has no twin" and "no twin" in lines["norm"]
    assert lines["linear"] == "Linear, responds" and lines["dropout"] == "Dropout, rate: 0.4"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dropout": "rat"}, "dropout is to follow 'rat', which is no hyperparameter: there are rate, other"),
        ({"dropout": {"nowhere": "rate"}}, "dropout: 'nowhere' is the name of no layer"),
        ({"respond": "nowhere.*"}, "respond: 'nowhere.*' is the name of no layer"),
        ({"batch_axis": {"nowhere": 1}}, "batch_axis: 'nowhere' is the name of no layer"),
    ],
)
def test_options_that_fit_nothing_are_refused(hyper, options, words):
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        stn.convert(nn.Sequential(nn.Linear(8, 2), nn.Dropout(0.9)), hyper, **options)


def test_a_batch_elsewhere_is_an_error_that_names_the_layer(hyper):
    net = stn.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), hyper)
    with pytest.raises(ValueError, match=r"0 \(Linear\) is given \(5, 4, 8\), whose axis 0 .* batch_axis"):
        net(torch.randn(5, BATCH, 8), draw=hyper.perturbed(BATCH))
    for rows in (BATCH - 1, BATCH + 1):
        with pytest.raises(ValueError, match=f"the draw's {rows} examples"):
            net(torch.randn(BATCH, 8), draw=hyper.perturbed(rows))
    with pytest.raises(ValueError, match="batch_first=False, so that axis 1 is its batch"):
        stn.convert(nn.LSTM(8, 6), hyper)
    with pytest.raises(ValueError, match="takes batches"):
        stn.convert(nn.LSTM(8, 6, batch_first=True), hyper)(torch.randn(5, 8), draw=hyper.current())


def test_calls_without_a_draw_and_conversions_of_what_is_converted_are_refused(hyper):
    net = stn.convert(nn.Sequential(nn.Linear(8, 2)), hyper)
    with pytest.raises(RuntimeError, match="0 of a converted network is called without a draw"):
        net(torch.randn(BATCH, 8))
    with net.using(hyper.current()):
        net(torch.randn(BATCH, 8))
        net.module(torch.randn(BATCH, 8))
    with pytest.raises(RuntimeError, match="without a draw"):
        net.module(torch.randn(BATCH, 8))
    for again in (net, net.module, nn.Sequential(net)):
        with pytest.raises(TypeError, match="converted already"):
            stn.convert(again, hyper)


def test_hyperparameters_are_no_part_of_the_network(hyper):
    net = stn.convert(nn.Linear(8, 2), hyper)
    assert not {*net.parameters()} & {*hyper.parameters()}
    assert not any("unconstrained" in key for key in net.state_dict())


def test_two_networks_in_two_threads_do_not_mix(hyper):
    nets = [stn.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), hyper) for _ in range(2)]
    for net in nets:
        for gate in gates(net):
            nn.init.normal_(gate)
    x = torch.randn(BATCH, 8)
    draws = [hyper.perturbed(BATCH) for _ in nets]
    expected = [[net(x, draw=draw) for draw in draws] for net in nets]
    failed = []

    def work(place):
        for _ in range(50):
            found = nets[0](x, draw=draws[place]), nets[1](nets[0](x, draw=draws[place]) * 0 + x, draw=draws[1 - place])
            if not (torch.equal(found[0], expected[0][place]) and torch.equal(found[1], expected[1][1 - place])):
                failed.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_collapsed_rates_inside_attention_and_lstm_are_the_current_ones(hyper):
    attention = nn.MultiheadAttention(8, 2, dropout=0.9, batch_first=True)
    lstm = nn.LSTM(8, 6, num_layers=2, dropout=0.9, batch_first=True)
    for plain in (attention, lstm):
        assert stn.collapse(stn.convert(plain, hyper, dropout="rate")).dropout == pytest.approx(0.2)


@pytest.mark.parametrize("option", [{"add_bias_kv": True}, {"add_zero_attn": True}, "own forward"])
def test_an_attention_layer_that_stays_plain_keeps_its_output_projection_plain(hyper, option):
    """It reads the projection's weight without calling it: a response there would be passed by."""

    class Own(nn.MultiheadAttention):
        def forward(self, *inputs, **named):
            return super().forward(*inputs, **named)

    own = option == "own forward"
    plain = (Own if own else nn.MultiheadAttention)(8, 2, batch_first=True, **({} if own else option))
    net = stn.convert(nn.ModuleList([plain, nn.Linear(2, 2)]), hyper)
    assert len(gates(net)) == 1 and "reads its weight without calling it" in stn.summary(net)


@pytest.mark.parametrize("respond", ["out_proj", lambda name, _: name == "out_proj"])
def test_an_output_projection_responds_by_itself(hyper, respond):
    plain = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    net = stn.convert(plain, hyper, respond=respond)
    (gate,) = gates(net)
    nn.init.normal_(gate)
    x = torch.randn(BATCH, 5, 8)
    for draw in (hyper.perturbed(BATCH), hyper.current()):
        assert not torch.allclose(net(x, x, x, draw=draw)[0], plain(x, x, x)[0])
    assert_close(stn.collapse(net)(x, x, x)[0], net(x, x, x, draw=hyper.current())[0])


class Symmetric(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


@pytest.mark.parametrize(
    "parametrized",
    [
        lambda layer: nn.utils.parametrizations.spectral_norm(layer),
        lambda layer: nn.utils.parametrizations.orthogonal(layer),
        lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric()),
    ],
    ids=["spectral norm", "orthogonal", "symmetric"],
)
def test_a_parametrization_that_cannot_have_the_value_is_removed(hyper, parametrized):
    net = stn.convert(nn.Sequential(parametrized(nn.Linear(6, 6))), hyper).eval()
    nn.init.normal_(net.module[0].gate)
    x = torch.randn(BATCH, 6)
    expected = net(x, draw=hyper.current())
    with pytest.warns(UserWarning, match=r"0\.weight: its parametrization cannot have the response's value"):
        collapsed = stn.collapse(net)
    assert type(collapsed[0]) is nn.Linear and not nn.utils.parametrize.is_parametrized(collapsed[0])
    assert_close(collapsed(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_network_may_have_another_type_than_its_hyperparameters(hyper, dtype):
    hyper = hyper.to(torch.float64 if dtype == torch.float32 else torch.float32)
    network = nn.ModuleDict(
        {"embedding": nn.Embedding(9, 8), "lstm": nn.LSTM(8, 8, batch_first=True), "out": encoder()}
    )

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = network

        def forward(self, ids):
            return self.parts["out"](self.parts["lstm"](self.parts["embedding"](ids))[0])

    net = stn.convert(Whole().to(dtype), hyper)
    for gate in gates(net):
        nn.init.normal_(gate, std=0.1)
    ids = torch.randint(9, (BATCH, 5))
    for draw in (hyper.perturbed(BATCH), hyper.current()):
        assert net(ids, draw=draw).dtype == dtype
        assert stn.WeightDecay(net, "other")(draw).isfinite()
    assert stn.collapse(net)(ids).dtype == dtype


def test_linearized_under_autocast(hyper):
    hyper = stn.Hyperparameters(rate=stn.Tuned(0.2, range=(0, 1), feed="centred")).float()
    net = stn.convert(encoder().float(), hyper).eval()
    x, draw = torch.randn(BATCH, 5, 8).float(), hyper.perturbed(BATCH)
    with stn.frozen(stn.split_parameters(net)[0]), torch.autocast("cpu", torch.bfloat16):
        found = linearized(lambda draw: net(x, draw=draw), draw)
        expected = net(x, draw=hyper.current())
    assert_close(found.float(), expected.float(), rtol=5e-2, atol=5e-2)


def test_networks_within_networks_keep_their_draws(hyper):
    inner, outer = (stn.convert(nn.Sequential(nn.Linear(8, 8)), hyper) for _ in range(2))
    for net in (inner, outer):
        nn.init.normal_(net.module[0].gate)
    x, one, other = torch.randn(BATCH, 8), hyper.perturbed(BATCH), hyper.perturbed(BATCH)
    with outer.using(one):
        expected = outer(inner(x, draw=other))
    assert_close(expected, outer(inner(x, draw=other), draw=one))


def test_the_padding_trains_neither_weight_nor_response(hyper):
    net = stn.convert(nn.Embedding(5, 3, padding_idx=1), hyper)
    nn.init.normal_(net.module.gate)
    net(torch.tensor([0, 1, 1, 2]), draw=hyper.perturbed(BATCH)).sum().backward()
    for weight in (net.module.weight, net.module.response_weight):
        assert weight.grad[1].eq(0).all() and weight.grad[0].ne(0).all()


def test_the_first_layer_of_an_lstm_has_no_dropout_before_it(hyper):
    plain = nn.LSTM(8, 6, num_layers=2, dropout=0.5, batch_first=True)
    net = stn.convert(plain, hyper, dropout="rate").train()
    x, draw = torch.randn(BATCH, 5, 8), hyper.current()
    first = [net(x, draw=draw)[1][0][0] for _ in range(2)]
    assert torch.equal(*first)


@pytest.mark.parametrize(("shape", "kind"), [((8,), "Linear"), ((3, 6, 6), "Conv2d"), ((3, 6), "Conv1d")])
def test_inputs_without_a_batch_are_refused(hyper, shape, kind):
    layers = {"Linear": nn.Linear(8, 2), "Conv2d": nn.Conv2d(3, 2, 3), "Conv1d": nn.Conv1d(3, 2, 3)}
    net = stn.convert(layers[kind], hyper)
    for rows in (shape[0], 1):
        with pytest.raises(ValueError, match=rf"the network \({kind}\) is given .*, which has no batch"):
            net(torch.randn(shape), draw=hyper.perturbed(rows))


def test_what_a_converted_network_cannot_be_called_with_is_refused(hyper):
    net = stn.convert(nn.Linear(8, 2), hyper)
    other = stn.Hyperparameters(one=stn.Tuned(0.5))
    for draw in (hyper.current().h, other.current()):
        with pytest.raises(TypeError, match="give one of this network's hyperparameters"):
            net(torch.randn(BATCH, 8), draw=draw)
    wide = stn.Hyperparameters(rate=stn.Tuned(0.5, range=(0, 2)))
    with pytest.raises(ValueError, match="dropout is to follow rate, which is no rate: give it a range within"):
        stn.convert(nn.Dropout(0.5), wide, dropout="rate")
    with pytest.raises(ValueError, match="batch_axis is -1: count axes from the first"):
        stn.convert(nn.Linear(8, 2), hyper, batch_axis=-1)
    with pytest.raises(ValueError, match="the network has no dropout layer"):
        stn.convert(nn.Linear(8, 2), hyper, dropout="rate")


def test_layers_that_are_used_in_their_own_way_stay_plain(hyper):
    class Standardized(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight / weight.std(), bias)

    replaced = nn.Linear(8, 2)
    replaced.forward = lambda x: F.linear(x, 2 * replaced.weight)
    named = nn.Linear(8, 2)
    named.place = "its author's"
    net = stn.convert(nn.ModuleList([Standardized(3, 2, 3), replaced, named, nn.Linear(2, 2)]), hyper)
    assert len(gates(net)) == 1 and net.module[2].place == "its author's"
    assert "it has an attribute place of its own" in stn.summary(net)


def test_training_and_evaluation_are_the_plain_networks(hyper):
    for training in (True, False):
        net = stn.convert(nn.Sequential(nn.Linear(8, 2)).train(training), hyper)
        assert net.training == net.module.training == training


def test_with_nothing_tuned_the_twin_is_the_plain_network():
    hyper = stn.Hyperparameters(rate=Constant(0.4))
    net = stn.convert(nn.Sequential(nn.Linear(8, 2), nn.Dropout(0.9)), hyper, dropout="rate")
    assert type(net.module[0]) is nn.Linear and not gates(net)
    kept = net(torch.ones(4000, 8), draw=hyper.current())
    assert kept.eq(0).double().mean().item() == pytest.approx(0.4, abs=0.03)


def test_autocast_gives_what_it_gives_the_plain_network(hyper):
    plain, net = made("mlp", hyper)
    zero_gates(net)
    x = torch.randn(BATCH, 8)
    plain, net, hyper, x = plain.float(), net.float(), hyper.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(x)
        found = net(x, draw=hyper.perturbed(BATCH))
    assert found.dtype == expected.dtype == torch.bfloat16
    assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_collapsed_networks_are_saved_and_exported(hyper):
    _, net = made("mlp", hyper)
    collapsed, x = stn.collapse(net), torch.randn(BATCH, 8)
    file = io.BytesIO()
    torch.save(collapsed.state_dict(), file)
    file.seek(0)
    plain = ARCHITECTURES["mlp"][0]().eval()
    plain.load_state_dict(torch.load(file, weights_only=True))
    assert_close(plain(x), collapsed(x))
    assert_close(torch.export.export(collapsed, (x,)).module()(x), net(x, draw=hyper.current()))
