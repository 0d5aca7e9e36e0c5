"""What a manager reads: how products sell and what people say of them, purchase rates by one property at a time, and
whom to target. Each table is one SQL statement in the warehouse that replaces it whole; 95 % intervals are Wilson's.
What is read back is summed up here, too: it is what the pictures and the report show.

The page that is made of the tables is in ``daily_report``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from customer_insights import query
from customer_insights.plots import wilson
from customer_insights.settings import Settings
from customer_insights.tables import ASPECT_INSIGHTS, PRODUCT_INSIGHTS, PURCHASE_RATES, TARGETING, Table

if TYPE_CHECKING:
    from snowflake.snowpark import Session

# An example is to be read, not skimmed: one or two sentences.
EXAMPLE_CHARACTERS = (40, 200)
# Seconds that part the ranges of page load times.
LOAD_TIME_LIMITS = (1, 2, 3, 4, 5)
SENTIMENT_CLASSES = ("negative", "mixed", "neutral", "positive", "unknown")

NO_ASPECTS = (
    "No review says which aspects it speaks of: none of them was asked about aspects yet. Cortex is, where the setting "
    "`review_aspects` names some; score the reviews' days again."
)
# With fewer visits a share says too little to be compared.
COMPARED_VISITS = 30


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval, and of how many."""

    name: str
    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, name: str, successes: int, trials: int) -> Share:
        """The share and Wilson's interval; ``trials`` is above 0."""
        return cls(name, successes / trials, *wilson(successes, trials), trials)

    @property
    def successes(self) -> int:
        return round(self.value * self.count)


@dataclass(frozen=True)
class Difference:
    """The larger of two shares less the smaller one, with its 95 % interval (Newcombe 1998, method 10)."""

    more: Share
    less: Share
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aspect:
    """What is said of one aspect, over all products. ``liked_share``: praise among praise and complaint."""

    name: str
    mentions: int
    liked: int
    disliked: int

    @property
    def liked_share(self) -> Share | None:
        judged = self.liked + self.disliked
        return Share.of(self.name, self.liked, judged) if judged else None


@dataclass(frozen=True)
class Decile:
    """One tenth of the visits and what is expected of contacting them."""

    number: int
    visits: int
    lowest_probability: float
    mean_probability: float
    purchases: float
    gain: float
    profit: float


@dataclass(frozen=True)
class Plan:
    """The deciles, the most likely to buy first. As their mean probability falls, so does what each of them brings: the
    ones worth a contact are those before the first that costs more than it brings."""

    deciles: tuple[Decile, ...]

    @property
    def gains(self) -> list[float]:
        return [decile.gain for decile in self.deciles]

    @property
    def profits(self) -> list[float]:
        return [decile.profit for decile in self.deciles]

    @property
    def deciles_to_contact(self) -> int:
        return sum(decile.profit > 0 for decile in self.deciles)

    @property
    def profit(self) -> float:
        """Of the deciles worth a contact."""
        return list(accumulate(self.profits, initial=0.0))[self.deciles_to_contact]

    def chance(self, purchase_value: float) -> float:
        """Half the width of the 95 % interval of ``profit`` from chance alone: that of as many visits which buy with
        the mean probability of their decile."""
        chosen = self.deciles[: self.deciles_to_contact]
        variance = sum(decile.purchases * (1 - decile.mean_probability) for decile in chosen)
        return 1.959964 * math.sqrt(max(0.0, variance)) * purchase_value


def wilson_sql(successes: str, trials: str) -> tuple[str, str, str]:
    """SQL of a share and of the ends of its 95 % interval (Wilson 1927); NULL where there were no trials."""
    # NULLIF: Snowflake fails the statement at a division by 0, and of integers it keeps six decimals.
    n = f"NULLIF({trials}, 0)"
    share = f"(({successes})::FLOAT / {n})"
    middle = f"{share} + 1.9207295 / {n}"
    spread = f"1.959964 * SQRT(({share} * (1 - {share}) + 0.9603647 / {n}) / {n})"
    whole = f"(1 + 3.8414588 / {n})"
    return share, f"GREATEST(0, ({middle} - {spread}) / {whole})", f"LEAST(1, ({middle} + {spread}) / {whole})"


def _readable(text: str, among_them: str = "") -> str:
    """SQL that orders examples: detailed reviews of a moderate length first, then those nearest to one. Which of equals
    comes first is by a hash, so that no language or day is preferred.

    ``among_them``: what orders those of a moderate length before all else.
    """
    shortest, longest = EXAMPLE_CHARACTERS
    away = f"GREATEST({shortest} - LENGTH({text}), LENGTH({text}) - {longest}, 0)"
    first = f"{among_them}, " if among_them else ""
    return f"IFF({away} = 0, 0, 1), {first}IS_DETAILED DESC, {away}, MD5(UUID)"


def build_products(session: Session, settings: Settings, run_id: str) -> int:
    """Make PRODUCT_INSIGHTS anew; returns its rows. The examples are reviews of the strongest sentiment."""
    rate, low, high = wilson_sql("c.PURCHASES", "c.DECIDED")

    def ranked(order: str) -> str:
        return (
            "ROW_NUMBER() OVER (PARTITION BY PRODUCT_TYPE, PRODUCT_LAYOUT\n"
            f"        ORDER BY {order} NULLS LAST, {_readable('REVIEW_TEXT')})"
        )

    select = f"""
WITH visits AS (
  SELECT f.UUID, f.PRODUCT_TYPE, f.PRODUCT_LAYOUT, f.PURCHASE_DECISION, f.REVIEW_SENTIMENT, f.PRODUCT_RATING,
    p.PURCHASE_PROBABILITY, r.SENTIMENT_LABEL, r.REVIEW_TEXT, IFF(f.REVIEW_QUALITY = ?, 1, 0) AS IS_DETAILED
  FROM PURCHASE_FEATURES AS f
  JOIN REVIEWS AS r ON r.UUID = f.UUID
  LEFT JOIN PURCHASE_PROPENSITY AS p ON p.UUID = f.UUID
), examples AS (
  SELECT PRODUCT_TYPE, PRODUCT_LAYOUT,
    MAX(IFF(LIKED = 1, REVIEW_TEXT, NULL)) AS LIKED_EXAMPLE,
    MAX(IFF(DISLIKED = 1, REVIEW_TEXT, NULL)) AS DISLIKED_EXAMPLE
  FROM (
    SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, REVIEW_TEXT,
      IFF(REVIEW_SENTIMENT > 0, {ranked("REVIEW_SENTIMENT DESC")}, NULL) AS LIKED,
      IFF(REVIEW_SENTIMENT < 0, {ranked("REVIEW_SENTIMENT ASC")}, NULL) AS DISLIKED
    FROM visits
  ) AS ranked
  GROUP BY PRODUCT_TYPE, PRODUCT_LAYOUT
), counts AS (
  SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, COUNT(*) AS VISITS, COUNT(PURCHASE_DECISION) AS DECIDED,
    SUM(PURCHASE_DECISION) AS PURCHASES, AVG(PURCHASE_PROBABILITY) AS MEAN_PROBABILITY,
    AVG(REVIEW_SENTIMENT) AS MEAN_SENTIMENT, AVG(PRODUCT_RATING) AS MEAN_RATING,
    AVG(IFF(SENTIMENT_LABEL = 'negative', 1, 0)) AS NEGATIVE_SHARE
  FROM visits GROUP BY PRODUCT_TYPE, PRODUCT_LAYOUT
)
SELECT c.PRODUCT_TYPE, c.PRODUCT_LAYOUT, c.VISITS, {rate} AS PURCHASE_RATE,
  {low} AS PURCHASE_RATE_LOW,
  {high} AS PURCHASE_RATE_HIGH,
  c.MEAN_PROBABILITY, c.MEAN_SENTIMENT, c.MEAN_RATING, c.NEGATIVE_SHARE, e.LIKED_EXAMPLE, e.DISLIKED_EXAMPLE,
  SYSDATE() AS COMPUTED_AT, ? AS RUN_ID
FROM counts AS c
JOIN examples AS e ON e.PRODUCT_TYPE = c.PRODUCT_TYPE AND e.PRODUCT_LAYOUT = c.PRODUCT_LAYOUT
"""
    return _replace(session, PRODUCT_INSIGHTS, select, [settings.quality_labels[0], run_id])


def build_aspects(session: Session, settings: Settings, run_id: str) -> int:
    """Make ASPECT_INSIGHTS anew from what reviews were found to speak of; returns its rows, 0 where no review was asked
    about aspects.

    A review that finds good and bad in an aspect (mixed), or says it without a judgement (neutral), is a mention only.
    An example agrees with the review's sentiment as a whole where there is such a one, and of these that sentiment is
    strong: a model that is sure of it is rarely wrong.
    """
    share, low, high = wilson_sql("c.LIKED", "c.LIKED + c.DISLIKED")

    def example(opinion: str, column: str) -> str:
        return f"MAX(IFF(OPINION = '{opinion}' AND PLACE = 1, {column}, NULL))"

    select = f"""
WITH opinions AS (
  SELECT f.UUID, f.PRODUCT_TYPE, f.PRODUCT_LAYOUT, a.KEY AS ASPECT, a.VALUE::STRING AS OPINION, r.SENTIMENT_LABEL,
    r.REVIEW_TEXT, r.LANGUAGE, ROUND(ABS(COALESCE(f.REVIEW_SENTIMENT, 0)), 1) AS STRENGTH,
    IFF(f.REVIEW_QUALITY = ?, 1, 0) AS IS_DETAILED
  FROM PURCHASE_FEATURES AS f
  JOIN REVIEWS AS r ON r.UUID = f.UUID,
  LATERAL FLATTEN(INPUT => TRY_PARSE_JSON(r.ASPECTS)) AS a
  WHERE r.ASPECTS IS NOT NULL AND a.KEY IS NOT NULL
), counts AS (
  SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, ASPECT, COUNT(*) AS MENTIONS, COUNT_IF(OPINION = 'positive') AS LIKED,
    COUNT_IF(OPINION = 'negative') AS DISLIKED
  FROM opinions GROUP BY PRODUCT_TYPE, PRODUCT_LAYOUT, ASPECT
), examples AS (
  SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, ASPECT,
    {example("positive", "REVIEW_TEXT")} AS LIKED_EXAMPLE, {example("positive", "LANGUAGE")} AS LIKED_LANGUAGE,
    {example("negative", "REVIEW_TEXT")} AS DISLIKED_EXAMPLE, {example("negative", "LANGUAGE")} AS DISLIKED_LANGUAGE
  FROM (
    SELECT PRODUCT_TYPE, PRODUCT_LAYOUT, ASPECT, OPINION, REVIEW_TEXT, LANGUAGE,
      ROW_NUMBER() OVER (PARTITION BY PRODUCT_TYPE, PRODUCT_LAYOUT, ASPECT, OPINION
        ORDER BY IFF(SENTIMENT_LABEL = OPINION, 0, 1), {_readable("REVIEW_TEXT", "STRENGTH DESC")}) AS PLACE
    FROM opinions WHERE OPINION IN ('positive', 'negative')
  ) AS ranked
  WHERE PLACE = 1
  GROUP BY PRODUCT_TYPE, PRODUCT_LAYOUT, ASPECT
)
SELECT c.PRODUCT_TYPE, c.PRODUCT_LAYOUT, c.ASPECT, c.MENTIONS, c.LIKED, c.DISLIKED, {share} AS LIKED_SHARE,
  {low} AS LIKED_SHARE_LOW,
  {high} AS LIKED_SHARE_HIGH,
  e.LIKED_EXAMPLE, e.LIKED_LANGUAGE, e.DISLIKED_EXAMPLE, e.DISLIKED_LANGUAGE, SYSDATE() AS COMPUTED_AT, ? AS RUN_ID
FROM counts AS c
LEFT JOIN examples AS e
  ON e.PRODUCT_TYPE = c.PRODUCT_TYPE AND e.PRODUCT_LAYOUT = c.PRODUCT_LAYOUT AND e.ASPECT = c.ASPECT
"""
    return _replace(session, ASPECT_INSIGHTS, select, [settings.quality_labels[0], run_id])


def build_purchase_rates(session: Session, settings: Settings, run_id: str) -> int:
    """Make PURCHASE_RATES anew from the visits of which it is known how they ended; returns its rows.

    Sentiment goes from negative to positive, quality from the most to the least detailed label, languages from the
    most to the least frequent.
    """
    sentiment, sentiment_binds = _positions("SENTIMENT_LABEL", SENTIMENT_CLASSES)
    quality, quality_binds = _positions("REVIEW_QUALITY", settings.quality_labels)
    dimensions = {
        "REVIEW_SENTIMENT": ("SENTIMENT_LABEL", sentiment),
        "REVIEW_QUALITY": ("REVIEW_QUALITY", quality),
        "PAGE_LOAD_TIME": (_load_time_range(), _load_time_position()),
        "PRODUCT_RATING": ("PRODUCT_RATING::STRING", "PRODUCT_RATING"),
        "LANGUAGE": ("LANGUAGE", "-COUNT(*)"),
    }
    grouped = "\n  UNION ALL\n".join(
        f"  SELECT '{name}' AS DIMENSION, {bucket} AS BUCKET, "
        f"{position if name == 'LANGUAGE' else f'MIN({position})'} AS SORTED_BY, "
        f"COUNT(*) AS VISITS, SUM(PURCHASE_DECISION) AS PURCHASES\n  FROM decided GROUP BY {bucket}"
        for name, (bucket, position) in dimensions.items()
    )
    rate, low, high = wilson_sql("PURCHASES", "VISITS")
    select = f"""
WITH decided AS (
  SELECT f.PURCHASE_DECISION, r.SENTIMENT_LABEL, f.REVIEW_QUALITY, f.PAGE_LOAD_TIME, f.PRODUCT_RATING, f.LANGUAGE
  FROM PURCHASE_FEATURES AS f
  JOIN REVIEWS AS r ON r.UUID = f.UUID
  WHERE f.PURCHASE_DECISION IS NOT NULL AND r.SENTIMENT_LABEL IS NOT NULL
), grouped AS (
{grouped}
)
SELECT DIMENSION, BUCKET, ROW_NUMBER() OVER (PARTITION BY DIMENSION ORDER BY SORTED_BY, BUCKET) AS POSITION, VISITS,
  PURCHASES, {rate} AS PURCHASE_RATE,
  {low} AS PURCHASE_RATE_LOW,
  {high} AS PURCHASE_RATE_HIGH,
  SYSDATE() AS COMPUTED_AT, ? AS RUN_ID
FROM grouped
"""
    return _replace(session, PURCHASE_RATES, select, [*sentiment_binds, *quality_binds, run_id])


def _positions(column: str, values: Sequence[str]) -> tuple[str, list[object]]:
    """SQL of the place of a value among ``values``, others last, and its binds."""
    cases = " ".join(f"WHEN ? THEN {place}" for place, _ in enumerate(values, start=1))
    return f"CASE {column} {cases} ELSE {len(values) + 1} END", list(values)


def _load_time_range() -> str:
    first, *_, last = LOAD_TIME_LIMITS
    middle = " ".join(
        f"WHEN PAGE_LOAD_TIME < {high} THEN '{low} to {high} s'" for low, high in pairwise(LOAD_TIME_LIMITS)
    )
    return f"CASE WHEN PAGE_LOAD_TIME < {first} THEN 'under {first} s' {middle} ELSE '{last} s or more' END"


def _load_time_position() -> str:
    return f"LEAST(FLOOR(PAGE_LOAD_TIME), {LOAD_TIME_LIMITS[-1]})"


def build_targeting(session: Session, settings: Settings, run_id: str) -> int:
    """Make TARGETING anew from the champion's predictions and the settings' value of a purchase and cost of a contact;
    returns its rows, one a decile."""
    select = """
WITH deciles AS (
  SELECT DECILE, COUNT(*) AS VISITS, MIN(PURCHASE_PROBABILITY) AS LOWEST_PROBABILITY,
    AVG(PURCHASE_PROBABILITY) AS MEAN_PROBABILITY, SUM(PURCHASE_PROBABILITY) AS EXPECTED_PURCHASES,
    MAX(MODEL_VERSION) AS MODEL_VERSION
  FROM PURCHASE_PROPENSITY GROUP BY DECILE
)
SELECT DECILE, VISITS, LOWEST_PROBABILITY, MEAN_PROBABILITY, EXPECTED_PURCHASES,
  SUM(EXPECTED_PURCHASES) OVER (ORDER BY DECILE ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    / NULLIF(SUM(EXPECTED_PURCHASES) OVER (), 0) AS EXPECTED_GAIN,
  EXPECTED_PURCHASES * ?::FLOAT - VISITS * ?::FLOAT AS EXPECTED_PROFIT,
  MODEL_VERSION, SYSDATE() AS COMPUTED_AT, ? AS RUN_ID
FROM deciles
"""
    return _replace(session, TARGETING, select, [settings.purchase_value, settings.contact_cost, run_id])


def purchase_rates(session: Session) -> dict[str, list[Share]]:
    """PURCHASE_RATES: dimension in words -> its buckets in their order."""
    rows = query.rows(
        session,
        f"SELECT DIMENSION, BUCKET, VISITS, PURCHASES FROM {PURCHASE_RATES.name} ORDER BY DIMENSION, POSITION",
    )
    found: dict[str, list[Share]] = {}
    for row in rows:
        name = row["DIMENSION"].lower().replace("_", " ")
        found.setdefault(name, []).append(Share.of(row["BUCKET"], int(row["PURCHASES"]), int(row["VISITS"])))
    return found


def aspects(session: Session) -> list[Aspect]:
    """ASPECT_INSIGHTS summed over products, the most mentioned aspect first."""
    rows = query.rows(
        session,
        "SELECT ASPECT, SUM(MENTIONS) AS MENTIONS, SUM(LIKED) AS LIKED, SUM(DISLIKED) AS DISLIKED "
        f"FROM {ASPECT_INSIGHTS.name} GROUP BY ASPECT ORDER BY SUM(MENTIONS) DESC, ASPECT",
    )
    return [Aspect(row["ASPECT"], *(int(row[name]) for name in ("MENTIONS", "LIKED", "DISLIKED"))) for row in rows]


def plan(session: Session) -> Plan:
    """TARGETING, in order."""
    rows: list[dict[str, Any]] = query.rows(
        session,
        "SELECT DECILE, VISITS, LOWEST_PROBABILITY, MEAN_PROBABILITY, EXPECTED_PURCHASES, "
        f"COALESCE(EXPECTED_GAIN, 0) AS EXPECTED_GAIN, EXPECTED_PROFIT FROM {TARGETING.name} ORDER BY DECILE",
    )
    return Plan(
        tuple(Decile(int(row["DECILE"]), int(row["VISITS"]), *map(float, list(row.values())[2:])) for row in rows)
    )


def pooled(rows: Sequence[Share], name: str = "all") -> Share:
    """The share of all of them together; there is at least one."""
    return Share.of(name, sum(row.successes for row in rows), sum(row.count for row in rows))


def clear_difference(rows: Sequence[Share], looked_at: int = 1) -> Difference | None:
    """The highest against the lowest share, when they differ by more than chance.

    The largest of many differences is large by chance, too: the level of 5 % is divided by the number of pairs, and by
    ``looked_at``, the number of such lists that are looked through (Bonferroni).
    """
    enough = [row for row in rows if row.count >= COMPARED_VISITS]
    if len(enough) < 2:
        return None
    pairs = math.comb(len(enough), 2) * looked_at
    less, more = min(enough, key=lambda row: row.value), max(enough, key=lambda row: row.value)
    both = pooled([less, more]).value
    error = math.sqrt(both * (1 - both) * (1 / less.count + 1 / more.count))
    if not error or math.erfc((more.value - less.value) / error / math.sqrt(2)) * pairs >= 0.05:
        return None
    value = more.value - less.value
    low = value - math.hypot(more.value - more.low, less.high - less.value)
    high = value + math.hypot(more.high - more.value, less.value - less.low)
    return Difference(more, less, value, low, high)


def _replace(session: Session, table: Table, select: str, binds: list[object]) -> int:
    columns = ", ".join(table.column_names)
    session.sql(f"INSERT OVERWRITE INTO {table.name} ({columns}) {select}", params=binds).collect()
    return int(session.table(table.name).count())
