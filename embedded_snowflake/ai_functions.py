"""``AI_SENTIMENT`` and ``SNOWFLAKE.CORTEX.SENTIMENT``, answered by the sentiment model the server was started with.

Both are functions of the engine, called with a vector of rows at a time, so they work wherever SQL has an expression;
Cortex's other functions are refused by name. How a model runs belongs in ``inference_worker``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from embedded_snowflake import tokens
from embedded_snowflake.errors import unsupported
from embedded_snowflake.inference_process import InferenceError, InferenceProcess
from embedded_snowflake.statements import Query, at_start, rewriter

if TYPE_CHECKING:
    from embedded_snowflake.server import EmbeddedSnowflake

# Documented functions of Cortex that are not served: https://docs.snowflake.com/en/user-guide/snowflake-cortex/aisql
REFUSED = frozenset(
    {
        "AI_AGG",
        "AI_CLASSIFY",
        "AI_COMPLETE",
        "AI_COUNT_TOKENS",
        "AI_EMBED",
        "AI_EXTRACT",
        "AI_FILTER",
        "AI_GENERATE",
        "AI_PARSE_DOCUMENT",
        "AI_REDACT",
        "AI_SIMILARITY",
        "AI_SUMMARIZE",
        "AI_SUMMARIZE_AGG",
        "AI_TRANSCRIBE",
        "AI_TRANSLATE",
    }
)
# The engine's name of SNOWFLAKE.CORTEX.SENTIMENT: functions of the engine have no schema.
CORTEX_SENTIMENT = "CORTEX_SENTIMENT"
# And of AI_SENTIMENT with categories: functions of the engine have one number of arguments.
AI_SENTIMENT_OF = "AI_SENTIMENT_OF"
# Snowflake's limits: https://docs.snowflake.com/en/sql-reference/functions/ai_sentiment
MAXIMUM_CATEGORIES = 10
MAXIMUM_CATEGORY_CHARACTERS = 30

UNKNOWN = "unknown"
# What the functions say of a text without a character.
_EMPTY: dict[str, Any] = {"label": UNKNOWN, "score": 0.0, "aspects": None}


@at_start
def start(server: EmbeddedSnowflake) -> None:
    """Make the functions known to the engine; the model is imported at their first call."""
    process = InferenceProcess()
    server.shutdown_callbacks.append(process.stop)
    source = server.configuration.sentiment_model

    def ai_sentiment(texts: pa.ChunkedArray) -> pa.Array:
        labels = _by_text(process, source, "AI_SENTIMENT", "label", texts)
        return _json_array([_sentiment_object(label, {}) for label in labels])

    def ai_sentiment_of(texts: pa.ChunkedArray, categories: pa.ChunkedArray) -> pa.Array:
        asked = [_categories(value) for value in categories.to_pylist()]
        labels = _by_text(process, source, "AI_SENTIMENT", "label", texts)
        aspects = _by_text(process, source, "AI_SENTIMENT", "aspects", texts) if any(asked) else [None] * len(labels)
        return _json_array(
            [
                _sentiment_object(label, _of_categories(names or [], found))
                for label, names, found in zip(labels, asked, aspects, strict=True)
            ]
        )

    def cortex_sentiment(texts: pa.ChunkedArray) -> pa.Array:
        return pa.array(_by_text(process, source, "SNOWFLAKE.CORTEX.SENTIMENT", "score", texts), pa.float64())

    engine = server.fakesnow.duck_conn
    options: dict[str, Any] = {"type": "arrow", "null_handling": "special"}
    engine.create_function("AI_SENTIMENT", ai_sentiment, ["VARCHAR"], "JSON", **options)
    engine.create_function(AI_SENTIMENT_OF, ai_sentiment_of, ["VARCHAR", "JSON"], "JSON", **options)
    engine.create_function(CORTEX_SENTIMENT, cortex_sentiment, ["VARCHAR"], "DOUBLE", **options)


def _json_array(objects: list[str | None]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(objects, pa.string()))


def _sentiment_object(label: str | None, aspects: dict[str, str]) -> str | None:
    if label is None:
        return None
    records = [{"name": name, "sentiment": sentiment} for name, sentiment in {"overall": label, **aspects}.items()]
    return json.dumps({"categories": records}, ensure_ascii=False)


def _categories(value: str | None) -> list[str] | None:
    """The categories of one row; None for NULL.

    Raises:
        InferenceError: Snowflake would not take them.
    """
    if value is None:
        return None
    names = json.loads(value)
    wrong = not isinstance(names, list) or not all(isinstance(name, str) for name in names)
    if wrong or len(names) > MAXIMUM_CATEGORIES or any(len(name) > MAXIMUM_CATEGORY_CHARACTERS for name in names):
        raise InferenceError(
            f"AI_SENTIMENT: categories must be an array of up to {MAXIMUM_CATEGORIES} strings of up to "
            f"{MAXIMUM_CATEGORY_CHARACTERS} characters, found {value}"
        )
    return names


def _of_categories(names: list[str], found: str | None) -> dict[str, str]:
    """Each category with what the model says of it, under the name that was asked for.

    Args:
        found: the model's aspects as a JSON object, all that it knows; None for a text that it was not given.

    Raises:
        InferenceError: the model does not know a category. What it says nothing of is not made up.
    """
    if found is None:
        return dict.fromkeys(names, UNKNOWN)
    known = {name.casefold(): sentiment for name, sentiment in json.loads(found).items()}
    if strange := [name for name in names if name.casefold() not in known]:
        raise InferenceError(_unknown_category(strange[0], list(known)))
    return {name: known[name.casefold()] for name in names}


def _unknown_category(name: str, known: list[str]) -> str:
    hint = f"its model knows {', '.join(known)}" if known else "its model knows no categories"
    return str(unsupported(f"AI_SENTIMENT with the category '{name}'", hint).raw_msg)


def _by_text(
    process: InferenceProcess, source: str | None, name: str, column: str, texts: pa.ChunkedArray | pa.Array
) -> list[Any]:
    """The model's ``column`` for each text, in one call; NULL for NULL, and no call for texts without a character."""
    values = texts.to_pylist()
    result = [None if text is None else _EMPTY[column] for text in values]
    asked = [position for position, text in enumerate(values) if text is not None and text.strip()]
    if not asked:
        return result
    if not source:
        raise InferenceError(_no_model(name))
    table = pa.table({"text": pa.array([values[position] for position in asked], pa.string())})
    try:
        answer = process.request({"task": "sentiment", "source": source, "column": column}, table)
    except InferenceError as error:
        raise InferenceError(_no_model(name, str(error))) if error.missing else error from error
    for position, value in zip(asked, answer.column(column).to_pylist(), strict=True):
        result[position] = value
    return result


def _no_model(name: str, reason: str = "") -> str:
    hint = "start the server with --sentiment-model module:callable"
    return str(unsupported(name, f"{hint}; {reason}" if reason else hint).raw_msg)


@rewriter(r"\bAI_\w+\s*\(|\bCORTEX\s*\.")
def cortex_functions(query: Query) -> str:
    """Refuse what is not served by name, and give SNOWFLAKE.CORTEX.SENTIMENT its name in the engine."""
    found = tokens.Tokens(query.sql)
    edits = []
    for call in found.calls():
        path = [part.upper() for part in call.path]
        if len(path) == 1 and path[0] in REFUSED:
            raise unsupported(path[0])
        if path[:2] == ["SNOWFLAKE", "CORTEX"] and len(path) == 3:
            if path[2] not in {"SENTIMENT", "AI_SENTIMENT"}:
                raise unsupported(".".join(path))
            name = CORTEX_SENTIMENT if path[2] == "SENTIMENT" else _ai_sentiment(call)
            edits.append(tokens.Edit(call.start, call.name_end, name))
        if path == ["AI_SENTIMENT"]:
            edits.append(tokens.Edit(call.start, call.name_end, _ai_sentiment(call)))
    return found.edited(edits)


def _ai_sentiment(call: tokens.Call) -> str:
    if len(call.arguments) > 2:
        raise unsupported("AI_SENTIMENT with return_error_details")
    return AI_SENTIMENT_OF if len(call.arguments) == 2 else "AI_SENTIMENT"
