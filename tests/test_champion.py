"""Who goes into service, and the way back: real versions in the registry, real Dagster runs; only the Ray job that
trains is left out, because the versions are there already (the whole way is in ``test_graph``)."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Graph, materializations

from customer_insights import evaluation, features, model_versions, promotion, purchase_model, training_set
from customer_insights.sample_data import synthetic_features
from customer_insights.settings import settings
from customer_insights.tables import MODEL_FEATURES, PURCHASE_FEATURES, TARGET

pytestmark = pytest.mark.slow


def register(graph: Graph, rows: int, shuffled: tuple[str, ...] = ()) -> str:
    """Train a version on the first ``rows`` generated visits and log it as the job does; returns its name.

    ``shuffled``: columns whose values training sees in another order, so that nothing can be learnt from them.
    """
    session = graph.session()
    visits = synthetic_features(1600, seed=4)[list(PURCHASE_FEATURES.column_names)].head(rows)
    session.sql(f"DELETE FROM {PURCHASE_FEATURES.name}").collect()
    session.write_pandas(visits, PURCHASE_FEATURES.name, use_logical_type=True)
    fingerprint, code = features.fingerprint(session), purchase_model.code_version(settings())
    frozen = model_versions.training_set_name(fingerprint)
    training_set.freeze(session, settings(), frozen)
    parts = purchase_model.split(training_set.read(session, settings(), frozen), settings())
    generator = np.random.default_rng(0)
    seen = {
        part: visits.assign(**{name: generator.permutation(visits[name].to_numpy()) for name in shuffled})
        for part, visits in parts.items()
    }
    model = purchase_model.train(seen, settings(), 1)
    name, served = model_versions.load_champion(session, settings()) or (None, None)
    measured = evaluation.evaluate(model, parts, settings(), champion=served, champion_version=name)
    version = model_versions.version_name(fingerprint, code)
    model_versions.keep_reference(session, version, model, parts, "a run")
    model_versions.keep_evaluation(session, version, measured, "a run")
    facts = {
        "run_id": "a run",
        "training_set": fingerprint,
        "training_code_version": code,
        "trained_on": model_versions.ONE_NODE,
    }
    return model_versions.register(session, settings(), model, measured, parts["train"], facts)


def checks(result) -> dict[str, bool]:
    return {
        event.asset_check_evaluation_data.check_name: event.asset_check_evaluation_data.passed
        for event in result.all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    }


def served(graph: Graph) -> tuple[str, str]:
    """The version with the alias CHAMPION, and the default version."""
    versions = graph.session().sql(f"SHOW VERSIONS IN MODEL {graph.database}.HOL_SCHEMA.CONVERSION_MODEL").collect()
    (champion,) = [row["name"] for row in versions if "CHAMPION" in row["aliases"]]
    (default,) = [row["name"] for row in versions if row["is_default_version"] == "true"]
    return champion, default


def roll_back(graph: Graph, **options):
    """The job ``rollback``, as one click in the UI launches it: with its own configuration."""
    import dagster as dg

    from definitions import definitions

    with graph.instance as instance:
        job = definitions().resolve_job_def("rollback")
        return job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("champion")], **options)


@pytest.fixture
def first_champion(empty_graph: Graph) -> str:
    first = register(empty_graph, 1400)
    result = empty_graph.run("conversion_model", "champion", raise_on_error=True)
    assert all(checks(result).values())
    assert served(empty_graph) == (first, first)
    return first


def test_a_worse_challenger_is_refused_a_better_one_promoted_and_a_rollback_restores(
    empty_graph: Graph, first_champion: str
):
    worse = register(empty_graph, 1500, shuffled=("PRODUCT_RATING", "REVIEW_SENTIMENT", "PRODUCT_LAYOUT"))
    refused = empty_graph.run("conversion_model", "champion", raise_on_error=True)
    assert not checks(refused)["not_worse_than_the_champion"]
    assert materializations(refused)["champion"]["challenger"] == worse
    assert f"against {first_champion}" in str(materializations(refused)["champion"]["decision"])
    assert served(empty_graph) == (first_champion, first_champion)

    better = register(empty_graph, 1600)
    promoted = empty_graph.run("conversion_model", "champion", raise_on_error=True)
    assert all(checks(promoted).values())
    assert materializations(promoted)["champion"]["promoted"] is True
    assert served(empty_graph) == (better, better)

    back = roll_back(empty_graph)
    assert materializations(back)["champion"]["withdrawn"] == better
    assert served(empty_graph) == (first_champion, first_champion)
    session = empty_graph.session()
    # A run that takes the place of this one, whose worker died, goes back no further.
    with empty_graph.instance as instance:
        again = {"dagster/parent_run_id": back.run_id, "dagster/root_run_id": back.run_id}
        assert instance.get_run_by_id(back.run_id)
    assert materializations(roll_back(empty_graph, tags=again))["champion"]["withdrawn"] == better
    assert served(empty_graph) == (first_champion, first_champion)

    # The gate does not promote what was taken out of service.
    after = empty_graph.run("conversion_model", "champion", raise_on_error=True)
    assert not checks(after)["not_withdrawn"]
    assert served(empty_graph) == (first_champion, first_champion)
    history = session.sql("SELECT ACTION, MODEL_VERSION FROM CHAMPION_HISTORY ORDER BY CHANGED_AT").collect()
    assert [tuple(row) for row in history] == [
        ("promotion", first_champion), ("promotion", better), ("rollback", first_champion)
    ]  # fmt: skip
    with pytest.raises(promotion.PermanentError, match=r"has no version NEVER_MADE; it has TRAINED_"):
        promotion.roll_back(session, settings(), "NEVER_MADE", "by hand", "another run")
    with pytest.raises(promotion.PermanentError, match="no other version served before"):
        promotion.roll_back(session, settings(), None, "by hand", "another run")
    # Without the action, a version to go back to is a mistake and changes nothing.
    mistaken = {"ops": {"champion": {"config": {"to_version": better}}}}
    assert "set action to rollback" in str(
        roll_back(empty_graph, run_config=mistaken, raise_on_error=False).failure_data_for_node("champion").error
    )
    assert served(empty_graph) == (first_champion, first_champion)


def test_a_model_that_learnt_nothing_fails_its_checks_and_never_reaches_the_gate(empty_graph: Graph):
    register(empty_graph, 1400, shuffled=(TARGET,))
    result = empty_graph.run("conversion_model", "champion")
    assert not all(checks(result).values())
    assert "champion" not in materializations(result)


def test_a_champion_can_be_trained_again_and_reproduced_and_serves_while_its_alias_is_on_its_way(
    empty_graph: Graph, first_champion: str
):
    session = empty_graph.session()
    session.sql(f"DELETE FROM {PURCHASE_FEATURES.name}").collect()
    again = model_versions.rebuild(session, settings(), first_champion)
    kept = session.sql("SELECT * FROM MODEL_REFERENCE").to_pandas()
    predicted = again.predict_proba(kept[list(MODEL_FEATURES)])[:, 1]
    np.testing.assert_allclose(predicted, kept["PURCHASE_PROBABILITY"], atol=1e-6)
    with pytest.raises(promotion.PermanentError, match="has no version NEVER_MADE"):
        model_versions.rebuild(session, settings(), "NEVER_MADE")

    version = promotion.in_service(session, settings())
    assert promotion.reproduction(session, settings(), version)[0]
    session.sql("UPDATE MODEL_REFERENCE SET PURCHASE_PROBABILITY = PURCHASE_PROBABILITY * 0.99").collect()
    passed, text = promotion.reproduction(session, settings(), version)
    assert not passed
    assert "200 test visits" in text

    session.sql(f"ALTER MODEL {settings().model_name} VERSION CHAMPION UNSET ALIAS").collect()
    assert promotion.in_service(session, settings()).name == first_champion
