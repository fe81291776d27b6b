"""Invariants of the memory and the network, for any weights."""

import pytest
import torch
import torch.nn.functional as F
from small import shrink

from exp.device import fold_batch_norms, place
from model import memory
from model.convae import ConvAE


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def update_literally(queries, items):
    """The update of METHOD as a loop over items, (K, C) and (M, C)."""
    s = queries @ items.T
    v = torch.softmax(s, dim=0)
    new = items.clone()
    for m in range(len(items)):
        mine = [k for k in range(len(queries)) if s[k].argmax() == m]
        if mine:
            weighted = sum(v[k, m] / v[:, m].max() * queries[k] for k in mine)
            new[m] = F.normalize(items[m] + weighted, dim=0)
    return new


@pytest.mark.parametrize(("k", "m"), [(1, 2), (7, 10), (64, 10), (50, 3)])
def test_update_equals_a_loop_over_the_items(k, m):
    queries, items = unit(k, 16), unit(m, 16, seed=1)
    torch.testing.assert_close(memory.update(queries, items), update_literally(queries, items), rtol=0, atol=1e-12)


def test_updated_items_are_unit_vectors_and_an_item_nobody_chose_stays_to_the_bit():
    queries = F.normalize(unit(30, 8).abs(), dim=-1)  # all in the positive octant, far from the last item
    items = torch.cat(
        (F.normalize(unit(3, 8, seed=1).abs(), dim=-1), -torch.full((1, 8), 8**-0.5, dtype=torch.float64))
    )
    new = memory.update(queries, items)
    torch.testing.assert_close(new.norm(dim=-1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(new[3], items[3])
    assert not torch.equal(new[:3], items[:3])


def test_leading_dimensions_are_independent_memories():
    queries, items = unit(4, 20, 16), unit(4, 10, 16, seed=1)
    for function in (memory.read, memory.update, memory.compactness, memory.separateness, memory.matching_probability):
        together = function(queries, items)
        for b in range(4):
            torch.testing.assert_close(together[b], function(queries[b], items[b]), rtol=0, atol=1e-12)


def test_compactness_and_separateness_by_hand():
    queries = torch.tensor([[1.0, 0.0]])
    items = torch.tensor([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    assert memory.nearest(queries, items, count=2).tolist() == [[1, 0]]
    assert memory.compactness(queries, items).item() == pytest.approx((0.4**2 + 0.8**2) / 2)
    expected = 1 + 0.8**0.5 - 2**0.5  # margin + |q - nearest| - |q - second|
    assert memory.separateness(queries, items).item() == pytest.approx(expected, abs=1e-5)


def test_the_distance_of_each_query_is_that_to_its_nearest_item():
    q, m = unit(30, 16), unit(5, 16, seed=1)
    found = memory.distance_map(q, m)
    torch.testing.assert_close(found, (q - m[(q @ m.T).argmax(1)]).square().mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.mean(), memory.compactness(q, m), rtol=0, atol=1e-12)


def test_initial_items_are_unit_vectors_and_follow_the_seed():
    torch.manual_seed(3)
    first = memory.initial_items(20, 64)
    torch.manual_seed(3)
    assert torch.equal(first, memory.initial_items(20, 64))
    assert (first > 0).all()
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(20))


@pytest.mark.parametrize("skips", [True, False])
def test_gradients_reach_the_encoder_and_never_the_items(skips):
    torch.manual_seed(0)
    model = ConvAE(feature_dim=16, skips=skips)
    items = memory.initial_items(4, 16).requires_grad_()
    output = model(torch.randn(2, model.inputs, 16, 16), items)
    (output.frame.square().mean() + output.compactness + output.separateness).backward()
    assert items.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.features[0].parameters())


def test_no_gradient_flows_through_the_matching_probability():
    queries = unit(5, 8).requires_grad_()
    assert not memory.read(queries, unit(3, 8, seed=1)).requires_grad


@pytest.mark.parametrize("skips", [True, False])
def test_a_batch_equals_its_parts_in_eval_mode(skips):
    torch.manual_seed(0)
    model = ConvAE(feature_dim=16, skips=skips).eval()
    frames, items = torch.randn(3, model.inputs, 24, 16), F.normalize(torch.rand(3, 5, 16), dim=-1)
    with torch.no_grad():
        together = model(frames, items)  # one memory a clip
        for b in range(3):
            alone = model(frames[b : b + 1], items[b])
            torch.testing.assert_close(together.frame[b], alone.frame[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(together.compactness[b], alone.compactness, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "items"),
    [({"channels": 1}, 10), ({"t_length": 3}, 10), ({"feature_dim": 256}, 20), ({"channels": 1, "skips": False}, 2)],
)
def test_every_size_is_live(settings, items):
    settings = {"feature_dim": 32, **settings}
    model = ConvAE(**settings).eval()
    frames, target = model.split(torch.randn(1, model.channels * settings.get("t_length", 5), 16, 32))
    with torch.no_grad():
        output = model(frames, memory.initial_items(items, settings["feature_dim"]))
    assert output.frame.shape == target.shape == (1, settings.get("channels", 3), 16, 32)
    assert output.queries.shape == (1, 2, 4, settings["feature_dim"])


def test_sizes_that_are_no_multiple_of_8_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        ConvAE(feature_dim=16)(torch.zeros(1, 12, 20, 16), memory.initial_items(2, 16))


def test_one_item_alone_has_no_second_nearest():
    with pytest.raises(RuntimeError):
        memory.separateness(unit(3, 8), unit(1, 8))


@pytest.mark.parametrize("skips", [True, False])
def test_folded_batch_norms_and_layout_change_nothing(skips):
    torch.manual_seed(0)
    model = ConvAE(feature_dim=16, skips=skips)
    items, frames = memory.initial_items(4, 16), torch.randn(4, model.inputs, 16, 16)
    model.train()(frames, items)  # running statistics that are not 0 and 1
    model.eval()
    with torch.no_grad():
        plain = model(frames, items)
        folded = fold_batch_norms(place(model, torch.device("cpu"), "fp32"))
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        fast = folded(frames, items)
    torch.testing.assert_close(fast.frame, plain.frame, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.queries, plain.queries, rtol=1e-5, atol=1e-5)


def test_bf16_leaves_the_memory_in_float32():
    torch.manual_seed(0)
    model = place(ConvAE(feature_dim=16), torch.device("cpu"), "bf16")
    frames, items = torch.randn(2, 12, 16, 16), memory.initial_items(4, 16)
    output = model(frames, items)
    assert {x.dtype for x in output} == {torch.float32}
    exact = place(model, torch.device("cpu"), "fp32")(frames, items)
    assert not torch.equal(output.frame, exact.frame)  # the convolutions did run in bfloat16
    torch.testing.assert_close(output.queries.norm(dim=-1), torch.ones(2, 2, 2))


def layers(model):
    return [(name, type(layer)) for name, layer in model.named_modules() if not list(layer.children())]


@pytest.mark.parametrize("skips", [True, False])
def test_the_small_network_of_other_tests_has_the_same_layers(skips, monkeypatch):
    whole = ConvAE(skips=skips, feature_dim=16)
    shrink(monkeypatch.setattr)
    small = ConvAE(skips=skips, feature_dim=16)
    assert layers(small) == layers(whole) and type(small.encoder) is not type(whole.encoder)
    assert sum(p.numel() for p in small.parameters()) < 0.1 * sum(p.numel() for p in whole.parameters())
