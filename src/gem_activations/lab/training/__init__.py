"""One run: tasks, steps, epochs, scores and checkpoints."""
