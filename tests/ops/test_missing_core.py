import subprocess
import sys


def test_a_missing_core_is_a_named_error():
    """In a process of its own, where the compiled core is hidden."""
    code = (
        "import sys; sys.modules['fastrestore._C'] = None\n"
        "from fastrestore.errors import MissingDependency\n"
        "try:\n    import fastrestore.ops\n"
        "except MissingDependency as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install ." in result.stdout
