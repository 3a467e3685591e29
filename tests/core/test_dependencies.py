"""The order of things that depend on one another."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core import ConfigError
from ray_pipeline_core.driver.graph import order_by_dependency


@dataclass
class Node:
    """Equal to every other node of its name, so that only identity tells them apart."""

    name: str
    parents: list[Node] = field(default_factory=list, compare=False)


def order(last: Node) -> list[Node]:
    return order_by_dependency(last, lambda node: node.parents, lambda node: node.name)


def names(last: Node) -> list[str]:
    return [node.name for node in order(last)]


def test_order_of_a_single_node_is_that_node() -> None:
    assert names(Node("a")) == ["a"]


def test_order_of_a_line_has_parents_first() -> None:
    assert names(Node("c", [Node("b", [Node("a")])])) == ["a", "b", "c"]


def test_order_of_a_diamond_has_the_shared_parent_once() -> None:
    top = Node("top")
    found = names(Node("bottom", [Node("left", [top]), Node("right", [top])]))
    assert found == ["top", "left", "right", "bottom"]


def test_parent_given_twice_is_there_once() -> None:
    parent = Node("parent")
    assert names(Node("child", [parent, parent])) == ["parent", "child"]


def test_independent_parents_keep_the_order_in_which_they_are_given() -> None:
    parents = [Node(name) for name in "zyxabc"]
    assert names(Node("last", parents)) == [*"zyxabc", "last"]


def test_equal_nodes_are_two_nodes() -> None:
    first, second = Node("same"), Node("same")
    assert first == second
    found = order(Node("last", [first, second]))
    assert [node is expected for node, expected in zip(found, (first, second), strict=False)] == [True, True]


def test_what_others_need_is_left_out_when_the_last_one_does_not_need_it() -> None:
    shared = Node("shared")
    Node("elsewhere", [shared])
    assert names(Node("last", [shared])) == ["shared", "last"]


def test_long_line_needs_no_recursion() -> None:
    last = Node("0")
    for number in range(1, 5000):
        last = Node(str(number), [last])
    assert names(last) == [str(number) for number in range(5000)]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_circle_is_an_error_that_names_its_members_alone(length: int) -> None:
    circle = [Node(f"member{number}") for number in range(length)]
    for number, node in enumerate(circle):
        node.parents.append(circle[(number + 1) % length])
    last = Node("innocent", [circle[0], Node("bystander")])

    with pytest.raises(ConfigError) as caught:
        order(last)

    message = str(caught.value)
    assert message.startswith("depends=")
    assert all(node.name in message for node in circle)
    assert "innocent" not in message
    assert "bystander" not in message
    assert caught.value.__suppress_context__


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
    )
)
def test_every_order_has_parents_first_and_each_once(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = graph
    nodes = [Node(str(number)) for number in range(count)]
    for one, other in edges:
        if one != other:
            nodes[max(one, other)].parents.append(nodes[min(one, other)])
    last = Node("last", nodes)

    found = [id(node) for node in order(last)]

    assert sorted(found) == sorted(id(node) for node in [*nodes, last])
    place = {key: number for number, key in enumerate(found)}
    assert all(place[id(parent)] < place[id(node)] for node in [*nodes, last] for parent in node.parents)
    assert found[-1] == id(last)
