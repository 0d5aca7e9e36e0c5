"""The lexicons that the sentiment models are compared with."""

from __future__ import annotations

import numpy as np
import pytest

from training import lexicon_sentiment

PLAIN = {
    "de": ("Wunderbar, ich liebe dieses schöne Geschenk.", "Furchtbar, ich hasse diesen Müll."),
    "en": ("A wonderful product, I love it.", "A terrible product, I hate it."),
    "es": ("Excelente, me encanta este maravilloso regalo.", "Terrible, odio este horrible producto."),
    "fr": ("Un produit excellent et magnifique.", "Un produit horrible et décevant."),
    "it": ("Un prodotto eccellente e bellissimo.", "Un prodotto orribile e pessimo."),
    "ko": ("정말 행복하고 좋아요, 감사합니다.", "정말 최악이고 싫어요, 화가 납니다."),
    "nl": ("Een prachtig en uitstekend product.", "Een slecht en verschrikkelijk product."),
    "pt": ("Excelente, eu amo este lindo presente.", "Terrível, eu odeio este produto horrível."),
    "ru": ("Прекрасный подарок, я люблю его.", "Ужасный день, я ненавижу этот кошмар."),
    "zh": ("非常好,我很喜欢,很高兴。", "很糟糕,太失望了,我讨厌它。"),
}


def scored(texts: list[str], language: str) -> np.ndarray:
    scores = lexicon_sentiment.score(texts, language)
    assert scores is not None
    return scores


def test_every_covered_language_is_tested():
    assert tuple(PLAIN) == lexicon_sentiment.covered()


@pytest.mark.parametrize("language", PLAIN)
def test_praise_scores_above_zero_and_blame_below(language):
    praise, blame = scored([*PLAIN[language]], language)
    assert -1 <= blame < 0 < praise <= 1


@pytest.mark.parametrize("language", PLAIN)
def test_a_text_scores_the_same_alone_and_among_others(language):
    """The words are looked up for all texts together."""
    together = scored([*PLAIN[language], "", "42 ?!"], language)
    alone = [scored([text], language)[0] for text in PLAIN[language]]
    np.testing.assert_allclose(together, [*alone, 0.0, 0.0])


@pytest.mark.parametrize("language", ["ja", "pl", "tr", "ar", "und"])
def test_a_language_without_a_lexicon_has_no_score(language):
    assert lexicon_sentiment.score(["?"], language) is None
