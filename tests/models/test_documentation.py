"""The example of docs/add-an-architecture.md, executed as it stands there."""

import re
import sys
from pathlib import Path

import pytest
import torch

from models.base import SequenceModel
from models.build import build, full_options
from models.conformance import CHECKS, trained

PAGE = Path(__file__).parents[2] / "docs" / "add-an-architecture.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
NAME = "mypackage.mymodel:MyModel"


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "mymodel.py").write_text(BLOCKS[0])
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for module in [name for name in sys.modules if name.startswith("mypackage")]:
        del sys.modules[module]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_example_conforms(check):
    torch.set_num_threads(1)
    check(trained(build(NAME, "tiny", 16, seed=0)))


def test_the_test_of_the_page_runs_the_same_checks():
    names: dict = {}
    exec(BLOCKS[1], names)
    assert names["CHECKS"] is CHECKS
    names["test_my_model"](CHECKS[0])


def test_options_and_revision_of_an_import_path():
    assert full_options(NAME, "tiny", {"d_model": 192}) == ({"d_model": 192}, 1)
    with pytest.raises(ValueError, match=r"unknown option of mypackage.mymodel:MyModel 'd_modle'"):
        build(NAME, "tiny", 16, {"d_modle": 3})


def test_the_page_names_every_abstract_method():
    for method in SequenceModel.__abstractmethods__:
        assert f"`{method}(" in PAGE.read_text()
