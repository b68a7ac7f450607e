import sys

from utils.atlas import main

sys.exit(main())
