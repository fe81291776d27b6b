"""The files of constraints name the packages of requirements.txt, in versions that it allows."""

import re

from helpers import ROOT


def versions(name, sign):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.lower().split(sign) for line in lines if not line.startswith("#"))


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def test_the_oldest_versions_are_the_lower_bounds():
    bounds, oldest = versions("requirements.txt", ">="), versions(".constraints-oldest.txt", "==")
    assert {**oldest, **bounds}.keys() - bounds.keys() == {"pyparsing"}  # a later one warns of what matplotlib 3.8 does
    for name, bound in bounds.items():
        assert numbers(oldest[name])[: len(numbers(bound))] == numbers(bound), name


def test_the_versions_behind_the_numbers_are_allowed():
    bounds, pinned = versions("requirements.txt", ">="), versions(".constraints.txt", "==")
    assert pinned.keys() == bounds.keys()
    assert all(numbers(pinned[name]) >= numbers(bound) for name, bound in bounds.items())
