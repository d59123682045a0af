"""The suites, what they measure with, and what they print. `../run` starts it."""
