"""`lengthwise collect`: trajectories of another agent, a language model behind an endpoint, for ours to learn from.

mini-swe-agent works on problems of the training split, many at a time in Ray actors, its commands in our sandbox. Every
attempt that ends is a line of a ledger beside the output, whatever came of it, so that a collection that was stopped
goes on where it was. The output holds what is worth learning from: right, and not longer than the mean for its length.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.errors import UserError, one_line
from tasks.base import Problem
from tasks.code_fix import TOLD, CodeFix
from tasks.problems import BLOCK, training_stream
from tools.sandbox import Limits
from tools.shell import CLOSE, OPEN, make_backend, observation
from tools.text import read

AGENTS = ("mini-swe-agent",)
SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
ATTEMPTS = 3
"""At a problem whose attempt ends in an error, of the endpoint or of ours."""

SYSTEM = """You are a helpful assistant that can interact with a computer.

Your response must contain exactly ONE bash code block with ONE command (or commands connected with && or ||).
Write a short thought before your command.

What has to be done, and then:

```bash
your_command_here
```

Failure to follow these rules will cause your response to be rejected."""
INSTANCE = """{{task}}

Every command runs in a new shell in the folder of the code base. When the program runs without an error, finish by
`echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT`, without any other command."""
ONE_ACTION = "Please always provide EXACTLY ONE action in triple backticks, found {{actions|length}} actions.\n"


@dataclass(frozen=True)
class Asked:
    """What to collect, and from whom."""

    endpoint: str
    """URL of an OpenAI-compatible API (`http://HOST:PORT/v1`)."""
    model: str
    count: int = 200
    """Problems: the first so many of the training stream."""
    max_length: int = 16
    backend: str = "bubblewrap"
    steps: int = 60
    """Turns of an attempt, at most."""
    timeout: float = 120.0
    """Seconds for a reply; then it is asked for again."""
    temperature: float | None = None


@dataclass
class Attempt:
    """What came of a problem. Its pieces are the roles and texts of `tasks.base.Task.recorded`."""

    index: int
    question: str
    length: int
    outcome: str
    """passed, failed (submitted, but wrong), error, or the agent's exit status."""
    pieces: list[tuple[str, str]]
    calls: int = 0
    reason: str | None = None

    @property
    def size(self) -> int:
        """Characters of the trajectory."""
        return sum(len(text) for _, text in self.pieces)


def problems(asked: Asked) -> Iterator[tuple[int, Problem]]:
    """The problems to collect for, numbered."""
    for at in range(0, asked.count, BLOCK):
        block = training_stream(CodeFix(), asked.max_length, 0, at // BLOCK)
        yield from enumerate(block[: asked.count - at], at)


def attempt(asked: Asked, index: int, problem: Problem) -> Attempt:
    """One problem, worked on by mini-swe-agent; never raises."""
    question = read(problem.prompt)
    made = Attempt(index, question, problem.length, "error", [])
    agent = None
    try:
        agent, folder = _agent(asked, question)
        status = agent.run(TOLD)["exit_status"]
        made.outcome = status
        if status == "Submitted":
            output = [f"{name}\n{content.decode('utf-8', 'replace')}" for name, content in folder.files.items()]
            passed = CodeFix().check(problem, output, folder.backend)
            made.outcome = "passed" if passed else "failed"
            made.pieces = pieces(agent.messages)
    except Exception as error:  # of the endpoint after all retries, of the sandbox, or ours: all are counted
        made.outcome, made.reason = "error", one_line(error)
    made.calls = agent.n_calls if agent is not None else 0
    return made


class _Folder:
    """mini-swe-agent's environment: a folder whose commands run in our sandbox."""

    def __init__(self, asked: Asked, question: str) -> None:
        from tasks.code_fix import written

        self.config = asked
        self.backend = make_backend(asked.backend, Limits())
        self.files: Mapping[str, bytes] = {name: text.encode() for name, text in written(question).items()}

    def execute(self, action: dict[str, Any], cwd: str = "") -> dict[str, Any]:
        from minisweagent.exceptions import Submitted

        ran = self.backend.run(self.files, action["command"])
        self.files = ran.files
        if ran.status == 0 and ran.text.lstrip().split("\n")[0].strip() == SUBMIT:
            extra = {"exit_status": "Submitted", "submission": ""}
            raise Submitted({"role": "exit", "content": "", "extra": extra})
        return {"output": observation(ran), "returncode": ran.status, "exception_info": ""}

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        return kwargs

    def serialize(self) -> dict[str, Any]:
        return {}


def alone() -> None:
    """Before mini-swe-agent is imported: it shall read and write no configuration of the user's, ask for no prices."""
    if "MSWEA_GLOBAL_CONFIG_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="lengthwise-mini-")
        os.environ["MSWEA_GLOBAL_CONFIG_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def _agent(asked: Asked, question: str) -> tuple[Any, _Folder]:
    """mini-swe-agent, set up, and the folder it works in."""
    alone()
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

    options: dict[str, Any] = {
        "api_base": asked.endpoint,
        "api_key": os.environ.get("OPENAI_API_KEY", "none"),
        "timeout": asked.timeout,
        "num_retries": 0,
        "max_retries": 0,
        "drop_params": True,
    }
    if asked.temperature is not None:
        options["temperature"] = asked.temperature
    model = LitellmTextbasedModel(
        model_name=f"openai/{asked.model}",
        model_kwargs=options,
        cost_tracking="ignore_errors",
        action_regex=r"```bash[ \t]*\n(.*?)\n```",
        format_error_template=ONE_ACTION,
        observation_template="{{output.output}}",
    )
    folder = _Folder(asked, question)
    templates = {"system_template": SYSTEM, "instance_template": INSTANCE}
    return DefaultAgent(model, folder, **templates, step_limit=asked.steps, cost_limit=0.0), folder


def pieces(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Turns and observations, without the last turn, which only submits. Empty where a turn cannot be written as one:
    a line of three backticks before the end of its command would end it early."""
    turns = [message for message in messages if message["role"] == "assistant"]
    shown = {id(before): after for before, after in pairwise(messages) if before["role"] == "assistant"}
    made: list[tuple[str, str]] = []
    for turn in turns[:-1]:
        thought, opened, rest = turn["content"].partition(OPEN)
        command, closed, _ = f"{rest}\n".partition(CLOSE)
        reply = shown[id(turn)]
        if not opened or not closed or CLOSE in thought + OPEN or reply["role"] != "user":
            return []
        made += [("thought", thought + OPEN), ("command", command + CLOSE), ("observation", reply["content"])]
    return made


def kept(attempts: Sequence[Attempt]) -> tuple[list[Attempt], Counter[str]]:
    """What is worth learning from, and how many attempts ended how."""
    counts: Counter[str] = Counter()
    sizes: dict[int, list[int]] = defaultdict(list)
    for one in attempts:
        if one.outcome == "passed" and one.pieces:
            sizes[one.length].append(one.size)
    found = []
    for one in attempts:
        if one.outcome != "passed":
            counts[one.outcome] += 1
        elif not one.pieces:
            counts["not writable"] += 1
        elif one.size > sum(sizes[one.length]) / len(sizes[one.length]):
            counts["longer than the mean"] += 1
        else:
            counts["kept"] += 1
            found.append(one)
    return found, counts


def ledger(path: Path) -> Path:
    """Where every attempt of a collection is kept."""
    return path.with_suffix(".attempts.jsonl")


def read_ledger(path: Path, asked: Asked) -> list[Attempt]:
    """The attempts made so far; a last line that was cut off is left out.

    Raises UserError where they are of another collection.
    """
    if not ledger(path).exists():
        return []
    first, *lines = ledger(path).read_text(encoding="utf-8").split("\n")
    about = _about(asked)
    if json.loads(first) != about:
        raise UserError(f"{ledger(path)}: holds a collection by other settings ({first[:200]}); give another --out")
    found = []
    for line in lines:
        try:
            found.append(Attempt(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def _about(asked: Asked) -> dict[str, Any]:
    """What makes a collection another one; more problems of the same do not."""
    about = asdict(asked)
    return {name: about[name] for name in ("model", "max_length", "backend", "steps", "temperature")}


def collect(
    asked: Asked,
    path: Path,
    parallel: int = 16,
    address: str | None = None,
    report: Callable[[Attempt, int, int], object] = lambda attempt, done, total: None,
) -> Counter[str]:
    """Work on all problems that have not been, then write what is kept to `path`; how many attempts ended how.

    Raises:
        UserError: the agent is not installed, the sandbox cannot be made, or `path` holds another collection.
    """
    from harness.cluster import Stop, catching, cluster

    _installed()
    try:
        make_backend(asked.backend, Limits()).run({}, "true")  # the sandbox tests itself
    except ValueError as error:
        raise UserError(f"collect: {error}") from error
    before = read_ledger(path, asked)
    tried = Counter(one.index for one in before)
    done = {one.index for one in before if one.outcome != "error" or tried[one.index] >= ATTEMPTS}
    waiting = [(index, problem) for index, problem in problems(asked) if index not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    stop = Stop()
    with ledger(path).open("a", encoding="utf-8") as book:
        if book.tell() == 0:
            book.write(json.dumps(_about(asked)) + "\n")
        if waiting:
            with catching(stop), cluster(address):
                for one in _worked(asked, waiting, parallel, stop):
                    book.write("\n" * _cut(book) + json.dumps(asdict(one)) + "\n")
                    book.flush()
                    report(one, len(done) + 1, asked.count)
                    done.add(one.index)
    last = {one.index: one for one in read_ledger(path, asked)}
    found, counts = kept([last[index] for index in sorted(last) if index < asked.count])
    if stop.requests:
        counts["not begun"] = asked.count - len(done)
    lines = (json.dumps({"question": one.question, "pieces": one.pieces}) for one in found)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return counts


def _cut(book: Any) -> bool:
    """Whether the ledger's last line was cut off by a crash."""
    name = Path(book.name)
    with name.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if not file.tell():
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _installed() -> None:
    from importlib.util import find_spec

    if find_spec("minisweagent") is None:
        raise UserError("collect needs mini-swe-agent: pip install 'lengthwise[agents]'")


def _worked(
    asked: Asked, waiting: Sequence[tuple[int, Problem]], parallel: int, stop: Callable[..., Any]
) -> Iterator[Attempt]:
    """The attempts as they end; errors are tried again here, up to ATTEMPTS times. An actor that dies is replaced."""
    import ray

    actors = max(1, min(int(ray.cluster_resources().get("CPU", 1)), parallel))
    each = -(-parallel // actors)
    remote = ray.remote(num_cpus=1, max_restarts=-1, max_concurrency=each)(_Worker)
    workers = [remote.remote(asked) for _ in range(actors)]
    left = [(index, problem, 1) for index, problem in reversed(waiting)]
    running: dict[Any, tuple[int, Problem, int, int]] = {}
    busy = [0] * actors
    while left or running:
        while left and len(running) < parallel and not stop.requests:  # type: ignore[attr-defined]
            index, problem, number = left.pop()
            at = busy.index(min(busy))
            busy[at] += 1
            running[workers[at].attempt.remote(index, problem)] = (index, problem, number, at)
        if not running:
            return
        for reference in ray.wait(list(running), timeout=1.0)[0]:
            index, problem, number, at = running.pop(reference)
            busy[at] -= 1
            try:
                made = ray.get(reference)
            except ray.exceptions.RayError as error:
                made = Attempt(index, read(problem.prompt), problem.length, "error", [], reason=one_line(error))
            if made.outcome == "error" and number < ATTEMPTS:
                left.insert(0, (index, problem, number + 1))
            else:
                yield made


class _Worker:
    """Works on several problems at a time, in threads: most of the time is waiting for replies."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def attempt(self, index: int, problem: Problem) -> Attempt:
        return attempt(self.asked, index, problem)
