"""Reviews: what arrives on the stage, what is read from it, its scores, and the view that joins them."""

from typing import TYPE_CHECKING

import dagster as dg

from assets import catalogue, checks
from assets.catalogue import IN_WINDOW
from customer_insights import deployment, pending, quality, query, sentiment
from customer_insights.settings import settings
from customer_insights.tables import (
    RAW_REVIEWS,
    REJECTED_REVIEWS,
    REVIEW_QUALITY,
    REVIEW_SENTIMENT,
    REVIEWS,
    STAGED_REVIEWS,
    TABULAR_DATA,
)
from resources.compute_pool import ComputePool, JobOutcome
from resources.retries import retried
from resources.snowflake import SnowflakeConnection

if TYPE_CHECKING:
    from snowflake.snowpark import Session

GROUP = "reviews"
SOURCES = "sources"


@dg.observable_source_asset(
    group_name=SOURCES,
    partitions_def=catalogue.DAILY,
    description=(
        "The review files on the stage: text, CSV, JSON Lines or Parquet, plain or gzip, as the shop exports them. "
        "Observing it gives each day of arrival a data version, so that nothing runs when nothing came."
    ),
    tags={"domain": "reviews", "dagster/kind/snowflake": "", "dagster/kind/file": ""},
    metadata={
        "dagster/column_schema": catalogue.column_schema(STAGED_REVIEWS),
        "dagster/uri": f"@{settings().qualified_schema}.{settings().review_stage}",
    },
)
def staged_reviews(snowflake: SnowflakeConnection) -> dg.DataVersionsByPartition:
    """One data version a day of arrival, from names, sizes and checksums of its files."""
    from customer_insights import stage_files

    with snowflake.session() as session:
        found = stage_files.versions_by_day(stage_files.list_files(session, f"@{settings().review_stage}"))
    return dg.DataVersionsByPartition({day: version for day, version in found.items() if day >= catalogue.FIRST_DAY})


@dg.observable_source_asset(
    group_name=SOURCES,
    metadata=catalogue.table_metadata(TABULAR_DATA),
    description=(
        "Visits to product pages: what was shown, how long it took to load, and whether it sold. The shop writes it; "
        "purchase_features joins it with the reviews."
    ),
    tags={"domain": "visits", "dagster/kind/snowflake": "", "dagster/kind/table": ""},
)
def tabular_data(snowflake: SnowflakeConnection) -> dg.DataVersion:
    """A fingerprint of the table, whatever the order of its rows."""
    columns = ", ".join(TABULAR_DATA.column_names)
    row = snowflake.query(f"SELECT HASH_AGG({columns}) AS F, COUNT(*) AS N FROM {TABULAR_DATA.name}")[0]
    return dg.DataVersion(f"{row['F']}-{row['N']}")


@dg.asset(
    group_name=GROUP,
    deps=[staged_reviews.key],
    partitions_def=catalogue.DAILY,
    backfill_policy=catalogue.ONE_RUN,
    kinds={"snowflake", "ray"},
    owners=catalogue.OWNERS,
    tags={"domain": "reviews"},
    code_version="1",
    pool=catalogue.COMPUTE_POOL,
    metadata=catalogue.table_metadata(RAW_REVIEWS),
    check_specs=[
        checks.keys_spec(RAW_REVIEWS),
        checks.spec(checks.REJECTED_SHARE, "raw_reviews", "Few rows were rejected.", blocking=False),
    ],
)
@retried
def raw_reviews(
    context: dg.AssetExecutionContext, snowflake: SnowflakeConnection, compute_pool: ComputePool
) -> dg.MaterializeResult:
    """One review as it was read from a file on the stage, with its language. What cannot be read is in REJECTED_REVIEWS
    with its file, line and reason. For the two scores; a file is read once."""
    from customer_insights import ingest

    start, end = catalogue.arrival_window(context)
    with snowflake.session() as session:
        files = ingest.pending_files(session, settings(), start, end)
        outcome = compute_pool.run_when(
            lambda: bool(ingest.pending_files(session, settings(), start, end)),
            context,
            entrypoint="ingest_reviews",
            extras={"arrival_start": start, "arrival_end": end},
            otherwise=f"no new file arrived from {start} to {end}",
        )
        count = f"SELECT COUNT(*) FROM {REJECTED_REVIEWS.name} WHERE {IN_WINDOW}"
        rejected = int(query.value(session, count, (start, end)))
        metadata = catalogue.materialized(session, RAW_REVIEWS, IN_WINDOW, (start, end))
        languages = catalogue.counts_by(session, RAW_REVIEWS, "LANGUAGE", IN_WINDOW, (start, end))
        accepted = metadata["dagster/row_count"]
        return outcome.result(
            {
                **metadata,
                "files read": len(files),
                "rows in": accepted + rejected,
                "rows rejected": rejected,
                "languages": catalogue.counts_table("language", languages),
            },
            [
                checks.keys(session, RAW_REVIEWS),
                checks.rejected_share(accepted, rejected, settings().reject_share_limit),
            ],
            data_version=catalogue.fingerprint(session, RAW_REVIEWS, IN_WINDOW, (start, end)),
        )


@dg.asset(
    group_name=GROUP,
    deps=[raw_reviews],
    partitions_def=catalogue.DAILY,
    backfill_policy=catalogue.ONE_RUN,
    kinds={"snowflake", "ray", "cortex"},
    owners=catalogue.OWNERS,
    tags={"domain": "reviews"},
    code_version="1",
    pool=catalogue.COMPUTE_POOL,
    metadata=catalogue.table_metadata(REVIEW_SENTIMENT),
    check_specs=[
        checks.keys_spec(REVIEW_SENTIMENT),
        checks.spec(checks.NO_ROW_LOST, "review_sentiment", "Every review has a row, every row a review."),
        checks.spec(checks.VALUES, "review_sentiment", "Sentiment is from -1 to 1 and its label is a known one."),
        checks.present_version_spec("review_sentiment"),
    ],
)
@retried
def review_sentiment(
    context: dg.AssetExecutionContext, snowflake: SnowflakeConnection, compute_pool: ComputePool
) -> dg.MaterializeResult:
    """One review's sentiment from -1 to 1, with its class and that of each aspect it speaks of. Cortex reads its
    languages in the warehouse, a model on the compute pool reads the others; a text that was scored by the same version
    is not scored again. For the features, the insights and the dashboard."""
    start, end = catalogue.arrival_window(context)
    window = pending.Window(start, end)
    model, revision = sentiment.model_identity(settings())
    with snowflake.session() as session:
        by_cortex = sentiment.CortexReport(0, 0, 0)
        if pending.count(session, sentiment.cortex_pending(settings(), window)):
            by_cortex = sentiment.score_with_cortex(session, settings(), window, context.run_id)
        waiting = pending.count(session, sentiment.cortex_pending(settings(), window))
        by_model = sentiment.model_pending(settings(), window, model, revision)
        rows_by_model = pending.count(session, by_model)
        outcome = compute_pool.run_when(
            lambda: pending.count(session, by_model) > 0,
            context,
            entrypoint="score_sentiment",
            extras={"arrival_start": start, "arrival_end": end},
            otherwise=f"every review from {start} to {end} in the model's languages is scored",
        )
        labels = ", ".join(f"'{label}'" for label in (*sentiment.CLASS_SCORES, sentiment.UNKNOWN))
        return outcome.result(
            {
                **catalogue.materialized(session, REVIEW_SENTIMENT, IN_WINDOW, (start, end)),
                "rows scored by Cortex": by_cortex.answered,
                "texts sent to Cortex": by_cortex.texts_sent,
                "rows that wait for an answer by Cortex": waiting,
                "rows given up by Cortex": pending.count(session, sentiment.given_up(settings(), window)),
                "rows scored on the compute pool": rows_by_model,
                "labels": catalogue.counts_table(
                    "label", catalogue.counts_by(session, REVIEW_SENTIMENT, "SENTIMENT_LABEL", IN_WINDOW, (start, end))
                ),
                **_sentiment_pictures(session, (start, end)),
            },
            [
                checks.keys(session, REVIEW_SENTIMENT),
                checks.no_row_lost(session, REVIEW_SENTIMENT, IN_WINDOW, (start, end)),
                checks.violations(
                    session,
                    checks.VALUES,
                    REVIEW_SENTIMENT,
                    {
                        "REVIEW_SENTIMENT from -1 to 1 or NULL": "COALESCE(REVIEW_SENTIMENT, 0) BETWEEN -1 AND 1",
                        "a known SENTIMENT_LABEL": f"SENTIMENT_LABEL IN ({labels})",
                        "SENTIMENT_CONFIDENCE from 0 to 1 or NULL": "COALESCE(SENTIMENT_CONFIDENCE, 0) BETWEEN 0 AND 1",
                        "NULL when unknown": f"(REVIEW_SENTIMENT IS NULL) = (SENTIMENT_LABEL = '{sentiment.UNKNOWN}')",
                    },
                    IN_WINDOW,
                    (start, end),
                ),
                checks.present_version(session, sentiment.of_other_versions(settings(), model, revision)),
            ],
            data_version=catalogue.fingerprint(session, REVIEW_SENTIMENT, IN_WINDOW, (start, end)),
        )


def _sentiment_pictures(session: "Session", days: tuple[str, str]) -> dict[str, dg.MetadataValue]:
    """Means and classes by language, confidences and aspects of the window; a picture without rows is left out."""
    from customer_insights import plots

    means = sentiment.means_by_language(session, days)
    classes = sentiment.classes_by_language(session, days)
    confidences = sentiment.confidences(session, days)
    aspects = sentiment.classes_by_aspect(session, days)
    found: dict[str, dg.MetadataValue] = {}
    if means:
        picture = plots.bars(means, "Mean sentiment by language", "sentiment, -1 to 1", "mean sentiment by language")
        found["sentiment by language"] = dg.MetadataValue.md(picture)
    if classes:
        picture = plots.stacked_shares(classes, plots.OF_CLASS, "Classes by language", "share of classes by language")
        found["classes by language"] = dg.MetadataValue.md(picture)
    if confidences:
        title, label = "Confidence of the model", "probability of the class"
        found["confidence"] = dg.MetadataValue.md(plots.histogram(confidences, title, label, "histogram of confidence"))
    if aspects:
        picture = plots.stacked_shares(aspects, plots.OF_CLASS, "Aspects spoken of", "share of classes by aspect")
        found["aspects"] = dg.MetadataValue.md(picture)
        rows = [(name, *(counts.get(label, 0) for label in plots.OF_CLASS)) for name, counts in aspects.items()]
        found["aspect counts"] = catalogue.markdown_table(("aspect", *plots.OF_CLASS), rows)
    return found


@dg.asset(
    group_name=GROUP,
    deps=[raw_reviews],
    partitions_def=catalogue.DAILY,
    backfill_policy=catalogue.ONE_RUN,
    kinds={"snowflake", "ray", "huggingface"},
    owners=catalogue.OWNERS,
    tags={"domain": "reviews"},
    code_version="1",
    pool=catalogue.COMPUTE_POOL,
    metadata=catalogue.table_metadata(REVIEW_QUALITY),
    check_specs=[
        checks.keys_spec(REVIEW_QUALITY),
        checks.spec(checks.NO_ROW_LOST, "review_quality", "Every review has a row, and no row is without a review."),
        checks.spec(checks.VALUES, "review_quality", "The label is one of the settings', numbers are from 0 to 1."),
        checks.present_version_spec("review_quality"),
    ],
)
@retried
def review_quality(
    context: dg.AssetExecutionContext, snowflake: SnowflakeConnection, compute_pool: ComputePool
) -> dg.MaterializeResult:
    """One review's quality label by zero-shot classification, with the probability of every label. Feeds the features
    and the dashboard's filter."""
    from customer_insights import zero_shot

    start, end = catalogue.arrival_window(context)
    model, revision = zero_shot.identity(settings())
    unlabelled = quality.quality_pending(settings(), pending.Window(start, end), model, revision)
    with snowflake.session() as session:
        rows = pending.count(session, unlabelled)
        outcome = compute_pool.run_when(
            lambda: pending.count(session, unlabelled) > 0,
            context,
            entrypoint="classify_quality",
            extras={"arrival_start": start, "arrival_end": end},
            otherwise=f"every review from {start} to {end} is labelled",
        )
        labels = ", ".join(f"'{label.replace(chr(39), chr(39) * 2)}'" for label in settings().quality_labels)
        return outcome.result(
            {
                **catalogue.materialized(session, REVIEW_QUALITY, IN_WINDOW, (start, end)),
                "rows classified": rows,
                "labels": catalogue.counts_table(
                    "label", catalogue.counts_by(session, REVIEW_QUALITY, "REVIEW_QUALITY", IN_WINDOW, (start, end))
                ),
                **_quality_pictures(session, (start, end)),
            },
            [
                checks.keys(session, REVIEW_QUALITY),
                checks.no_row_lost(session, REVIEW_QUALITY, IN_WINDOW, (start, end)),
                checks.violations(
                    session,
                    checks.VALUES,
                    REVIEW_QUALITY,
                    {
                        "a label of the settings": f"REVIEW_QUALITY IN ({labels})",
                        "QUALITY_PROBABILITY from 0 to 1": "QUALITY_PROBABILITY BETWEEN 0 AND 1",
                        "QUALITY_SCORE from 0 to 1": "QUALITY_SCORE BETWEEN 0 AND 1",
                    },
                    IN_WINDOW,
                    (start, end),
                ),
                checks.present_version(session, quality.of_other_versions(settings(), model, revision)),
            ],
            data_version=catalogue.fingerprint(session, REVIEW_QUALITY, IN_WINDOW, (start, end)),
        )


def _quality_pictures(session: "Session", days: tuple[str, str]) -> dict[str, dg.MetadataValue]:
    """Labels by language and probabilities of the chosen labels in the window; none where it has no review."""
    from customer_insights import plots

    labels = quality.labels_by_language(session, days)
    if not labels:
        return {}
    shares = plots.label_shares(labels, settings().quality_labels, "Labels by language", "share of labels by language")
    title, label = "How sure the model is", "probability of the chosen label"
    sure = plots.histogram(quality.probabilities(session, days), title, label, "histogram of the label's probability")
    return {"labels by language": dg.MetadataValue.md(shares), "probability": dg.MetadataValue.md(sure)}


@dg.asset(
    group_name=GROUP,
    deps=[raw_reviews, review_sentiment, review_quality],
    kinds={"snowflake", "view"},
    owners=catalogue.OWNERS,
    tags={"domain": "reviews"},
    code_version="1",
    pool="reviews",
    metadata=catalogue.table_metadata(REVIEWS),
    check_specs=[checks.spec(checks.KEYS, "reviews", "UUID is unique and no required column is NULL.")],
)
@retried
def reviews(snowflake: SnowflakeConnection) -> dg.MaterializeResult:
    """One review with its quality and sentiment: the quickstart's table as a view, on which its dashboard runs
    unchanged. For analysts, and for everything downstream."""
    with snowflake.session() as session:
        session.sql(deployment.reviews_view()).collect()
        return JobOutcome.without_job("a view needs no job").result(
            catalogue.materialized(session, REVIEWS),
            [checks.keys(session, REVIEWS)],
            data_version=catalogue.fingerprint(session, REVIEWS),
        )
