"""Coding agents inside the harness: text, budgets, checkpoints with their own tokenizer, no oracle."""

import json
import pickle
import random
import re
from pathlib import Path

import pytest
import torch

from harness.check import check
from harness.config import Evaluate, Run
from harness.decide import sampling
from harness.evaluate import Point, evaluate
from harness.grid import evaluation_id, parse, resolve
from harness.oracle import ScriptedModel
from harness.ranks import Ranks
from harness.rollout import Start, roll_out
from harness.schema import FAILURES, ROWS
from harness.store import Store
from harness.stream import Source, steps
from harness.train import train
from harness.work import run_cell
from tasks.code_fix import CodeFix
from tasks.problems import problems, training_stream
from tasks.scenario import Scenario
from tools.shell import CLOSE, OPEN
from tools.text import SHIPPED, read

COUNT = 12


def rows_of(model, scenario, length=3, count=COUNT, **settings):
    settings = Evaluate(lengths=[length], problems=count, **settings)
    [(_, rows)] = evaluate(model, scenario, [Point(length, "random", 0, count)], settings, {})
    return rows


@pytest.mark.parametrize("setting", ["interactive", "single_turn"])
@pytest.mark.parametrize("mode", ["verify", "live"])
def test_the_scripted_model_passes_strictly(setting, mode):
    scenario = Scenario("code_fix", setting, tool_options={"tokens": "code"})
    for row in rows_of(ScriptedModel(scenario), scenario, mode=mode):
        assert (row["exact"], row["answer_right"], row["strict"], row["failure"]) == (True, True, True, None)
        assert row["work"] == CodeFix().work(
            next(p for p in problems(scenario.task, "evaluation", 3, COUNT) if p.key == row["problem"])
        )


@pytest.mark.parametrize("setting", ["interactive", "single_turn"])
def test_planted_errors_are_found_and_judged_by_running_the_code(setting):
    scenario = Scenario("code_fix", setting, tool_options={"tokens": "code"})
    model = ScriptedModel(scenario, error_rate=1.0, error_seed=1)
    rows = rows_of(model, scenario, count=30, rollout_max=30)
    drawn = {problem.key: problem for problem in problems(scenario.task, "evaluation", 3, 30)}
    for row in rows:
        planted = model.planted(drawn[row["problem"]])
        assert (row["divergence"], row["failure"]) == (planted.position, planted.failure)
        assert row["strict"] in (True, False) if row["answer_right"] is not None else row["strict"] is None
        assert not (row["strict"] and not row["answer_right"])
    assert any(row["answer_right"] is False for row in rows)


def start(scenario, problem, text, limit=10_000):
    """A rollout that begins after `text`, whatever the model would have said."""
    environment = scenario.environment(problem)
    for token in environment.tool.encode(text):
        environment.act(token)
    return Start(environment, scenario.vocabulary.encode(problem.prompt).tolist(), None, len(problem.prompt), limit)


class Says(ScriptedModel):
    """Says a text again and again."""

    def __init__(self, scenario, text):
        super().__init__(scenario)
        self.said = torch.from_numpy(scenario.vocabulary.encode(scenario.make_tool().encode(text)).astype("int64"))

    def forward(self, tokens, state=None, lengths=None):
        old = self.initial_state(len(tokens)) if state is None else state
        prompt = len(self.scenario.task.sample(random.Random(0), 2).prompt)
        width = tokens.shape[1]
        places = (old.position[:, None] + torch.arange(1, width + 1)).clamp(min=prompt) - prompt
        logits = torch.zeros(*tokens.shape, len(self.scenario.vocabulary))
        logits.scatter_(2, self.said[places % len(self.said)][..., None], 10.0)
        old.position = old.position + (width if lengths is None else lengths)
        return logits, old


def test_budgets_of_turns_and_tokens_end_a_rollout():
    for options, calls in (({"turns": 3}, 3), ({}, None)):
        scenario = Scenario("code_fix", "interactive", tool_options={"tokens": "bytes", **options})
        problem = scenario.task.problem(2, "00000000000a")
        model = Says(scenario, "Nothing to do.\n```\n")
        (rollout,) = roll_out(model, scenario, [start(scenario, problem, "", limit=600)])
        text = read(scenario.vocabulary.decode(rollout.ids))
        assert rollout.ending == "past_budget"
        assert text.count("Please always provide EXACTLY ONE action in triple backticks, found 0 actions.") >= 3
        assert (rollout.calls == 3) == (calls is not None)
        assert (len(rollout.ids) == 600 - len(problem.prompt)) == (calls is None)


def test_commands_change_what_is_judged():
    scenario = Scenario("code_fix", "interactive")
    problem = scenario.task.problem(2, "00000000000a")
    environment = scenario.environment(problem)
    assert not scenario.right(problem, environment.outcome)
    for repaired in scenario.task.answer(problem):
        name, _, text = repaired.partition("\n")
        for token in environment.tool.encode(f"{OPEN}cat > {name} <<'EOF'\n{text}EOF{CLOSE}"):
            environment.act(token)
    assert scenario.right(problem, environment.outcome)


def test_a_context_cuts_trajectories():
    whole, cut = (
        next(steps(Source("code_fix", "interactive", 4, 0, 8, tool_options={"tokens": "code"}, context=context)))
        for context in (None, 100)
    )
    assert max(map(len, cut)) == 100 < max(map(len, whole))
    for one, other in zip(whole, cut, strict=True):
        assert list(one.ids[:100]) == list(other.ids)
        assert list(one.own[:100]) == list(other.own)


def cell_of(**changes):
    train = {"max_length": 2, "steps": 2, "batch": 8, "validation": 2, "learning_rate": 1e-3}
    return resolve(
        {"task": "code_fix", "architecture": "gru", "tool_options": {"tokens": "code"}, "train": train, **changes}
    )


def through(resolved, tmp_path, **settings):
    """Train and evaluate a cell by hand, without Ray; its rows."""
    store = Store(str(tmp_path / "store")).open(create=True)
    settings = Evaluate(**{"lengths": [2], "problems": 3, "rollout_max": 2, "budget": 1.0, **settings})
    run_cell(resolved, settings, Run(), store, "by-hand")
    return list(store.rows(resolved.id))


def checkpoint(kind, folder):
    """A tiny checkpoint, randomly initialised, with the tokenizer that comes with the task; its folder."""
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 520, "hidden_size": 32, "num_hidden_layers": 1, "eos_token_id": 0, "bos_token_id": 0}
    config = {
        "mamba": lambda: transformers.MambaConfig(**shape, state_size=4, pad_token_id=0),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**shape, num_attention_heads=2, intermediate_size=48),
    }[kind]()
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(SHIPPED["code"].read_text(encoding="utf-8"), encoding="utf-8")
    return str(folder)


def finetuned(folder, **train):
    changes = {"train": {"max_length": 2, "steps": 2, "batch": 8, "validation": 2, "learning_rate": 1e-3, **train}}
    model = {"architecture": "models.pretrained:Pretrained", "model": {"checkpoint": folder}}
    return cell_of(**model, tool_options={"tokens": folder}, **changes)


@pytest.mark.parametrize("kind", ["mamba", "gpt_neox"])
def test_checkpoints_are_finetuned_and_evaluated_with_their_own_tokenizer(kind, tmp_path):
    rows = through(finetuned(checkpoint(kind, tmp_path / kind)), tmp_path)
    assert len(rows) == 3
    assert all(row["exact"] is not None and row["failure"] in (None, *FAILURES) for row in rows)
    assert all(row["replay_equal"] is not False for row in rows)


def _share(rank, place, config, out):
    """One of two processes that finetune together; the first writes down what it logs."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    losses = []
    train(config, report=lambda record: losses.append([record["loss"], record["gradient_norm"]]), ranks=Ranks(rank, 2))
    if rank == 0:
        Path(out).write_text(json.dumps(losses))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mamba", "gpt_neox"])
def test_two_processes_finetune_as_one_does(kind, tmp_path):
    resolved = finetuned(checkpoint(kind, tmp_path / kind), steps=3)
    alone = []
    train(resolved.config, report=lambda record: alone.append([record["loss"], record["gradient_norm"]]))
    arguments = (str(tmp_path / "place"), resolved.config, str(tmp_path / "losses"))
    torch.multiprocessing.spawn(_share, arguments, nprocs=2)
    [[loss, norm]] = alone  # of the last step, which the two before it led to
    assert json.loads((tmp_path / "losses").read_text()) == [pytest.approx([loss, norm], rel=1e-5)]


def recorded(tmp_path, count=30):
    """A file of trajectories, here the scripted agent's with thoughts added."""
    scenario, lines = Scenario("code_fix", "interactive"), []
    for problem in training_stream(scenario.task, 2, 0, 0)[:count]:
        told = read(scenario.record(problem).tokens[len(problem.prompt) : -1])
        parts = re.findall(r"(```bash\n)(.*?\n```\n)(<returncode>.*?</output>\n)", told, re.DOTALL)
        told = [(("thought", f"Next.\n\n{a}"), ("command", b), ("observation", c)) for a, b, c in parts]
        lines.append(json.dumps({"question": read(problem.prompt), "pieces": [pair for part in told for pair in part]}))
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_without_an_oracle_the_output_alone_is_judged(tmp_path):
    options = {"tokens": "code", "backend": "virtual"}
    resolved = cell_of(task=f"tasks.code_fix:{recorded(tmp_path)}", tool_options=options)
    rows = through(resolved, tmp_path)
    assert len(rows) == 3
    for row in rows:
        assert row.keys() <= ROWS.keys()
        assert (row["exact"], row["divergence"], row["token_accuracy"], row["replay_equal"]) == (None,) * 4
        assert row["mode"] == "live"
        assert row["answer_right"] is False
        assert row["failure"] in ("past_budget", "wrong_output")
        assert row["rollout_tokens"] > 0
    store = Store(str(tmp_path / "store")).open()
    published = store.published(resolved.id)
    assert (published["validation_exact"], published["validation_loss"], published["validation_problems"]) == (
        0.0,
        None,
        2,
    )


def test_helper_processes_get_the_whole_scenario(tmp_path):
    """On a GPU the solvers run beside it: what they are told must travel, a task over a file included."""
    scenario = Scenario("code_fix", "interactive", tool_options={"tokens": "code"})
    settings = Evaluate(lengths=[2], problems=4)
    point = Point(2, "random", 0, 4)
    [(_, rows)] = evaluate(ScriptedModel(scenario), scenario, [point], settings, {}, workers=1)
    assert all(row["exact"] for row in rows)
    scenario = Scenario(f"tasks.code_fix:{recorded(tmp_path)}", "interactive", tool_options={"backend": "virtual"})
    again = pickle.loads(pickle.dumps(scenario))
    assert again.task.revision == scenario.task.revision
    assert again.training_block(2, 0, 0)[0][1] == scenario.training_block(2, 0, 0)[0][1]


def test_a_task_without_an_oracle_is_checked_for_the_rest(tmp_path):
    findings = list(check(f"tasks.code_fix:{recorded(tmp_path)}", [1, 2], 2))
    assert len(findings) == 4
    assert all(finding.wrong is None for finding in findings), findings


def test_another_file_is_another_cell(tmp_path):
    ids = set()
    for at in (10, 20):
        (tmp_path / str(at)).mkdir()
        ids.add(cell_of(task=f"tasks.code_fix:{recorded(tmp_path / str(at), at)}").id)
    assert len(ids | {cell_of().id}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"backend": "local"}, "needs unsafe_local: true"), ({"tokens": "/nowhere"}, "tokenizer"), ({"turn": 1}, "turn")],
)
def test_bad_options_of_the_shell_are_the_users(options, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message) as error:
        cell_of(tool_options=options)
    assert "\n" not in str(error.value)


def test_sampling_draws_from_the_softmax_and_repeats():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(20_000, 1)
    seeds, made = torch.arange(20_000) * 7919, torch.arange(20_000) % 50
    for temperature in (0.5, 2.0):
        drawn = sampling(temperature)(logits, seeds, made).argmax(-1)
        shares = torch.bincount(drawn, minlength=4) / len(drawn)
        assert (shares - torch.softmax(logits[0] / temperature, 0)).abs().max() < 0.02
        assert torch.equal(drawn, sampling(temperature)(logits, seeds, made).argmax(-1))
        other = sampling(temperature)(logits, seeds + 1, made).argmax(-1)
        again = sampling(temperature)(logits, seeds, made + 1).argmax(-1)
        assert 0.05 < (drawn != other).float().mean() < 0.95
        assert 0.05 < (drawn != again).float().mean() < 0.95


def test_sampling_leaves_out_all_but_the_likeliest():
    logits, seeds = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(5_000, 1), torch.arange(5_000)
    drawn = sampling(3.0, 2)(logits, seeds, seeds * 0).argmax(-1)
    assert set(drawn.tolist()) == {1, 2}
    assert sampling(3.0, 9)(logits, seeds, seeds * 0).argmax(-1).unique().numel() == 4


def test_a_temperature_is_an_evaluation_of_its_own_and_needs_live_rollouts():
    scenario = Scenario("code_fix", "interactive", tool_options={"tokens": "code"})
    cold, warm = (rows_of(ScriptedModel(scenario), scenario, count=4, mode="live", temperature=t) for t in (0.3, 20.0))
    assert all(row["exact"] for row in cold), "the script's margin is 33 here"
    assert not any(row["exact"] for row in warm)
    assert warm == rows_like(warm, rows_of(ScriptedModel(scenario), scenario, count=4, mode="live", temperature=20.0))
    with pytest.raises(ValueError, match="needs mode: live"):
        Evaluate(lengths=[1], temperature=0.5)
    with pytest.raises(ValueError, match="top_k = 3 needs a temperature"):
        Evaluate(lengths=[1], mode="live", top_k=3)
    ids = {evaluation_id(Evaluate(lengths=[1], mode="live", temperature=t)) for t in (0.0, 0.5, 1.0)}
    ids.add(evaluation_id(Evaluate(lengths=[1], mode="live", temperature=1.0, top_k=3)))
    assert len(ids) == 4
    assert evaluation_id(Evaluate(lengths=[1], mode="live")) in ids


def rows_like(rows, others):
    """`others` with the seconds of `rows`."""
    return [{**other, "seconds": row["seconds"]} for row, other in zip(rows, others, strict=True)]


def test_the_grid_of_the_guide_finetunes_each_checkpoint_with_its_own_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    guide = (Path(__file__).parents[2] / "docs" / "coding-agents.md").read_text(encoding="utf-8")
    text = re.search(r"```yaml\n(name: finetuned.*?)```", guide, re.DOTALL)[1]
    shape = {"vocab_size": 520, "hidden_size": 32, "num_hidden_layers": 1, "eos_token_id": 0, "bos_token_id": 0}
    for name, config in (
        ("state-spaces/mamba-1.4b-hf", transformers.MambaConfig(**shape, state_size=4, pad_token_id=0)),
        ("EleutherAI/pythia-1.4b", transformers.GPTNeoXConfig(**shape, num_attention_heads=2, intermediate_size=48)),
    ):
        folder = tmp_path / name
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        (folder / "tokenizer.json").write_text(SHIPPED["code"].read_text(encoding="utf-8"), encoding="utf-8")
        assert name in text
        text = text.replace(name, str(folder))
    cells = [cell.config for cell in parse(text, "guide").cells]
    assert len(cells) == 4
    for cell in cells:
        assert cell.tool_options == {"tokens": cell.model["checkpoint"]}
        recipe = (
            cell.train.context,
            cell.train.batch,
            cell.train.steps,
            cell.train.learning_rate,
            cell.train.weight_decay,
        )
        assert recipe == (8192, 512, 200, 1e-4, 0.01), "the paper's"
