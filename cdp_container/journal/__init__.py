"""The journal's bytes (docs/journal-format.md), its reader, and the page that its two ends share.

Writing the journal is the splitter's (`cdp_agent.splitter`); here is what every reader needs.
"""
