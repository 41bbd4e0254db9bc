"""The cards of the gallery: what comes from the Hub is text, never markup."""

from __future__ import annotations

import pytest

from tests.ui.test_cards import EVIL, shown
from ui.gallery.card import gallery_cards, sample_of
from ui.gallery.figures import Figure, Gain
from ui.gallery.hub_merge import HubMerge, Sample
from ui.gallery.hub_merges import GalleryMerge, Listed, PageCursor
from ui.gallery.sketch import sketch
from ui.languages.translate import speaking

GRADIENT = """\
merge_method: slerp
base_model: a/one
models: [{model: a/one}, {model: a/two}]
parameters: {t: [0, 0.5, 1]}
"""


def of(model: HubMerge, recipe: str = GRADIENT) -> GalleryMerge:
    return GalleryMerge(model, recipe, sketch(recipe))


def test_a_merge_says_where_it_is_from_how_it_was_made_and_whether_it_is_better() -> None:
    gain = Gain("a/two", "bits_per_byte", "Stories", 0.021, (0.012, 0.03))
    model = HubMerge(
        "ann/merged", "0" * 40, parents=("a/one", "a/two"), licence="mit", gains=(gain,), likes=3
    )

    tags = shown(gallery_cards([of(model)]))

    assert "Better than its best parent, two." in tags.text
    assert "Bits per byte saved on Stories: +0.021 (95 % interval: +0.012 to +0.030)" in tags.text
    assert "SLERP" in tags.text and "mit" in tags.text and "♥ 3" in tags.text
    assert ("aria-label", "t, from the first layer to the last") in tags.attributes
    assert [value for name, value in tags.attributes if name == "data-what"] == ["open", "remix", "chat"]
    assert "solid: everything else" not in tags.text  # there is one line


def test_a_picture_of_several_lines_says_which_is_which() -> None:
    curves = "{t: [{filter: self_attn, value: [0, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]}"
    recipe = GRADIENT.replace("{t: [0, 0.5, 1]}", curves)

    tags = shown(gallery_cards([of(HubMerge("ann/merged", "0" * 40), recipe)]))

    assert "(solid: everything else, dashed: attention, dotted: MLP)" in tags.text


def test_a_difference_without_a_clear_sign_is_none() -> None:
    gain = Gain("a/two", "score", "Quiz", 0.02, (-0.01, 0.05))
    text = shown(gallery_cards([of(HubMerge("a/m", "0" * 40, parents=("a/two",), gains=(gain,)))])).text

    assert "No clear difference from its best parent, two." in text


@pytest.mark.parametrize("language", ["en", "ko"])
def test_whatever_a_card_says_is_text(language: str) -> None:
    model = HubMerge(
        "a/m", "0" * 40, parents=(EVIL,), licence=EVIL, languages=(EVIL,), created=EVIL,
        figures=(Figure(EVIL, EVIL, EVIL, 0.5, (0.4, 0.6)),), gains=(Gain(EVIL, "score", EVIL, 1.0),),
        sample=Sample(EVIL, EVIL),
    )  # fmt: skip
    evil_recipe = f"merge_method: linear\nmodels: [{{model: '{EVIL.replace(chr(39), '')}'}}]\n"

    with speaking(language):
        text = shown(gallery_cards([of(model), of(model, evil_recipe), of(model, "")])).text
        sample = shown(sample_of(Sample(EVIL, EVIL), EVIL)).text

    assert text.count(EVIL) > 10
    assert sample.count(EVIL) == 3


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (Listed((), None), "No merge on the Hub matches"),
        (Listed((), PageCursor()), "looks further"),
        (Listed((), PageCursor(), silent=True), "Try again in a few minutes"),
    ],
)
def test_an_empty_list_says_why(listed: Listed, words: str) -> None:
    assert words in shown(gallery_cards((), listed)).text


def test_a_merge_without_a_recipe_cannot_be_remixed() -> None:
    tags = shown(gallery_cards([GalleryMerge(HubMerge("a/m", "0" * 40))]))

    assert [value for name, value in tags.attributes if name == "data-what"] == ["open", "chat"]


def test_a_recipe_without_weights_cannot_be_chatted_with() -> None:
    tags = shown(gallery_cards([of(HubMerge("a/m", "0" * 40, has_weights=False))]))
    assert [value for name, value in tags.attributes if name == "data-what"] == ["open", "remix"]
