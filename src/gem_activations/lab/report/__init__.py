"""How results look: plots, and the page that is made from the store alone."""
