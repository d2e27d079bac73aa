"""Running the user's code: errors that name the line, arguments that have names, generators that are put back."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch

from gradvitals.frameworks.user_code import HostRandomState, argument_names, positionals, user_code
from gradvitals.vocabulary.errors import InputError, ModelError


def broken():
    raise ValueError("no such weight")


def test_an_exception_comes_back_with_the_line_that_raised_it():
    with pytest.raises(ModelError) as caught, user_code("net()"):
        broken()
    error = caught.value
    line = broken.__code__.co_firstlineno + 1
    assert error.what == "net() raised ValueError"
    assert f"{__file__}:{line} in broken: no such weight" in error.where
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), InputError("a", "b", "c")])
def test_interrupts_and_our_own_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, user_code("net()"):
        raise error
    assert caught.value is error


def test_generators_are_put_back():
    state = HostRandomState.capture()
    first = (np.random.rand(3), random.random(), np.random.randn())  # noqa: S311 - not a secret
    state.restore()
    again = (np.random.rand(3), random.random(), np.random.randn())  # noqa: S311
    assert (first[0] == again[0]).all()
    assert first[1:] == again[1:]


class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x * weight


class New(torch.autograd.Function):
    @staticmethod
    def forward(x, weight):
        return x * weight

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


class Layer:
    def forward(self, x, weight):
        return x * weight

    def __call__(self, x, weight):
        return x * weight


def plain(x, weight, *rest, bias=None):
    return x


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plain, ["x", "weight"]),
        (Old.apply, ["x", "weight"]),
        (New.apply, ["x", "weight"]),
        (Layer().forward, ["x", "weight"]),
        (Layer(), ["x", "weight"]),
        (functools.partial(plain, bias=1), ["x", "weight"]),
        (functools.partial(plain, 1), ["weight", "rest[0]"]),
        (functools.wraps(plain)(lambda *args: None), ["x", "weight"]),
        (lambda *arrays: None, ["arrays[0]", "arrays[1]"]),
        (torch.relu, ["input0", "input1"]),
        (np.multiply, ["input0", "input1"]),
    ],
)
def test_arguments_are_named_as_the_function_names_them(function, expected):
    names, _ = argument_names(function, (1, 2), {})
    if function is np.multiply:  # newer versions of NumPy tell their signature
        assert len(set(names)) == 2
    else:
        assert names == expected


def test_what_comes_after_the_named_arguments_is_numbered():
    assert argument_names(plain, (1, 2, 3, 4), {})[0] == ["x", "weight", "rest[0]", "rest[1]"]


def test_keywords_keep_their_names():
    assert argument_names(plain, (1,), {"bias": 2, "weight": 3})[1] == {"bias": "bias", "weight": "weight"}


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda dout: dout, 1),
        (lambda dout, cache: dout, 2),
        (lambda dout, cache=None: dout, 1),
        (lambda *, dout: dout, 0),
        (Layer().forward, 2),
        (Layer(), 2),
    ],
)
def test_required_positionals_are_counted(function, count):
    assert positionals(function)[0] == count


def test_optional_positionals_are_taken_but_not_needed():
    assert positionals(lambda dout, cache=None: dout) == (1, 2)
    needed, taken = positionals(lambda *args: args)
    assert needed == 0
    assert taken >= 2


def test_where_no_signature_can_be_read_one_positional_is_assumed():
    assert positionals(torch.relu) == (1, 1)
