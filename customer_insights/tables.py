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
    """One table: what a row is, its columns, and the columns that identify a row. ``written_with``: the asset that
    writes it, where that has another name."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    written_with: str = ""

    @property
    def asset(self) -> str:
        """Name of the asset whose materialization writes the table."""
        return self.written_with or self.name.lower()

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


def _uuid(*sources: str) -> Column:
    return Column("UUID", "STRING", "Identifies the review and its visit.", nullable=False, lineage=sources)


def _arrival(source: str) -> Column:
    text = "Day (UTC) on which the review's file arrived on the stage; the partition."
    return Column("ARRIVAL_DATE", "DATE", text, nullable=False, lineage=(source,))


_RUN = Column("RUN_ID", "STRING", "Dagster run that wrote the row.", nullable=False)

# No table: what a file on the stage holds, and what LIST says of the file. Here the lineage of every column of a review
# begins.
STAGED_REVIEWS = Table(
    "STAGED_REVIEWS",
    "One record of a review file on the stage, with what the stage says of the file.",
    (
        Column("UUID", "STRING", "The record's first field, or the field of this name.", nullable=False),
        Column("REVIEW_TEXT", "STRING", "The record's text, as the customer wrote it.", nullable=False),
        Column("SOURCE_FILE", "STRING", "Name of the file.", nullable=False),
        Column("SOURCE_LINE", "INT", "Line (or record, for Parquet) where the record begins, from 1.", nullable=False),
        Column("FILE_SIZE", "INT", "Bytes of the file.", nullable=False),
        Column("FILE_MD5", "STRING", "MD5 of the file as LIST shows it.", nullable=False),
        Column("LAST_MODIFIED", "TIMESTAMP_NTZ", "When the file arrived (UTC).", nullable=False),
    ),
    key=("SOURCE_FILE", "SOURCE_LINE"),
)

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
        Column("UUID", "STRING", "Identifies the review.", nullable=False, lineage=("STAGED_REVIEWS.UUID",)),
        Column(
            "REVIEW_TEXT",
            "STRING",
            "The review's text, unchanged.",
            nullable=False,
            lineage=("STAGED_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "TEXT_HASH",
            "STRING",
            "SHA-256 of the text, hexadecimal; scores are kept by it.",
            nullable=False,
            lineage=("STAGED_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "LANGUAGE",
            "STRING",
            "Detected language, ISO 639-1; 'und' when undetermined.",
            nullable=False,
            lineage=("STAGED_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "LANGUAGE_CONFIDENCE",
            "FLOAT",
            "Probability of the detected language, 0 to 1.",
            nullable=False,
            lineage=("STAGED_REVIEWS.REVIEW_TEXT",),
        ),
        Column("SOURCE_FILE", "STRING", "File on the stage.", nullable=False, lineage=("STAGED_REVIEWS.SOURCE_FILE",)),
        Column(
            "SOURCE_LINE",
            "INT",
            "Line (or record, for Parquet) where the review begins, from 1.",
            nullable=False,
            lineage=("STAGED_REVIEWS.SOURCE_LINE",),
        ),
        _arrival("STAGED_REVIEWS.LAST_MODIFIED"),
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
        _arrival("STAGED_REVIEWS.LAST_MODIFIED"),
        Column("REJECTED_AT", "TIMESTAMP_NTZ", "When the row was rejected (UTC).", nullable=False),
        _RUN,
    ),
    key=("SOURCE_FILE", "FILE_MD5", "SOURCE_LINE", "REASON"),
    written_with="raw_reviews",
)

INGESTED_FILES = Table(
    "INGESTED_FILES",
    "The ledger: one file of the stage that has been read, so that it is read once.",
    (
        Column("SOURCE_FILE", "STRING", "File on the stage.", nullable=False),
        Column("FILE_SIZE", "INT", "Bytes.", nullable=False),
        Column("FILE_MD5", "STRING", "MD5 as LIST shows it.", nullable=False),
        _arrival("STAGED_REVIEWS.LAST_MODIFIED"),
        Column(
            "FILE_ARRIVED_AT",
            "TIMESTAMP_NTZ",
            "When the file arrived on the stage (UTC); NULL for what was read before this column was.",
            lineage=("STAGED_REVIEWS.LAST_MODIFIED",),
        ),
        Column("ROWS_ACCEPTED", "INT", "Reviews written from this file.", nullable=False),
        Column("ROWS_REJECTED", "INT", "Rows rejected from this file.", nullable=False),
        Column("INGESTED_AT", "TIMESTAMP_NTZ", "When the file was read (UTC).", nullable=False),
        _RUN,
    ),
    key=("SOURCE_FILE", "FILE_SIZE", "FILE_MD5"),
    written_with="raw_reviews",
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
        Column(
            "SENTIMENT_CONFIDENCE",
            "FLOAT",
            "Probability of the class, 0 to 1; NULL where the backend gives none (Cortex).",
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "ASPECTS",
            "STRING",
            "Class of each aspect that the review speaks of, as a JSON object; NULL where aspects were not asked for.",
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        Column(
            "UNANSWERED",
            "INT",
            "How often this text was asked about without an answer; 0 once there is one.",
            nullable=False,
        ),
        *_SCORE_ORIGIN,
        _arrival("RAW_REVIEWS.ARRIVAL_DATE"),
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
        Column(
            "QUALITY_SCORE",
            "FLOAT",
            "How much a reader learns, 0 to 1: the mean place of the labels by probability, the first of them at 1.",
            nullable=False,
            lineage=("RAW_REVIEWS.REVIEW_TEXT",),
        ),
        *_SCORE_ORIGIN,
        _arrival("RAW_REVIEWS.ARRIVAL_DATE"),
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
        Column("ASPECTS", "STRING", "Class of each aspect, as JSON.", lineage=("REVIEW_SENTIMENT.ASPECTS",)),
        Column(
            "QUALITY_PROBABILITY",
            "FLOAT",
            "Probability of the quality label.",
            lineage=("REVIEW_QUALITY.QUALITY_PROBABILITY",),
        ),
        Column("QUALITY_SCORE", "FLOAT", "How much a reader learns.", lineage=("REVIEW_QUALITY.QUALITY_SCORE",)),
        Column("LANGUAGE", "STRING", "Detected language.", nullable=False, lineage=("RAW_REVIEWS.LANGUAGE",)),
        Column("ARRIVAL_DATE", "DATE", "Day of arrival.", nullable=False, lineage=("RAW_REVIEWS.ARRIVAL_DATE",)),
    ),
    key=("UUID",),
)

PURCHASE_FEATURES = Table(
    "PURCHASE_FEATURES",
    "One visit with its review: what the purchase model is trained on and predicts from.",
    (
        _uuid("REVIEWS.UUID", "TABULAR_DATA.UUID"),
        Column("PRODUCT_TYPE", "STRING", "Kind of product.", nullable=False, lineage=("TABULAR_DATA.PRODUCT_TYPE",)),
        Column("PRODUCT_LAYOUT", "STRING", "Page layout.", nullable=False, lineage=("TABULAR_DATA.PRODUCT_LAYOUT",)),
        Column("PAGE_LOAD_TIME", "FLOAT", "Seconds to load.", nullable=False, lineage=("TABULAR_DATA.PAGE_LOAD_TIME",)),
        Column("PRODUCT_RATING", "INT", "Stars shown.", nullable=False, lineage=("TABULAR_DATA.PRODUCT_RATING",)),
        Column("LANGUAGE", "STRING", "Language of the review.", nullable=False, lineage=("REVIEWS.LANGUAGE",)),
        Column("REVIEW_LENGTH", "INT", "Characters of the review.", nullable=False, lineage=("REVIEWS.REVIEW_TEXT",)),
        Column("REVIEW_SENTIMENT", "FLOAT", "Sentiment, -1 to 1.", lineage=("REVIEWS.REVIEW_SENTIMENT",)),
        Column("REVIEW_QUALITY", "STRING", "Quality label.", nullable=False, lineage=("REVIEWS.REVIEW_QUALITY",)),
        Column(
            "QUALITY_PROBABILITY",
            "FLOAT",
            "Probability of the quality label, 0 to 1.",
            nullable=False,
            lineage=("REVIEWS.QUALITY_PROBABILITY",),
        ),
        Column(
            "QUALITY_SCORE",
            "FLOAT",
            "How much a reader learns, 0 to 1.",
            nullable=False,
            lineage=("REVIEWS.QUALITY_SCORE",),
        ),
        Column("PURCHASE_DECISION", "INT", "The target, 0 or 1.", lineage=("TABULAR_DATA.PURCHASE_DECISION",)),
        Column("ARRIVAL_DATE", "DATE", "Day of arrival.", nullable=False, lineage=("REVIEWS.ARRIVAL_DATE",)),
    ),
    key=("UUID",),
)

# What the model sees, in this order; the key, the target and the day of arrival stay out.
NOMINAL_FEATURES = ("PRODUCT_TYPE", "PRODUCT_LAYOUT", "LANGUAGE", "REVIEW_QUALITY")
NUMERIC_FEATURES = (
    "PAGE_LOAD_TIME",
    "PRODUCT_RATING",
    "REVIEW_LENGTH",
    "REVIEW_SENTIMENT",
    "QUALITY_PROBABILITY",
    "QUALITY_SCORE",
)
MODEL_FEATURES = (*NOMINAL_FEATURES, *NUMERIC_FEATURES)
# What is known while the visitor is on the page. The others come from a review, which is written later: with them the
# model says who buys among those who have written, not among those who are about to visit.
KNOWN_BEFORE_PURCHASE = ("PRODUCT_TYPE", "PRODUCT_LAYOUT", "PAGE_LOAD_TIME", "PRODUCT_RATING")
TARGET = "PURCHASE_DECISION"

_MODEL_VERSION = Column("MODEL_VERSION", "STRING", "Version of the model in the registry.", nullable=False)
_SERVED_VERSION = Column(
    "MODEL_VERSION",
    "STRING",
    "Version of the model that was in service.",
    nullable=False,
    lineage=("CHAMPION_HISTORY.MODEL_VERSION",),
)
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
        _SERVED_VERSION,
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
        _SERVED_VERSION,
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

ASPECT_INSIGHTS = Table(
    "ASPECT_INSIGHTS",
    "One aspect (price, quality, delivery, service) of one product type in one layout: how often it is liked.",
    (
        Column("PRODUCT_TYPE", "STRING", "Product type.", nullable=False, lineage=("PURCHASE_FEATURES.PRODUCT_TYPE",)),
        Column("PRODUCT_LAYOUT", "STRING", "Layout.", nullable=False, lineage=("PURCHASE_FEATURES.PRODUCT_LAYOUT",)),
        Column("ASPECT", "STRING", "What is spoken of.", nullable=False, lineage=("REVIEWS.ASPECTS",)),
        Column("MENTIONS", "INT", "Reviews that speak of it.", nullable=False, lineage=("REVIEWS.ASPECTS",)),
        Column("LIKED", "INT", "Reviews that praise it.", nullable=False, lineage=("REVIEWS.ASPECTS",)),
        Column("DISLIKED", "INT", "Reviews that complain of it.", nullable=False, lineage=("REVIEWS.ASPECTS",)),
        Column(
            "LIKED_SHARE",
            "FLOAT",
            "Praise among praise and complaint, 0 to 1; NULL where there is neither.",
            lineage=("REVIEWS.ASPECTS",),
        ),
        Column("LIKED_SHARE_LOW", "FLOAT", "Lower end of the 95 % Wilson interval.", lineage=("REVIEWS.ASPECTS",)),
        Column("LIKED_SHARE_HIGH", "FLOAT", "Upper end of the 95 % Wilson interval.", lineage=("REVIEWS.ASPECTS",)),
        Column("LIKED_EXAMPLE", "STRING", "A review that praises it, as written.", lineage=("REVIEWS.REVIEW_TEXT",)),
        Column("LIKED_LANGUAGE", "STRING", "Its language.", lineage=("REVIEWS.LANGUAGE",)),
        Column("DISLIKED_EXAMPLE", "STRING", "A review that complains, as written.", lineage=("REVIEWS.REVIEW_TEXT",)),
        Column("DISLIKED_LANGUAGE", "STRING", "Its language.", lineage=("REVIEWS.LANGUAGE",)),
        Column("COMPUTED_AT", "TIMESTAMP_NTZ", "When the row was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("PRODUCT_TYPE", "PRODUCT_LAYOUT", "ASPECT"),
)

PURCHASE_RATES = Table(
    "PURCHASE_RATES",
    "How many visits end in a purchase, by one property of the visit at a time.",
    (
        Column(
            "DIMENSION",
            "STRING",
            "REVIEW_SENTIMENT, REVIEW_QUALITY, PAGE_LOAD_TIME, PRODUCT_RATING or LANGUAGE.",
            nullable=False,
        ),
        Column("BUCKET", "STRING", "Value or range of it.", nullable=False, lineage=_FEATURE_LINEAGE),
        Column("POSITION", "INT", "Order of the bucket within its dimension, from 1.", nullable=False),
        Column("VISITS", "INT", "Decided visits.", nullable=False, lineage=("PURCHASE_FEATURES.PURCHASE_DECISION",)),
        Column(
            "PURCHASES", "INT", "Of these, purchases.", nullable=False, lineage=("PURCHASE_FEATURES.PURCHASE_DECISION",)
        ),
        Column("PURCHASE_RATE", "FLOAT", "Their share.", lineage=("PURCHASE_FEATURES.PURCHASE_DECISION",)),
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
        Column("COMPUTED_AT", "TIMESTAMP_NTZ", "When the row was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("DIMENSION", "BUCKET"),
)

TARGETING = Table(
    "TARGETING",
    "One tenth of the visits by the champion's probability, and what contacting them is expected to bring.",
    (
        Column("DECILE", "INT", "1: the most likely to buy.", nullable=False, lineage=("PURCHASE_PROPENSITY.DECILE",)),
        Column("VISITS", "INT", "Visits in it.", nullable=False, lineage=("PURCHASE_PROPENSITY.UUID",)),
        Column(
            "LOWEST_PROBABILITY",
            "FLOAT",
            "Smallest probability in it.",
            nullable=False,
            lineage=("PURCHASE_PROPENSITY.PURCHASE_PROBABILITY",),
        ),
        Column(
            "MEAN_PROBABILITY",
            "FLOAT",
            "Mean probability in it.",
            nullable=False,
            lineage=("PURCHASE_PROPENSITY.PURCHASE_PROBABILITY",),
        ),
        Column(
            "EXPECTED_PURCHASES",
            "FLOAT",
            "Sum of the probabilities.",
            nullable=False,
            lineage=("PURCHASE_PROPENSITY.PURCHASE_PROBABILITY",),
        ),
        Column(
            "EXPECTED_GAIN",
            "FLOAT",
            "Share of all expected purchases in this decile and those above, 0 to 1.",
            lineage=("PURCHASE_PROPENSITY.PURCHASE_PROBABILITY",),
        ),
        Column(
            "EXPECTED_PROFIT",
            "FLOAT",
            "Expected purchases times the value of one, less the cost of contacting every visit in it (settings).",
            nullable=False,
            lineage=("PURCHASE_PROPENSITY.PURCHASE_PROBABILITY",),
        ),
        _SERVED_VERSION,
        Column("COMPUTED_AT", "TIMESTAMP_NTZ", "When the row was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("DECILE",),
)

MODEL_REFERENCE = Table(
    "MODEL_REFERENCE",
    "One visit of the training set of one model version, with the probability that it gave when it was trained: what "
    "drift is measured against, and what the version must give again when it is loaded from the registry.",
    (
        _MODEL_VERSION,
        _uuid("PURCHASE_FEATURES.UUID"),
        Column("PART", "STRING", "train, validation or test.", nullable=False),
        *(
            Column(
                column.name,
                column.type,
                column.description,
                nullable=column.nullable,
                lineage=(f"PURCHASE_FEATURES.{column.name}",),
            )
            for column in PURCHASE_FEATURES.columns
            if column.name in (*MODEL_FEATURES, TARGET)
        ),
        Column(
            "PURCHASE_PROBABILITY",
            "FLOAT",
            "What the version predicted right after training, 0 to 1.",
            nullable=False,
            lineage=_FEATURE_LINEAGE,
        ),
        Column("LOGGED_AT", "TIMESTAMP_NTZ", "When the row was written (UTC).", nullable=False),
        _RUN,
    ),
    key=("MODEL_VERSION", "UUID"),
    written_with="conversion_model",
)

MODEL_EVALUATIONS = Table(
    "MODEL_EVALUATIONS",
    "One metric of one model on the test visits of one version's training set, or on a segment of them.",
    (
        _MODEL_VERSION,
        Column(
            "MODEL",
            "STRING",
            "challenger, champion, prior, logistic_regression or known_before_purchase.",
            nullable=False,
        ),
        Column("SEGMENT_BY", "STRING", "Column of the segment; ALL for every test visit.", nullable=False),
        Column("SEGMENT", "STRING", "Its value; ALL for every test visit.", nullable=False),
        Column("METRIC", "STRING", "Name of the metric, e.g. roc_auc.", nullable=False),
        Column("VALUE", "FLOAT", "The metric.", nullable=False, lineage=("PURCHASE_FEATURES.PURCHASE_DECISION",)),
        Column("LOW", "FLOAT", "Lower end of its 95 % bootstrap interval."),
        Column("HIGH", "FLOAT", "Upper end of its 95 % bootstrap interval."),
        Column("VISITS", "INT", "Test visits measured on.", nullable=False),
        Column("PURCHASES", "INT", "Of these, purchases.", nullable=False),
        Column("MEASURED_AT", "TIMESTAMP_NTZ", "When it was measured (UTC).", nullable=False),
        _RUN,
    ),
    key=("MODEL_VERSION", "MODEL", "SEGMENT_BY", "SEGMENT", "METRIC"),
    written_with="conversion_model",
)

CHAMPION_HISTORY = Table(
    "CHAMPION_HISTORY",
    "One change of the version in service: who it was, who it is, and why.",
    (
        Column("CHANGED_AT", "TIMESTAMP_NTZ", "When the change was decided (UTC).", nullable=False),
        Column(
            "MODEL_VERSION",
            "STRING",
            "Version that came into service.",
            nullable=False,
            lineage=("MODEL_REFERENCE.MODEL_VERSION",),
        ),
        Column("PREVIOUS_VERSION", "STRING", "The version in service before; NULL for the first."),
        Column("ACTION", "STRING", "promotion or rollback.", nullable=False),
        Column("REASON", "STRING", "What was found, or what the person who rolled back wrote.", nullable=False),
        _RUN,
    ),
    key=("RUN_ID", "MODEL_VERSION"),
    written_with="champion",
)

DRIFT_REPORT = Table(
    "DRIFT_REPORT",
    "How far the visits of the latest days are from the champion's training set, in one thing that is measured.",
    (
        Column("WINDOW_START", "DATE", "First day of arrival of the visits compared.", nullable=False),
        Column("WINDOW_END", "DATE", "Last day of arrival of the visits compared.", nullable=False),
        _SERVED_VERSION,
        Column("MEASURED", "STRING", "A feature, PURCHASE_PROBABILITY or PURCHASE_DECISION.", nullable=False),
        Column("KIND", "STRING", "nominal, numeric, score, label or nulls.", nullable=False),
        Column(
            "REFERENCE_ROWS",
            "INT",
            "Visits of the training set that were compared.",
            nullable=False,
            lineage=("MODEL_REFERENCE.UUID",),
        ),
        Column(
            "CURRENT_ROWS",
            "INT",
            "Visits of the window that were compared: a sample where there are many.",
            nullable=False,
            lineage=("PURCHASE_FEATURES.UUID",),
        ),
        Column(
            "REFERENCE_VALUE",
            "FLOAT",
            "Mean (numbers), share of the then commonest value (nominal), of purchases or NULLs, then.",
        ),
        Column("CURRENT_VALUE", "FLOAT", "The same, now.", lineage=_FEATURE_LINEAGE),
        Column("POPULATION_STABILITY", "FLOAT", "Population stability index; NULL where too few visits are compared."),
        Column(
            "DISTANCE",
            "FLOAT",
            "Largest difference between then and now: of the distribution functions (numbers; Kolmogorov-Smirnov), or "
            "of the share of any set of values (total variation). NULL where too few visits are compared.",
        ),
        Column("P_VALUE", "FLOAT", "Probability of at least this much by chance, before correction for many tests."),
        Column("DRIFTED", "INT", "1 when it is both large and not by chance (settings).", nullable=False),
        Column("COMPUTED_AT", "TIMESTAMP_NTZ", "When the row was computed (UTC).", nullable=False),
        _RUN,
    ),
    key=("WINDOW_END", "MODEL_VERSION", "MEASURED", "KIND"),
)

PIPELINE_COSTS = Table(
    "PIPELINE_COSTS",
    "What one step of one run used of one resource, with its estimated credits; also of steps that failed.",
    (
        Column("RUN_ID", "STRING", "Dagster run of the step; of a job, the run that submitted it.", nullable=False),
        Column("ASSET", "STRING", "Asset that the step makes.", nullable=False),
        Column("RESOURCE", "STRING", "compute_pool, warehouse or cortex.", nullable=False),
        Column("JOB_ID", "STRING", "Job on the compute pool; empty for the other resources.", nullable=False),
        Column("RESOURCE_NAME", "STRING", "Name of the pool, the warehouse or the Cortex function.", nullable=False),
        Column("PARTITION_KEY", "STRING", "Day, or first...last, that the step worked on; NULL without partitions."),
        Column("STATUS", "STRING", "How the job ended, or how it stands; NULL for the other resources."),
        Column("STARTED_AT", "TIMESTAMP_NTZ", "When the use began (UTC).", nullable=False),
        Column("ENDED_AT", "TIMESTAMP_NTZ", "When it ended, or was last seen (UTC).", nullable=False),
        Column("NODES", "INT", "Nodes of the job."),
        Column("NODE_SECONDS", "FLOAT", "Seconds that the job ran, times its nodes."),
        Column("QUEUE_SECONDS", "FLOAT", "Seconds that the job waited for nodes; NULL where Snowflake does not say."),
        Column("WAREHOUSE_SECONDS", "FLOAT", "Seconds of the warehouse: time shared with other steps counts by half."),
        Column("STATEMENTS", "INT", "Statements that the warehouse ran."),
        Column(
            "IDLE_SECONDS", "FLOAT", "Seconds (of a pool: times nodes) that the resource then stayed up without work."
        ),
        Column("CORTEX_ROWS", "INT", "Texts that AI_SENTIMENT was asked about; a repeated text is asked about once."),
        Column("CORTEX_TOKENS", "INT", "Tokens of those texts and their prompts, estimated from their bytes."),
        Column("ROWS_WRITTEN", "INT", "Rows of the asset's table that carry the run's id."),
        Column("ESTIMATED_CREDITS", "FLOAT", "Credits by the rates of settings; NULL where a rate is not known."),
        Column("COLLECTED_AT", "TIMESTAMP_NTZ", "When Snowflake's history was read (UTC).", nullable=False),
    ),
    key=("RUN_ID", "ASSET", "RESOURCE", "JOB_ID"),
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
    MODEL_REFERENCE,
    MODEL_EVALUATIONS,
    CHAMPION_HISTORY,
    PRODUCT_INSIGHTS,
    ASPECT_INSIGHTS,
    PURCHASE_RATES,
    TARGETING,
    DRIFT_REPORT,
    PIPELINE_COSTS,
)


def named(name: str) -> Table:
    """The table or view of that name, or what the stage holds."""
    return next(table for table in (*TABLES, REVIEWS, STAGED_REVIEWS) if table.name == name)
