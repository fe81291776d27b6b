"""A guard that needs no GPU: the training step and the scoring pass, traced on a CUDA device that is not there.

Fake tensors know their device and shape but hold no values. An operation on tensors of two devices fails; so does all
that makes the CPU wait for a value: .item(), .cpu(), nonzero, bincount, the truth of a tensor. The backward pass is
left out: it needs a real device.
"""

import pytest
import torch

import Train
from data.clips import normalise
from exp.scoring.score import Place, Scoring, score
from model import memory
from model.convae import ConvAE

try:
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        made = torch.nn.Linear(2, 2)  # PyTorch 2.6 asks the driver when it draws the weights
        WORKS = made.weight.device.type == "cuda" and torch.version.cuda is not None
except Exception:  # whatever a private interface does in another version
    WORKS = False
pytestmark = pytest.mark.skipif(not WORKS, reason="this PyTorch has no CUDA, or no fake tensors as they were")
WAITS = (DataDependentOutputException, DynamicOutputShapeException) if WORKS else ()


@pytest.fixture
def fake():
    """On a fake GPU: a network, its items, and two clips as they lie on the device."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model, items = ConvAE(feature_dim=16), memory.initial_items(4, 16)
            clips = torch.zeros(2, 15, 16, 16, dtype=torch.uint8)
        yield model, items, clips


@pytest.fixture
def no_backward(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)


def step(model, items, clips):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=False, capturable=True)
    optimizer.zero_grad = lambda: None
    return Train.train_step(model, items, model.split(normalise(clips)), optimizer, (0.1, 0.1))


def test_a_training_step_never_waits_and_stays_on_the_gpu(fake, no_backward):
    model, items, clips = fake
    found = step(model.train(), items, clips)
    assert {found.items.device.type, found.losses.device.type, found.output.frame.device.type} == {"cuda"}
    meter = Train.Meter(items)
    meter.add(found.losses, found.output.queries.flatten(0, 2), items)
    assert meter.wins.device.type == "cuda"


def test_the_guard_sees_a_wait_and_a_tensor_elsewhere(fake, no_backward, monkeypatch):
    model, items, clips = fake
    nearest = memory.nearest
    with monkeypatch.context() as patch:
        patch.setattr(memory, "nearest", lambda *inputs: nearest(*inputs) + int(nearest(*inputs).sum().item() * 0))
        with pytest.raises(WAITS):
            step(model.train(), items, clips)
    with pytest.raises(RuntimeError, match="device"):
        step(model.train(), torch.zeros(4, 16, device="cpu"), clips)


def test_scoring_waits_for_decisions_alone(fake, monkeypatch):
    model, items, clips = fake
    monkeypatch.setattr("exp.scoring.score._accepted", lambda updated, guess: (len(updated), False))
    batches = [(clips, [Place(0, 4), Place(0, 5)]), (clips, [Place(1, 4), Place(1, 5)])]
    with torch.no_grad():
        found = list(score.__wrapped__(model.eval(), items, batches, Scoring(0.01, 0.6, reset_memory=True)))
    assert sum(len(part.places) for part in found) == 4
    for part in found:
        tensors = [value for value in part if isinstance(value, torch.Tensor)]
        assert len(tensors) == len(part) - 1 and {value.device.type for value in tensors} == {"cuda"}
