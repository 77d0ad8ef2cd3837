"""Comparisons: many runs that differ in strategy, setting and seed, side by side in tables, a figure and a report."""
