"""One tiny captioner for all tests of the command line, and pictures that it knows."""

import shutil

import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.shapes import ShapesConfig, draw_shapes


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a run on the lesson's shapes, trained until it names most of them right."""
    run = tmp_path_factory.mktemp("runs") / "shapes"
    command = ["train", "captioner", "shapes", "--difficulty", "lesson", "--samples", "200", "--preset", "tiny"]
    settings = ["train.steps=60", "train.batch_size=32", "train.learning_rate=0.003", "train.precision=fp32"]
    settings += ["train.ema_decay=0", "train.keep=last", "train.label_smoothing=0", "model.vision.depth=1"]
    assert cli.main([*command, "--augment", "none", "--out", str(run), "--set", *settings]) == 0
    return run


@pytest.fixture(scope="session")
def drawn():
    """Shapes of the lesson that the captioner has not seen."""
    return draw_shapes(ShapesConfig(difficulty="lesson", samples=20, seed=5))


@pytest.fixture(scope="session")
def shelf(drawn, tmp_path_factory):
    """A folder of eight of them, with another picture deeper down and a file that is none."""
    shelf = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        Image.fromarray(drawn.pixels[i]).save(shelf / f"{i}.png")
    (shelf / "deeper").mkdir()
    shutil.copy(shelf / "0.png", shelf / "deeper/9.png")
    (shelf / "notes.md").write_text("not a picture")
    return shelf


@pytest.fixture
def ask(capsys):
    """A function that runs a command in this process; returns its exit code, output and errors."""

    def ask(*words):
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:  # how argparse ends
            code = end.code
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return ask
