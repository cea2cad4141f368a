"""Grid files: axes, recipes, `--set`, ids, and what is said about mistakes."""

import textwrap

import pytest
import yaml

from harness import grid as grids
from harness.errors import UserError

BASE = """
name: small
base: {train: {max_length: 3, steps: 10}}
axes:
  architecture: [gru, lstm]
  setting: [interactive, direct]
  seed: [0, 1]
evaluate: {lengths: [3, 6], problems: 4}
"""


def load(tmp_path, text=BASE, sets=()):
    path = tmp_path / "grid.yaml"
    path.write_text(textwrap.dedent(text))
    return grids.load(str(path), sets)


def complaint(tmp_path, text, sets=()):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, sets)
    message = str(caught.value)
    assert "\n" not in message
    return message


def changed(**changes):
    return yaml.safe_dump(grids.merge(yaml.safe_load(BASE), changes))


def test_axes_multiply_out(tmp_path):
    grid = load(tmp_path)
    assert len(grid.cells) == 8
    assert len({cell.id for cell in grid.cells}) == 8
    assert grid.cells[0].config.train.steps == 10
    assert grid.cells[0].config.tool == "pointer"


def test_exclude_include_and_overrides(tmp_path):
    grid = load(
        tmp_path,
        changed(
            exclude=[{"architecture": "lstm", "setting": ["direct", "cot"]}],
            include=[{"architecture": "gru", "setting": "cot"}],
            overrides=[{"where": {"setting": "direct"}, "set": {"train.steps": 99, "model": {"layers": 2}}}],
        ),
    )
    assert len(grid.cells) == 7
    direct = [cell.config for cell in grid.cells if cell.config.setting == "direct"]
    assert {(cell.architecture, cell.train.steps, cell.train.max_length) for cell in direct} == {("gru", 99, 3)}
    assert direct[0].model == {"layers": 2}
    assert grid.cells[-1].config.setting == "cot"


def test_set_reaches_grid_keys_axes_and_every_cell(tmp_path):
    sets = ["evaluate.problems=7", "seed=[5]", "train.steps=20", "architecture=mamba2"]
    grid = load(tmp_path, changed(overrides=[{"where": {}, "set": {"train.steps": 99}}]), sets)
    assert grid.file.evaluate.problems == 7
    configs = [cell.config for cell in grid.cells]
    assert {(config.seed, config.train.steps, config.architecture) for config in configs} == {(5, 20, "mamba2")}


def test_an_override_may_ask_other_lengths(tmp_path):
    text = changed(
        overrides=[
            {"where": {"architecture": "lstm"}, "evaluate": {"lengths": [5], "stress": ["zeros"]}},
            {"where": {"architecture": "lstm", "setting": "direct"}, "evaluate": {"problems": 9}},
        ]
    )
    grid = load(tmp_path, text)
    asked = {(cell.config.architecture, cell.config.setting): grid.evaluate(cell) for cell in grid.cells}
    assert (asked["gru", "direct"], asked["gru", "interactive"]) == (grid.file.evaluate, grid.file.evaluate)
    assert (asked["lstm", "interactive"].lengths, asked["lstm", "interactive"].problems) == ((5,), 4)
    assert (asked["lstm", "direct"].lengths, asked["lstm", "direct"].problems) == ((5,), 9)
    assert {cell.id for cell in grid.cells} == {cell.id for cell in load(tmp_path).cells}, "it changes no cell"
    grid = load(tmp_path, text, ["evaluate.lengths=[7]"])
    assert {grid.evaluate(cell).lengths for cell in grid.cells} == {(7,)}, "--set is the last word"
    assert {grid.evaluate(cell).stress for cell in grid.cells} == {(), ("zeros",)}


def test_the_id_is_the_content(tmp_path):
    first = {cell.id for cell in load(tmp_path).cells}
    assert {cell.id for cell in load(tmp_path, changed(name="other", evaluate={"problems": 9})).cells} == first
    explicit = changed(base={"train": {"weight_decay": 0.01}, "size": "tiny"})
    assert {cell.id for cell in load(tmp_path, explicit).cells} == first, "spelling out a default renames nothing"
    assert not first & {cell.id for cell in load(tmp_path, sets=["train.steps=11"]).cells}
    assert not first & {cell.id for cell in load(tmp_path, sets=["train.stop_after=9"]).cells}
    last = load(tmp_path, sets=["train.stop_after=10"])
    assert {cell.id for cell in last.cells} == first, "stopping after the last step stops nothing"
    assert not first & {cell.id for cell in load(tmp_path, sets=["replicate=1"]).cells}


def test_model_options_equal_to_the_preset_are_the_same_cell(tmp_path):
    from models.build import full_options

    options, _ = full_options("gru", "tiny", {})
    name, value = next(iter(options.items()))
    plain = load(tmp_path, sets=["architecture=gru"])
    spelled = load(tmp_path, sets=["architecture=gru", f"model.{name}={value}"])
    assert {cell.id for cell in plain.cells} == {cell.id for cell in spelled.cells}


@pytest.mark.parametrize("owner", ["tasks.addition:Addition", "tools.pointer:PointerMemory", "models.recurrent:GRU"])
def test_raising_a_revision_names_a_new_cell(tmp_path, monkeypatch, owner):
    from tasks.resolve import resolve

    kind = resolve("class", owner, {})
    before = load(tmp_path).cells[0].id
    monkeypatch.setattr(kind, "revision", kind.revision + 1)
    assert load(tmp_path).cells[0].id != before


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"evalute": {}}, ["unknown key 'evalute'", "did you mean 'evaluate'", "grid.yaml"]),
        ({"base": {"train": {"step": 5}}}, ["train: unknown key 'step'", "mean 'steps'"]),
        ({"axes": {"architecture": ["mamba3"]}}, ["mamba3", "mamba1", "did you mean"]),
        ({"axes": {"setting": ["interactiv"]}}, ["interactiv", "interactive"]),
        ({"base": {"task": "adition"}}, ["adition", "addition"]),
        ({"base": {"tool": "calculator"}}, ["calculator", "interactive", "pointer"]),
        ({"base": {"tool": "abacus"}}, ["abacus", "pointer"]),
        ({"base": {"size": "huge"}}, ["huge", "tiny", "paper"]),
        ({"base": {"model": {"layer": 2}}}, ["layer", "layers"]),
        ({"axes": {"seed": []}}, ["seed", "empty"]),
        ({"axes": {"sed": [1]}}, ["sed", "seed"]),
        ({"evaluate": {"lengths": [3, -4]}}, ["evaluate.lengths.1", "greater than or equal to 1"]),
        ({"evaluate": {"lengths": []}}, ["evaluate.lengths", "at least 1"]),
        ({"evaluate": {"lengths": [3, 3]}}, ["evaluate.lengths", "twice"]),
        ({"evaluate": {"stress": ["carry"]}}, ["carry", "carries"]),
        ({"exclude": [{"sede": 1}]}, ["sede", "seed"]),
        ({"exclude": [{"seed": [0, 1]}]}, ["no cell"]),
        ({"name": "a b"}, ["name"]),
        ({"run": {"workers": 0}}, ["run.workers"]),
        ({"exclude": [{"architecture": "grru"}]}, ["exclude", "grru", "gru"]),
        ({"exclude": [{"setting": "directly"}]}, ["exclude", "directly", "direct"]),
        ({"overrides": [{"where": {"task": "sums"}, "set": {}}]}, ["where", "sums", "addition"]),
        ({"overrides": [{"where": {"seed": 77}, "set": {"train": {"stepz": 3}}}]}, ["stepz", "steps"]),
        ({"overrides": [{"evaluate": {"length": [1]}}]}, ["overrides[0].evaluate", "length", "lengths"]),
        ({"overrides": [{"evaluate": {"stress": ["carry"]}}]}, ["carry", "carries"]),
        ({"overrides": [{"wher": {}, "set": {}}]}, ["wher", "mean 'where'"]),
        ({"base": {"train": {"batch": 5000}}}, ["train.batch", "4096"]),
        ({"base": {"train": {"learning_rate": float("inf")}}}, ["train.learning_rate", "finite"]),
        ({"base": {"train": {1: 2}}}, ["key 1"]),
        ({"base": {"train": {"stop_after": 11}}}, ["train: stop_after = 11", "10 steps"]),
        ({"axes": {"seed": [2**70]}}, ["seed"]),
        ({"axes": {"architecture": ["transformer"]}, "base": {"model": {"heads": 5}}}, ["heads", "5", "d_model"]),
        ({"base": {"task": "..x:Y"}}, ["..x:Y"]),
        ({"axes": {"seed": []}}, ["grid.yaml: axis 'seed'"]),
    ],
)
def test_mistakes_get_one_clear_line(tmp_path, change, parts):
    message = complaint(tmp_path, changed(**change))
    for part in parts:
        assert part in message, message


def test_unreadable_files(tmp_path):
    assert "demo" in complaint_of("nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    assert "YAML" in complaint_of(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    assert "mapping" in complaint_of(str(tmp_path / "list.yaml"))


def complaint_of(path):
    with pytest.raises(UserError) as caught:
        grids.load(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "change", [{"axes": None}, {"overrides": None}, {"overrides": "x"}, {"overrides": ["x"]}, {"axes": {1: [0]}}]
)
def test_sets_do_not_hide_what_is_wrong_with_the_file(tmp_path, change):
    text = yaml.safe_dump({**yaml.safe_load(BASE), **change})
    assert complaint(tmp_path, text, ["seed=[1]"]) == complaint(tmp_path, text)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    assert "'seed' stands twice" in complaint(tmp_path, BASE.replace("seed: [0, 1]", "seed: [0]\n  seed: [1]"))


@pytest.mark.parametrize("item", ["steps", "=4", "train.stepz=4", "seed=[", "evaluate.problem=3"])
def test_bad_sets(tmp_path, item):
    assert complaint(tmp_path, BASE, [item])


@pytest.mark.parametrize("field", ["architecture", "setting"])
def test_a_single_value_set_is_the_same_as_a_list_of_one(tmp_path, field):
    text = changed(
        exclude=[{"architecture": "lstm", "setting": "direct"}],
        overrides=[{"where": {"architecture": "lstm"}, "set": {"train.steps": 99}}],
    )
    value = {"architecture": "lstm", "setting": "direct"}[field]
    single = load(tmp_path, text, [f"{field}={value}"]).cells
    assert single == load(tmp_path, text, [f"{field}=[{value}]"]).cells
    assert {cell.id for cell in single} <= {cell.id for cell in load(tmp_path, text).cells}


def test_values_are_compared_as_cells_read_them(tmp_path):
    text = changed(
        axes={"train.learning_rate": [0.001, 0.002]},
        overrides=[{"where": {"train.learning_rate": "1e-3"}, "set": {"train.steps": 99}}],
    )
    steps = {cell.config.train.learning_rate: cell.config.train.steps for cell in load(tmp_path, text).cells}
    assert steps == {0.001: 99, 0.002: 10}


def test_other_names_for_the_same_thing_are_the_same_cell():
    plain = grids.resolve({"architecture": "gru"})
    for same in (
        {"architecture": "models.recurrent:GRU"},
        {"architecture": "gru", "task": "tasks.addition:Addition"},
        {"architecture": "gru", "tool": "pointer", "data_seed": 0},
        {"architecture": "gru", "train": {"validation": 5}},
    ):
        assert grids.resolve(same).id == plain.id


def test_only_what_may_not_go_together_is_tried_by_building_it(monkeypatch):
    tried = []
    monkeypatch.setattr(grids, "_try_model", lambda architecture, *_: tried.append(architecture))
    grids.resolve({"architecture": "gru"})
    grids.resolve({"architecture": "lstm", "model": {"layers": 2}})
    grids.resolve({"architecture": "models.recurrent:LSTM"})
    assert tried == ["lstm", "models.recurrent:LSTM"]


def test_ids_stay_what_they_are():
    """A cell keeps its id from version to version. If this fails because a default, a preset or a revision changed,
    that is right when the cell now trains to other weights; otherwise stored results have lost their name."""
    assert grids.resolve({"architecture": "gru"}).id == "814a89a4781fd917"
    assert (
        grids.resolve({"architecture": "mamba1", "setting": "direct", "train": {"steps": 7}}).id == "913651cd1c1857c8"
    )
    defaults = {
        "max_length": 5,
        "steps": 1000,
        "stop_after": None,
        "batch": 128,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
    }
    defaults |= {"warmup": 0.1, "clip": 1.0, "validation": 128, "mixture": {}, "stress": {}, "context": None}
    defaults |= {"initial_states": {}, "truncate": None}
    assert grids.Cell().train.model_dump() == defaults, "a changed default needs TRAINING_REVISION raised"


def test_names_tell_cells_apart(tmp_path):
    text = changed(axes={"train.steps": [5, 6], "setting": ["direct"]}, include=[{"train.steps": 7}])
    names = [cell.name for cell in load(tmp_path, text).cells]
    assert len(set(names)) == len(names)
    assert "addition direct gru steps=5 seed=0" in names


GRAPH = """
name: graphs
base: {task: logical_graph, train: {max_length: 4}}
axes: {tool_options.limit: [null, 64, 39]}
evaluate: {lengths: [4], problems: 4}
"""


def test_options_of_the_tool_are_an_axis_and_part_of_the_identity(tmp_path):
    plain, longer, shortest = load(tmp_path, GRAPH).cells
    assert [cell.config.tool_options for cell in (plain, longer, shortest)] == [{}, {"limit": 64}, {"limit": 39}]
    assert len({cell.id for cell in (plain, longer, shortest)}) == 3
    assert "limit=64" in longer.name
    bare = GRAPH.replace("{tool_options.limit: [null, 64, 39]}", "{seed: [0]}")
    assert load(tmp_path, bare).cells[0].id == plain.id
    assert load(tmp_path, bare, ["tool_options.limit=64"]).cells[0].id == longer.id
    assert len(load(tmp_path, GRAPH, ["tool_options.limit=[50, 60]"]).cells) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{limit: 20}", "needs a limit of at least 39 tokens"),
        ("{limits: 64}", "unknown search tool option 'limits', did you mean 'limit'?"),
        ("{limit: many}", "tool search: options {'limit': 'many'}"),
    ],
)
def test_impossible_options_of_the_tool_are_refused(tmp_path, options, message):
    text = GRAPH.replace("axes: {tool_options.limit: [null, 64, 39]}", f"axes: {{tool_options: [{options}]}}")
    assert message in complaint(tmp_path, text)


def test_options_with_which_the_solver_cannot_work_are_refused(tmp_path):
    text = changed(axes={"setting": ["interactive"], "tool_options.pointers": [1]})
    assert "tool_options {'pointers': 1}: the solver commands 'r2'" in complaint(tmp_path, text)


MIXED = """
name: mixed
base: {task: multiplication, train: {max_length: 3}}
axes: {train.mixture.addition: [0, 0.25, 0.5]}
evaluate: {lengths: [4], problems: 4}
"""


def test_a_mixture_is_an_axis_and_part_of_the_identity(tmp_path):
    none, quarter, half = load(tmp_path, MIXED).cells
    assert [cell.config.train.mixture for cell in (none, quarter, half)] == [{}, {"addition": 0.25}, {"addition": 0.5}]
    assert len({cell.id for cell in (none, quarter, half)}) == 3
    assert "addition=0.25" in quarter.name
    by_path = MIXED.replace(
        "train.mixture.addition: [0, 0.25, 0.5]", 'train.mixture: [{"tasks.addition:Addition": 0.5}]'
    )
    assert load(tmp_path, MIXED, ["train.mixture.addition=0.5"]).cells[0].id == half.id
    assert load(tmp_path, by_path).cells[0].id == half.id


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("{addition: 1.5}", "train.mixture.addition: Input should be less than or equal to 1"),
        ("{addition: 1.0}", "leaves nothing for the cell's own task"),
        ("{adition: 0.5}", "did you mean 'addition'?"),
    ],
)
def test_impossible_mixtures_are_refused(tmp_path, share, message):
    text = MIXED.replace("axes: {train.mixture.addition: [0, 0.25, 0.5]}", f"axes: {{train.mixture: [{share}]}}")
    assert message in complaint(tmp_path, text)


def test_stress_sets_of_the_training_are_checked_and_part_of_the_identity(tmp_path):
    text = MIXED.replace("axes: {train.mixture.addition: [0, 0.25, 0.5]}", "axes: {train.stress: [%s]}")
    none, half = load(tmp_path, text % "{}, {x1: 0.5}, {x1: 0}").cells  # a share of 0 is none
    assert none.id != half.id
    assert half.config.train.stress == {"x1": 0.5}
    assert "unknown stress set of multiplication 'x7'" in complaint(tmp_path, text % "{x7: 0.5}")
    assert "the shares sum to 1.5, more than 1" in complaint(tmp_path, text % "{x1: 0.75, x2: 0.75}")


def test_demanded_kernels_are_checked_when_the_grid_is_read(tmp_path):
    file = tmp_path / "grid.yaml"
    text = "name: g\naxes: {seed: [0]}\nevaluate: {lengths: [1]}\nrun: {kernels: {selective_scan: %s}}\n"
    file.write_text(text % "mamba_ssm")
    assert grids.load(str(file)).file.run.kernels == {"selective_scan": "mamba_ssm"}
    file.write_text(text % "fastest")
    with pytest.raises(UserError, match=r"run.kernels: selective_scan: 'fastest' is none of torch, triton, mamba_ssm"):
        grids.load(str(file))
