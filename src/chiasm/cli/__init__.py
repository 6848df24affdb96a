"""The command line: a table of verbs, each a function whose signature is its help, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = {
    ("train",): ("chiasm.cli.train", "train", "train a model on pictures, texts, or both"),
    ("compare",): ("chiasm.cli.compare", "compare", "which architecture suits the data, at equal cost, as a page"),
    ("caption",): ("chiasm.cli.caption", "caption", "write captions for pictures, and show where the model looked"),
    ("write",): ("chiasm.cli.write", "write", "write texts with a language model, or go on with yours"),
    ("classify",): ("chiasm.cli.classify", "classify", "which of your labels, or of its classes, fits each picture"),
    ("answer",): ("chiasm.cli.answer", "answer", "answer questions about a picture"),
    ("match",): ("chiasm.cli.match", "match", "tell whether captions belong to a picture"),
    ("embed",): ("chiasm.cli.embed", "embed", "vectors of pictures or texts, as Parquet or npy"),
    ("index",): ("chiasm.cli.index", "index", "embed a data set's pictures into a table that can be searched"),
    ("search",): ("chiasm.cli.search", "search", "find pictures by words, by a picture, or both"),
    ("evaluate",): ("chiasm.cli.evaluate", "evaluate", "score a trained model on data, with intervals"),
    ("report",): ("chiasm.cli.report", "report", "a page of a training or a comparison, in one file"),
    ("interpolate",): ("chiasm.cli.interpolate", "interpolate", "models between a model and its fine-tuned version"),
    ("import",): ("chiasm.cli.pretrained", "import_", "make a bundle of published weights: CLIP, ViT, GPT-2, ..."),
    ("export",): ("chiasm.cli.pretrained", "export", "write a model's weights as Hugging Face's CLIP or ViT"),
    ("data", "check"): ("chiasm.cli.data", "check", "what is in a data set: formats, broken files, duplicates, leaks"),
    ("cost",): ("chiasm.cli.cost", "cost", "parameters, FLOPs, memory and minutes of a model, before training"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        from chiasm import __version__

        print(f"chiasm {__version__}")
        return 0
    verb = next((v for v in VERBS if tuple(args[: len(v)]) == v), None)
    if verb is None:
        return _help(args)
    from chiasm.cli.parse import call
    from chiasm.errors import UserError
    from chiasm.machine import let_threads_sleep

    let_threads_sleep(os.environ)

    module, function, _ = VERBS[verb]
    try:
        return call(getattr(import_module(module), function), args[len(verb) :], "chiasm " + " ".join(verb)) or 0
    except UserError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` does
        sys.stderr.close()
        return 0


def _help(args: list[str]) -> int:
    wanted = not args or args[0] in ("-h", "--help")
    lines = [
        "usage: chiasm COMMAND ...",
        "",
        "Train, search and serve models that join pictures and text, on your own data.",
        "",
    ]
    lines += [f"  {' '.join(verb):<18} {text}" for verb, (_, _, text) in VERBS.items()]
    lines += ["", "`chiasm COMMAND --help` explains a command."]
    if not wanted:
        lines.insert(0, f"error: there is no command {' '.join(args[:2])!r}\n")
    print("\n".join(lines), file=sys.stdout if wanted else sys.stderr)
    return 0 if wanted else 2
