"""What `customer-insights deploy` asks of an account."""

from __future__ import annotations

from customer_insights import deployment
from customer_insights.settings import settings


def test_what_an_administrator_has_made_is_not_created_again(embedded):
    session = embedded.session()
    deployment.deploy(session, settings())
    with session.query_history() as history:
        deployment.deploy(session, settings())
    sent = [entry.sql_text for entry in history.queries]
    for kind in ("WAREHOUSE", "DATABASE", "SCHEMA", "COMPUTE POOL"):
        assert not [sql for sql in sent if sql.startswith(f"CREATE {kind}")], kind
    assert [sql for sql in sent if sql.startswith("CREATE OR REPLACE VIEW REVIEWS COPY GRANTS")]


def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks_and_keeps_its_rows(empty_graph):
    session = empty_graph.session()
    session.sql("INSERT INTO CHAMPION_HISTORY VALUES (SYSDATE(), 'NEW', 'OLD', 'promotion', 'better', 'run')").collect()
    session.sql("ALTER TABLE CHAMPION_HISTORY DROP COLUMN PREVIOUS_VERSION").collect()
    deployment.deploy(session, settings())
    (row,) = session.sql("SELECT MODEL_VERSION, PREVIOUS_VERSION FROM CHAMPION_HISTORY").collect()
    assert tuple(row) == ("NEW", None)
    with session.query_history() as history:
        deployment.deploy(session, settings())
    assert not [entry.sql_text for entry in history.queries if entry.sql_text.startswith("ALTER")]
