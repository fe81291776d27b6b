"""The golden values: what the authors' released code gives for frozen weights, items and clips (float64)."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model import memory
from model.convae import ConvAE
from Train import train_step
from utils import psnr, regular_score

METHODS = {
    "pred": {"skips": True, "t_length": 5, "weights": (0.1, 0.1)},
    "recon": {"skips": False, "t_length": 1, "weights": (0.01, 0.01)},
}


def golden(method):
    return np.load(Path(__file__).parent / "golden" / f"{method}.npz")


def frozen(method, dtype):
    """The network, items (10, 512) and clips (4, F, 64, 64) that the golden values were made with."""
    net, items, clips = copy.deepcopy(made(method))
    return net.to(dtype), items.to(dtype), clips.to(dtype)


@cache
def made(method):
    """The same in float32, for `frozen` to copy: drawing so many weights takes a second."""
    setup = METHODS[method]
    net = ConvAE(t_length=setup["t_length"], skips=setup["skips"])
    with torch.no_grad():
        convs = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        assert (len(convs), len(norms)) == (20, 18)
        for i, conv in enumerate(convs):
            shape = tuple(conv.weight.shape)
            scale = np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
            weight, bias = (
                np.random.RandomState(1000 + i).randn(*shape),
                np.random.RandomState(2000 + i).randn(len(conv.bias)),
            )
            conv.weight.copy_(torch.from_numpy((weight * scale).astype(np.float32)))
            conv.bias.copy_(torch.from_numpy((bias * 0.01).astype(np.float32)))
        for j, norm in enumerate(norms):
            norm.weight.copy_(torch.from_numpy(1 + 0.1 * np.random.RandomState(3000 + j).randn(len(norm.weight))))
            norm.bias.copy_(torch.from_numpy(0.1 * np.random.RandomState(4000 + j).randn(len(norm.bias))))
    items = np.random.RandomState(6000).rand(10, 512)
    items = (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(np.float32)
    clips = np.random.RandomState(5000).uniform(-1, 1, (4, 3 * setup["t_length"], 64, 64)).astype(np.float32)
    clips = clips.reshape(4, -1, 16, 4, 16, 4).mean(axis=(3, 5), keepdims=True)
    clips = np.clip(np.broadcast_to(clips, (4, 3 * setup["t_length"], 16, 4, 16, 4)).reshape(4, -1, 64, 64) * 3, -1, 1)
    return net, torch.from_numpy(items), torch.from_numpy(np.ascontiguousarray(clips))


def close(actual, expected, tolerance):
    actual = actual.detach().double().numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_trainable_values(method):
    net, _, _ = frozen(method, torch.float32)
    count = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert (
        count
        == {"pred": 15_650_819, "recon": 17_195_267}[method]
        == golden(method)["parameters_without_dead_batchnorm"]
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("method", METHODS)
def test_eval_values(method, dtype, tolerance):
    gold = golden(method)
    net, items, clips = frozen(method, dtype)
    net.eval()
    for k in (0, 1):
        frames, target = net.split(clips[k : k + 1])
        with torch.no_grad():
            output = net(frames, items)
        queries = output.queries.flatten(0, 2)
        predicted, target = (output.frame[0] + 1) / 2, (target[0] + 1) / 2
        close(output.frame[0], gold[f"eval{k}_frame"], tolerance)
        close(output.queries[0], gold[f"eval{k}_query"], tolerance)
        close(memory.matching_probability(queries, items), gold[f"eval{k}_matching_prob"], tolerance)
        close(memory.similarity(queries, items).softmax(dim=-2), gold[f"eval{k}_update_weight"], tolerance)
        close(memory.update(queries, items), gold[f"eval{k}_updated_items"], tolerance)
        close(output.compactness, gold[f"eval{k}_compactness"], tolerance)
        close(psnr(predicted, target), gold[f"eval{k}_psnr"], tolerance)
        close(regular_score(predicted, target), gold[f"eval{k}_regular_score"], tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_five_training_steps_in_float64(method):
    gold = golden(method)
    net, items, clips = frozen(method, torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    losses = []
    for step, first in enumerate((0, 2, 0, 2, 0)):
        found = train_step(net, items, net.split(clips[first : first + 2]), optimizer, METHODS[method]["weights"])
        items = found.items
        losses.append(found.losses.tolist())
        if step == 0:
            close(found.output.frame, gold["train0_frame"], 1e-6)
            close(items, gold["train0_items"], 1e-6)
    np.testing.assert_allclose(losses, gold["train_losses"], rtol=1e-9)
    close(items, gold["train_items"], 1e-6)
    net.eval()
    with torch.no_grad():
        output = net(net.split(clips[:1])[0], items)
    close(output.frame[0], gold["after_frame"], 1e-6)
    close(output.compactness, gold["after_compactness"], 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_first_training_step_in_float32(method):
    gold = golden(method)
    net, items, clips = frozen(method, torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    found = train_step(net, items, net.split(clips[:2]), optimizer, METHODS[method]["weights"])
    close(found.output.frame, gold["train0_frame"], 1e-3)
    close(found.items, gold["train0_items"], 1e-5)
