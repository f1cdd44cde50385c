"""The models of the recipes, each built with a given activation."""
