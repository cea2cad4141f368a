"""The search for recipes: equal trials, a rule fixed beforehand, fresh seeds, decided once."""

import json
import math

import pytest
import yaml

from harness import grid as grids
from harness.errors import UserError
from harness.plan import print_plan, print_status, remaining
from harness.search import account, choices, chosen, settle, trials, undecided
from harness.store import Store
from harness.work import missing

GRID = {
    "name": "searched",
    "base": {"size": "tiny", "train": {"max_length": 2, "steps": 4, "batch": 8, "validation": 16}},
    "axes": {"architecture": ["gru", "lstm"], "seed": [0, 1, 2]},
    "search": {"axes": {"train.learning_rate": [0.001, 0.01], "train.batch": [4, 8]}, "seeds": [100, 101]},
    "evaluate": {"lengths": [2, 3], "problems": 4},
}


def load(tmp_path, sets=(), **changes):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return grids.load(str(path), sets)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store")).open(create=True)


def publish(store, trial, exact=0.5, loss=0.1, flops=1.0):
    known = {"checkpoint": "0" * 32, "validation_exact": exact, "validation_loss": loss}
    known |= {"train_tokens": 100, "flops_per_token": flops}
    store.create(f"cells/{trial.id}/published.json", json.dumps(known).encode())


def fail(store, trial, outcome="failed"):
    store.begin_attempt(f"a-{trial.id}", {"cell": trial.id, "started": "now"})
    store.end_attempt(f"a-{trial.id}", {"outcome": outcome})


def test_every_architecture_gets_the_same_trials_on_seeds_of_their_own(tmp_path, store):
    grid = load(tmp_path)
    gru, lstm = choices(grid)
    assert (len(gru.cells), len(gru.candidates), gru.candidates) == (3, 4, lstm.candidates)
    for choice, architecture in ((gru, "gru"), (lstm, "lstm")):
        for candidate, own in zip(choice.candidates, choice.trials, strict=True):
            assert [trial.config.seed for trial in own] == [trial.config.data_seed for trial in own] == [100, 101]
            for trial in own:
                assert trial.config.architecture == architecture
                assert trial.config.train.learning_rate == candidate["train.learning_rate"]
                assert trial.config.train.batch == candidate["train.batch"]
    tried = trials(grid, store)
    assert len({cell.id for cell in tried.cells}) == len(tried.cells) == 16
    for cell in tried.cells:
        todo = missing(cell, tried.evaluate(cell), store)
        assert (todo.training, todo.points) == (True, []), "a trial is never evaluated"


def test_the_winner_is_exact_then_of_least_loss_then_cheap(tmp_path, store):
    grid = load(tmp_path, axes={"architecture": ["gru"], "seed": [0, 1]})
    (choice,) = choices(grid)
    merits = [(0.9, 0.01, 1.0), (1.0, 0.2, 9.0), (1.0, 0.1, 5.0), (1.0, 0.1, 4.0)]
    for own, (exact, loss, flops) in zip(choice.trials, merits, strict=True):
        for trial in own:
            publish(store, trial, exact, loss, flops)
    settle(grid, store)
    settled = chosen(grid, store)
    assert {cell.config.train.batch for cell in settled.cells} == {8}
    assert {cell.config.train.learning_rate for cell in settled.cells} == {0.01}
    assert [cell.config.seed for cell in settled.cells] == [0, 1], "the winner is trained again, from fresh seeds"
    assert not {cell.id for cell in settled.cells} & {trial.id for own in choice.trials for trial in own}
    assert settled.cells[0].id == grids.resolve(settled.cells[0].config.model_dump()).id


def test_a_mean_over_seeds_decides_and_a_failed_trial_counts_as_none_right(tmp_path, store):
    grid = load(tmp_path, axes={"architecture": ["gru"], "seed": [0]})
    (choice,) = choices(grid)
    for own, shares in zip(choice.trials, [(1.0, None), (0.6, 0.8), (0.9, 0.3), (0.5, 0.5)], strict=True):
        for trial, exact in zip(own, shares, strict=True):
            if exact is None:
                fail(store, trial)
            else:
                publish(store, trial, exact)
    settle(grid, store)
    (told,) = account(grid, store)
    assert told["record"]["winner"] == choice.candidates[1]
    assert [one["exact"] for one in told["record"]["tried"]] == [0.5, 0.7, 0.6, 0.5]
    assert [one["failed"] for one in told["record"]["tried"]] == [1, 0, 0, 0]
    assert told["record"]["tried"][0]["loss"] is None


@pytest.mark.parametrize("ending", ["lost", "none"])
def test_nothing_is_chosen_before_every_trial_has_ended(tmp_path, store, ending):
    grid = load(tmp_path)
    gru, lstm = choices(grid)
    for trial in [trial for own in (*gru.trials, *lstm.trials) for trial in own][:-1]:
        publish(store, trial)
    if ending == "lost":
        fail(store, lstm.trials[-1][-1], "lost")
    settle(grid, store)
    assert [choice.name for choice in undecided(grid, store)] == [lstm.name]
    assert {cell.config.architecture for cell in chosen(grid, store).cells} == {"gru"}
    assert {cell.config.architecture for cell in trials(grid, store).cells} == {"lstm"}


def test_what_is_chosen_stands(tmp_path, store):
    grid = load(tmp_path, axes={"architecture": ["gru"], "seed": [0]})
    (choice,) = choices(grid)
    flat = [trial for own in choice.trials for trial in own]
    fail(store, flat[0])
    for trial in flat[1:]:
        publish(store, trial)
    settle(grid, store)
    before = chosen(grid, store).cells
    publish(store, flat[0], exact=1.0)
    settle(grid, store)
    assert chosen(grid, store).cells == before
    assert trials(grid, store).cells == []


def test_where_tells_whose_recipe_is_searched_and_own_lengths_follow_the_winner(tmp_path, store):
    search = {**GRID["search"], "where": {"architecture": "lstm"}}
    asks = [{"where": {"architecture": "lstm"}, "evaluate": {"lengths": [7]}}]
    grid = load(tmp_path, search=search, overrides=asks)
    (choice,) = choices(grid)
    assert {cell.config.architecture for cell in choice.cells} == {"lstm"}
    assert {cell.config.architecture for cell in chosen(grid, store).cells} == {"gru"}
    for own in choice.trials:
        for trial in own:
            publish(store, trial)
    settle(grid, store)
    settled = chosen(grid, store)
    assert len(settled.cells) == 6
    asked = {(cell.config.architecture, settled.evaluate(cell).lengths) for cell in settled.cells}
    assert asked == {("gru", (2, 3)), ("lstm", (7,))}
    planned = {(item.cell.config.architecture, item.points) for item in remaining(grid, store).cells}
    assert planned == {("gru", 2), ("lstm", 1)}


def test_a_search_for_no_cell_of_the_grid_changes_nothing(tmp_path, store):
    grid = load(tmp_path, search=HALVING | {"where": {"architecture": "mamba1"}})
    assert choices(grid) == []
    assert chosen(grid, store).cells == grid.cells


def test_without_a_search_nothing_changes(tmp_path, store):
    grid = load(tmp_path, ["search=null"])
    assert (choices(grid), trials(grid, store).cells) == ([], [])
    assert chosen(grid, store) is grid


@pytest.mark.parametrize(
    ("search", "parts"),
    [
        ({"axes": {"train.max_length": [3]}, "seeds": [9]}, ["train.max_length", "train.learning_rate"]),
        ({"axes": {"train.batch": []}, "seeds": [9]}, ["train.batch", "empty"]),
        ({"axes": {"train.batch": [4]}, "seeds": []}, ["search.seeds"]),
        ({"axes": {"train.batch": [4]}, "seeds": [9, 1]}, ["search.seeds", "1", "fresh"]),
        ({"axes": {"train.batch": [5000]}, "seeds": [9]}, ["train.batch", "4096"]),
        ({"axes": {"train.batch": [4]}, "seeds": [9], "where": {"sizes": "tiny"}}, ["search.where", "size"]),
    ],
)
def test_mistakes_get_one_line_when_the_file_is_read(tmp_path, search, parts):
    with pytest.raises(UserError) as caught:
        load(tmp_path, search=search)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


HALVING = {"axes": {"train.learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5]}, "seeds": [100, 101]}
HALVING |= {"halving": {"min_steps": 1, "factor": 2}}
ONE = {"architecture": ["gru"], "seed": [0]}


def test_halving_stops_the_worse_half_again_and_again_and_the_last_that_is_left_has_won(tmp_path, store):
    grid = load(tmp_path, axes=ONE, search=HALVING)
    asked = []
    while waiting := trials(grid, store).cells:
        asked.append(sorted((one.config.train.last, one.config.train.learning_rate) for one in waiting))
        assert account(grid, store)[0]["record"] is None
        for trial in waiting:
            publish(store, trial, exact=0.5, loss=abs(trial.config.train.learning_rate - 0.3))
        settle(grid, store)
    assert asked == [
        [(1, rate) for rate in (0.1, 0.2, 0.3, 0.4, 0.5) for _ in range(2)],
        [(2, rate) for rate in (0.2, 0.3, 0.4) for _ in range(2)],
        [(4, rate) for rate in (0.2, 0.3) for _ in range(2)],
    ]
    record = account(grid, store)[0]["record"]
    assert record["winner"] == {"train.learning_rate": 0.3}
    assert [one["steps"] for one in record["tried"]] == [1, 4, 4, 2, 1]
    assert [len(one["before"]) for one in record["tried"]] == [0, 4, 4, 2, 0]
    assert [cell.config.train.learning_rate for cell in chosen(grid, store).cells] == [0.3]


def test_halving_needs_no_more_than_the_one_that_is_left(tmp_path, store):
    search = HALVING | {"axes": {"train.learning_rate": [0.1, 0.2]}}
    grid = load(tmp_path, axes=ONE, search=search)
    first, second = trials(grid, store).cells[:2], trials(grid, store).cells[2:]
    for trial in first:
        fail(store, trial)
    for trial in second:
        publish(store, trial, exact=0.0)
    settle(grid, store)
    assert account(grid, store)[0]["record"]["winner"] == {"train.learning_rate": 0.2}
    assert {trial.config.train.last for trial in (*first, *second)} == {1}, "a failed trial counts as none right"


def test_another_halving_is_another_choice_and_none_the_old_one(tmp_path):
    ids = [
        choices(load(tmp_path, axes=ONE, search=HALVING | {"halving": halving}))[0].id
        for halving in (None, {"min_steps": 1}, {"min_steps": 2}, {"min_steps": 1, "factor": 3})
    ]
    assert len(set(ids)) == 4
    assert ids[0] == choices(load(tmp_path, axes=ONE, search={k: HALVING[k] for k in ("axes", "seeds")}))[0].id


@pytest.mark.parametrize(
    ("axes", "halving", "parts"),
    [
        ({"train.batch": [4, 8]}, {"min_steps": 4}, ["search.halving.min_steps", "not before the last of 4"]),
        ({"train.batch": [4, 8]}, {"min_steps": 0}, ["search.halving.min_steps", "1"]),
        ({"train.batch": [4, 8]}, {"min_steps": 1, "factor": 1}, ["search.halving.factor", "2"]),
        ({"train.steps": [4, 8]}, {"min_steps": 1}, ["train.steps cannot be an axis"]),
        ({"train.batch": [4, 8]}, {"rungs": 3}, ["rungs", "min_steps"]),
    ],
)
def test_mistakes_in_halving_get_one_line(tmp_path, axes, halving, parts):
    with pytest.raises(UserError) as caught:
        load(tmp_path, search={"axes": axes, "seeds": [9], "halving": halving})
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


def test_plan_and_status_of_halving_say_at_most_what_it_takes(tmp_path, store, capsys):
    whole = remaining(load(tmp_path, axes=ONE, search=HALVING | {"halving": None}), None)
    grid = load(tmp_path, axes=ONE, search=HALVING)
    halved = remaining(grid, store)
    tokens = [sum(item.train_tokens for _, own in work.trials for item in own) for work in (whole, halved)]
    # Five recipes of 4 steps; or five of 1, three of 1 more, two of 2 more.
    assert tokens[1] == pytest.approx(tokens[0] * (5 + 3 + 4) / 20)
    print_status(grid, store)
    assert "0 of 10 trials trained to step 1, 1 cells wait for it" in capsys.readouterr().out


def test_plan_and_status_tell_of_the_search(tmp_path, store, capsys):
    grid = load(tmp_path)
    print_plan(grid, None)
    lines = capsys.readouterr().out.splitlines()
    assert sum("train 8 of 8 trials" in line for line in lines) == 2
    assert lines[-3].startswith("search: 16 trials to train: ")
    assert "6 of 6 cells to train, 12 of 12 points" in lines[-2]
    assert "22 cells not counted" in lines[-1]
    print_status(grid, store)
    assert "0 of 8 trials trained, 3 cells wait" in capsys.readouterr().out
    for choice in choices(grid):
        for own in choice.trials:
            for trial in own:
                publish(store, trial)
    settle(grid, store)
    print_plan(grid, store)
    assert "search" not in capsys.readouterr().out.replace("searched", "")


@pytest.mark.parametrize("struck", [0, 6])
def test_halving_that_is_killed_ends_with_the_same_winner_and_trains_no_step_twice(tmp_path, monkeypatch, struck):
    """Everything but Ray. struck: trials that are done when it happens (0: it does not)."""
    from harness import cli, driver
    from harness.work import run_cell

    trained, left = {}, [struck]

    def run_here(grid, store, **more):
        for cell in grid.cells:
            if store.published(cell.id) is None:
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
                events = []
                run_cell(cell, grid.evaluate(cell), grid.file.run, store, "attempt", report=events.append)
                steps = [record["step"] for event in events for record in event.get("curve", [])]
                trained.setdefault(cell.config.train.learning_rate, []).append(steps)
        return driver.Outcome(done=len(grid.cells))

    monkeypatch.setattr(driver, "run_grid", run_here)
    monkeypatch.setattr("harness.train.LOG_EVERY", 1)
    search = {"axes": {"train.learning_rate": [0.0001, 0.001, 0.003, 0.01]}, "seeds": [100]}
    base = {"size": "tiny", "train": {"max_length": 2, "steps": 8, "batch": 8, "validation": 16}}
    halving = {"halving": {"min_steps": 2}}
    grid = load(tmp_path, axes=ONE, base=base, search=search | halving)
    url = str(tmp_path / "results")
    if struck:
        with pytest.raises(KeyboardInterrupt):
            cli.run(str(tmp_path / "grid.yaml"), store=url, sets=[], address=None, mlflow=False)
    cli.run(str(tmp_path / "grid.yaml"), store=url, sets=[], address=None, mlflow=False)
    winner = account(grid, Store(url).open())[0]["record"]["winner"]["train.learning_rate"]
    assert winner == 0.01
    for rate, ran in trained.items():
        trials = [steps for steps in ran if steps[-1] <= 4]
        assert trials == {0.01: [[1, 2], [3, 4]], 0.003: [[1, 2], [3, 4]]}.get(rate, [[1, 2]])
    assert not list((tmp_path / "results").glob("cells/*/training.pt"))
    page = Store(url).open().read("grids/searched/report.html").decode()
    assert "left behind 2 at step 2 and 1 at step 4; the last that was left has won" in page
    assert "Compared at step" in page


def test_the_command_searches_then_trains_the_winners(tmp_path, monkeypatch):
    """Everything but Ray: a trial has its validation loss, the winners their rows, the report says what was done."""
    from harness import cli, driver
    from harness.work import run_cell

    def run_here(grid, store, **more):
        for cell in grid.cells:
            run_cell(cell, grid.evaluate(cell), grid.file.run, store, "attempt")
        return driver.Outcome(done=len(grid.cells))

    monkeypatch.setattr(driver, "run_grid", run_here)
    search = {"axes": {"train.learning_rate": [0.0001, 0.01]}, "seeds": [100]}
    grid = load(tmp_path, axes={"architecture": ["gru"], "seed": [0]}, search=search)
    url = str(tmp_path / "results")
    cli.run(str(tmp_path / "grid.yaml"), store=url, sets=[], address=None, mlflow=False)
    store = Store(url).open()
    (choice,) = choices(grid)
    tried = [store.published(own[0].id) for own in choice.trials]
    assert all(0 < known["validation_loss"] < math.inf for known in tried)
    assert all(store.extents(own[0].id) == [] for own in choice.trials)
    assert account(grid, store)[0]["record"]["winner"] == {"train.learning_rate": 0.01}, "0.0001 learns nothing so soon"
    (cell,) = chosen(grid, store).cells
    assert len(list(store.rows(cell.id))) == 8
    page = store.read("grids/searched/report.html").decode()
    assert "How the recipes were chosen" in page
    assert "learning_rate 0.01" in page
    cells_before = len(store.names("cells"))
    cli.run(str(tmp_path / "grid.yaml"), store=url, sets=[], address=None, mlflow=False)
    assert len(store.names("cells")) == cells_before
