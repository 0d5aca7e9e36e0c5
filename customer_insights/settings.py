"""Every setting once. Defaults are the names of Snowflake's quickstart "Build ML models for customer conversions".

A setting is changed by an environment variable with the prefix ``CUSTOMER_INSIGHTS_``
(``CUSTOMER_INSIGHTS_COMPUTE_POOL=MY_POOL``) or by the same line in ``.env`` at the root of the checkout. How to reach
Snowflake is not here: that is the connection of ``connections.toml``. What a table looks like is in ``tables``.
"""

from __future__ import annotations

import json
from datetime import date, time
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from customer_insights.identifiers import validated

# Of the checkout, wherever a command is started.
ENV_FILE = Path(__file__).resolve().parent.parent / ".env"
Identifier = Annotated[str, AfterValidator(validated)]
Weekday = Literal["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]


def _words(value: object) -> object:
    """A comma-separated text as a tuple, so that an environment variable can hold several languages."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _aspects(names: tuple[str, ...]) -> tuple[str, ...]:
    """Categories that AI_SENTIMENT takes: https://docs.snowflake.com/en/sql-reference/functions/ai_sentiment"""
    if len(names) > 10:
        raise ValueError(f"AI_SENTIMENT takes up to 10 aspects, found {len(names)}: leave some out")
    for name in names:
        if not name or len(name) > 30:
            raise ValueError(f"an aspect has 1 to 30 characters for AI_SENTIMENT, found {name!r}: choose another name")
        if name.casefold() == "overall":
            raise ValueError("'overall' is AI_SENTIMENT's name of the whole text, which is always judged: leave it out")
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"each aspect must be named once, found {', '.join(names)}")
    return names


def _labels(value: object) -> object:
    """JSON's list, or a comma-separated text: a label may be a sentence with commas of its own."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(
                f'a list of labels was expected (["detailed", "basic, accurate"]), found {value!r}: {error}'
            ) from error
    return _words(value)


def _distinct_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels among which a text can be classified."""
    if any(not label.strip() for label in labels):
        raise ValueError(f"each quality label needs words, found {labels}: leave the empty one out")
    if len(labels) < 2:
        raise ValueError(f"two or more quality labels are needed to tell texts apart, found {labels}: name another one")
    found = [" ".join(label.casefold().split()) for label in labels]
    doubled = sorted({label for label in found if found.count(label) > 1})
    if doubled:
        raise ValueError(f"each quality label must be named once, found {doubled} more than once: leave the others out")
    return labels


def _template(template: str) -> str:
    """A hypothesis with one place for the label."""
    if template.count("{}") != 1 or "{" in template.replace("{}", "") or "}" in template.replace("{}", ""):
        raise ValueError(
            "a hypothesis with one {} where the label goes was expected ('This review is {}.'), and no other brace; "
            f"found {template!r}: without it every label would be the same question"
        )
    return template


def _zone(name: str) -> str:
    """A time zone of the IANA database."""
    try:
        return ZoneInfo(name).key
    # What ZoneInfo raises for an unknown name, a path or a folder.
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"a time zone as Europe/Berlin was expected, found {name!r}") from error


def _minute(value: time) -> time:
    """A time of day to the minute, as a schedule can say it."""
    if value.tzinfo or value.second or value.microsecond:
        raise ValueError(f"a time of day HH:MM in the setting `timezone` was expected, found {value.isoformat()!r}")
    return value


TimeOfDay = Annotated[time, AfterValidator(_minute)]


def _part_of_an_hour(minutes: int) -> int:
    if minutes not in (5, 10, 15, 20, 30):
        raise ValueError(f"5, 10, 15, 20 or 30 minutes were expected, found {minutes}")
    return minutes


def _part_of_a_day(hours: int) -> int:
    if hours not in (1, 2, 3, 4, 6, 8, 12):
        raise ValueError(f"1, 2, 3, 4, 6, 8 or 12 hours were expected, found {hours}")
    return hours


def _web_address(value: str) -> str:
    """An http(s) address without a slash at its end."""
    address = urlsplit(value)
    if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
        raise ValueError(f"an address as https://dagster.example.com was expected, found {value!r}")
    return value.rstrip("/")


class Settings(BaseSettings):
    """Names of Snowflake objects, models and limits."""

    model_config = SettingsConfigDict(env_prefix="CUSTOMER_INSIGHTS_", env_file=ENV_FILE, extra="ignore", frozen=True)

    # Snowflake's objects
    connection: str | None = Field(
        default=None, description="connection of connections.toml; None: Snowflake's own rule chooses"
    )
    database: Identifier = Field(default="HOL_DB", description="where everything of the project is")
    schema_name: Identifier = Field(default="HOL_SCHEMA", description="schema of its tables, stages, model and jobs")
    warehouse: Identifier = Field(
        default="HOL_WAREHOUSE", description="runs the SQL, Cortex and the registry's functions"
    )
    compute_pool: Identifier = Field(default="HOL_COMPUTE_POOL", description="runs the Ray jobs")
    compute_pool_family: Identifier = Field(
        default="CPU_X64_M",
        description="instance family with which `deploy` creates the pool, and by which its credits are estimated",
    )
    compute_pool_max_nodes: int = Field(default=2, ge=1, description="nodes of the pool; as many jobs run side by side")
    review_stage: Identifier = Field(default="REVIEWS", description="the stage that new review files arrive on")
    payload_stage: Identifier = Field(
        default="PAYLOAD_STAGE", description="where job code is uploaded, by code version"
    )
    work_stage: Identifier = Field(default="WORK_STAGE", description="where jobs exchange Parquet and messages, by run")
    report_stage: Identifier = Field(default="REPORTS", description="where the daily report is put, a file a day")
    model_name: Identifier = Field(default="CONVERSION_MODEL", description="the model in the Model Registry")
    # who uses them: what `customer-insights deploy --role-script` makes
    pipeline_role: Identifier = Field(default="HOL_ROLE", description="the role that jobs run with")
    reader_role: Identifier = Field(default="HOL_READER", description="the role of dashboards")
    operator_role: Identifier = Field(default="HOL_OPERATOR", description="the role of who is on call")
    service_user: Identifier = Field(default="CUSTOMER_INSIGHTS", description="the user that the pipeline logs in as")

    # how the jobs run
    external_access_integrations: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = Field(
        default=(), description="what a job's container may reach, e.g. to install its requirements"
    )
    target_instances: int = Field(default=1, ge=1, description="nodes of a job")
    queue_timeout_seconds: float = Field(
        default=1800, gt=0, description="a job that waits longer for nodes is cancelled and tried again"
    )
    run_timeout_seconds: float = Field(
        default=4 * 3600, gt=0, description="a job that runs longer is cancelled, and its step fails"
    )
    retry_seconds: float = Field(
        default=30, ge=0, description="wait before the first retry of a step that another attempt may mend"
    )
    partition_start: str = Field(default="2026-01-01", description="first day (UTC) on which files may have arrived")
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="time zone of the schedules and deadlines, e.g. Europe/Berlin"
    )
    schedules_on: bool = Field(
        default=False, description="start schedules, sensors and automation as soon as they are loaded"
    )

    # freshness: when what arrived on a day (UTC) must be there, in the time zone of the schedules
    reviews_deadline: TimeOfDay = Field(
        default=time(7), description="HH:MM, by which a day that is over has been read and scored"
    )
    features_deadline: TimeOfDay = Field(
        default=time(8), description="HH:MM, by which features, predictions, insights and the report are made of it"
    )
    model_warn_days: int = Field(default=7, ge=1, description="age of the model that is warned of")
    model_fail_days: int = Field(default=8, ge=2, description="age that the model must not have")
    freshness_minutes: Annotated[int, AfterValidator(_part_of_an_hour)] = Field(
        default=30, description="minutes between two looks at the day that each table has reached"
    )
    waiting_hours: float = Field(
        default=2, gt=0, description="how long a file or a review may wait for its turn before it is warned of"
    )
    dagster_url: Annotated[str, AfterValidator(_web_address)] = Field(
        default="http://127.0.0.1:3000", description="where people open Dagster's pages; links in alerts lead there"
    )

    # when things run, in the time zone above; freshness expects what runs here to be done some hours later
    reviews_at: time = Field(default=time(5), description="every day: reads and scores the day that is over in UTC")
    predictions_at: time = Field(default=time(7), description="every day: predicts, sums up, writes the report")
    costs_hours: Annotated[int, AfterValidator(_part_of_a_day)] = Field(
        default=3, description="hours between two collections of costs, counted from midnight"
    )
    retraining_at: time = Field(default=time(6), description="every week: trains, and promotes what is good enough")
    retraining_weekday: Weekday = Field(default="monday", description="day of the week, in English")
    maintenance_at: time = Field(default=time(3), description="every week: removes what nobody needs any more")
    maintenance_weekday: Weekday = Field(default="sunday", description="day of the week, in English")

    # limits of runs
    days_per_run: int = Field(
        default=31, ge=1, description="days of arrival in one run and one job; a longer range is several runs"
    )
    runs_per_tick: int = Field(default=4, ge=1, description="runs that the stage sensor asks for at a time")
    day_attempts: int = Field(default=3, ge=1, description="runs that the stage sensor asks for of days that fail")
    day_retry_minutes: float = Field(
        default=15, ge=0, description="wait before a failed day is asked for again; doubled each time"
    )
    daily_run_limit_seconds: int = Field(
        default=6 * 3600,
        ge=60,
        description="after which predictions, costs, observation, newest_days, rollback and maintenance are ended",
    )
    long_run_limit_seconds: int = Field(
        default=24 * 3600, ge=60, description="after which a run of another job, or for a range of days, is ended"
    )

    # ingest
    max_review_characters: int = Field(
        default=1_000_000, ge=1, description="a longer review is rejected with its length"
    )

    # sentiment: Cortex reads these languages, the job on the compute pool reads the rest
    sentiment_cortex_languages: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = Field(
        default=("en", "fr", "de", "hi", "it", "es", "pt"),
        description="ISO 639-1; of these AI_SENTIMENT tells the sentiment; empty: the model reads every language",
    )
    sentiment_model: str = Field(
        default="use",
        description="'use', 'e5', 'use+e5', 'use+e5-tuned'; or for transformers a name on the hub, or a folder",
    )
    sentiment_revision: str | None = Field(
        default=None, description="commit of a sentiment model on the hub; needed there"
    )
    review_aspects: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words), AfterValidator(_aspects)] = Field(
        default=("price", "quality", "delivery", "service"),
        description="what reviews may speak of, judged one by one; empty: not asked",
    )
    sentiment_attempts: int = Field(
        default=3, ge=1, description="how often Cortex is asked about a text that it does not answer"
    )

    # quality: the labels are the hypotheses of the quickstart's zero-shot classifier
    quality_labels: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_labels), AfterValidator(_distinct_labels)] = (
        Field(
            default=(
                "detailed with specific information and experience",
                "basic accurate information",
                "generic brief with no details",
            ),
            description="from the best to the least, comma-separated or a JSON list; others need a model from the hub",
        )
    )
    quality_hypothesis_template: Annotated[str, AfterValidator(_template)] = Field(
        default="This review is {}.", description="the hypothesis, with the label at {}"
    )
    quality_model: str = Field(
        default="embedded", description="'embedded', or a name on the Hugging Face hub or a folder"
    )
    quality_revision: str | None = Field(default=None, description="commit of a quality model on the hub; needed there")

    # the purchase model
    minimum_training_rows: int = Field(default=200, ge=20, description="visits with a decision that training needs")
    promotion_tolerance: float = Field(
        default=0.01, ge=0, description="AUC by which a challenger may fall short of the champion, inside the interval"
    )
    calibration_limit: float = Field(
        default=0.03,
        ge=0,
        description="expected calibration error that a champion may have beyond what chance explains",
    )
    class_weight_below: float = Field(
        default=0.01, ge=0, le=0.5, description="share of purchases below which the few weigh more in training"
    )
    search_trials: int = Field(
        default=0, ge=0, description="parameter sets that Ray Tune tries before training; 0: the parameters as they are"
    )
    search_seconds: float = Field(default=600, gt=0, description="time after which the search starts no other trial")
    distributed_training_rows: int = Field(
        default=5_000_000, ge=1, description="training rows from which Ray Train spreads the fit over the nodes"
    )
    training_as_of: date | None = Field(
        default=None, description="last day of arrival (YYYY-MM-DD) that features may know; None: all that has arrived"
    )
    purchase_value: float = Field(default=20.0, gt=0, description="what a purchase brings, in any currency")
    contact_cost: float = Field(default=5.0, ge=0, description="what contacting a customer costs, in the same currency")

    # drift: the latest days of arrival against the champion's training set; an alarm must be large and not by chance
    drift_window_days: int = Field(default=7, ge=1, description="latest days of arrival that are compared")
    drift_stability_limit: float = Field(default=0.2, gt=0, description="population stability index")
    drift_distance_limit: float = Field(default=0.1, gt=0, description="Kolmogorov-Smirnov distance")
    drift_significance: float = Field(
        default=0.01, gt=0, lt=1, description="chance of a false alarm of one report; divided among what is measured"
    )
    drift_reports_before_retraining: int = Field(
        default=3, ge=1, description="days with a drifted feature in a row that retrain; purchases and scores: one"
    )
    retraining_cooldown_days: float = Field(
        default=3,
        ge=0,
        description="days after a training in which drift starts none; a week or more: drift never starts one",
    )
    model_monitor: bool = Field(
        default=False, description="let Snowflake monitor the champion too (CREATE MODEL MONITOR; accounts only)"
    )

    # links from Dagster's pages to the code
    code_url: str | None = Field(
        default=None, description="repository, e.g. https://github.com/<owner>/<name>; None: links to local files"
    )
    code_branch: str = Field(default="main", description="branch that the links lead to")

    # maintenance
    kept_days: int = Field(default=14, ge=1, description="age from which ended jobs and their left-overs are removed")
    kept_model_versions: int = Field(
        default=20, ge=1, description="newest versions of the model that are kept besides those that ever served"
    )

    # costs: what is not set is by the tables of costs.py, with their source and date (docs/costs.md)
    credits_per_node_hour: float | dict[str, float] | None = Field(
        default=None, description='instead of the table: credits, or by family as JSON: {"GPU_NV_SM": 1.1}'
    )
    credits_per_warehouse_hour: float | None = Field(
        default=None, ge=0, description="instead of the table of warehouse sizes"
    )
    credits_per_million_cortex_tokens: float = Field(default=1.6, ge=0, description="of AI_SENTIMENT")
    cortex_prompt_tokens: int = Field(
        default=100, ge=0, description="tokens that AI_SENTIMENT adds to a text for its prompt and its answer; a guess"
    )
    price_per_credit: float | None = Field(default=None, gt=0, description="of your contract, in any currency")
    daily_credit_budget: float | None = Field(default=None, gt=0, description="credits a day (UTC); None: no budget")
    monthly_credit_budget: float | None = Field(
        default=None, gt=0, description="credits a calendar month (UTC); None: no budget"
    )

    reject_share_limit: float = Field(
        default=0.05, ge=0, le=1, description="share of rejected rows above which a check fails"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Settings:
        if self.reviews_deadline >= self.features_deadline:
            raise ValueError(
                f"features are made of scored reviews: their deadline ({self.features_deadline:%H:%M}) must be later "
                f"than reviews_deadline ({self.reviews_deadline:%H:%M})"
            )
        if self.model_warn_days >= self.model_fail_days:
            raise ValueError(
                f"model_warn_days ({self.model_warn_days}) must be less than model_fail_days ({self.model_fail_days})"
            )
        return self

    @property
    def qualified_schema(self) -> str:
        return f"{self.database}.{self.schema_name}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
