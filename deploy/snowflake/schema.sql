CREATE DATABASE IF NOT EXISTS {{ database }};
{%- if managed_access %}
-- With managed access only SYSADMIN grants on what is in it; the pipeline cannot give away what it owns.
{%- endif %}
CREATE SCHEMA IF NOT EXISTS {{ database }}.{{ schema }}{{ " WITH MANAGED ACCESS" if managed_access }};
