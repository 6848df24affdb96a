"""`chiasm data check`: a report as text and JSON, and a contact sheet."""

import json

from PIL import Image


def test_a_report_as_text_and_json_and_a_sheet(ask, shelf, tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes((shelf / f"{i}.png").read_bytes())
        (tmp_path / f"{i}.txt").write_text("a shape")
    (tmp_path / "3.png").write_bytes(b"")
    code, out, err = ask("data", "check", tmp_path, "--out", tmp_path / "check")
    assert (code, err) == (0, "")
    assert str(tmp_path / "check/report.json") in out
    assert "3.png" in out
    report = (tmp_path / "check/report.json").read_text()
    assert json.loads(report)
    assert "the file is empty" in report
    with Image.open(tmp_path / "check/sheet.png") as sheet:
        assert min(sheet.size) > 50


def test_data_that_is_not_there(ask, tmp_path):
    code, out, err = ask("data", "check", tmp_path / "nowhere", "--out", tmp_path / "check")
    assert (code, out) == (2, "")
    assert "nowhere" in err
    assert not (tmp_path / "check").exists()
    assert ask("data", "check", "shapes", "--samples", "2", "--out", tmp_path / "check")[0] == 2
