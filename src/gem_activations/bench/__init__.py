"""Speed and memory of activations, as ratios against peers in the same process on the same data."""
