"""The page of a comparison: it says what results.json holds, hides nothing, and can be read anywhere."""

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from chiasm.compare import results
from chiasm.errors import UserError
from chiasm.report import comparison as page_of
from chiasm.report.comparison import write_comparison
from report import examples
from report.browser import contrast, visit

KINDS = ("comparison", "bare", "broken", "awkward")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Pages of all kinds: results and path by name."""
    folder = tmp_path_factory.mktemp("comparisons")
    found = {kind: examples.write(getattr(examples, kind)(), folder / kind) for kind in KINDS}
    return {kind: (found[kind], write_comparison(folder / kind)) for kind in KINDS}


class Reader(HTMLParser):
    """Tables as lists of rows of texts, all text, and all tags with their attributes."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.text, self.tags = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.text.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += f" {data}"

    def table(self, *heads):
        """The rows of each table with these heads, by the first cell."""
        kept = [t for t in self.tables if all(any(head == cell.strip() for cell in t[0]) for head in heads)]
        return [
            {row[0].split()[0]: dict(zip((h.strip() for h in t[0]), row, strict=True)) for row in t[1:]} for t in kept
        ]


def numbers(cell):
    return [float(word.strip("(),").replace("−", "-")) for word in cell.split() if word[-1:].isdigit()]


def test_the_table_of_scores_holds_the_results(written):
    found, path = written["comparison"]
    for split, rows in zip(("test", "test_combinations"), Reader(path).table("P(best)"), strict=True):
        assert list(rows) == ["cross", "early", "perceiver", "late"], "best first"
        for arm in found.arms:
            score = arm.scores[split]
            assert numbers(rows[arm.name]["accuracy"]) == pytest.approx([score.value, score.low, score.high], abs=5e-4)
        for gap in (gap for gap in found.differences if gap.split == split):
            said = rows[gap.arm]
            interval = gap.difference
            expected = [interval.value, interval.low, interval.high]
            assert numbers(said["minus best"]) == pytest.approx(expected, abs=5e-4)
            assert ("within noise" in said["p (Holm)"]) == (not gap.different)
            assert gap.p_holm < 0.001 or numbers(said["p (Holm)"]) == pytest.approx([gap.p_holm], abs=5e-3)
        assert "86 %" in rows["cross"]["P(best)"] and "< 1 %" in rows["late"]["P(best)"]


def test_the_table_of_costs_holds_the_results(written):
    found, path = written["comparison"]
    (rows,) = Reader(path).table("learning rate")
    for arm in found.arms:
        assert numbers(rows[arm.name]["parameters"])[0] == pytest.approx(arm.costs.parameters / 1e6, rel=5e-3)
        assert numbers(rows[arm.name]["FLOPs"])[0] == pytest.approx(arm.costs.flops / 1e12, rel=5e-3)
        assert rows[arm.name]["steps"].strip() == "1,200"
    assert "× 2.57" in rows["early"]["seconds"] and "11 min" in rows["early"]["seconds"]


def test_the_best_is_the_least_where_lower_is_better(written):
    found, path = written["awkward"]
    (table,) = (t for t in Reader(path).tables if "P(best)" in " ".join(t[0]))
    values = [numbers(row[1])[0] for row in table[1:]]
    assert values == sorted(values) and len(set(values)) > 4
    best = min(found.arms, key=lambda arm: arm.scores["test"].value)
    assert f"loss of {best.name}" in "".join(Reader(path).text)


def test_the_key_numbers_are_the_best_and_its_lead(written):
    found, path = written["comparison"]
    text = " ".join("".join(Reader(path).text).split())
    best, gap = found.arms[0], next(d.difference for d in found.differences if (d.arm, d.split) == ("early", "test"))
    score = best.scores["test"]
    assert f"accuracy of cross{score.value:.3f}{score.low:.3f} to {score.high:.3f}" in text
    lead = f"against early, the second{-gap.value:+.3f}{-gap.high:+.3f} to {-gap.low:+.3f}".replace("-", "−")
    assert lead in text
    assert "training of cross6 min 2 s" in text


def test_intervals_are_drawn_beside_the_scores(written):
    found, path = written["comparison"]
    drawn = re.findall(
        r'class="forest".*?x1="([\d.]+)".*?x1="([\d.]+)" x2="([\d.]+)".*?translate\(([\d.]+)',
        path.read_text(encoding="utf-8"), re.S,
    )  # fmt: skip
    for split, rows in (("test", drawn[:4]), ("test_combinations", drawn[4:])):
        scores = [arm.scores[split] for arm in found.arms]
        places = [float(x) for best, low, high, at in rows for x in (best, low, high, at)]
        values = [x for score in scores for x in (scores[0].value, score.low, score.high, score.value)]
        slope, start = np.polyfit(values, places, 1)
        assert slope > 0 and np.abs(slope * np.array(values) + start - places).max() < 0.1
        assert min(places) >= 0 and max(places) <= page_of.FOREST_PIXELS


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_the_csv_are_exact(written, kind):
    found, path = written[kind]
    with (path.parent / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["arm"], row["split"]): row for row in csv.DictReader(file)}
    splits = dict.fromkeys([found.split, *(s for arm in found.arms for s in arm.scores)])
    assert set(rows) == {(arm.name, split) for arm in found.arms for split in splits}
    gaps = {(gap.arm, gap.split): gap for gap in found.differences}
    for arm in found.arms:
        for split in splits:
            row, score, gap = rows[arm.name, split], arm.scores.get(split), gaps.get((arm.name, split))
            assert row["score"] == ("" if score is None else str(score.value))
            assert (row["score_low"], row["score_high"]) == (
                ("", "") if score is None else (str(score.low), str(score.high))
            )
            assert row["minus_best"] == ("" if gap is None else str(gap.difference.value))
            assert row["p_holm"] == ("" if gap is None else str(gap.p_holm))
            assert float(row["seconds"]) == arm.costs.seconds and int(row["samples"]) == arm.costs.samples
            for seed in arm.seeds:
                assert row[f"seed_{seed.seed}"] == str(seed.scores.get(split, ""))


@pytest.mark.parametrize("kind", KINDS)
def test_the_short_page_holds_verdict_and_arms(written, kind):
    found, path = written[kind]
    text = (path.parent / "report.md").read_text(encoding="utf-8")
    assert all(f"| {arm.name} |" in text for arm in found.arms)
    assert "<script" not in text and "<b>" not in text
    if kind == "comparison":
        score = found.arms[0].scores["test"]
        assert all(sentence in text for sentence in found.verdict)
        assert f"| cross | {score.value:.3f} ({score.low:.3f} to {score.high:.3f}) | best |" in text
        widths = {line.count("|") for line in text.split("## Scores on test\n\n")[1].split("\n\n")[0].splitlines()}
        assert widths == {6}


def test_everything_that_was_told_is_on_the_page(written):
    found, path = written["comparison"]
    text = " ".join("".join(Reader(path).text).split())
    told = [
        *found.verdict, found.held_equal, found.not_equal, found.metric.explained, *found.notes, found.command,
        *found.data.findings, found.data.understood, found.data.fingerprint, found.machine, *found.versions.values(),
        *(measured.verdict for measured in found.scaling), *(arm.about for arm in found.arms),
        *(floor.explained for floor in found.floors), *found.arms[0].slices["test"], '"equal": "flops"', '"width": 192',
    ]  # fmt: skip
    assert not [sentence for sentence in told if sentence not in text]


def test_what_users_wrote_is_text_and_nothing_else(written):
    found, path = written["awkward"]
    reader = Reader(path)
    tags = {tag for tag, _ in reader.tags}
    assert "script" not in tags and not any(
        name.startswith("on") for _, attributes in reader.tags for name in attributes
    )
    said = "".join(reader.text)
    assert said.count(examples.NASTY) >= len(found.arms) + 6


@pytest.mark.parametrize("kind", KINDS)
def test_every_arm_has_its_own_mark_everywhere(written, kind):
    found, path = written[kind]
    html = path.read_text(encoding="utf-8")
    marks = {}
    for before in html.split('<span class="arm">')[1:]:
        drawing, name = before.split("</svg>")[0], before.split("</svg>")[1].split("<")[0]
        marks.setdefault(name, set()).add(
            (drawing.split("fill:")[1].split(";")[0], drawing.split("\n")[0].split(">")[1][:12])
        )
    assert set(marks) == {arm.name for arm in found.arms}
    assert all(len(mark) == 1 for mark in marks.values())
    assert [next(iter(marks[arm.name]))[0] for arm in found.arms] == [
        f"var(--arm-{n})" for n in range(1, len(found.arms) + 1)
    ]


def test_what_broke_is_told(written):
    _, path = written["broken"]
    notices = "".join(Reader(path).text)
    assert (
        "late broke with seeds 0, 1, 2, so it has no score: loss is not finite at step 312 (keys 17, 4411)." in notices
    )
    assert "early broke with seed 2, so its scores are those of the other seeds: loss is not finite" in notices
    for rows in Reader(path).table("P(best)"):
        assert rows["late"]["accuracy"].strip() == "broke" and list(rows)[-1] == "late"


def test_a_comparison_of_which_everything_broke_is_still_a_page(tmp_path):
    rich = examples.broken()
    gone = rich.arms[3]
    arms = tuple(replace(gone, name=arm.name) for arm in rich.arms)
    whole = replace(rich, arms=arms, differences=(), gallery=(), scaling=())
    examples.write(whole, tmp_path)
    text = "".join(Reader(write_comparison(tmp_path)).text)
    assert text.count("broke with seeds 0, 1, 2") == 4
    assert "Quality against cost" not in text and "Learning" in text


def test_missing_parts_leave_no_empty_sections(written):
    rich, bare = ("".join(Reader(written[kind][1]).text) for kind in ("comparison", "bare"))
    for title in ("What the whole adds", "Learning", "Where they differ", "Seeds", "Would more data help?",
                  "Where they disagree", "Coach's notes", "Learning rates tried"):  # fmt: skip
        assert title in rich and title not in bare
    assert "there was one seed, so how much trainings differ is unknown" in bare
    assert "floors, scaling with data, learning rates" in bare and "not tried" not in rich


def test_the_gallery_shows_answers_and_where_arms_looked(written):
    found, path = written["comparison"]
    html = path.read_text(encoding="utf-8")
    items = [part.split("</article>")[0] for part in html.split('<article class="item">')[1:]]
    assert len(items) == len(found.gallery)
    for item, shown in zip(items, found.gallery, strict=True):
        assert shown.asked in item and item.count("data:image/") == 1 + 3
        said = [
            (part.split("</b> ")[1].split(" <")[0], part.startswith("right"))
            for part in item.split('<b aria-label="')[1:]
        ]
        assert said == [(answer.said, answer.right) for answer in shown.answers.values()]


def test_a_gallery_too_large_for_a_page_is_cut_and_says_so(tmp_path, monkeypatch):
    rich = examples.write(examples.comparison(), tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for shown in rich.gallery:
        Image.fromarray(noise).save(tmp_path / shown.picture)
    monkeypatch.setattr(page_of, "GALLERY_BYTES", 200_000)
    html = write_comparison(tmp_path).read_text(encoding="utf-8")
    left = len(rich.gallery) - html.count('<article class="item">')
    assert 0 < left < len(rich.gallery) and f"{left} more in results.json" in html
    assert len(html) < 600_000


def test_damaged_pictures_are_no_reason_to_fail(tmp_path):
    rich = examples.write(examples.bare(), tmp_path)
    shown = examples.comparison(("cross", "late")).gallery[:2]
    results.save(replace(rich, gallery=shown), tmp_path)
    (tmp_path / "gallery").mkdir()
    (tmp_path / shown[0].picture).write_bytes(b"no picture")
    assert write_comparison(tmp_path).read_text(encoding="utf-8").count(">no picture<") == 2


def test_a_folder_without_results_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"results\.json"):
        write_comparison(tmp_path)


@pytest.mark.parametrize(("kind", "width", "scheme"), [
    ("comparison", 1280, "light"), ("comparison", 390, "dark"), ("awkward", 390, "light"), ("broken", 1280, "dark"),
])  # fmt: skip
def test_in_a_browser(chromium, written, kind, width, scheme):
    _, path = written[kind]
    assert path.stat().st_size < 5e6
    with visit(chromium, path, width=width, scheme=scheme) as seen:
        assert seen.overflow_pixels() <= 0
        texts = seen.texts()
        assert seen.overflow_pixels() <= 0, "with everything unfolded"
        assert seen.requests == [] and seen.complaints == []
        pale = [(t["text"], contrast(t)) for t in texts if contrast(t) < 4.5]
        assert not pale
        assert min(t["pixels"] for t in texts) >= 10
        dark = max(texts[0]["ground"][:3]) < 60
        assert dark == (scheme == "dark")
