"""How numbers, languages and columns are said to a person, the same in the daily report and in the dashboard.

Whole sentences belong to the pages that say them; texts that customers wrote are in ``display``.
"""

from __future__ import annotations

# ISO 639 codes of languages written from right to left.
RIGHT_TO_LEFT = frozenset(
    ("ar", "arc", "arz", "azb", "ckb", "dv", "fa", "he", "iw", "lrc", "mzn", "nqo", "pnb", "ps", "sd", "ug", "ur", "yi")
)
LANGUAGE_NAMES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def percent(value: float) -> str:
    """A share in whole per cents; few per cents and those near 100 with a decimal."""
    return f"{value:.0%}" if value == 0 or value == 1 or 0.0995 <= value < 0.995 else f"{value:.1%}"


def amount(value: float) -> str:
    """A number of things or of money: in whole ones, small ones with a decimal."""
    return f"{value:,.0f}" if abs(value) >= 10 or value == round(value) else f"{value:,.1f}"


def signed(value: float) -> str:
    """A sentiment with its sign; 0 has none."""
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def language_name(code: str) -> str:
    """In English; the code where it is a rarer one."""
    return LANGUAGE_NAMES.get(code, "" if code in ("und", "") else code)


def lang(code: str | None) -> str:
    """The value of an element's ``lang``; empty, which is 'unknown', for what no language was found of."""
    return "" if not code or code == "und" else code


def direction(code: str | None) -> str:
    """The value of an element's ``dir``: by the language, else by the first letter that has a direction."""
    if not lang(code):
        return "auto"
    return "rtl" if code in RIGHT_TO_LEFT else "ltr"


def feature_name(column: str) -> str:
    """PAGE_LOAD_TIME as a person says it."""
    return column.replace("_", " ").capitalize()
