-- The dashboard as Streamlit in Snowflake. Run by the pipeline's administrator after roles.sql, with SnowSQL or the Snowflake CLI
-- from the root of the checkout (PUT reads files of this machine); every statement may be run again. docs/dashboard.md says more.
--
-- It runs with the rights of its owner, and shows everybody who may open it what the owner may read: so its owner is HOL_DASHBOARD,
-- which may read the tables and nothing else, and HOL_READER may open it.

USE ROLE USERADMIN;
CREATE ROLE IF NOT EXISTS HOL_DASHBOARD COMMENT = 'customer_insights: owns the dashboard, reads what it shows';
GRANT ROLE HOL_READER TO ROLE HOL_DASHBOARD;
GRANT ROLE HOL_DASHBOARD TO ROLE SYSADMIN;

USE ROLE SYSADMIN;
GRANT CREATE STREAMLIT, CREATE STAGE ON SCHEMA HOL_DB.HOL_SCHEMA TO ROLE HOL_DASHBOARD;

USE ROLE HOL_DASHBOARD;
USE WAREHOUSE HOL_WAREHOUSE;
USE SCHEMA HOL_DB.HOL_SCHEMA;
CREATE STAGE IF NOT EXISTS DASHBOARD_STAGE DIRECTORY = (ENABLE = TRUE) ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')
  COMMENT = 'customer_insights: the files of the dashboard';

-- The main file and its environment lie at the root, the packages that it imports beside them.
PUT file://dashboard/streamlit_app.py @DASHBOARD_STAGE AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://deploy/snowflake/environment.yml @DASHBOARD_STAGE AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://dashboard/.streamlit/config.toml @DASHBOARD_STAGE/.streamlit AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://dashboard/*.py @DASHBOARD_STAGE/dashboard AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://dashboard/style.css @DASHBOARD_STAGE/dashboard AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://dashboard/icon.png @DASHBOARD_STAGE/dashboard AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://dashboard/views/*.py @DASHBOARD_STAGE/dashboard/views AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
-- What it shares with the pipeline; the modules of these packages that it does not import are not needed.
PUT file://customer_insights/__init__.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/connecting.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/display.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/errors.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/identifiers.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/plots.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/tables.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/transient.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;
PUT file://customer_insights/wording.py @DASHBOARD_STAGE/customer_insights AUTO_COMPRESS = FALSE OVERWRITE = TRUE;

CREATE OR REPLACE STREAMLIT CUSTOMER_INSIGHTS_DASHBOARD
  ROOT_LOCATION = '@HOL_DB.HOL_SCHEMA.DASHBOARD_STAGE'
  MAIN_FILE = 'streamlit_app.py'
  QUERY_WAREHOUSE = HOL_WAREHOUSE
  TITLE = 'Customer insights'
  COMMENT = 'customer_insights: purchase rates, reviews, whom to contact and why, model, drift';

-- In a schema with managed access only its owner grants.
USE ROLE SYSADMIN;
GRANT USAGE ON STREAMLIT HOL_DB.HOL_SCHEMA.CUSTOMER_INSIGHTS_DASHBOARD TO ROLE HOL_READER;
