"""Every table once: columns, types, descriptions, keys. DDL, Dagster's column schemas and the checks on keys all come
from here.

A column name is spelt in this module and nowhere else; statements are in the module of their concept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from customer_insights.identifiers import validated

Type = Literal["STRING", "FLOAT", "INT", "DATE", "TIMESTAMP_NTZ"]


@dataclass(frozen=True)
class Column:
    """One column. ``lineage``: the columns it is computed from, as ``TABLE.COLUMN``."""

    name: str
    type: Type
    description: str
    nullable: bool = True
    lineage: tuple[str, ...] = ()

    @property
    def ddl(self) -> str:
        null = "" if self.nullable else " NOT NULL"
        return f"{self.name} {self.type}{null} COMMENT '{self.description.replace(chr(39), chr(39) * 2)}'"


@dataclass(frozen=True)
class Table:
    """One table: what a row is, its columns, and the columns that identify a row."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that are never NULL."""
        return tuple(column.name for column in self.columns if not column.nullable)

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def create_ddl(self, name: str | None = None, temporary: bool = False) -> str:
        """``CREATE TABLE IF NOT EXISTS``, in the session's schema; Snowflake has no unique keys that it enforces."""
        columns = ",\n  ".join(column.ddl for column in self.columns)
        kind = "TEMPORARY TABLE" if temporary else "TABLE"
        comment = self.description.replace("'", "''")
        return f"CREATE {kind} IF NOT EXISTS {validated(name or self.name)} (\n  {columns}\n) COMMENT = '{comment}'"


def _uuid(source: str) -> Column:
    return Column("UUID", "STRING", "Identifies the review and its visit.", nullable=False, lineage=(source,))


_ARRIVAL = Column(
    "ARRIVAL_DATE", "DATE", "Day (UTC) on which the review's file arrived on the stage; the partition.", nullable=False
)
_RUN = Column("RUN_ID", "STRING", "Dagster run that wrote the row.", nullable=False)

TABULAR_DATA = Table(
    "TABULAR_DATA",
    "One visit to a product page, with what was shown and whether it ended in a purchase.",
    (
        Column("UUID", "STRING", "Identifies the visit and its review.", nullable=False),
        Column("PRODUCT_TYPE", "STRING", "Kind of product, e.g. Furniture."),
        Column("PRODUCT_LAYOUT", "STRING", "Layout of the product page."),
        Column("PAGE_LOAD_TIME", "FLOAT", "Seconds until the product page had loaded."),
        Column("PRODUCT_RATING", "INT", "Stars shown for the product, 1 to 5."),
        Column("PURCHASE_DECISION", "INT", "1 when the visit ended in a purchase, else 0."),
    ),
    key=("UUID",),
)

RAW_REVIEWS = Table(
    "RAW_REVIEWS",
    "One review as it was read from a file on the stage.",
    (
        Column("UUID", "STRING", "Identifies the review.", nullable=False),
        Column("REVIEW_TEXT", "STRING", "The review's text, unchanged.", nullable=False),
        Column("TEXT_HASH", "STRING", "SHA-256 of the text, hexadecimal; scores are kept by it.", nullable=False),
        Column("LANGUAGE", "STRING", "Detected language, ISO 639-1; 'und' when undetermined.", nullable=False),
        Column("LANGUAGE_CONFIDENCE", "FLOAT", "Probability of the detected language, 0 to 1.", nullable=False),
        Column("SOURCE_FILE", "STRING", "File on the stage.", nullable=False),
        Column("SOURCE_LINE", "INT", "Line (or record, for Parquet) where the review begins, from 1.", nullable=False),
        _ARRIVAL,
        Column("INGESTED_AT", "TIMESTAMP_NTZ", "When the review was written (UTC).", nullable=False),
        _RUN,
    ),
    key=("UUID",),
)

REJECTED_REVIEWS = Table(
    "REJECTED_REVIEWS",
    "One line or file that could not become a review, and why.",
    (
        Column("SOURCE_FILE", "STRING", "File on the stage.", nullable=False),
        Column("FILE_MD5", "STRING", "MD5 of the file as LIST shows it.", nullable=False),
        Column("SOURCE_LINE", "INT", "Line (or record) from 1; 0 when the whole file was rejected.", nullable=False),
        Column("REASON", "STRING", "What is wrong and what was expected.", nullable=False),
        Column("EXCERPT", "STRING", "The beginning of what was found, at most 500 characters."),
        _ARRIVAL,
        Column("REJECTED_AT", "TIMESTAMP_NTZ", "When the row was rejected (UTC).", nullable=False),
        _RUN,
    ),
    key=("SOURCE_FILE", "FILE_MD5", "SOURCE_LINE", "REASON"),
)

INGESTED_FILES = Table(
    "INGESTED_FILES",
    "The ledger: one file of the stage that has been read, so that it is read once.",
    (
        Column("SOURCE_FILE", "STRING", "File on the stage.", nullable=False),
        Column("FILE_SIZE", "INT", "Bytes.", nullable=False),
        Column("FILE_MD5", "STRING", "MD5 as LIST shows it.", nullable=False),
        _ARRIVAL,
        Column("ROWS_ACCEPTED", "INT", "Reviews written from this file.", nullable=False),
        Column("ROWS_REJECTED", "INT", "Rows rejected from this file.", nullable=False),
        Column("INGESTED_AT", "TIMESTAMP_NTZ", "When the file was read (UTC).", nullable=False),
        _RUN,
    ),
    key=("SOURCE_FILE", "FILE_SIZE", "FILE_MD5"),
)

PUBLISH_LOCKS = Table(
    "PUBLISH_LOCKS",
    "One row a table: whoever publishes to it updates the row first, so that two runs publish one after the other.",
    (
        Column("TABLE_NAME", "STRING", "The table that is published to.", nullable=False),
        Column("PUBLICATIONS", "INT", "How often it was published to.", nullable=False),
    ),
    key=("TABLE_NAME",),
)

_SCORE_ORIGIN = (
    Column("BACKEND", "STRING", "What computed the score: cortex, or the library on the compute pool.", nullable=False),
    Column("MODEL", "STRING", "Name of the model or of the Cortex function.", nullable=False),
    Column("REVISION", "STRING", "Revision of the model.", nullable=False),
)

REVIEW_SENTIMENT = Table(
    "REVIEW_SENTIMENT",
    "The sentiment of one review, and what computed it.",
    (
        _uuid("RAW_REVIEWS.UUID"),
        Column("TEXT_HASH", "STRING", "The text that was scored.", nullable=False, lineage=("RAW_REVIEWS.TEXT_HASH",)),
        Column("LANGUAGE", "STRING", "Language of the text.", nullable=False, lineage=("RAW_REVIEWS.LANGUAGE",)),
        Column(
            "REVIEW_SENTIMENT",
            "FLOAT",
            "Sentiment from -1 (negative) to 1 (positive); NULL when the model could not tell.",
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "SENTIMENT_LABEL",
            "STRING",
            "positive, negative, neutral, mixed or unknown.",
            nullable=False,
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        *_SCORE_ORIGIN,
        _ARRIVAL,
        Column("SCORED_AT", "TIMESTAMP_NTZ", "When the score was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("UUID",),
)

REVIEW_QUALITY = Table(
    "REVIEW_QUALITY",
    "The quality label of one review by zero-shot classification, and what computed it.",
    (
        _uuid("RAW_REVIEWS.UUID"),
        Column("TEXT_HASH", "STRING", "The text that was scored.", nullable=False, lineage=("RAW_REVIEWS.TEXT_HASH",)),
        Column(
            "REVIEW_QUALITY",
            "STRING",
            "The label with the highest probability.",
            nullable=False,
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "QUALITY_PROBABILITY",
            "FLOAT",
            "Probability of that label among the labels, 0 to 1.",
            nullable=False,
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "QUALITY_PROBABILITIES",
            "STRING",
            "Probability of every label, as a JSON object.",
            nullable=False,
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        *_SCORE_ORIGIN,
        _ARRIVAL,
        Column("SCORED_AT", "TIMESTAMP_NTZ", "When the label was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("UUID",),
)

REVIEWS = Table(
    "REVIEWS",
    "One review with its quality and sentiment: the contract of the quickstart, on which its dashboard runs unchanged.",
    (
        _uuid("RAW_REVIEWS.UUID"),
        Column("REVIEW_TEXT", "STRING", "The review's text.", nullable=False, lineage=("RAW_REVIEWS.REVIEW_TEXT",)),
        Column("REVIEW_QUALITY", "STRING", "Quality label.", lineage=("REVIEW_QUALITY.REVIEW_QUALITY",)),
        Column("REVIEW_SENTIMENT", "FLOAT", "Sentiment, -1 to 1.", lineage=("REVIEW_SENTIMENT.REVIEW_SENTIMENT",)),
        Column("SENTIMENT_LABEL", "STRING", "Sentiment class.", lineage=("REVIEW_SENTIMENT.SENTIMENT_LABEL",)),
        Column("LANGUAGE", "STRING", "Detected language.", nullable=False, lineage=("RAW_REVIEWS.LANGUAGE",)),
        Column("ARRIVAL_DATE", "DATE", "Day of arrival.", nullable=False, lineage=("RAW_REVIEWS.ARRIVAL_DATE",)),
    ),
    key=("UUID",),
)

PURCHASE_FEATURES = Table(
    "PURCHASE_FEATURES",
    "One visit with its review: what the purchase model is trained on and predicts from.",
    (
        _uuid("REVIEWS.UUID"),
        Column("PRODUCT_TYPE", "STRING", "Kind of product.", nullable=False, lineage=("TABULAR_DATA.PRODUCT_TYPE",)),
        Column("PRODUCT_LAYOUT", "STRING", "Page layout.", nullable=False, lineage=("TABULAR_DATA.PRODUCT_LAYOUT",)),
        Column("PAGE_LOAD_TIME", "FLOAT", "Seconds to load.", nullable=False, lineage=("TABULAR_DATA.PAGE_LOAD_TIME",)),
        Column("PRODUCT_RATING", "INT", "Stars shown.", nullable=False, lineage=("TABULAR_DATA.PRODUCT_RATING",)),
        Column("LANGUAGE", "STRING", "Language of the review.", nullable=False, lineage=("REVIEWS.LANGUAGE",)),
        Column("REVIEW_LENGTH", "INT", "Characters of the review.", nullable=False, lineage=("REVIEWS.REVIEW_TEXT",)),
        Column("REVIEW_SENTIMENT", "FLOAT", "Sentiment, -1 to 1.", lineage=("REVIEWS.REVIEW_SENTIMENT",)),
        Column("REVIEW_QUALITY", "STRING", "Quality label.", nullable=False, lineage=("REVIEWS.REVIEW_QUALITY",)),
        Column("PURCHASE_DECISION", "INT", "The target, 0 or 1.", lineage=("TABULAR_DATA.PURCHASE_DECISION",)),
        Column("ARRIVAL_DATE", "DATE", "Day of arrival.", nullable=False, lineage=("REVIEWS.ARRIVAL_DATE",)),
    ),
    key=("UUID",),
)

# What the model sees, in this order; the key, the target and the day of arrival stay out.
NOMINAL_FEATURES = ("PRODUCT_TYPE", "PRODUCT_LAYOUT", "LANGUAGE", "REVIEW_QUALITY")
NUMERIC_FEATURES = ("PAGE_LOAD_TIME", "PRODUCT_RATING", "REVIEW_LENGTH", "REVIEW_SENTIMENT")
MODEL_FEATURES = (*NOMINAL_FEATURES, *NUMERIC_FEATURES)
TARGET = "PURCHASE_DECISION"

_MODEL_VERSION = Column("MODEL_VERSION", "STRING", "Version of the model in the registry.", nullable=False)
_FEATURE_LINEAGE = tuple(f"PURCHASE_FEATURES.{name}" for name in MODEL_FEATURES)

PURCHASE_PROPENSITY = Table(
    "PURCHASE_PROPENSITY",
    "One visit with its probability of a purchase as the champion predicts it.",
    (
        _uuid("PURCHASE_FEATURES.UUID"),
        Column(
            "PURCHASE_PROBABILITY",
            "FLOAT",
            "Predicted probability of a purchase, 0 to 1.",
            nullable=False,
            lineage=_FEATURE_LINEAGE,
        ),
        Column("DECILE", "INT", "1: the tenth of visits most likely to buy.", nullable=False, lineage=_FEATURE_LINEAGE),
        _MODEL_VERSION,
        Column("SCORED_AT", "TIMESTAMP_NTZ", "When the prediction was made (UTC).", nullable=False),
        _RUN,
    ),
    key=("UUID",),
)

MODEL_EXPLANATIONS = Table(
    "MODEL_EXPLANATIONS",
    "The contribution (SHAP) of one feature to one prediction of the champion.",
    (
        _uuid("PURCHASE_PROPENSITY.UUID"),
        Column("FEATURE", "STRING", "Name of the feature.", nullable=False),
        Column("FEATURE_VALUE", "STRING", "The value it had, as text.", lineage=_FEATURE_LINEAGE),
        Column("CONTRIBUTION", "FLOAT", "SHAP value, in log-odds.", nullable=False, lineage=_FEATURE_LINEAGE),
        _MODEL_VERSION,
        Column("EXPLAINED_AT", "TIMESTAMP_NTZ", "When it was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("UUID", "FEATURE"),
)

PRODUCT_INSIGHTS = Table(
    "PRODUCT_INSIGHTS",
    "One product type in one layout: how it sells and what people say.",
    (
        Column("PRODUCT_TYPE", "STRING", "Product type.", nullable=False, lineage=("PURCHASE_FEATURES.PRODUCT_TYPE",)),
        Column("PRODUCT_LAYOUT", "STRING", "Layout.", nullable=False, lineage=("PURCHASE_FEATURES.PRODUCT_LAYOUT",)),
        Column("VISITS", "INT", "Visits with a review.", nullable=False, lineage=("PURCHASE_FEATURES.UUID",)),
        Column(
            "PURCHASE_RATE",
            "FLOAT",
            "Share of visits with a purchase.",
            lineage=("PURCHASE_FEATURES.PURCHASE_DECISION",),
        ),
        Column(
            "PURCHASE_RATE_LOW",
            "FLOAT",
            "Lower end of the 95 % Wilson interval.",
            lineage=("PURCHASE_FEATURES.PURCHASE_DECISION",),
        ),
        Column(
            "PURCHASE_RATE_HIGH",
            "FLOAT",
            "Upper end of the 95 % Wilson interval.",
            lineage=("PURCHASE_FEATURES.PURCHASE_DECISION",),
        ),
        Column(
            "MEAN_PROBABILITY",
            "FLOAT",
            "Mean predicted probability.",
            lineage=("PURCHASE_PROPENSITY.PURCHASE_PROBABILITY",),
        ),
        Column("MEAN_SENTIMENT", "FLOAT", "Mean sentiment.", lineage=("PURCHASE_FEATURES.REVIEW_SENTIMENT",)),
        Column("MEAN_RATING", "FLOAT", "Mean stars.", lineage=("PURCHASE_FEATURES.PRODUCT_RATING",)),
        Column("NEGATIVE_SHARE", "FLOAT", "Share of negative reviews.", lineage=("REVIEWS.SENTIMENT_LABEL",)),
        Column("LIKED_EXAMPLE", "STRING", "The most positive detailed review.", lineage=("REVIEWS.REVIEW_TEXT",)),
        Column("DISLIKED_EXAMPLE", "STRING", "The most negative detailed review.", lineage=("REVIEWS.REVIEW_TEXT",)),
        Column("COMPUTED_AT", "TIMESTAMP_NTZ", "When the row was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("PRODUCT_TYPE", "PRODUCT_LAYOUT"),
)

# Tables that deployment creates; REVIEWS is a view over three of them.
TABLES = (
    TABULAR_DATA,
    RAW_REVIEWS,
    REJECTED_REVIEWS,
    INGESTED_FILES,
    PUBLISH_LOCKS,
    REVIEW_SENTIMENT,
    REVIEW_QUALITY,
    PURCHASE_FEATURES,
    PURCHASE_PROPENSITY,
    MODEL_EXPLANATIONS,
    PRODUCT_INSIGHTS,
)
