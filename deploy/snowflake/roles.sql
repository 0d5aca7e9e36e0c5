{# A template: `customer-insights deploy --role-script` prints it with the names of the settings. -#}
-- Who may do what: roles, the service user and its network policy, with what the project needs and no more. Run once by an
-- administrator; every statement may be run again. tests/test_roles.py refuses what is too much.
--
--   {{ pipeline_role }}: the pipeline, which owns the tables, stages, models and jobs that it makes in {{ database }}.{{ schema }}
--   {{ reader_role }}: dashboards; reads tables and views, writes nothing
--   {{ operator_role }}: who is on call; reads, watches and cancels jobs, suspends and resumes the pool and the warehouse
--
-- None of them owns a database, schema, warehouse, pool or integration: SYSADMIN does. A job runs with the rights of the role
-- that submits it, and Snowflake runs none for ACCOUNTADMIN, SECURITYADMIN or ORGADMIN.

USE ROLE USERADMIN;
CREATE ROLE IF NOT EXISTS {{ pipeline_role }} COMMENT = 'customer_insights: jobs, tables, stages and models of {{ database }}.{{ schema }}';
CREATE ROLE IF NOT EXISTS {{ reader_role }} COMMENT = 'customer_insights: dashboards';
CREATE ROLE IF NOT EXISTS {{ operator_role }} COMMENT = 'customer_insights: watches, cancels, suspends';
GRANT ROLE {{ reader_role }} TO ROLE {{ operator_role }};
-- What a role owns, its administrators reach.
GRANT ROLE {{ pipeline_role }} TO ROLE SYSADMIN;
GRANT ROLE {{ operator_role }} TO ROLE SYSADMIN;

USE ROLE SYSADMIN;
{% include "warehouse.sql" %}
{% include "schema.sql" %}
-- Network rules are not where the pipeline could replace them.
CREATE SCHEMA IF NOT EXISTS {{ database }}.{{ schema }}_NETWORK WITH MANAGED ACCESS;
GRANT USAGE ON DATABASE {{ database }} TO ROLE SECURITYADMIN;
GRANT USAGE ON SCHEMA {{ database }}.{{ schema }}_NETWORK TO ROLE SECURITYADMIN;

-- A warehouse resumes by itself for whoever may use it.
-- MONITOR shows, of its history, also what the jobs ran: their users are not this one, and their cost would be missing.
GRANT USAGE, MONITOR ON WAREHOUSE {{ warehouse }} TO ROLE {{ pipeline_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ pipeline_role }};
-- Temporary tables and stages are covered; a job is a service.
GRANT USAGE, CREATE TABLE, CREATE VIEW, CREATE STAGE, CREATE MODEL, CREATE DATASET, CREATE SERVICE
  ON SCHEMA {{ database }}.{{ schema }} TO ROLE {{ pipeline_role }};

GRANT USAGE ON WAREHOUSE {{ warehouse }} TO ROLE {{ reader_role }};
GRANT USAGE ON DATABASE {{ database }} TO ROLE {{ reader_role }};
GRANT USAGE ON SCHEMA {{ database }}.{{ schema }} TO ROLE {{ reader_role }};
GRANT SELECT ON ALL TABLES IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ reader_role }};
GRANT SELECT ON ALL VIEWS IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ reader_role }};
GRANT SELECT ON FUTURE TABLES IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ reader_role }};
GRANT SELECT ON FUTURE VIEWS IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ reader_role }};

GRANT OPERATE, MONITOR ON WAREHOUSE {{ warehouse }} TO ROLE {{ operator_role }};
GRANT OPERATE, MONITOR ON FUTURE SERVICES IN SCHEMA {{ database }}.{{ schema }} TO ROLE {{ operator_role }};

-- Compute pools and integrations can only be made by ACCOUNTADMIN, unless that right was given away; SYSADMIN owns them then.
USE ROLE ACCOUNTADMIN;
{% include "compute_pool.sql" %}
GRANT OWNERSHIP ON COMPUTE POOL {{ compute_pool }} TO ROLE SYSADMIN COPY CURRENT GRANTS;
-- AI_SENTIMENT. Granted to PUBLIC by default, which an administrator may have taken back.
GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE {{ pipeline_role }};

-- What the jobs' containers may reach: the package index and the model hub, by name. The hub's two may be left
-- out where no model comes from it.
CREATE NETWORK RULE IF NOT EXISTS {{ database }}.{{ schema }}_NETWORK.PACKAGES_AND_MODELS
  MODE = EGRESS TYPE = HOST_PORT
  VALUE_LIST = ('pypi.org:443', 'files.pythonhosted.org:443', 'huggingface.co:443', 'cdn-lfs.huggingface.co:443');
{%- for integration in integrations %}
CREATE EXTERNAL ACCESS INTEGRATION IF NOT EXISTS {{ integration }}
  ALLOWED_NETWORK_RULES = ({{ database }}.{{ schema }}_NETWORK.PACKAGES_AND_MODELS) ENABLED = TRUE;
GRANT OWNERSHIP ON INTEGRATION {{ integration }} TO ROLE SYSADMIN COPY CURRENT GRANTS;
{%- endfor %}

USE ROLE SYSADMIN;
-- To submit jobs, and to see the pool's state and nodes.
GRANT USAGE, MONITOR ON COMPUTE POOL {{ compute_pool }} TO ROLE {{ pipeline_role }};
GRANT OPERATE, MONITOR ON COMPUTE POOL {{ compute_pool }} TO ROLE {{ operator_role }};
{%- for integration in integrations %}
GRANT USAGE ON INTEGRATION {{ integration }} TO ROLE {{ pipeline_role }};
{%- endfor %}

-- The pipeline's user. TYPE = SERVICE has no password and no browser: it logs in by key pair, token or OAuth, and not before one
-- is set. How, and how to rotate it: docs/connections.md.
USE ROLE USERADMIN;
CREATE USER IF NOT EXISTS {{ service_user }} TYPE = SERVICE DEFAULT_ROLE = {{ pipeline_role }} DEFAULT_WAREHOUSE = {{ warehouse }}
  DEFAULT_NAMESPACE = {{ database }}.{{ schema }} COMMENT = 'customer_insights: the pipeline';
GRANT ROLE {{ pipeline_role }} TO USER {{ service_user }};
-- ALTER USER {{ service_user }} SET RSA_PUBLIC_KEY = '<the public key>';

-- From where it may log in.
{%- if not addresses %} 203.0.113.0/24 is nobody's address: put yours in its place (--address), or nobody gets in.{% endif %}
-- A token of a service user is good only under such a policy.
USE ROLE ACCOUNTADMIN;
CREATE NETWORK RULE IF NOT EXISTS {{ database }}.{{ schema }}_NETWORK.PIPELINE_ADDRESSES
  MODE = INGRESS TYPE = IPV4 VALUE_LIST = ('{{ (addresses or ['203.0.113.0/24']) | join("', '") }}');
USE ROLE SECURITYADMIN;
CREATE NETWORK POLICY IF NOT EXISTS {{ service_user }}_ADDRESSES
  ALLOWED_NETWORK_RULE_LIST = ('{{ database }}.{{ schema }}_NETWORK.PIPELINE_ADDRESSES');
ALTER USER {{ service_user }} SET NETWORK_POLICY = {{ service_user }}_ADDRESSES;

-- People: GRANT ROLE {{ reader_role }} TO USER <name>; GRANT ROLE {{ operator_role }} TO USER <name>;
