"""What the store allows to say: metrics, paired differences, intervals, verdicts, and their tables and words."""
