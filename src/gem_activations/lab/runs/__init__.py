"""Many runs: what was asked for becomes a plan, and the plan is brought to its end, here or on many machines."""
