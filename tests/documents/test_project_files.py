"""The files around the code agree with one another, and an installed package is found from everywhere."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = (ROOT / "setup.py").read_text()


def test_the_citation_has_the_projects_address():
    [url] = re.findall(r'^URL = "(.+?)"', SETUP, re.M)
    assert f'repository-code: "{url}"' in (ROOT / "CITATION.cff").read_text()


def test_no_dependency_is_an_address():
    """PyPI refuses packages with one."""
    assert not re.findall(r'"[\w\[\]-]+ *@.*?"', SETUP)


def test_contributing_links_to_files_and_names_targets():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for link in re.findall(r"\]\(([^)#:]+)", text):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:benchmarks|configs|demp_jax|docs|experiments|results|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\bmake ([\w-]+)", text):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target


def test_the_package_is_found_beside_a_folder_of_its_name(tmp_path):
    """As in the folder that holds a clone named demp_jax."""
    (tmp_path / "demp_jax").symlink_to(ROOT)
    code = "import importlib.util; print(importlib.util.find_spec('demp_jax').origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("__init__.py"), done.stdout
