"""What is measured over an epoch: mean losses, the queries that each item won, the cosines between items."""

import pytest
import torch

from exp.meter import Meter
from utils import InputError

ITEMS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])  # cosines: 0, -0.6 and 0.8


def test_losses_wins_and_cosines_of_two_steps():
    meter = Meter(ITEMS)
    meter.add(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]), ITEMS)
    meter.read()
    meter.add(torch.tensor([3.0, 2.0, 0.0, 8.0]), torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.1, 0.9]]), ITEMS)
    meter.read()
    found = meter.metrics(ITEMS)
    assert [found[name] for name in ("pixel", "compactness", "separateness", "loss")] == [2, 2, 1.5, 6]
    assert found["queries_won"] == [2, 3, 1]
    assert found["item_cosines"] == pytest.approx([-0.6, 0.8])


def test_the_step_whose_loss_is_not_finite_is_named():
    meter = Meter(ITEMS)
    for _ in range(2):
        meter.add(torch.ones(4), ITEMS, ITEMS)
    meter.read()
    for losses in ([1.0, 1.0, 1.0, 1.0], [1.0, torch.nan, 1.0, 1.0]):
        meter.add(torch.tensor(losses), ITEMS, ITEMS)
    with pytest.raises(InputError, match="step 4"):
        meter.read()


def test_without_a_memory_nothing_is_won():
    meter = Meter(torch.zeros(0, 2))
    meter.add(torch.ones(4), torch.ones(3, 2), torch.zeros(0, 2))
    meter.read()
    found = meter.metrics(torch.zeros(0, 2))
    assert (found["queries_won"], found["item_cosines"]) == ([], [])
