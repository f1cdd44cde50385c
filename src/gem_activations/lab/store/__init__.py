"""What is kept of a comparison and how it is written and read, with the hardware and versions that made it."""
