"""What the purchase model may know: only what had arrived by a day, when that is asked for."""

from __future__ import annotations

from datetime import date, timedelta

from conftest import Graph
from scored_reviews import TODAY, scored, write

from customer_insights import features


def test_features_as_of_a_day_hold_no_review_that_arrived_later(empty_graph: Graph):
    early = scored(60, seed=2).assign(ARRIVAL_DATE=TODAY - timedelta(days=3))
    late = scored(40, seed=3).assign(ARRIVAL_DATE=TODAY)
    session = empty_graph.session()
    write(session, early)
    write(session, late)
    assert features.build(session) == 100
    everything = features.fingerprint(session)
    assert features.build(session, TODAY - timedelta(days=1)) == 60
    assert features.losses(session, TODAY - timedelta(days=1))["REVIEWS"] == 60
    assert empty_graph.value("SELECT MAX(ARRIVAL_DATE) FROM PURCHASE_FEATURES") == TODAY - timedelta(days=3)
    assert features.fingerprint(session) != everything
    assert features.build(session, date(2020, 1, 1)) == 0
