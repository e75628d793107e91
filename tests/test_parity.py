"""The same model in transformers: folders open on both sides, and logits, losses and every gradient
are equal.
"""

import contextlib
import json
import logging
import warnings

import numpy as np
import pytest
from helpers import assert_close, random_gpt

import minimixce as mm

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", autouse=True)
def libraries():
    """Imported when the first test runs, so that a run which deselects these tests does not wait
    for PyTorch.
    """
    global torch, transformers
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")


SHAPES = [  # vocab_size, block_size, n_layer, n_head, n_embd
    pytest.param((5, 1, 1, 1, 1), id="smallest"),
    pytest.param((13, 7, 3, 2, 10), id="odd"),
    pytest.param((50, 16, 2, 4, 32), id="larger"),
]


@contextlib.contextmanager
def no_warnings():
    """Neither Python's warnings nor anything that transformers logs from level WARNING up."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
    finally:
        logger.removeHandler(handler)
    assert said == []
    assert [str(w.message) for w in warned] == []


def their_model(shape, seed=0):
    V, T, L, H, C = shape
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=T, n_layer=L, n_head=H, n_embd=C, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3)
    return model


def batch(shape, rows=3):
    V, T, *_ = shape
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, V, (2, rows, T))
    targets[0, 0] = -1
    return tokens, targets


def test_the_alarm_for_warnings_works():
    for warn in (
        lambda: warnings.warn("w", stacklevel=1),
        lambda: logging.getLogger("transformers.x").warning("w"),
    ):
        with pytest.raises(AssertionError), no_warnings():
            warn()


@pytest.mark.parametrize("boundary", [None, 0])
@pytest.mark.parametrize("shape", SHAPES)
def test_they_open_our_folder(tmp_path, shape, boundary):
    ours = random_gpt(1, *shape, dropout=0.2, dtype="float32")
    ours.save(tmp_path / "m", boundary=boundary)
    tokens, _ = batch(shape)
    with no_warnings(), torch.no_grad():
        theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
            tmp_path / "m", output_loading_info=True
        )
        logits = theirs(torch.from_numpy(tokens)).logits
    assert not any(report.values()), report
    assert theirs.dtype == torch.float32
    assert theirs.config.eos_token_id == boundary
    assert theirs.config.attn_pdrop == 0.2
    assert theirs.num_parameters() == ours.num_params
    assert_close(ours.forward(tokens)[0], logits.numpy(), 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_we_open_their_folder(tmp_path, shape):
    theirs = their_model(shape)
    theirs.save_pretrained(tmp_path / "m")
    ours = mm.GPT.load(tmp_path / "m", device="cpu")
    assert (ours.config.dtype, ours.config.dropout) == ("float32", 0.1)
    tokens, _ = batch(shape)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(tokens)).logits.numpy()
    assert_close(ours.forward(tokens)[0], logits, 1e-5)


@pytest.mark.parametrize("max_shard_size", ["1GB", "2KB"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_we_open_every_dtype_and_shards(tmp_path, dtype, max_shard_size):
    theirs = their_model((13, 7, 2, 2, 8)).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / "m", max_shard_size=max_shard_size)
    assert (len(list((tmp_path / "m").glob("*.safetensors"))) > 1) == (max_shard_size == "2KB")
    ours = mm.GPT.load(tmp_path / "m", device="cpu")
    kept = "float64" if dtype == "float64" else "float32"
    assert ours.config.dtype == kept
    expected = dict(theirs.named_parameters())
    assert {f"transformer.{name}" for name in ours.params} == set(expected)
    for name, p in ours.params.items():
        assert p.dtype == kept
        np.testing.assert_array_equal(
            p, expected[f"transformer.{name}"].detach().to(getattr(torch, kept)).numpy()
        )


def test_we_open_a_folder_of_the_model_without_its_head(tmp_path):
    theirs = their_model((13, 7, 2, 2, 8))
    theirs.transformer.save_pretrained(tmp_path / "m")
    ours = mm.GPT.load(tmp_path / "m", device="cpu")
    for name, p in theirs.transformer.named_parameters():
        np.testing.assert_array_equal(ours.params[name], p.detach().numpy())


def test_a_model_goes_there_and_back_bit_for_bit(tmp_path):
    ours = random_gpt(dtype="float32", dropout=0.2)
    ours.save(tmp_path / "ours", boundary=0)
    with no_warnings():
        transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").save_pretrained(
            tmp_path / "theirs"
        )
    back = mm.GPT.load(tmp_path / "theirs", device="cpu")
    assert back.config == ours.config
    for name, p in ours.params.items():
        np.testing.assert_array_equal(back.params[name], p)


@pytest.mark.parametrize(
    "change",
    [
        {"activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"n_inner": 12},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_what_gpt_does_not_compute_is_refused(tmp_path, change):
    their_model((5, 4, 1, 1, 4)).save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"{next(iter(change))}.*not supported"):
        mm.GPT.load(tmp_path / "m", device="cpu")


# ---- losses and gradients ------------------------------------------------------------------------


def weighted(f):
    """The mean over targets of f(log q), as a function of torch's log-probabilities (…,V) and
    targets.
    """

    def loss(log_probs, targets, _):
        kept = targets >= 0
        log_q = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return f(log_q[kept]).sum() / kept.sum()

    return loss


def their_emo(log_probs, targets, cost_embedding):
    kept = targets >= 0
    log_probs, targets = log_probs[kept], targets[kept]
    unit = torch.nn.functional.normalize(cost_embedding, dim=-1)
    cost = 1 - unit[targets] @ unit.T
    cost.scatter_(-1, targets[:, None], 0)
    d = (log_probs.exp() * cost).sum(-1)
    nll = -log_probs.gather(-1, targets[:, None])[:, 0]
    ratio = torch.where(d > 0, nll / d, 0).detach()
    return 0.5 * (nll + ratio * d).mean()


OBJECTIVES = {
    "mle": (mm.objectives.mle, {}, weighted(lambda log_q: -log_q)),
    **{
        f"mixce {eta}": (
            mm.objectives.mixce,
            {"eta": eta},
            weighted(lambda log_q, eta=eta: -eta * log_q - (1 - eta) * log_q.exp()),
        )
        for eta in (0.0, 0.1, 0.5, 1.0)
    },
    "mixce_surrogate": (
        mm.objectives.mixce_surrogate,
        {"eta": 0.1},
        weighted(lambda log_q: -(0.1 + 0.9 * log_q.exp().detach()) * log_q),
    ),
    **{
        f"tailr {gamma}": (
            mm.objectives.tailr,
            {"gamma": gamma},
            weighted(
                lambda log_q, gamma=gamma: -(gamma + (1 - gamma) * log_q.exp()).log() / (1 - gamma)
            ),
        )
        for gamma in (0.0, 0.1, 0.7)
    },
    "tailr 1": (mm.objectives.tailr, {"gamma": 1.0}, weighted(lambda log_q: 1 - log_q.exp())),
    "emo": (mm.objectives.emo, None, their_emo),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_every_gradient_equal_torchs(tmp_path, name):
    shape = (13, 7, 3, 2, 10)
    objective, options, their_loss = OBJECTIVES[name]
    ours = random_gpt(2, *shape)
    ours.save(tmp_path / "m")
    tokens, targets = batch(shape)
    with no_warnings():
        theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "m", dtype=torch.float64)
        log_probs = theirs(torch.from_numpy(tokens)).logits.log_softmax(-1)
    embedding = theirs.transformer.wte.weight.detach()
    their_value = their_loss(log_probs, torch.from_numpy(targets), embedding)
    their_value.backward()

    logits, cache = ours.forward(tokens)
    options = {"cost_embedding": ours.params["wte.weight"]} if options is None else options
    loss, dlogits = objective(logits, targets, **options)
    grads = ours.backward(dlogits, cache)
    assert_close(loss, their_value.item(), 1e-9, "loss")
    expected = {name: p.grad.numpy() for name, p in theirs.transformer.named_parameters()}
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        assert_close(gradient, expected[name], 1e-9, name)
