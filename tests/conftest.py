"""The same examples at every run; `make fuzz` draws new ones."""

import os

from hypothesis import HealthCheck, settings

ANY_LOAD = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("same", derandomize=True, database=None, **ANY_LOAD)
settings.register_profile("fuzz", max_examples=1000, print_blob=True, **ANY_LOAD)
settings.load_profile(os.environ.get("IRRBENCH_HYPOTHESIS", "same"))
