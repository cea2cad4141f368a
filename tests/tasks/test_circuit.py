import random

import pytest

from tasks.circuit import Circuit, chain, draw, evaluate, run, topological, tree, uniform, variables


def text(circuit: Circuit, wanted: str) -> str:
    """The circuit as Python source."""
    spelled = [
        [f"v{word}" if word.isdecimal() else word for word in (label, "=", *circuit[label])] for label in circuit
    ]
    return "\n".join([*map(" ".join, spelled), f"print(v{wanted})"])


@pytest.mark.parametrize("wiring", [uniform, chain, tree])
def test_python_agrees_with_the_value_of_every_node(wiring) -> None:
    circuit, wanted, value = draw(random.Random(0), 60, wiring)
    values = evaluate(circuit, topological(circuit))
    assert values[wanted] == value
    assert values == {label: str(run(text(circuit, label))) for label in circuit}
    assert set(values.values()) == {"True", "False"}


@pytest.mark.parametrize("lines", ["import os", "v1 = ().__class__", "v1 = [True]", "v1 = lambda: True", "v1 = v0[0]"])
def test_nothing_but_logic_is_run(lines: str) -> None:
    with pytest.raises(ValueError, match="does not belong in the source of a graph"):
        run(f"{lines}\nprint(v1)")


def test_builtins_are_out_of_reach() -> None:
    with pytest.raises(KeyError, match="open"):
        run("v1 = open\nprint(v1)")


def test_uniform_wiring_takes_one_or_two_distinct_earlier_nodes() -> None:
    operands = list(uniform(random.Random(0), 4_003))
    assert all(len(set(taken)) == len(taken) for taken in operands)
    assert all(min(taken) >= 0 and max(taken) < number for number, taken in enumerate(operands, 3))
    assert sum(len(taken) for taken in operands) == pytest.approx(6_000, abs=150)
    assert sum(max(taken) / number for number, taken in enumerate(operands, 3)) == pytest.approx(2_333, abs=100)


def test_operators_and_negations_are_fair_coins() -> None:
    circuit, _, _ = draw(random.Random(0), 2_003, uniform)
    words = [word for expression in circuit.values() for word in expression]
    gates = [expression for expression in circuit.values() if variables(expression)]
    operands = sum(len(variables(expression)) for expression in gates)
    assert words.count("not") == pytest.approx(operands / 2, abs=150)
    assert words.count("and") == pytest.approx(words.count("or"), abs=150)
    assert words.count("and") + words.count("or") == operands - len(gates)


def test_a_chain_reaches_every_gate_and_a_tree_every_node() -> None:
    for length in (4, 5, 6, 7, 30, 31):
        assert all(number - 1 in taken for number, taken in enumerate(chain(random.Random(0), length), 3))
        taken = [node for operands in tree(random.Random(0), length) for node in operands if node >= 3]
        assert sorted(taken) == list(range(3, length - 1)), "each gate but the last is taken once"


def test_a_tree_is_balanced() -> None:
    depth = [0, 0, 0]
    for operands in tree(random.Random(0), 1_000):
        depth.append(1 + max(depth[node] for node in operands))
    assert max(depth) <= 11
