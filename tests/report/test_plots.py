"""Drawings put marks where the results are, frontiers and means are what they say, SVG keeps to itself."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.compare.results import Interval
from chiasm.report import plots
from chiasm.report.svg import ARMS, INK, MARKERS, picture
from report import examples


@pytest.fixture(scope="module")
def rich():
    return examples.comparison()


def marks(svg, number):
    """Where an arm's markers are, (x, y) in the drawing's pixels, y upward."""
    found = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="[^"]*var\(--arm-{number}\)', svg)
    return [(float(x), -float(y)) for x, y in found]


def lines(svg, number):
    """The ends of an arm's straight lines, ((x, y), (x, y)) as for `marks`."""
    found = re.findall(rf'<path d="M ([\d.]+) ([\d.]+) L ([\d.]+) ([\d.]+) "[^>]*stroke: var\(--arm-{number}\)', svg)
    return [((float(a), -float(b)), (float(c), -float(d))) for a, b, c, d in found]


def assert_on_one_scale(values, places, off_pixels=0.1):
    """Places grow in proportion to the values."""
    values, places = np.array(values, float), np.array(places, float)
    assert np.ptp(places) > 20
    slope, start = np.polyfit(values, places, 1)
    assert slope > 0 and np.abs(slope * values + start - places).max() < off_pixels


@pytest.mark.parametrize("width", ["wide", "narrow"])
@pytest.mark.parametrize("equal", ["flops", "samples"])
def test_quality_against_cost_is_drawn_where_it_is(rich, width, equal):
    rich = replace(rich, settings={"equal": equal})
    svg = getattr(plots.pareto(rich), width)
    places = [marks(svg, number)[0] for number in range(1, 5)]
    costs = [arm.costs.seconds if equal == "flops" else arm.costs.flops for arm in rich.arms]
    assert_on_one_scale(costs, [x for x, _ in places])
    assert_on_one_scale([arm.scores["test"].value for arm in rich.arms], [y for _, y in places])
    ends = [end[1] for number in range(1, 5) for end in lines(svg, number)[0]]
    assert_on_one_scale([end for arm in rich.arms for end in (arm.scores["test"].low, arm.scores["test"].high)], ends)
    assert ("minutes of training" if equal == "flops" else "FLOPs of training") in svg


def test_slices_and_floors_are_drawn_where_they_are(rich):
    svg = plots.slices(rich, "test").wide
    values, places = [], []
    for number, arm in enumerate(rich.arms, 1):
        at = marks(svg, number)
        assert len(at) == len(examples.SLICES)
        places += [x for x, _ in at]
        values += [score.value for score in arm.slices["test"].values()]
    assert_on_one_scale(values, places)
    ends = [end[0] for number in range(1, 5) for line in lines(svg, number) for end in line]
    scores = [score for arm in rich.arms for score in arm.slices["test"].values()]
    assert_on_one_scale([end for score in scores for end in (score.low, score.high)], ends)
    svg = plots.floors(rich).wide
    drawn = re.findall(r'<use [^>]*x="([\d.]+)"[^>]*stroke: var\(--muted\)', svg)[-4:] + [
        marks(svg, number)[0][0] for number in range(1, 5)
    ]
    scores = [floor.scores["test"].value for floor in rich.floors] + [arm.scores["test"].value for arm in rich.arms]
    assert_on_one_scale(scores, [float(x) for x in drawn])


def test_seeds_are_drawn_where_they_are(rich):
    svg = plots.seeds(rich).wide
    values, places = [], []
    for number, arm in enumerate(rich.arms, 1):
        values += [seed.scores["test"] for seed in arm.seeds]
        places += [x for x, _ in marks(svg, number)]
    assert_on_one_scale(values, places)
    assert plots.seeds(examples.bare()) is None


def test_a_name_is_written_at_every_point_where_there_is_room(rich):
    svg = plots.pareto(rich).wide
    assert all(f">{arm.name}</text>" in svg for arm in rich.arms)


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9)


@given(points, st.booleans())
def test_the_frontier_is_what_no_other_beats(points, higher):
    def beats(a, b):
        better = a[1] >= b[1] if higher else a[1] <= b[1]
        return a != b and a[0] <= b[0] and better

    floats = [(float(cost), float(score)) for cost, score in points]
    expected = sorted({p for p in floats if not any(beats(other, p) for other in floats)})
    assert plots.frontier(floats, higher) == expected


def test_means_over_seeds_are_taken_at_common_steps(rich):
    courses = [seed.course for seed in rich.arms[0].seeds]
    courses[1] = courses[1][:5] + courses[1][6:-1]
    mean = plots.mean_course(courses, lambda point: point.seconds)
    kept = [k for k in range(11) if k != 5]
    assert len(mean) == len(kept)
    for (across, loss), k in zip(mean, kept, strict=True):
        at = [next(p for p in course if p.step == courses[0][k].step) for course in courses]
        assert across == pytest.approx(sum(p.seconds for p in at) / 3)
        assert loss == pytest.approx(sum(p.val_loss for p in at) / 3)
    assert plots.mean_course([], lambda point: point.seconds) == []


@given(st.floats(0.1, 1.5), st.floats(0, 2), st.floats(0.5, 50))
def test_a_power_law_is_found_again(exponent, floor, scale):
    found = examples.comparison().scaling[0]
    loss = lambda n: floor + scale * n**-exponent  # noqa: E731
    exact = replace(
        found,
        losses=tuple(Interval(value=loss(n), low=0.0, high=0.0) for n in found.examples),
        exponent=Interval(value=exponent, low=exponent, high=exponent),
        doubled=Interval(value=loss(2 * max(found.examples)), low=0.0, high=0.0),
    )
    law = plots.power_law(exact)
    for n in (1000.0, 3000.0, 8000.0, 16000.0):
        assert math.isclose(law(np.array(n)), loss(n), rel_tol=1e-6)


def test_scaling_is_drawn_on_its_law(rich):
    svg = plots.scaling(rich, rich.scaling[0]).wide
    at = [place for place in marks(svg, 1) if place[0]]  # the band is a shape of its own at 0
    losses = [loss.value for loss in rich.scaling[0].losses] + [rich.scaling[0].doubled.value]
    assert_on_one_scale(losses, [y for _, y in at])
    assert_on_one_scale(np.log([*rich.scaling[0].examples, 16000]), [x for x, _ in at])


def test_every_arm_is_in_every_curve(rich):
    drawn = plots.curves(rich)
    assert len(drawn) == 3
    for curve in drawn:
        assert all(len(marks(curve.wide, number)) == 1 for number in range(1, 5)), "the end of its mean"
        assert all(curve.wide.count(f"stroke: var(--arm-{number}); stroke-opacity") == 3 for number in range(1, 5))
    assert plots.curves(examples.bare()) == []


def test_rates_that_broke_are_no_losses(rich):
    svg = plots.rates(rich).wide
    assert len(marks(svg, 1)) == len(rich.arms[0].tried)
    assert plots.rates(examples.bare()) is None


def test_drawings_share_a_page_without_sharing_names():
    def draw(colour):
        def on(figure):
            figure.subplots().plot([1, 2, 3], [3, 1, 2], MARKERS[0], color=colour)

        return picture(on, "a line", (300, 200), (200, 200))

    drawn = [svg for colour in ARMS[:2] for svg in (draw(colour).wide, draw(colour).narrow)]
    names = [set(re.findall(r' id="([^"]+)"', svg)) for svg in drawn]
    assert all(names) and len(set.union(*names)) == sum(map(len, names))
    for svg, own in zip(drawn, names, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) == own
    assert draw(ARMS[0]).wide == drawn[0], "the same page is written again"


def test_texts_stay_as_they_are_and_cannot_leave_the_drawing():
    texts = [f'{INK} id="x" 0.123456 font-family: serif;', "<script>a</script> <!-- b -->", "$x_1$ ∑ 猫"]

    def on(figure):
        axes = figure.subplots()
        for row, text in enumerate(texts):
            axes.text(0, row, text, parse_math=False)

    svg = picture(on, '"><script>', (300, 200)).wide
    assert re.findall(r"<text[^>]*>([^<]*)</text>", svg)[-3:] == [
        texts[0], "&lt;script&gt;a&lt;/script&gt; &lt;!-- b --&gt;", texts[2],
    ]  # fmt: skip
    assert "<script" not in svg and "<metadata" not in svg and "<style" not in svg
    assert "#00f" not in svg.replace(texts[0], ""), "every colour is the page's"
