"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# A busy machine draws examples slowly: time says nothing about what is tested.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")
