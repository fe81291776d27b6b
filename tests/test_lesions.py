"""Lesions: each damages one use of the memory, by hand and by the rule of scoring, and leaves the network as it was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from noisy import SCORES, loader, set_up
from sklearn.metrics import roc_auc_score

from data.clips import normalise
from exp.scoring.lesions import LESIONS, parts_auc
from exp.scoring.score import Scoring, batches_of, score, score_one_by_one
from model import memory
from utils import InputError

SCORING = Scoring(10, 0.6)  # every frame updates the memory


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def scored(rule, model, items, clips, batch_size=7):
    parts = list(rule(model, items, batches_of(clips, loader(clips, batch_size)), SCORING))
    return {name: torch.cat([getattr(part, name) for part in parts]).numpy() for name in SCORES}


@pytest.mark.parametrize("name", LESIONS)
def test_both_rules_of_scoring_agree(name):
    model, items, clips = set_up(skips=True)
    damaged = LESIONS[name](model, items)
    expected, actual = scored(score_one_by_one, *damaged, clips), scored(score, *damaged, clips)
    for kind in ("psnr", "distance", "regular"):
        np.testing.assert_allclose(actual[kind], expected[kind], rtol=1e-5, atol=1e-6)


def test_each_lesion_changes_what_it_is_said_to_change_and_never_the_network():
    model, _, clips = set_up(skips=True)
    items = unit(5, 16, seed=3)
    with torch.no_grad():  # batch norms that have seen nothing let nothing through
        for _ in range(20):
            model.train()(model.split(normalise(clips.clips))[0], items)
    model.eval()
    trained = items.clone()
    intact = scored(score, model, items, clips)
    changed = {}
    for name, lesion in LESIONS.items():
        found = scored(score, *lesion(model, items), clips)
        changed[name] = [kind for kind in ("psnr", "distance") if not np.allclose(found[kind], intact[kind], rtol=1e-6)]
    assert changed == {
        "intact": [],
        "random items": ["psnr", "distance"],
        "permuted items": ["psnr", "distance"],
        "one item for all": ["psnr", "distance"],
        "zero read": ["psnr"],
    }
    assert torch.equal(items, trained)
    again = scored(score, model, items, clips)
    assert all(np.array_equal(again[name], intact[name]) for name in SCORES)


def test_permuted_items_by_hand():
    model, _, _ = set_up(skips=True)
    queries, items = unit(2, 6, 16, seed=1), unit(2, 5, 16, seed=2)
    damaged, _ = LESIONS["permuted items"](model, items[0])
    read, distance = damaged.read(queries, items), damaged.distance(queries, items)
    for b in range(2):
        weights = memory.matching_probability(queries[b], items[b])
        wanted = sum(weights[:, [m]] * items[b, (m + 1) % 5] for m in range(5))
        torch.testing.assert_close(read[b], wanted)
        far = [(queries[b, k] - items[b, (int(weights[k].argmax()) + 1) % 5]).square().mean() for k in range(6)]
        torch.testing.assert_close(distance[b], torch.stack(far).mean())


def test_one_item_for_all_is_a_memory_of_one_item():
    model, _, _ = set_up(skips=True)
    queries, items = unit(2, 6, 16, seed=1), unit(2, 5, 16, seed=2)
    damaged, _ = LESIONS["one item for all"](model, items[0])
    one = F.normalize(items.mean(dim=1, keepdim=True), dim=-1)
    torch.testing.assert_close(damaged.read(queries, items), memory.read(queries, one))
    torch.testing.assert_close(damaged.distance(queries, items), memory.compactness(queries, one))


def test_random_items_are_unit_vectors_and_always_the_same():
    model, items, _ = set_up(skips=True)
    same, drawn = LESIONS["random items"](model, items)
    assert same is model
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(len(items)))
    assert not torch.allclose(drawn, items)
    assert torch.equal(drawn, LESIONS["random items"](model, items)[1])


def test_without_a_memory_there_is_nothing_to_damage():
    model, items, _ = set_up(skips=True, msize=0)
    for name, lesion in LESIONS.items():
        if name != "intact":
            with pytest.raises(InputError, match="--msize 0"):
                lesion(model, items)


def test_each_part_of_the_score_has_its_auc():
    from drawn import evaluation

    found = evaluation([30, 40])
    parts = parts_auc(found, SCORING)
    assert parts.both == pytest.approx(found.metrics.auc)
    assert parts.psnr == pytest.approx(parts.distance)  # D is a falling line of P there
    assert parts_auc(evaluation([30], labelled=False), SCORING) == (None, None, None)


def test_parts_that_tell_different_things_have_different_aucs():
    from drawn import evaluation

    found, rng = evaluation([30, 40]), np.random.default_rng(1)
    noisy = [0.001 + 0.0002 * (rng.normal(size=len(y)) + y) for y in found.labels]
    p, d = ([(x - x.min()) / (x.max() - x.min()) for x in values] for values in (found.psnr, noisy))
    both = [0.4 * far - 0.6 * well for well, far in zip(p, d, strict=True)]
    y = np.concatenate(found.labels)
    expected = [roc_auc_score(y, np.concatenate(values)) for values in ([-well for well in p], d, both)]
    assert parts_auc(found._replace(distance=noisy), SCORING) == pytest.approx(expected)
    assert len(set(expected)) == 3
