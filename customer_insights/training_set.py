"""Training sets: the rows that a purchase model was trained on, frozen as versions of a Snowflake Dataset, so that any
version of the model can be made again.

Which rows belong in PURCHASE_FEATURES is in ``features``, what a model does with them in ``purchase_model``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from customer_insights import query
from customer_insights.errors import PermanentError
from customer_insights.identifiers import qualified, validated
from customer_insights.settings import Settings
from customer_insights.tables import PURCHASE_FEATURES, TARGET

if TYPE_CHECKING:
    import pandas as pd
    from snowflake.snowpark import Session

DATASET = "PURCHASE_TRAINING_SETS"
_KEY = PURCHASE_FEATURES.key[0]
_COMMENT = f"{PURCHASE_FEATURES.name} as a purchase model was trained on it"


@dataclass(frozen=True)
class TrainingSet:
    """A version of the Dataset. ``is_new``: whether this call made it."""

    dataset: str
    version: str
    frozen_at: datetime
    is_new: bool

    @property
    def url(self) -> str:
        """Where its Parquet files are."""
        return f"snow://dataset/{self.dataset}/versions/{self.version}/"


def freeze(session: Session, settings: Settings, name: str) -> TrainingSet:
    """Version ``name`` of the training sets, made from PURCHASE_FEATURES unless it is there. Its rows never change.

    Of two that freeze one name at once the second finds what the first has made.

    Raises:
        PermanentError: PURCHASE_FEATURES has no rows; a version without files could not be read.
        ValueError: the name is no plain identifier.
    """
    from snowflake.ml.dataset import Dataset

    version, dataset = validated(name), _dataset_name(settings)
    if at := versions(session, settings).get(version):
        return TrainingSet(dataset, version, at, is_new=False)
    source = session.table(qualified(settings.database, settings.schema_name, PURCHASE_FEATURES.name))
    if not source.limit(1).count():
        raise PermanentError(
            f"{PURCHASE_FEATURES.name} has no rows, so there is nothing to freeze as {version}: "
            f"materialize {PURCHASE_FEATURES.name.lower()} when reviews and visits are there"
        )
    is_new = True
    try:
        Dataset.create(session, dataset, exist_ok=True).create_version(
            version,
            source.select(*PURCHASE_FEATURES.column_names).sort(_KEY),
            # No features. The client would also warn that a tensor cannot hold the day.
            exclude_cols=[_KEY, "ARRIVAL_DATE"],
            label_cols=[TARGET],
            comment=_COMMENT,
        )
    except Exception:
        # Another caller was faster, or the answer to the statement that made it was lost.
        if version not in versions(session, settings):
            raise
        is_new = False
    return TrainingSet(dataset, version, versions(session, settings)[version], is_new)


def read(session: Session, settings: Settings, name: str) -> pd.DataFrame:
    """The rows of version ``name``, sorted by UUID, with columns and types as ``session.table(...).to_pandas()`` has
    them.

    The warehouse reads the files: opened one by one they take the client a second each, and a container needs a way
    to the cloud's storage. All rows are in memory, as Arrow's columns and as pandas' for a moment: at most 1.8 KB a
    row were measured, 0.9 GB for 500,000 visits.

    Raises:
        PermanentError: there is no such version; the message names those that exist.
        ValueError: the name is no plain identifier.
    """
    from snowflake.ml.dataset import load_dataset

    version, dataset = validated(name), _dataset_name(settings)
    _require(session, settings, version)
    frozen = load_dataset(session, dataset, version).read.to_snowpark_dataframe()
    return frozen.select(*PURCHASE_FEATURES.column_names).sort(_KEY).to_pandas()


def discard(session: Session, settings: Settings, name: str) -> None:
    """Drop version ``name``: for one that turns out to have other rows than its name says.

    Raises:
        PermanentError: there is no such version; the message names those that exist.
        ValueError: the name is no plain identifier.
    """
    from snowflake.ml.dataset import Dataset

    version = validated(name)
    _require(session, settings, version)
    Dataset.load(session, _dataset_name(settings)).delete_version(version)


def versions(session: Session, settings: Settings) -> dict[str, datetime]:
    """When each training set was frozen, by its name; empty when none ever was."""
    schema = qualified(settings.database, settings.schema_name)
    datasets: list[dict[str, Any]] = query.rows(session, f"SHOW DATASETS LIKE '{DATASET}' IN SCHEMA {schema}")
    # In LIKE the underscore stands for any character.
    if not any(found["name"] == DATASET for found in datasets):
        return {}
    shown = query.rows(session, f"SHOW VERSIONS IN DATASET {_dataset_name(settings)}")
    return {version["version"]: version["created_on"] for version in shown}


def _dataset_name(settings: Settings) -> str:
    return qualified(settings.database, settings.schema_name, DATASET)


def _require(session: Session, settings: Settings, version: str) -> None:
    known = versions(session, settings)
    if version not in known:
        there = ", ".join(sorted(known)) or "none"
        raise PermanentError(
            f"expected version {version} of the Dataset {_dataset_name(settings)}, found {there}: "
            "materialize conversion_model, which freezes the rows that it is trained on"
        )
