"""The coach in real runs: for each finding one that provokes it and a healthy one that does not; what it leaves."""

import functools
import json
import math
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from chiasm.data import loader
from chiasm.errors import UserError
from chiasm.evaluate import drawings
from chiasm.train import contrastive, outcome
from chiasm.train import run as run_module
from chiasm.train.callbacks import Bar, read_metrics
from chiasm.train.engine import Engine
from chiasm.train.findings import Finding, read_findings, write_findings
from chiasm.train.run import Run, train
from coach_runs import captioner, classifier, clip, write_quarters

MUDDLED = {"context": 8, "data": {"truncate": True}, "learning_rate": 1e-6, "warmup": 0.9}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """Drawing takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "attention_figure",
            "calibration_figure",
            "confusion_figure",
            "gallery_figure",
            "retrieval_figure",
        ):
            patch.setattr(drawings, name, lambda *_, **__: None)
        patch.setattr(outcome, "curves_figure", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A function that writes pictures with what is wrong with them, once for each way."""
    return functools.cache(lambda **wrong: write_quarters(tmp_path_factory.mktemp("data") / "quarters", **wrong))


@pytest.fixture(scope="module")
def muddled(data):
    """Settings of a run with five things wrong at once."""
    return captioner(data(twins=5, around=" are the colours of this one"), **MUDDLED)


@pytest.fixture(scope="module")
def ran(data, muddled, tmp_path_factory):
    """A function that gives a run by its name, trained once: its folder, its findings by name, what it said."""

    @functools.cache
    def ran(name):
        folder, said = tmp_path_factory.mktemp("runs") / name, []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Bar, "say", lambda self, text: said.append(text))
            config = RUNS[name](data, patch) if name != "muddled" else muddled
            assert train(config, folder).finished
        return SimpleNamespace(folder=folder, findings={f.name: f for f in read_findings(folder)}, said=said)

    return ran


def read_for_every_batch(data, patch):
    """Pictures that are too many for the cache, and large."""
    patch.setattr(run_module, "prepare_pictures", functools.partial(run_module.prepare_pictures, limit_bytes=0))
    return classifier(data(side=800, train=64), steps=30, batch_size=8)


def pushed_scale(data, patch):
    """A scale that grows fast."""
    patch.setattr(contrastive.ContrastiveTask, "start", lambda self, run: run.model.log_scale.data.fill_(math.log(60)))
    on_gradient(patch, lambda engine: engine.model.log_scale.grad.fill_(-1.0))
    return clip(data(), learning_rate=0.05, ema_decay=0.0, steps=80)


def exploding(data, patch):
    """One batch in twenty has a gradient a thousand times as long."""

    def explode(engine):
        if engine.global_step % 20 == 19:
            for parameter in engine.trained:
                parameter.grad.mul_(1000.0)

    on_gradient(patch, explode)
    return captioner(data(), steps=100, learning_rate=1e-4)


def on_gradient(patch, act):
    backward = Engine._backward

    def acting(engine, batch):
        sums = backward(engine, batch)
        act(engine)
        return sums

    patch.setattr(Engine, "_backward", acting)


RUNS = {
    "captioner": lambda data, _: captioner(data(), steps=100),
    "clip": lambda data, _: clip(data(), batch_size=64, steps=100),
    "classifier": lambda data, _: classifier(data()),
    "slow": lambda data, _: classifier(data(), width=192, depth=4, steps=12, validate_every_epochs=1.0),
    "blank clip": lambda data, _: clip(data(blank=True), batch_size=16),
    "blank classifier": lambda data, _: classifier(data(blank=True)),
    "classes": lambda data, _: clip(data(text="first"), batch_size=64, steps=4),
    "by heart": lambda data, _: classifier(data(train=32, label="random"), steps=100),
    "by heart, last": lambda data, _: classifier(data(train=32, label="random"), steps=100, keep="last"),
    "impatient": lambda data, _: classifier(data(train=32, label="random"), steps=300, patience=2, warmup=0.4),
    "short": lambda data, _: captioner(data(), learning_rate=2e-3, ema_decay=0.999, validate_every_epochs=2.5),
    "read": read_for_every_batch,
    "scale": pushed_scale,
    "exploding": exploding,
}
PROVOKED = [
    ("leak", "muddled"), ("captions_cut", "muddled"), ("long_warmup", "muddled"), ("unigram_level", "muddled"),
    ("pictures_ignored", "muddled"), ("pictures_ignored", "blank classifier"), ("not_learning", "blank clip"),
    ("not_learning", "blank classifier"), ("few_negatives", "blank clip"), ("few_negatives", "classes"),
    ("validation_rising", "by heart"), ("long_warmup", "impatient"), ("still_falling", "short"),
    ("data_bound", "read"), ("scale_at_clamp", "scale"), ("gradients_exploding", "exploding"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("finding", "run"), PROVOKED)
def test_what_is_wrong_is_found(finding, run, ran):
    found = ran(run).findings
    assert finding in found
    assert found[finding].text.endswith(".") and found[finding].evidence


@pytest.mark.parametrize("run", ["captioner", "clip", "classifier"])
def test_a_healthy_run_is_left_alone(run, ran):
    # Steps of milliseconds wait on a busy machine; that a loader can keep up is tested below, with longer steps. And
    # more steps may still be better for a run of a hundred.
    assert ran(run).findings.keys() <= {"data_bound", "still_falling"}
    told = [text for text in ran(run).said if " → " not in text and "wait" not in text]
    assert told == []


def test_a_loader_that_keeps_up_is_left_alone(ran):
    rows = read_metrics(ran("slow").folder / "metrics.csv")
    assert "data_bound" not in ran("slow").findings
    assert all(0 <= row["waiting_share"] < 0.5 for row in rows[1:])


def test_evidence_is_of_the_run(ran):
    found = ran("muddled").findings
    assert found["leak"].evidence == {"test_pictures": 32, "test_leaked": 5, "test_with_same_text": 5}
    # BOS, four colours, six words, EOT: of twelve tokens eight are left.
    assert found["captions_cut"].evidence == {
        "captions_share": 1.0,
        "tokens_share": pytest.approx(4 / 12),
        "context": 8,
    }
    assert found["long_warmup"].evidence["warmup_steps"] == pytest.approx(54)
    assert abs(found["pictures_ignored"].evidence["change"]) < 0.02
    classes = ran("classes").findings["few_negatives"].evidence
    assert classes["different"] == pytest.approx(4, abs=0.3) and classes["batch"] == 64
    stopped = ran("impatient").findings["long_warmup"]
    assert stopped.evidence["taken_steps"] < 120 and "was still rising" in stopped.text
    assert ran("read").findings["data_bound"].evidence["needed"] >= 2
    assert "read anew" in ran("read").findings["data_bound"].text
    rising = [ran(name).findings["validation_rising"] for name in ("by heart", "by heart, last")]
    losses = {r["step"]: r["val_loss"] for r in read_metrics(ran("by heart").folder / "metrics.csv") if r["val_loss"]}
    assert rising[0].evidence["best"] == min(losses.values()) == losses[rising[0].evidence["best_step"]]
    assert "are the ones kept" in rising[0].text and "train.keep=best" in rising[1].text
    spikes = ran("exploding").findings["gradients_exploding"].evidence
    assert spikes["spikes"] == 4 and spikes["rows"] == 10  # the one in step 20 came too early to be told


def test_it_speaks_once_while_the_run_trains(ran):
    def said(run):
        return [(int(text.split(":")[0].removeprefix("step ")), text) for text in ran(run).said if " → " not in text]

    muddled = said("muddled")
    assert len({text.split(": ")[1] for _, text in muddled}) == len(muddled) == 4
    assert [step for step, _ in muddled] == [0, 0, 0, 50]
    assert [step for step, text in said("blank clip") if "tells nothing apart" in text] == [50]
    assert [step for step, text in said("by heart") if "best at step" in text] == [50]
    assert any("up to" in text for step, text in said("exploding") if step >= 50)


def test_a_card_and_a_file_keep_what_was_found(ran):
    for name in ("muddled", "captioner"):
        card, findings = (ran(name).folder / "card.md").read_text(), ran(name).findings.values()
        assert ("What the coach found" in card) == bool(findings)
        assert all(f"- {finding.text}" in card for finding in findings)
        kept = json.loads((ran(name).folder / "findings.json").read_text())
        assert kept == [{"name": f.name, "text": f.text, "evidence": f.evidence} for f in findings]


def test_a_resumed_run_finds_the_same_and_does_not_repeat_itself(muddled, ran, tmp_path, monkeypatch):
    said, kills = [], [55, 58]
    monkeypatch.setattr(Bar, "say", lambda self, text: said.append(text))

    def kill(engine):
        if kills and engine.global_step == kills[0]:
            kills.pop(0)
            raise Killed

    on_gradient(monkeypatch, kill)
    config = captioner(muddled.data.path, **MUDDLED, checkpoint_every_seconds=0.0)
    for resume in (False, True):
        with pytest.raises(Killed):
            train(config, tmp_path / "run", resume=resume)
    train(config, tmp_path / "run", resume=True)
    clock = {"data_bound"}
    found = [finding for finding in read_findings(tmp_path / "run") if finding.name not in clock]
    assert found == [finding for name, finding in ran("muddled").findings.items() if name not in clock]
    spoken = [text for text in said if " → " not in text and "wait" not in text]
    assert spoken == [text for text in ran("muddled").said if " → " not in text and "wait" not in text]


def test_columns_hold_what_the_steps_between_rows_did(data, tmp_path, monkeypatch):
    norms, spent, take = [], [], Engine.training_step
    made = loader.Loader.batch

    def recorded(engine, batch, number):
        began = time.perf_counter()
        take(engine, batch, number)
        spent.append((began, time.perf_counter()))
        norms.append(engine.latest["gradient_norm"])

    def slowly(self, step):
        time.sleep(0.1 if step < 10 else 0.0)
        return made(self, step)

    monkeypatch.setattr(Engine, "training_step", recorded)
    monkeypatch.setattr(loader.Loader, "batch", slowly)
    config = classifier(data(), steps=20, clip_norm=0.5)
    train(config, tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.csv")
    assert [row["step"] for row in rows] == [10, 20]
    for row, own in zip(rows, (norms[:10], norms[10:]), strict=True):
        assert row["largest_norm"] == pytest.approx(max(own), rel=1e-5)
        assert row["clipped_share"] == pytest.approx(sum(norm > 0.5 for norm in own) / 10)
    shares = []
    for own in (spent[:10], spent[9:]):
        between = sum(after[0] - before[1] for before, after in pairwise(own))
        shares.append(between / (between + sum(end - began for began, end in own[-10:])))
    # Between steps there is also Lightning, so a share is no more than that; before the first, none was counted here.
    assert rows[0]["waiting_share"] > max(shares[0] - 0.1, 0.1)
    assert rows[1]["waiting_share"] < shares[1] + 0.02


def test_facts_of_a_run_are_its_loaders(data, muddled, tmp_path):
    facts = Run(clip(data(text="first"), batch_size=64), tmp_path / "clip").facts
    assert facts.scale_limit == pytest.approx(100) and facts.unigram_loss is None and facts.stored
    assert facts.pairs[0] == 64 and facts.pairs[2] == 128 and facts.pairs[1] == pytest.approx(15, abs=1)
    assert facts.pictures == {"train": 128, "val": 32, "test": 32} and not facts.leaks
    facts = Run(clip(data(), similarity="sigmoid"), tmp_path / "sigmoid").facts
    assert facts.scale_limit is None and facts.pairs is not None
    facts = Run(muddled, tmp_path / "captioner").facts
    assert facts.pairs is None and facts.scale_limit is None
    # Seven tokens are predicted, of which three stand in every caption and four are among four colours.
    colours, fixed = [1 / 7 * n / 4 for n in (1, 1, 1, 1)], [1 / 7] * 3
    assert facts.unigram_loss == pytest.approx(
        -sum(p * math.log(p) for p in [4 * c for c in colours] + fixed), abs=0.02
    )


def test_findings_are_read_as_they_were_written(tmp_path):
    assert read_findings(tmp_path) == []
    findings = [Finding("leak", "Ein Bär steht überall.", {"pictures": 3, "share": 0.25})]
    write_findings(findings, tmp_path)
    assert read_findings(tmp_path) == findings
    write_findings([], tmp_path)
    assert read_findings(tmp_path) == []
    for damaged in ("[{", '[{"name": "leak"}]', '{"name": "leak"}', '[{"name": "x", "text": "", "evidence": 3}]'):
        (tmp_path / "findings.json").write_text(damaged)
        with pytest.raises(UserError, match=r"findings\.json holds no findings"):
            read_findings(tmp_path)
