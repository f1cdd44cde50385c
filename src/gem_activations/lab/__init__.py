"""The lab: train one model with several activations under one pipeline, and report what the data allow to say.

`recipes` says what is trained, `data` and `models` make it, `training` trains one run and `runs` all of a comparison,
`store` keeps it; `statistics`, `claims` and `report` read the store. `gem_activations.cli` is the command line over it.
"""
