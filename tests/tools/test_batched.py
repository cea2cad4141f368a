"""Tools of a whole batch against those on the host, on random command streams, and what they know without asking."""

import random

import pytest
import torch

from tools.base import ASK, END
from tools.batched import ASKS, NOTHING, Asking, batched
from tools.calculator import Calculator
from tools.corrupted import Corrupted
from tools.none import Imagined, NoTool
from tools.pointer import PointerMemory
from tools.pointer_batched import BatchedPointerMemory
from tools.pointer_batched import feed as feed_pointers
from tools.search import SearchMemory
from tools.solver import Solver
from tools.tape import Tape
from tools.tape_batched import BatchedTape
from tools.tape_batched import feed as feed_tapes

torch.set_num_threads(1)

WORDS = ["[PAD]", "^", "a", "b", "="]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ids_of(tool):
    return {token: number for number, token in enumerate(dict.fromkeys([*tool.vocabulary(), *reversed(WORDS)]))}


def kernel(name):
    pytest.importorskip("triton", reason="Triton is not installed")
    from tools import triton_tools

    return getattr(triton_tools, name)


def pointers(capacity, count=2):
    return lambda: PointerMemory(count, capacity)


FEEDS = {"torch": (feed_pointers, feed_tapes), "triton": ("feed_pointers", "feed_tapes")}


def compared(make, rows, steps, rng, by="torch", length=None, words=0.2):
    """Feed rows of tools and their twin the same random streams; replies and states must be the same all the way.

    Rows begin at different times, take a token in some steps only, and begin again in the middle.
    """
    tools, ids = [make() for _ in range(rows)], ids_of(make())
    twin = batched(tools[0], ids, rows, length or steps + 30, DEVICE)
    feed = FEEDS[by][isinstance(twin, BatchedTape)]
    twin._feed = kernel(feed) if isinstance(feed, str) else feed
    commands = [token for token in make().vocabulary() if token != END]
    tokens = [*commands, END, *WORDS]
    weights = [(1 - words) / len(commands)] * len(commands) + [words / (len(WORDS) + 1)] * (len(WORDS) + 1)

    def begin(which):
        for row in which:
            tools[row].start(["^", *rng.choices(WORDS, k=rng.randrange(8))])
        twin.load(torch.tensor(which, device=DEVICE), [tools[row] for row in which])

    begin(list(range(rows)))
    said = torch.full((rows,), NOTHING, device=DEVICE)
    held = rng.choices(tokens, weights, k=rows)
    for step in range(steps):
        fresh = rng.choices(tokens, weights, k=rows)  # held tokens make long walks
        held = [old if old in commands and rng.random() < 0.6 else new for old, new in zip(held, fresh)]
        active = [rng.random() < 0.9 for _ in range(rows)]
        twin.feed(
            torch.tensor([ids[token] for token in held], device=DEVICE), torch.tensor(active, device=DEVICE), said
        )
        heard = said.tolist()
        for row in range(rows):
            if active[row]:
                reply = tools[row].feed(held[row])
                assert heard[row] == (ids[reply[0]] if reply else NOTHING)
        if step % 50 == 49:
            same_state(twin, tools, ids)
            begin(rng.sample(range(rows), rows // 3))
    same_state(twin, tools, ids)


def same_state(twin, tools, ids):
    for row, tool in enumerate(tools):
        if isinstance(twin, BatchedTape):
            assert int(twin.head[row]) == twin.origin + tool.head
            assert bool(twin.writing[row]) == tool.writing
            cells = {at - twin.origin: value for at, value in enumerate(twin.cells[row].tolist()) if value != ids[END]}
            assert cells == {cell: ids[token] for cell, token in tool.cells.items()}
        else:
            shown = tool.snapshot()
            assert twin.memory[row, : twin.length[row]].tolist() == [ids[token] for token in shown.memory]
            assert twin.positions[row].tolist() == list(shown.pointers.values())


MACHINES = [pointers(4, 1), pointers(9), pointers(None), pointers(12, 7), Tape]
NAMES = ["1 pointer", "2 pointers", "2 pointers without end", "7 pointers", "tape"]


@pytest.mark.parametrize("by", ["torch", "triton"])
@pytest.mark.parametrize("make", MACHINES, ids=NAMES)
def test_a_twin_does_what_its_tool_does(make, by):
    for seed in range(2):
        compared(make, 9, 160, random.Random(seed), by)


@pytest.mark.parametrize("make", [pointers(300), Tape], ids=["pointer", "tape"])
def test_a_million_tokens(make):
    compared(make, 1000, 1115, random.Random(1), "torch", words=0.3)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [pointers(300), Tape], ids=["pointer", "tape"])
def test_a_million_tokens_on_a_gpu(make):
    compared(make, 1000, 1115, random.Random(2), "triton", words=0.3)


@pytest.mark.parametrize("make", [pointers(9), Tape], ids=["pointer", "tape"])
def test_feeding_writes_in_place_and_looks_at_no_value(make):
    """On the meta device any look at a value raises, as waiting for a GPU would."""
    tool = make()
    for device in ("cpu", "meta"):
        twin = batched(tool, ids_of(tool), 4, 8, device)
        places = [value.data_ptr() for value in vars(twin).values() if isinstance(value, torch.Tensor)]
        tokens, said = (
            torch.zeros(4, dtype=torch.int64, device=device),
            torch.zeros(4, dtype=torch.int64, device=device),
        )
        twin.feed(tokens, torch.ones(4, dtype=torch.bool, device=device), said)
        assert places == [value.data_ptr() for value in vars(twin).values() if isinstance(value, torch.Tensor)]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"lacks L3 R3 r3"):
        BatchedPointerMemory(ids_of(PointerMemory(2)), 4, capacity=8, pointers=3)
    with pytest.raises(ValueError, match="at least 1"):
        BatchedPointerMemory(ids_of(PointerMemory(2)), 0, capacity=8)
    with pytest.raises(ValueError, match=r"lacks \[READ\]"):
        BatchedTape(ids_of(PointerMemory(2)), 4, 8)
    with pytest.raises(ValueError, match="at least 1"):
        BatchedTape(ids_of(Tape()), 4, 0)
    far = Tape()
    far.start(["a"] * 9)
    with pytest.raises(ValueError, match="cell 5 is written, at most 4"):
        BatchedTape(ids_of(far), 1, 4).load(torch.tensor([0]), [far])


def corrupted():
    return Corrupted(PointerMemory(), 0.5, "seed", WORDS)


HOSTED = [Calculator, Solver, SearchMemory, PointerMemory, Tape, NoTool, corrupted]


@pytest.mark.parametrize("make", HOSTED, ids=lambda make: make.__name__)
def test_modes_foretell_when_a_tool_answers(make):
    """Where they say nothing follows, nothing does; and the tool is asked at every token it answers."""
    rng = random.Random(3)
    tool = make()
    tokens = list(dict.fromkeys([*tool.vocabulary(), *WORDS, "1", "+"]))
    ids = {token: number for number, token in enumerate(tokens)}
    rows = 30
    tools, twin = [make() for _ in range(rows)], Asking(tool, ids, rows, DEVICE)
    for each in tools:
        each.start(["a", "b"])
    everyone = torch.arange(rows, device=DEVICE)
    twin.load(everyone, tools)
    said, asked, answered = torch.full((rows,), NOTHING, device=DEVICE), 0, 0
    for _ in range(300):
        # Mostly what goes on with a command, so that whole ones are met, too.
        allowed = [[token for token in tokens if each.allows(token)] for each in tools]
        now = [rng.choice(some if some and rng.random() < 0.8 else tokens) for some in allowed]
        active = torch.rand(rows, device=DEVICE) < 0.9
        twin.feed(torch.tensor([ids[token] for token in now], device=DEVICE), active, said)
        for row in active.nonzero()[:, 0].tolist():
            reply = tools[row].feed(now[row])
            asks = said[row] == ASKS
            asked, answered = asked + int(asks), answered + bool(reply)
            assert asks or not reply
            if asks:
                twin.answered(torch.tensor([row], device=DEVICE), [tools[row]])
            assert int(twin.mode[row]) == tools[row].mode()
    assert twin.alone == (make is NoTool)
    assert asked == answered
    assert asked or make is NoTool


def test_a_tool_that_says_nothing_is_asked_at_every_token():
    class Silent(NoTool):
        def modes(self):
            return super(NoTool, self).modes()

    assert Silent().modes()[0].otherwise == ASK
    assert Asking(Imagined(SearchMemory()), ids_of(SearchMemory()), 1, "cpu").alone


def test_memory_too_large_for_a_device_stays_on_the_host():
    assert isinstance(batched(Tape(), ids_of(Tape()), 64, 1000, "cpu"), BatchedTape)
    assert isinstance(batched(Tape(), ids_of(Tape()), 64, 10_000_000, "cpu"), Asking)
    assert isinstance(batched(PointerMemory(), ids_of(PointerMemory()), 64, 10_000_000, "cpu"), Asking)
