"""`chiasm report`: where the page is, and what is no run."""

from report import examples


def test_the_page_of_a_run(run, ask, tmp_path):
    code, out, err = ask("report", run)
    assert (code, out.split(), err) == (0, [str(run / "report.html")], "")
    assert "Captioner trained on shapes-lesson" in (run / "report.html").read_text()
    code, out, err = ask("report", run, "--out", tmp_path / "other.html")
    assert (code, out.split()) == (0, [str(tmp_path / "other.html")])
    (run / "report.html").unlink()


def test_the_page_of_a_comparison(ask, tmp_path):
    examples.write(examples.comparison(), tmp_path)
    code, out, err = ask("report", tmp_path)
    assert (code, out.split(), err) == (0, [str(tmp_path / "report.html")], "")
    code, out, err = ask("report", tmp_path, "--out", tmp_path / "other.html")
    assert (code, out) == (2, "") and "--out" in err
    (tmp_path / "results.json").write_text("{")
    code, out, err = ask("report", tmp_path)
    assert (code, out) == (2, "") and "results.json" in err


def test_what_is_no_run(ask, tmp_path, run):
    code, out, err = ask("report", tmp_path / "none")
    assert (code, out) == (2, "") and "There is no folder" in err and "chiasm train" in err
    code, out, err = ask("report", run / "bundle")
    assert (code, out) == (2, "") and "without its training" in err
