"""Generators in other processes: order, errors, deaths, clean ends."""

import os
import threading
import time
from itertools import islice

import pytest

from harness.ahead import Helper, Helpers, Remote, in_thread


def counting(start, stop, step=1):
    yield from range(start, stop, step)


def failing(after):
    yield from range(after)
    raise ValueError("task addition: nothing left")


class Odd(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def odd():
    yield 1
    raise Odd("one", "two")


def dying():
    yield 1
    os._exit(7)


def big():
    for _ in iter(int, 1):
        yield bytes(1 << 20)


def pid():
    yield os.getpid()


def with_pid(base, items):
    for item in items:
        yield base + item, os.getpid()


def refusing(base, items):
    for item in items:
        if item == 2:
            raise ValueError("not two")
        yield base + item


@pytest.fixture
def helpers():
    with Helpers(2) as made:
        yield made


def test_items_come_in_order_from_another_process(helpers):
    assert list(helpers[0].iterate(counting, 0, 1000)) == list(range(1000))
    [there] = helpers[0].iterate(pid)
    assert there != os.getpid()
    assert list(helpers[0].iterate(pid)) == [there]


def test_work_is_spread_over_the_helpers_and_comes_back_in_order(helpers):
    pids = {there for _, there in helpers.spread(with_pid, 100, range(7))}
    assert len(pids) == 2
    assert [value for value, _ in helpers.spread(with_pid, 100, range(7))] == list(range(100, 107))
    assert {there for _, there in helpers.spread(with_pid, 0, [1])} < pids  # the same processes: they were free again
    assert helpers.spread(with_pid, 0, []) == []
    assert Helpers(0).spread(with_pid, 5, [1]) == [(6, os.getpid())]


def test_after_an_error_nothing_stale_is_left(helpers):
    with pytest.raises(ValueError, match="not two"):
        helpers.spread(refusing, 0, [2, 1, 3, 5])
    assert [value for value, _ in helpers.spread(with_pid, 100, range(4))] == list(range(100, 104))


def test_an_object_lives_in_another_process():
    remote = Remote(Counter, 3)
    with pytest.raises(RuntimeError, match=r"^KeyError: 'nothing'$"):
        remote.tell("fail", "nothing")
    remote.tell("add", 4)
    with pytest.raises(RuntimeError, match=r"^ValueError: 7$"):  # the same object still
        remote.tell("say")
    remote.process.kill()
    with pytest.raises(RuntimeError, match="its process died"):
        remote.tell("add", 1)
    with pytest.raises(RuntimeError, match=r"^ValueError: 3$"):
        remote.tell("say")
    process = remote.process
    remote.end()
    assert process.poll() is not None


def test_an_object_that_cannot_be_made_is_tried_again():
    refused = Remote(Counter)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="TypeError"):
            refused.tell("say")
    refused.end()
    unsendable = Remote(lambda: 0)
    for _ in range(2):
        with pytest.raises(Exception, match="lambda"):
            unsendable.tell("say")
    assert unsendable.process is None


class Counter:
    def __init__(self, count):
        self.count = count

    def add(self, more):
        self.count += more

    def say(self):
        raise ValueError(self.count)

    def fail(self, text):
        raise KeyError(text)


def test_what_a_generator_raises_is_raised_here_and_the_helper_goes_on(helpers):
    items = helpers[0].iterate(failing, 3)
    assert list(islice(items, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="task addition: nothing left") as caught:
        next(items)
    assert "in failing" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="Odd: one and two"):
        list(helpers[0].iterate(odd))
    assert list(helpers[0].iterate(counting, 0, 3)) == [0, 1, 2]


def test_a_dead_process_is_one_clear_error_and_replaced(helpers):
    with pytest.raises(RuntimeError, match="died with exit status 7"):
        list(helpers[0].iterate(dying))
    assert list(helpers[0].iterate(counting, 0, 3)) == [0, 1, 2]


def test_an_iterator_dropped_half_way_ends_its_process(helpers):
    items = helpers[0].iterate(big)
    next(items)
    process = helpers[0]._process
    items.close()
    assert process.poll() is not None
    assert list(helpers[0].iterate(counting, 0, 3)) == [0, 1, 2]


def test_close_ends_the_processes():
    with Helpers(2) as made:
        for helper in (made[0], made[1]):
            list(helper.iterate(counting, 0, 1))
        processes = [made[0]._process, made[1]._process]
    assert all(process.poll() is not None for process in processes)
    Helper().close()


def test_a_thread_stays_a_bounded_number_ahead():
    made = []

    def items():
        for at in range(100):
            made.append(at)
            yield at

    ahead = in_thread(items(), depth=3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5  # one taken, three waiting, one in hand
    assert list(ahead) == list(range(1, 100))


def test_a_thread_hands_over_errors_and_ends_when_dropped():
    ahead = in_thread(failing(1), depth=2)
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="nothing left"):
        next(ahead)
    before = threading.active_count()
    endless = in_thread(iter(int, 1), depth=2)
    next(endless)
    assert threading.active_count() == before + 1
    endless.close()
    assert threading.active_count() == before


def sleeping():
    yield 1
    time.sleep(600)
    yield 2


def test_an_interrupted_helper_lets_its_thread_go():
    helper = Helper()
    items = in_thread(helper.iterate(sleeping), 4)
    assert next(items) == 1
    helper.interrupt()
    items.close()  # would otherwise wait for the second item
    assert [*Helper().iterate(counting, 0, 3)] == [0, 1, 2]
