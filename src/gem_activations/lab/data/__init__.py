"""Where data come from, how they are checked, and how they become tensors and tokens."""
