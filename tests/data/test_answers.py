"""Questions with answers, classes of pictures with texts, and rows that lack a part, in tables and folders."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chiasm.data.columns import answer_in
from chiasm.data.inspect import inspect_source
from chiasm.data.layouts import open_source
from chiasm.errors import UserError
from layout_files import draw, png, write, write_tar

ROWS = [
    ("a.png", "is it red?", "yes"),
    ("a.png", "how many?", "2"),
    ("b.png", "is it red?", "no"),
    ("a.png", "is it blue?", "no"),
]


def said(source):
    return [(e.key, e.group, e.texts, e.label) for e in source.examples]


EXPECTED = [
    ("a.png#0", "a.png", ("is it red?",), "yes"),
    ("a.png#1", "a.png", ("how many?",), "2"),
    ("a.png#2", "a.png", ("is it blue?",), "no"),
    ("b.png#0", "b.png", ("is it red?",), "no"),
]


def save_parquet(path: Path, columns: tuple[str, str, str]) -> Path:
    image = [{"bytes": png(ord(name[0])), "path": name} for name, _, _ in ROWS]
    pq.write_table(
        pa.table(dict(zip(columns, [image, *map(list, list(zip(*ROWS, strict=True))[1:])], strict=True))), path
    )
    return path


@pytest.mark.parametrize(
    "columns", [("image", "question", "answer"), ("img", "q", "a"), ("picture", "Question", "answers")]
)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_question_is_an_example_in_the_group_of_its_picture(
    tmp_path: Path, kind: str, columns: tuple[str, str, str]
):
    draw(tmp_path, "a.png", "b.png")
    path = tmp_path / f"t.{kind}"
    records = [dict(zip(columns, row, strict=True)) for row in ROWS]
    if kind == "parquet":
        save_parquet(path, columns)
    elif kind == "json":
        write(path, json.dumps(records))
    elif kind == "jsonl":
        write(path, *map(json.dumps, records))
    else:
        separator = "\t" if kind == "tsv" else ","
        write(path, separator.join(columns), *map(separator.join, ROWS))
    source = open_source(path)
    assert said(source) == EXPECTED
    assert "2 pictures, 4 questions with answers" in source.understood
    assert f"question in {columns[1]!r}, answer in {columns[2]!r}" in source.understood
    findings = inspect_source(source)
    assert findings.total == 2 and not findings.duplicates and not findings.groups_across_splits


def test_questions_of_one_picture_stay_on_one_side_of_every_split(tmp_path: Path):
    names = [f"{i}.png" for i in range(40)]
    draw(tmp_path, *names)
    rows = [f"{name},what is {word}?,{word}" for word in ("x", "y", "z") for name in names]
    source = open_source(write(tmp_path / "t.csv", "image,question,answer", *rows))
    groups = [{example.group for example in source.split(name)} for name in source.splits]
    assert sum(map(len, groups)) == 40 and min(map(len, groups)) >= 1
    assert sum(map(len, source.splits.values())) == 120


def test_a_question_without_an_answer_column_names_the_columns(tmp_path: Path):
    draw(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,question,reply", "a.png,is it?,yes")
    with pytest.raises(UserError, match=r"which column holds the answer to 'question'") as caught:
        open_source(table)
    assert "label_column" in caught.value.hint and "image, question, reply" in caught.value.hint
    assert said(open_source(table, label_column="reply")) == [("a.png#0", "a.png", ("is it?",), "yes")]


def test_empty_answers_and_questions_are_skipped_and_counted(tmp_path: Path):
    draw(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,question,answer", "a.png,is it?,", "a.png,,yes", "a.png,is it now?,yes")
    source = open_source(table)
    assert [(e.texts, e.label) for e in source.examples] == [(("is it now?",), "yes")]
    assert "1 rows without an answer skipped" in source.understood
    assert "1 rows without a caption skipped" in source.understood
    with pytest.raises(UserError, match="2 without an answer"):
        open_source(write(tmp_path / "u.csv", "image,question,answer", "a.png,is it?,", "a.png,or not?, "))


def test_of_several_answers_the_most_frequent_counts():
    assert answer_in(["no", "yes", "yes"]) == answer_in([{"answer": "yes", "answer_id": 1}]) == "yes"
    assert answer_in(3) == "3" and answer_in(None) == answer_in([]) == answer_in(" ") == ""
    assert answer_in(["b", "a"]) == "b"


def test_single_letters_are_no_question_without_each_other(tmp_path: Path):
    draw(tmp_path, "a.png")
    source = open_source(write(tmp_path / "t.csv", "image,caption,q", "a.png,a dog,7", "a.png,the dog,8"))
    assert source.examples[0].texts == ("a dog", "the dog")


def test_captions_of_one_picture_with_several_classes_stay_apart(tmp_path: Path):
    draw(tmp_path, "a.png", "b.png")
    rows = ["a.png,so nice,kind", "a.png,so bad,unkind", "b.png,one,kind", "b.png,two,kind"]
    source = open_source(write(tmp_path / "t.csv", "image,text,label", *rows))
    assert said(source) == [
        ("a.png#0", "a.png", ("so nice",), "kind"),
        ("a.png#1", "a.png", ("so bad",), "unkind"),
        ("b.png", "", ("one", "two"), "kind"),
    ]


def test_folders_of_classes_with_texts_beside(tmp_path: Path):
    draw(tmp_path, "cat/1.png", "dog/2.png")
    write(tmp_path / "cat" / "1.txt", "it sleeps")
    write(tmp_path / "dog" / "2.txt", "it barks", "it runs")
    assert [(e.label, e.texts) for e in open_source(tmp_path).examples] == [
        ("cat", ("it sleeps",)),
        ("dog", ("it barks", "it runs")),
    ]


def test_rows_may_lack_a_part_where_that_is_allowed(tmp_path: Path):
    draw(tmp_path, "a.png", "b.png")
    write(tmp_path / "s.wav", "")
    lines = ["image,audio,text,label", "a.png,s.wav,one,x", "b.png,,,y", ",s.wav,,x", ",,three,y", ",,,x"]
    table = write(tmp_path / "t.csv", *lines)
    source = open_source(table, partial=True)
    parts = [(e.image and e.image.name, e.sound and e.sound.name, e.texts, e.label) for e in source.examples]
    assert parts == [
        ("a.png", "s.wav", ("one",), "x"),
        ("b.png", None, (), "y"),
        (None, "s.wav", (), "x"),
        (None, None, ("three",), "y"),
    ]
    assert len({e.key for e in source.examples}) == 4
    assert "2 pictures, 2 sounds, 2 captions" in source.understood and "1 rows empty skipped" in source.understood
    whole = open_source(table)
    assert [e.key for e in whole.examples] == ["a.png"]
    assert "1 rows without a caption skipped" in whole.understood
    assert "3 rows without a picture skipped" in whole.understood


def test_a_class_is_no_text_where_it_is_what_a_model_should_say(tmp_path: Path):
    draw(tmp_path / "folders", "cat/1.png", "dog/2.png")
    write(tmp_path / "t.csv", "image,label", "folders/cat/1.png,cat", "folders/dog/2.png,dog")
    write_tar(tmp_path / "t.tar", **{"1.png": png(1), "1.cls": "cat", "2.png": png(2), "2.cls": "dog"})
    for path in (tmp_path / "folders", tmp_path / "t.csv", tmp_path / "t.tar"):
        assert [(e.texts, e.label) for e in open_source(path).examples] == [(("cat",), "cat"), (("dog",), "dog")]
        assert [(e.texts, e.label) for e in open_source(path, partial=True).examples] == [((), "cat"), ((), "dog")]
