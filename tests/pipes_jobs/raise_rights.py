"""A job that works, and then tries all that would raise its rights or show it what is not its own."""

import json
import os
import sys

from customer_insights.jobs.pipes_stage_writer import open_job_pipes

STATEMENTS = (
    "ALTER USER EMBEDDED SET RSA_PUBLIC_KEY = 'x'",
    "ALTER USER PIPELINE SET RSA_PUBLIC_KEY_2 = 'x'",
    "ALTER USER PIPELINE UNSET RSA_PUBLIC_KEY",
    "ALTER USER ADD PROGRAMMATIC ACCESS TOKEN MINE",
    "ALTER USER PIPELINE ADD PAT MINE ROLE_RESTRICTION = 'PUBLIC'",
    "/* a comment */ alter   user EMBEDDED add pat MINE",
    "CREATE USER ACCOMPLICE",
    "CREATE OR REPLACE USER PIPELINE",
    "DROP USER PIPELINE",
    "CREATE SECURITY INTEGRATION MINE TYPE = EXTERNAL_OAUTH",
    "ALTER SECURITY INTEGRATION IDP SET ENABLED = FALSE",
    "DROP INTEGRATION IDP",
    "CREATE ROLE MINE",
    "GRANT ROLE ACCOUNTADMIN TO USER PIPELINE",
    "REVOKE ROLE PIPELINE_ROLE FROM USER PIPELINE",
    "SELECT SYSTEM$GET_LOGIN_FAILURE_DETAILS('00000000-0000-0000-0000-000000000000')",
)


def said(session, statement: str) -> str:
    try:
        return str(session.sql(statement).collect())
    except Exception as error:
        return str(error)


with open_job_pipes() as (pipes, session):
    pipes.report_asset_materialization(
        metadata={
            "worked": session.sql("SELECT 6 * 7").collect()[0][0],
            "refused": json.dumps({statement: said(session, statement) for statement in STATEMENTS}),
            "result_of_another": said(session, f"SELECT * FROM TABLE(RESULT_SCAN('{sys.argv[1]}'))"),
            "password": os.environ["SNOWFLAKE_PASSWORD"],
        }
    )
