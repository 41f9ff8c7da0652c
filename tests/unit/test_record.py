"""`hutch.record`: what dataclasses would give."""

from __future__ import annotations

import pickle

import pytest

from hutch.record import Record


class Point(Record):
    x: int
    y: int = 0


class Solid(Point):
    z: int = 7
    tags: tuple[str, ...] = ()


class Renamed(Point):
    y: int = 5


def test_fields_and_defaults():
    p = Point(x=1)
    assert (p.x, p.y) == (1, 0)
    assert Point._fields == ("x", "y")
    assert Solid._fields == ("x", "y", "z", "tags")
    assert Solid(x=1, z=2).as_dict() == {"x": 1, "y": 0, "z": 2, "tags": ()}
    assert Renamed(x=1).y == 5 and Renamed._fields == ("x", "y")
    assert list(Solid(tags=("a",), x=1).as_dict()) == ["x", "y", "z", "tags"], "the order of definition, not of the call"


@pytest.mark.parametrize("values", [{}, {"y": 1}, {"x": 1, "w": 2}, {"x": 1, "y": 2, "z": 3}])
def test_missing_and_unknown(values):
    with pytest.raises(TypeError, match="missing|unknown"):
        Point(**values)


def test_error_names_the_fields():
    with pytest.raises(TypeError) as caught:
        Point(w=1)
    assert str(caught.value) == "Point: missing ['x'], unknown ['w']"


def test_frozen():
    p = Point(x=1)
    for change in (lambda: setattr(p, "x", 2), lambda: setattr(p, "new", 2), lambda: delattr(p, "x")):
        with pytest.raises(AttributeError, match="Point is frozen"):
            change()
    assert p == Point(x=1)


def test_equality_and_hash():
    assert Point(x=1) == Point(x=1, y=0)
    assert Point(x=1) != Point(x=2)
    assert hash(Point(x=1, y=2)) == hash(Point(y=2, x=1))
    assert Point(x=1, y=5) != Renamed(x=1), "another class is another thing"
    assert len({Point(x=1), Point(x=1), Solid(x=1)}) == 2
    assert Point(x=1) != (1, 0)


def test_repr_leaves_defaults_out():
    assert repr(Solid(x=1, tags=("a",))) == "Solid(x=1, tags=('a',))"
    assert eval(repr(Solid(x=1, tags=("a",)))) == Solid(x=1, tags=("a",))


def test_replace():
    s = Solid(x=1)
    assert s.replace(z=9) == Solid(x=1, z=9) and s.z == 7
    with pytest.raises(TypeError):
        s.replace(w=1)


def test_copies():
    assert pickle.loads(pickle.dumps(Solid(x=3))) == Solid(x=3)
