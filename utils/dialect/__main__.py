import sys

from utils.dialect import main

sys.exit(main())
