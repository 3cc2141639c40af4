"""Figures and tables as a paper takes them."""
