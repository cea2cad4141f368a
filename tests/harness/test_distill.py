"""Collecting trajectories of another agent: against a scripted endpoint that fails now and then."""

import json
import random
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest

from harness import distill
from harness.distill import Asked, Attempt, attempt, collect, kept, ledger, pieces, problems, read_ledger
from harness.errors import UserError
from tasks.base import Role
from tasks.code_fix import _FRAME, CodeFix, _repaired
from tasks.scenario import Scenario
from tools import sandbox
from tools.sandbox import Bubblewrap, Limits, SandboxUnavailable
from tools.text import read

pytestmark = pytest.mark.skipif(find_spec("minisweagent") is None, reason="mini-swe-agent is not installed")

RUN = "python main.py 2>&1 >/dev/null | tail -n 7"


class Endpoint(ThreadingHTTPServer):
    """An OpenAI-compatible API that answers as the scripted interactive agent; `faults` of its answers are none."""

    daemon_threads = True

    def __init__(self, faults=0.0, slow=2.0, clumsy=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rng, self.faults, self.slow, self.clumsy = random.Random(0), faults, slow, clumsy
        self.counts = {"time-out": 0, "malformed": 0, "500": 0, "no command": 0, "right": 0}
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            failing = self.server.rng.random() < self.server.faults
            kind = self.server.rng.choice(["time-out", "malformed", "500", "no command"]) if failing else "right"
            self.server.counts[kind] += 1
        text = reply(asked["messages"], self.server.clumsy)
        if kind == "time-out":
            time.sleep(self.server.slow)
        if kind == "no command":
            text = "I would rather talk."
        body = {
            "id": "1", "object": "chat.completion", "created": 0, "model": asked["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip
        data = b"{not json" if kind == "malformed" else json.dumps(body).encode()
        try:
            self.send_response(500 if kind == "500" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client has given up

    def log_message(self, *arguments):
        pass


def reply(messages, clumsy):
    """What the scripted agent does after what it was last shown; a clumsy one looks around first."""
    shown = [message["content"] for message in messages if message["role"] == "user"][1:]
    shown = [text for text in shown if text.startswith("<returncode>")]
    if clumsy and len(shown) < 3:
        return "THOUGHT: let me look.\n\n```bash\nls; cat main.py\n```"
    last = shown[-1] if shown else ""
    repairs = [repair for frame in _FRAME.findall(last)[::-1][:3] for repair in _repaired(*frame)]
    if repairs:
        command = "\n".join(repairs)
    elif "tail" in messages[-2]["content"] and last and "Error" not in last:
        command = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
    else:
        command = RUN
    return f"THOUGHT: next.\n\n```bash\n{command}\n```"


@pytest.fixture
def quick(monkeypatch):
    """mini-swe-agent waits four seconds at least before it asks again; here it need not."""
    distill.alone()
    import minisweagent.models.utils.retry as retries
    import tenacity

    monkeypatch.setattr(retries, "wait_exponential", lambda **_: tenacity.wait_fixed(0.05))


@pytest.mark.parametrize("faults", [0.0, 0.3])
def test_an_attempt_passes_whatever_the_endpoint_does_now_and_then(quick, faults):
    endpoint = Endpoint(faults, slow=1.0)
    asked = Asked(endpoint.url, "scripted", count=3, max_length=6, backend="virtual", timeout=0.5)
    for index, problem in problems(asked):
        made = attempt(asked, index, problem)
        assert (made.outcome, made.reason) == ("passed", None)
        roles = [role for role, _ in made.pieces]
        assert roles == ["thought", "command", "observation"] * (len(roles) // 3)
        assert made.pieces[-1][1] == "<returncode>0</returncode>\n<output>\n</output>\n"
        assert "COMPLETE_TASK" not in "".join(text for _, text in made.pieces)
    assert (sum(endpoint.counts.values()) > endpoint.counts["right"]) == (faults > 0)
    endpoint.shutdown()


def test_an_endpoint_that_is_gone_is_an_error_with_its_reason(monkeypatch):
    monkeypatch.setenv("MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT", "1")
    asked = Asked("http://127.0.0.1:9/v1", "scripted", count=1, backend="virtual", timeout=1)
    ((index, problem),) = problems(asked)
    made = attempt(asked, index, problem)
    assert made.outcome == "error"
    assert made.reason
    assert "\n" not in made.reason


def test_problems_are_those_of_training():
    from tasks.problems import split

    drawn = [problem for _, problem in problems(Asked("", "", count=50, max_length=9))]
    assert len(drawn) == 50
    assert all(split(problem) == "training" for problem in drawn)
    assert drawn == [problem for _, problem in problems(Asked("", "", count=90, max_length=9))][:50]


def made_up(index, length, size, outcome="passed"):
    text = [("thought", "x" * size), ("command", "y"), ("observation", "z")] if size else []
    return Attempt(index, f"Fix {length}-{index:012x}\n", length, outcome, text)


def test_kept_are_right_ones_not_longer_than_the_mean_of_their_length():
    attempts = [
        made_up(0, 4, 10), made_up(1, 4, 20), made_up(2, 4, 90), made_up(3, 8, 500), made_up(4, 8, 1, "failed"),
        made_up(5, 4, 1, "LimitsExceeded"), made_up(6, 4, 0),
    ]  # fmt: skip
    found, counts = kept(attempts)
    assert [one.index for one in found] == [0, 1, 3]
    assert counts == {"kept": 3, "longer than the mean": 1, "failed": 1, "LimitsExceeded": 1, "not writable": 1}


def test_a_turn_that_would_end_early_is_not_written():
    def messages(text):
        talk = [
            ("system", ""),
            ("user", ""),
            ("assistant", text),
            ("user", "shown"),
            ("assistant", "end"),
            ("exit", ""),
        ]
        return [{"role": role, "content": content} for role, content in talk]

    good = pieces(messages("hm\n\n```bash\nls\n```\nand then some"))
    assert good == [("thought", "hm\n\n```bash\n"), ("command", "ls\n```\n"), ("observation", "shown")]
    assert pieces(messages("like\n```\nls\n```\n```bash\nls\n```")) == []


def test_another_collection_is_not_mixed_in_and_a_cut_line_is_left_out(tmp_path):
    asked, out = Asked("http://one/v1", "m", count=2), tmp_path / "runs.jsonl"
    line = json.dumps(vars(made_up(0, 4, 10)))
    ledger(out).write_text(json.dumps(distill._about(asked)) + f"\n{line}\n{line[:30]}")
    assert [one.index for one in read_ledger(out, asked)] == [0]
    assert read_ledger(out, Asked("http://moved/v1", "m", count=9)), "another address or more problems are the same"
    with pytest.raises(UserError, match="other settings"):
        read_ledger(out, Asked("http://one/v1", "other", count=2))


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"question": "Fix 4", "pieces": []}', '{"question": "Fix 4-000000000000\\n", "pieces": [["x", "y"]]}'],
)
def test_a_bad_file_of_trajectories_gives_one_line(tmp_path, text):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.jsonl(: no trajectory|, line 1: not a trajectory)"):
        Scenario(f"tasks.code_fix:{path}", "interactive")


def test_recorded_trajectories_are_learnt_as_they_were_told(tmp_path):
    solved = Scenario("code_fix", "interactive")
    problem = CodeFix().problem(3, "00000000000a")
    told = read(solved.record(problem).tokens[len(problem.prompt) : -1])
    parts = re.findall(r"(```bash\n)(.*?\n```\n)(<returncode>.*?</output>\n)", told, re.DOTALL)
    roles = ("thought", "command", "observation")
    entry = {"question": read(problem.prompt), "pieces": [pair for part in parts for pair in zip(roles, part)]}
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(entry) + "\n")
    scenario = Scenario(f"tasks.code_fix:{path}", "interactive", tool_options={"backend": "virtual"})
    ((_, drawn),) = set(scenario.training_block(4, 0, 0)[:20])
    assert drawn == problem
    copied, own = scenario.record(problem), solved.record(problem)
    assert (copied.tokens, copied.own) == (own.tokens, own.own)
    assert copied.calls == own.calls
    assert {role for role, mine in zip(copied.roles, copied.own) if not mine} == {Role.QUESTION, Role.OBSERVATION}


@pytest.mark.slow
@pytest.mark.ray
def test_200_trajectories_with_5_percent_faults_none_lost_and_resumable(tmp_path):
    """In bubblewrap where there is one; stopped after 60 by a crash of the driver, and gone on with."""
    backend = "bubblewrap"
    try:
        sandbox.trusted(Bubblewrap(Limits()))
    except SandboxUnavailable:
        backend = "virtual"
    endpoint, out = Endpoint(0.05, slow=4.0), tmp_path / "runs.jsonl"
    asked = Asked(endpoint.url, "scripted", count=200, max_length=5, backend=backend, timeout=2.0)

    class Crash(Exception):
        pass

    def crash(one, done, total):
        if done == 60:
            raise Crash

    with pytest.raises(Crash):
        collect(asked, out, parallel=16, report=crash)
    before = read_ledger(out, asked)
    assert len(before) == 60
    counts = collect(asked, out, parallel=16)
    attempts = read_ledger(out, asked)
    assert sorted(one.index for one in attempts) == list(range(200)), "each once: none lost, none done again"
    assert attempts[:60] == before
    assert all(one.outcome == "passed" for one in attempts), [one for one in attempts if one.outcome != "passed"]
    assert counts["kept"] + counts["longer than the mean"] == 200
    assert len(out.read_text().splitlines()) == counts["kept"] > 80
    faults = {kind: number for kind, number in endpoint.counts.items() if kind != "right"}
    assert all(faults.values()), faults
    scenario = Scenario(f"tasks.code_fix:{out}", "interactive")
    assert all(len(whose.encoded(problem)) for whose, problem in scenario.training_block(5, 0, 0)[:50])


def test_nothing_is_collected_without_a_sandbox(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sandbox, "trusted", sandbox.trusted.__wrapped__)
    for backend, message in (("bubblewrap", "no program `bwrap`"), ("local", "unsafe_local"), ("jail", "allowed: ")):
        with pytest.raises(UserError, match=message):
            collect(Asked("http://127.0.0.1:9/v1", "m", backend=backend), tmp_path / "runs.jsonl")
    assert not list(tmp_path.iterdir())
