"""The table of verbs: help, speed, exit codes, and no traceback for what the user can mend."""

import subprocess
import sys
import time

import pytest

import chiasm
from chiasm import cli
from chiasm.errors import UserError


def python(*words):
    start = time.perf_counter()
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    return result, time.perf_counter() - start


def test_help_lists_all_verbs_in_half_a_second():
    results = [python("-m", "chiasm", "--help") for _ in range(3)]
    assert min(seconds for _, seconds in results) < 0.5
    for result, _ in results:
        assert (result.returncode, result.stderr) == (0, "")
        for verb in cli.VERBS:
            assert f"  {' '.join(verb)} " in result.stdout


def test_importing_is_quick_and_light():
    code = "import sys, chiasm; print([m for m in ('torch', 'lightning', 'numpy', 'PIL') if m in sys.modules])"
    results = [python("-c", code) for _ in range(3)]
    assert min(seconds for _, seconds in results) < 0.3
    assert results[0][0].stdout == "[]\n"


def test_the_installed_program_is_the_module():
    listed, _ = python("-m", "chiasm")
    assert listed.stdout.startswith("usage: chiasm COMMAND")
    assert python("-m", "chiasm", "nonsense")[0].returncode == 2


@pytest.mark.parametrize("verb", cli.VERBS, ids=" ".join)
def test_every_verb_explains_itself(verb, ask):
    code, out, err = ask(*verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: chiasm {' '.join(verb)} ")
    options = out.partition("options:")[2]
    for line in options.splitlines():
        if line.startswith("  --") and not line.startswith("  --help"):
            described = line.split("  ")[-1] if "  " in line.strip() else "on the next line"
            assert described.strip(), line


def test_version(ask):
    assert ask("--version") == (0, f"chiasm {chiasm.__version__}\n", "")


@pytest.mark.parametrize("words", [("fly",), ("fly", "planes"), ("data",), ("data", "planes"), ("--train",)])
def test_unknown_verbs_list_the_known_ones(words, ask):
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: there is no command {' '.join(words)!r}")
    assert "chiasm COMMAND --help" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("caption run a.png --top-q 3", "unrecognized arguments: --top-q"),
        ("caption run a.png --mode greedyy", "'greedy', 'sample', 'beam'"),
        ("caption run a.png --beams many", "many"),
        ("caption run", "pictures"),
        ("evaluate run", "data"),
        ("train captioner shapes", "out"),
        ("cost captioner tiny --text-tokens none", "text"),
    ],
)
def test_wrong_arguments_are_named(words, told, ask):
    code, out, err = ask(*words.split())
    assert (code, out) == (2, "")
    assert told in err.splitlines()[-1] + err.splitlines()[-2]


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (UserError("It broke", "Mend it."), 2, "error: It broke\n  Mend it.\n"),
        (UserError("It broke"), 2, "error: It broke\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_how_errors_end_a_command(raised, code, told, monkeypatch, capsys):
    def call(*_):
        raise raised

    monkeypatch.setattr("chiasm.cli.parse.call", call)
    assert cli.main(["cost"]) == code
    assert capsys.readouterr().err == told


def test_a_reader_who_has_seen_enough_is_no_error():
    code = "import sys; from chiasm import cli; from chiasm.cli import parse;\n"
    code += "parse.call = lambda *_: [print('line', flush=True) for _ in range(10_000)] and 0\n"
    code += "sys.exit(cli.main(['cost']))"
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout.readline() == b"line\n"
    program.stdout.close()
    assert (program.wait(), program.stderr.read()) == (0, b"")
    program.stderr.close()


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    def call(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("chiasm.cli.parse.call", call)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["cost"])
