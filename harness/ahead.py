"""Work done in other processes: generators, whose items are taken here in order, and objects that live over there.

A helper imports what the generator's module imports and nothing else, so a generator that makes trajectories should
live in a module without torch. It is a plain child process that is given one end of a socket: nothing is forked with
the threads and the GPU of this process, and the program that runs here is not imported again.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any, Self, TypeVar

from harness.errors import one_line

T = TypeVar("T")

_BOOT = (
    "import sys; from multiprocessing.connection import Connection; wire = Connection(int(sys.argv[1]));"
    "sys.path[:] = wire.recv(); import harness.ahead; getattr(harness.ahead, sys.argv[2])(wire)"
)
_ITEM, _END, _ERROR = 0, 1, 2


def child(serve: str) -> tuple[subprocess.Popen[bytes], Connection[Any, Any]]:
    """A child process that runs a function of this module on the other end of a wire, and this end."""
    ours, theirs = Pipe()
    with theirs:
        # No GPU over there, and one thread: there are several of them.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), serve]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment)
    ours.send(sys.path)
    return process, ours


class Helper:
    """A child process that runs one generator after another. Started when first used, ended by `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Connection[Any, Any] | None = None

    def iterate(self, function: Callable[..., Iterable[T]], *arguments: Any) -> Iterator[T]:
        """The items of `function(*arguments)`, run over there at once, a socket's buffer ahead of what is taken here.

        Function, arguments and items must be picklable. What the generator raises is raised here, its own traceback
        in a note; when the process dies, RuntimeError. An iterator that is dropped half way ends the process; the next
        call starts another.
        """
        wire = self._start()
        wire.send((function, arguments))
        return self._items(wire)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._wire is not None:
            self._wire.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._process = self._wire = None

    def interrupt(self) -> None:
        """End the process though a thread waits for its next item: that thread gets RuntimeError at once."""
        process = self._process
        if process is not None:
            process.terminate()

    def _start(self) -> Connection[Any, Any]:
        if self._wire is None:
            self._process, self._wire = child("serve")
        return self._wire

    def _items(self, wire: Connection[Any, Any]) -> Iterator[Any]:
        ended = False
        try:
            while True:
                try:
                    kind, value = wire.recv()
                except (EOFError, ConnectionError):
                    assert self._process is not None
                    status = self._process.wait()
                    raise RuntimeError(f"a helper process died with exit status {status}") from None
                if kind != _ITEM:
                    ended = True
                if kind == _ERROR:
                    raise value
                if kind == _END:
                    return
                yield value
        finally:
            if not ended:
                self.close()


class Helpers:
    """Some helpers, ended together: `with Helpers(4) as helpers: helpers[0].iterate(..)`."""

    def __init__(self, count: int) -> None:
        self._helpers = [Helper() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._helpers)

    def __getitem__(self, index: int) -> Helper:
        return self._helpers[index]

    def spread(
        self, function: Callable[[Any, Sequence[Any]], Iterable[T]], common: Any, items: Sequence[Any]
    ) -> list[T]:
        """`function(common, items)`, which has one result for each item, every helper at a share; without any: here."""
        count = min(len(self), len(items))
        if not count:
            return list(function(common, items))
        try:
            shares = [self[at].iterate(function, common, items[at::count]) for at in range(count)]
            made = [next(shares[at % count]) for at in range(len(items))]  # in turn, so that none waits for another
            for share in shares:
                next(share, None)  # takes the mark of the end: the helper is free again
        except BaseException:
            for at in range(count):
                self[at].close()  # what the others have yet to say is no answer to the next question
            raise
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for helper in self._helpers:
            helper.close()


class Remote:
    """An object in a child process, made over there when first told something: `Remote(Class, *arguments)`.

    What happens to it holds up nobody here but the thread that tells it, and what it imports is not imported here.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._made_by = make, arguments
        self._wire: Connection[Any, Any] | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method and wait until it has returned; what it returns stays there.

        Raises RuntimeError with what it raises there, or the making of the object did, which the next call tries again;
        and when the process dies, of which the next call starts another.
        """
        try:
            if self._wire is None:
                self.process, self._wire = child("serve_object")
                self._wire.send(self._made_by)
            self._wire.send((method, arguments))
            error = self._wire.recv()
        except (EOFError, ConnectionError):
            self.end()
            raise RuntimeError("its process died") from None
        except BaseException:
            self.end()
            raise
        if error is not None:
            raise RuntimeError(error)

    def interrupt(self) -> None:
        """End the process though a thread waits for it: that thread gets RuntimeError at once."""
        process = self.process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """End the process, if there is one."""
        self.interrupt()
        if self.process is not None:
            self.process.wait()
        if self._wire is not None:
            self._wire.close()
        self.process = self._wire = None


def in_thread(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items, made by a thread that is up to `depth` of them ahead; what it raises is raised here."""
    waiting: queue.Queue[tuple[int, Any]] = queue.Queue(depth)
    dropped = threading.Event()

    def put(entry: tuple[int, Any]) -> None:
        while not dropped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                put((_ITEM, item))
                if dropped.is_set():
                    break
            put((_END, None))
        except BaseException as error:
            put((_ERROR, error))
        finally:
            if isinstance(iterator, Iterator) and hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == _ERROR:
                raise value
            if kind == _END:
                return
            yield value
    finally:
        dropped.set()
        thread.join()


def serve(wire: Connection[Any, Any]) -> None:
    """What a helper does: run the generators it is sent, until the other end closes."""
    try:
        while True:
            function, arguments = wire.recv()
            try:
                for item in function(*arguments):
                    wire.send((_ITEM, item))
            except (BrokenPipeError, ConnectionError):
                return
            except Exception as error:
                wire.send((_ERROR, _portable(error)))
            else:
                wire.send((_END, None))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return


def serve_object(wire: Connection[Any, Any]) -> None:
    """What the process of a `Remote` does until the other end closes. Signals are for that end, which says when."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    made = None
    with suppress(EOFError, ConnectionError):
        make, arguments = wire.recv()
        while True:
            method, told = wire.recv()
            error = None
            try:
                made = make(*arguments) if made is None else made
                getattr(made, method)(*told)
            except Exception as caught:  # as text: with the object the other end would import what it came from
                error = one_line(caught)
            wire.send(error)


def _portable(error: Exception) -> Exception:
    """An exception as it can travel, its traceback in a note."""
    note = "in a helper process:\n" + traceback.format_exc()
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a foreign exception's pickling raises
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error
