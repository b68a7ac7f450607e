import sys

from utils.circuits.report.command import main

sys.exit(main())
