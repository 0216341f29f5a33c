"""The files around the code agree with one another, and an installed package is found from everywhere."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = (ROOT / "setup.py").read_text()


def test_no_dependency_is_an_address():
    """PyPI refuses packages with one."""
    assert not re.findall(r'"[\w\[\]-]+ *@.*?"', SETUP)


def test_the_package_is_found_beside_a_folder_of_its_name(tmp_path):
    """As in the folder that holds a clone named demp_jax."""
    (tmp_path / "demp_jax").symlink_to(ROOT)
    code = "import importlib.util; print(importlib.util.find_spec('demp_jax').origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("__init__.py"), done.stdout
