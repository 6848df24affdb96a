"""The gallery shows what arms disagree on, says what each of them would say, and draws where that comes from."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.bundle import Bundle
from chiasm.compare.gallery import disagreements, gallery
from chiasm.data.cache import prepare_pictures
from chiasm.data.loader import Loader
from chiasm.data.source import Source
from chiasm.data.task import TaskConfig
from chiasm.data.transforms import PreprocessConfig
from chiasm.evaluate import evaluate
from chiasm.evaluate.common import Items
from chiasm.figures import occlusion_figure
from chiasm.models import FusionClassifierConfig, build_model
from chiasm.models.fusion import EarlyConfig
from chiasm.nn import weight_decay_groups
from chiasm.objectives import Classification
from chiasm.predict import CaptionPredictor, ClassifierPredictor, ClipPredictor, CocaPredictor
from chiasm.predict.occlusion import answer_log_probability, occlusion_map
from chiasm.text import Tokenizer
from chiasm.types import Batch, Example
from classifier_files import VISION, fusion_bundle, picture_bundle
from clip_files import WORDS, write_clip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def table(metric="accuracy", groups=None, kinds=None, **scores):
    """Items "0", "1", ... with each arm's scores."""
    rows = len(next(iter(scores.values())))
    keys = tuple(map(str, range(rows)))
    return {
        arm: Items(keys, tuple(groups or keys), tuple(kinds or [""] * rows), {metric: np.array(values, float)})
        for arm, values in scores.items()
    }


def keys_of(items, labels=None, metric="accuracy", **how):
    return [d.key for d in disagreements(items, unlabelled(items) if labels is None else labels, metric, **how)]


def unlabelled(items):
    return dict.fromkeys(next(iter(items.values())).keys, "")


def test_only_items_on_which_arms_disagree_are_chosen():
    items = table(a=[1, 0, 1, 0, 1], b=[1, 0, 0, 0, 0])
    assert sorted(keys_of(items)) == ["2", "4"]
    assert keys_of(table(a=[1, 0], b=[1, 0])) == []
    assert keys_of(items, {"4": "", "1": ""}) == ["4"]


def test_rare_wins_rare_kinds_and_rare_labels_are_shown():
    random = np.random.default_rng(0)
    good, rows = random.random(400) < 0.95, np.arange(400)
    bad, third = good & (random.random(400) < 0.5), good & (random.random(400) < 0.9)
    bad[7], good[7], third[7] = True, False, False  # the only win of the worst arm alone
    kinds = ["rare" if row in (5, 90) else "common" for row in rows]
    bad[[5, 90]], good[[5, 90]] = False, True
    items = table(good=good, bad=bad, third=third, kinds=kinds)
    labels = {str(row): "odd" if row == 200 else "usual" for row in rows}
    bad[200], good[200], third[200] = True, True, False
    items = table(good=good, bad=bad, third=third, kinds=kinds)
    chosen = [int(key) for key in keys_of(items, labels)]
    assert len(chosen) == 12 and 7 in chosen and {5, 90} & set(chosen) and 200 in chosen
    wins = Counter(arm for row in chosen for arm in items if items[arm].values["accuracy"][row])
    assert min(wins[arm] for arm in items) >= 4
    patterns = {tuple(own.values["accuracy"][row] for own in items.values()) for row in chosen}
    everywhere = set(zip(*(own.values["accuracy"] for own in items.values()), strict=True))
    assert patterns == {pattern for pattern in everywhere if len(set(pattern)) > 1}


def test_of_a_group_one_item_is_shown():
    items = table(a=[1, 1, 0, 1], b=[0, 0, 1, 0], groups=["x", "x", "x", "y"])
    chosen = keys_of(items)
    assert len(chosen) == 2 and "3" in chosen


def test_items_are_known_by_their_keys_and_the_choice_is_always_the_same():
    random = np.random.default_rng(1)
    items = table(a=random.random(60) < 0.5, b=random.random(60) < 0.5)
    order = random.permutation(60)
    shuffled = Items(*(tuple(map(items["b"].keys.__getitem__, order)) for _ in range(2)), ("",) * 60,
                     {"accuracy": items["b"].values["accuracy"][order]})  # fmt: skip
    fewer = Items(*(field[:50] for field in (shuffled.keys, shuffled.groups, shuffled.kinds)),
                  {"accuracy": shuffled.values["accuracy"][:50]})  # fmt: skip
    chosen = keys_of(items)
    assert chosen == keys_of({"a": items["a"], "b": shuffled})
    both = keys_of({"a": items["a"], "b": fewer})
    assert both and set(both) <= set(fewer.keys)
    assert len(keys_of(items, most=3)) == 3


def test_graded_scores_are_chosen_by_their_spread():
    one, other = np.full(100, 1.0), np.full(100, 1.1)
    one[::10] = [3.0, 5.0] * 5
    other[::10] = [5.0, 3.0] * 5
    chosen = [int(key) for key in keys_of(table("cider_d", a=one, b=other), metric="cider_d", most=6)]
    assert Counter(row % 20 for row in chosen) == {0: 3, 10: 3}
    wide = table("cider_d", a=[1.0, 2.0, 3.0], b=[0.9, 0.0, 2.8])
    assert keys_of(wide, metric="cider_d") == ["1", "2", "0"]


def test_clear_disagreement_goes_before_variety_but_not_before_an_arms_only_win():
    items = table("cider_d", a=[3.0] * 7 + [0.0] * 5, b=[0.0] * 7 + [3.0] + [0.1] * 4)
    assert set(map(int, keys_of(items, metric="cider_d", most=6))) <= set(range(8))
    items = table("cider_d", a=[3.0] * 10 + [0.0], b=[0.0] * 10 + [0.1])
    assert "10" in keys_of(items, metric="cider_d", most=2)


def test_a_rare_answer_is_shown_beside_a_common_one():
    items = table(a=[1] * 30, b=[0] * 30)
    for odd in ("3", "20"):
        assert odd in keys_of(items, {key: "odd" if key == odd else "usual" for key in unlabelled(items)}, most=2)


@pytest.mark.parametrize(("higher_is_better", "winners"), [(True, [("b", "c"), ("c",)]), (False, [("a",), ("a", "b")])])
def test_winners_are_nearer_to_the_best_than_to_the_worst(higher_is_better, winners):
    items = table("token_loss", a=[1.0, 1.0], b=[2.5, 1.9], c=[3.1, 3.0])
    found = disagreements(items, unlabelled(items), "token_loss", higher_is_better=higher_is_better)
    assert {d.key: d.winners for d in found} == dict(zip("01", winners, strict=True))
    assert {d.key: d.spread for d in found} == pytest.approx({"0": 2.1, "1": 2.0})


def test_scores_must_be_there():
    items = table(a=[1, 0], b=[0, 1]) | table("cider_d", c=[1, 2])
    with pytest.raises(ValueError, match="the items of c have no score 'accuracy', but cider_d"):
        disagreements(items, {"0": "", "1": ""}, "accuracy")


QUADRANTS = ("first", "second", "third", "fourth")
COLOURS = {"green": (30, 200, 30), "red": (200, 30, 30)}


def quadrants_source(rows):
    """Pictures of four quadrants, red or green, two questions about each; its last 40 pictures are for the test."""
    random, examples = np.random.default_rng(0), []
    for row in range(rows):
        colours = random.integers(0, 2, 4)
        pixels = np.array(list(COLOURS.values()), np.uint8)[colours].reshape(2, 2, 3).repeat(8, 0).repeat(8, 1)
        for number, place in enumerate(random.permutation(4)[:2].tolist()):
            label, kind = list(COLOURS)[colours[place]], ("above", "below")[place // 2]
            example = Example(image=pixels, texts=(QUADRANTS[place],), key=f"{row}#{number}", group=str(row))
            examples.append(replace(example, label=label, tags=(kind,)))
    places = np.arange(2 * rows)
    splits = {"train": places[:-80], "test": places[-80:]}
    return Source(name="quadrants", examples=examples, splits=splits, understood="", fingerprint="0")


def trained(source, inputs, steps):
    """A small fusion that has begun to learn what its inputs allow."""
    vision, text = (replace(half, width=32) for half in (VISION, fusion_bundle().model.config.text))
    tokenizer = Tokenizer.train(QUADRANTS)
    text = replace(text, vocabulary=tokenizer.vocab_size, rules=replace(text.rules, context=4))
    fusion = EarlyConfig(width=32, depth=2, heads=4)
    config = FusionClassifierConfig(vision=vision, text=text, fusion=fusion, inputs=inputs, classes=tuple(COLOURS))
    torch.manual_seed(0)
    model, read = build_model(config), tokenizer if config.rules else None
    optimizer = torch.optim.AdamW(weight_decay_groups(model, 0.01), lr=1e-3)
    rules, examples = PreprocessConfig(size=config.size), source.split("train")
    loader = Loader(
        examples, prepare_pictures(examples, rules, name="quadrants"), read, preprocess=rules, augment=None,
        batch_size=64, context=4, seed=0, classes=tuple(COLOURS),
    )  # fmt: skip
    for step in range(steps):
        Classification().backward(model, loader.batch(step), 1, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return ClassifierPredictor(Bundle(model=model, tokenizer=read, preprocess=rules, task=TaskConfig(name="answer")))


@pytest.fixture(scope="module")
def quadrants():
    """The questions, three arms that differ in what they are given, and their scores."""
    source = quadrants_source(240)
    arms = {"both": trained(source, "both", 120), "words": trained(source, "text", 10)}
    arms["picture"] = trained(source, "picture", 10)
    return source, arms, items_of(arms, source)


def items_of(arms, source):
    return {arm: evaluate(predictor, source, ["test"])[0].items for arm, predictor in arms.items()}


def shown_pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_every_arm_answers_as_it_answers_elsewhere(quadrants, tmp_path):
    source, arms, items = quadrants
    shown = gallery(tmp_path, arms, items, source, "test", "accuracy")
    assert len(shown) == 12 and len({item.key.split("#")[0] for item in shown}) == 12
    examples = {example.key: example for example in source.split("test")}
    for item in shown:
        example = examples[item.key]
        assert (item.split, item.asked, item.truth) == ("test", example.texts[0], example.label)
        assert list(item.answers) == list(arms)
        for arm, answer in item.answers.items():
            texts = list(example.texts) if arms[arm].reads_texts else None
            best = arms[arm].classify([example.image], texts)[0][0]
            assert answer.said == best.label and answer.probability == pytest.approx(best.probability, abs=1e-5)
            assert answer.right == (best.label == example.label)
            assert answer.right == items[arm].values["accuracy"][items[arm].keys.index(item.key)]
        assert len({answer.right for answer in item.answers.values()}) == 2
    for arm in arms:
        assert sum(item.answers[arm].right for item in shown) >= 3


def test_pictures_are_enlarged_and_maps_of_one_item_have_one_scale(quadrants, tmp_path):
    source, arms, items = quadrants
    examples = {example.key: example for example in source.split("test")}
    weak = 0
    for item in gallery(tmp_path, arms, items, source, "test", "accuracy", most=4):
        example = examples[item.key]
        picture = example.image.repeat(12, 0).repeat(12, 1)
        assert (shown_pixels(tmp_path / item.picture) == picture).all()
        maps = {}
        for arm in ("both", "picture"):
            reads = arms[arm].reads_texts
            ids = arms[arm].tokenizer.encode(example.texts, context=3) if reads else torch.zeros(1, 0, dtype=torch.long)
            one, images = torch.zeros(1, dtype=torch.long), torch.zeros(1, 3, 16, 16)
            batch = Batch(images=images, ids=ids, keep=ids >= 0, image_ids=one, text_ids=one, keys=("a",))
            ask = answer_log_probability(arms[arm], batch, item.answers[arm].said)
            maps[arm] = occlusion_map(example.image, ask)
        strongest = max(0.1, *(fall.max() for fall in maps.values()))
        weak += maps["picture"].max() < 0.5 * strongest
        for arm, fall in maps.items():
            occlusion_figure(picture, fall, tmp_path / "wanted.png", strongest=strongest)
            drawn = shown_pixels(tmp_path / item.answers[arm].attention).astype(int)
            assert abs(drawn - shown_pixels(tmp_path / "wanted.png")).max() <= 2
        assert item.answers["words"].attention is None
    assert weak  # of an arm whose map would be brighter by itself


def test_a_gallery_is_the_same_again_and_nothing_is_left_of_another(quadrants, tmp_path):
    source, arms, items = quadrants
    first = gallery(tmp_path, arms, items, source, "test", "accuracy", most=4)
    files = {path.name: path.read_bytes() for path in (tmp_path / "gallery").iterdir()}
    assert sorted(files) == sorted(f"0{n}{arm}.png" for n in range(1, 5) for arm in ("", "-both", "-picture"))
    assert gallery(tmp_path, arms, items, source, "test", "accuracy", most=4) == first
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "gallery").iterdir()}
    gallery(tmp_path, arms, items, source, "test", "accuracy", most=1)
    assert len(list((tmp_path / "gallery").iterdir())) == 3
    twins = {"a": arms["both"], "b": arms["both"]}
    assert gallery(tmp_path, twins, dict.fromkeys(twins, items["both"]), source, "test", "accuracy") == ()
    assert not list((tmp_path / "gallery").iterdir())


def test_arms_without_eyes_have_no_pictures(quadrants, tmp_path):
    source, arms, items = quadrants
    blind = {"one": arms["words"], "other": trained(source, "text", 1)}
    opposite = replace(items["words"], values={"accuracy": 1 - items["words"].values["accuracy"]})
    shown = gallery(tmp_path, blind, {"one": items["words"], "other": opposite}, source, "test", "accuracy", most=2)
    assert [item.picture for item in shown] == [None, None] and not (tmp_path / "gallery").exists()
    assert all(answer.attention is None for item in shown for answer in item.answers.values())


def described(texts, picture_of=lambda row: None):
    """Noise, or pictures of one's own, with texts, all for the test."""
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in texts]
    examples = [Example(image=picture_of(row) or noise[row], texts=own, key=str(row)) for row, own in enumerate(texts)]
    return Source(
        name="described", examples=examples, splits={"test": np.arange(len(texts))}, understood="", fingerprint="0"
    )


def test_captions_are_right_where_they_are_one_of_the_own(make_captioner, tmp_path):
    tokenizer = Tokenizer.train(["red blue circle square"])
    arms = {}
    for seed in range(2):
        model = make_captioner(vocabulary=tokenizer.vocab_size, seed=seed)
        bundle = Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(16, 16)))
        arms[f"seed-{seed}"] = CaptionPredictor(bundle)
    written = arms["seed-1"].caption([e.image for e in described([("red",)] * 6).examples])
    source = described([("red circle", caption.text) for caption in written])
    shown = gallery(tmp_path, arms, items_of(arms, source), source, "test", "exact_match")
    assert len(shown) >= 3 and all(item.asked == "" for item in shown)
    for item in shown:
        caption = written[int(item.key)]
        assert item.truth == f"red circle / {caption.text}"
        assert item.answers["seed-1"].right and not item.answers["seed-0"].right
        assert item.answers["seed-1"].said == caption.text
        assert item.answers["seed-1"].probability == pytest.approx(caption.confidence, abs=1e-4)
        for answer in item.answers.values():
            assert shown_pixels(tmp_path / answer.attention).shape == (192, 192, 3)


def test_a_dual_encoder_answers_with_the_nearest_text_of_the_split(tmp_path):
    arms = {f"seed-{i}": ClipPredictor.load(write_clip(tmp_path / str(i), seed=i, calibrated=i > 0)) for i in range(2)}
    source = described([(WORDS[row % 3],) for row in range(30)])
    shown = gallery(tmp_path, arms, items_of(arms, source), source, "test", "image_to_text_mrr")
    assert len(shown) >= 3
    for item in shown:
        example = source.examples[int(item.key)]
        assert (item.asked, item.truth) == ("", example.texts[0])
        for arm, answer in item.answers.items():
            best = arms[arm].classify([example.image], WORDS)[0][0]
            assert answer.said == best.label and answer.right == (best.label == item.truth)
            assert answer.probability == (best.probability and pytest.approx(best.probability, abs=1e-5))
            assert answer.attention is not None


def test_what_is_true_of_the_same_thing_is_right_for_a_dual_encoder(tmp_path):
    arms = {f"seed-{i}": ClipPredictor.load(write_clip(tmp_path / str(i), seed=i)) for i in range(2)}
    source = described([(WORDS[row % 3],) for row in range(30)])
    source = replace(source, examples=[replace(e, group="all one") for e in source.examples])
    items = table("image_to_text_mrr", **{"seed-0": [1.0] * 30, "seed-1": [0.5] * 30})
    shown = gallery(tmp_path, arms, items, source, "test", "image_to_text_mrr", most=4)
    assert any(answer.said != item.truth.split(" / ")[0] for item in shown for answer in item.answers.values())
    assert all(answer.right for item in shown for answer in item.answers.values())


def test_a_large_picture_is_shown_sharper_than_a_model_sees_it(tmp_path):
    fine = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(fine).save(tmp_path / "fine.png")
    arms = {"a": ClassifierPredictor(picture_bundle()), "b": ClassifierPredictor(picture_bundle(seed=1))}
    source = described([()], lambda _: tmp_path / "fine.png")
    (item,) = gallery(tmp_path, arms, table(a=[1], b=[0]), source, "test", "accuracy")
    drawn, seen = shown_pixels(tmp_path / item.picture).astype(float), arms["a"].read([fine])[0].astype(float)
    assert drawn.shape == (192, 192, 3) and item.asked == ""
    blocks = drawn.reshape(16, 12, 16, 12, 3)
    assert abs(blocks.mean((1, 3)) - seen).mean() < 15  # the same places
    assert blocks[4:12].std((1, 3)).mean() > 5


def test_what_cannot_be_compared_is_refused(quadrants, make_coca, tmp_path):
    source, arms, items = quadrants
    with pytest.raises(ValueError, match="predictors of both, words, picture, and scores of both, words"):
        gallery(tmp_path, arms, {arm: items[arm] for arm in ("both", "words")}, source, "test", "accuracy")
    tokenizer, rules = Tokenizer.train(QUADRANTS), PreprocessConfig(size=(16, 16))
    bundle = Bundle(model=make_coca(vocabulary=tokenizer.vocab_size), tokenizer=tokenizer, preprocess=rules)
    both = {"both": arms["both"], "words": CocaPredictor(bundle)}
    with pytest.raises(ValueError, match="a Coca is no arm of a comparison"):
        gallery(tmp_path, both, {arm: items[arm] for arm in both}, source, "test", "accuracy")
