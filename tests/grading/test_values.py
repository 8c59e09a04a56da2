"""Test values on the wire: each value arrives unchanged, except that subclasses are lost."""

import collections
import datetime
import decimal
import enum
import fractions
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreg.grading.values import Decoder, Encoder, dump

keys = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.fractions())
plain = st.recursive(
    st.one_of(
        keys,
        st.floats(allow_nan=False),
        st.complex_numbers(allow_nan=False),
        st.decimals(allow_nan=False),
        st.binary().map(bytearray),
        st.dates(),
        st.datetimes(),
        st.times(),
        st.timedeltas(),
        st.builds(range, st.integers(), st.integers(), st.integers(1)),
        st.sampled_from([int, list, type(None), collections.Counter]),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(collections.deque),
        st.dictionaries(keys, inner),
        st.dictionaries(keys, inner).map(collections.OrderedDict),
        st.frozensets(keys),
        st.sets(keys),
        st.lists(keys).map(collections.Counter),
    ),
)


def refuse(value):
    raise TypeError(f"{value!r} is not plain")


def there_and_back(value):
    text = dump(Encoder(refuse).encode(value))
    return Decoder(refuse).decode(json.loads(text))


def shape(value):
    """Return the types and the content of a value, so that equal values of other types differ."""
    if isinstance(value, dict):
        return type(value), [(shape(k), shape(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value), [shape(item) for item in value]
    return type(value), value


@given(plain)
def test_plain_values_arrive(value):
    assert shape(there_and_back(value)) == shape(value)


def test_odd_values_arrive():
    for value in (math.inf, -math.inf, -0.0, 10**5000, "\ud800", {1: 2}.keys()):
        assert there_and_back(value) == value
    assert math.copysign(1, there_and_back(-0.0)) == -1
    assert math.isnan(there_and_back(math.nan))


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__
    __add__ = __index__ = __int__ = lambda *_: 99


class Words(list):
    def __iter__(self):
        return iter("lies")


class Color(enum.IntEnum):
    RED = 5


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Liar(3), 3),
        (Words([1, 2]), [1, 2]),
        (Color.RED, 5),
        (Pair(1, 2), (1, 2)),
        (type("F", (float,), {"__abs__": lambda _: 0.0})(2.5), 2.5),
        (type("S", (str,), {"__str__": lambda _: "lie"})("truth"), "truth"),
        (type("D", (dict,), {"items": lambda _: ()})(a=1), {"a": 1}),
    ],
)
def test_subclasses_become_their_base(value, base):
    arrived = there_and_back(value)
    assert type(arrived) is type(base)
    assert arrived == base


def test_cycles_and_shared_containers_arrive():
    loop: list = [1]
    loop.append(loop)
    arrived = there_and_back(loop)
    assert arrived[1] is arrived
    shared = [0]
    first, second = there_and_back((shared, {"x": shared}))
    assert second["x"] is first


@pytest.mark.parametrize(
    "hostile",
    [
        *({}, {"a": 1}, [], ["?"], ["#", 0], ["#", -1], ["l", ["#", 9]], ["i", "x"], ["i"]),
        *(["r", "0x1", "0x2", "0x0"], ["s", ["l"]], ["d", 1], ["d", ["l"], 1], ["T", "eval"]),
        *(
            ["v", "0x1", "0x0"],
            ["m", "x"],
            ["dd", "x"],
            ["f", ["s", 1]],
            [["l"]],
            [None],
            ["B", 256],
        ),
    ],
)
def test_what_no_encoder_writes_is_an_error(hostile):
    with pytest.raises((TypeError, ValueError, LookupError, ArithmeticError)):
        Decoder(lambda value: refuse(value)).decode(hostile)


def test_exact_types_are_kept():
    values = [decimal.Decimal("1.10"), fractions.Fraction(1, 3), datetime.timedelta(1, 2, 3)]
    assert [repr(there_and_back(value)) for value in values] == [repr(value) for value in values]
