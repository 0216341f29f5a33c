"""The notebooks run from top to bottom, hold what they gave, and install from the one address of the project."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from benchmarks import realistic_loop
from experiments.rundir.records import read_lines
from tests.runs import needs_tfds

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
[URL] = re.findall(r'^URL = "(.+?)"', (ROOT / "setup.py").read_text(), re.M)

# What must be true at the end of each, as code that runs in it.
CHECKS = {
    "demp_in_ten_minutes": """
        assert cuts[-1][1].neurons[1] < cuts[0][1].neurons[0], "no neuron died"
        assert all(difference < 1e-4 for *_, difference in cuts)
        assert found[0]["neurons"] == 5 * WIDTH > found[1]["neurons"] == cuts[-1][1].neurons[1]
        assert all(found[1][name] < found[0][name] for name in ("parameters", "FLOPs"))
        assert all(sum(alive.values()) <= 5 * WIDTH for _, alive in history)
    """,
    "your_own_loop": """
        for name, cuts in records.items():
            assert cuts[-1].neurons[1] < cuts[0].neurons[0], f"no neuron of {name} died"
            assert all(record.difference < 1e-4 for record in cuts)
        assert model.layers[0].out_features == model.norms[0].weight.size < 2 * WIDTH
    """,
    "reproduce_a_figure": """
        assert {v["outcome"] for v in json.loads((made / "lemmaB2.json").read_text())["verdicts"]} == {"holds"}
        assert parameters == summary["parameters"] == metrics[-1]["parameters"]
        assert logged[-1]["step"] == summary["steps"]
    """,
    "export_and_serve": """
        assert about["parameters"] < about["dense_parameters"], "no neuron died"
        assert done.stdout == "MLP (3, 10)\\n"
        from experiments.rundir.checkpoints import load_pruned
        logits = load_pruned(workdir)((digits.images[..., None] / 16).astype(np.float32))
        assert (answers == np.argmax(logits, -1)).all()
    """,
    "realistic_loop": realistic_loop.RECORD
    + """
        prunes = [each for each in history if each["record"].removed]
        assert final["parameters"] < dense_final["parameters"], "no unit died"
        assert all(change < 1e-3 for each in prunes for change in each["change"])
        assert same
        assert widths(resumed.model) == widths(run.model) == widths(run.ema)
        assert tuned.pruner.steps == TUNE_STEPS
    """,
}


def _quick(name):
    if name == "demp_in_ten_minutes":
        return name
    return pytest.param(name, marks=[pytest.mark.slow, *[needs_tfds] * (name == "realistic_loop")])


@pytest.mark.parametrize("name", [_quick(name) for name in CHECKS])
def test_it_runs(name, tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"runs/notebook"', repr(str(tmp_path)))
    check = "\n".join(line.removeprefix(" " * 8) for line in CHECKS[name].strip().splitlines())
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    # One device, as users have, and nothing of a user's own settings of IPython.
    flags = {"DEMP_JAX_QUICK": "1", "XLA_FLAGS": "--xla_backend_optimization_level=0", "IPYTHONDIR": str(tmp_path)}
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, **flags})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    # No path of the machine it ran on.
    assert not re.findall(r"(?:^|[\s\"'(\[])/(?:[\w.-]+/)+", re.sub(r'"image/png": ".*?"', "", path.read_text()))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_installs_from_the_projects_address(path):
    notebook = nbformat.read(path, as_version=4)
    place = f"github/{URL.removeprefix('https://github.com/')}/blob/main/notebooks/{path.name}"
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    link = f"[![Open in Colab]({badge})](https://colab.research.google.com/{place})"
    sources = "\n".join(cell.source for cell in notebook.cells)
    assert sources.count(URL) == sources.count("github.com") == 1
    assert sources.count(link) == sources.count(place) == 1
    assert link in notebook.cells[0].source
    assert link in (ROOT / "docs" / "tutorials.md").read_text()


def test_every_notebook_is_tested_and_the_tutorials_have_one_address():
    assert {path.stem for path in NOTEBOOKS} == set(CHECKS)
    others = re.findall(
        r"colab\.research\.google\.com/(github/[\w-]+/[\w-]+)/", (ROOT / "docs" / "tutorials.md").read_text()
    )
    assert set(others) == {URL.replace("https://github.com", "github")}


def test_the_realistic_loop_shows_the_table_of_its_records():
    notebook = nbformat.read(realistic_loop.NOTEBOOK, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    records = read_lines(realistic_loop.OUT)
    assert sum("\nSEED = 0\n" in source for source in sources) == 1
    assert [record["seed"] for record in records] == [0, 1, 2]
    assert sum(realistic_loop.table(records) in source for source in sources) == 1
    assert all(record["resumed_is_equal"] for record in records)
