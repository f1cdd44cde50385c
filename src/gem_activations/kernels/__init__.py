"""The formula in languages that run at the speed of memory: C (`kernels.cpu`) and Triton (`kernels.triton`).

Kernels compute on raw memory. Autograd, layouts and the choice of a backend belong to the fronts above.
"""
