"""``AI_SENTIMENT`` and ``SNOWFLAKE.CORTEX.SENTIMENT``, answered by the sentiment model the server was started with.

Both are functions of the engine, called with a vector of rows at a time, so they work wherever SQL has an expression;
Cortex's other functions are refused by name. How a model runs belongs in ``inference_worker``.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from embedded_snowflake import tokens
from embedded_snowflake.errors import unsupported
from embedded_snowflake.inference_process import InferenceError, InferenceProcess
from embedded_snowflake.server import EmbeddedSnowflake
from embedded_snowflake.statements import Query, at_start, rewriter

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

_EMPTY_LABEL = "unknown"
_EMPTY_SCORE = 0.0


@at_start
def start(server: EmbeddedSnowflake) -> None:
    """Make the two functions known to the engine; the model is imported at their first call."""
    process = InferenceProcess()
    server.shutdown_callbacks.append(process.stop)
    source = server.configuration.sentiment_model

    def ask(name: str, column: str) -> Callable[[pa.ChunkedArray], pa.Array]:
        return lambda texts: _by_text(process, source, name, column, texts)

    labels, scores = ask("AI_SENTIMENT", "label"), ask("SENTIMENT", "score")

    def ai_sentiment(texts: pa.ChunkedArray) -> pa.Array:
        objects = [_sentiment_object(label) for label in labels(texts).to_pylist()]
        return pa.ExtensionArray.from_storage(pa.json_(), pa.array(objects, pa.string()))

    engine = server.fakesnow.duck_conn
    options = {"type": "arrow", "null_handling": "special"}
    engine.create_function("AI_SENTIMENT", ai_sentiment, ["VARCHAR"], "JSON", **options)
    engine.create_function(CORTEX_SENTIMENT, scores, ["VARCHAR"], "DOUBLE", **options)


def _sentiment_object(label: str | None) -> str | None:
    return None if label is None else json.dumps({"categories": [{"name": "overall", "sentiment": label}]})


def _by_text(
    process: InferenceProcess, source: str | None, name: str, column: str, texts: pa.ChunkedArray | pa.Array
) -> pa.Array:
    """The model's ``column`` for each text, in one call; NULL for NULL, and no call for a text without a character."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    empty = pc.equal(pc.utf8_trim_whitespace(texts), "")
    asked = pc.fill_null(pc.invert(empty), False)
    wanted = texts.filter(asked)
    result = pa.nulls(len(texts), pa.string() if column == "label" else pa.float64())
    if len(wanted):
        if not source:
            raise InferenceError(_no_model(name))
        try:
            answer = process.request({"task": "sentiment", "source": source}, pa.table({"text": wanted}))
        except InferenceError as error:
            raise InferenceError(_no_model(name, str(error))) if error.missing else error from error
        result = pc.replace_with_mask(result, asked, answer.column(column).combine_chunks())
    value = pa.scalar(_EMPTY_LABEL if column == "label" else _EMPTY_SCORE, result.type)
    return pc.replace_with_mask(result, pc.fill_null(empty, False), value)


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
        if path == ["AI_SENTIMENT"] and len(call.arguments) > 1:
            raise unsupported("AI_SENTIMENT with categories")
        if path[:2] == ["SNOWFLAKE", "CORTEX"] and len(path) == 3:
            if path[2] not in {"SENTIMENT", "AI_SENTIMENT"}:
                raise unsupported(".".join(path))
            name = CORTEX_SENTIMENT if path[2] == "SENTIMENT" else path[2]
            edits.append(tokens.Edit(call.start, call.name_end, name))
    return found.edited(edits)
