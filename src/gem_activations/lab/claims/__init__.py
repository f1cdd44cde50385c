"""What the two papers claim, and what results say of it."""
