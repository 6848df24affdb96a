"""`chiasm data ...`: looking at data before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.data.inspect import inspect_source
from chiasm.data.layouts import open_source
from chiasm.data.shapes import ShapesConfig
from chiasm.data.sheet import contact_sheet


def check(
    data: str,
    *,
    out: Path = Path("data-check"),
    context: int = 32,
    image_column: str | None = None,
    text_column: str | None = None,
    difficulty: Literal["lesson", "easy", "hard"] = "easy",
    samples: int = 10_000,
) -> int:
    """What is in a data set: counts, formats, sizes, caption lengths, broken and duplicate pictures, leaks.

    Prints a report; OUT gets the same as report.json, and sheet.png with some pictures of each split.

    Args:
        data: a folder, a table (CSV, TSV, JSONL, JSON, Parquet), tar shards, a Hub id, or the built-in emoji or shapes
        out: the folder for the report and the contact sheet
        context: the most tokens of a text in the model that is planned, BOS and EOT counted
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions, where guessing fails
        difficulty: of the built-in shapes
        samples: how many of the built-in shapes
    """
    shapes = configs.from_dict(ShapesConfig, {"difficulty": difficulty, "samples": samples})
    source = open_source(data, image_column=image_column, text_column=text_column, shapes=shapes)
    findings = inspect_source(source, tokenizer_context=context)
    print(findings.as_text().rstrip())
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(findings.to_json() + "\n", encoding="utf-8")
    contact_sheet(source, out / "sheet.png")
    print(f"\nreport     {out / 'report.json'}\npictures   {out / 'sheet.png'}")
    return 0
