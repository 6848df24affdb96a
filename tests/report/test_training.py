"""The page of a training: it says what the run's files hold, for every kind of model, and can be read anywhere."""

import html
import json
import re
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from chiasm.errors import UserError
from chiasm.evaluate import TOLD
from chiasm.report.album import Album
from chiasm.report.page import number
from chiasm.report.recorded import read_run
from chiasm.report.training import training_page, write_training
from chiasm.report.verdict import NAMES
from chiasm.train.findings import Finding, write_findings
from report.browser import contrast, visit
from report.runs import COMMANDS, NASTY, trained


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def page():
    """A function that writes the page of a kind of run, once."""
    written = {}

    def page(name):
        if name not in written:
            written[name] = write_training(trained(name))
        return written[name]

    return page


@pytest.fixture
def copy(tmp_path):
    """A run's folder that may be damaged."""
    return shutil.copytree(trained("lm"), tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))


def words(markup):
    """What is read of some HTML, between single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def body(path):
    return words(path.read_text(encoding="utf-8").partition("</style>")[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_score_stands_on_the_page(name, page):
    assert page(name) == trained(name) / "report.html" and page(name).stat().st_size < 5_000_000
    found = json.loads((trained(name) / "evaluation.json").read_text())
    source = page(name).read_text(encoding="utf-8")
    cells = [re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.S) for row in re.findall("<tr.*?</tr>", source, re.S)]
    rows = {words(row[0]): [words(cell) for cell in row[1:]] for row in cells if row}
    for place, split in enumerate(found.values()):
        for score, own in split["scores"].items():
            told = rows[NAMES.get(score, score.replace("_", " "))][place]
            assert told == f"{number(own['value'])} {number(own['low'])} to {number(own['high'])}", (name, score)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_was_said_stands_on_the_page(name, page):
    folder, text = trained(name), body(page(name))
    (told,) = (folder / own for own in TOLD.values() if (folder / own).exists())
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    rows = [row for row in rows if row["split"] == rows[0]["split"]]
    for row in rows[:10]:  # of so few, all are shown
        said = row.get("caption", row.get("found", row.get("answer", row.get("text", ""))))
        assert " ".join(said.split()) in text, (name, row)


def test_the_lead_has_the_numbers_of_the_evaluation(page):
    scores = json.loads((trained("answer") / "evaluation.json").read_text())["test"]["scores"]
    lead = words(page("answer").read_text().partition("<main>")[0])
    for name in ("accuracy", "baseline"):
        assert f"{100 * scores[name]['value']:.0f} %" in lead
    assert f"with wrong pictures {100 * (scores['accuracy']['value'] - scores['shuffled_drop']['value']):.0f} %" in lead


def test_pictures_curves_and_cost_are_there(page):
    source = page("captioner").read_text()
    assert len(re.findall('<img [^>]*src="data:image/', source)) == len(re.findall("<img ", source)) > 6
    drawn = re.findall('<svg[^>]* aria-label="(.*?)"', source)
    head, *_, last = (trained("captioner") / "metrics.csv").read_text().splitlines()
    row = dict(zip(head.split(","), last.split(","), strict=True))
    assert any(f"validation {float(row['val_loss']):.2f} at step 4" in label for label in drawn)
    assert any(f"learning rate {float(row['learning_rate']):.2e} at step 4" in label for label in drawn)
    run = read_run(trained("captioner"))
    assert run.card["model"].split()[0] in words(source) and "32 (4 steps of 8" in words(source)


def test_captions_that_are_html_stay_text(page, chromium):
    source = page("nasty").read_text(encoding="utf-8")
    assert "<script" not in source and "&lt;script&gt;" in source
    with visit(chromium, page("nasty")) as seen:
        assert NASTY[0] in seen.page.inner_text("body") and NASTY[1] in seen.page.inner_text("body")
        assert seen.page.title() != "owned" and not seen.complaints


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["captioner", "answer", "clip"])
def test_in_a_browser(name, scheme, width, page, chromium):
    with visit(chromium, page(name), width=width, scheme=scheme) as seen:
        assert (seen.requests, seen.complaints) == ([], []) and seen.overflow_pixels() <= 0
        weak = [text for text in seen.texts() if contrast(text) < 4.5 or text["pixels"] < 9]
        assert weak == []
        broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        assert seen.page.evaluate(broken) == 0


def test_what_was_left_out_is_listed(page):
    text = body(page("nasty"))
    assert "1 that cannot be read" in text and "5.png" in text


def test_findings_of_the_coach(copy):
    assert "What the coach found" in training_page(read_run(copy))
    write_findings([Finding("data_bound", "Loading <b>waits</b>.", {"waiting_share": 0.25})], copy)
    source = training_page(read_run(copy))
    assert "Loading &lt;b&gt;waits&lt;/b&gt;." in source and "waiting share 0.25" in source
    (copy / "findings.json").unlink()
    assert "waits" not in training_page(read_run(copy))


def test_attention_pictures_are_in_the_page(tmp_path):
    folder = shutil.copytree(trained("lm"), tmp_path / "run")
    (folder / "attention-test").mkdir()
    Image.new("RGB", (2000, 500)).save(folder / "attention-test" / "one.png")
    assert "Where it looked" in training_page(read_run(folder))
    (folder / "attention-test" / "one.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"one\.png is no picture"):
        training_page(read_run(folder))


def test_without_its_data_a_page_says_so(page, tmp_path):
    run = read_run(trained("nasty"))
    gone = replace(run, config=replace(run.config, data=replace(run.config.data, path=str(tmp_path / "gone.csv"))))
    source = training_page(gone)
    assert "cannot be read any more" in source and "data:image/png" not in source.partition("<main>")[2]
    changed = replace(run, card=run.card | {"data": "another (fingerprint 0)"})
    assert Album(changed).missing.startswith("The data has changed")


def test_without_what_was_said_a_page_has_its_scores(copy):
    whole = training_page(read_run(copy))
    (copy / "texts.jsonl").unlink()
    source = training_page(read_run(copy))
    assert "is gone, so answers" in source and "Where it fails" not in source
    assert "What it expects" in whole and "What it expects" not in source
    (copy / "metrics.csv").write_text((copy / "metrics.csv").read_text().splitlines()[0] + "\n")
    assert "The log of the training is empty" in training_page(read_run(copy))


@pytest.mark.parametrize(
    ("damage", "told", "hint"),
    [
        (lambda run: (run / "bundle" / "model.safetensors").unlink(), "not finished: it is at step 4 of 4", "--resume"),
        (lambda run: (run / "evaluation.json").unlink(), "has not finished", "chiasm train lm --out"),
        (lambda run: (run / "config.json").unlink(), "is not the folder of a run", "chiasm train"),
        (lambda run: (run / "config.json").write_text('{"data": {}}'), r"config\.json", ""),
        (lambda run: (run / "evaluation.json").write_text('{"test": {"pictures": 3}}'), "is damaged", "again"),
        (lambda run: (run / "evaluation.json").write_text('{"test": '), r"evaluation\.json is not JSON", ""),
        (lambda run: (run / "evaluation.json").write_text("{}"), r"evaluation\.json has no scores", "test split"),
        (lambda run: (run / "texts.jsonl").write_bytes((run / "texts.jsonl").read_bytes()[:-9]), "damaged: line 6", ""),
        (lambda run: (run / "texts.jsonl").write_text("[1]\n"), "texts.* is damaged: line 1 is no JSON", ""),
        (lambda run: (run / "texts.jsonl").write_text('{"split": "test"}\n'), "texts.* is damaged: line 1 has no", ""),
        (lambda run: (run / "samples.jsonl").write_text("{}\n"), "samples.* is damaged: line 1 has no key, ", ""),
        (lambda run: (run / "metrics.csv").write_text("step,loss\n1,half\n"), r"metrics\.csv is damaged", ""),
        (lambda run: (run / "findings.json").write_text("[{"), r"findings\.json", ""),
        (shutil.rmtree, "There is no folder", "chiasm train"),
    ],
)  # fmt: skip
def test_folders_that_are_no_finished_run(damage, told, hint, copy):
    damage(copy)
    with pytest.raises(UserError, match=told) as error:
        write_training(copy)
    assert str(copy) in error.value.message and hint in error.value.hint
    assert not (copy / "report.html").exists()


def test_a_bundle_is_no_run_and_a_folder_no_file(copy, tmp_path):
    with pytest.raises(UserError, match="a model without its training"):
        write_training(copy / "bundle")
    with pytest.raises(UserError, match="cannot be written"):
        write_training(copy, tmp_path)
