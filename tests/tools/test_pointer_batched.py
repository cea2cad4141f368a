"""The batched pointer memory against the reference, on random command streams."""

import random

import pytest
import torch

from tools.pointer import PointerMemory
from tools.pointer_batched import BatchedPointerMemory

torch.set_num_threads(1)

WORDS = ["[PAD]", "^", "a", "b", "="]


def vocabulary(pointers: int) -> dict[str, int]:
    tokens = [*WORDS, *PointerMemory(pointers).vocabulary()]
    return {token: number for number, token in enumerate(reversed(tokens))}


def start(twin: BatchedPointerMemory, ids: dict[str, int], prompts: list[list[str]]) -> None:
    width = max(map(len, prompts))
    padded = [[ids[token] for token in prompt] + [ids["[PAD]"]] * (width - len(prompt)) for prompt in prompts]
    twin.start(torch.tensor(padded), torch.tensor([len(prompt) for prompt in prompts]))


def same_state(row: int, reference: PointerMemory, twin: BatchedPointerMemory, ids: dict[str, int]) -> None:
    memory, pointers = reference.snapshot().memory, reference.snapshot().pointers
    assert twin.memory[row, : twin.length[row]].tolist() == [ids[token] for token in memory]
    assert twin.positions[row].tolist() == list(pointers.values())
    counters = [reference.calls, reference.longest_walk, reference.overflowed]
    assert [twin.calls[row], twin.longest_walk[row], twin.overflowed[row]] == counters


def stream(rng: random.Random, ids: dict[str, int], rows: int) -> tuple[list[str], list[bool]]:
    """Tokens of one moment, biased to walks so that both ends are met and longest walks differ."""
    commands = [token for token in ids if token[0] in "LRr"]
    tokens = [rng.choice(commands if rng.random() < 0.8 else WORDS) for _ in range(rows)]
    return tokens, [rng.random() < 0.8 for _ in range(rows)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("pointers", "capacity"), [(1, 4), (2, 9), (2, 40), (7, 12)])
def test_twin_equals_reference(pointers: int, capacity: int, seed: int) -> None:
    rng = random.Random(seed)
    rows, ids = 5, vocabulary(pointers)
    twin = BatchedPointerMemory(ids, rows, capacity, pointers)
    references = [PointerMemory(pointers, capacity) for _ in range(rows)]
    for _ in range(2):
        prompts = [["^", *rng.choices(WORDS, k=rng.randrange(capacity + 3))] for _ in range(rows)]
        start(twin, ids, prompts)
        for reference, prompt in zip(references, prompts):
            reference.start(prompt)
        held: list[str | None] = [None] * rows
        for _ in range(60):
            tokens, active = stream(rng, ids, rows)
            tokens = [kept if kept and rng.random() < 0.7 else new for kept, new in zip(held, tokens)]
            held = list(tokens)
            seen = twin.feed(torch.tensor([ids[token] for token in tokens]), torch.tensor(active)).tolist()
            for row in range(rows):
                expected = references[row].feed(tokens[row]) if active[row] else ()
                assert seen[row] == (ids[expected[0]] if expected else -1)
        for row in range(rows):
            same_state(row, references[row], twin, ids)


def fed_batch(rows: int = 4) -> tuple[BatchedPointerMemory, dict[str, int]]:
    ids = vocabulary(2)
    twin = BatchedPointerMemory(ids, rows, capacity=10)
    start(twin, ids, [["^", *"ab"[: row % 3]] for row in range(rows)])
    return twin, ids


def state(twin: BatchedPointerMemory) -> list[list[object]]:
    return [x.tolist() for x in (twin.memory, twin.length, twin.positions, twin.calls, twin.longest_walk)]


def test_clone_is_independent() -> None:
    twin, ids = fed_batch()
    before, copy = state(twin), twin.clone()
    for token in ("R1", "R1", "a"):
        copy.feed(torch.full((4,), ids[token]), torch.ones(4, dtype=torch.bool))
    assert state(twin) == before
    assert state(copy) != before


def test_taken_rows_go_on_alone_and_can_be_put_back() -> None:
    twin, ids = fed_batch()
    whole = twin.clone()
    active = torch.tensor([False, True, False, True])
    rows = torch.tensor([3, 1])
    part = twin.take(rows)
    for token in ("R1", "R1", "r1", "b", "R2"):
        seen = whole.feed(torch.full((4,), ids[token]), active)
        assert part.feed(torch.full((2,), ids[token]), torch.ones(2, dtype=torch.bool)).tolist() == seen[rows].tolist()
    assert state(twin) != state(whole)
    twin.put(rows, part)
    assert state(twin) == state(whole)
    twin.feed(torch.full((4,), ids["R2"]), active)
    whole.feed(torch.full((4,), ids["R2"]), active)
    assert state(twin) == state(whole), "the walk under way travels with the rows"


def test_everything_is_written_in_place() -> None:
    twin, ids = fed_batch()
    addresses = [value.data_ptr() for value in vars(twin).values() if isinstance(value, torch.Tensor)]
    twin.feed(torch.full((4,), ids["R1"]), torch.ones(4, dtype=torch.bool))
    twin.feed(torch.full((4,), ids["a"]), torch.ones(4, dtype=torch.bool))
    start(twin, ids, [["^"]] * 4)
    assert addresses == [value.data_ptr() for value in vars(twin).values() if isinstance(value, torch.Tensor)]


def test_feed_runs_without_data_dependent_control_flow() -> None:
    """On the meta device any look at a value raises, as waiting for a GPU would."""
    ids = vocabulary(3)
    twin = BatchedPointerMemory(ids, 4, capacity=8, pointers=3, device="meta")
    twin.start(torch.zeros(4, 5, dtype=torch.int64, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"))
    seen = twin.feed(torch.zeros(4, dtype=torch.int64, device="meta"), torch.zeros(4, dtype=torch.bool, device="meta"))
    assert seen.shape == (4,)


def test_a_vocabulary_without_the_commands_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks L3 R3 r3"):
        BatchedPointerMemory(vocabulary(2), 4, capacity=8, pointers=3)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BatchedPointerMemory(vocabulary(2), 0, capacity=8)
    twin, _ = fed_batch()
    with pytest.raises(ValueError, match="prompts for 3 rows, the batch has 4"):
        twin.start(torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, dtype=torch.int64))
