"""The command `cdp-agent`: one module for each group of commands; `app` ties them together."""
