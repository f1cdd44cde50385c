"""What is trained: recipes and studies as frozen dataclasses of plain values. Nothing here imports a framework."""
