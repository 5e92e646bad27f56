"""Whole objects of every version of the format, kept for ever, and the script that wrote them."""
