"""What Streamlit runs: ``streamlit run dashboard/streamlit_app.py`` here, MAIN_FILE in Snowflake. Nothing else belongs
here: Streamlit runs this file anew with every click, the modules that it imports are loaded once."""

from dashboard.app import main

main()
