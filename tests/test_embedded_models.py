"""The Model Registry of the embedded server, by Snowflake's own registry client, Snowpark and SQL."""

from __future__ import annotations

import json
import time
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Embedded, start_embedded, stop_embedded
from crashing_model import Crashing
from snowflake.ml.model import custom_model
from snowflake.ml.registry import Registry
from snowflake.snowpark import Session
from snowflake.snowpark.exceptions import SnowparkSQLException

SCHEMA = "MODELS"
FEATURES = ["PAGE_LOAD_TIME", "PRODUCT_TYPE", "RATING"]
ARGUMENTS = ", ".join(FEATURES)
PROBABILITY = "PREDICT_PROBA({arguments}):output_feature_1::FLOAT"


def visits(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "PAGE_LOAD_TIME": rng.gamma(2.0, 1.0, n),
            "PRODUCT_TYPE": rng.choice(["tea", "coffee", "mug"], n),
            "RATING": rng.integers(1, 6, n),
        }
    )


def fitted(trees: int):
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder
    from xgboost import XGBClassifier

    frame = visits(400)
    bought = frame["RATING"] + (frame["PRODUCT_TYPE"] == "tea") > frame["PAGE_LOAD_TIME"] + 2
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer(
        [("type", encoder, ["PRODUCT_TYPE"])], remainder="passthrough", verbose_feature_names_out=False
    )
    return Pipeline([("columns", columns), ("classifier", XGBClassifier(n_estimators=trees, nthread=1))]).fit(
        frame, bought.astype(int)
    )


@pytest.fixture(scope="module")
def session(embedded: Embedded) -> Session:
    session = embedded.session()
    session.sql(f"CREATE OR REPLACE SCHEMA HOL_DB.{SCHEMA}").collect()
    session.use_schema(f"HOL_DB.{SCHEMA}")
    rows = [(number, *row) for number, row in enumerate(visits(300, seed=1).itertuples(index=False))]
    values = ", ".join(f"({number}, {load!r}, '{kind}', {rating})" for number, load, kind, rating in rows)
    session.sql(
        "CREATE TABLE VISITS (ID INT, PAGE_LOAD_TIME FLOAT, PRODUCT_TYPE STRING, RATING INT)",
    ).collect()
    session.sql(f"INSERT INTO VISITS VALUES {values}").collect()
    return session


@pytest.fixture(scope="module")
def registry(session: Session) -> Registry:
    return Registry(session, database_name="HOL_DB", schema_name=SCHEMA)


def log(registry: Registry, pipeline, name: str, version: str, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return registry.log_model(
            pipeline,
            model_name=name,
            version_name=version,
            sample_input_data=visits(100),
            target_platforms=["WAREHOUSE"],
            **{"options": {"relax_version": False}, **options},
        )


@pytest.fixture(scope="module")
def pipelines():
    return {"V1": fitted(5), "V2": fitted(20)}


@pytest.fixture(scope="module")
def model(registry: Registry, pipelines):
    """CONVERSION with two versions; V1 explains itself and is the default."""
    log(
        registry,
        pipelines["V1"],
        "CONVERSION",
        "V1",
        comment="it's the first: $5",
        metrics={"auc": 0.75},
        options={"enable_explainability": True, "relax_version": False},
    )
    log(registry, pipelines["V2"], "CONVERSION", "V2", conda_dependencies=["xgboost", "scikit-learn"])
    return registry.get_model("CONVERSION")


def scored(session: Session, version: str) -> np.ndarray:
    call = PROBABILITY.format(arguments=ARGUMENTS)
    rows = session.sql(f"SELECT MODEL(CONVERSION, {version})!{call} AS P FROM VISITS ORDER BY ID").collect()
    return np.array([row["P"] for row in rows])


def stored_visits() -> pd.DataFrame:
    return visits(300, seed=1)


# -- scoring ----------------------------------------------------------------------------------------------------------


def test_a_pandas_frame_is_scored_like_the_pipeline_itself_in_its_order(model, pipelines):
    frame = visits(5_000, seed=2).sample(frac=1, random_state=3)
    found = model.version("V1").run(frame, function_name="predict_proba")
    assert np.allclose(found.to_numpy(), pipelines["V1"].predict_proba(frame), atol=1e-6)
    classes = model.version("V2").run(frame, function_name="predict")["output_feature_0"]
    assert classes.tolist() == pipelines["V2"].predict(frame).tolist()


def test_a_snowpark_frame_is_scored_and_keeps_its_own_columns(model, session, pipelines):
    found = model.version("V1").run(session.table("VISITS"), function_name="predict_proba").sort("ID").to_pandas()
    assert found["ID"].tolist() == list(range(300))
    expected = pipelines["V1"].predict_proba(stored_visits())
    assert np.allclose(found[["output_feature_0", "output_feature_1"]].to_numpy(), expected, atol=1e-6)


def test_explanations_add_up_to_the_models_margin(model, session, pipelines):
    found = model.version("V1").run(session.table("VISITS"), function_name="explain").sort("ID").to_pandas()
    explained = found[[column for column in found if str(column).upper().strip('"').endswith("_EXPLANATION")]]
    assert explained.shape == (300, 3)
    steps = pipelines["V1"].named_steps
    margin = steps["classifier"].predict(steps["columns"].transform(stored_visits()), output_margin=True)
    offset = margin - explained.to_numpy().sum(axis=1)
    assert np.allclose(offset, offset[0], atol=1e-4)


def test_explanations_can_be_read_by_sql(session, model):
    rows = session.sql(
        f"SELECT v.ID, e.RATING_EXPLANATION FROM VISITS AS v, TABLE(MODEL(CONVERSION, V1)!EXPLAIN({ARGUMENTS})) AS e"
    ).collect()
    assert sorted(row["ID"] for row in rows) == list(range(300))
    assert len({round(row["RATING_EXPLANATION"], 6) for row in rows}) > 1


def test_ten_thousand_rows_take_well_under_five_seconds(session, model):
    session.sql(
        "CREATE OR REPLACE TABLE MANY AS SELECT v.* FROM VISITS AS v, TABLE(GENERATOR(ROWCOUNT => 34)) LIMIT 10000"
    ).collect()
    scored(session, "V1")
    started = time.monotonic()
    call = PROBABILITY.format(arguments=ARGUMENTS)
    (row,) = session.sql(f"SELECT COUNT(MODEL(CONVERSION, V1)!{call}) AS N FROM MANY").collect()
    assert row["N"] == 10_000
    assert time.monotonic() - started < 5


def test_an_alias_stands_for_its_version_and_can_move(session, model, pipelines):
    session.sql("CREATE OR REPLACE TABLE PROPENSITY (ID INT, P FLOAT)").collect()
    insert = (
        f"INSERT INTO PROPENSITY SELECT ID, MODEL(CONVERSION, CHAMPION)!{PROBABILITY.format(arguments=ARGUMENTS)}"
        " FROM VISITS"
    )
    for version in ("V1", "V2"):
        model.version(version).set_alias("CHAMPION")
        assert model.version("CHAMPION").version_name == version
        session.sql("TRUNCATE TABLE PROPENSITY").collect()
        session.sql(insert).collect()
        found = [row["P"] for row in session.sql("SELECT P FROM PROPENSITY ORDER BY ID").collect()]
        assert np.allclose(found, pipelines[version].predict_proba(stored_visits())[:, 1], atol=1e-6)
        model.version(version).unset_alias("CHAMPION")
    with pytest.raises(SnowparkSQLException, match="does not exist"):
        session.sql(insert).collect()


@pytest.mark.parametrize(
    ("before", "call"),
    [
        ("", "MODEL(HOL_DB.MODELS.CONVERSION, LAST)!PREDICT_PROBA"),
        ("", 'MODEL("CONVERSION", "V2")!predict_proba'),
        ("WITH m AS MODEL CONVERSION VERSION V2", "m!PREDICT_PROBA"),
        ("WITH m AS MODEL CONVERSION VERSION V2, chosen AS (SELECT 1 AS ONE)", "m!PREDICT_PROBA"),
    ],
)
def test_a_version_can_be_named_in_several_ways(session, model, pipelines, before, call):
    sql = f"{before} SELECT {call}({ARGUMENTS}):output_feature_1::FLOAT AS P FROM VISITS ORDER BY ID"
    found = [row["P"] for row in session.sql(sql).collect()]
    assert np.allclose(found, pipelines["V2"].predict_proba(stored_visits())[:, 1], atol=1e-6)


def test_a_category_never_seen_is_scored_and_nested_calls_work(session, model):
    call = "MODEL(CONVERSION, V1)!PREDICT(1.5, 'samovar', 3):output_feature_0::INT"
    (row,) = session.sql(f"SELECT MODEL(CONVERSION, V1)!PREDICT_PROBA({call}, 'tea', 3) AS P").collect()
    assert set(json.loads(row["P"])) == {"output_feature_0", "output_feature_1"}


# -- versions, aliases, metrics, comments -----------------------------------------------------------------------------


def test_versions_are_shown_with_their_aliases_functions_and_default(model):
    shown = model.show_versions().set_index("name")
    assert shown["is_default_version"].to_dict() == {"V1": "true", "V2": "false"}
    assert json.loads(shown.loc["V1", "aliases"]) == ["DEFAULT", "FIRST"]
    assert json.loads(shown.loc["V2", "aliases"]) == ["LAST"]
    assert json.loads(shown.loc["V1", "functions"]) == ["PREDICT", "PREDICT_PROBA", "EXPLAIN"]
    assert (model.first().version_name, model.last().version_name) == ("V1", "V2")
    types = {one["target_method"]: one["target_method_function_type"] for one in model.version("V1").show_functions()}
    assert types == {"predict": "FUNCTION", "predict_proba": "FUNCTION", "explain": "TABLE_FUNCTION"}


def test_the_registry_lists_its_models(registry, model):
    assert "CONVERSION" in [one.name for one in registry.models()]
    shown = registry.show_models().set_index("name").loc["CONVERSION"]
    assert json.loads(shown["versions"]) == ["V1", "V2"]
    assert shown["default_version_name"] == "V1"


def test_the_default_version_can_be_changed_by_version_and_by_sql(session, model):
    model.default = "V2"
    assert model.default.version_name == "V2"
    session.sql("ALTER MODEL CONVERSION SET DEFAULT_VERSION = FIRST").collect()
    assert model.default.version_name == "V1"
    with pytest.raises(ValueError, match="does not exist"):
        model.default = "V9"


def test_metrics_and_comments_are_kept_as_they_were_given(model):
    version = model.version("V1")
    assert version.comment == "it's the first: $5"
    version.set_metric("lift", {"top decile": 2.5})
    assert version.show_metrics() == {"auc": 0.75, "lift": {"top decile": 2.5}}
    version.delete_metric("lift")
    assert version.show_metrics() == {"auc": 0.75}
    version.comment = "a 'quoted' \\ comment"
    model.comment = "who will buy?"
    assert (version.comment, model.comment) == ("a 'quoted' \\ comment", "who will buy?")
    version.comment = "it's the first: $5"


def test_an_alias_belongs_to_one_version_of_a_model(session, model):
    model.version("V1").set_alias("CHALLENGER")
    with pytest.raises(SnowparkSQLException, match="already exists"):
        model.version("V2").set_alias("CHALLENGER")
    with pytest.raises(SnowparkSQLException, match="already exists"):
        model.version("V2").set_alias("V1")
    with pytest.raises(SnowparkSQLException, match="the system's"):
        model.version("V2").set_alias("LAST")
    model.version("V1").unset_alias("CHALLENGER")
    assert json.loads(model.show_versions().set_index("name").loc["V1", "aliases"]) == ["DEFAULT", "FIRST"]


def test_a_version_that_exists_is_refused_by_the_client_and_by_the_server(registry, session, model, pipelines):
    with pytest.raises(ValueError, match="already existed"):
        log(registry, pipelines["V1"], "CONVERSION", "V1")
    with pytest.raises(SnowparkSQLException, match="already exists") as error:
        session.sql("ALTER MODEL CONVERSION ADD VERSION V1 FROM MODEL CONVERSION VERSION V2").collect()
    assert error.value.sql_error_code == 2002


@pytest.mark.parametrize(
    "sql",
    [
        "DROP MODEL NO_SUCH_MODEL",
        "SHOW VERSIONS IN MODEL NO_SUCH_MODEL",
        "SELECT MODEL(NO_SUCH_MODEL, V1)!PREDICT(1)",
        "SELECT MODEL(CONVERSION, V9)!PREDICT(1, 'tea', 3)",
        "SELECT MODEL(CONVERSION, V1)!TRANSFORM(1, 'tea', 3)",
    ],
)
def test_what_does_not_exist_is_reported_by_snowflakes_number(session, model, sql):
    with pytest.raises(SnowparkSQLException, match="does not exist or not authorized") as error:
        session.sql(sql).collect()
    assert error.value.sql_error_code == 2003


def test_a_version_is_copied_dropped_and_its_files_go(embedded, registry, session, model):
    directory = embedded.home / "data" / "models"
    before = set(directory.iterdir())
    session.sql("CREATE MODEL COPIED WITH VERSION A FROM MODEL CONVERSION VERSION V1").collect()
    session.sql("ALTER MODEL COPIED ADD VERSION B FROM MODEL CONVERSION VERSION V2").collect()
    copied = registry.get_model("COPIED")
    with pytest.raises(SnowparkSQLException, match="default version"):
        copied.delete_version("A")
    copied.delete_version("B")
    assert [version.version_name for version in copied.versions()] == ["A"]
    copied.rename("RENAMED")
    registry.delete_model("RENAMED")
    assert "RENAMED" not in [one.name for one in registry.models()]
    assert set(directory.iterdir()) == before


def test_models_go_with_their_schema(embedded, session, model):
    directory = embedded.home / "data" / "models"
    before = set(directory.iterdir())
    session.sql("CREATE SCHEMA HOL_DB.SHORT_LIVED").collect()
    session.sql("CREATE MODEL HOL_DB.SHORT_LIVED.COPIED WITH VERSION A FROM MODEL HOL_DB.MODELS.CONVERSION").collect()
    session.sql("DROP SCHEMA HOL_DB.SHORT_LIVED").collect()
    session.use_schema(f"HOL_DB.{SCHEMA}")
    assert session.sql("SHOW MODELS LIKE 'COPIED' IN ACCOUNT").collect() == []
    assert set(directory.iterdir()) == before


def test_the_pipeline_comes_back_from_the_registry(model, pipelines):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = model.version("V1").load(force=True)
    frame = visits(50, seed=4)
    assert np.array_equal(loaded.predict_proba(frame), pipelines["V1"].predict_proba(frame))


# -- what is refused, and what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("ALTER MODEL CONVERSION SET TAG COST = 'x'", "ALTER MODEL ... SET TAG"),
        (
            "CREATE VIEW SCORES AS SELECT MODEL(CONVERSION, V1)!PREDICT(1, 'tea', 3) AS P",
            "a method of a model in a view",
        ),
        ("CREATE MODEL LIVING WITH LIVE VERSION V1", "CREATE MODEL ... WITH LIVE VERSION"),
    ],
)
def test_what_is_not_served_is_refused_by_name(session, model, sql, named):
    with pytest.raises(SnowparkSQLException) as error:
        session.sql(sql).collect()
    assert f"unsupported on the embedded server: {named}" in str(error.value)


def test_a_model_that_needs_packages_that_are_not_here_is_refused(registry, pipelines):
    with pytest.raises(SnowparkSQLException, match=r"xgboost==1\.0\.0 \(here: \d"):
        log(registry, pipelines["V1"], "OUTDATED", "V1", pip_requirements=["xgboost==1.0.0"])
    assert "OUTDATED" not in [one.name for one in registry.models()]


def test_a_version_whose_files_were_changed_is_not_loaded(embedded, session, model):
    directory = embedded.home / "data" / "models"
    before = set(directory.iterdir())
    session.sql("CREATE MODEL TAMPERED WITH VERSION A FROM MODEL CONVERSION VERSION V1").collect()
    (package,) = set(directory.iterdir()) - before
    (pickle,) = package.glob("model/models/*/model.pkl")
    pickle.write_bytes(pickle.read_bytes() + b"\0")
    with pytest.raises(SnowparkSQLException, match="not those that were registered"):
        session.sql("SELECT MODEL(TAMPERED, A)!PREDICT(1, 'tea', 3)").collect()
    session.sql("DROP MODEL TAMPERED").collect()


def test_a_model_that_ends_its_process_leaves_the_server_and_the_other_models_running(registry, session, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry.log_model(
            Crashing(custom_model.ModelContext()),
            model_name="CRASHING",
            version_name="V1",
            sample_input_data=pd.DataFrame({"RATING": [2, 3]}),
            target_platforms=["WAREHOUSE"],
        )
    call = "SELECT MODEL(CRASHING, V1)!PREDICT(RATING):TWICE::INT AS T FROM VISITS WHERE RATING = {} LIMIT 1"
    assert session.sql(call.format(3)).collect()[0]["T"] == 6
    with pytest.raises(SnowparkSQLException, match="ValueError: no such rating"):
        session.sql(call.format(1)).collect()
    with pytest.raises(SnowparkSQLException, match="the process of the model ended with 3"):
        session.sql(call.format(5)).collect()
    assert session.sql(call.format(4)).collect()[0]["T"] == 8
    assert scored(session, "V1").shape == (300,)


def test_models_outlive_a_restart_of_the_server(tmp_path, pipelines):
    home = tmp_path / ".snowflake"
    home.mkdir()

    def connected(server: Embedded) -> Session:
        options = tomllib.loads((home / "connections.toml").read_text())["embedded"]
        server.opened.append(Session.builder.configs(options).create())
        return server.opened[-1]

    server = start_embedded(home)
    session = connected(server)
    for statement in ("CREATE DATABASE HOL_DB", "CREATE SCHEMA HOL_DB.HOL_SCHEMA", "USE SCHEMA HOL_DB.HOL_SCHEMA"):
        session.sql(statement).collect()
    version = log(Registry(session), pipelines["V1"], "KEPT", "V1", metrics={"auc": 0.7})
    version.set_alias("CHAMPION")
    stop_embedded(server)
    partial = home / "data" / "models" / "0.partial"
    partial.mkdir()

    server = start_embedded(home)
    session = connected(server)
    kept = Registry(session).get_model("KEPT").version("CHAMPION")
    assert (kept.version_name, kept.show_metrics()) == ("V1", {"auc": 0.7})
    (row,) = session.sql(
        "SELECT MODEL(KEPT, CHAMPION)!PREDICT_PROBA(1.5, 'tea', 3):output_feature_1::FLOAT AS P"
    ).collect()
    frame = pd.DataFrame({"PAGE_LOAD_TIME": [1.5], "PRODUCT_TYPE": ["tea"], "RATING": [3]})
    assert row["P"] == pytest.approx(pipelines["V1"].predict_proba(frame)[0, 1], abs=1e-6)
    assert not Path(partial).exists()
    stop_embedded(server)
