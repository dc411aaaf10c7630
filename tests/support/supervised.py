"""Run a supervisor with stand-ins below it: `python -m tests.support.supervised TEST WORKER`, each Python code."""

import sys
import time

from workers import settings
from workers.supervisor import Commands, Supervisor

if __name__ == "__main__":
    test, worker = ((sys.executable, "-c", code) for code in sys.argv[1:3])
    supervisor = Supervisor(
        settings.rented_settings(), settings.container(), Commands(test, worker), time.monotonic(), tick_s=0.05
    )
    sys.exit(supervisor.run())
