"""Writing on from a prompt equals choosing the prompt's tokens first, whatever is then done."""

import pytest
import torch

from chiasm.generate import GenerateConfig, Prompted, generate, stream

BOS, EOT = 1, 2
PROMPT = [4, 3, 6]


@pytest.mark.parametrize("settings", [{}, {"mode": "beam", "captions": 2}, {"mode": "sample", "captions": 3}], ids=str)
def test_it_writes_what_a_writer_writes_that_has_the_prompt_behind_it(scripted, babble, settings):
    logits, config = babble(0), GenerateConfig(**settings)
    writer, numbered = scripted(logits)
    behind, _ = scripted(lambda picture, tokens: logits(picture, (*PROMPT, *tokens)), context=12 - len(PROMPT))
    assert generate(Prompted(writer, PROMPT), numbered(3), config) == generate(behind, numbered(3), config)


def test_an_empty_prompt_changes_nothing(scripted, babble):
    writer, numbered = scripted(babble(1))
    assert generate(Prompted(writer, []), numbered(3), GenerateConfig()) == generate(
        writer, numbered(3), GenerateConfig()
    )


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["cross", "early"])
@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_a_real_model_goes_on_as_if_it_had_written_the_prompt_itself(make_captioner, make_images, fusion, mode):
    model, images = make_captioner(fusion=fusion, seed=3), make_images(3)
    for image, several in zip(
        images, generate(Prompted(model, PROMPT), images, GenerateConfig(mode=mode)), strict=True
    ):
        targets = [*several[0].ids, *[EOT] * several[0].complete]
        assert len(PROMPT) + len(several[0].ids) <= model.rules.context - 2
        logits = model.head(model(image[None], torch.tensor([[BOS, *PROMPT, *targets[:-1]]])))[0, len(PROMPT) :]
        logits[:, [0, 1]] = -torch.inf
        logits[0, EOT] = -torch.inf
        wanted = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
        assert several[0].log_probs == pytest.approx(wanted.tolist(), abs=1e-4)


def test_texts_written_in_turns_with_two_prompts_do_not_meet(make_captioner, make_images):
    model, images = make_captioner(seed=3), make_images(2)
    writers = [Prompted(model, prompt) for prompt in ([5], [7, 3])]
    alone = [list(stream(writer, images, GenerateConfig())) for writer in writers]
    turns, told = [stream(writer, images, GenerateConfig()) for writer in writers], ([], [])
    for _ in range(60):
        for turn, tokens in zip(turns, told, strict=True):
            tokens.extend([token] if (token := next(turn, None)) else [])
    assert list(told) == alone and alone[0] != alone[1]


def test_a_prompt_that_leaves_no_room_is_refused(scripted, babble):
    writer, _ = scripted(babble(0), context=6)
    Prompted(writer, [3, 3, 3])
    with pytest.raises(ValueError, match="leaves no room"):
        Prompted(writer, [3, 3, 3, 3])
