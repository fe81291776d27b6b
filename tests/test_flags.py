"""The values of flags that are not given: those of the paper, for each method and data set."""

import pytest

import Train
from exp.flags import defaults

METHODS = {
    "pred": {"t_length": 5, "lr": 2e-4, "loss_compact": 0.1, "loss_separate": 0.1, "alpha": 0.6, "th": 0.01},
    "recon": {"t_length": 1, "lr": 2e-5, "loss_compact": 0.01, "loss_separate": 0.01, "alpha": 0.7, "th": 0.015},
}
DATA_SETS = {
    "ped2": {"epochs": 60, "h": 256, "w": 256, "fps": 10},
    "avenue": {"epochs": 60, "h": 256, "w": 256, "fps": 25},
    "shanghai": {"epochs": 10, "h": 256, "w": 256, "fps": 24},
    "synthetic": {"epochs": 4, "h": 64, "w": 64, "fps": 10},
    "own": {"epochs": 60, "h": 256, "w": 256, "fps": 25},
}
ALL = {"c": 3, "msize": 10, "fdim": 512}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data_set", DATA_SETS)
def test_the_defaults_of_each_method_and_data_set(method, data_set):
    expected = {**ALL, **METHODS[method], **DATA_SETS[data_set]}
    assert defaults(method, data_set) == expected
    args = vars(Train.parse(["--method", method, "--dataset_type", data_set]))
    trained_with = expected.keys() - {"alpha", "th", "fps"}
    assert {name: args[name] for name in trained_with} == {name: expected[name] for name in trained_with}
    assert args["batch_size"] == 4


def test_a_flag_that_is_given_counts_and_without_any_the_synthetic_data_set_is_predicted():
    args = Train.parse(["--dataset_type", "shanghai", "--epochs", "7", "--lr", "0.5"])
    assert (args.epochs, args.lr, args.t_length) == (7, 0.5, 5)
    args = Train.parse([])
    assert (args.method, args.dataset_type, args.epochs, args.h) == ("pred", "synthetic", 4, 64)
