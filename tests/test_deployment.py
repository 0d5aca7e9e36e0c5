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
