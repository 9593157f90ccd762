"""What the code says about the specification is what the specification says.

Two forms are checked, in comments and docstrings. A reference, `RM-01, "Prices"`, must name a heading of that document.
A quotation, `RM-01: "…"`, which may run over several comment lines, must stand in that document word for word.
"""

import ast
import io
import re
import tokenize
from functools import cache

from tests.house import tree

QUOTATION = re.compile(r'\b(RM-\d\d): "([^"]+)"')
REFERENCE = re.compile(r'\b(RM-\d\d), ("[^"]+"(?:(?:, | and |, and )"[^"]+")*)')


@cache
def documents() -> dict[str, str]:
    """Our specification's documents by number, white space made equal."""
    found = {}
    for path in tree.files():
        if match := re.fullmatch(r"nips/(RM-\d\d).*\.md", path):
            found[match.group(1)] = tree.text_of(path) or ""
    return found


def _words(text: str) -> str:
    return " ".join(text.split())


def _headings(document: str) -> set[str]:
    return {_words(match.group(1)) for match in re.finditer(r"^#+ +(?:[\d.]+ +)?(.+?) *$", document, re.MULTILINE)}


def _prose(module: tree.Module) -> list[tuple[int, str]]:
    """Docstrings, other bare strings, and blocks of comment lines, each as one text with its first line."""
    texts = [
        (node.lineno, node.value.value)
        for node in module.nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                texts.append((first, " ".join(block)))
                block = []
            first = first if block else token.start[0]
            last = token.start[0]
            block.append(token.string.lstrip("#").strip())
    if block:
        texts.append((first, " ".join(block)))
    return texts


def _claims(pattern: re.Pattern[str]) -> list[tuple[str, str, str]]:
    """(where, document, what is said of it) for every match in all our Python."""
    return [
        (f"{module.path}:{line}", match.group(1), match.group(2))
        for module in tree.everything()
        if not module.path.startswith("tests/house/test_quotes")
        for line, text in _prose(module)
        for match in pattern.finditer(_words(text))
    ]


def test_quotations_stand_in_the_specification_word_for_word() -> None:
    found = [
        f'{where}: {number}: "{quotation}"'
        for where, number, quotation in _claims(QUOTATION)
        if quotation not in _words(documents().get(number, ""))
    ]
    assert not found, "not in nips/:\n" + "\n".join(found)


def test_references_name_headings_that_exist() -> None:
    found = [
        f'{where}: {number}, "{heading}"'
        for where, number, headings in _claims(REFERENCE)
        if documents()
        for heading in re.findall(r'"([^"]+)"', headings)
        if heading not in _headings(documents().get(number, ""))
    ]
    assert not found, "no such heading in nips/:\n" + "\n".join(found)


def test_the_two_forms_are_recognised() -> None:
    assert QUOTATION.findall('as RM-01: "one division" says') == [("RM-01", "one division")]
    assert REFERENCE.findall('(RM-01, "Offer" and "Prices").') == [("RM-01", '"Offer" and "Prices"')]
    assert _headings("# RM-01\n\n## 2. Prices\n### Content rules \n") == {"RM-01", "Prices", "Content rules"}
