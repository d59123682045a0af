"""A real Kubernetes with the real driver in it, and the scenarios that it is put through. `../run` starts it."""
