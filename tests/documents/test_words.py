"""The words of the project: one term for one thing, American spelling, sentences with subject and verb.

They are checked in pages, Markdown cells of notebooks, and comments and strings of packages, but not in backticks.
"""

import io
import re
import tokenize

import nbformat
import pytest

from tests.pages import PAGES, ROOT

PACKAGES = ("baselines", "benchmarks", "configs", "demp_jax", "experiments")
FILES = {
    "pages": [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"],
    "notebooks": sorted((ROOT / "notebooks").glob("*.ipynb")),
    "sources": sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
}
ROOTS = "custom|factor|final|general|initial|linear|local|maxim|memor|minim|normal|optim|organ|parametr|penal|quant"
ROOTS += "|real|recogn|regular|serial|special|standard|summar|synchron|token|util|vector|visual"

# A pattern, in which a space matches any white space, and what to say instead.
WORDS = (
    (r"(by|in) turns|(takes?|taking|took) (its|their) turns?", "interleaved"),
    (r"(held|holds?|holding)( \S+)? at zero", "masked, masks"),
    (r"(cut|cuts|cutting) out", "prune, remove"),
    (r"class(es)? (members?|of units)|members? of (a|the) class", "group"),
    (r"units? (leaves?|goe?s?|(is|are) gone)", "the units are removed"),
    (r"lets? go|letting go", "remove"),
    (r"live (units?|channels?|groups?)|condemned|(idle|unread) (units?|neurons?|channels?)", "alive, dead"),
    (r"makers? and uses?|makers? of (an?|the|its) units?", "producer, consumer"),
    (r"takes? (a|one|another) (training )?step|steps? (is|are|was|were) taken", "runs a step"),
    (r"puts? (zeros|channels)", "pads"),
    (r"config(uration)? keys?|keys? of (a|the) config", "config options"),
    (r"(run|run's) folders?|folders? of (a|the) runs?", "run directory"),
    (r"checkpoint('s)? meta|the metas?|surgery|surgical", "checkpoint metadata; plan"),
    (r"[Ss]ince then|(has|have) since been|(was|were|is|are) changed since", "what is, not its history"),
    (r"So [^.]{1,40} it is\.|(?<=[.:]\s)It (cannot|can|does|has)\.|whatever for\.", "a whole sentence"),
    (r"the same of|what is, too|what there is of|as (it|they) comes?", "a noun"),
    (rf"\w*({ROOTS})is(e|ed|es|ers?|ing|ations?)", "-ize, -ization"),
    (r"\w*(behavio|colo|favo|neighbo|hono)ur\w*|\w*(labe|mode|trave)ll(ed|ing|er)|\w*artefact\w*|centred?", "American"),
)


def prose(path):
    """Yields the texts of a file, each with a name for messages. Lines are those of the file, or of the cell."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        yield from ((f"{path.name}, cell {n}", c.source) for n, c in enumerate(cells) if c.cell_type == "markdown")
        return
    text = path.read_text()
    if path.suffix == ".py":
        rows = [""] * (text.count("\n") + 1)
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if tokenize.tok_name[token.type] in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
                for n, line in enumerate(token.string.split("\n"), token.start[0] - 1):
                    rows[n] += " " + line.lstrip("#")
        text = "\n".join(rows)
    yield str(path.relative_to(ROOT)), text


def wrong(name, text):
    """Returns a message for each wrong word in a text."""
    text = re.sub(r"`[^`\n]+`", "``", text)
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {' '.join(match[0].split())!r}; say: {say}"
        for pattern, say in WORDS
        for match in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)".replace(" ", r"\s+"), text)
    ]


@pytest.mark.parametrize("kind", FILES)
def test_words(kind):
    messages = [message for path in FILES[kind] for name, text in prose(path) for message in wrong(name, text)]
    assert not messages, "\n".join(messages)
