"""The solver: one call, the whole question, and an error for a second call."""

import pytest

from tools.solver import SOLVE, Solver


def test_it_answers_the_question_once() -> None:
    tool = Solver(lambda prompt: tuple(reversed(prompt)))
    tool.start(("1", "2", "?"))
    assert tool.classify(SOLVE) == "command"
    assert tool.classify("1") is None
    assert tool.feed("1") == ()
    assert tool.allows(SOLVE)
    assert tool.feed(SOLVE) == ("?", "2", "1", "[END]")
    assert not tool.allows(SOLVE)
    assert tool.feed(SOLVE) == ("[ERR]", "[END]")
    assert tool.calls == 2
    tool.start(("3",))
    assert tool.feed(SOLVE) == ("3", "[END]")


def test_an_answer_that_is_no_function_is_refused() -> None:
    with pytest.raises(ValueError, match="solver: answer = 5, must be a function"):
        Solver(5)  # type: ignore[arg-type]
