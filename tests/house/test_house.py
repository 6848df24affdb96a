"""The house's own rules: layers, file sizes, first lines, documents that tell the truth."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def test_layers_hold():
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-logo"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_fit_a_reader(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 350
    if path in SOURCES:
        assert ast.get_docstring(ast.parse("\n".join(lines))), "the first line says what a file is for"


@pytest.mark.parametrize(("library", "room"), [("lightning", "train"), ("lancedb", "index")])
def test_only_one_room_names_a_library(library, room):
    naming = [p for p in SOURCES if re.search(rf"^\s*(import|from) {library}", p.read_text(encoding="utf-8"), re.M)]
    assert {p.parent.name for p in naming} == {room}


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_documents_name_real_commands_and_files(document):
    from chiasm.cli import VERBS

    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.S))
    for line in blocks.splitlines():
        if line.startswith("chiasm "):
            words = line.split()[1:]
            assert any(tuple(words[: len(verb)]) == verb for verb in VERBS), line
        if line.startswith("make "):
            assert f"\n{line.split()[1]}: " in (ROOT / "Makefile").read_text(encoding="utf-8"), line
        for script in re.findall(r"(?:benchmarks|docs|examples)/[\w/.-]+", line):
            assert (ROOT / script).exists(), line
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / document).parent / target).exists(), target


def test_the_commands_page_is_up_to_date():
    code = "import runpy; page = runpy.run_path('docs/build.py'); print(page['commands_page']())"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert result.stdout.strip() == page.strip(), "run `make docs`"
