"""Load, paired ratios and reports."""
