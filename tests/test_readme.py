"""The README's figures are those of the committed results."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_results(tables):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(tables.PLACE.findall(text)) >= 1
    assert tables.made(text) == text


def test_a_changed_figure_is_noticed(tables):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = tables.PLACE.sub(lambda match: match[1] + "| 1 |\n" + match[4], text)
    assert changed != text and tables.made(changed) == text
