"""The words of the project: texts use the terms of the field, and one word for one thing."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What not to write, and what to write instead.
WORDS = {
    r"\bheld at zero\b|\bholds? (?:the )?(?:weights|units) .{0,30}at zero\b": "masked, masks",
    r"\bby turns\b|\bin turns\b": "interleaved",
    r"\bclass(?:es)? of units\b|\bclass members?\b": "group",
    r"\bunits? (?:that|which) (?:leaves?|have left|has left)\b|\blet(?:s|ting)? (?:it|them|units) go\b": "removed",
    r"\bcut (?:out|for good)\b": "removed, pruned",
    r"\bcondemned\b": "dead",
    r"\bsaliency, hold\b|\bput(?:s)? zeros beside\b": "pads",
    r"(?-i:\bSo [A-Z]\w+ it is\b)|\bIt cannot\.|: whatever for\b": "a plain sentence",
    r"\bsince then\b|\bused to be\b|\bnow(?:adays)? it\b|\bno longer than before\b": "what is, not what was",
    r"\bwhat(?:ever)? is left to\b": "a plain sentence",
    r"\b(?:penal|regular|normal|optim|initial|general|organ|recogn|minim|maxim)is(?:e|ed|es|ing|ation)\b": "-ize",
    r"\b(?:behaviour|colour|favour|neighbour|centre|labelled|modelling|travelled|grey)\w*": "American spelling",
}
PATTERNS = {re.compile(pattern, re.IGNORECASE): instead for pattern, instead in WORDS.items()}
PACKAGES = ("demp_jax", "baselines", "experiments", "benchmarks", "configs")


def _texts(path):
    """Yields numbers of lines with prose: comments and docstrings of Python, cells of notebooks, lines of pages."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(text)["cells"], 1):
            if cell["cell_type"] == "markdown":
                yield number, " ".join("".join(cell["source"]).split())
        return
    if path.suffix == ".md":
        for paragraph in re.finditer(r"(?:^(?!```).+\n?)+", text, re.MULTILINE):
            yield text.count("\n", 0, paragraph.start()) + 1, " ".join(paragraph[0].split())
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield getattr(node, "lineno", 1), " ".join(docstring.split())


def _found(path):
    for line, text in _texts(path):
        for pattern, instead in PATTERNS.items():
            for match in pattern.finditer(text):
                yield f"{path.name}:{line}: {match[0]!r}, say: {instead}"


def _pages():
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"))
    yield from sorted((ROOT / "docs").glob("*.md"))
    yield from sorted((ROOT / "notebooks").glob("*.ipynb"))
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def test_texts_use_the_words_of_the_field():
    found = [hit for path in _pages() for hit in _found(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "Weights are\nheld at zero.\n"),
        ("code.py", 'def f():\n    """Returns the behaviour."""\n    # Timed by turns.\n'),
        ("book.ipynb", json.dumps({"cells": [{"cell_type": "markdown", "source": ["the class of ", "units"]}]})),
    ],
)
def test_other_words_are_found(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert len(list(_found(tmp_path / name))) == text.count("behaviour") + 1
