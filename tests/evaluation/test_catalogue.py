"""The catalogue: every entry builds, names are unique, errors name the nearest."""

from __future__ import annotations

import pytest

from wassertight.evaluation import Method, attack_methods, certificate_methods, find_method
from wassertight.threats import threat
from wassertight.transport.flow_noise import GaussianFlow
from wassertight.types import InputError, ThreatError

ALL = (*attack_methods(), *certificate_methods())


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.name)
def test_entry_builds_and_is_documented(method: Method) -> None:
    built = method.build({"noise": GaussianFlow(sigma=0.01)} if method.smoothed else None)
    assert callable(built)
    assert method.description
    assert method.reference
    assert find_method(method.kind, method.name) is method


def test_names_are_unique() -> None:
    assert len({(method.kind, method.name) for method in ALL}) == len(ALL)


def test_errors_teach() -> None:
    with pytest.raises(InputError, match="did you mean 'w-pgd'"):
        find_method("attack", "wpgd")
    with pytest.raises(InputError, match="it has"):
        find_method("attack", "wda++").build({"nothing": 1})
    with pytest.raises(ThreatError, match="L1, L2, Linf"):
        find_method("attack", "wda++").check(threat("W1-L3@0.5"))
