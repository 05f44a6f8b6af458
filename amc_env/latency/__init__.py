"""How long networks take: a clock, and tables that predict it."""

from amc_env.latency.clock import latencies_ms
from amc_env.latency.runtimes import Conditions
from amc_env.latency.table import LatencyTable

__all__ = ["Conditions", "LatencyTable", "latencies_ms"]
