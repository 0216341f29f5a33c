"""Speed, as ratios within one run; what a test may not assert."""
