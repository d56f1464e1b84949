import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser):
    parser.addoption("--record", metavar="FOLDER", help="write each comparison's result there as JSON")


@pytest.fixture
def record(request):
    """record(name, result) keeps a comparison's figures as FOLDER/name.json when --record FOLDER was given."""

    def keep(name: str, result: dict) -> None:
        folder = request.config.getoption("--record")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    return keep
