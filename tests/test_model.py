import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import lstm.model
import stn.lstm
from lstm.model import AWDLSTM, activation_penalty, temporal_penalty
from stn import Constant, Draw, Hyperparameters, Tuned
from stn.kernels.cross_entropy import linear_cross_entropy

STEPS, BATCH, TYPES, WIDTH, HIDDEN = 9, 5, 17, 6, 8
RATES = {"dropoute": 0.1, "dropouti": 0.2, "dropouth": 0.3, "dropouto": 0.4, "wdrop": 0.5}


def constant_draw(**rates):
    return Hyperparameters(**{name: Constant(rate) for name, rate in {**RATES, **rates}.items()}).current()


def random_tokens():
    return torch.randint(TYPES, (STEPS, BATCH))


def reordered(rows):
    """Rows forget, input, output, candidate -> input, forget, candidate, output."""
    f, i, o, g = rows.chunk(4)
    return torch.cat([i, f, g, o])


def in_our_order(name, tensor):
    if "layer" not in name:
        return tensor
    if name.endswith("gate"):
        return torch.cat([reordered(block) for block in tensor.chunk(2)])
    return reordered(tensor)


def our_name(name):
    """layer0.ih.response_weight -> layers.0.response_weight_ih_l0"""
    if not name.startswith("layer"):
        return name
    layer, part, kind = name.split(".")
    return f"layers.{layer.removeprefix('layer')}.{kind}_{part}_l0"


class Golden:
    """The golden language model, and its loss with and without all logits at once."""

    def __init__(self, numbers):
        self.numbers = numbers
        self.names = [name for name in numbers if name.startswith(("embedding.", "decoder.", "layer0.", "layer1."))]
        self.model = AWDLSTM(TYPES, WIDTH, WIDTH, 2, num_hyper=3).eval()
        weights = {our_name(name): in_our_order(name, numbers[name]) for name in self.names}
        weights["decoder.weight"] = weights["embedding.weight"]
        self.model.load_state_dict(weights)
        self.h = numbers["h"].requires_grad_()
        self.draw = Draw(self.h, torch.empty(BATCH, 0), {}, frozenset(), {})
        self.state = [(numbers[f"h0_layer{i}"][None], numbers[f"c0_layer{i}"][None]) for i in range(2)]

    def cross_entropy(self, way, dropped):
        decoder = self.model.decoder
        targets = self.numbers["targets"]
        if way == "chunks":
            return linear_cross_entropy(dropped, decoder.weight, decoder.bias, targets.reshape(STEPS, BATCH))
        return F.cross_entropy(decoder(dropped).flatten(0, 1), targets)


@pytest.fixture
def golden_lm(golden):
    return Golden(golden("lm"))


@pytest.mark.usefixtures("double")
def test_golden_logits_and_states(golden_lm):
    numbers = golden_lm.numbers
    logits, state = golden_lm.model(numbers["ids"], golden_lm.state, golden_lm.draw)
    assert_close(logits, numbers["logits"], rtol=0, atol=1e-10)
    for i, (hidden, cell) in enumerate(state):
        assert_close(hidden[0], numbers[f"hT_layer{i}"], rtol=0, atol=1e-10)
        assert_close(cell[0], numbers[f"cT_layer{i}"], rtol=0, atol=1e-10)
    dropped, raw, _ = golden_lm.model.encode(numbers["ids"], golden_lm.state, golden_lm.draw)
    assert_close(raw, numbers["output_layer1"], rtol=0, atol=1e-10)
    assert torch.equal(dropped, raw)


@pytest.mark.usefixtures("double")
def test_golden_first_layer_outputs(golden_lm):
    numbers, model = golden_lm.numbers, golden_lm.model
    embedded = model.embedding(numbers["ids"], golden_lm.h)
    output, _ = model.layers[0](embedded, golden_lm.state[0], golden_lm.h)
    assert_close(output, numbers["output_layer0"], rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("way", ["logits", "chunks"])
def test_golden_losses_and_gradients(golden_lm, way):
    numbers = golden_lm.numbers
    embedded = []
    golden_lm.model.embedding.register_forward_hook(lambda *call: embedded.append(call[-1]) or call[-1].retain_grad())
    dropped, raw, _ = golden_lm.model.encode(numbers["ids"], golden_lm.state, golden_lm.draw)
    cross_entropy = golden_lm.cross_entropy(way, dropped)
    alpha, beta = numbers["alpha_beta"]
    loss = cross_entropy + activation_penalty(dropped, alpha) + temporal_penalty(raw, beta)
    assert_close(cross_entropy, numbers["cross_entropy"], rtol=0, atol=1e-10)
    assert_close(loss, numbers["loss"], rtol=0, atol=1e-10)
    loss.backward()
    assert_close(golden_lm.h.grad, numbers["grad_h"], rtol=0, atol=1e-10)
    parameters = dict(golden_lm.model.named_parameters())
    assert {our_name(name) for name in golden_lm.names} == parameters.keys()
    expected = {name: in_our_order(name, numbers[f"grad_{name}"]).clone() for name in golden_lm.names}
    # The reference looked words up with padding_idx = -1, which drops the last type's share of these two gradients.
    last = (numbers["ids"] == TYPES - 1)[..., None] * embedded[0].grad
    expected["embedding.weight"][-1] += last.sum((0, 1))
    expected["embedding.response_weight"][-1] += (last * (golden_lm.h @ numbers["embedding.gate"].T)).sum((0, 1))
    for name in golden_lm.names:
        assert_close(parameters[our_name(name)].grad, expected[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("nlayers", [1, 2, 3])
@pytest.mark.parametrize("num_hyper", [0, 2])
def test_shapes(nlayers, num_hyper):
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, nlayers, num_hyper).eval()
    draw = Hyperparameters(**{f"x{i}": Tuned(0.0, feed="unconstrained") for i in range(num_hyper)}).perturbed(BATCH)
    logits, state = model(random_tokens(), None, draw)
    assert logits.shape == (STEPS, BATCH, TYPES)
    widths = [HIDDEN] * (nlayers - 1) + [WIDTH]
    assert [[part.shape for part in layer_state] for layer_state in state] == [
        [(1, BATCH, width)] * 2 for width in widths
    ]


def test_the_output_layer_is_tied_to_the_embedding():
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, num_hyper=0)
    assert model.decoder.weight is model.embedding.weight
    assert model.layers[-1].hidden_size == WIDTH
    assert len(list(model.parameters())) == 1 + 1 + 2 * 4


def test_plain_checkpoint_loads_into_the_self_tuning_model():
    plain, hyper = (AWDLSTM(TYPES, WIDTH, HIDDEN, 2, num_hyper).eval() for num_hyper in (0, 2))
    hyper.load_state_dict(plain.state_dict())
    draw = Hyperparameters(x=Tuned(0.0, feed="unconstrained"), y=Tuned(0.0, feed="unconstrained")).current()
    tokens = random_tokens()
    assert_close(hyper(tokens, None, draw)[0], plain(tokens, None, draw)[0])


def test_evaluation_draws_no_random_number():
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 0).eval()
    tokens, before = random_tokens(), torch.get_rng_state()
    first, second = (model(tokens, None, constant_draw())[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", RATES)
def test_each_rate_matters_in_training(name):
    model, tokens = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 0), random_tokens()
    rates = {**dict.fromkeys(RATES, 0.0), name: 0.5}
    before = torch.get_rng_state()
    logits = model(tokens, None, constant_draw(**rates))[0]
    assert not torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(logits, model.eval()(tokens, None, constant_draw())[0])


def test_without_dropout_training_equals_evaluation():
    model, tokens, draw = (
        AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 0),
        random_tokens(),
        constant_draw(**dict.fromkeys(RATES, 0.0)),
    )
    training = model(tokens, None, draw)[0]
    assert torch.equal(training, model.eval()(tokens, None, draw)[0])


def test_each_rate_acts_where_it_should(monkeypatch):
    calls = []

    def recording(name, original):
        def call(*arguments, **named):
            rates = [argument for argument in arguments if isinstance(argument, float)]
            widths = [argument.shape[-1] for argument in arguments if isinstance(argument, torch.Tensor)]
            calls.append((name, rates[0], widths[0]))
            return original(*arguments, **named)

        return call

    for module, name in (
        (lstm.model, "embedding_dropout"),
        (lstm.model, "locked_dropout"),
        (stn.lstm, "drop_connect"),
    ):
        monkeypatch.setattr(module, name, recording(name, getattr(module, name)))
    AWDLSTM(TYPES, WIDTH, HIDDEN, 3, 0)(random_tokens(), None, constant_draw())
    assert calls == [
        ("embedding_dropout", 0.1, WIDTH),
        ("locked_dropout", 0.2, WIDTH),
        ("drop_connect", 0.5, HIDDEN),
        ("locked_dropout", 0.3, HIDDEN),
        ("drop_connect", 0.5, HIDDEN),
        ("locked_dropout", 0.3, HIDDEN),
        ("drop_connect", 0.5, WIDTH),
        ("locked_dropout", 0.4, WIDTH),
    ]


def test_raw_outputs_are_not_dropped():
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 0)
    dropped, raw, state = model.encode(random_tokens(), None, constant_draw(dropouto=0.5))
    assert (raw != 0).all()
    assert (dropped == 0).any()
    assert_close(state[-1][0][0], raw[-1])
    kept = dropped != 0
    assert_close(dropped[kept], 2 * raw[kept])


@pytest.mark.parametrize("rate", [1.0, 0.0])
def test_training_is_finite_at_extreme_rates(rate):
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 0)
    logits, _ = model(random_tokens(), None, constant_draw(**dict.fromkeys(RATES, rate)))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_tuned_rates_train_the_whole_model():
    shared = {"dropoute", "wdrop"}
    hyper = Hyperparameters(
        **{
            name: Tuned(rate, (0, 1), per_example=name not in shared, feed="unconstrained")
            for name, rate in RATES.items()
        }
    )
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, hyper.num_tuned)
    model(random_tokens(), None, hyper.perturbed(BATCH))[0].square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    assert hyper.unconstrained.grad is None


def test_activation_penalty_is_the_mean_square():
    assert_close(activation_penalty(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), 2.0), torch.tensor(15.0))


def test_temporal_penalty_is_the_mean_square_change():
    assert_close(temporal_penalty(torch.tensor([[[1.0, 2.0]], [[4.0, 1.0]], [[4.0, 3.0]]]), 2.0), torch.tensor(7.0))


def test_temporal_penalty_of_one_step_is_zero():
    assert temporal_penalty(torch.randn(1, BATCH, WIDTH), 2.0).item() == 0


# What the model is given


@pytest.mark.parametrize("num_hyper", [0, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(STEPS,), (STEPS, BATCH, 1), ()])
def test_tokens_of_another_shape_are_named(num_hyper, training, shape):
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, num_hyper).train(training)
    draw = Hyperparameters(**{f"x{i}": Tuned(0.0, feed="unconstrained") for i in range(num_hyper)}).current()
    with pytest.raises(ValueError, match=r"AWDLSTM takes tokens \(T, B\): found \("):
        model(torch.zeros(shape, dtype=torch.long), None, draw)


def test_batch_first_tokens_are_named():
    hyper = Hyperparameters(**{name: Tuned(rate, (0, 1), feed="unconstrained") for name, rate in RATES.items()})
    with pytest.raises(ValueError, match=rf"ids .*found ids \({BATCH}, {STEPS}\) with h \({BATCH}, 5\)"):
        AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 5)(random_tokens().T, None, hyper.perturbed(BATCH))


def test_as_many_states_as_layers():
    model = AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 0)
    _, state = model(random_tokens(), None, constant_draw())
    for wrong in (state[:1], state * 2):
        with pytest.raises(ValueError, match=f"each of its 2 layers: found {len(wrong)}"):
            model(random_tokens(), wrong, constant_draw())
    with pytest.raises(ValueError, match=r"hidden state \(1, 5, 8\): found \(1, 5, 6\)"):
        model(random_tokens(), state[::-1], constant_draw())


def test_the_model_shows_its_layers():
    shown = repr(AWDLSTM(TYPES, WIDTH, HIDDEN, 2, 3))
    for layer in (
        "(embedding): HyperEmbedding(num_embeddings=17, embedding_dim=6, num_hyper=3)",
        "(0): HyperLSTM(input_size=6, hidden_size=8, num_hyper=3)",
        "(1): HyperLSTM(input_size=8, hidden_size=6, num_hyper=3)",
    ):
        assert layer in shown
